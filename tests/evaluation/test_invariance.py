"""The same images come to the same end, bit for bit, whatever batch they are evaluated in, where that holds.

Whether it holds on the processor at hand is measured (`evaluation.invariance`, whose own tests know the answer for
layers made by hand). Where it does not, less is promised: the same command gives the same end, stopped or not.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import scenario
from memory_defense.attacks import Pgd
from memory_defense.evaluation import store
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.robustness import Evaluation
from memory_defense.tensorfiles import read_tensors

Outcomes = dict[str, torch.Tensor]

TESTS = Path(__file__).parents[1]
PATH = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
ENVIRONMENT = {**os.environ, "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1"}
SCRIPT = str(TESTS / "evaluation" / "scenario.py")


@pytest.fixture(scope="module")
def whole() -> Evaluation:
    return scenario.run()


@pytest.fixture(scope="module")
def reference(whole: Evaluation) -> Outcomes:
    found = scenario.outcomes(whole)
    robust = found["ball 0 robust"].float().mean()
    assert 0.05 < robust < 0.85, "an outcome that is the same for every image would prove nothing"
    return found


def same(found: Outcomes, reference: Outcomes) -> None:
    assert found.keys() == reference.keys()
    for name, tensor in reference.items():
        assert torch.equal(found[name], tensor), name


def promised(whole: Evaluation, otherwise: Options, order: torch.Tensor | None = None) -> Outcomes:
    """Return what an evaluation of these images, in this order and options, must come to."""
    holds = whole.batch_invariance.granule is not None
    return scenario.outcomes(whole if holds else scenario.run(order, otherwise))


@settings(max_examples=3, deadline=None)
@given(
    order=st.permutations(range(scenario.IMAGES)),
    chunk=st.sampled_from([1, 7, 13, 128]),
    batch_size=st.sampled_from([1, 7, 16, 128]),
)
def test_order_chunk_and_micro_batch(whole, reference, order, chunk, batch_size) -> None:
    rows, options = torch.tensor(order), Options(chunk=chunk, batch_size=batch_size)
    same(scenario.outcomes(scenario.run(rows, options)), promised(whole, options, rows))


@pytest.mark.parametrize(("chunk", "batch_size"), [(1, 1), (7, 7), (128, 128)])
def test_batches_of_1_7_and_128(whole, reference, chunk, batch_size) -> None:
    options = Options(chunk=chunk, batch_size=batch_size)
    same(scenario.outcomes(scenario.run(options=options)), promised(whole, options))


def test_another_order_and_batch_and_a_stop_in_short(whole, reference, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(store, "SAVE_SECONDS", 0.0)
    rows = torch.randperm(scenario.IMAGES, generator=torch.Generator().manual_seed(4))
    options = Options(chunk=13, batch_size=29)
    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        scenario.run(rows, replace(options, progress=scenario.StopAt(9)), state_file=state)
    assert state.exists()
    same(scenario.outcomes(scenario.run(rows, options, state_file=state)), promised(whole, options, rows))


def test_two_processes_equal_one(whole, reference, tmp_path) -> None:
    def in_two(out: Path) -> Outcomes:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", SCRIPT]
        subprocess.run(
            [*command, out, tmp_path / "state"], env=ENVIRONMENT, check=True, timeout=300, capture_output=True
        )
        return read_tensors(out)[0]

    found = in_two(tmp_path / "out.safetensors")
    holds = whole.batch_invariance.granule is not None
    same(found, reference if holds else in_two(tmp_path / "again.safetensors"))
    assert not list(tmp_path.glob("state*")), "nothing to go on from is left behind"


def test_killed_at_any_moment_it_goes_on_to_the_same_end(whole, reference, tmp_path) -> None:
    out, state = tmp_path / "out.safetensors", tmp_path / "state"
    chance = random.Random(5)
    kills = 0
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, SCRIPT, out, state, "0.1"], env=ENVIRONMENT, stderr=subprocess.PIPE
        )
        before = state.stat().st_mtime_ns if state.exists() else 0
        patience = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < patience:
            moved = state.exists() and state.stat().st_mtime_ns != before
            if moved and kills < 3:
                time.sleep(chance.uniform(0, 0.4))
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        if process.wait() == -signal.SIGKILL:
            kills += 1
        elif process.returncode == 0:
            break
        else:
            raise AssertionError(process.stderr.read().decode() if process.stderr else "no message")
    assert kills == 3
    same(read_tensors(out)[0], promised(whole, scenario.SCRIPT_OPTIONS))
    assert not state.exists()


def test_a_state_of_another_evaluation_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(store, "SAVE_SECONDS", 0.0)
    path = tmp_path / "state"
    defense, images, labels = scenario.problem()

    def stop(*_: object) -> torch.Tensor:
        raise KeyboardInterrupt

    cases = [*scenario.cases()[:1], scenario.cases()[1]]
    object.__setattr__(cases[1], "attack", scenario.Slowly(attack=stop))
    with pytest.raises(KeyboardInterrupt):
        scenario.evaluate(defense, images, labels, cases, Options(seed=3), state_file=path)
    assert path.exists()
    with pytest.raises(ValueError, match="another evaluation"):
        scenario.evaluate(defense, images, labels, cases, Options(seed=4), state_file=path)
    with torch.no_grad():
        next(defense.parameters()).add_(1e-6)
    with pytest.raises(ValueError, match="another evaluation"):
        scenario.evaluate(defense, images, labels, cases, Options(seed=3), state_file=path)
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        scenario.evaluate(defense, images, labels, cases, Options(seed=3), state_file=path)


def test_stopped_after_a_chunk_nothing_is_lost(tmp_path) -> None:
    path = tmp_path / "state"
    defense, images, labels = scenario.problem()
    handed_in = []

    def counted(model, points, labels, ball, draws):
        handed_in.append(len(points))
        return Pgd(steps=3)(model, points, labels, ball, draws)

    cases = scenario.cases()[:1]
    object.__setattr__(cases[0], "attack", scenario.Slowly(attack=counted))
    chosen = Options(seed=3, chunk=8)
    with pytest.raises(KeyboardInterrupt):
        scenario.evaluate(
            defense, images, labels, cases, replace(chosen, progress=scenario.StopAt(2)), state_file=path
        )
    assert handed_in == [8, 8]
    whole = scenario.evaluate(defense, images, labels, cases, chosen, state_file=path)
    assert sum(handed_in) == int(whole.correct.sum()), "no image was attacked twice"
    assert not path.exists()
