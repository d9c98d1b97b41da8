"""Test images of a run on somebody's own: the files' own pixels, from nowhere but where its manifest says."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from memory_defense.data.own import load_splits
from memory_defense.recipes.adapt import adapt
from memory_defense.recipes.fashion_mnist import TINY
from memory_defense.run_directory import RunDirectory
from memory_defense.studio.app import create_app
from memory_defense.studio.describe import Described, describe_run, shelf
from memory_defense.studio.library import Library
from memory_defense.studio.runs import Runs
from memory_defense.studio.tickets import Workshop
from memory_defense.systems.build import build_defense
from memory_defense.training.checkpoint import save_weights
from memory_defense.workflows.run_images import ImagesFrom, images_from, keep_images_from
from workflows.own_folder import CLASSES, write_folder

from .conftest import attack
from .pages import opened


def run_on(source: Path, path: Path, size: int | None = None) -> RunDirectory:
    """Write a run as training on these images leaves it, only that nothing was learnt."""
    splits = load_splits(source, size=size)
    adapted, run = adapt(TINY, splits.spec), RunDirectory(path)
    path.mkdir(parents=True)
    manifest = run.begin(adapted, 0, len(splits.train), resume=False)
    save_weights(run.weights, build_defense(adapted.model, 0))
    run.write({**manifest, "complete": True})
    keep_images_from(run, images_from(source, size, splits.spec))
    return run


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_folder(tmp_path / "shapes")


@pytest.fixture
def runs(tmp_path, folder) -> Path:
    run_on(folder, tmp_path / "runs" / "own")
    return tmp_path / "runs"


def described(runs: Path) -> Described:
    return describe_run(Library(Runs(runs)), "own")


def test_the_images_shown_are_the_files_own(runs, folder) -> None:
    with TestClient(create_app(Library(Runs(runs)), Workshop(seconds=20))) as client:
        shown = client.get("/api/tests", params={"run": "own"}).json()
        kept = {file: np.array(Image.open(file)) for file in (folder / "test").rglob("*.png")}
        assert shown["total"] == len(shown["images"]) == len(kept) == 9
        for one in shown["images"]:
            pixels = opened(one["picture"])
            (file,) = [name for name, content in kept.items() if (content == pixels).all()]
            assert file.parent.name == CLASSES[one["label"]]
            del kept[file]
        message = {"run": "own", "image": {"test": 4}, "attack": attack(options={"steps": 2})}
        played = client.post("/api/play", json=message).json()
    assert played["label_source"] == "dataset"
    assert played["label"] == shown["images"][4]["label"]
    assert (opened(played["clean"]["picture"]) == opened(shown["images"][4]["picture"])).all()


def test_order_and_numbers_are_those_of_an_evaluation(runs, folder) -> None:
    library = Library(Runs(runs))
    found, test = library.tests_of(library.runs.find("own")), load_splits(folder).test
    assert torch.equal(found.images, test.images)
    assert torch.equal(found.labels, test.labels)
    assert torch.equal(found.ids, test.ids)


def test_a_file_of_arrays_is_found_again(tmp_path) -> None:
    draws = np.random.default_rng(0)
    images, labels = draws.integers(0, 256, (40, 20, 20), np.uint8), np.arange(40) % 2
    arrays = {"train_images": images[:30], "train_labels": labels[:30]}
    np.savez(tmp_path / "data.npz", **arrays, test_images=images[30:], test_labels=labels[30:])
    run_on(tmp_path / "data.npz", tmp_path / "runs" / "own")
    library = Library(Runs(tmp_path / "runs"))
    found = library.tests_of(library.runs.find("own"))
    assert len(found) == 10
    for image, number, label in zip(found.images, found.ids, found.labels, strict=True):
        assert (image[0].numpy() == images[30 + int(number)]).all()
        assert int(label) == labels[30 + int(number)]


def test_images_of_another_size_are_resized_as_for_training(tmp_path, folder) -> None:
    run_on(folder, tmp_path / "runs" / "own", size=20)
    library = Library(Runs(tmp_path / "runs"))
    found = library.tests_of(library.runs.find("own"))
    assert torch.equal(found.images, load_splits(folder, size=20).test.images)


def test_a_source_that_is_gone_is_told_and_looked_for_again(runs, folder) -> None:
    library = Library(Runs(runs))
    folder.rename(folder.with_name("moved"))
    shown = describe_run(library, "own")
    assert shown.test_images == 0
    assert f"in {folder}, which is not there any more" in shown.test_fault
    assert "upload or draw one" in shown.test_fault
    assert "--data" not in shown.test_fault
    folder.with_name("moved").rename(folder)
    assert describe_run(library, "own").test_images == 9


def test_images_that_changed_are_not_shown(runs, folder) -> None:
    file = folder / "test" / "disc" / "000.png"
    Image.fromarray(255 - np.array(Image.open(file))).save(file)
    fault = described(runs).test_fault
    assert "are no longer those" in fault
    assert "--data" not in fault
    library = Library(Runs(runs))
    run = library.runs.find("own")
    with pytest.raises(ValueError, match="no longer those"):
        library.tests_of(run)


def test_other_classes_are_told(runs, folder) -> None:
    for split in ("train", "test"):
        (folder / split / "disc").rename(folder / split / "ring")
    assert "has the classes bar, ring, square" in described(runs).test_fault


@pytest.mark.parametrize(
    ("entry", "why"), [(None, "does not say where it is"), ({"source": 3}, "is damaged"), ([], "is damaged")]
)
def test_a_manifest_that_does_not_say_leaves_upload_and_drawing(runs, entry, why) -> None:
    manifest = runs / "own" / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["checksum"], content["images_from"]
    manifest.write_text(json.dumps(content if entry is None else {**content, "images_from": entry}))
    shown = described(runs)
    assert (shown.test_images, why in shown.test_fault) == (0, True)
    assert [run.fault for run in shelf(Library(Runs(runs))).runs] == [""]


def test_a_folder_that_is_called_like_a_dataset_is_not_that_dataset(tmp_path, splits) -> None:
    folder = write_folder(tmp_path / "fashion-mnist")
    run = run_on(folder, tmp_path / "runs" / "own")
    library = Library(Runs(tmp_path / "runs"), tests={"fashion-mnist": splits.test})
    assert torch.equal(library.tests_of(library.runs.find("own")).images, load_splits(folder).test.images)
    shutil.copytree(run.path, tmp_path / "runs" / "known")
    entry = ImagesFrom(source="fashion-mnist", size=None, sha256=load_splits(folder).spec.sha256)
    keep_images_from(replace(run, path=tmp_path / "runs" / "known"), entry)
    assert library.tests_of(library.runs.find("known")) is splits.test


def test_nothing_is_downloaded(runs, monkeypatch) -> None:
    from memory_defense.studio import library as own_images

    asked = {}
    monkeypatch.setattr(own_images, "splits_of", lambda run, **options: asked.update(run=run, **options) or fail())

    def fail():
        raise own_images.DataNotFoundError("nowhere")

    assert described(runs).test_images == 0
    assert asked == {"run": RunDirectory(runs / "own"), "offline": True}


@pytest.mark.parametrize("key", ["path", "source", "data", "dir", "data_dir", "images_from"])
def test_no_request_names_a_path(runs, tmp_path, key) -> None:
    """Extra words in a query are ignored, extra fields of a message are refused."""
    other = str(write_folder(tmp_path / "other", test=5))
    with TestClient(create_app(Library(Runs(runs)), Workshop(seconds=20))) as client:
        plain = client.get("/api/tests", params={"run": "own"}).json()
        assert client.get("/api/tests", params={"run": "own", key: other}).json() == plain
        message = {"run": "own", "image": {"test": 0, key: other}, "attack": attack()}
        assert client.post("/api/play", json=message).status_code == 422
        assert client.get("/api/tests", params={"run": other}).status_code == 422


def test_the_page_knows_which_runs_share_their_images(runs, folder, tmp_path) -> None:
    run_on(folder, runs / "again")
    run_on(folder, runs / "larger", size=20)
    run_on(write_folder(tmp_path / "elsewhere" / "shapes", test=4), runs / "namesake")
    keys = {run.name: run.images for run in shelf(Library(Runs(runs))).runs}
    assert keys["own"] == keys["again"]
    assert len(set(keys.values())) == 3
    with TestClient(create_app(Library(Runs(runs)), Workshop(seconds=20))) as client:
        message = {"image": {"test": 0}, "attack": attack(options={"steps": 2})}
        assert client.post("/api/compare", json={"runs": ["own", "again"], **message}).status_code == 200
        refused = client.post("/api/compare", json={"runs": ["own", "larger"], **message})
    assert refused.status_code == 422
    assert "shapes (3 x 16 x 16, 3 classes)" in refused.json()["error"]
    assert "shapes (3 x 20 x 20, 3 classes)" in refused.json()["error"]


def test_an_attack_that_orders_four_classes_runs_on_three_and_says_how(runs) -> None:
    with TestClient(create_app(Library(Runs(runs)), Workshop(seconds=20))) as client:
        for name, options in (("apgd-t", {"steps": 2}), ("autoattack", {"queries": 20})):
            chosen = attack(attack=name, options=options)
            answer = client.post("/api/play", json={"run": "own", "image": {"test": 4}, "attack": chosen})
            assert answer.status_code == 200, answer.text
            assert any("the margin in place of DLR" in note for note in answer.json()["notes"])
