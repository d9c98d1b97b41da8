"""Whether the numbers of a record can all be true at once; torch is not needed.

A share of images is a whole number of them; its interval follows from it. No attack leaves more images than are
right when clean, and none leaves fewer in a ball than the worst case in that ball, or in a larger one of its norm.
What a cascade's stages broke first adds up to no more than what is broken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

_CLOSE = 1e-6
_Z = NormalDist().inv_cdf(0.975)
_SELECTION = (
    "clean_right_accepted",
    "clean_right_flagged",
    "clean_wrong_accepted",
    "wrong_accepted",
    "robust",
    "flagged",
    "flagged_near",
)


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share (Wilson 1927)."""
    share, square = hits / total, _Z * _Z
    centre = (share + square / (2 * total)) / (1 + square / total)
    half = _Z * math.sqrt(share * (1 - share) / total + square / (4 * total * total)) / (1 + square / total)
    return max(0.0, centre - half), min(1.0, centre + half)


def contradiction(record: Mapping[str, Any]) -> str:
    """Return the first thing that a record, as JSON, says and cannot be; empty where all of it can be true."""
    try:
        return next(_contradictions(record), "")
    except OverflowError:
        return "its numbers are too large to count anything"


def _contradictions(record: Mapping[str, Any]) -> Iterator[str]:
    for where, share, images in _shares(record):
        hits = round(share["accuracy"] * images)
        if abs(share["accuracy"] * images - hits) > _CLOSE * images:
            yield f"{where}.accuracy is {share['accuracy']!r}, which is not a whole number of {images} images"
        expected = wilson(hits, images)
        if any(abs(said - true) > _CLOSE for said, true in zip(share["ci95"], expected, strict=True)):
            low, high = expected
            yield f"{where}.ci95 is {share['ci95']}, but {hits} of {images} images give [{low:.6f}, {high:.6f}]"
    yield from _orders(record)
    for number, one in enumerate(record["attacks"]):
        yield from _counts(f"attacks.{number}", one)
        distance, epsilon = one["median_distance"], one["epsilon"]
        if distance is not None and not 0 <= distance <= epsilon * (1 + 1e-3) + _CLOSE:
            yield f"attacks.{number}.median_distance is {distance}, outside its ball of radius {epsilon}"
    for number, one in enumerate(record["cascades"]):
        yield from _cascade(f"cascades.{number}", one, record)


def _shares(record: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], int]]:
    """Yield every accuracy with its place, and the number of images that it is a share of."""
    images = record["images"]
    yield "clean", record["clean"], images
    for number, one in enumerate(record["attacks"]):
        yield f"attacks.{number}", one, images
    for number, one in enumerate(record["worst_case"]):
        if one["accuracy"] is not None:  # else nothing was tried there
            yield f"worst_case.{number}", one, images
        if one["undetected"] is not None:
            yield f"worst_case.{number}.undetected", one["undetected"], images
    for number, one in enumerate(record.get("certified", ())):
        yield f"certified.{number}", one, one["images"]
        for name in ("right_or_flagged", "clean_accepted", "clean_wrong_accepted") if one["gate"] else ():
            yield f"certified.{number}.gate.{name}", one["gate"][name], one["images"]
    for number, one in enumerate(record.get("selection", ())):
        for name in _SELECTION:
            yield f"selection.{number}.{name}", one[name], images
    for number, one in enumerate(record["detection"]):
        for name in ("clean_flagged", "clean_right", "attacked_right"):
            yield f"detection.{number}.{name}", one[name], images
        for name in ("attacked", "fooled"):
            if one[name] is not None:
                yield f"detection.{number}.{name}.flagged", one[name]["flagged"], one[name]["images"]


