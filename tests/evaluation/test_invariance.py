"""The same images come to the same end, bit for bit, whatever company they are evaluated in."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import scenario
from memory_defense.attacks import Pgd
from memory_defense.evaluation import store
from memory_defense.evaluation.robustness import Conduct
from memory_defense.tensorfiles import read_tensors

TESTS = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
SCRIPT = str(TESTS / "evaluation" / "scenario.py")


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    found = scenario.outcomes(scenario.run())
    robust = found["ball 0 robust"].float().mean()
    assert 0.05 < robust < 0.85, "an outcome that is the same for every image would prove nothing"
    return found


def same(found: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> None:
    assert found.keys() == reference.keys()
    for name, tensor in reference.items():
        assert torch.equal(found[name], tensor), name


@settings(max_examples=3, deadline=None)
@given(
    order=st.permutations(range(scenario.IMAGES)),
    chunk=st.sampled_from([1, 7, 13, 128]),
    micro_batch=st.sampled_from([1, 7, 16, 128]),
)
def test_order_chunk_and_micro_batch(reference, order, chunk, micro_batch) -> None:
    conduct = Conduct(chunk=chunk, micro_batch=micro_batch)
    same(scenario.outcomes(scenario.run(torch.tensor(order), conduct)), reference)


@pytest.mark.parametrize(("chunk", "micro_batch"), [(1, 1), (7, 7), (128, 128)])
def test_batches_of_1_7_and_128(reference, chunk, micro_batch) -> None:
    same(scenario.outcomes(scenario.run(conduct=Conduct(chunk=chunk, micro_batch=micro_batch))), reference)


def test_two_processes_equal_one(reference, tmp_path) -> None:
    out = tmp_path / "out.safetensors"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", SCRIPT]
    subprocess.run(
        [*command, out, tmp_path / "state"], env=ENVIRONMENT, check=True, timeout=120, capture_output=True
    )
    same(read_tensors(out)[0], reference)
    assert not list(tmp_path.glob("state*")), "nothing to go on from is left behind"


def test_killed_at_any_moment_it_goes_on_to_the_same_end(reference, tmp_path) -> None:
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
    same(read_tensors(out)[0], reference)
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
        scenario.evaluate(defense, images, labels, cases, seed=3, conduct=Conduct(resume_at=path))
    assert path.exists()
    with pytest.raises(ValueError, match="another evaluation"):
        scenario.evaluate(defense, images, labels, cases, seed=4, conduct=Conduct(resume_at=path))
    with torch.no_grad():
        next(defense.parameters()).add_(1e-6)
    with pytest.raises(ValueError, match="another evaluation"):
        scenario.evaluate(defense, images, labels, cases, seed=3, conduct=Conduct(resume_at=path))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="whole safetensors"):
        scenario.evaluate(defense, images, labels, cases, seed=3, conduct=Conduct(resume_at=path))


class StopAt:
    """A progress that presses Ctrl-C once it was told so often."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def begin(self, what: str, total: int) -> None:
        pass

    def advance(self, steps: int, text: str = "") -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        pass


def test_stopped_after_a_chunk_nothing_is_lost(tmp_path) -> None:
    path = tmp_path / "state"
    defense, images, labels = scenario.problem()
    handed_in = []

    def counted(model, points, labels, ball, draws):
        handed_in.append(len(points))
        return Pgd(steps=3)(model, points, labels, ball, draws)

    cases = scenario.cases()[:1]
    object.__setattr__(cases[0], "attack", scenario.Slowly(attack=counted))
    conduct = Conduct(resume_at=path, chunk=8)
    with pytest.raises(KeyboardInterrupt):
        scenario.evaluate(defense, images, labels, cases, seed=3, conduct=conduct, progress=StopAt(2))
    assert handed_in == [8, 8]
    whole = scenario.evaluate(defense, images, labels, cases, seed=3, conduct=conduct)
    assert sum(handed_in) == int(whole.correct.sum()), "no image was attacked twice"
    assert not path.exists()
