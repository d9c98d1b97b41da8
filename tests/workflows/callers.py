"""What callers hand to `evaluate`: the same problem in many forms, and what cannot be taken.

Every form is one of a dimension (the model, the images, the labels, the radii, ...). It says what is handed in for
a canonical problem, whether it must be taken, and what it stands for where that is another problem.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from memory_defense import Options
from memory_defense.evaluation.metrics import Submissions

CLASSES, SIDE = 3, 4


class Form(NamedTuple):
    """One way to hand something in."""

    make: Callable[[Any], Any]
    """What is canonical, to what is handed in."""
    taken: bool = True
    """It means the same, so it must be taken; otherwise it must be refused."""
    same: Any = None
    """What it stands for, where that is not what it was made of."""


class Net(nn.Module):
    """Three classes, with everything whose mode matters."""

    def __init__(self) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(35)  # its answers are of all classes, and some of them break
        self.conv, self.norm = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(2 * SIDE * SIDE, CLASSES)
        with torch.no_grad():
            for one in self.parameters():
                one.copy_(torch.randn(one.shape, generator=draws, dtype=torch.float32).to(one.dtype))
            self.last.bias.zero_()
        self.eval()

    def forward(self, images: Tensor) -> Any:
        """Return logits."""
        return self.last(self.drop(self.norm(self.conv(images)).relu().flatten(1)))


class After(nn.Module):
    """The net with something done to its answer."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.change = Net(), change

    def forward(self, images: Tensor) -> Any:
        return self.change(self.net(images))


class Before(nn.Module):
    """The net with something done to its images, which `net` undoes."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.change = Net(), change

    def forward(self, images: Tensor) -> Any:
        changed = self.change(images)
        return self.net((images if changed is None else changed) + 0.25)


class Checkpointed(Net):
    def forward(self, images: Tensor) -> Any:
        return checkpoint(super().forward, images, use_reentrant=True)


class Canonical(nn.Module):
    """A net of another precision, spelled out by hand."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = Net().to(dtype), dtype

    def forward(self, images: Tensor) -> Tensor:
        logits = self.net(images.to(self.dtype))
        return logits if self.dtype == torch.float64 else logits.float()


def _without_gradient(images: Tensor) -> None:
    with torch.no_grad():
        images.sub_(0.25)


def _hidden(images: Tensor) -> None:
    images.data.sub_(0.25)


@functools.cache
def model_forms() -> dict[str, Form]:
    """Return the forms of the model; each is made once, as some take long."""
    net, shown = Net(), torch.rand(2, 1, SIDE, SIDE)
    batch = torch.export.Dim("batch", min=1)
    with torch.inference_mode():
        born = Net()
    undone = Before(lambda images: images - 0.25)
    made: dict[str, tuple[Any, Any]] = {
        "module": (net, None),
        "train mode": (Net().train(), None),
        "no parameter asks": (Net().requires_grad_(False), None),
        "function": (lambda images: 1.0 * net(images), None),
        "partial": (functools.partial(lambda factor, images: factor * net(images), 1.0), None),
        "bound method": (net.forward, None),
        "data parallel": (nn.DataParallel(Net()), None),
        "scripted": (torch.jit.trace(Net(), shown), None),
        "frozen": (torch.jit.freeze(torch.jit.trace(Net(), shown)), None),
        "exported": (torch.export.export(Net(), (shown,), dynamic_shapes=({0: batch},)).module(), None),
        "exported for two images": (torch.export.export(Net(), (shown,)).module(), None),
        "reentrant checkpoints": (Checkpointed(), None),
        "born in inference mode": (born, None),
        "double": (Net().double(), Canonical(torch.float64)),
        "half": (Net().half(), Canonical(torch.float16)),
        "bfloat16": (Net().bfloat16(), Canonical(torch.bfloat16)),
        "double answers": (After(lambda logits: logits.double()), None),
        "in place": (Before(lambda images: images.sub_(0.25)), undone),
        "in place, no gradient": (Before(_without_gradient), undone),
        "in place, hidden": (Before(_hidden), undone),
        "hooked": (_hooked(), None),
    }
    refused: dict[str, Any] = {
        "tuple": After(lambda logits: (logits, logits)),
        "dictionary": After(lambda logits: {"logits": logits}),
        "object": After(lambda logits: types.SimpleNamespace(logits=logits)),
        "nothing": After(lambda logits: None),
        "array": After(lambda logits: logits.detach().numpy()),
        "decisions": After(lambda logits: logits.argmax(1)),
        "integers": After(lambda logits: (10 * logits).long()),
        "complex": After(lambda logits: logits.to(torch.complex64)),
        "spatial": After(lambda logits: logits[:, :, None, None]),
        "flat": After(lambda logits: logits.flatten()),
        "one row": After(lambda logits: logits[:1]),
        "wrong size": nn.Sequential(nn.Flatten(), nn.Linear(7, 3)),
        "numpy inside": Before(lambda images: torch.from_numpy(images.numpy())),
        "raises": Before(lambda images: {}["no such key"]),
        "class": Net,
        "text": "net",
        "path": Path("runs/demo"),
        "state dict": net.state_dict(),
        "None": None,
        "number": 3,
        "meta": Net().to("meta"),
        "lazy": nn.Sequential(nn.Flatten(), nn.LazyLinear(3)),
        "told the label": lambda images, labels: net(images),
    }
    forms = {name: Form(lambda _, one=one: one, same=same or net) for name, (one, same) in made.items()}
    return forms | {name: Form(lambda _, one=one: one, taken=False) for name, one in refused.items()}


