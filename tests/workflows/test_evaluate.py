"""Any classifier, from Python and from the command line: worst case, files beside the record, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import memory_defense
from memory_defense.attacks import Pgd
from memory_defense.attacks.suites import SUITES, parts_of
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.metrics import predict
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.replay import Replay
from memory_defense.evaluation.results import read_per_image
from memory_defense.evaluation.robustness import evaluate as robustness
from memory_defense.evaluation.store import fingerprint
from memory_defense.passes import fastest_micro_batch
from memory_defense.tensorfiles import write_tensors
from memory_defense.threat import Linf

NET = """
import torch
from torch import nn

def build(classes, channels, size):
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten(),
                         nn.Linear(4 * size * size, classes))
"""


def network() -> nn.Module:
    names: dict[str, object] = {}
    exec(NET, names)
    return names["build"](classes=5, channels=1, size=8)


def problem(count: int = 24) -> tuple[nn.Module, Tensor, Tensor]:
    model = network()
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return model, images, predict(model, images)


def test_the_record_and_every_image_are_there(tmp_path) -> None:
    model, images, labels = problem()
    out = tmp_path / "record.json"
    record = memory_defense.evaluate(model, images, labels, epsilon=[0.01, 0.03], out=out)
    assert Record.read(out) == record
    small, large = record.worst_case
    assert 0 < large.accuracy < small.accuracy < 1
    assert record.clean.accuracy == 1
    found = read_per_image(tmp_path / str(record.per_image))
    assert [one.ball.epsilon for one in found.broken] == [0.01, 0.03]
    for worst, broken in zip(record.worst_case, found.broken, strict=True):
        assert float(broken.robust.float().mean()) == pytest.approx(worst.accuracy)
        fallen = broken.breaker >= 0
        assert torch.equal(fallen, ~broken.robust)
        assert (predict(model, broken.images[fallen]) != labels[fallen]).all()
        assert broken.ball.contains(broken.images[fallen], images[fallen]).all()
        assert broken.images[~fallen].isnan().all()
    assert not list(tmp_path.glob("*progress*"))
    assert sum(stage.first for stage in record.cascades[1].stages) >= (small.accuracy - large.accuracy) * 24 - 1e-6


def test_an_evaluation_starts_from_an_earlier_ones_images(tmp_path) -> None:
    model, images, labels = problem()
    memory_defense.evaluate(model, images, labels, epsilon=0.03, out=tmp_path / "first.json")
    start = Options(start_from=tmp_path / "first.images.safetensors", ids=torch.arange(24))
    again = memory_defense.evaluate(model, images, labels, epsilon=0.03, attacks="fgsm", options=start)
    replay = again.cascades[0].stages[0]
    assert (replay.attack, replay.knowledge) == ("replay", "earlier")
    first = Record.read(tmp_path / "first.json")
    assert replay.first == round((1 - first.worst_case[0].accuracy) * 24)
    assert again.worst_case[0].accuracy <= first.worst_case[0].accuracy
    # In a smaller ball the images are moved in, which breaks fewer of them and never leaves the ball.
    inside = memory_defense.evaluate(model, images, labels, epsilon=0.01, attacks="fgsm", options=start)
    assert inside.cascades[0].stages[0].first <= replay.first


def test_images_of_others_are_not_mixed_up(tmp_path) -> None:
    model, images, labels = problem()
    memory_defense.evaluate(model, images, labels, epsilon=0.03, out=tmp_path / "first.json")
    start = Options(start_from=tmp_path / "first.images.safetensors", ids=torch.arange(24) + 100)
    record = memory_defense.evaluate(model, images, labels, epsilon=0.03, attacks="fgsm", options=start)
    assert record.cascades[0].stages[0].fooled == 0


@pytest.mark.parametrize("name", SUITES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_suite_has_parts_with_names_of_their_own(name, norm) -> None:
    parts = SUITES[name](norm)
    assert len({part.name for part in parts}) == len(parts)


def test_fast_is_not_weaker_than_standard_here() -> None:
    model, images, labels = problem(32)
    quick = memory_defense.evaluate(model, images, labels, epsilon=0.02, attacks="fast")
    slow = memory_defense.evaluate(model, images, labels, epsilon=0.02, attacks="apgd,apgd-t,fab-t")
    assert quick.worst_case[0].accuracy <= slow.worst_case[0].accuracy


def test_suites_are_named_as_people_name_them() -> None:
    assert parts_of("autoattack") is SUITES["standard"]
    assert [part.name for part in parts_of("pgd, apgd-t")("linf")] == ["pgd", "apgd-t"]
    with pytest.raises(ValueError, match="did you mean 'standard'"):
        parts_of("standart")


def test_a_model_that_asks_for_the_label_is_refused() -> None:
    class Fed(nn.Module):
        def forward(self, images: Tensor, labels: Tensor) -> Tensor:
            return nn.functional.one_hot(labels, 5).float() + 0 * images.flatten(1)[:, :1]

    _, images, labels = problem()
    with pytest.raises(ValueError, match="asks for images, labels"):
        memory_defense.evaluate(Fed(), images, labels, epsilon=0.1)


def test_a_function_is_a_classifier_too() -> None:
    model, images, labels = problem()
    record = memory_defense.evaluate(lambda points: model(points) * 2, images, labels, epsilon=0.02, attacks="pgd")
    assert record.worst_case[0].accuracy < 1


def test_a_model_without_gradients_is_not_called_robust() -> None:
    model, images, labels = problem()

    def rounded(points: Tensor) -> Tensor:
        return model((points.detach() * 255).round() / 255)

    record = memory_defense.evaluate(rounded, images, labels, epsilon=0.03, attacks="pgd,square")
    notes = {stage.attack: stage.note for stage in record.cascades[0].stages}
    assert "differentiably" in notes["pgd"]
    assert record.worst_case[0].accuracy < 1, "the attack without gradients goes on"
    failed = {line.check for line in record.audit if line.verdict == "fail"}
    assert "every gradient attack had a gradient" in failed


def test_out_of_memory_halves_the_batch_says_so_and_changes_nothing() -> None:
    model, images, labels = problem()
    said: list[str] = []

    class Told:
        def begin(self, what: str, total: int) -> None: ...

        def advance(self, steps: int, text: str = "") -> None: ...

        def note(self, text: str) -> None:
            said.append(text)

    def robust(room: int) -> Tensor:
        def small(points: Tensor) -> Tensor:
            if len(points) > room and torch.is_grad_enabled():
                raise torch.OutOfMemoryError("too many")
            return model(points)

        case = Case(name="pgd", attack=Pgd(), knowledge="end-to-end", ball=Linf(0.03))
        evaluation = robustness(
            Undefended(small), images, labels, [case], options=Options(seed=0, batch_size=32, progress=Told())
        )
        return evaluation.broken[0].robust

    whole = robust(1000)
    assert not said
    assert torch.equal(robust(8), whole)
    assert said == [f"pgd: out of memory, going on with {size} images in a pass" for size in (16, 8)]
    with pytest.raises(ValueError, match="even with one image"):
        robust(0)


def test_the_judge_and_the_probe_make_do_with_little_memory() -> None:
    model, images, labels = problem(96)

    def small(points: Tensor) -> Tensor:
        if len(points) > 16:
            raise torch.OutOfMemoryError("too many")
        return model(points)

    assert torch.equal(predict(small, images), labels)
    assert fastest_micro_batch(small, images) == 32

    def none(points: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("too many")

    with pytest.raises(ValueError, match="not enough memory for one image"):
        predict(none, images)


def test_a_stopped_replay_goes_on_only_with_the_same_images(tmp_path) -> None:
    model, images, labels = problem()
    marks: list[str] = []
    for name, epsilon in (("one", 0.03), ("two", 0.02)):
        memory_defense.evaluate(
            model, images, labels, epsilon=epsilon, attacks="pgd", out=tmp_path / name / "r.json"
        )
        results = read_per_image(tmp_path / name / "r.images.safetensors")
        replay = Replay(source="r.images.safetensors", results=results)
        case = Case(name="replay", attack=replay, knowledge="earlier", ball=Linf(0.03), purpose="cascade")
        marks.append(fingerprint(model, images, labels, torch.arange(24), [case], "terms"))
    assert marks[0] != marks[1]


def test_submissions_break_what_one_lucky_answer_hides() -> None:
    model, images, labels = problem()

    def nervous(points: Tensor) -> Tensor:
        return model(points) + 0.15 * torch.randn(len(points), 5)

    def accuracy(count: int) -> float:
        options = Options(submissions=count)
        record = memory_defense.evaluate(nervous, images, labels, epsilon=0.0, attacks="fgsm", options=options)
        assert record.submissions == count
        return record.clean.accuracy

    assert accuracy(20) < accuracy(1)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A user's folder: a module, weights, and a file of images."""
    model, images, labels = problem()
    (tmp_path / "own.py").write_text(NET)
    write_tensors(tmp_path / "w.safetensors", model.state_dict())
    write_tensors(tmp_path / "data.safetensors", {"images": images, "labels": labels})
    return tmp_path


