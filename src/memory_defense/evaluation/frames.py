"""A record as rows: one for each case, or one for each image. A data frame needs the extra 'records'."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from memory_defense.evaluation.verdicts import Value, verdicts_of
from memory_defense.names import check_name

if TYPE_CHECKING:
    from memory_defense.evaluation.record import Accuracy, Record

Row: TypeAlias = dict[str, Value]

EACH = ("case", "image")
"""What a row of a data frame may stand for."""

COLUMNS = (
    "kind",
    "attack",
    "knowledge",
    "norm",
    "epsilon",
    "accuracy",
    "ci95_low",
    "ci95_high",
    "tried",
    "fooled",
    "first",
    "median_distance",
    "forward_passes",
    "backward_passes",
    "seconds",
    "parameters",
    "note",
)
"""What is said of a case, behind the names of defense, recipe and dataset and the number of images."""


_COUNTS = ("tried", "fooled", "first", "forward_passes", "backward_passes", "predicted")
"""Columns of whole numbers that may be missing."""


def case_rows(record: Record) -> Iterator[Row]:
    """Yield one row for each case of a record, in long form.

    The kinds are ``clean``, ``attack`` and ``curve`` (every image was attacked), ``stage`` (of a cascade: it saw
    only what was still standing, so it has counts and no accuracy), ``worst case``, ``right or flagged`` and
    ``certified``. What a kind does not have is None.
    """
    shared: Row = {name: getattr(record, name) for name in ("defense", "recipe", "dataset", "images")}
    for found in _cases(record):
        yield {**shared, **{name: found.get(name) for name in COLUMNS}}


def _cases(record: Record) -> Iterator[Mapping[str, Any]]:
    yield {"kind": "clean", **_share(record.clean)}
    for one in record.attacks:
        kind = "curve" if one.parameters.get("purpose") == "curve" else "attack"
        yield {**one.model_dump(), "kind": kind, **_share(one), "parameters": json.dumps(one.parameters)}
    for cascade in record.cascades:
        ball = {"norm": cascade.norm, "epsilon": cascade.epsilon}
        for stage in cascade.stages:
            yield {**stage.model_dump(), **ball, "kind": "stage", "parameters": json.dumps(stage.parameters)}
    for worst in record.worst_case:
        ball = {"norm": worst.norm, "epsilon": worst.epsilon, "tried": worst.tried}
        yield {"kind": "worst case", **ball, **_share(worst.measured)}
        if worst.undetected is not None:
            yield {"kind": "right or flagged", **ball, **_share(worst.undetected)}
    for proof in record.certified:
        ball = {"norm": proof.norm, "epsilon": proof.epsilon, "seconds": proof.seconds}
        yield {"kind": "certified", "attack": proof.method, **ball, **_share(proof)}


def _share(accuracy: Accuracy | None) -> Row:
    low, high = (None, None) if accuracy is None else accuracy.ci95
    return {
        "accuracy": None if accuracy is None else accuracy.accuracy,
        "ci95_low": low,
        "ci95_high": high,
    }


def image_rows(record: Record) -> Iterator[Row]:
    """Yield one row for each image, those that were wrong or broken included; see `verdicts.Verdicts`."""
    return verdicts_of(record).rows(record)


def record_frame(record: Record, each: str = "case") -> Any:
    """Return a record as a data frame; see `Record.to_dataframe`.

    Raises
    ------
    ValueError
        For another `each`, without pandas, and where the file of every image is asked for and not there.
    """
    check_name(each, EACH, "row")
    return data_frame(case_rows(record) if each == "case" else image_rows(record))


def data_frame(rows: Iterable[Row]) -> Any:
    """Return rows as a `pandas.DataFrame`, whole numbers that may be missing as pandas' ``Int64``.

    Raises
    ------
    ValueError
        Without pandas; the text names the extra.
    """
    try:
        import pandas  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]
    except ImportError as error:
        raise ValueError(
            "a data frame needs pandas, which is not installed: pip install 'memory-defense[records]'"
        ) from error
    found: Any = pandas
    frame = found.DataFrame(list(rows))
    return frame.astype({name: "Int64" for name in _COUNTS if name in frame})
