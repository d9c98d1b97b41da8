"""Modules that a classifier calls and that nothing in it leads to: they are found while it is called."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from memory_defense.contracts import Classifier, Images, Logits
from memory_defense.wrappers.models import modules_of


@dataclass(frozen=True)
class Reaching:
    """A classifier beside modules that it calls, so that `modules_of` finds them."""

    model: Classifier
    modules: tuple[nn.Module, ...]

    def __call__(self, images: Images) -> Logits:
        """Return the model's logits (B, K)."""
        return self.model(images)


@contextmanager
def modules_seen(model: object) -> Generator[list[nn.Module]]:
    """Run a block that calls `model` twice or more; collect the outermost modules that ran and `modules_of` misses.

    A module that is made anew for each call runs once and is not kept. The others are those of a global list, of a
    plain object of settings, or of another file. They run in eval mode from the first call on, and are in their own
    mode again after the block. A compiled model is left alone: it would be compiled once more.
    """
    known = {id(one) for one in modules_of(model)}
    found: list[nn.Module] = []
    if _is_compiled(model):
        yield found
        return
    flags: list[tuple[nn.Module, bool]] = []
    once: dict[int, nn.Module] = {}
    here = threading.get_ident()

    def look(module: nn.Module, _inputs: object) -> None:
        if threading.get_ident() != here:
            return
        if id(module) in once:
            found.append(once.pop(id(module)))
        if id(module) in known:
            return
        once[id(module)] = module
        for one in module.modules():
            if id(one) not in known:
                known.add(id(one))
                flags.append((one, one.training))
                one.training = False

    handle = cast("Any", register_module_forward_pre_hook(look))
    try:
        yield found
    finally:
        handle.remove()
        for module, training in flags:
            module.training = training


def _is_compiled(model: object) -> bool:
    reached = [model, *modules_of(model), *vars(model).values()] if hasattr(model, "__dict__") else [model]
    marks = ("_torchdynamo_orig_callable", "_orig_mod")
    return any(hasattr(one, mark) for one in reached for mark in marks)
