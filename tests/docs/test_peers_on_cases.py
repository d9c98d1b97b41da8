"""The comparison on cases: its rules, its oracle, and what was written down; no toolkit is asked here."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield
    for name in [one for one in sys.modules if one == "cases" or one.startswith("cases.")]:
        del sys.modules[name]


def document() -> dict[str, Any]:
    return json.loads((ROOT / "docs/results/cases.json").read_text(encoding="utf-8"))


def _raises() -> None:
    raise ValueError("labels have shape (24, 1)")


def _breaks() -> None:
    raise IndexError("index -3 is out of bounds")


def _warns_and_breaks() -> None:
    os.write(2, b"only 2 classes: give one label an image\n")
    raise IndexError("index -3 is out of bounds")


def _warns_and_answers() -> float:
    os.write(2, b"one label was not understood\n")
    return 0.25


@pytest.mark.parametrize(
    ("call", "verdict"),
    [
        (lambda: 0.5, "RIGHT"),
        (lambda: 0.25, "WRONG"),
        (_warns_and_answers, "SAID"),
        (_raises, "HELPS"),
        (_warns_and_breaks, "HELPS"),
        (_breaks, "TRACEBACK"),
    ],
)
def test_a_verdict_follows_from_what_happened(call: Callable[[], Any], verdict: str) -> None:
    observe = import_module("cases.observe")
    rule = observe.Rule(right=lambda got: got == 0.5, helps=r"\blabels?\b")
    assert observe.judged("", observe.watch(call), rule).verdict is observe.Verdict[verdict]


def test_advice_that_gives_something_wrong_is_no_help() -> None:
    observe, values = import_module("cases.observe"), import_module("cases.values")
    labels = torch.tensor([0, 1, 2, 0])
    column = labels[:, None]
    assert not values._advised("use labels.argmax(1)", column, labels)
    assert values._advised("use labels.squeeze(1)", column, labels)
    rule = observe.Rule(right=bool, helps="shape", advice_works=lambda text: "squeeze" in text)
    seen = observe.watch(_raises)
    assert observe.judged("", seen, rule).verdict is observe.Verdict.MISLEADS


def test_of_several_ways_of_asking_the_worst_counts() -> None:
    observe = import_module("cases.observe")
    forms = [observe.Observation(str(one), one, "") for one in observe.Verdict if one is not observe.Verdict.ABSENT]
    assert observe.worst(forms).verdict is observe.Verdict.WRONG
    assert observe.worst(forms[:2]).verdict is observe.Verdict.HELPS


@pytest.mark.parametrize("classes", [2, 3])
def test_the_oracle_of_a_linear_net_is_what_its_corners_say(classes: int) -> None:
    """The corners of the ball towards the other classes break as many images as the closed form says."""
    toy = import_module("cases.toy")
    net, images, labels, epsilon, exact = toy.linear_problem(classes, count=12)
    weight, fooled = net.weight.detach(), torch.zeros(len(images), dtype=torch.bool)
    with torch.no_grad():
        assert net(images).argmax(1).equal(labels)
        for other in range(classes):
            corners = images + epsilon * (weight[other] - weight[labels]).sign().reshape(images.shape)
            assert float(corners.min()) >= 0
            assert float(corners.max()) <= 1, "the ball is not cut by [0, 1]"
            fooled |= net(corners).argmax(1) != labels
    assert 1 - float(fooled.double().mean()) == exact == 0.5


def test_every_case_was_asked_of_every_toolkit_and_its_verdict_is_the_worst_of_its_ways() -> None:
    observe, found = import_module("cases.observe"), document()
    assert len({case["name"] for case in found["cases"]}) == len(found["cases"]) == 19
    assert set(found["versions"]) == set(import_module("cases.toolkits").PACKAGES)
    for case in found["cases"]:
        assert set(case["toolkits"]) == set(found["versions"]), case["name"]
        for toolkit, answer in case["toolkits"].items():
            forms = [observe.Verdict(form["verdict"]) for form in answer["forms"]]
            assert answer["verdict"] == max(forms, key=observe.ORDER.index), (case["name"], toolkit)
            assert all(form["observed"] for form in answer["forms"]), (case["name"], toolkit)


def test_the_page_explains_every_verdict_and_shows_every_answer() -> None:
    """That the tables are those of the file is tested with the other filled pages."""
    page, found = (ROOT / "docs/peers-on-cases.md").read_text(encoding="utf-8"), document()
    for verdict in import_module("cases.observe").Verdict:
        assert f"\n| {verdict} |" in page, "explained"
        assert f" | {verdict} |" in page[: page.index("## What the verdicts mean")], "counted"
    for case in found["cases"]:
        assert f"### {case['name']}\n" in page
        for name, version in found["versions"].items():
            assert f"{name} {version}" in page
