"""Hardening to be certified, end to end on a small folder: the classifier's bytes, its going on, its words."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from memory_defense.data.own import load_splits
from memory_defense.evaluation.record import Record
from memory_defense.recipes import hardened_certified
from memory_defense.recipes.hardened_certified import CertifiedOptions, certified_recipe
from memory_defense.systems.load import load
from memory_defense.tensorfiles import read_tensors
from memory_defense.workflows import harden_certified as workflow
from memory_defense.workflows.harden import weights_sha256
from memory_defense.workflows.harden_certified import check_gradient, harden_certified
from memory_defense.workflows.run_images import images_from
from memory_defense.workflows.run_recipe import recipe_of
from workflows.own_folder import PLACE, write_folder, write_net


class Users:
    """A user's folder: images, a module, weights."""

    def __init__(self, root) -> None:
        self.data = write_folder(root / "shapes", train=8, test=2)
        self.weights = write_net(root, self.data)
        self.splits = load_splits(self.data)
        self.source = images_from(self.data, None, self.splits.spec)

    def asked(self, **changes) -> CertifiedOptions:
        values = {"classifier": PLACE, "sigma": 0.1, "epochs": 1, "radii": (0.02, 0.05), "images": 4}
        values |= {"samples": 50, "selection": 10, "weights_sha256": weights_sha256(self.weights)}
        return CertifiedOptions(**(values | changes))

    def harden(self, out, progress=None, **changes):
        return harden_certified(
            self.asked(**changes), self.weights, self.splits, out, source=self.source, progress=progress
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
    small = dict.fromkeys(("small", "wide"), "tiny")
    model = hardened_certified.ModelSpec
    monkeypatch.setattr(
        hardened_certified, "ModelSpec", lambda **given: model(**(given | {"preset": small[given["preset"]]}))
    )
    yield
    sys.modules.pop("shapes_net", None)


@pytest.fixture
def done(users, root):
    """Harden once; later tests take what is finished."""
    return users.harden(root / "run")


def test_no_byte_of_the_users_weights_changes(done, users, root) -> None:
    brought, _ = read_tensors(users.weights)
    for run in (done.run, users.harden(root / "box", black_box=True).run):
        whole, _ = read_tensors(run.weights)
        kept = {name: value for name, value in whole.items() if name.startswith("classifier.")}
        assert {name.removeprefix("classifier.") for name in kept} == set(brought)
        for name, value in brought.items():
            assert torch.equal(kept[f"classifier.{name}"], value)


def test_the_run_loads_and_gives_back_its_recipe(done, users) -> None:
    defense = load(done.run.path)
    assert defense(users.splits.test.floats()).shape == (6, 3)
    assert recipe_of(done.run).sha256 == done.run.read()["recipe_sha256"]
    assert [stage.name for stage in recipe_of(done.run).stages] == ["denoise", "through"]


def test_every_number_of_the_text_is_a_records(done) -> None:
    path = done.run.path
    before, after = (Record.read(path / f"certified-{name}.json") for name in ("before", "after"))
    text = (path / "gained.txt").read_text()
    assert text == done.text + "\n"
    expected = [share for pair in zip(before.certified, after.certified, strict=True) for share in pair]
    expected += [done.clean, done.clean_denoised, after.clean, before.clean]
    found = re.findall(r"([\d.]+) % \(([\d.]+) to ([\d.]+)\)", text)
    assert found == [tuple(f"{100 * one:.1f}" for one in (share.accuracy, *share.ci95)) for share in expected]
    assert f"without a certificate {100 * done.clean.accuracy:.1f} %" in " ".join(before.notes)
    assert [one.epsilon for one in after.certified] == [0.02, 0.05]
    assert (before.images, after.images, after.certified[0].sigma, after.certified[0].n) == (4, 4, 0.1, 50)
    for said in ("Not promised", "none of whose weights changed", "through the classifier"):
        assert said in text


def test_the_same_call_does_nothing_twice_and_another_is_refused(done, users, root) -> None:
    files = [path for path in done.run.path.iterdir() if path.suffix in (".json", ".safetensors")]
    before = {path: path.stat().st_mtime_ns for path in files if path.name != "manifest.json"}
    assert len(before) == 5
    assert users.harden(root / "run") == done
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(ValueError, match="holds another run"):
        users.harden(root / "run", samples=60)


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
    out, stops, after = root / "stopped", 0, 3
    while True:
        try:
            again = users.harden(out, progress=_Stop(after))
            break
        except KeyboardInterrupt:
            stops, after = stops + 1, after + 6
    assert stops > 1
    assert again.text == done.text
    assert (out / "weights.safetensors").read_bytes() == (done.run.path / "weights.safetensors").read_bytes()


def test_the_memory_is_taught_slots_and_said(users) -> None:
    recipe = certified_recipe(users.asked(memory=True), "shapes", _images(users), 100)
    assert recipe.model.defense == "denoised-memory"
    assert recipe.stages[0].objective.slots > 0
    black_box = certified_recipe(users.asked(black_box=True), "shapes", _images(users), 100)
    assert [stage.name for stage in black_box.stages] == ["denoise"]
    assert black_box.model.defense == "denoised"


def test_a_gradient_is_wanted_through_the_classifier_alone(users) -> None:
    class Steps(nn.Sequential):
        def forward(self, images):
            return super().forward((images > 0.5).float())

    steps = Steps(nn.Flatten(), nn.Linear(768, 3))
    with pytest.raises(ValueError, match="--black-box"):
        check_gradient("mine:net", steps, users.splits.train)
    check_gradient("mine:net", nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), users.splits.train)


def test_radii_are_sigma_and_twice_sigma_where_none_is_given(users) -> None:
    assert users.asked(radii=(), samples=1000).asked_radii == (0.1, 0.2)
    assert users.asked(radii=(0.05, 0.02, 0.05)).asked_radii == (0.02, 0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"images": 0}, "images is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"radii": (-0.1,)}, "an L2 radius is at least 0"),
        ({"radii": (0.3,)}, "50 noisy copies can certify no more than 0.1"),
    ],
)
def test_what_cannot_be_asked_is_refused(users, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        users.asked(**changes)


def test_as_many_copies_as_are_advised_certify_the_radius(users) -> None:
    with pytest.raises(ValueError, match="give --samples") as caught:
        users.asked(radii=(0.25,))
    (advised,) = re.findall(r"--samples (\d+)", str(caught.value))
    assert users.asked(radii=(0.25,), samples=int(advised)).smoothing.largest_radius > 0.25


def test_too_few_images_and_too_large_ones_are_told(users) -> None:
    with pytest.raises(ValueError, match="at least 2 are needed"):
        certified_recipe(users.asked(), "shapes", _images(users), 1)
    with pytest.raises(ValueError, match="size is 200"):
        certified_recipe(users.asked(), "shapes", replace(_images(users), size=200), 9)


def test_time_is_measured_before_it_is_said(users) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    assert 0 < workflow._seconds_a_copy(model, users.splits.test, 0.1) < 1


def _images(users):
    from memory_defense.data.spec import image_spec

    return image_spec(users.splits.spec)