def _hooked() -> nn.Module:
    net = Net()
    net.last.register_forward_hook(lambda module, given, answer: answer.clone())
    return net


class Marked(Tensor):
    """A subclass of a tensor, as image libraries have them."""


def _inferred(one: Tensor) -> Tensor:
    with torch.inference_mode():
        return one.clone()


def _frozen_array(one: Tensor) -> Any:
    array = one.numpy().copy()
    array.flags.writeable = False
    return array


class Arrays:
    """An object that numpy reads, as jax's and tensorflow's arrays are."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.content


IMAGES: dict[str, Form] = {
    "tensor": Form(lambda x: x),
    "double": Form(lambda x: x.double()),
    "half": Form(lambda x: x.half()),
    "bfloat16": Form(lambda x: x.bfloat16()),
    "array": Form(lambda x: x.numpy()),
    "double array": Form(lambda x: x.numpy().astype("f8")),
    "half array": Form(lambda x: x.numpy().astype("f2")),
    "big-endian array": Form(lambda x: x.numpy().astype(">f4")),
    "read-only array": Form(_frozen_array),
    "backward array": Form(lambda x: x.numpy()[:, :, ::-1].copy()[:, :, ::-1]),
    "Fortran array": Form(lambda x: np.asfortranarray(x.numpy())),
    "something numpy reads": Form(lambda x: Arrays(x.numpy())),
    "unmasked": Form(lambda x: np.ma.masked_array(x.numpy())),
    "list of tensors": Form(list),
    "tuple of arrays": Form(lambda x: tuple(x.numpy())),
    "nested list": Form(lambda x: x.tolist()),
    "channels last in memory": Form(lambda x: x.to(memory_format=torch.channels_last)),
    "not contiguous": Form(lambda x: x.transpose(2, 3).contiguous().transpose(2, 3)),
    "asks for a gradient": Form(lambda x: x.clone().requires_grad_()),
    "parameter": Form(lambda x: nn.Parameter(x.clone())),
    "subclass": Form(lambda x: x.clone().as_subclass(Marked)),
    "born in inference mode": Form(_inferred),
    "expanded": Form(lambda x: x[:1].expand(len(x), -1, -1, -1), same=lambda x: x[:1].repeat(len(x), 1, 1, 1)),
    "bytes": Form(lambda x: (x * 255).byte(), taken=False),
    "byte array": Form(lambda x: (x * 255).byte().numpy(), taken=False),
    "grey levels": Form(lambda x: x * 255, taken=False),
    "normalised": Form(lambda x: (x - 0.5) / 0.2, taken=False),
    "too bright": Form(lambda x: x + 0.5, taken=False),
    "integers": Form(lambda x: (x * 255).int(), taken=False),
    "truth": Form(lambda x: x > 0.5, taken=False),
    "complex": Form(lambda x: x.to(torch.complex64), taken=False),
    "channels last": Form(lambda x: x.permute(0, 2, 3, 1), taken=False),
    "channels last array": Form(lambda x: x.permute(0, 2, 3, 1).numpy(), taken=False),
    "no channels": Form(lambda x: x[:, 0], taken=False),
    "flat": Form(lambda x: x.flatten(1), taken=False),
    "one number": Form(lambda x: x[0, 0, 0, 0], taken=False),
    "none": Form(lambda x: x[:0], taken=False),
    "no pixels": Form(lambda x: x[..., :0], taken=False),
    "not a number": Form(lambda x: x.clone().index_fill_(0, torch.tensor(0), torch.nan), taken=False),
    "infinite": Form(lambda x: np.where(x.numpy() > -1, np.inf, 0).astype("f4"), taken=False),
    "sparse": Form(lambda x: x.to_sparse(), taken=False),
    "meta": Form(lambda x: x.to("meta"), taken=False),
    "masked": Form(lambda x: np.ma.masked_array(x.numpy(), x.numpy() > -1), taken=False),
    "objects": Form(lambda x: x.numpy().astype(object), taken=False),
    "texts": Form(lambda x: x.numpy().astype(str), taken=False),
    "ragged": Form(lambda x: [x[0], x[0, :, :2]], taken=False),
    "ragged arrays": Form(lambda x: [x[0].numpy(), x[0, :, :2].numpy()], taken=False),
    "empty list": Form(lambda x: [], taken=False),
    "list of files": Form(lambda x: ["a.png", "b.png"], taken=False),
    "list of nothing": Form(lambda x: [None], taken=False),
    "loader": Form(lambda x: DataLoader(TensorDataset(x), 2), taken=False),
    "dataset": Form(TensorDataset, taken=False),
    "generator": Form(lambda x: (one for one in x), taken=False),
    "dictionary": Form(lambda x: {"images": x}, taken=False),
    "folder": Form(lambda x: "data", taken=False),
    "None": Form(lambda x: None, taken=False),
    "function": Form(lambda x: lambda: x, taken=False),
    "too many channels": Form(lambda x: x.repeat(1, 3, 1, 1), taken=False),
}
"""Forms of the images (N, 1, 4, 4)."""

LABELS: dict[str, Form] = {
    "int64": Form(lambda y: y),
    **{name: Form(lambda y, name=name: y.to(getattr(torch, name))) for name in ("int32", "int16", "int8", "uint8")},
    **{
        f"{kind} array": Form(lambda y, kind=kind: y.numpy().astype(kind))
        for kind in ("i8", "i4", ">i2", "u1", "u8")
    },
    "list": Form(lambda y: y.tolist()),
    "tuple of arrays": Form(lambda y: tuple(y.numpy())),
    "list of tensors": Form(list),
    "read-only array": Form(_frozen_array),
    "backward array": Form(lambda y: y.numpy()[::-1].copy()[::-1]),
    "born in inference mode": Form(_inferred),
    "floats": Form(lambda y: y.float(), taken=False),
    "double array": Form(lambda y: y.double().numpy(), taken=False),
    "halves": Form(lambda y: y + 0.5, taken=False),
    "truth": Form(lambda y: y > 0, taken=False),
    "complex": Form(lambda y: y.to(torch.complex64), taken=False),
    "column": Form(lambda y: y[:, None], taken=False),
    "column array": Form(lambda y: y[:, None].numpy(), taken=False),
    "nested list": Form(lambda y: y[:, None].tolist(), taken=False),
    "row": Form(lambda y: y[None], taken=False),
    "one-hot": Form(lambda y: nn.functional.one_hot(y, CLASSES), taken=False),
    "soft": Form(lambda y: nn.functional.one_hot(y, CLASSES).float(), taken=False),
    "two columns": Form(lambda y: torch.stack([y, y], 1), taken=False),
    "cube": Form(lambda y: y[:, None, None], taken=False),
    "too few": Form(lambda y: y[1:], taken=False),
    "too many": Form(lambda y: torch.cat([y, y]), taken=False),
    "one number": Form(lambda y: y[0], taken=False),
    "Python number": Form(lambda y: 1, taken=False),
    "from one": Form(lambda y: y + CLASSES, taken=False),
    "negative": Form(lambda y: y - CLASSES, taken=False),
    "huge": Form(lambda y: y + 2**40, taken=False),
    "names": Form(lambda y: ["cat"] * len(y), taken=False),
    "array of names": Form(lambda y: np.array(["cat"] * len(y)), taken=False),
    "objects": Form(lambda y: y.numpy().astype(object), taken=False),
    "nothing": Form(lambda y: [None] * len(y), taken=False),
    "None": Form(lambda y: None, taken=False),
    "dictionary": Form(lambda y: {"labels": y}, taken=False),
    "text": Form(lambda y: "labels", taken=False),
    "generator": Form(iter, taken=False),
    "meta": Form(lambda y: y.to("meta"), taken=False),
    "sparse": Form(lambda y: y.to_sparse(), taken=False),
}
"""Forms of the labels (N,)."""


def _radii(value: Any, *same: float) -> Form:
    return Form(lambda _: value() if callable(value) else value, same=same)


EPSILON: dict[str, Form] = {
    "number": _radii(0.1, 0.1),
    "nothing": _radii(0, 0),
    "whole": _radii(1, 1),
    "list": _radii([0.02, 0.1], 0.02, 0.1),
    "tuple": _radii((0.1,), 0.1),
    "unsorted": _radii([0.1, 0.02], 0.02, 0.1),
    "twice": _radii([0.1, 0.1], 0.1),
    "range": _radii(range(2), 0, 1),
    "set": _radii({0.1}, 0.1),
    "generator": _radii(lambda: (one for one in (0.02, 0.1)), 0.02, 0.1),
    "values": _radii({"small": 0.1}.values, 0.1),
    "fraction": _radii(Fraction(1, 10), 0.1),
    "decimal": _radii(Decimal("0.1"), 0.1),
    "float64": _radii(np.float64(0.1), 0.1),
    "float32": _radii(np.float32(0.1), 0.1),
    "float16": _radii(np.float16(0.1), 0.1),
    "int64": _radii(np.int64(1), 1),
    "linspace": _radii(np.linspace(0.02, 0.1, 2), 0.02, 0.1),
    "list of float64": _radii(list(np.linspace(0.02, 0.1, 2)), 0.02, 0.1),
    "float32 array": _radii(np.array([0.02, 0.1], np.float32), 0.02, 0.1),
    "array without axes": _radii(np.array(0.1), 0.1),
    "tensor": _radii(torch.tensor(0.1), 0.1),
    "double tensor": _radii(torch.tensor([0.02, 0.1], dtype=torch.float64), 0.02, 0.1),
    "float tensor": _radii(torch.tensor([0.02, 0.1]), 0.02, 0.1),
    "half tensor": _radii(torch.tensor(0.1).half(), 0.1),
    "list of tensors": _radii([torch.tensor(0.02), torch.tensor(0.1)], 0.02, 0.1),
    "whole tensor": _radii(torch.tensor([0, 1]), 0, 1),
    **{
        repr(one): Form(lambda _, one=one: one, taken=False)
        for one in (
            None, True, "8/255", "0.1", b"1", ["8/255"], [0.1, None], [True], [[0.1]], [], (), {}, {0.1: 1}, 1j,
            float("nan"), [0.1, float("nan")], -0.1, [0.1, -1], object, np.array([[0.1]]), np.array([]),
            np.bool_(True), torch.tensor(True), torch.zeros(1, 1), torch.tensor([]),
            torch.tensor(0.1, device="meta"), np.array(["0.1"]), np.array([0.1], object).reshape(1, 1),
        )
    },
    "8, in the largest norm": Form(lambda _: 8, taken=False),
    "infinite, in the largest norm": Form(lambda _: np.inf, taken=False),
}  # fmt: skip
"""Forms of the radii; `same` are the numbers that a record has."""

NORM: dict[str, Form] = {
    "linf": Form(lambda _: "linf"),
    "l2": Form(lambda _: "l2", same="l2"),
    "numpy's text": Form(lambda _: np.str_("linf")),
    **{
        repr(one): Form(lambda _, one=one: one, taken=False)
        for one in (
            "L2",
            "Linf",
            "linf ",
            "inf",
            "",
            2,
            np.inf,
            None,
            ["l2"],
            b"l2",
            np.array(["l2", "linf"]),
            True,
        )
    },
}

ATTACKS: dict[str, Form] = {
    "fgsm": Form(lambda _: "fgsm"),
    "two": Form(lambda _: "fgsm, rand-fgsm", same="fgsm, rand-fgsm"),
    "fgms": Form(lambda _: "fgms", taken=False),
    "unknown": Form(lambda _: "fgsm, no-such-attack", taken=False),
}


def _ids(count: int) -> Tensor:
    return torch.arange(count, device="cpu")


OPTIONS: dict[str, Form] = {
    "none": Form(lambda n: None),
    "default": Form(lambda n: Options()),
    "numpy's seed": Form(lambda n: Options(seed=np.int64(0))),
    "torch's seed": Form(lambda n: Options(seed=torch.tensor(0, device="cpu"))),
    "batches": Form(lambda n: Options(batch_size=np.int32(4), chunk=np.uint8(200))),
    "one by one": Form(lambda n: Options(batch_size=1, chunk=1)),
    "ids": Form(lambda n: Options(ids=_ids(n))),
    "list of ids": Form(lambda n: Options(ids=list(range(n)))),
    "array of ids": Form(lambda n: Options(ids=np.arange(n, dtype=np.uint16))),
    "range of ids": Form(lambda n: Options(ids=range(n))),
    "submissions": Form(lambda n: Options(submissions=np.int64(1))),
    "spelled out": Form(lambda n: Options(submissions=Submissions(count=np.int8(1)))),
    "device": Form(lambda n: Options(device="cpu")),
    "torch's device": Form(lambda n: Options(device=torch.device("cpu"))),
    "numpy's truth": Form(lambda n: Options(resume=np.bool_(True), bfloat16=np.bool_(False))),
    "dictionary": Form(lambda n: {"seed": 0}, taken=False),
    "class": Form(lambda n: Options, taken=False),
    "number": Form(lambda n: 0, taken=False),
    "few ids": Form(lambda n: Options(ids=range(n + 1)), taken=False),
    "float ids": Form(lambda n: Options(ids=_ids(n).float()), taken=False),
    "column of ids": Form(lambda n: Options(ids=_ids(n)[:, None]), taken=False),
    "negative ids": Form(lambda n: Options(ids=[-1] * n), taken=False),
    **{
        f"{name}={one!r}": Form(lambda n, name=name, one=one: Options(**{name: one}), taken=False)
        for name, values in {
            "seed": (1.5, 0.0, -1, True, "0", None, np.float64(0), torch.tensor(0.0, device="cpu"), [0]),
            "batch_size": (2.5, 8.0, "8", 0, True, -1, [8]),
            "chunk": (2.5, None, "8", 0, True),
            "submissions": (2.0, "2", 0, None, True, [1]),
            "bfloat16": (1, "no", None),
            "resume": ("no", 0, None),
            "device": ("gpu", "cuda:99", "meta", 99, True, "", object()),
            "progress": (lambda *_: None, "bar", object, 3),
            "ids": ("012", 3, {0: 1}, [None]),
            "defense": (None, 3),
            "dataset": (Path("data"),),
            "weights_sha256": (None, b"ab"),
            "notes": ("a line", [3], 3),
            "start_from": (3, b"file", ["file"]),
        }.items()
        for one in values
    },
}
"""Forms of the options for N images."""


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "plain": nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default double": lambda: _default(torch.float64),
    "default bfloat16": lambda: _default(torch.bfloat16),
    "default device": lambda: torch.device("meta"),
    "deterministic": _deterministic,
}
"""Modes of torch around the call."""


@dataclass(frozen=True)
class Problem:
    """Canonical images and labels: exact in every precision, one of the labels wrong."""

    images: Tensor
    labels: Tensor

    @classmethod
    @functools.cache
    def of(cls, count: int) -> Problem:
        """Return the problem of some images."""
        draws = torch.Generator().manual_seed(1)
        images = torch.randint(65, (count, 1, SIDE, SIDE), generator=draws) / 64
        with torch.no_grad():
            labels = Net()(images).argmax(1)
        labels[count // 2] = (labels[count // 2] + 1) % CLASSES
        return cls(images, labels)
