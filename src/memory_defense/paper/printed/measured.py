"""Base of the records of figures and timing: one JSON file each, from which figures and texts are rendered.

Accuracies are fractions, epsilon and distances are in pixel units of [0, 1], errors in their square, times seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from memory_defense.checksums import parted, sealed
from memory_defense.evaluation.record import Provenance
from memory_defense.files import write_text

SCHEMA = 1

Count = Annotated[int, Field(gt=0)]
Size = Annotated[float, Field(ge=0)]


class MeasuredPart(BaseModel):
    """Unknown keys are errors, values cannot be changed, NaN is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Measured(MeasuredPart):
    """The entries that every one of these files starts with."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = SCHEMA
    dataset: str
    scale: str
    provenance: Provenance

    def write(self, path: Path) -> None:
        """Write JSON with a checksum, atomically; long rows of whole numbers stand on one line."""
        write_text(path, _laid_out(sealed(self.model_dump(by_alias=True, mode="json"))) + "\n")

    def write_with(self, path: Path, **pages: str) -> list[Path]:
        """Write JSON to `path` and each page beside it, named by its ending; return all paths."""
        self.write(path)
        for kind, text in pages.items():
            write_text(path.with_suffix(f".{kind}"), text)
        return [path, *(path.with_suffix(f".{kind}") for kind in pages)]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read such a file; raise ValueError that names it and the first offending field, or its damage."""
        text, damage = parted(path.read_bytes())
        try:
            found = cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ValueError(
                f"{path} is not a {cls.__name__} of schema {SCHEMA} ({where}: {first['msg']}); make it again with "
                f"'memdef reproduce {cls.__name__.lower()}'"
            ) from error
        if damage:
            raise ValueError(f"{path} is damaged: {damage}")
        return found


def _laid_out(value: object, indent: int = 0) -> str:
    """Return JSON with an indent of 1, except that a list of plain numbers is one line."""
    inner, close = "\n" + " " * (indent + 1), "\n" + " " * indent
    if isinstance(value, dict) and value:
        pairs = cast("dict[str, object]", value).items()
        entries = [f"{json.dumps(key)}: {_laid_out(one, indent + 1)}" for key, one in pairs]
        return "{" + inner + ("," + inner).join(entries) + close + "}"
    if isinstance(value, list) and value:
        parts = cast("list[object]", value)
        if not all(isinstance(one, int | float) for one in parts):
            return "[" + inner + ("," + inner).join(_laid_out(one, indent + 1) for one in parts) + close + "]"
    return json.dumps(value, allow_nan=False, ensure_ascii=False)
