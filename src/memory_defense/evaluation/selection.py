"""Answer and flag attacked together: how many images does an adversary get wrong and accepted?

Other than a cascade, which drops an image as soon as it is wrong, an image stays until it is wrong *and* accepted.
Images that are wrong but flagged when clean are attacked too. Afterwards what still stands is attacked in a small
ball by who wants it flagged (`rejection`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch

from memory_defense.contracts import (
    Adaptation,
    Adaptive,
    Attack,
    Ball,
    Binding,
    Classifier,
    Defense,
    Flagging,
    Images,
    Labels,
    PerImage,
    Rows,
    Targeting,
)
from memory_defense.data.images import ImageSet
from memory_defense.evaluation.attempt import EXACT_KNOWLEDGE, CaseRunner
from memory_defense.evaluation.cases import Case, parameters_of
from memory_defense.evaluation.detection_results import AttackedSet
from memory_defense.evaluation.fitting import classes_of, fitted
from memory_defense.evaluation.metrics import JUDGE_BATCH, judged
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.record import SelectionResult, SelectionStage
from memory_defense.evaluation.rejection import NEAR_SHARE, selection_result
from memory_defense.evaluation.robustness import published
from memory_defense.evaluation.state import Attempt
from memory_defense.evaluation.watch import described
from memory_defense.names import check_rejection_cost
from memory_defense.passes import bfloat16_gradients, micro_batches_of, within_memory
from memory_defense.progress import during, stage
from memory_defense.randomness import seeded
from memory_defense.threat import ball as ball_of
from memory_defense.wrappers import frozen

ALARM = "alarm"
"""Knowledge of the adversary who wants images flagged."""


@runtime_checkable
class BindingToLabels(Binding, Protocol):
    """A surrogate that can be told the true classes, for images that are wrong when clean."""

    def bind_to(self, clean: Images, labels: Labels) -> Classifier:
        """Return the classifier frozen at these clean images, with (B,) the right classes."""
        ...


@runtime_checkable
class Alarming(Protocol):
    """A defense that publishes how its flag is raised."""

    def alarm(self) -> Binding:
        """Return a surrogate that counts an image as fooled where it is flagged or wrong."""
        ...


@dataclass(frozen=True)
class _ToLabels:
    """A surrogate that is bound to the true classes, if it can be."""

    surrogate: Classifier | Binding
    labels: Labels

    def bind(self, clean: Images) -> Classifier:
        """Return the classifier for these images."""
        if isinstance(self.surrogate, BindingToLabels):
            return self.surrogate.bind_to(clean, self.labels)
        return self.surrogate.bind(clean) if isinstance(self.surrogate, Binding) else self.surrogate


def select(
    defense: Defense,
    test: ImageSet,
    options: Options | None = None,
    *,
    attacks: Mapping[str, Attack],
    balls: Sequence[Ball],
    costs: Sequence[float],
    found: Sequence[AttackedSet] = (),
) -> tuple[SelectionResult, ...]:
    """Return a result for every ball, small before large.

    Parameters
    ----------
    defense
        On the device of the images. One without a flag, or without a threshold, accepts everything.
    test
        Images that no threshold has seen.
    options
        Seed, batch size and so on; nothing is saved between attacks.
    attacks
        By name. Each runs with every adaptation that fights the flag, or end-to-end where nothing is flagged; one
        that names targets with those that are worth attacking towards each class, if there
        are any, every other with the rest. The first of them also tries to raise the flag.
    balls
        What is lost in a smaller ball of a norm is lost in every larger one.
    costs
        Of a flag, in [0, 1].
    found
        Images that an evaluation found; those that are accepted count.

    Raises
    ------
    ValueError
        For a cost outside [0, 1], no attack, or an attack that returns NaN or leaves its ball.
    """
    for cost in costs:
        check_rejection_cost(cost)
    if not attacks:
        raise ValueError("no attack was given, so nothing would be known of the flag; give pgd, at least")
    chosen = options or Options()
    with frozen(defense), micro_batches_of(chosen.batch_size), bfloat16_gradients(chosen.bfloat16):
        run = _Selection(defense, test, chosen, attacks, found)
        with stage(chosen.progress, "judging the clean images and their flags"):
            run.judge()
        if chosen.progress:
            chosen.progress.begin("attacking answer and flag", len(balls) * run.ways)
        ordered = sorted(balls, key=lambda one: (one.norm, one.epsilon))
        return tuple(run.ball(one, costs) for one in ordered)


@dataclass
class _Selection:
    """One defense, and what was found of it in the balls so far."""

    defense: Defense
    test: ImageSet
    options: Options
    attacks: Mapping[str, Attack]
    found: Sequence[AttackedSet]
    lost: dict[str, PerImage] = field(default_factory=dict[str, PerImage])
    alarmed: dict[str, PerImage] = field(default_factory=dict[str, PerImage])
    """By norm, in the largest ball so far."""

    def judge(self) -> None:
        """Judge and flag the clean images."""
        self.images, self.labels = self.test.floats(), self.test.labels
        with seeded(self.options.seed, "clean judge"):
            self.right = ~judged(self.defense, self.images, self.labels, self.options.repetitions)[0]
        self.flagged = self.flags_of(self.images)
        self.classes = classes_of(self.defense, self.images, seed=self.options.seed)

    @property
    def flags(self) -> bool:
        """Whether the defense flags anything."""
        return isinstance(self.defense, Flagging) and self.defense.flag_threshold is not None

    def flags_of(self, images: Images) -> PerImage:
        """Return (B,) bool: which of these images are flagged."""
        if not isinstance(self.defense, Flagging) or not self.flags:
            return torch.zeros(len(images), dtype=torch.bool, device=images.device)
        suspicious = self.defense.suspicious
        parts = [within_memory(suspicious, part.clone()) for part in torch.split(images, JUDGE_BATCH) if len(part)]
        return torch.cat([torch.zeros(0, dtype=torch.bool, device=images.device), *parts])

    @property
    def fighters(self) -> Mapping[str, Adaptation]:
        """The adaptations that fight the flag."""
        if not self.flags or not isinstance(self.defense, Adaptive):
            return {}
        return {name: one for name, one in self.defense.adaptive().items() if one.fights_flag}

    def pairs(self) -> list[tuple[str, Attack, str]]:
        """Return each attack by name, with what its maker knows."""
        if not self.flags:
            return [(name, attack, EXACT_KNOWLEDGE) for name, attack in self.attacks.items()]
        fighters = self.fighters
        towards = [known for known, one in fighters.items() if one.towards_each_class]
        others = [known for known in fighters if known not in towards]
        return [
            (name, attack, known)
            for name, attack in self.attacks.items()
            for known in ((towards or others) if isinstance(attack, Targeting) else others)
        ]

    @property
    def ways(self) -> int:
        """How many attacks there are in a ball."""
        return len(self.pairs()) + int(self.flags and isinstance(self.defense, Alarming))

    def ball(self, ball: Ball, costs: Sequence[float]) -> SelectionResult:
        """Attack in one ball."""
        none = torch.zeros_like(self.right)
        lost = self.lost.get(ball.norm, ~self.right & ~self.flagged).clone()
        alarmed = self.alarmed.get(ball.norm, none).clone()
        for one in self.found:
            if one.ball.norm == ball.norm and one.ball.epsilon <= ball.epsilon and len(one.rows):
                lost[one.rows] |= one.fooled & ~self.flags_of(one.images)
        stages: list[SelectionStage] = []
        surrogates = published(self.defense)
        for name, attack, known in self.pairs():
            case = self._case(name, attack, known, ball)
            rows = (~lost).nonzero().squeeze(1)
            hit = none.clone()
            for part, attempt in self._attempts(case, surrogates[known], rows):
                hit[part] = attempt.silent
            lost |= hit
            stages.append(self._stage(case, len(rows), hit))
        near = NEAR_SHARE * ball.epsilon
        if self.flags and isinstance(self.defense, Alarming):
            name, attack = next(iter(self.attacks.items()))
            case = self._case(name, attack, ALARM, ball_of(ball.norm, near))
            rows = (self.right & ~self.flagged & ~lost & ~alarmed).nonzero().squeeze(1)
            hit = none.clone()
            for part, attempt in self._attempts(case, self.defense.alarm(), rows):
                hit[part] = self.flags_of(attempt.images)
                lost[part] |= attempt.silent
            alarmed |= hit
            stages.append(self._stage(case, len(rows), hit))
        self.lost[ball.norm], self.alarmed[ball.norm] = lost, alarmed
        flag = (
            (self.defense.flag_score, self.defense.flag_threshold) if isinstance(self.defense, Flagging) else None
        )
        return selection_result(
            self.right,
            self.flagged,
            lost,
            alarmed,
            costs=costs,
            norm=ball.norm,
            epsilon=ball.epsilon,
            near=near,
            score=flag[0] if flag and self.flags else "",
            threshold=flag[1] if flag and self.flags else None,
            stages=stages,
        )

    def _case(self, name: str, attack: Attack, known: str, ball: Ball) -> Case:
        return fitted([Case(name=name, attack=attack, knowledge=known, ball=ball)], self.classes)[0]

    def _attempts(self, case: Case, surrogate: Classifier | Binding, rows: Rows) -> list[tuple[Rows, Attempt]]:
        """Return what the case makes of these images, chunk by chunk."""
        runner = CaseRunner(defense=self.defense, options=self.options)
        self.spent = 0.0
        with during(self.options.progress, f"{described(case)}, {len(rows):,} images"):
            made = [
                (
                    part,
                    runner.run(
                        case,
                        _ToLabels(surrogate, self.labels[part]),
                        self.images[part],
                        self.labels[part],
                        self.test.ids[part],
                    ),
                )
                for part in torch.split(rows, self.options.chunk)
                if len(part)
            ]
        self.spent = sum(attempt.seconds for _, attempt in made)
        return made

    def _stage(self, case: Case, tried: int, hit: PerImage) -> SelectionStage:
        if self.options.progress:
            self.options.progress.advance(1, f"{case.name}, {case.knowledge}: {int(hit.sum())} of {tried}")
        return SelectionStage(
            attack=case.name,
            knowledge=case.knowledge,
            tried=tried,
            lost=int(hit.sum()),
            seconds=round(self.spent, 3),
            parameters=parameters_of(case.attack),
        )
