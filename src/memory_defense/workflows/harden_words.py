"""What hardening gained and what it did not, in one paragraph whose every number stands in a record."""

from __future__ import annotations

from dataclasses import dataclass

from memory_defense.evaluation.record import Accuracy, DetectionResult, Record
from memory_defense.reporting.failures import failed_lines, failure


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Three evaluations of the same images with the same attacks, in one ball."""

    classifier: str
    """Name of the classifier as the user wrote it."""
    original: Record
    """Record of the classifier as it was: ``original.json`` in the run directory."""
    selector: Record
    """Record of the classifier that chooses the slots: ``selector.json``; `original` if it was not fine-tuned."""
    defense: Record
    """Record of the whole Memory Defense or the mixture, with its detection part: ``record.json``."""
    fine_tuned: bool
    mixed: bool
    """Whether the defense is the mixture of the classifier as it was and as it was fine-tuned."""
    flag_score: str
    """The score that the defense flags by; empty where it flags nothing."""
    remembers: bool = True
    """Whether a defense that is no mixture has a memory; else it is the fine-tuned classifier and nothing more."""


def paragraph(measured: Measured) -> str:
    """Return the paragraph: sentences whose verdicts follow from whether 95 % intervals overlap."""
    if measured.mixed:
        parts = [_fine_tuned(measured), _mixture(measured)]
    else:
        parts = [_gain(measured), _memory(measured)] if measured.remembers else [_fine_tuned(measured)]
    sentences = [_setting(measured), *parts]
    flagged = [one for one in measured.defense.detection if one.score == measured.flag_score]
    if flagged:
        sentences.append(_flag(measured, flagged))
    sentences.append(_caution(measured.defense))
    return " ".join(sentences)


def shown(one: Accuracy) -> str:
    """Return an accuracy in percent with its interval."""
    low, high = (f"{100 * bound:.1f}" for bound in one.ci95)
    return f"{100 * one.accuracy:.1f} % ({low} to {high})"


def apart(one: Accuracy, other: Accuracy) -> int:
    """Return 1 where the first accuracy's interval lies above the other's, -1 where below, 0 where they overlap."""
    return int(one.ci95[0] > other.ci95[1]) - int(one.ci95[1] < other.ci95[0])


def with_flag(record: Record, results: list[DetectionResult]) -> Accuracy:
    """Return the least share of images that are right or flagged, under the cascade or one attack on the flag.

    An upper bound: the attacks together would find more than any of them, and only a few of them fight the flag.
    """
    found: list[Accuracy] = [
        Accuracy(accuracy=one.attacked_right.accuracy, ci95=one.attacked_right.ci95) for one in results
    ]
    undetected = record.worst_case[0].undetected
    return min([*found, *([undetected] if undetected else [])], key=lambda one: one.accuracy)


def _worst(record: Record) -> Accuracy | None:
    return record.worst_case[0].measured


def _in_the_worst_case(record: Record) -> str:
    worst = _worst(record)
    if worst is not None:
        return f"on {shown(worst)} in the worst case"
    why = "none of them was left to attack" if record.clean.accuracy == 0 else "no attack could run on them"
    return f"its worst case is not known, as {why}"


def _setting(measured: Measured) -> str:
    record = measured.original
    return (
        f"On {record.images:,} test images of {record.dataset}, attacked within "
        f"{_ball(record.worst_case[0].epsilon)}, {measured.classifier} as it was is right on "
        f"{shown(record.clean)} of the clean images and {_in_the_worst_case(record)}; "
        "brackets are 95 % intervals."
    )


def _gain(measured: Measured) -> str:
    how = "Fine-tuned adversarially and put" if measured.fine_tuned else "Put, untouched,"
    return f"{how} in front of the memory autoencoder, {_since(measured.original, measured.defense)}"


def _fine_tuned(measured: Measured) -> str:
    return f"Fine-tuned adversarially, alone, {_since(measured.original, measured.selector)}"


def _since(before: Record, after: Record) -> str:
    """Return the end of a sentence on what came of the classifier as it was, and at which price."""
    cost = after.clean.accuracy - before.clean.accuracy
    price = (
        f"clean accuracy fell by {-100 * cost:.1f} points"
        if cost < 0
        else f"clean accuracy rose by {100 * cost:.1f} points"
        if cost > 0
        else "clean accuracy stayed"
    )
    direction, verdict = _compared(
        _worst(after),
        _worst(before),
        "{} points of robustness were gained",
        "the intervals overlap, so no robustness was gained that these images could show",
        "{} points of robustness were lost",
    )
    joined = "but" if direction == 1 and cost < 0 else "and"
    return (
        f"it is right on {shown(after.clean)} of the clean images and {_in_the_worst_case(after)}: {verdict}, "
        f"{joined} {price}."
    )


def _mixture(measured: Measured) -> str:
    before, tuned, mixed = measured.original, measured.selector, measured.defense
    direction, clean = _compared(
        mixed.clean,
        tuned.clean,
        "{} points of clean accuracy came back",
        "the intervals overlap, so no clean accuracy came back that these images could show",
        "{} points of clean accuracy were lost on top",
    )
    if direction == 1:
        left = before.clean.accuracy - mixed.clean.accuracy
        clean += f", {100 * left:.1f} points short of what it was" if left > 0 else ", all that was lost"
    _, robust = _compared(
        _worst(mixed),
        _worst(tuned),
        "{} points of robustness were gained over the fine-tuned one",
        "the worst cases' intervals overlap, so no robustness was lost that these images could show",
        "{} points of the fine-tuned one's robustness were lost",
    )
    return (
        f"Mixed, the fine-tuned classifier and the one as it was are right on {shown(mixed.clean)} of the clean "
        f"images and {_in_the_worst_case(mixed)}: {clean}, and {robust}. (Measured on these images, clean accuracy "
        f"differs from the fine-tuned one's by {_signed(mixed.clean, tuned.clean)} points and the worst case by "
        f"{_signed(_worst(mixed), _worst(tuned))}.)"
    )


def _signed(one: Accuracy | None, other: Accuracy | None) -> str:
    return "an unknown number" if one is None or other is None else f"{100 * (one.accuracy - other.accuracy):+.1f}"


def _memory(measured: Measured) -> str:
    alone, whole = measured.selector, measured.defense
    name = "The fine-tuned classifier" if measured.fine_tuned else "The classifier"
    worst = _worst(alone)
    _, verdict = _compared(
        _worst(whole),
        worst,
        "the memory added {} points to that",
        "its interval and the defense's overlap, so the memory added no robustness that these images could show",
        "the memory cost {} points of that",
    )
    said = f"in the worst case, {shown(worst)}" if worst is not None else _in_the_worst_case(alone)
    return f"{name} alone, without memory, is right on {shown(alone.clean)} and, {said}: {verdict}."


def _compared(
    one: Accuracy | None, other: Accuracy | None, above: str, overlapping: str, below: str
) -> tuple[int, str]:
    """Return the order of two worst cases, see `apart`, and the verdict on it."""
    if one is None or other is None:
        return 0, "without both worst cases nothing can be said about robustness"
    direction = apart(one, other)
    return direction, {1: above.format(_points(one, other)), 0: overlapping, -1: below.format(_points(other, one))}[
        direction
    ]


def _flag(measured: Measured, results: list[DetectionResult]) -> str:
    one, without = results[0], _worst(measured.defense)
    together = with_flag(measured.defense, results)
    verdict = (
        "without a worst case nothing can be said about what the flag adds"
        if without is None
        else f"the flag may add up to {_points(together, without)} points, but fewer attacks were made for it"
        if apart(together, without) == 1
        else "the flag adds nothing that these images could show"
    )
    return (
        f"The flag, the {one.score} score above a threshold chosen on {one.calibration_images:,} held-out images "
        f"for {100 * one.false_alarms:.2g} % false alarms, calls {shown(one.clean_flagged)} of the clean test "
        f"images suspicious; where a flagged attack counts as caught, at most {shown(together)} of the images are "
        f"right or flagged, which is what the strongest way to attack them left: {verdict}."
    )


def _caution(record: Record) -> str:
    failed = failed_lines(record)
    audit = (
        f"Of the audit's checks of the defense {len(failed)} failed: read them before you trust these numbers. "
        f"What weighs most: {failure(failed[0])}"
        if failed
        else "The audit of the defense found nothing against these numbers."
    )
    return f"{audit} Stronger attacks can only lower the worst cases."


def _points(more: Accuracy, less: Accuracy) -> str:
    return f"{100 * (more.accuracy - less.accuracy):.1f}"


def _ball(epsilon: float) -> str:
    levels = 255 * epsilon
    text = f"{round(levels)}/255" if abs(levels - round(levels)) < 1e-6 else f"{epsilon:g}"
    return f"L-inf {text}"
