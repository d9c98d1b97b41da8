"""One evaluation of a float32 convolutional network, to be repeated under other circumstances; also a script.

``python scenario.py OUT RESUME [SLOW]`` evaluates and writes every image's outcome; under torchrun it shares the
images among the ranks. SLOW seconds of sleep before each attack leave time to be killed.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rounding
from memory_defense.attacks import ApgdTargeted, Nes, Pgd, Square
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.robustness import Evaluation, Reserve, evaluate
from memory_defense.evaluation.store import to_tensors
from memory_defense.ranks import current
from memory_defense.tensorfiles import write_tensors
from memory_defense.threat import L2, Linf

IMAGES = 40
SCRIPT_OPTIONS = Options(chunk=6)


def network() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 24),
        nn.ReLU(),
        nn.Linear(24, 5),
    )


def problem() -> tuple[Undefended, Tensor, Tensor]:
    """Return the defense, its images, and labels of which some are wrong from the start."""
    defense = Undefended(network())
    images = torch.rand(IMAGES, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = defense(images).argmax(1)
    labels[::9] = (labels[::9] + 1) % 5
    return defense, images, labels


@dataclass(frozen=True, kw_only=True)
class Slowly:
    """An attack that takes its time."""

    attack: Any
    seconds: float = 0.0

    @property
    def gradient_free(self) -> bool:
        return getattr(self.attack, "gradient_free", False)

    def __call__(self, *problem: Any) -> Tensor:
        time.sleep(self.seconds)
        return self.attack(*problem)

    def for_transfer(self) -> Slowly:
        return Slowly(attack=self.attack.for_transfer(), seconds=self.seconds)


def cases(seconds: float = 0.0) -> list[Case]:
    """Return a table case, and two cascades with scouts and a check."""

    def case(name: str, attack: Any, ball: Any, **options: Any) -> Case:
        slow = Slowly(attack=attack, seconds=seconds) if seconds else attack
        return Case(name=name, attack=slow, knowledge="end-to-end", ball=ball, **options)

    found = [case("pgd", Pgd(steps=3), Linf(0.004))]
    for ball in (Linf(0.012), L2(0.08)):
        found += [
            case("pgd-margin", Pgd(steps=4, loss="margin"), ball, purpose="cascade", role="scout"),
            case("square-few", Square(queries=30), ball, purpose="cascade", role="scout"),
            case("apgd-t", ApgdTargeted(steps=6, targets=2), ball, purpose="cascade"),
            case("square", Square(queries=60), ball, purpose="cascade", role="outward"),
        ]
    return found


def reserve(seconds: float = 0.0) -> Reserve:
    """Return one more case for each cascade, for which what the others found asks."""
    one = Nes(queries=40, pairs=5)
    found = [
        Case(
            name="nes",
            attack=Slowly(attack=one, seconds=seconds) if seconds else one,
            knowledge="end-to-end",
            ball=ball,
            purpose="cascade",
            role="outward",
        )
        for ball in (Linf(0.012), L2(0.08))
    ]

    def wanted(evaluation: Evaluation) -> str:
        assert [case.name for case in evaluation.cases] == [case.name for case in cases()]
        assert len(evaluation.labels) == IMAGES, "of all processes"
        return f"{int(evaluation.state.cases[0].fooled.sum())} fell"

    return Reserve(tuple(found), wanted)


class StopAt:
    """A progress that presses Ctrl-C once it was told so often."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def begin(self, what: str, total: int) -> None:
        pass

    def advance(self, steps: int, text: str = "") -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        pass


def run(
    order: Tensor | None = None,
    options: Options | None = None,
    seconds: float = 0.0,
    state_file: Path | None = None,
) -> Evaluation:
    """Evaluate the images in this order."""
    defense, images, labels = problem()
    rows = torch.arange(IMAGES) if order is None else order
    return evaluate(
        defense,
        images[rows],
        labels[rows],
        cases(seconds),
        replace(options or Options(chunk=16), seed=3, ids=rows),
        reserve=reserve(seconds),
        state_file=state_file,
    )


def outcomes(evaluation: Evaluation) -> dict[str, Tensor]:
    """Return every image's outcome in the order of ids, breaking images included."""
    state = evaluation.state
    order = state.ids.argsort()
    found: dict[str, Tensor] = {}
    for number, one in enumerate(state.cases):
        for name in ("done", "fooled", "distance"):
            found[f"case {number} {name}"] = getattr(one, name)[order]
        found[f"case {number} passes"] = torch.tensor([one.forward, one.backward])
    for number, broken in enumerate(state.broken):
        for name in ("robust", "breaker", "distance", "images"):
            found[f"ball {number} {name}"] = getattr(broken, name)[order]
    return found


def main() -> None:
    out, resume = Path(sys.argv[1]), Path(sys.argv[2])
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    rounding.install_from_environment()
    if "RANK" in __import__("os").environ:
        torch.distributed.init_process_group("gloo")
    store = sys.modules[to_tensors.__module__]
    store.SAVE_SECONDS = 0.0
    evaluation = run(options=SCRIPT_OPTIONS, seconds=seconds, state_file=resume)
    if current().rank == 0:
        write_tensors(out, outcomes(evaluation))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
