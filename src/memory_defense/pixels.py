"""Images that stay as they were read, grey levels in memory or in a mapped file, until somebody looks at them.

An evaluation goes through its images a batch at a time. Eight bits a pixel are a quarter of float32, and a mapped
file is no memory at all; so the floats are made batch by batch, where a batch is asked for.
"""

# pyright: reportIncompatibleMethodOverride=false
# torch types what its methods give as precisely as no other kind of tensor can.

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from memory_defense.contracts import Images, Rows

FLOAT_BYTES = 64 << 20
"""Bytes of float32 pixels that one chunk of images has at most, where each of an attack's tensors is that large."""
_WHOLE = 8
"""A chunk has a multiple of so many images, and at least so many, whatever their size."""
_DESCRIBES = (
    "shape device dtype ndim layout requires_grad is_meta is_quantized is_nested is_sparse is_cuda is_cpu names "
    "is_leaf grad_fn itemsize nbytes dim size numel nelement element_size stride is_contiguous is_floating_point "
    "is_complex is_inference get_device storage_offset is_signed __hash__"
)
"""What says something of images without a look at their pixels."""


def chunk_of(images: Images, most: int) -> int:
    """Return how many of these images an attack may hold at once: `most`, or fewer where they are large."""
    fit = FLOAT_BYTES // (4 * max(1, images[:1].numel() if len(images) else 1))
    return min(most, max(_WHOLE, fit - fit % _WHOLE))


