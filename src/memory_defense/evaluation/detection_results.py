"""What a defense's scores are worth: against attacks that ignore its flag, and against attacks that fight it.

Every score is tried as the flag: its threshold comes from held-out clean images, and attacks that fight it fight
this very score and threshold. An attack is shown every image that is right when clean, not only those that others
left standing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from memory_defense.contracts import Adaptive, Attack, Ball, Defense, Flagging, Images, PerImage, Rows
from memory_defense.data.images import ImageSet
from memory_defense.evaluation.attempt import EXACT_KNOWLEDGE, CaseRunner
from memory_defense.evaluation.cases import Case, parameters_of
from memory_defense.evaluation.detection import accuracy_with_rejection, auroc, tpr_at_fpr
from memory_defense.evaluation.fitting import classes_of, fitted
from memory_defense.evaluation.flag import Flag, calibrate, flagging, score_images
from memory_defense.evaluation.metrics import accuracy, judged
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.record import DetectionResult, Separation
from memory_defense.evaluation.robustness import published
from memory_defense.evaluation.watch import described
from memory_defense.passes import bfloat16_gradients, micro_batches_of
from memory_defense.progress import during, stage
from memory_defense.randomness import seeded
from memory_defense.wrappers import frozen


@dataclass(frozen=True, kw_only=True)
class AttackedSet:
    """What one attack, or several, made of some images."""

    attack: str
    knowledge: str
    ball: Ball
    rows: Rows
    """(n,) positions of the clean images, all of them right when clean."""
    images: Images
    """(n, C, H, W) attacked images in [0, 1]."""
    fooled: PerImage
    """(n,) bool: the defense errs on the attacked image."""
    whole: bool = True
    """Whether every attacked image is here; else only those that fool the defense."""
    attack_object: Attack | None = None
    """Attack whose parameters the record shows; None if several made the set."""


def detect(
    defense: Defense,
    test: ImageSet,
    held_out: ImageSet,
    options: Options | None = None,
    *,
    attacks: Sequence[tuple[str, Attack, Ball]],
    false_alarms: float,
    found: Sequence[AttackedSet] = (),
) -> tuple[DetectionResult, ...]:
    """Return a result for every score and attack; the defense's own flag is as before afterwards.

    Parameters
    ----------
    defense
        With scores (`Flagging`), on the device of the images.
    test
        Only ever reported on: no threshold sees them.
    held_out
        Clean images that thresholds are chosen on.
    options
        Seed, batch size and so on; nothing is saved between attacks.
    attacks
        Name, attack and ball; each runs once ignoring the flag and once for every way to fight it.
    false_alarms
        Share of clean images that every score may flag, in (0, 1).
    found
        More attacked images, made without regard to the flag, such as a cascade's.

    Raises
    ------
    ValueError
        For a defense without scores or without an end-to-end surrogate, too few held-out images for the rate of
        false alarms, or an attack that returns NaN or leaves its ball.
    """
    if not isinstance(defense, Flagging):
        raise ValueError(
            f"{type(defense).__name__} publishes no scores, so it cannot detect anything; give it scores, "
            "flag_score, flag_threshold and suspicious (contracts.Flagging)"
        )
    chosen = options or Options()
    progress = chosen.progress
    with frozen(defense), micro_batches_of(chosen.batch_size), bfloat16_gradients(chosen.bfloat16):
        detection = _Detection(defense, defense, test, chosen)
        with stage(progress, "scoring the clean and the held-out images"):
            detection.judge()
            flags = [
                calibrate(defense, held_out, false_alarms=false_alarms, score=name, seed=chosen.seed)
                for name in detection.clean_scores
            ]
        if progress:
            ways = 1
            for flag in flags:
                with flagging(defense, flag):
                    ways += len(fighting(defense))
            progress.begin("attacking the flag", len(attacks) * ways)
        ignoring = [detection.attack(EXACT_KNOWLEDGE, *one) for one in attacks]
        results: list[DetectionResult] = []
        for flag in flags:
            with flagging(defense, flag):
                results += [detection.result(flag, one, fights=False) for one in (*found, *ignoring)]
                for known in fighting(defense):
                    results += [
                        detection.result(flag, detection.attack(known, *one), fights=True) for one in attacks
                    ]
    return tuple(results)


def fighting(defense: Defense) -> list[str]:
    """Return the names of the adaptations that fight the flag; none while there is no threshold."""
    if not isinstance(defense, Adaptive):
        return []
    return [name for name, one in defense.adaptive().items() if one.fights_flag]


@dataclass
class _Detection:
    """One defense and the test images it is tried on."""

    defense: Defense
    flagged: Flagging
    test: ImageSet
    options: Options

    def judge(self) -> None:
        """Score and judge the clean images."""
        self.images, self.labels = self.test.floats(), self.test.labels
        with seeded(self.options.seed, "clean judge"):
            self.correct = ~judged(self.defense, self.images, self.labels, self.options.repetitions)[0]
        self.clean_scores = score_images(self.flagged, self.images, seed=self.options.seed)

    def attack(self, knowledge: str, name: str, attack: Attack, ball: Ball) -> AttackedSet:
        """Attack every image that is right when clean."""
        wanted = Case(name=name, attack=attack, knowledge=knowledge, ball=ball)
        (case,) = fitted([wanted], classes_of(self.defense, self.images, seed=self.options.seed))
        surrogates = published(self.defense)
        if knowledge not in surrogates:
            raise ValueError(
                f"{type(self.defense).__name__} publishes no surrogate {knowledge!r} to attack its flag through"
            )
        runner = CaseRunner(defense=self.defense, options=self.options)
        rows = self.correct.nonzero().squeeze(1)
        with during(self.options.progress, f"{described(case)}, {len(rows):,} images"):
            attempts = [
                runner.run(case, surrogates[knowledge], self.images[part], self.labels[part], self.test.ids[part])
                for part in torch.split(rows, self.options.chunk)
                if len(part)
            ]
        if self.options.progress:
            self.options.progress.advance(1, f"{name}, {knowledge}")
        return AttackedSet(
            attack=name,
            knowledge=knowledge,
            ball=ball,
            rows=rows,
            images=torch.cat([self.images[:0], *(one.images for one in attempts)]),
            fooled=torch.cat([self.correct[:0], *(one.fooled for one in attempts)]),
            attack_object=case.attack,
        )

    def result(self, flag: Flag, attacked: AttackedSet, *, fights: bool) -> DetectionResult:
        """Compare one score on clean and attacked images."""
        clean = self.clean_scores[flag.score]
        scores = clean[:0]
        if len(attacked.rows):
            scores = score_images(self.flagged, attacked.images, seed=self.options.seed)[flag.score]
        clean_flagged = clean > flag.threshold
        ends_well = self.correct.clone()
        ends_well[attacked.rows] = accuracy_with_rejection(~attacked.fooled, scores > flag.threshold, attacked=True)
        return DetectionResult(
            attack=attacked.attack,
            knowledge=attacked.knowledge,
            norm=attacked.ball.norm,
            epsilon=attacked.ball.epsilon,
            fights_flag=fights,
            score=flag.score,
            false_alarms=flag.false_alarms,
            threshold=flag.threshold,
            calibration_images=flag.calibration_images,
            attacked=_separation(clean, scores, flag) if attacked.whole else None,
            fooled=_separation(clean, scores[attacked.fooled], flag),
            clean_flagged=accuracy(clean_flagged),
            clean_right=accuracy(accuracy_with_rejection(self.correct, clean_flagged, attacked=False)),
            attacked_right=accuracy(ends_well),
            parameters={} if attacked.attack_object is None else parameters_of(attacked.attack_object),
        )


def _separation(clean: PerImage, attacked: PerImage, flag: Flag) -> Separation | None:
    if len(attacked) == 0:
        return None
    return Separation(
        images=len(attacked),
        auroc=auroc(clean, attacked),
        tpr_at_1=tpr_at_fpr(clean, attacked, 0.01),
        tpr_at_5=tpr_at_fpr(clean, attacked, 0.05),
        flagged=accuracy(attacked > flag.threshold),
    )
