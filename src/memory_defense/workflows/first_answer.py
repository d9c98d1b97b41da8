"""The first answer of a model: it is asked once before anything runs, and called as it wants to be called."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn

from memory_defense.checks import check_class_count
from memory_defense.contracts import Defense, Images, Logits
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.invariance import undisturbed
from memory_defense.evaluation.pixels import Pictures
from memory_defense.foreign import ModelError, out_of_memory
from memory_defense.passes import regular
from memory_defense.wrappers import (
    OwnPrecision,
    Reaching,
    UnderDefaults,
    frozen,
    modules_of,
    precision_of,
    restored,
)


def as_found(defense: Defense, dtype: torch.dtype, device: torch.device) -> Defense:
    """Return the defense; a plain classifier finds torch's default type and device as its author had them."""
    if not isinstance(defense, Undefended) or (dtype, device) == (torch.float32, torch.device("cpu")):
        return defense
    return Undefended(UnderDefaults(defense.network, dtype, device))


def in_own_precision(defense: Defense) -> Defense:
    """Return a plain classifier as it is called in its own precision; others as they are."""
    precision = precision_of(defense)
    if precision == torch.float32 or not isinstance(defense, Undefended):
        return defense
    return Undefended(OwnPrecision(defense.network, precision))


def reaching(defense: Defense, seen: Sequence[nn.Module]) -> tuple[Defense, str]:
    """Return the defense with the modules that it was seen to call in its reach, and what to say of them."""
    if not seen or not isinstance(defense, Undefended):
        return defense, ""
    count = sum(1 for one in seen if any(True for _ in chain(one.parameters(), one.buffers())))
    said = (
        f"{count} module{'s' * (count > 1)} that the model calls cannot be found in it; seen at the first call, "
        "and put into eval mode as the others"
    )
    return Undefended(Reaching(defense.network, tuple(seen))), said if count else ""


def introduced(defense: Defense, images: Pictures, *, follows: bool) -> tuple[Defense, int]:
    """Return the defense as it can be called with float32 images, and its number of classes.

    A plain classifier in another precision is called in its own.

    Parameters
    ----------
    defense
        What is evaluated; it is as before afterwards.
    images
        (N, C, H, W) in [0, 1]; the first is shown.
    follows
        Whether an attack will ask for gradients.

    Raises
    ------
    ValueError
        For a model that raises, or answers anything but logits (B, K).
    """
    own = in_own_precision(defense)
    try:
        return defense, _classes(defense, images, follows=follows and isinstance(defense, Undefended))
    except ValueError:
        if own is defense:
            raise
    try:
        return own, _classes(own, images, follows=follows)
    except ValueError as error:
        raise ValueError(f"{error}; as its weights are {precision_of(defense)}, model.float() may help") from error


def _classes(defense: Defense, images: Pictures, *, follows: bool) -> int:
    with frozen(defense), restored(defense), undisturbed(0):
        with torch.no_grad():
            logits = _answer(defense, images[:1], "")
        if logits.dim() < 3:
            check_class_count(1 if logits.dim() < 2 else logits.shape[1])
        if follows:
            try:
                with torch.enable_grad():
                    _answer(defense, images[:1].clone().requires_grad_(), ", but only without a gradient")
            except Exception as error:  # the attacks make their passes smaller
                if not out_of_memory(error):
                    raise
    return logits.shape[1]


def _answer(defense: Defense, images: Images, answered: str) -> Logits:
    """Return the logits; whatever the model raises becomes one error that says so, unless memory is too small."""
    try:
        return regular(defense)(images)
    except ModelError as error:
        if error.remedied:
            raise
        what = f"the model answers images {tuple(images.shape)}{answered}" if answered else ""
        what = what or f"the model does not answer images {tuple(images.shape)}, float32 in [0, 1]"
        remedy = (
            "give attacks that only ask, such as square or hop-skip-jump, or fix what cuts the gradient"
            if answered
            else "see where with model(images[:8]), and wrap it into a function of such images"
        )
        raise ModelError(f"{what}: {error}; {remedy}", error.images, remedied=True) from error


@contextmanager
def on_device(model: object, device: torch.device | str | None) -> Generator[None]:
    """Run a block with a model's modules on this device, and bring each back to its own; None changes nothing."""
    start = model.network if isinstance(model, Undefended) else model
    moved: list[tuple[nn.Module, torch.device]] = []
    covered: set[int] = set()
    try:
        for module in modules_of(start) if device is not None else ():
            home = next(chain(module.parameters(), module.buffers()), None)
            if home is not None and id(module) not in covered:
                moved.append((module, home.device))
                module.to(device)
            covered.update(map(id, module.modules()))
        yield
    finally:
        for module, before in moved:
            module.to(before)
