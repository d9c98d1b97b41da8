"""A state is continued by the evaluation that it belongs to, and by no other; weights alone do not say which."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import memory_defense
from faults.helpers_faults import memdef, refused, some_images
from faults.helpers_files import COUNT, Coded, Stops, evaluated, labels_of, stopped, timeless
from memory_defense import Options, answers
from memory_defense.evaluation import robustness
from memory_defense.evaluation.place import state_path
from memory_defense.randomness import generator
from memory_defense.tensorfiles import write_tensors

GOING_ON = "going on where the evaluation stopped"
TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the audit, which takes most of the time here and writes nothing."""
    monkeypatch.setattr("memory_defense.workflows.evaluate.audit", lambda *_, **__: ())


def third_larger(logits: torch.Tensor) -> torch.Tensor:
    """Move the class that is third, which changes no prediction and no lead."""
    third = logits.argsort(1, descending=True)[:, 2:3]
    return logits.scatter_add(
        1, third, 0.2 * (logits.sort(1, descending=True).values[:, 1:2] - logits.gather(1, third))
    )


MENDED = {
    "the normalisation was forgotten": Coded(lambda images: (images - 0.5) / 0.25),
    "another standard deviation": Coded(lambda images: images / 0.99),
    "a temperature": Coded(after=lambda logits: logits / 2),
    "only bright images": Coded(
        lambda images: torch.where(images.mean((1, 2, 3), keepdim=True) > 0.53, 0.5, images)
    ),
    "only a class that is neither first nor second": Coded(after=third_larger),
    "two classes in another order": Coded(after=lambda logits: logits[:, [1, 0, 2, 3, 4]]),
}


@pytest.mark.parametrize("mended", MENDED.values(), ids=MENDED.keys())
def test_a_model_that_answers_otherwise_is_refused_and_what_the_message_says_helps(tmp_path, mended) -> None:
    out = tmp_path / "r.json"
    stopped(Coded(), out)
    state = state_path(out)
    before = state.read_bytes()
    with pytest.raises(
        ValueError, match=r"gives other answers now, on .* of 24 clean images; remove it to start over"
    ):
        evaluated(mended, out)
    assert state.read_bytes() == before, "nothing is lost: the code may be brought back"
    assert not out.exists()
    state.unlink()
    assert timeless(evaluated(mended, out)) == timeless(evaluated(mended, tmp_path / "fresh" / "r.json"))


def test_the_same_model_goes_on_to_the_same_record(tmp_path) -> None:
    out, progress = tmp_path / "r.json", Stops()
    stopped(Coded(), out)
    record = evaluated(Coded(), out, progress)
    assert GOING_ON in progress.notes
    assert timeless(record) == timeless(evaluated(Coded(), tmp_path / "fresh" / "r.json"))


GLOBAL: dict[str, Any] = {"network": Coded().eval(), "scale": 1.0}


def plain(images: torch.Tensor) -> torch.Tensor:
    """Answer by a network and a number that nothing but a global name leads to."""
    return GLOBAL["network"](GLOBAL["scale"] * images)


def test_a_plain_function_around_a_global_network(tmp_path, monkeypatch) -> None:
    out = tmp_path / "r.json"
    stopped(plain, out)
    for name, other in {"scale": 0.9, "network": Coded(after=lambda logits: logits.flip(1)).eval()}.items():
        with monkeypatch.context() as patch:
            patch.setitem(GLOBAL, name, other)
            with pytest.raises(ValueError, match="gives other answers now"):
                evaluated(plain, out)
    progress = Stops()
    evaluated(plain, out, progress)
    assert GOING_ON in progress.notes


def rounded(images: torch.Tensor) -> torch.Tensor:
    """Move every pixel by what another processor's rounding might."""
    noise = torch.randn(64, generator=generator(0, "rounding")).view(1, 8, 8)
    return images * (1 + 1e-6 * noise)


def test_last_bits_are_no_other_model(tmp_path) -> None:
    out, progress = tmp_path / "r.json", Stops()
    stopped(Coded(), out)
    evaluated(Coded(rounded), out, progress)
    assert GOING_ON in progress.notes


def test_elsewhere_one_image_in_twenty_may_lie_between_two_answers(tmp_path, monkeypatch) -> None:
    """A purifier's grey level, say, which rounding decides; where the state was made that is another model."""

    def one_moved(images: torch.Tensor) -> torch.Tensor:
        return torch.where((images == some_images(COUNT)[7]).flatten(1).all(1)[:, None, None, None], 0.5, images)

    out, progress = tmp_path / "r.json", Stops()
    stopped(Coded(), out)
    with pytest.raises(ValueError, match="on 1 of 24 clean images"):
        evaluated(Coded(one_moved), out)
    monkeypatch.setattr(robustness, "made_on", lambda _: "another processor")
    evaluated(Coded(one_moved), out, progress)
    assert GOING_ON in progress.notes
    stopped(Coded(), out)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="gives other answers now"):
        evaluated(MENDED["the normalisation was forgotten"], out)


def test_a_model_with_a_generator_of_its_own_goes_on_with_a_word(tmp_path) -> None:
    """What it answers says nothing about whose the state is, and that is said."""
    own = torch.Generator().manual_seed(5)
    model = Coded(lambda images: images + 0.1 * torch.rand(images.shape, generator=own))
    out, progress = tmp_path / "r.json", Stops()
    stopped(model, out)
    evaluated(model, out, progress)
    assert any("draws at random, so its answers cannot tell" in one for one in progress.notes)


