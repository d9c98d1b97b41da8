"""Records of several systems beside each other: what they share, how they differ, and whether that says anything.

Where two records judged the same images (the same dataset, positions and labels), and the file of every image lies
beside each, differences are paired, image by image, which tells much smaller ones from chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TypeAlias, cast

from memory_defense.evaluation.balls import BallKey, ball_key, table_worst_cases
from memory_defense.evaluation.naming import names_of
from memory_defense.evaluation.proportions import Difference, paired_difference, unpaired_difference
from memory_defense.evaluation.record import Accuracy, Record
from memory_defense.evaluation.verdicts import Verdicts, verdicts_of

NORMS = ("linf", "l2")

Right: TypeAlias = Callable[[Verdicts], "list[bool] | None"]
"""Which images of a record are right, in one sense; None where that was not asked."""


@dataclass(frozen=True)
class Measure:
    """One number of every record: clean accuracy, or the worst case in one ball."""

    ball: BallKey | None
    """None for clean images."""
    shares: tuple[Accuracy | None, ...]
    """One for each record; None where it was not measured."""
    differences: tuple[Difference | None, ...]
    """Each record's share less the first one's; None for the first, and where one of the two is not known."""


@dataclass(frozen=True)
class Comparison:
    """Several records beside each other; the first is the one that the others are compared with."""

    names: tuple[str, ...]
    records: tuple[Record, ...]
    measures: tuple[Measure, ...]
    """Clean, then every ball that at least two records have."""
    pairing: tuple[str, ...]
    """For each record but the first, a sentence: on which images the difference was taken."""
    differing: tuple[str, ...]
    """A line for whatever else is not alike: attacks, audit, images, settings, radii."""

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return cast("str", import_module("memory_defense").comparison_html(self))


def compare(*records: Record, names: Sequence[str] | None = None) -> Comparison:
    """Lay records of several systems beside each other.

    Parameters
    ----------
    records
        At least two; the others are compared with the first. Those that were read from a file, or written to one,
        are compared image by image where they judged the same images.
    names
        What each is called; by default the name that it was given.

    Returns
    -------
    Comparison
        Notebooks show it as a table; `reporting.comparison` writes it for the terminal, as Markdown and as a page.

    Raises
    ------
    ValueError
        For fewer than two records, or another number of names.
    """
    if len(records) < 2:
        raise ValueError(f"a comparison needs at least 2 records, but {len(records)} came; give another")
    if names is not None and len(names) != len(records):
        raise ValueError(f"names has {len(names)} names for {len(records)} records; give one for each, or None")
    called = tuple(names) if names is not None else names_of(records)
    judged = [_judged(record) for record in records]
    pairs = [_pair(records[0], judged[0], *other) for other in zip(records[1:], judged[1:], strict=True)]
    return Comparison(
        names=called,
        records=records,
        measures=_measures(records, judged, [rows for rows, _ in pairs]),
        pairing=tuple(f"{name}: {why}" for name, (_, why) in zip(called[1:], pairs, strict=True)),
        differing=tuple(_differing(called, records)),
    )


Rows: TypeAlias = tuple[list[int], list[int]]
"""Places of the images that two records share, in the one and in the other."""


def _judged(record: Record) -> Verdicts | str:
    """Return what became of every image, or why that is not known."""
    try:
        return verdicts_of(record)
    except ValueError as error:
        return str(error)


def _pair(first: Record, ours: Verdicts | str, second: Record, theirs: Verdicts | str) -> tuple[Rows | None, str]:
    """Return the places of the images that two records share, and a sentence about them."""
    unpaired = "the difference is taken as of different images"
    for found in (ours, theirs):
        if isinstance(found, str):
            return None, f"{unpaired}, as the file of every image is not there for both"
    assert isinstance(ours, Verdicts)
    assert isinstance(theirs, Verdicts)
    if first.dataset != second.dataset:
        return None, f"{unpaired}: one has {first.dataset!r}, the other {second.dataset!r}"
    places = {position: place for place, position in enumerate(theirs.ids)}
    shared = [(place, places[position]) for place, position in enumerate(ours.ids) if position in places]
    if not shared:
        return None, f"{unpaired}, as no image was judged by both"
    if any(ours.labels[here] != theirs.labels[there] for here, there in shared):
        return None, f"{unpaired}, as the labels of images with the same position differ"
    said = f"the difference is paired, on {len(shared):,} images that both judged"
    left = max(first.images, second.images) - len(shared)
    rows = [here for here, _ in shared], [there for _, there in shared]
    return rows, said + (f" ({left:,} were judged by one of them only)" if left else "")


def _measures(
    records: Sequence[Record], judged: Sequence[Verdicts | str], pairs: Sequence[Rows | None]
) -> tuple[Measure, ...]:
    def measure(ball: BallKey | None, share: Callable[[Record], Accuracy | None], right: Right) -> Measure:
        shares = tuple(share(record) for record in records)
        differences: list[Difference | None] = [None]
        for place, rows in enumerate(pairs, start=1):
            found = None if rows is None else _paired(judged[0], judged[place], rows, right)
            known = shares[0] is not None and shares[place] is not None
            differences.append((found or _unpaired(records, shares, place)) if known else None)
        return Measure(ball, shares, tuple(differences))

    measures = [measure(None, lambda record: record.clean, _right_when_clean)]
    tabled = [{ball_key(one): one.measured for one in table_worst_cases(record)} for record in records]
    common = {ball for balls in tabled for ball in balls if sum(ball in other for other in tabled) > 1}
    for ball in sorted(common, key=lambda one: (NORMS.index(one[0]) if one[0] in NORMS else len(NORMS), one)):
        by_record = {id(record): balls.get(ball) for record, balls in zip(records, tabled, strict=True)}
        measures.append(measure(ball, lambda record, known=by_record: known[id(record)], _standing_in(ball)))
    return tuple(measures)


def _right_when_clean(verdicts: Verdicts) -> list[bool]:
    return [label == answer for label, answer in zip(verdicts.labels, verdicts.predictions, strict=True)]


def _standing_in(ball: BallKey) -> Right:
    def standing(verdicts: Verdicts) -> list[bool] | None:
        return next((one.standing for one in verdicts.balls if (one.norm, round(one.epsilon, 7)) == ball), None)

    return standing


def _paired(ours: Verdicts | str, theirs: Verdicts | str, rows: Rows, right: Right) -> Difference | None:
    """Return the second's share less the first's on the images that both judged; None where it is not known."""
    assert isinstance(ours, Verdicts)
    assert isinstance(theirs, Verdicts)
    first, second = right(ours), right(theirs)
    if first is None or second is None:
        return None
    pairs = [(second[there], first[here]) for here, there in zip(*rows, strict=True)]
    counts = [pairs.count(one) for one in ((True, True), (True, False), (False, True), (False, False))]
    return paired_difference(*counts)


def _unpaired(records: Sequence[Record], shares: Sequence[Accuracy | None], place: int) -> Difference:
    first, second = shares[0], shares[place]
    assert first is not None
    assert second is not None
    ours, theirs = records[0].images, records[place].images
    return unpaired_difference((round(second.accuracy * theirs), theirs), (round(first.accuracy * ours), ours))


def _differing(names: Sequence[str], records: Sequence[Record]) -> list[str]:
    said = [
        _line("attacks", names, [_attacks(record) for record in records]),
        _line("balls", names, [_balls(record) for record in records]),
        _line("audit", names, [_audit(record) for record in records]),
        _line("images", names, [f"{record.images:,} of {record.dataset}" for record in records]),
        _line("settings", names, [_settings(record) for record in records]),
        _line("version", names, [f"{record.provenance.version}, {record.provenance.git}" for record in records]),
    ]
    return [line for line in said if line]


def _line(what: str, names: Sequence[str], said: Sequence[str]) -> str:
    """Return one line where the records differ, those that agree named together; empty where all agree."""
    if len(set(said)) == 1:
        return ""
    groups: dict[str, list[str]] = {}
    for name, text in zip(names, said, strict=True):
        groups.setdefault(text, []).append(name)
    return f"{what}: " + "; ".join(f"{' and '.join(whose)}: {text}" for text, whose in groups.items())


def _attacks(record: Record) -> str:
    stages = [stage for cascade in record.cascades for stage in cascade.stages]
    tried = dict.fromkeys(one.attack for one in (*record.attacks, *stages) if one.tried != 0)
    return ", ".join(tried) or "none"


def _balls(record: Record) -> str:
    return ", ".join(f"{one.norm} {one.epsilon:.4g}" for one in table_worst_cases(record)) or "none"


def _audit(record: Record) -> str:
    failed = [f"“{line.check}”" for line in record.audit if line.verdict == "fail"]
    skipped = sum(line.verdict == "not run" for line in record.audit)
    if not record.audit:
        return "no check was run"
    return f"{', '.join(failed) + ' failed' if failed else 'none failed'}, {skipped} not run"


def _settings(record: Record) -> str:
    asked = "once" if record.submissions == 1 else f"{record.submissions} times"
    gradients = "bfloat16" if record.bfloat16 else "float32"
    return f"seed {record.provenance.seed}, each image submitted {asked}, gradients in {gradients}"
