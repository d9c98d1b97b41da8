"""Tensors in safetensors files: nothing here can execute what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open  # pyright: ignore[reportUnknownVariableType]
from safetensors.torch import save as serialised  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from memory_defense.files import check_tensor_file, write_bytes

_PICKLE_STARTS = (b"\x80", b"PK\x03\x04")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors and string metadata atomically, on the CPU and contiguous; raise what `files.atomic` raises.

    The bytes are made in memory first: the library's own writer would leave a file of its own if it were killed.
    """
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    write_bytes(path, serialised(plain, dict(metadata or {})))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return every tensor and the metadata of a safetensors file.

    Raises
    ------
    ValueError
        If the file is missing, truncated, a pickle, a web page, or anything but safetensors.
    """
    check_tensor_file(path)
    try:
        with path.open("rb") as source:
            start = source.read(9)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); make it readable with chmod u+r") from error
    # A header 128 bytes longer than a multiple of 256 also begins with 0x80; its text follows at the ninth byte.
    if start.startswith(_PICKLE_STARTS) and start[8:] != b"{":
        raise ValueError(
            f"{path} is a pickle, whatever its name, and pickles can run code: it is not loaded; "
            "convert it where you trust it with torch.load(..., weights_only=True) and safetensors.torch.save_file"
        )
    if start.lstrip().startswith(b"<"):
        raise ValueError(f"{path} is a web page, not weights; download the file again")
    try:
        return _read(path)
    except (SafetensorError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); write or download it again") from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with cast(Any, safe_open)(path, framework="pt") as archive:
        names = cast("list[str]", list(archive.keys()))
        tensors = {name: cast("Tensor", archive.get_tensor(name)) for name in names}
        return tensors, cast("dict[str, str]", archive.metadata() or {})