def test_one_that_draws_by_the_seed_is_known_by_its_answers(tmp_path) -> None:
    def noisy(by: float) -> Coded:
        return Coded(lambda images: images + by * torch.rand_like(images))

    out, progress = tmp_path / "r.json", Stops()
    stopped(noisy(0.1), out)
    with pytest.raises(ValueError, match="gives other answers now"):
        evaluated(noisy(0.4), out)
    evaluated(noisy(0.1), out, progress)
    assert progress.notes == [GOING_ON] or GOING_ON in progress.notes


def test_a_state_of_an_earlier_version_is_refused_until_it_is_removed_or_not_wanted(tmp_path) -> None:
    out = tmp_path / "r.json"
    earlier = tmp_path / "r.progress.safetensors"
    write_tensors(earlier, {"labels": torch.zeros(COUNT)}, {"fingerprint": "earlier"})
    before = earlier.read_bytes()
    with pytest.raises(
        ValueError, match=r"r\.progress\.safetensors was left by an earlier version.*finish it with"
    ):
        evaluated(Coded(), out)
    assert earlier.read_bytes() == before
    anew = Options(resume=False)
    memory_defense.evaluate(Coded(), some_images(COUNT), labels_of(Coded()), epsilon=0.02, out=out, options=anew)
    assert not earlier.exists(), "who starts again wants none of it"
    write_tensors(state_path(out), {"labels": torch.zeros(COUNT)}, {"fingerprint": "earlier"})
    with pytest.raises(ValueError, match=r"r\.progress\.log is not a log of this version"):
        evaluated(Coded(), out)


def test_the_command_line_says_the_same(tmp_path, monkeypatch) -> None:
    data = tmp_path / "images.safetensors"
    write_tensors(
        data, {"images": some_images(COUNT), "labels": labels_of(Coded())}, {"classes": '["a","b","c","d","e"]'}
    )
    out = tmp_path / "r.json"
    command = (
        "evaluate",
        "faults.helpers_files:Coded",
        "--data",
        data,
        "--epsilon",
        "0.02",
        "--attacks",
        "fgsm,pgd",
    )
    command = (*command, "--random-weights", "--out", out, "--threads", "1")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopping:
        stopping.setattr("memory_defense.workflows.evaluate.audit", interrupt)
        assert memdef(*command).status == 130
    with monkeypatch.context() as mending:
        forward = Coded.forward
        mending.setattr(Coded, "forward", lambda self, images: forward(self, (images - 0.5) / 0.25))
        refused(memdef(*command), str(state_path(out)), "gives other answers now", "remove it to start over")
    said = memdef(*command)
    assert said.status == 0, said
    assert GOING_ON in said.err


def test_under_several_ranks_every_one_refuses_where_one_does(tmp_path) -> None:
    """What was mended answers otherwise on a single image of the second rank; the first must not wait for it."""
    state = tmp_path / "state"

    def run(code: str, stop: int) -> list[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
        done = subprocess.run(
            [*command, Path(__file__).with_name("two_ranks.py"), state, code, str(stop)],
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        said = sorted(line for line in done.stdout.splitlines() if line.startswith("RANK"))
        assert len(said) == 2, done
        return said

    assert all("stopped" in said for said in run("same", 4))
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert sorted(kept) == ["state.rank-0", "state.rank-1"]
    assert all("gives other answers now" in said for said in run("some", 0))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == kept
    assert all(GOING_ON in said for said in run("same", 0))


@pytest.mark.parametrize("left", ["rank-0", "rank-1"])
def test_what_two_processes_left_is_not_passed_over_by_one(tmp_path, left) -> None:
    """It was, and at the end it was removed: what two processes had found in hours was lost."""
    out = tmp_path / "r.json"
    stopped(Coded(), out)
    kept = state_path(out).rename(state_path(out).with_name(f"{state_path(out).name}.{left}"))
    before = kept.read_bytes()
    with pytest.raises(ValueError, match=f"{left} was left by an evaluation in another number of processes; go on"):
        evaluated(Coded(), out)
    assert kept.read_bytes() == before
    assert not out.exists()
    anew = Options(resume=False)
    memory_defense.evaluate(Coded(), some_images(COUNT), labels_of(Coded()), epsilon=0.02, out=out, options=anew)
    assert out.exists()
    assert not kept.exists(), "who starts again wants none of it"


def difference(now: Any, then: Any, **more: Any) -> int:
    return answers.answered_otherwise(torch.tensor(now), torch.tensor(then), **more)


def test_what_counts_as_another_answer() -> None:
    logits = torch.tensor([[3.0, 1.0, -2.0], [0.5, 0.25, 0.125]])
    short = answers.in_short(logits)
    weights = torch.tensor([1.0, 2.0, 3.0]).cos()
    torch.testing.assert_close(short[:, 0], (logits * weights).sum(1))
    torch.testing.assert_close(short[:, 1], logits.norm(dim=1))
    same = short.tolist()
    assert difference(same, same, here=True) == 0
    assert difference((short * (1 + 1e-6)).tolist(), same, here=True) == 0
    assert difference((short * 1.001).tolist(), same, here=True) == 2
    assert difference((short * 1.001).tolist(), same, here=False) == 0
    assert difference((short * 1.5).tolist(), same, here=False) == 2
    assert difference(same[:1], same, here=False) == 2, "of other images"
    assert difference([[float("nan")] * 2] * 2, same, here=False) == 2
    many = answers.in_short(torch.randn(40, 3, generator=generator(0, "answers")))
    for moved, found in ((1, 0), (2, 0), (3, 3)):
        changed = many.clone()
        changed[:moved] += 5
        assert answers.answered_otherwise(changed, many, here=False) == found
        assert answers.answered_otherwise(changed, many, here=True) == moved
