"""Hardening, end to end on a small folder: what it leaves, how it goes on, whether its words are its numbers."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace

import pytest
import torch

from memory_defense.data.own import load_splits
from memory_defense.evaluation.record import Accuracy, Record
from memory_defense.recipes.hardened import HardenOptions
from memory_defense.studio.library import Library
from memory_defense.studio.runs import Runs
from memory_defense.systems.load import load
from memory_defense.tensorfiles import read_tensors, write_tensors
from memory_defense.workflows.harden import harden, weights_sha256
from memory_defense.workflows.harden_words import apart, shown
from memory_defense.workflows.run_images import images_from, keep_images_from, splits_of
from memory_defense.workflows.run_recipe import recipe_of
from workflows.own_folder import CLASSES, PLACE, write_folder, write_net


class Users:
    """A user's folder: images, a module, weights."""

    def __init__(self, root) -> None:
        self.data = write_folder(root / "shapes", train=16, test=3)
        self.weights = write_net(root, self.data)
        self.splits = load_splits(self.data)
        self.source = images_from(self.data, None, self.splits.spec)

    def hardening(self, **changes) -> HardenOptions:
        values = {"classifier": PLACE, "epsilon": 8 / 255, "epochs": 2, "attacks": "glimpse", "images": 8}
        return HardenOptions(weights_sha256=weights_sha256(self.weights), **(values | changes))

    def harden(self, out, progress=None, **changes):
        return harden(
            self.hardening(**changes), self.weights, self.splits, out, source=self.source, progress=progress
        )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def users(root) -> Users:
    return Users(root)


@pytest.fixture(autouse=True)
def _there(root, monkeypatch):
    monkeypatch.chdir(root)
    yield
    sys.modules.pop("shapes_net", None)


@pytest.fixture(scope="module")
def done(users, root):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return users.harden(root / "run")


def test_the_run_holds_everything_and_loads(done, users) -> None:
    assert {"record.json", "original.json", "selector.json", "gained.txt", "manifest.json"} <= {
        path.name for path in done.run.path.iterdir()
    }
    manifest = done.run.read()
    assert manifest["images_from"] == {
        "source": str(users.data),
        "size": None,
        "sha256": users.splits.spec.sha256,
        "notes": [],
    }
    assert manifest["model"]["images"]["classes"] == list(CLASSES)
    assert manifest["flag"]["calibration_images"] == len(users.splits.held_out)
    defense = load(done.run.path)
    assert defense.memory.items.shape[0] == 50 * len(CLASSES)
    assert defense(users.splits.test.floats()).shape == (9, 3)


def test_the_transfer_source_is_the_net_that_was_brought_and_the_selector_another(done, users) -> None:
    defense = load(done.run.path)
    brought, _ = read_tensors(users.weights)
    for name, tensor in defense.transfer_source.state_dict().items():
        assert torch.equal(tensor, brought[name])
    assert any(not torch.equal(value, brought[name]) for name, value in defense.selector.state_dict().items())


def test_the_records_are_about_the_same_images_and_ball(done) -> None:
    for record in (done.original, done.selector, done.defense):
        assert (record.images, record.dataset) == (8, "shapes")
        assert [(one.norm, one.epsilon) for one in record.worst_case] == [("linf", 8 / 255)]
    assert {one.knowledge for one in done.defense.attacks} >= {"end-to-end", "undefended"}
    assert {line.knowledge for line in done.defense.cascades[0].stages} >= {"end-to-end", "silent"}


