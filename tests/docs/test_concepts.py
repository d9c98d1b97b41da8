"""The examples of ``docs/concepts.md`` run in order, and show what the page says they show."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "concepts.md"


@pytest.fixture(scope="module")
def after() -> dict[str, Any]:
    """Return the names that the page's code leaves behind."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    scope: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec", dont_inherit=True), scope)
    return scope


def test_the_answer_is_the_slot(after) -> None:
    assert (after["defense"](after["images"]).argmax(1) == after["labels"]).all()
    assert after["repeated"] > 0.85


def test_the_papers_protocol_misses_what_the_selector_gives_away(after) -> None:
    left = {name: float(right.float().mean()) for name, right in after["survives"].items()}
    assert left["fixed-slots"] > 0.6
    assert left["selector"] < 0.2
    assert float(after["worst"].float().mean()) <= min(left.values())


def test_the_record_says_so(after) -> None:
    record = after["record"]
    assert record.worst_case[0].accuracy <= float(after["worst"].float().mean()) + 0.1
    assert any(line.check.startswith("slot-following") and line.verdict == "fail" for line in record.audit)


def test_the_threshold_flags_few_of_the_images_it_was_chosen_on(after) -> None:
    assert float(after["defense"].suspicious(after["images"]).float().mean()) <= 0.1