def memdef(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "memory_defense", "evaluate", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment, timeout=300, check=False
    )


def test_the_command_line_in_one_process_and_in_two(folder) -> None:
    asked = ("own:build", "--weights", "w.safetensors", "--data", "data.safetensors", "--epsilon", "0.02")
    one = memdef(folder, *asked, "--attacks", "pgd,square", "--out", "one.json")
    assert one.returncode == 0, one.stderr
    two = memdef(folder, *asked, "--attacks", "pgd,square", "--processes", "2", "--out", "two.json")
    assert two.returncode == 0, two.stderr
    records = [Record.read(folder / name) for name in ("one.json", "two.json")]
    plain = [
        record.model_copy(
            update={
                "cascades": tuple(
                    cascade.model_copy(
                        update={
                            "stages": tuple(stage.model_copy(update={"seconds": 0.0}) for stage in cascade.stages)
                        }
                    )
                    for cascade in record.cascades
                ),
                "per_image": None,
            }
        )
        for record in records
    ]
    assert plain[0] == plain[1]
    first, second = (read_per_image(folder / f"{name}.images.safetensors") for name in ("one", "two"))
    assert torch.equal(first.broken[0].breaker, second.broken[0].breaker)
    assert torch.equal(first.broken[0].images[:].nan_to_num(-1), second.broken[0].images[:].nan_to_num(-1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("own:build", "--epsilon", "0.1"), "--data"),
        (("own:build", "--data", "data.safetensors"), "--epsilon"),
        (("own:build", "--data", "data.safetensors", "--epsilon", "8"), "8/255"),
        (("own:build", "--data", "data.safetensors", "--epsilon", "0.1", "--attacks", "autoatack"), "did you mean"),
        (("own:built", "--data", "data.safetensors", "--epsilon", "0.1"), "built"),
        (("own:build", "--data", "data.safetensors", "--epsilon", "0.1", "--knowledge", "selector"), "--knowledge"),
        (("own:build", "--data", "nowhere", "--epsilon", "0.1"), "nowhere"),
    ],
)
def test_mistakes_get_one_message(folder, arguments, message) -> None:
    done = memdef(folder, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
