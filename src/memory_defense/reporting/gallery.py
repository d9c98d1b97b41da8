"""The gallery: a few images with what the attack and the defense made of them.

The evaluation writes it as ``gallery.safetensors`` beside the record. N images, K classes (one memory slot for
each), M memory items in K blocks of M / K, C channels.

========================  ==================  ==========================================================
tensor                    shape               content
========================  ==================  ==========================================================
images                    (N, C, H, W)        clean, float32 in [0, 1]
adversarial               (N, C, H, W)        attacked, float32 in [0, 1]
labels                    (N,)                true classes, any integer type
predictions_clean         (N,)                the defense's answers on `images`
predictions_adversarial   (N,)                the defense's answers on `adversarial`
slots_clean               (N,)                slot read for `images` (optional pair)
slots_adversarial         (N,)                slot read for `adversarial`
attention_clean           (N, M)              weights of the memory items, at least 0 (optional pair)
attention_adversarial     (N, M)              likewise, for `adversarial`
reconstructions           (N, S, C, H, W)     `adversarial` rebuilt by slots, or each class's best item
reconstructed             (N, S)              which slots these are, rising; without it all of them, S = K
========================  ==================  ==========================================================

The header holds strings: ``classes`` (a JSON list of K names), ``attack``, ``knowledge``, ``norm``, ``epsilon``
(a number) and ``defense``. safetensors refuses tensors that share memory, so a writer clones them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from memory_defense.checks import check_images, nearest
from memory_defense.contracts import Images, Labels
from memory_defense.evaluation.metrics import NO_ANSWER
from memory_defense.tensorfiles import read_tensors

REQUIRED = ("images", "adversarial", "labels", "predictions_clean", "predictions_adversarial")
"""The tensors that every gallery holds."""

OPTIONAL = (
    "slots_clean",
    "slots_adversarial",
    "attention_clean",
    "attention_adversarial",
    "reconstructions",
    "reconstructed",
)
"""The tensors that only a defense with memory slots can offer."""

METADATA = ("classes", "attack", "knowledge", "norm", "epsilon", "defense")
"""The header's keys; others are left alone."""
ANY = "any"
"""Entry `knowledge` where each image is shown as the first attack changed it that worked, of all that were run."""

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True, eq=False)
class Gallery:
    """A few images, attacked, as the defense saw them; shapes are in the module's table.

    Raises
    ------
    ValueError
        If shapes, types or ranges disagree, or half of an optional pair is missing.
    """

    images: Images
    adversarial: Images
    labels: Labels
    predictions_clean: Labels
    predictions_adversarial: Labels
    classes: tuple[str, ...]
    attack: str
    knowledge: str
    norm: str
    epsilon: float
    defense: str
    slots_clean: Labels | None = None
    slots_adversarial: Labels | None = None
    attention_clean: Tensor | None = None
    attention_adversarial: Tensor | None = None
    reconstructions: Tensor | None = None
    reconstructed: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.classes:
            raise ValueError("there are no classes; name at least one")
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise ValueError(f"epsilon is {self.epsilon}, expected a finite number of at least 0")
        check_images(self.images)
        check_images(self.adversarial)
        if self.images.shape[1] not in (1, 3):
            raise ValueError(f"images have {self.images.shape[1]} channels, expected 1 (grey) or 3 (RGB)")
        self._shape("adversarial", self.adversarial, tuple(self.images.shape))
        self._classes("labels", self.labels)
        for name in ("predictions_clean", "predictions_adversarial"):
            self._classes(name, cast(Tensor, getattr(self, name)), least=NO_ANSWER)
        for pair in (("slots_clean", "slots_adversarial"), ("attention_clean", "attention_adversarial")):
            missing = [name for name in pair if getattr(self, name) is None]
            if len(missing) == 1:
                raise ValueError(f"{missing[0]} is missing; give both {pair[0]} and {pair[1]}, or neither")
        for name in ("slots_clean", "slots_adversarial"):
            if (slots := cast(Tensor | None, getattr(self, name))) is not None:
                self._classes(name, slots)
        self._check_attention()
        if self.reconstructions is not None:
            slots = len(self.classes)
            if self.reconstructed is not None:
                slots = self.reconstructions.shape[1] if self.reconstructions.dim() > 1 else 0
                self._check_slots(self.reconstructed, slots)
            self._shape("reconstructions", self.reconstructions, (len(self), slots, *self.images.shape[1:]))
            self._finite("reconstructions", self.reconstructions)

    def __len__(self) -> int:
        return self.images.shape[0]

    def _shape(self, name: str, tensor: Tensor, wanted: tuple[int, ...]) -> None:
        if tuple(tensor.shape) != wanted:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {wanted}")

    def _classes(self, name: str, tensor: Tensor, least: int = 0) -> None:
        self._shape(name, tensor, (len(self),))
        if tensor.dtype not in _INTEGERS:
            raise ValueError(f"{name} is {tensor.dtype}, expected whole numbers (torch.int64)")
        low, high = int(tensor.min()), int(tensor.max())
        if low < least or high >= len(self.classes):
            raise ValueError(f"{name} spans {low}..{high}, but there are {len(self.classes)} classes, from 0")

    def _check_slots(self, which: Tensor, slots: int) -> None:
        """Raise ValueError unless these are rising numbers of `slots` classes for each image."""
        self._shape("reconstructed", which, (len(self), slots))
        if slots == 0 or which.dtype not in _INTEGERS:
            raise ValueError(f"reconstructed is {which.dtype} of {slots} slots, expected whole numbers of some")
        if int(which.min()) < 0 or int(which.max()) >= len(self.classes) or not bool((which.diff() > 0).all()):
            raise ValueError(f"reconstructed are not rising numbers of {len(self.classes)} classes, from 0")

    def _finite(self, name: str, tensor: Tensor) -> None:
        if tensor.dtype not in _FLOATS:
            raise ValueError(f"{name} is {tensor.dtype}, expected torch.float32")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} holds NaN or infinite values; remove those images")

    def _check_attention(self) -> None:
        for name in ("attention_clean", "attention_adversarial"):
            attention = cast(Tensor | None, getattr(self, name))
            if attention is None:
                continue
            items = attention.shape[-1] if attention.dim() else 0
            if items == 0 or items % len(self.classes):
                raise ValueError(
                    f"{name} has {items} memory items for {len(self.classes)} slots; give each slot as many"
                )
            self._shape(name, attention, (len(self), items))
            self._finite(name, attention)
            if float(attention.min()) < -1e-6:
                raise ValueError(f"{name} is as low as {float(attention.min()):.4g}, weights are at least 0")

    @classmethod
    def read(cls, path: Path) -> Gallery:
        """Read a gallery; raise ValueError that names the file and what is wrong with it."""
        tensors, header = read_tensors(path)
        try:
            return cls._made_of(header, tensors)
        except ValueError as error:
            raise ValueError(
                f"{path} is not a gallery: {error}. 'memdef evaluate RUN' writes it again; without the file, pages "
                "show no images"
            ) from error

    @classmethod
    def _made_of(cls, header: dict[str, str], tensors: dict[str, Tensor]) -> Gallery:
        for name in REQUIRED:
            if name not in tensors:
                raise ValueError(f"the tensor {name!r} is missing")
        for name in METADATA:
            if name not in header:
                raise ValueError(f"the header entry {name!r} is missing")
        for name in tensors:
            if name not in (*REQUIRED, *OPTIONAL):
                raise nearest(name, (*REQUIRED, *OPTIONAL), "tensor")
        classes: Any = json.loads(header["classes"])
        if not isinstance(classes, list) or not all(isinstance(n, str) for n in cast(list[Any], classes)):
            raise ValueError(f"classes is {header['classes'][:60]!r}, expected a JSON list of names")
        return cls(
            classes=tuple(cast(list[str], classes)),
            attack=header["attack"],
            knowledge=header["knowledge"],
            norm=header["norm"],
            epsilon=float(header["epsilon"]),
            defense=header["defense"],
            **tensors,
        )