def test_every_number_of_the_paragraph_is_a_records(done) -> None:
    """Every accuracy in the words is recomputed from the files, and nothing else is in brackets."""
    path = done.run.path
    original, selector, defense = (
        Record.read(path / f"{name}.json") for name in ("original", "selector", "record")
    )
    text = (path / "gained.txt").read_text()
    assert text == done.paragraph + "\n"
    score = json.loads(done.run.manifest_path.read_text())["flag"]["score"]
    flagged = [one for one in defense.detection if one.score == score]
    caught = min(
        [*((one.attacked_right.accuracy, one.attacked_right.ci95) for one in flagged)]
        + [(one.undetected.accuracy, one.undetected.ci95) for one in defense.worst_case if one.undetected]
    )
    expected = [
        (original.clean.accuracy, original.clean.ci95),
        (original.worst_case[0].accuracy, original.worst_case[0].ci95),
        (defense.clean.accuracy, defense.clean.ci95),
        (defense.worst_case[0].accuracy, defense.worst_case[0].ci95),
        (selector.clean.accuracy, selector.clean.ci95),
        (selector.worst_case[0].accuracy, selector.worst_case[0].ci95),
        (flagged[0].clean_flagged.accuracy, flagged[0].clean_flagged.ci95),
        caught,
    ]
    found = re.findall(r"([\d.]+) % \(([\d.]+) to ([\d.]+)\)", text)
    assert found == [(f"{100 * a:.1f}", f"{100 * ci[0]:.1f}", f"{100 * ci[1]:.1f}") for a, ci in expected]
    gain = defense.worst_case[0].ci95[0] > original.worst_case[0].ci95[1]
    assert ("points of robustness were gained" in text) == gain
    memory = defense.worst_case[0].ci95[0] > selector.worst_case[0].ci95[1]
    assert ("the memory added" in text) == (memory or "the memory added no robustness" in text)


def test_verdicts_follow_from_intervals() -> None:
    low, middle, high = (
        Accuracy(accuracy=middle, ci95=(middle - 0.1, middle + 0.1)) for middle in (0.2, 0.35, 0.6)
    )
    assert (apart(high, low), apart(low, high), apart(low, middle), apart(middle, low)) == (1, -1, 0, 0)
    assert shown(low) == "20.0 % (10.0 to 30.0)"


def test_the_same_call_does_nothing_twice_and_another_is_refused(done, users, root) -> None:
    before = {
        path.name: path.stat().st_mtime_ns for path in done.run.path.glob("*.json") if "manifest" not in path.name
    }
    assert users.harden(root / "run") == done
    assert {name: (done.run.path / name).stat().st_mtime_ns for name in before} == before
    with pytest.raises(ValueError, match="holds another run"):
        users.harden(root / "run", epsilon=0.1)


class _Stop:
    """Presses Ctrl-C at the n-th step."""

    def __init__(self, after: int) -> None:
        self.left = after

    def begin(self, what: str, total: int) -> None: ...
    def note(self, text: str) -> None: ...

    def advance(self, steps: int, text: str = "") -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_a_stopped_hardening_ends_as_an_undisturbed_one(done, users, root) -> None:
    out = root / "stopped"
    stops, after = 0, 4
    while True:
        try:
            again = users.harden(out, progress=_Stop(after))
            break
        except KeyboardInterrupt:
            stops += 1
            after += 8
    assert stops > 2
    assert again.paragraph == done.paragraph
    assert (out / "weights.safetensors").read_bytes() == (done.run.path / "weights.safetensors").read_bytes()


def test_without_fine_tuning_the_selector_is_the_net_that_was_brought(users, root) -> None:
    out = users.harden(root / "as-it-was", fine_tune=False, epochs=1, attacks="fgsm", images=2)
    brought, _ = read_tensors(users.weights)
    for name, tensor in load(out.run.path).selector.state_dict().items():
        assert torch.equal(tensor, brought[name])
    assert out.selector == out.original
    assert "Put, untouched," in out.paragraph
    assert not (out.run.path / "selector.json").exists()


def test_a_module_that_is_named_itself_is_not_shared_between_parts(users, root) -> None:
    out = users.harden(root / "instance", classifier="shapes_net:whole", epochs=1, attacks="fgsm", images=2)
    first, second = load(out.run.path), load(out.run.path)
    assert first.selector is not second.selector
    assert first.selector is not first.transfer_source
    kept, _ = read_tensors(out.run.weights)
    assert torch.equal(first.selector[4].weight, kept["selector.4.weight"])


def test_a_run_gives_back_its_recipe_and_its_images(done, users) -> None:
    recipe = recipe_of(done.run)
    assert recipe.sha256 == done.run.read()["recipe_sha256"] == done.defense.provenance.recipe_sha256
    assert torch.equal(splits_of(done.run).test.images, users.splits.test.images)


