"""What the code of others does: it runs out of memory, raises what it likes, and changes settings for everybody."""

from __future__ import annotations

import random
import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_MEMORY_SIGNS = (
    "can't allocate memory",  # torch on a CPU, Linux and macOS
    "not enough memory",  # torch on a CPU, Windows
    "alloc_cpu.cpp",
    "out of memory",  # mps, xpu, and cuBLAS or cuDNN through torch
    "could not create a memory",  # oneDNN
    "Cannot allocate memory",  # the operating system, through a library
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "Failed to allocate memory",  # ONNX Runtime
    "std::bad_alloc",
)

_CPU = torch.device("cpu")
_SAID = 300
"""The most that is repeated of what a model's error says, in characters."""


class ModelError(ValueError):
    """The model's own code raised an error; the text says which, where, and on how many images."""

    def __init__(self, text: str, images: int, *, remedied: bool = False) -> None:
        super().__init__(text)
        self.images = images
        """Number of images in the pass that failed, filled up to whole granules."""
        self.remedied = remedied
        """Whether the text already says what to do."""


class MemoryShortError(ValueError):
    """Not even one image fits into memory; a pass of more is halved before this is raised."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether this error says that memory is short, on whatever device and by whichever library."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _MEMORY_SIGNS)


def of_the_model(error: Exception, images: int, doing: str = "answering") -> ModelError:
    """Return the error of a model's code as one line: what it raised, where, and on how many images.

    Parameters
    ----------
    error
        What the call raised.
    images
        Images in the pass.
    doing
        What the model was asked for: answers, or a gradient.
    """
    said = in_short(error)
    text = f"the model raised {type(error).__name__}" + (f": {said}" if said else "")
    return ModelError(f"{text} ({_place(error)}{doing} {images} images in one pass)", images)


def in_short(error: BaseException) -> str:
    """Return what an error says on one line, without the tracebacks that torch and TorchScript put into it."""
    try:
        text = str(error)
    except Exception:  # a foreign error's own text may fail
        return ""
    plain = text.split("\nException raised from", 1)[0].strip()
    if "Traceback" in plain:
        plain = plain.splitlines()[-1]
    plain = " ".join(plain.split()).removeprefix(f"{type(error).__name__}: ")
    return plain if len(plain) <= _SAID else f"{plain[:_SAID]}..."


def ours(error: BaseException) -> bool:
    """Return whether this is an error that this package raised itself, whose text needs no other."""
    if type(error).__module__.partition(".")[0] == "memory_defense":
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_by = str(frames[-1].f_globals.get("__name__", "")) if frames else ""
    return isinstance(error, ValueError) and raised_by.partition(".")[0] == "memory_defense"


def _place(error: Exception) -> str:
    """Return the file and line of the user's code that an error came from, or nothing."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in ("torch", "memory_defense", "numpy"):
            return f"{frame.f_code.co_filename}:{line}, "
    return ""


@contextmanager
def undisturbed() -> Generator[None]:
    """Run a block, and give every setting that is shared with the caller back its value, whatever happens inside.

    These are the global generators (torch on every device, numpy, Python), grad mode, default dtype and device, the
    number of threads, and torch's switches for determinism and precision.
    """
    undo = [keep() for keep in (_generators, _modes, _switches)]
    try:
        yield
    finally:
        for one in undo:
            one()


def _generators() -> Callable[[], None]:
    plain, numbers, torchs = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def back() -> None:
        random.setstate(plain)
        np.random.set_state(numbers)
        torch.random.set_rng_state(torchs)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)

    return back


def _modes() -> Callable[[], None]:
    modes = shared_modes()
    return lambda: put_back(modes)


def _switches() -> Callable[[], None]:
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    strict, warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic

    def back() -> None:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if torch.get_float32_matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn

    return back


Shared = tuple[bool, torch.dtype, torch.device]


def shared_modes() -> Shared:
    """Return grad mode, default dtype and default device as they are; see `put_back`."""
    return torch.is_grad_enabled(), torch.get_default_dtype(), _default_device()


def _default_device() -> torch.device:
    """Return torch's default device; asking torch takes as long as a small layer, so only where some mode is on."""
    counted: Any = getattr(getattr(torch, "_C", None), "_len_torch_function_stack", None)
    return _CPU if counted is not None and counted() == 0 else torch.get_default_device()


def put_back(modes: Shared) -> None:
    """Undo what a call of a model changed of `shared_modes`."""
    grad, dtype, device = modes
    if torch.is_grad_enabled() != grad:
        torch.set_grad_enabled(grad)
    if torch.get_default_dtype() != dtype:
        torch.set_default_dtype(dtype)
    if _default_device() != device:
        torch.set_default_device(None)  # what it is for most; a device of its own makes every torch call slower
        if torch.get_default_device() != device:
            torch.set_default_device(device)


_WRITING = ("w", "a", "x", "+")
_OUTSIDE = ("socket.connect", "socket.sendto", "sqlite3.connect", "subprocess.Popen", "os.system", "os.remove",
            "os.rename", "os.mkdir", "shutil.move", "os.truncate", "os.putenv", "dbm.open")  # fmt: skip
_CODE = (".py", ".pyc", ".so", ".json.gz")
_COMPILING = (
    "importlib",
    "linecache",
    "triton",
    "torch._inductor",
    "torch._dynamo",
    "torch._functorch",
    "torch.utils.cpp_extension",
)
"""Modules that write and run what a compiled model is made of."""

_SYSTEM = ("/dev/", "/proc/", "/sys/")

_events: list[list[str]] = []
_reading: list[bool] = []
_hooked: list[bool] = []


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if not _events or (event != "open" and event not in _OUTSIDE) or _compiling():
        return
    if event == "open":
        path, mode = arguments[0], str(arguments[1] or "")
        flags = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
        writes = any(one in mode for one in _WRITING) or bool(flags & 0o103)
        if writes or (_reading[-1] and not _of_the_system(path)):
            _events[-1].append(f"open {path}")
    else:
        _events[-1].append(event)


def _compiling() -> bool:
    """Whether Python imports something, or a model is being compiled, which is nothing that the model keeps."""
    frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith(_COMPILING):
            return True
        frame = frame.f_back
    return False


@contextmanager
def watched_outside(*, reading: bool = False) -> Generator[list[str]]:
    """Run a block and list every file that it writes, every connection and every program that it starts.

    Parameters
    ----------
    reading
        Whether files that are read count as well; those of Python and of the system never do.
    """
    if not _hooked:
        sys.addaudithook(_heard)  # it cannot be taken away, and hears nothing outside of such a block
        _hooked.append(True)
    _events.append([])
    _reading.append(reading)
    try:
        yield _events[-1]
    finally:
        _events.pop()
        _reading.pop()


def _of_the_system(path: object) -> bool:
    return isinstance(path, int) or str(path).endswith(_CODE) or str(path).startswith(_SYSTEM)
