"""Suites and attacks at the doors of the command line: few classes, lists, and what cannot be tried."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from faults.helpers_faults import memdef, refused
from memory_defense.data.own import load_splits
from memory_defense.evaluation.record import Record
from memory_defense.recipes.adapt import adapt
from memory_defense.recipes.fashion_mnist import TINY
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.build import build_defense
from memory_defense.training.checkpoint import save_weights
from memory_defense.workflows.run_images import images_from, keep_images_from
from workflows.own_folder import write_folder

NET = """
import torch
from torch import nn

def build(classes, channels, size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))

def sigmoid(classes, channels, size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, 1))

class Hard(nn.Module):
    def __init__(self, classes, channels, size):
        super().__init__()
        self.net = build(classes, channels, size)

    def forward(self, images):
        return self.net(images.detach())
"""
NAMES = ("bar", "disc", "square")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a module; images and weights come with `brought`."""
    (tmp_path / "few_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def brought(classes: int, *, test: int = 4) -> tuple[object, ...]:
    """Write images of so many classes and a classifier; return the options that name them."""
    data = write_folder(Path("data"), train=8, test=test, classes=NAMES[:classes])
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, classes))
    train = load_splits(data).train
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(40):
        loss = nn.functional.cross_entropy(net(train.floats()), train.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_file(net.state_dict(), "net.safetensors")
    return "few_net:build", "--weights", "net.safetensors", "--data", "data"


@pytest.mark.parametrize("classes", [2, 3])
def test_the_suites_run_with_few_classes(place, classes) -> None:
    model = brought(classes)
    for suite in ("fast", "autoattack", "rand", "brief,gama"):
        said = memdef("evaluate", *model, "--epsilon", "0.02", "--attacks", suite, "--out", "r.json")
        assert said.status == 0, said
        record = Record.read(Path("r.json"))
        assert record.worst_case[0].tried == round(record.clean.accuracy * record.images)
        changed = [stage for stage in record.cascades[0].stages if "in place of DLR" in stage.note]
        expected = {"apgd-t"} if suite != "rand" else {"apgd-dlr"} if classes == 2 else set()
        assert {stage.attack for stage in changed} == expected
        assert all(stage.parameters["loss"] == "margin" for stage in changed)
        for name in expected:
            assert f"{name}: the margin in place of DLR" in said.err
            assert "the margin in place of DLR" in " ".join(said.out.split())


def test_hardening_two_classes_runs_through(place) -> None:
    quick = ("--attacks", "apgd-t", "--attacks", "fgsm", "--epochs", "1", "--images", "4", "--no-fine-tune")
    said = memdef("harden", *brought(2), *quick, "--out", "run")
    assert said.status == 0, said
    for name in ("original.json", "record.json"):
        record = Record.read(Path("run") / name)
        assert {stage.attack for stage in record.cascades[0].stages} == {"apgd-t", "fgsm"}
        assert any("apgd-t: the margin in place of DLR" in note for note in record.notes)
    assert json.loads(Path("run/manifest.json").read_text())["hardened"]["attacks"] == "apgd-t,fgsm"
    again = memdef("evaluate", "run", "--attacks", "hop-skip-jump,square", "--images", "2", "--out", "more.json")
    assert again.status == 0, again
    assert {stage.attack for stage in Record.read(Path("more.json")).cascades[0].stages} == {
        "hop-skip-jump",
        "square",
    }


def test_a_run_with_three_classes_is_attacked_by_what_its_plan_lacks(place) -> None:
    data = write_folder(Path("data"), train=8, test=2)
    splits = load_splits(data)
    adapted, run = adapt(TINY, splits.spec), RunDirectory(Path("run"))
    run.path.mkdir()
    manifest = run.begin(adapted, 0, len(splits.train), resume=False)
    save_weights(run.weights, build_defense(adapted.model, 0))
    run.write({**manifest, "complete": True})
    keep_images_from(run, images_from(data, None, splits.spec))
    known = ("--knowledge", "end-to-end", "--images", "6")
    said = memdef("evaluate", "run", "--attacks", "fgsm,apgd-t,ddn", *known, "--out", "r.json")
    assert said.status == 0, said
    record = Record.read(Path("r.json"))
    assert {one.attack for one in record.attacks} == {"fgsm"}, "the plan's own, in its table"
    stages = {(cascade.norm, stage.attack) for cascade in record.cascades for stage in cascade.stages}
    assert stages == {("linf", "apgd-t"), ("l2", "apgd-t"), ("l2", "ddn")}
    assert "ddn: not in linf balls, as it works in l2 only" in record.notes
    assert "ddn: not in linf balls" in said.err
    refused(memdef("evaluate", "run", "--attacks", "square", "--knowledge", "selector"), "none of the attacks")
    refused(
        memdef("evaluate", "run", "--attacks", "square", "--knowledge", "end2end"), "did you mean 'end-to-end'?"
    )
    refused(memdef("evaluate", "run", "--attacks", "squar"), "did you mean 'square'?")


@pytest.mark.parametrize("attacks", ["fast,fab-t", "FAST , Fab-T", "fast,fab-t,fast", "fab-t,fast"])
def test_a_list_may_mix_suites_and_attacks(place, attacks) -> None:
    said = memdef("evaluate", *brought(3, test=2), "--epsilon", "0.02", "--attacks", attacks, "--out", "r.json")
    assert said.status == 0, said
    stages = [stage.attack for stage in Record.read(Path("r.json")).cascades[0].stages]
    assert sorted(stages) == sorted(
        ["pgd-margin", "square-100", "pgd-ce", "apgd-t", "pgd-restarts", "square", "fab-t"]
    )


def test_one_logit_is_refused_with_the_way_to_make_two(place) -> None:
    _, *images = brought(2)
    save_file(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 1)).state_dict(), "net.safetensors")
    for command in (
        ("evaluate", "few_net:sigmoid", *images, "--epsilon", "0.1"),
        ("harden", "few_net:sigmoid", *images),
    ):
        refused(
            memdef(*command, "--out", "never"), "answers with 1 logit", "torch.cat([torch.zeros_like(z), z], 1)"
        )
    assert not Path("never").exists()


def test_a_model_that_no_attack_could_follow_gets_no_worst_case(place) -> None:
    _, *images = brought(2)
    state = load_file("net.safetensors")
    save_file({f"net.{name}": one for name, one in state.items()}, "net.safetensors")
    model = ("few_net:Hard", *images)
    said = memdef("evaluate", *model, "--epsilon", "0.1", "--attacks", "pgd,fab-t", "--out", "r.json")
    assert said.status == 0, said
    shown = " ".join(said.out.split())
    assert "not tried" in shown
    assert Record.read(Path("r.json")).worst_case[0].accuracy is None
    page = memdef("report", "r.json", "--out", "r.html")
    assert page.status == 0, page
    assert "so nothing is known about the worst case" in Path("r.html").read_text()
    asked = memdef("evaluate", *model, "--epsilon", "0.1", "--attacks", "pgd,square", "--out", "s.json")
    assert asked.status == 0, asked
    assert Record.read(Path("s.json")).worst_case[0].accuracy is not None