def test_the_studio_loads_the_run_and_asks_for_an_image(done, root) -> None:
    library = Library(Runs(root))
    assert library.subject("run").classes == CLASSES
    with pytest.raises(ValueError, match="upload or draw one"):
        library.test_images("shapes")


def test_images_that_changed_or_moved_are_told(done, users, root) -> None:
    moved = root / "elsewhere"
    shutil.copytree(done.run.path, root / "copy")
    copy = replace(done.run, path=root / "copy")
    keep_images_from(copy, replace(users.source, source=str(moved)))
    with pytest.raises(ValueError, match="which is not there; give --data"):
        splits_of(copy)
    shutil.copytree(users.data, moved)
    assert len(splits_of(copy).test) == 9
    next((moved / "test" / "bar").iterdir()).unlink()
    with pytest.raises(ValueError, match="no longer those"):
        splits_of(copy)
    assert len(splits_of(copy, source=str(moved)).test) == 8
    (moved / "train" / "disc").rename(moved / "train" / "ball")
    (moved / "test" / "disc").rename(moved / "test" / "ball")
    with pytest.raises(ValueError, match="give images of the same classes"):
        splits_of(copy, source=str(moved))


def test_a_module_that_is_gone_is_named(done, root, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("shapes_net", None)
    with pytest.raises(ValueError, match="there is no module shapes_net"):
        load(done.run.path)


def test_bad_inputs_are_told(users, root, tmp_path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        weights_sha256(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="no finite gradient reaches its images"):
        users.harden(root / "hard", classifier="shapes_net:hard")
    state, _ = read_tensors(users.weights)
    tied = tmp_path / "tied.safetensors"
    write_tensors(tied, {f"first.{name}": value for name, value in state.items()})
    with pytest.raises(ValueError, match="share their weights"):
        harden(
            users.hardening(classifier="shapes_net:Tied"), tied, users.splits, root / "tied", source=users.source
        )
    tiny = load_splits(write_folder(tmp_path / "tiny", train=4, test=2), size=8)
    source = images_from(tmp_path / "tiny", 8, tiny.spec)
    with pytest.raises(ValueError, match="takes 16 to 1024; resize them with --size 16"):
        harden(users.hardening(), users.weights, tiny, root / "tiny", source=source)
    four = load_splits(write_folder(tmp_path / "four", train=4, test=2, classes=(*CLASSES, "other")[:2]))
    with pytest.raises(ValueError, match="does not fit shapes_net:build"):
        harden(users.hardening(), users.weights, four, root / "four", source=source)
    with pytest.raises(ValueError, match="epsilon is 8"):
        users.hardening(epsilon=8.0)
    with pytest.raises(ValueError, match="attack or suite"):
        users.hardening(attacks="quick")


@pytest.fixture(scope="module")
def mixed(users, root):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return users.harden(root / "mixed", keep_clean_accuracy=True)


def test_a_mixture_holds_the_net_that_was_brought_and_the_fine_tuned_one(mixed, users) -> None:
    defense = load(mixed.run.path)
    brought, _ = read_tensors(users.weights)
    for name, tensor in defense.accurate.state_dict().items():
        assert torch.equal(tensor, brought[name])
    assert any(not torch.equal(value, brought[name]) for name, value in defense.robust.state_dict().items())
    manifest = mixed.run.read()
    assert (manifest["model"]["defense"], manifest["hardened"]["keep_clean_accuracy"]) == ("mixture", True)
    assert list(manifest["stages"]) == ["selector-warm-start"]
    assert defense.flag_threshold == manifest["flag"]["threshold"]
    assert 0.5 <= defense.settings.weight <= 1
    images = users.splits.test.floats()
    both = defense.robust(images), defense.accurate(images)
    assert torch.allclose(defense(images), defense.answer(*both))


def test_a_mixture_s_record_is_end_to_end_by_member_and_by_transfer(mixed) -> None:
    record = Record.read(mixed.run.record)
    assert record == mixed.defense
    assert {one.knowledge for one in record.attacks} == {"end-to-end", "robust", "accurate"}
    assert {line.knowledge for line in record.cascades[0].stages} >= {"members", "unclamped", "silent"}
    assert {"robust", "accurate"}.isdisjoint(line.knowledge for line in record.cascades[0].stages)
    assert recipe_of(mixed.run).sha256 == mixed.run.read()["recipe_sha256"]


def test_every_number_of_a_mixture_s_paragraph_is_a_records(mixed) -> None:
    original, selector, defense = (
        Record.read(mixed.run.path / f"{name}.json") for name in ("original", "selector", "record")
    )
    text = (mixed.run.path / "gained.txt").read_text()
    assert text == mixed.paragraph + "\n"
    expected = []
    for record in (original, selector, defense):
        worst = record.worst_case[0]
        expected += [(record.clean.accuracy, record.clean.ci95), (worst.accuracy, worst.ci95)]
    found = re.findall(r"([\d.]+) % \(([\d.]+) to ([\d.]+)\)", text)
    assert found[:6] == [(f"{100 * a:.1f}", f"{100 * ci[0]:.1f}", f"{100 * ci[1]:.1f}") for a, ci in expected]
    clean = 100 * (defense.clean.accuracy - selector.clean.accuracy)
    worst = 100 * (defense.worst_case[0].accuracy - selector.worst_case[0].accuracy)
    assert f"by {clean:+.1f} points and the worst case by {worst:+.1f}" in text
    assert "memory" not in text


@pytest.mark.parametrize(
    ("clean", "worst", "said"),
    [
        (0.87, 0.76, ("no clean accuracy came back that", "no robustness was lost that")),
        (0.93, 0.76, ("7.0 points of clean accuracy came back, 2.0 points short of what it was", "overlap")),
        (0.96, 0.60, ("all that was lost, and 17.0 points of the fine-tuned one's robustness were lost", "+10.0")),
        (0.80, 0.85, ("6.0 points of clean accuracy were lost on top, and 8.0 points of robustness were gained",)),
        (0.87, None, ("its worst case is not known", "worst case by an unknown number")),
    ],
)
def test_a_mixture_s_verdicts_follow_from_intervals(mixed, clean, worst, said) -> None:
    def at(right: float, left: float | None) -> Record:
        ball = mixed.defense.worst_case[0]
        known = left is not None
        case = ball.model_copy(
            update={"accuracy": left, "ci95": (left - 0.02, left + 0.02) if known else None, "undetected": None}
        )
        return mixed.defense.model_copy(
            update={
                "clean": Accuracy(accuracy=right, ci95=(right - 0.02, right + 0.02)),
                "worst_case": [case],
                "detection": [],
            }
        )

    text = replace(mixed, original=at(0.95, 0.02), selector=at(0.86, 0.77), defense=at(clean, worst)).paragraph
    for words in said:
        assert words in text


def test_the_same_mixture_is_taken_as_it_is_and_another_is_refused(mixed, users, root) -> None:
    assert users.harden(root / "mixed", keep_clean_accuracy=True) == mixed
    with pytest.raises(ValueError, match="holds another run"):
        users.harden(root / "mixed")


def test_a_run_from_before_mixtures_goes_on(done, users, root) -> None:
    shutil.copytree(done.run.path, root / "earlier")
    run = replace(done.run, path=root / "earlier")
    manifest = run.read()
    del manifest["hardened"]["keep_clean_accuracy"]
    run.write(manifest)
    assert users.harden(root / "earlier").paragraph == done.paragraph


def test_what_cannot_be_mixed_is_told(users, root, tmp_path) -> None:
    with pytest.raises(ValueError, match="fine_tune is off; turn one of both around"):
        users.hardening(fine_tune=False, keep_clean_accuracy=True)
    two = load_splits(write_folder(tmp_path / "two", train=4, test=2, classes=CLASSES[:2]))
    source = images_from(tmp_path / "two", None, two.spec)
    asked = users.hardening(keep_clean_accuracy=True)
    with pytest.raises(ValueError, match="2 classes, but a mixture needs at least 3"):
        harden(asked, users.weights, two, root / "two", source=source)
