"""A defense as an ONNX model: written only after ONNX Runtime has given the defense's own answers."""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from memory_defense.contracts import Images, Logits
from memory_defense.defenses.memory.defense import MemoryDefense
from memory_defense.defenses.memory.slots import (
    attention,
    class_mask,
    cosine_logits,
    hard_shrink,
    item_mask,
    masked,
    read,
)
from memory_defense.defenses.pixeldefend import PixelDefend
from memory_defense.randomness import generator
from memory_defense.systems.facts import KEY, Facts
from memory_defense.systems.onnx_run import INPUT, OUTPUTS, OnnxDefense, from_bytes, needed, with_checksum
from memory_defense.tensorfiles import read_tensors

OPSET = 18

TOLERANCE = 1e-4
"""Largest difference of any output to torch's, as a share of the largest magnitude of that output, at least 1."""

RANDOM_IMAGES = 64
BATCHES = (1, 7, 64)
"""Batch sizes in which the model is asked."""


class Portable(nn.Module):
    """Memory Defense without branches, so that it can be traced: `OUTPUTS` instead of logits alone.

    Equations 7 to 12 by their dense path; `MemoryDefense.forward` takes a shorter one to the same values.
    """

    def __init__(self, defense: MemoryDefense) -> None:
        super().__init__()
        self.defense = defense

    def forward(self, images: Images) -> tuple[Logits, Tensor, Tensor]:
        """Return logits (B, K), slots (B,) and reconstruction errors (B,)."""
        defense, memory = self.defense, self.defense.memory
        slots = defense.selector(images).argmax(1)
        codes = defense.encoder(defense.normalize(images))  # (B, D)
        weights = hard_shrink(
            attention(cosine_logits(codes, memory.items)),
            memory.shrink_threshold,
            classes=memory.classes,
            keep_one=memory.keep_one,
        )
        mask = item_mask(class_mask(slots, memory.classes), memory.items.shape[0])
        decoded = defense.decoder(read(masked(weights, mask), memory.items))  # (B, C, H, W)
        error = (images - defense.normalize.invert(decoded)).square().flatten(1).mean(1)
        return defense.classifier_b(decoded), slots, error


@dataclass(frozen=True)
class Agreement:
    """Comparison of an ONNX model with the defense it was made of."""

    images: int
    real: int
    """Number of photographs among them, the others being noise."""
    difference: float
    """Largest difference of the logits."""
    scale: float
    """Largest magnitude of the logits."""


def checked_onnx(defense: nn.Module, facts: Facts, gallery: Path | None = None) -> tuple[bytes, str]:
    """Return the bytes of an ONNX model that agrees with a defense, and one sentence on the check.

    Parameters
    ----------
    defense
        In eval mode, on the CPU; Memory Defense also gives slots and reconstruction errors.
    facts
        Written into the model's metadata, with the classes' names and the input's range.
    gallery
        Real and attacked images to compare on, beside random ones; need not exist.

    Raises
    ------
    ValueError
        For PixelDefend, when onnx or onnxruntime is missing, or when the model's answers differ by more than
        `TOLERANCE`.
    """
    if isinstance(defense, PixelDefend):
        raise ValueError(
            "PixelDefend rewrites an image pixel by pixel, each after the one before, which a traced graph cannot "
            "hold in reasonable size; export it with --format safetensors"
        )
    onnx = needed("onnx")
    module = Portable(defense).eval() if isinstance(defense, MemoryDefense) else defense.eval()
    outputs = OUTPUTS if isinstance(defense, MemoryDefense) else OUTPUTS[:1]
    example = torch.rand(2, facts.channels, *facts.sides, generator=generator(0, "onnx example"))
    instead = "load the run directory itself" if facts.foreign_code() else "export it with --format safetensors"
    proto = onnx.load_from_string(traced(module, example, outputs, instead))
    described = {
        KEY: facts.to_json(),
        "class_names": json.dumps(list(facts.classes)),
        "input_range": "[0, 1]",
        "input_layout": f"batch, {', '.join(map(str, (facts.channels, *facts.sides)))}",
        "outputs": ", ".join(outputs),
    }
    onnx.helper.set_model_props(proto, described)
    proto.producer_name, proto.producer_version = "memory-defense", facts.version
    onnx.checker.check_model(proto, full_check=True)
    model = with_checksum(cast("bytes", proto.SerializeToString()))
    found = compare(from_bytes(model, Path("the exported model")), defense, _images(facts, gallery))
    return model, (
        f"opset {OPSET}; ONNX Runtime {needed('onnxruntime').__version__} agrees on {found.images} images "
        f"({found.real} of them real or attacked): logits differ by at most {found.difference:.1e} "
        f"(allowed: {TOLERANCE * max(1.0, found.scale):.1e})"
    )