def _orders(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is larger than something that it cannot be larger than."""
    yield from _certified_orders(record.get("certified", ()))
    for number, one in enumerate(record.get("selection", ())):
        yield from _selection_orders(f"selection.{number}", one, record["clean"]["accuracy"])
    clean = record["clean"]["accuracy"]
    for name in ("attacks", "worst_case"):
        for number, one in enumerate(record[name]):
            if one["accuracy"] is not None and one["accuracy"] > clean + _CLOSE:
                yield f"{name}.{number}.accuracy is {one['accuracy']}, more than the clean accuracy {clean}"
    balls = [(one["norm"], one["epsilon"]) for one in record["worst_case"]]
    for number, worst in enumerate(record["worst_case"]):
        if balls.index(balls[number]) < number:
            yield f"worst_case.{number} is about the ball {balls[number]} once more"
        if worst["tried"] is not None and worst["tried"] > round(clean * record["images"]):
            yield f"worst_case.{number}.tried is {worst['tried']}, more than are right when clean"
        if worst["accuracy"] is None:
            continue
        for name in ("attacks", "worst_case"):
            for other, one in enumerate(record[name]):
                inside = one["norm"] == worst["norm"] and one["epsilon"] <= worst["epsilon"]
                inside = inside and one["accuracy"] is not None
                if inside and worst["accuracy"] > one["accuracy"] + _CLOSE:
                    yield (
                        f"worst_case.{number}.accuracy is {worst['accuracy']}, more than {name}.{other} leaves "
                        f"({one['accuracy']}) in a ball that is not larger"
                    )
        flagged = worst["undetected"]
        if flagged is not None and not worst["accuracy"] - _CLOSE <= flagged["accuracy"] <= clean + _CLOSE:
            yield (
                f"worst_case.{number}.undetected is {flagged['accuracy']}, not between the worst case "
                f"{worst['accuracy']} and the clean accuracy {clean}"
            )


def _cascade(where: str, cascade: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[str]:
    ball = [cascade["norm"], cascade["epsilon"]]
    worst = next((one for one in record["worst_case"] if [one["norm"], one["epsilon"]] == ball), None)
    if worst is None:
        yield f"{where} is about the ball {ball}, which has no worst case"
        return
    images = record["images"]
    right = round(record["clean"]["accuracy"] * images)
    first = 0
    for number, stage in enumerate(cascade["stages"]):
        place = f"{where}.stages.{number}"
        yield from _counts(place, stage)
        if not 0 <= stage["first"] <= stage["fooled"] <= stage["tried"] <= right:
            yield (
                f"{place} has first {stage['first']}, fooled {stage['fooled']} and tried {stage['tried']}, which "
                f"must rise to at most the {right} images that are right when clean"
            )
        first += stage["first"]
    broken = 0 if worst["accuracy"] is None else right - round(worst["accuracy"] * images)
    if first > broken:
        yield f"{where}: its stages broke {first} images first, but {broken} of {images} are broken"


def _counts(where: str, one: Mapping[str, Any]) -> Iterator[str]:
    for name in ("forward_passes", "backward_passes", "seconds", "disagreements"):
        if one[name] < 0:
            yield f"{where}.{name} is {one[name]}, less than 0"


def _certified_orders(certified: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what is larger than something that it cannot be larger than, among certificates."""
    for number, one in enumerate(certified):
        where, gate = f"certified.{number}", one["gate"]
        for other in certified:
            same = all(one[name] == other[name] for name in ("method", "norm", "sigma", "n", "alpha", "images"))
            if same and other["epsilon"] < one["epsilon"] and other["accuracy"] < one["accuracy"] - _CLOSE:
                yield f"{where}.accuracy is {one['accuracy']}, more than within the smaller {other['epsilon']}"
        if gate is None:
            continue
        if gate["right_or_flagged"]["accuracy"] < one["accuracy"] - _CLOSE and gate["epsilon"] <= one["epsilon"]:
            yield f"{where}.gate.right_or_flagged is less than what is certified without a gate"
        parts = gate["right_or_flagged"]["accuracy"] + gate["clean_wrong_accepted"]["accuracy"]
        if abs(parts - gate["clean_accepted"]["accuracy"]) > _CLOSE:
            yield f"{where}.gate: what is accepted is neither right nor wrong for some images"


def _selection_orders(where: str, one: Mapping[str, Any], clean: float) -> Iterator[str]:
    """Yield what cannot be true of answer and flag together."""
    share = {name: one[name]["accuracy"] for name in _SELECTION}
    right = share["clean_right_accepted"] + share["clean_right_flagged"]
    if abs(right - clean) > _CLOSE:
        yield f"{where} has {right} right when clean, the record {clean}"
    larger = (
        ("clean_wrong_accepted", share["wrong_accepted"], "wrong_accepted"),
        ("robust", share["clean_right_accepted"], "clean_right_accepted"),
        ("robust", 1 - share["wrong_accepted"], "what is never wrong and accepted"),
        ("flagged", share["flagged_near"], "flagged_near"),
        ("flagged_near", 1 - share["wrong_accepted"], "what is never wrong and accepted"),
    )
    for name, most, what in larger:
        if share[name] > most + _CLOSE:
            yield f"{where}.{name} is {share[name]}, more than {what}, {most}"
    for at, loss in enumerate(one["losses"]):
        for name, flags in (("loss", "flagged"), ("loss_near", "flagged_near")):
            expected = share["wrong_accepted"] + loss["cost"] * share[flags]
            if abs(loss[name] - expected) > _CLOSE:
                yield f"{where}.losses.{at}.{name} is {loss[name]}, but its parts give {expected}"
