"""Attacks: frozen options that are called with a classifier, images, labels, a ball and draws.

`ATTACKS` is the one list of them. It names each class by its place, so names are checked without importing torch;
a class is imported when it is first asked for, by name or as an attribute of this package.

These options mean the same in every attack that has them; the classes document the others. A value out of range
raises ValueError when the attack is made. Inputs that `checks` refuses, a model without a usable gradient, and a
ball that an attack is not made for raise it when the attack is called. An ``epsilon`` of 0 changes nothing.

Parameters
----------
steps : int, at least 1
    Gradient steps of one start (for each target, for each search step). Each costs a forward and a backward pass.
step_size : float above 0, or None
    Length of every step in pixel units. None starts at the ball's diameter and shrinks to nothing along a cosine
    (`ascent.cosine_steps`); with `Pgd.momentum`, 14 such steps fool as many images as 40 of a constant size.
restarts : int, at least 1
    Independent random starts; each works on the images that the earlier ones did not fool.
loss : str
    A name in `losses.LOSSES`. Attacks that use only a gradient's direction follow the cross-entropy through
    `engine.log_odds`, which does not saturate in float32.
targeted : bool
    The labels are the classes to reach, not the ones to leave.
targets : int, at least 1
    Number of the highest classes other than the label to aim at, one after the other, by the logits of the clean
    image; all of them if the model has fewer. An image is done once the model errs in any way.
stop_when_fooled : bool
    Leave an image alone from the first iterate that fools the model, the clean one included. Otherwise every image
    takes every step and is returned at its highest loss (or margin, where an attack says so). Attacks that minimise
    a distance stop at the first iterate inside the ball; its distance is then no minimum.
confidence : float, at least 0
    The lead in logits that the wrong (or the target) class must have.
best_effort : bool
    Search inside the ball, and if the full `confidence` is not reached there, return the image with the largest
    lead instead of the clean one.
micro_batch : int, at least 1, or None
    Images in one pass; None is 256 on a CPU and 512 elsewhere, or what `passes.micro_batches_of` says.
"""

from __future__ import annotations

from collections import UserDict
from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

from memory_defense.names import nearest

if TYPE_CHECKING:  # the classes as attributes, for type checkers; `__getattr__` finds them from the table
    from memory_defense.attacks.apgd import Apgd as Apgd
    from memory_defense.attacks.apgd import ApgdTargeted as ApgdTargeted
    from memory_defense.attacks.autoattack import AutoAttack as AutoAttack
    from memory_defense.attacks.carlini_wagner import PAPER_CW as PAPER_CW
    from memory_defense.attacks.carlini_wagner import CarliniWagner as CarliniWagner
    from memory_defense.attacks.ddn import Ddn as Ddn
    from memory_defense.attacks.fab import FabTargeted as FabTargeted
    from memory_defense.attacks.fmn import Fmn as Fmn
    from memory_defense.attacks.gama import Gama as Gama
    from memory_defense.attacks.gradient import PAPER_BIM as PAPER_BIM
    from memory_defense.attacks.gradient import PAPER_FGSM as PAPER_FGSM
    from memory_defense.attacks.gradient import PAPER_PGD as PAPER_PGD
    from memory_defense.attacks.gradient import PAPER_RAND_FGSM as PAPER_RAND_FGSM
    from memory_defense.attacks.gradient import Bim as Bim
    from memory_defense.attacks.gradient import Fgsm as Fgsm
    from memory_defense.attacks.gradient import Pgd as Pgd
    from memory_defense.attacks.gradient import RandFgsm as RandFgsm
    from memory_defense.attacks.hop_skip_jump import HopSkipJump as HopSkipJump
    from memory_defense.attacks.nes import Nes as Nes
    from memory_defense.attacks.pgd_targeted import PgdTargeted as PgdTargeted
    from memory_defense.attacks.square import Square as Square
    from memory_defense.contracts import Attack


class Classes(UserDict[str, Any]):
    """Classes by name; one given as ``"package.module:Class"`` is imported when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        """Return the class of this name."""
        place = self.data[name]
        return _imported(place) if isinstance(place, str) else place


def _imported(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


ATTACKS = Classes(
    {
        "fgsm": "memory_defense.attacks.gradient:Fgsm",
        "rand-fgsm": "memory_defense.attacks.gradient:RandFgsm",
        "bim": "memory_defense.attacks.gradient:Bim",
        "pgd": "memory_defense.attacks.gradient:Pgd",
        "pgd-t": "memory_defense.attacks.pgd_targeted:PgdTargeted",
        "gama": "memory_defense.attacks.gama:Gama",
        "cw": "memory_defense.attacks.carlini_wagner:CarliniWagner",
        "ddn": "memory_defense.attacks.ddn:Ddn",
        "fmn": "memory_defense.attacks.fmn:Fmn",
        "fab-t": "memory_defense.attacks.fab:FabTargeted",
        "apgd": "memory_defense.attacks.apgd:Apgd",
        "apgd-t": "memory_defense.attacks.apgd:ApgdTargeted",
        "square": "memory_defense.attacks.square:Square",
        "nes": "memory_defense.attacks.nes:Nes",
        "hop-skip-jump": "memory_defense.attacks.hop_skip_jump:HopSkipJump",
        "autoattack": "memory_defense.attacks.autoattack:AutoAttack",
    }
)
"""Every attack by the name that records and the command line use."""

NORMS_OF: dict[str, tuple[str, ...]] = {"cw": ("l2",), "ddn": ("l2",)}
"""The norms of the attacks that do not work in every one, as `contracts.NormBound` declares them."""

_PAPER = {"PAPER_CW": "carlini_wagner"} | dict.fromkeys(
    ("PAPER_FGSM", "PAPER_RAND_FGSM", "PAPER_BIM", "PAPER_PGD"), "gradient"
)


def __getattr__(name: str) -> Any:
    """Import a class of `ATTACKS`, or an attack with the paper's settings, on first use."""
    if name in _PAPER:
        return _imported(f"{__name__}.{_PAPER[name]}:{name}")
    for place in ATTACKS.data.values():
        if isinstance(place, str) and place.endswith(f":{name}"):
            return _imported(place)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def attack(name: str, **options: Any) -> Attack:
    """Return the attack of this name with these settings.

    Raises
    ------
    ValueError
        For an unknown name or option, naming the known ones, or a value out of range.
    """
    if name not in ATTACKS:
        from memory_defense.plugins import load_plugins  # few callers need it

        load_plugins()
    if name not in ATTACKS:
        raise nearest(name, ATTACKS, "attack")
    made = ATTACKS[name]
    known = [field.name for field in fields(made)]
    for option in options:
        if option not in known:
            raise nearest(option, known, f"option of the attack {name}")
    return made(**options)
