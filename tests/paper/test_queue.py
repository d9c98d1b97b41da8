"""The queue: every entry runs at toy size, in pieces as well, and what comes back is what was evaluated."""

import json
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from memory_defense.checks import check_images
from memory_defense.evaluation import store
from memory_defense.evaluation.record import Record
from memory_defense.paper.queue import QUEUE, Deadline, entry, made_up, markdown_table, returned, work
from memory_defense.paper.queue_parts import MOST_BYTES, MOST_PARTS, read_parts, write_parts
from memory_defense.paper.queue_smoke import Smoke
from memory_defense.recipes.recipe import Recipe
from memory_defense.recipes.registry import RECIPES
from memory_defense.systems.build import build_defense
from memory_defense.systems.load import load

DOCUMENT = Path(__file__).parents[2] / "docs" / "gpu-queue.md"
STRONG = "fashion-mnist-strong"


class Listening:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def begin(self, what: str, total: int) -> None:
        pass

    def advance(self, steps: int, text: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


def data(dataset: str):
    return made_up(dataset, torch.device("cpu"))


def done(name: str, out: Path, looks: float = float("inf")) -> bool:
    """Work on an entry until the clock has been looked at so many times."""
    clock = count()
    deadline = Deadline(Listening(), looks, clock=lambda: float(next(clock)))
    return work(name, out, data, back=out / "back", deadline=deadline, tiny=True)


def timeless(path: Path) -> Record:
    record = Record.read(path)
    attacks = [one.model_copy(update={"seconds": 0.0}) for one in record.attacks]
    cascades = [
        one.model_copy(update={"stages": tuple(stage.model_copy(update={"seconds": 0.0}) for stage in one.stages)})
        for one in record.cascades
    ]
    return record.model_copy(update={"attacks": tuple(attacks), "cascades": tuple(cascades)})


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("queue")
    assert done(STRONG, out)
    return out


def test_what_comes_back_is_what_was_evaluated(whole) -> None:
    place = whole / "back" / STRONG / "fashion-mnist" / "strong-tiny"
    assert sorted(path.name for path in place.iterdir()) == [
        "manifest.json",
        "record.json",
        "weights-1-of-1.safetensors",
        "weights.json",
    ]
    record = Record.read(place / "record.json")
    assert record.dataset == "made-up images like fashion-mnist"
    assert record.per_image is None
    assert (record.images, len(record.worst_case), len(record.cascades)) == (2, 1, 1)
    there, trained = returned(place), load(whole / "fashion-mnist" / "strong-tiny")
    images = data("fashion-mnist").test.floats()
    with torch.no_grad():
        halves, exact = there(images), trained(images)
    right = halves[:2].argmax(1) == data("fashion-mnist").test.labels[:2]
    assert record.clean.accuracy == right.float().mean().item()
    assert not torch.equal(halves, exact)
    torch.testing.assert_close(halves, exact, rtol=0.02, atol=0.02)
    for name, tensor in there.state_dict().items():
        expected = trained.state_dict()[name]
        assert torch.equal(tensor, expected.half().float() if expected.is_floating_point() else expected)


@pytest.mark.parametrize("looks", [2, 5])
def test_pieces_end_where_one_piece_does(tmp_path, whole, looks, monkeypatch) -> None:
    monkeypatch.setattr(store, "SAVE_SECONDS", 0.0)  # as if every attack took long
    pieces = 1
    while not done(STRONG, tmp_path, looks + pieces):  # attacks that are done are counted again, at no cost
        pieces += 1
        assert pieces < 30
    assert pieces > 2
    place = Path("back") / STRONG / "fashion-mnist" / "strong-tiny"
    for name in ("weights-1-of-1.safetensors", "weights.json"):
        assert (tmp_path / place / name).read_bytes() == (whole / place / name).read_bytes()
    assert timeless(tmp_path / place / "record.json") == timeless(whole / place / "record.json")


def test_what_is_done_is_not_done_again(whole) -> None:
    record = whole / "fashion-mnist" / "strong-tiny" / "record.json"
    before = record.stat().st_mtime_ns
    assert done(STRONG, whole)
    assert record.stat().st_mtime_ns == before


def test_a_time_that_is_up_stops_before_anything_is_loaded(tmp_path) -> None:
    deadline = Deadline(Listening(), 0)

    def never(dataset: str):
        raise AssertionError(dataset)

    assert not work(STRONG, tmp_path, never, back=tmp_path, deadline=deadline)
    assert deadline.passed
    assert deadline.inner.notes == ["fashion-mnist-strong: 1 of 1, fashion-mnist/strong"]


def test_what_is_finished_is_told_before_the_rest_begins(tmp_path) -> None:
    there: list[list[str]] = []
    name = "fashion-mnist-purifiers"
    back = tmp_path / "back"

    def kept() -> None:
        there.append(sorted(path.parent.name for path in (back / name).rglob("record.json")))
        if len(there) == 1:
            raise KeyError("as if killed")

    with pytest.raises(KeyError, match="killed"):
        work(name, tmp_path, data, back=back, deadline=Deadline(Listening(), 1e9), tiny=True, kept=kept)
    assert work(name, tmp_path, data, back=back, deadline=Deadline(Listening(), 1e9), tiny=True, kept=kept)
    assert there == [["magnet"], ["magnet"], ["comdefend", "magnet"]]


def test_a_ctrl_c_is_no_end_of_the_time(tmp_path) -> None:
    def pressed(dataset: str):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(STRONG, tmp_path, pressed, back=tmp_path, deadline=Deadline(Listening(), 1e9), tiny=True)


def test_the_clock_is_looked_at_after_each_step() -> None:
    times = iter([0.0, 1.0, 4.9, 5.0])
    deadline = Deadline(Listening(), 5, clock=lambda: next(times))
    deadline.advance(1)
    deadline.advance(1)
    assert not deadline.passed
    with pytest.raises(KeyboardInterrupt):
        deadline.advance(1)
    assert deadline.passed


def test_entries_are_those_of_most_worth_first() -> None:
    assert list(QUEUE) == [
        "fashion-mnist-paper",
        "fashion-mnist-online",
        "cifar10-strong",
        "cifar10-strong-attacks",
        "fashion-mnist-strong",
        "cifar10-resnet50",
        "cifar10-resnet50-online",
        "fashion-mnist-purifiers",
        "cifar10-purifiers",
        "cifar10-defense-vae",
        "pixelcnn",
    ]
    with pytest.raises(ValueError, match="did you mean 'pixelcnn'"):
        entry("pixelcn")


@pytest.mark.parametrize("name", QUEUE)
def test_entries_are_well_formed(name) -> None:
    one = QUEUE[name]
    assert set(one.recipes) <= set(RECIPES)
    assert "\n" not in one.claim
    assert 0 < one.minutes <= 9  # of the ten that one command may take
    assert set(one.weights or ()) <= set(one.recipes)
    assert not one.judges or QUEUE[one.judges].recipes == one.recipes
    full, tiny = one.chosen(tiny=False), one.chosen(tiny=True)
    assert [recipe.name for recipe in full] == list(one.recipes)
    for recipe in full:
        assert recipe.evaluation.images == min(one.images, RECIPES[recipe.name].evaluation.images)
        assert replace(recipe, evaluation=RECIPES[recipe.name].evaluation) == RECIPES[recipe.name]
        assert recipe.evaluation.suite == (one.suite or RECIPES[recipe.name].evaluation.suite)
        kept = (one.weights is None or recipe.name in one.weights) and not one.judges
        assert not kept or 2 * weights_of(recipe) < MOST_BYTES - (1 << 20)  # halves, and the records
    assert len({recipe.name for recipe in (*full, *tiny)}) == 2 * len(full)
    assert [recipe.model.defense for recipe in tiny] == [recipe.model.defense for recipe in full]


def weights_of(recipe: Recipe) -> int:
    """Return how many numbers a system holds."""
    with torch.device("meta"):
        return sum(one.numel() for one in build_defense(recipe.model).state_dict().values())


def test_what_came_back_is_attacked_where_nothing_else_is_left(whole, tmp_path, monkeypatch) -> None:
    judging = replace(QUEUE["cifar10-strong-attacks"], recipes=("fashion-mnist/strong",), judges=STRONG)
    monkeypatch.setitem(QUEUE, "judging", judging)
    parts = write_parts(whole / "back" / STRONG, tmp_path / "flat", 1 << 16)
    assert 1 < len(parts) <= MOST_PARTS
    assert read_parts(tmp_path / "flat", tmp_path / "unpacked") == [STRONG]
    back = tmp_path / "back"
    deadline = Deadline(Listening(), 1e9)
    assert work("judging", tmp_path, data, back=back, deadline=deadline, tiny=True, earlier=tmp_path / "unpacked")
    place = back / "judging" / "fashion-mnist" / "strong-tiny"
    assert {path.name for path in place.iterdir() if path.is_file()} == {"record.json", "manifest.json"}
    again = Record.read(place / "record.json")
    first = Record.read(whole / "back" / STRONG / "fashion-mnist" / "strong-tiny" / "record.json")
    assert again.clean == first.clean


def test_nothing_to_attack_is_said_before_data_is_loaded(tmp_path) -> None:
    def never(dataset: str):
        raise AssertionError(dataset)

    with pytest.raises(ValueError, match="memdef queue run cifar10-strong'"):
        work(
            "cifar10-strong-attacks", tmp_path, never, back=tmp_path, deadline=Deadline(Listening(), 1e9), tiny=True
        )


def test_the_smoke_runs_at_toy_size(tmp_path) -> None:
    said: list[str] = []
    Smoke(torch.device("cpu"), tmp_path, toy=True).run(said.append)
    assert [line[:2] for line in said] == [f"{number}." for number in range(1, 8)]


@pytest.mark.parametrize("dataset", ["fashion-mnist", "cifar10"])
def test_made_up_images_have_the_shape_of_a_dataset(dataset) -> None:
    splits = data(dataset)
    assert (len(splits.train), len(splits.held_out), len(splits.test)) == (100, 30, 20)
    check_images(splits.train.floats(), channels=splits.spec.channels, size=splits.spec.size)
    assert splits.train.labels.bincount().tolist() == [10] * 10
    rows = splits.test.floats().mean((1, 3))
    width = splits.spec.size // 10
    for bright, label in zip(rows, splits.test.labels.tolist(), strict=True):
        assert bright[width * label : width * label + 2 * width].mean() > bright.mean() + 0.2


def test_the_document_shows_this_queue() -> None:
    assert markdown_table() in DOCUMENT.read_text(encoding="utf-8")


def test_kept_manifests_name_their_recipe(whole) -> None:
    manifest = json.loads((whole / "back" / STRONG / "fashion-mnist" / "strong-tiny" / "manifest.json").read_text())
    assert manifest["recipe"] == "fashion-mnist/strong-tiny"
