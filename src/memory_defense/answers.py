"""Whether a model still answers as it did: what was kept of it belongs to the model whose answers these are.

Weights do not make a model. Code that was mended, a temperature, a mean that is no buffer, a network that a
function finds by a global name leave every hash of weights as it was; the answers to the clean images do not. Of
each image's logits two numbers are kept. Where they were made, on this processor and by passes whose answers agree,
they come out the same but for a last bit; elsewhere rounding may also move an image that lies between two classes,
two slots of a memory or two grey levels of a purifier, which a few images may.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from memory_defense.contracts import Labels, Logits
from memory_defense.machine import processor

ANSWERS = "answers"
"""Name of these numbers in files."""
HERE, ELSEWHERE = 1e-4, 1e-2
"""Relative difference from which an image is answered otherwise: where its answer was made, and elsewhere."""
_FEW = 20
"""Elsewhere one image in so many may be answered otherwise; below four images none may."""
_LEAST = 4


def in_short(logits: Logits) -> Tensor:
    """Return (N, 2) float32: a weighted sum of each image's logits, no two weights alike, and their length.

    An image without a finite answer has 0 for both.
    """
    plain = logits.detach().cpu().double()  # on the processor, as some accelerators have no double precision
    plain = torch.where(plain.isfinite().all(1, keepdim=True), plain, 0.0)
    weights = torch.arange(1, plain.shape[1] + 1, device=plain.device, dtype=plain.dtype).cos()
    return torch.stack([plain @ weights, plain.square().sum(1).sqrt()], 1).float().to(logits.device)


def answered_otherwise(now: Tensor, then: Tensor, *, here: bool) -> int:
    """Return how many images are answered otherwise now than then; 0 where rounding explains all of it.

    Parameters
    ----------
    now, then
        (N, 2) from `in_short`, of the same images in the same order.
    here
        Whether both were made on the same processor, by passes whose answers agree.
    """
    if now.shape != then.shape:
        return max(len(now), len(then), 1)
    one, other = now.double().cpu(), then.double().cpu()
    length = torch.maximum(one[:, 1], other[:, 1])
    scale = torch.maximum(length, length.mean()).clamp_min(torch.finfo(torch.float32).tiny)  # (N,)
    differs = ~((one - other).abs().amax(1) <= (HERE if here else ELSEWHERE) * scale)  # NaN differs
    return _unless_few(int(differs.sum()), len(one), here=here)


def predicted_otherwise(now: Labels, then: Labels) -> int:
    """Return the same for predictions (N,) alone, which is what older files kept."""
    if now.shape != then.shape:
        return max(len(now), len(then), 1)
    return _unless_few(int((now.cpu() != then.cpu()).sum()), len(now), here=False)


def _unless_few(differing: int, images: int, *, here: bool) -> int:
    allowed = 0 if here or images < _LEAST else max(1, images // _FEW)
    return 0 if differing <= allowed else differing


def repeats_itself(ask: Callable[[], Tensor], now: Tensor) -> bool:
    """Return whether a model that is asked again, with the same seed, gives the answers (N, 2) that it just gave.

    One that draws from a generator of its own does not, and then its answers say nothing about whose file it is.
    """
    return answered_otherwise(ask(), now, here=True) == 0


def made_on(device: torch.device) -> str:
    """Return the name of this device and of what computes on it, as far as rounding may depend on it."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{device.type} {processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
