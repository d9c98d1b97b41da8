"""A run from training to record on a small set: resumable anywhere, readable again, refused when damaged."""

import json
import pickle
from dataclasses import replace

import pytest
import torch

import memory_defense
from memory_defense.attacks import Pgd
from memory_defense.data.decode import Arrays
from memory_defense.data.images import Splits, split
from memory_defense.data.spec import DATASETS
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.record import Record
from memory_defense.randomness import ImageDraws
from memory_defense.recipes.recipe import OfflineSet
from memory_defense.recipes.registry import recipe
from memory_defense.reporting import Gallery
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.build import build_classifier
from memory_defense.systems.load import load
from memory_defense.threat import Linf
from memory_defense.workflows.assess import assess
from memory_defense.workflows.offline import with_adversarial
from memory_defense.workflows.train import train

TINY = recipe("fashion-mnist/tiny")


def made_up_splits() -> Splits:
    """Fashion-MNIST's shape with made-up images: class k is a bright bar in row 2 k."""
    spec = replace(DATASETS["fashion-mnist"], held_out_images=50)
    labels = (torch.arange(400) % 10).to(torch.uint8)
    images = (ImageDraws.of(0, "made up", 400).uniform(1, 28, 28) * 120).to(torch.uint8)
    for row, label in enumerate(labels.tolist()):
        images[row, 0, 2 * label : 2 * label + 4] += 120
    return split(Arrays(images[:300], labels[:300], images[300:], labels[300:]), spec)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return made_up_splits()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, splits) -> RunDirectory:
    run = train(TINY, tmp_path_factory.mktemp("runs") / "run", splits, seed=3)
    assess(TINY, run, load(run.path), splits, options=Options(seed=3))
    return run