def traced(module: nn.Module, example: Images, outputs: tuple[str, ...], instead: str) -> bytes:
    """Return the traced model. torch's exporter by tracing needs no further package; the newer one needs two.

    Parameters
    ----------
    module
        In eval mode, on the CPU.
    example
        (B, C, H, W) in [0, 1], of the shape that the model is to take; B stays open.
    outputs
        Names of what it answers.
    instead
        What to do for one that cannot be written.
    """
    written = io.BytesIO()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of shape checks, which tracing leaves out
            module(example)  # weights that a module computes once are then constants of the graph
            torch.onnx.export(
                module,
                (example,),
                cast("str", written),  # a file object is taken as well, whatever the stub says
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(outputs),
                dynamic_axes={name: {0: "batch"} for name in (INPUT, *outputs)},
            )
    except Exception as error:  # torch raises many types here
        raise ValueError(
            f"this system's pass cannot be written as ONNX ({' '.join(str(error).split())[:200]}); {instead}"
        ) from error
    return written.getvalue()


def _images(facts: Facts, gallery: Path | None) -> tuple[Images, int]:
    """Return random images and, behind them, those of a gallery of the same shape; and how many those are."""
    shape = (facts.channels, *facts.sides)
    images = torch.rand(RANDOM_IMAGES, *shape, generator=generator(0, "onnx check"))
    if gallery is None or not gallery.is_file():
        return images, 0
    tensors, _ = read_tensors(gallery)
    real = [tensors[name].float() for name in ("images", "adversarial") if name in tensors]
    fitting = [one for one in real if tuple(one.shape[1:]) == shape]
    return torch.cat([images, *fitting]), sum(map(len, fitting))


@torch.no_grad()
def compare(candidate: OnnxDefense, defense: nn.Module, problem: tuple[Images, int]) -> Agreement:
    """Compare a model with its defense, in batches of several sizes.

    An image whose two best slots the selector cannot tell apart within the tolerance is left out.

    Raises
    ------
    ValueError
        If any output differs by more than `TOLERANCE`.
    """
    images, real = problem
    if isinstance(defense, MemoryDefense):
        trace = defense.trace(images)
        expected = (defense(images), trace.slots, trace.reconstruction_error)
        best = trace.selector_logits.topk(2, dim=1).values  # (B, 2)
        sure = best[:, 0] - best[:, 1] > TOLERANCE * best.abs().amax().clamp_min(1)
    else:
        expected = (defense(images),)
        sure = torch.ones(len(images), dtype=torch.bool)
    if not sure.any():
        raise ValueError("the selector cannot tell any two slots apart, so nothing can be compared; train it first")
    for size in BATCHES:
        parts = [candidate.run(part) for part in torch.split(images, size)]
        for name, wanted, found in zip(candidate.outputs, expected, zip(*parts, strict=True), strict=True):
            given = torch.cat(found)[sure].double()
            allowed = TOLERANCE * max(1.0, float(wanted.abs().max())) if wanted.is_floating_point() else 0.0
            largest = float((given - wanted[sure].double()).abs().nan_to_num(torch.inf).max())
            if largest > allowed:
                raise ValueError(
                    f"the ONNX model's {name} differ from the defense's by {largest:.3g} in batches of {size}, "
                    f"more than {allowed:.3g}, so it is not written; export it with --format safetensors, and "
                    "please report the recipe and both versions"
                )
    logits = torch.cat([candidate(part) for part in torch.split(images, BATCHES[-1])])[sure]
    difference = float((logits - expected[0][sure]).abs().max())
    return Agreement(int(sure.sum()), real, difference, float(expected[0].abs().max()))
