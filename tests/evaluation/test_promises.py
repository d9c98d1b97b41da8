"""What an evaluation keeps with layers that round as other processors do, for each granule that they may need."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import rounding
from evaluation import scenario
from evaluation.helpers_evaluation import BrightnessDefense, Shift, grey
from memory_defense import passes
from memory_defense.evaluation import invariance, robustness
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.record import BatchInvariance
from memory_defense.evaluation.robustness import evaluate
from memory_defense.randomness import DRAWS
from memory_defense.tensorfiles import read_tensors
from memory_defense.threat import Linf


def test_the_evaluation_runs_in_the_granule_and_leaves_the_default() -> None:
    seen: set[int] = set()

    class Told(BrightnessDefense):
        def forward(self, images: Tensor) -> Tensor:
            seen.add(passes.granule())
            return super().forward(images) * (1 + 1e-7 * (len(images) < 16))

    levels = torch.tensor([0.3, 0.45, 0.7])
    case = Case(name="shift", attack=Shift(size=0.1), knowledge="end-to-end", ball=Linf(0.1))
    evaluation = evaluate(Told(), grey(levels.tolist()), (levels > 0.5).long(), [case], Options(seed=0))
    assert evaluation.batch_invariance == BatchInvariance(granule=16)
    assert seen == {8, 16}  # 8 while it is measured
    assert passes.granule() == 8


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


OTHERWISE = (Options(chunk=7, batch_size=13), Options(chunk=128, batch_size=100))
ORDER = torch.randperm(scenario.IMAGES, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize(("name", "granule"), [("small-batches", 16), ("blocks", 64)])
def test_an_evaluation_keeps_its_promise_in_a_larger_granule(name, granule, monkeypatch, tmp_path) -> None:
    with rounding.installed(name):
        whole = scenario.run()
        expected = scenario.outcomes(whole)
        assert whole.batch_invariance == BatchInvariance(granule=granule)
        assert all(same(scenario.outcomes(scenario.run(ORDER, one)), expected) for one in OTHERWISE)
        monkeypatch.setattr(robustness, "measured", lambda *_, **__: BatchInvariance(granule=8))
        by_luck = [same(scenario.outcomes(scenario.run(ORDER, one)), expected) for one in OTHERWISE]
        assert not all(by_luck), "in granules of 8 it would have been the same, so nothing was put to the test"
    out = tmp_path / "out.safetensors"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    tests = Path(__file__).parents[1]
    subprocess.run(
        [*command, tests / "evaluation" / "scenario.py", out, tmp_path / "state"],
        env={**os.environ, "PYTHONPATH": path(tests), "OMP_NUM_THREADS": "1", rounding.VARIABLE: name},
        check=True,
        timeout=300,
        capture_output=True,
    )
    assert same(read_tensors(out)[0], expected)


def test_a_state_of_another_granule_is_refused_and_the_usual_one_is_not_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(scenario.sys.modules[scenario.to_tensors.__module__], "SAVE_SECONDS", 0.0)
    options, state = Options(chunk=13), tmp_path / "state"

    def measuring(count: int | None) -> None:
        monkeypatch.setattr(robustness, "measured", lambda *_, **__: BatchInvariance(granule=count))

    measuring(16)
    with pytest.raises(KeyboardInterrupt):
        scenario.run(options=replace(options, progress=scenario.StopAt(2)), state_file=state)
    for other in (8, None):
        measuring(other)
        with pytest.raises(ValueError, match="rounds differently"):
            scenario.run(options=options, state_file=state)
    terms: list[str] = []
    fingerprint = robustness.fingerprint
    monkeypatch.setattr(robustness, "fingerprint", lambda *given: terms.append(given[-1]) or fingerprint(*given))
    for measured in (8, 16):
        measuring(measured)
        with pytest.raises(KeyboardInterrupt):
            scenario.run(options=Options(progress=scenario.StopAt(1)), state_file=tmp_path / str(measured))
    assert terms[0] == f"3 Submissions(count=1, rule='any') False 1 ('', None) {DRAWS}"
    assert terms[1] != terms[0]


def path(tests: Path) -> str:
    """The tests, before whatever this process was given."""
    return os.pathsep.join(filter(None, [str(tests), os.environ.get("PYTHONPATH")]))


def test_where_nothing_agrees_the_same_command_gives_the_same_end(monkeypatch, tmp_path) -> None:
    def clock(*_: object) -> int:
        raise AssertionError("a clock chose the micro-batch")

    monkeypatch.setattr(invariance, "fastest_micro_batch", clock)
    monkeypatch.setattr(scenario.sys.modules[scenario.to_tensors.__module__], "SAVE_SECONDS", 0.0)
    options, state = Options(chunk=7), tmp_path / "state"
    with rounding.installed("positions"):
        whole = scenario.run(ORDER, options)
        assert whole.batch_invariance == BatchInvariance(granule=None)
        expected = scenario.outcomes(whole)
        for calls in (2, 9, 14):
            with pytest.raises(KeyboardInterrupt):
                scenario.run(ORDER, replace(options, progress=scenario.StopAt(calls)), state_file=state)
            assert state.exists()
        assert same(scenario.outcomes(scenario.run(ORDER, options, state_file=state)), expected)