class StopAfter:
    """Presses Ctrl-C after some steps of the whole run."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def begin(self, what: str, total: int) -> None:
        pass

    def advance(self, steps: int, text: str = "") -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        pass


@pytest.mark.parametrize("steps", [0, 3, 5, 9, 11, 16])
def test_a_stopped_run_ends_the_same_file(tmp_path, splits, finished, steps) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(TINY, tmp_path / "run", splits, seed=3, progress=StopAfter(steps))
    with pytest.raises(ValueError, match="not finished"):
        load(tmp_path / "run")
    run = train(TINY, tmp_path / "run", splits, seed=3, resume=True)
    assert run.weights.read_bytes() == finished.weights.read_bytes()
    assert run.undefended.read_bytes() == finished.undefended.read_bytes()
    assert untimed(run) == untimed(finished)


def untimed(run: RunDirectory) -> dict[str, dict[str, object]]:
    """Return what a run says of its stages, without how long they took."""
    return {
        name: {key: value for key, value in stage.items() if key != "seconds"}
        for name, stage in run.read()["stages"].items()
    }


def test_the_record_is_the_one_written(finished) -> None:
    record = Record.read(finished.record)
    assert record.recipe == f"{TINY.name} on 250 images"  # a try on few images must not pass for the recipe
    assert record.images == 20
    assert {result.knowledge for result in record.attacks} == {
        "fixed-slots",
        "selector",
        "end-to-end",
        "target-classifier",
        "undefended",
    }
    assert len(record.worst_case) == 2
    assert record.worst_case[0].accuracy <= min(
        result.accuracy for result in record.attacks if result.epsilon == record.worst_case[0].epsilon
    )
    assert {line.check for line in record.audit} >= {"slot-following", "agreement with the selector"}
    assert record.provenance.recipe_sha256 == TINY.sha256


def test_the_gallery_can_be_read(finished) -> None:
    gallery = Gallery.read(finished.gallery)
    assert len(gallery) == 8
    assert gallery.reconstructions is not None
    assert (gallery.adversarial - gallery.images).abs().max() <= 0.1 + 1e-5


def test_the_same_seed_gives_the_same_record(tmp_path, splits, finished) -> None:
    again = assess(
        TINY, finished, load(finished.path), splits, options=Options(seed=3), out=tmp_path / "again.json"
    )
    timeless = [result.model_copy(update={"seconds": 0.0}) for result in again.attacks]
    before = [result.model_copy(update={"seconds": 0.0}) for result in Record.read(finished.record).attacks]
    assert timeless == before
    assert again.worst_case == Record.read(finished.record).worst_case
    assert (tmp_path / "again.gallery.safetensors").is_file()


def test_load_gives_a_plain_classifier(finished, splits) -> None:
    defense = memory_defense.load(finished.path)
    images = splits.test.floats()[:7].requires_grad_()
    logits = defense(images)
    assert not defense.training
    assert logits.shape == (7, 10)
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert gradient.abs().sum() > 0
    assert torch.equal(logits, memory_defense.load(str(finished.path))(images))


def test_another_library_attacks_it_unchanged(finished, splits) -> None:
    foolbox = pytest.importorskip("foolbox")
    defense = memory_defense.load(finished.path)
    images, labels = splits.test.floats()[:40], splits.test.labels[:40]
    victim = foolbox.PyTorchModel(defense, bounds=(0, 1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _, clipped, fooled = foolbox.attacks.LinfPGD(steps=10)(victim, images, labels, epsilons=0.1)
    assert (clipped - images).abs().max() <= 0.1 + 1e-5
    with torch.no_grad():
        assert torch.equal(defense(clipped).argmax(1) != labels, fooled)
        before = (defense(images).argmax(1) != labels).sum()
    assert fooled.sum() >= before


def test_its_own_gradient_reaches_the_selector(finished, splits) -> None:
    defense = memory_defense.load(finished.path)
    images = splits.test.floats()[:5].requires_grad_()
    through = defense.surrogates()["end-to-end"]
    gradients = [torch.autograd.grad(model(images)[:, 0].sum(), images)[0] for model in (defense, through)]
    frozen = defense.surrogates()["fixed-slots"].bind(images.detach())
    without = torch.autograd.grad(frozen(images)[:, 0].sum(), images)[0]
    assert torch.equal(*gradients)
    assert not torch.allclose(gradients[0], without)


def test_a_run_is_not_overwritten_or_mixed_up(finished, splits) -> None:
    with pytest.raises(ValueError, match="--resume"):
        train(TINY, finished.path, splits, seed=3)
    with pytest.raises(ValueError, match="another run"):
        train(TINY, finished.path, splits, seed=4, resume=True)
    with pytest.raises(ValueError, match=r"another run .train_images is 250, not 200"):
        train(TINY, finished.path, replace(splits, train=splits.train.first(200)), seed=3, resume=True)
    with pytest.raises(ValueError, match="another run"):
        train(replace(TINY, name="fashion-mnist/other"), finished.path, splits, seed=3, resume=True)


def test_damaged_runs_are_refused(tmp_path, finished) -> None:
    with pytest.raises(ValueError, match="not a run directory"):
        load(tmp_path)
    run = RunDirectory(tmp_path)
    for damage in ("{", "[]", json.dumps({"schema": 9}), json.dumps({"schema": 1, "model": {"x": 1}})):
        run.manifest_path.write_text(damage)
        with pytest.raises(ValueError, match="damaged"):
            load(tmp_path)
    run.manifest_path.write_bytes(finished.manifest_path.read_bytes())
    run.weights.write_bytes(finished.weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="whole safetensors"):
        load(tmp_path)
    run.weights.write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match="pickle"):
        load(tmp_path)


def test_the_offline_set_is_clean_and_adversarial_in_whole_grey_levels(splits) -> None:
    model = build_classifier("linear", "fashion-mnist", 0, "x").eval()
    offline = OfflineSet(attack=Pgd(steps=5, stop_when_fooled=False), ball=Linf(0.03))
    joined = with_adversarial(splits.train, model, offline, 0)
    count = len(splits.train)
    assert len(joined) == 2 * count
    assert torch.equal(joined.images[:count], splits.train.images)
    change = joined.images[count:].int() - splits.train.images.int()
    assert change.abs().max() == 7  # 0.03 is 7.65 grey levels
    assert joined.ids.unique().numel() == 2 * count
    with torch.no_grad():
        answers = model(joined.floats()).argmax(1)
    assert (answers[count:] != joined.labels[count:]).sum() > (answers[:count] != joined.labels[:count]).sum()
    successful = with_adversarial(splits.train, model, replace(offline, successful_only=True), 0)
    assert len(successful) == count + int((answers[count:] != joined.labels[count:]).sum())
