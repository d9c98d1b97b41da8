"""AutoAttack (Croce & Hein 2020, arXiv 2003.01690): several attacks with fixed settings, one after the other.

Each part works on the images that the earlier ones left. `rand` is for models that draw at every call: its
gradients are averaged over 20 passes, and a single draw that errs counts as a success, as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import torch

from memory_defense.attacks.apgd import Apgd, ApgdTargeted
from memory_defense.attacks.calls import checked
from memory_defense.attacks.engine import StopsEarly, attacked, check_settings, reached
from memory_defense.attacks.fab import FabTargeted
from memory_defense.attacks.square import Square
from memory_defense.checks import nearest
from memory_defense.contracts import Attack, Ball, Classifier, Draws, Images, Labels, least_classes
from memory_defense.losses import margin, with_margin
from memory_defense.threat import BALLS
from memory_defense.wrappers import rows_of

_PUBLISHED: dict[str, dict[str, Apgd | ApgdTargeted | FabTargeted | Square]] = {
    "standard": {
        "apgd-ce": Apgd(steps=100, restarts=1),
        "apgd-t": ApgdTargeted(steps=100, targets=9),
        "fab-t": FabTargeted(steps=100, targets=9, stop_when_fooled=True),
        "square": Square(queries=5000, p_init=0.8),
    },
    "rand": {
        "apgd-ce": Apgd(steps=100, restarts=1, samples=20),
        "apgd-dlr": Apgd(steps=100, restarts=1, loss="dlr", samples=20),
    },
}
VERSIONS = _PUBLISHED | {
    f"{version}-margin": {name: with_margin(part) for name, part in parts.items()}
    for version, parts in _PUBLISHED.items()
}
"""The parts of every version, in order, the same in L-inf and L2: the published ones, then for models with fewer
classes than a DLR loss orders, the same ones with the margin in its place."""

_BUDGETS = ("steps", "targets", "queries")


@dataclass(frozen=True, kw_only=True)
class AutoAttack(StopsEarly):
    """AutoAttack in an L-inf or an L2 ball.

    Parameters
    ----------
    version
        A name of `VERSIONS`: ``standard``, or ``rand`` for a randomised model. ``standard-margin`` and
        ``rand-margin`` are for 2 and 3 classes: the margin stands where a DLR loss is not defined.
    steps, targets, queries
        Budgets that replace the published ones in every part that has them, for a quick look; with any of them the
        result must not be called AutoAttack's.
    stop_when_fooled
        Leave an image alone once the model errs on what a part returns, or on the clean image. Otherwise every
        part works on every image, without early stops. An image that was never left alone is returned at its
        largest margin among the parts' results.
    micro_batch
        See `memory_defense.attacks`.

    Raises
    ------
    ValueError
        For an unknown version, or a budget that none of its parts has; when called, for an unbounded ball or one of
        another norm, or a model with fewer classes than a part needs.
    """

    version: Literal["standard", "rand", "standard-margin", "rand-margin"] = "standard"
    steps: int | None = None
    targets: int | None = None
    queries: int | None = None
    stop_when_fooled: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise nearest(self.version, VERSIONS, "version of AutoAttack")
        check_settings("margin", self.micro_batch, **self._budgets())
        known = {field.name for part in VERSIONS[self.version].values() for field in fields(part)}
        for name, count in self._budgets().items():
            if name not in known:
                raise ValueError(
                    f"{name} is {count}, but no part of version {self.version!r} has {name}; leave it out"
                )

    def _budgets(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in _BUDGETS if getattr(self, name) is not None}

    def parts(self, norm: str) -> dict[str, Attack]:
        """Return the attacks by name in this norm, in order.

        Raises
        ------
        ValueError
            For a norm other than ``linf`` and ``l2``.
        """
        if norm not in BALLS:
            raise ValueError(f"the ball is {norm}, but AutoAttack is defined here for {' and '.join(BALLS)}")
        changes: dict[str, Any] = {"micro_batch": self.micro_batch, **self._budgets()}
        parts = dict[str, Attack]()
        for name, part in VERSIONS[self.version].items():
            own = {field.name for field in fields(part)}
            settings = replace(part, **{key: value for key, value in changes.items() if key in own})
            parts[name] = settings if self.stop_when_fooled else settings.for_transfer()
        return parts

    @checked
    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        parts = self.parts(ball.norm)
        with attacked(model, images, labels, self.micro_batch) as victim:
            best = images.clamp(0, 1)
            rows = victim.all_rows()
            logits = torch.cat([victim.answers(best[part], part) for part in victim.parts(rows)])
            self._check_classes(logits.shape[1])
            if ball.epsilon == 0:
                return best
            highest = margin(logits, labels)
            if self.stop_when_fooled:
                rows = rows[~reached(logits, labels)]
            for name, attack in parts.items():
                if len(rows) == 0:
                    break
                own = draws.child(name).rows(rows)
                tried = attack(rows_of(model, rows), images[rows], labels[rows], ball, own)
                at = torch.arange(len(rows), device=rows.device)
                logits = torch.cat([victim.answers(tried[some], rows[some]) for some in victim.parts(at)])
                leads, fooled = margin(logits, labels[rows]), reached(logits, labels[rows])
                better = leads > highest[rows]
                if self.stop_when_fooled:
                    better |= fooled
                best[rows[better]], highest[rows[better]] = tried[better], leads[better]
                if self.stop_when_fooled:
                    rows = rows[~fooled]
            return best

    def for_classes(self, classes: int) -> Self:
        """Return the attack for so many classes: with the margin, if a part's DLR loss needs more."""
        margins: dict[str, Literal["standard-margin", "rand-margin"]]
        margins = {"standard": "standard-margin", "rand": "rand-margin"}
        return self if classes >= self._needed() else replace(self, version=margins[self.version])

    def _needed(self) -> int:
        return max(map(least_classes, VERSIONS[self.version].values()))

    def _check_classes(self, classes: int) -> None:
        """Raise ValueError if a part needs more classes."""
        if classes < self._needed():
            raise ValueError(
                f"version {self.version!r} needs at least {self._needed()} classes, the model has {classes}; "
                f"use version={self.version + '-margin'!r}"
            )