class Pixels(Tensor):
    """Images (N, C, H, W), float32 in [0, 1], of which only those exist that somebody asks for.

    To whoever gets it this is a tensor. Rows that are taken out of it by an index, a slice or `split` are ordinary
    float32 tensors of their own; ``index_select(0, rows)``, ``clone()``, ``detach()`` and ``to(device)`` give
    another of its kind, without a copy of what it keeps. Rows may be written to (``pixels[rows] = images``): these
    alone are kept as floats, and a clone made before stays what it was. Any other operation makes all floats at
    once, and one that would change them in place is refused.

    Parameters
    ----------
    kept
        (M, C, H, W) uint8 grey levels, which are divided by 255, or float32 in [0, 1]; never written to.
    device
        Where the rows that are asked for are put; that of `kept` if None.
    rows
        (N,) int64 positions in `kept`; all of them, in order, if None.
    changed
        What was written to rows (C, H, W) since, by their positions here.

    Raises
    ------
    ValueError
        For pixels of another type.
    """

    def __new__(
        cls: type[Pixels],
        kept: Tensor,
        device: torch.device | str | None = None,
        *,
        rows: Rows | None = None,
        changed: Mapping[int, Tensor] | None = None,
    ) -> Pixels:
        """Return a tensor without values; nothing is copied."""
        del changed
        if kept.dtype not in (torch.uint8, torch.float32):
            raise ValueError(
                f"pixels are {kept.dtype}, expected torch.uint8 grey levels or torch.float32 in [0, 1]"
            )
        shape = (len(kept) if rows is None else len(rows), *kept.shape[1:])
        place = kept.device if device is None else torch.device(device)
        return cast(Any, Tensor)._make_wrapper_subclass(cls, shape, dtype=torch.float32, device=place)

    def __init__(
        self,
        kept: Tensor,
        device: torch.device | str | None = None,
        *,
        rows: Rows | None = None,
        changed: Mapping[int, Tensor] | None = None,
    ) -> None:
        del device
        self._kept, self._rows, self._changed = kept, rows, dict(changed or {})

    def __repr__(self, *, tensor_contents: None = None) -> str:
        """Return what it is, without a look at the pixels."""
        return f"Pixels({tuple(self.shape)}, kept as {self._kept.dtype}, device={str(self.device)!r})"

    def __len__(self) -> int:
        """Return N."""
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the images (C, H, W) one by one."""
        return (self[row] for row in range(len(self)))

    def __getitem__(self, index: Any) -> Tensor:
        """Return what is at this index as a float32 tensor of its own."""
        parts: list[Any] = [*index] if type(index) is tuple and index else [index]
        first, others = parts[0], tuple(parts[1:])
        if first is None or first is Ellipsis or (isinstance(first, Tensor) and first.dim() > 1):
            return self._floats(slice(None))[index]
        found = self._floats(first)
        if not others:
            return found
        return found[others] if isinstance(first, int) else found[(slice(None), *others)]

    def __setitem__(self, rows: Any, images: Any) -> None:
        """Keep images (n, C, H, W), as floats, in place of those at these rows: (n,), a mask or a slice."""
        numbers = cast("list[int]", torch.arange(len(self))[_on_cpu(rows)].reshape(-1).tolist())
        given = torch.as_tensor(images, dtype=torch.float32).detach().expand(len(numbers), *self.shape[1:])
        for number, image in zip(numbers, given, strict=True):
            self._changed[number] = image.to(self._kept.device, copy=True)

    def clone(self, *, memory_format: torch.memory_format | None = None) -> Pixels:
        """Return images that may be written to without a change of these."""
        del memory_format
        return self._alike()

    def detach(self) -> Pixels:
        """Return the same images; they never have a gradient."""
        return self._alike()

    def contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
        """Return the same images; whatever is taken out of them is laid out anew."""
        plain = memory_format == torch.contiguous_format
        return self._alike() if plain else self[:].contiguous(memory_format=memory_format)

    def cpu(self, memory_format: torch.memory_format = torch.preserve_format) -> Tensor:
        """Return images whose rows are put on the CPU."""
        del memory_format
        return self._alike(torch.device("cpu"))

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return images whose rows are put on another device, or all floats where another type is asked for."""
        place, *others = args or (kwargs.get("device"),)
        if isinstance(place, (str, int, torch.device)) and not others and kwargs.keys() <= {"device"}:
            return self._alike(torch.device(place))
        return self._floats(slice(None)).to(*args, **kwargs)

    def index_select(self, dim: int, index: Rows) -> Tensor:
        """Return the images at these positions (n,), without a copy."""
        if dim != 0:
            return self._floats(slice(None)).index_select(dim, index)
        index = index.cpu()
        rows = index if self._rows is None else self._rows[index]
        numbers = cast("list[int]", index.tolist()) if self._changed else []
        moved = {place: self._changed[number] for place, number in enumerate(numbers) if number in self._changed}
        return Pixels(self._kept, self.device, rows=rows, changed=moved)

    def split(self, split_size: int | list[int], dim: int = 0) -> Any:
        """Return the images in parts, each of which is made where it is looked at."""
        if dim != 0 or not isinstance(split_size, int):
            return cast(Any, self[:]).split(split_size, dim)
        return _Parts(self, split_size)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Say what needs no pixels as it is, take parts one by one, and make all floats for anything else."""
        del types
        name = getattr(func, "__name__", "")
        described = func.__self__.__name__ if name == "__get__" and hasattr(func, "__self__") else name
        if described in _DESCRIBES.split():
            with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore[reportPrivateUsage]
                return func(*args, **(kwargs or {}))
        if name in _OWN and isinstance(args[0], cls):
            return getattr(args[0], name)(*args[1:], **(kwargs or {}))
        if name.endswith("_") and not name.endswith("__"):
            raise ValueError(f"{name} would change images that are kept as they were read; use a copy, images[:]")
        made = tree_map(_made, (tuple(args), dict(kwargs or {})))
        return func(*made[0], **made[1])

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Make all floats for what comes by another way than Python's, such as a compiled function."""
        del types
        made = tree_map(_made, (tuple(args), dict(kwargs or {})))
        return func(*made[0], **made[1])

    def _alike(self, device: torch.device | None = None) -> Pixels:
        return Pixels(self._kept, device or self.device, rows=self._rows, changed=self._changed)

    def _floats(self, first: Any) -> Tensor:
        """Return the rows at this index of the first axis."""
        first = _on_cpu(first)
        if self._rows is None and not self._changed:
            chosen = self._kept[first if self._kept.device.type == "cpu" else _moved(first, self._kept.device)]
            return _as_floats(chosen, self.device)
        numbers = torch.arange(len(self))[first]
        rows = (numbers if self._rows is None else self._rows[numbers]).to(self._kept.device)
        found = _as_floats(self._kept[rows], self.device)
        if self._changed:
            flat = found.view(-1, *self.shape[1:])
            for place, number in enumerate(cast("list[int]", numbers.reshape(-1).tolist())):
                if number in self._changed:
                    flat[place] = self._changed[number].to(self.device)
        return found


_OWN = frozenset(("clone", "contiguous", "cpu", "detach", "to", "index_select", "split"))


class _Parts(Sequence[Tensor]):
    """The parts of images that `torch.split` would give, each made where it is looked at."""

    def __init__(self, images: Pixels, size: int) -> None:
        self.images, self.size = images, size

    def __len__(self) -> int:
        return max(1, -(-len(self.images) // self.size))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self[number] for number in cast("Sequence[int]", range(len(self))[cast(Any, index)]))
        number = range(len(self))[int(index)]
        return self.images[number * self.size : (number + 1) * self.size]


def _as_floats(chosen: Tensor, device: torch.device) -> Tensor:
    """Return kept pixels as a float32 tensor of its own on the device."""
    if chosen.dtype == torch.uint8:
        return chosen.to(device).float().div_(255)
    return chosen.to(device, copy=True)


def _on_cpu(index: Any) -> Any:
    return index.cpu() if isinstance(index, Tensor) else index


def _moved(index: Any, device: torch.device) -> Any:
    return index.to(device) if isinstance(index, Tensor) else index


def _made(value: Any) -> Any:
    return value[:] if isinstance(value, Pixels) else value
