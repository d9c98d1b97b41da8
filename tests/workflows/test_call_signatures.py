"""Whatever a caller hands to `evaluate`: the record of the same problem, or one error before anything ran."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

import memory_defense
from generated import examples
from memory_defense.evaluation.attempt import CaseRunner
from memory_defense.evaluation.record import Record
from workflows import callers
from workflows.callers import Form, Problem

LIMIT = re.compile(
    "expected|must|but |at least|known:|has no|unknown|cannot|there are|NaN|does not|which |asks for|channels last|"
    "without values",
    re.I,
)
REMEDY = re.compile(
    r"\b(use|give|write|such as|make|choose|gather|build|read|return|number|did you mean|known|load|call|see|wrap|"
    r"become|remove|undo|clip|export|expected|let|add|divided|look for|one row|bring)\b",
    re.I,
)
ABOUT = re.compile(
    "epsilon|images?|labels|pixels|model|norm|[oO]ptions?|attack|seed|batch_size|chunk|ids|device|submissions|progress|"
    "resume|bfloat16|defense|dataset|weights_sha256|notes|start_from"
)

_DIMENSIONS = ("model", "images", "labels", "epsilon", "norm", "attacks", "options")


def forms(dimension: str) -> dict[str, Form]:
    """Return the forms of one dimension."""
    return callers.model_forms() if dimension == "model" else getattr(callers, dimension.upper())


@st.composite
def signatures(draw: st.DrawFn) -> dict[str, str]:
    """Return a name in each dimension; at most one of them is refused."""
    odd = draw(st.none() | st.sampled_from(_DIMENSIONS))
    chosen = {
        one: draw(st.sampled_from([name for name, form in forms(one).items() if form.taken == (one != odd)]))
        for one in _DIMENSIONS
    }
    return chosen | {"modes": draw(st.sampled_from(list(callers.MODES))), "count": draw(st.sampled_from("136"))}


@contextmanager
def counted_attempts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Run a block and list the attacks that ran in it."""
    ran: list[str] = []
    original = CaseRunner.run

    def run(self: CaseRunner, case: Any, *rest: Any) -> Any:
        ran.append(case.name)
        return original(self, case, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(CaseRunner, "run", run)
        yield ran


@functools.cache
def canonical(model: str, images: str, epsilon: str, norm: str, attacks: str, count: int) -> Record:
    """Return the record of the canonical problem, made of float32 tensors and Python's numbers."""
    problem, same = Problem.of(count), callers.IMAGES[images].same
    return memory_defense.evaluate(
        callers.model_forms()[model].same,
        problem.images if same is None else same(problem.images),
        problem.labels,
        epsilon=[float(one) for one in sorted(callers.EPSILON[epsilon].same)],
        norm=callers.NORM[norm].same or "linf",
        attacks=callers.ATTACKS[attacks].same or "fgsm",
    )


def told(error: ValueError) -> None:
    """Check that a message names what came, the limit and a remedy, in one line."""
    text = str(error)
    assert ABOUT.search(text), text
    assert LIMIT.search(text), text
    assert REMEDY.search(text), text
    assert "\n" not in text, text
    assert len(text) < 700, text


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Several forms are deprecated in torch, and people have them all the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check(chosen: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Evaluate what was chosen and hold it against the canonical record, or the rules for a refusal."""
    warnings.simplefilter("ignore")
    count = int(chosen["count"])
    problem, form = Problem.of(count), {one: forms(one)[chosen[one]] for one in _DIMENSIONS}
    refused = [one for one in _DIMENSIONS if not form[one].taken]
    images, labels = form["images"].make(problem.images), form["labels"].make(problem.labels)
    before, error = problem.images.clone(), None
    with counted_attempts(monkeypatch) as ran, callers.MODES[chosen["modes"]]():
        try:
            found = memory_defense.evaluate(
                form["model"].make(None),
                images,
                labels,
                epsilon=form["epsilon"].make(None),
                norm=form["norm"].make(None),
                attacks=form["attacks"].make(None),
                options=form["options"].make(count),
            )
        except ValueError as one:
            found, error = None, one
    assert (found is None) == bool(refused), f"{chosen}: {error or 'was taken'}"
    if found is None:
        assert error is not None
        told(error)
        assert not ran
        return f"refused: {refused[0]}"
    assert torch.equal(problem.images, before), "the caller's images are as they were"
    expected = canonical(*(chosen[one] for one in ("model", "images", "epsilon", "norm", "attacks")), count)
    assert found.images == count
    assert found.clean == expected.clean
    assert found.worst_case == expected.worst_case
    return f"taken: {chosen['modes']}"


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=signatures())
def test_a_right_record_or_one_error_before_anything_ran(chosen: dict[str, str], monkeypatch) -> None:
    assume(not ("largest norm" in chosen["epsilon"] and chosen["norm"] == "l2"))
    event(check(chosen, monkeypatch))


def test_every_form_alone(monkeypatch) -> None:
    """Each form, with everything else canonical: none is left to chance."""
    plain = {"model": "module", "images": "tensor", "labels": "int64", "epsilon": "number", "norm": "linf",
             "attacks": "fgsm", "options": "none", "modes": "plain", "count": "6"}  # fmt: skip
    for dimension in _DIMENSIONS:
        for name in forms(dimension):
            check(plain | {dimension: name}, monkeypatch)
    for mode in callers.MODES:
        check(plain | {"modes": mode}, monkeypatch)
