"""``memdef evaluate --detection``: what it writes, keeps and prints, and what it refuses."""

from __future__ import annotations

import sys

import pytest
import torch

from memory_defense.cli import main
from memory_defense.evaluation.flag import DEFAULT_FALSE_ALARMS, kept_flag
from memory_defense.evaluation.place import per_image_path
from memory_defense.evaluation.provenance import provenance
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.results import write_per_image
from memory_defense.evaluation.robustness import cross, evaluate
from memory_defense.workflows import assess, run_images
from paper.made_up import made_up_splits, tiny_run

SPLITS = made_up_splits(held_out=100)
IMAGES = 20


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("runs") / "run", SPLITS)


def brief(recipe, run, defense, splits, *, out, options) -> Record:
    """As `assess`, on few images, with one attack and without the audit."""
    test = splits.test.first(IMAGES)
    attacks = {"fgsm": recipe.evaluation.attacks["fgsm"]}
    found = evaluate(
        defense,
        test.floats(),
        test.labels,
        cross(attacks, ["end-to-end"], recipe.evaluation.linf),
        options=options,
    )
    record = Record(
        defense="memory-defense",
        recipe=recipe.name,
        dataset="fashion-mnist",
        images=IMAGES,
        clean=found.clean,
        attacks=tuple(one.result for one in found.outcomes),
        worst_case=found.worst_cases(),
        audit=(),
        provenance=provenance(options.seed, torch.device("cpu"), recipe.sha256),
    )
    write_per_image(per_image_path(out or run.record), found.state, found.cases)
    record.write(out or run.record)
    return record


@pytest.fixture
def memdef(monkeypatch, capsys):
    monkeypatch.setattr(run_images, "splits_of", lambda *_, **__: SPLITS)
    monkeypatch.setattr(assess, "assess", brief)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["memdef", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_the_record_the_manifest_and_the_table(run, memdef) -> None:
    status, out, err = memdef("evaluate", run.path, "--detection", "--attacks", "fgsm", "--out", run.record)
    assert status == 0, err
    record = Record.read(run.record)
    flag = kept_flag(run.read(), run.manifest_path)
    assert (flag.false_alarms, flag.calibration_images, flag.score) == (DEFAULT_FALSE_ALARMS, 100, "reconstruction")
    assert {one.score: one.threshold for one in record.detection}["reconstruction"] == flag.threshold
    assert {one.attack for one in record.detection if one.knowledge != "any"} == {"fgsm", "pgd-margin"}
    assert "Detection" in out
    assert "fought" in out
    assert memdef("evaluate", run.path, "--out", run.record)[0] == 0
    assert Record.read(run.record).detection == ()


def test_another_rate_replaces_what_the_run_keeps(run, memdef) -> None:
    arguments = ("evaluate", run.path, "--attacks", "fgsm", "--out", run.record, "--detection", "--false-alarms")
    assert memdef(*arguments, 0.05)[0] == 0
    tight = kept_flag(run.read(), run.manifest_path)
    assert memdef(*arguments, 0.25)[0] == 0
    loose = kept_flag(run.read(), run.manifest_path)
    assert (tight.false_alarms, loose.false_alarms) == (0.05, 0.25)
    assert loose.threshold < tight.threshold
    status, _, err = memdef(*arguments, 0.001)
    assert status == 2
    assert "use at least 999" in err
    assert kept_flag(run.read(), run.manifest_path) == loose


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--false-alarms", "0.05"), "only together with --detection"),
        (("--detection", "--false-alarms", "1.5"), "false_alarms is 1.5"),
        (("--detection", "--knowledge", "selector"), "not together with --detection"),
    ],
)
def test_mistakes_are_named(run, memdef, arguments, reason) -> None:
    status, _, err = memdef("evaluate", run.path, *arguments, "--out", run.path / "never.json")
    assert status == 2
    assert reason in err
    assert not (run.path / "never.json").exists()


def test_a_classifier_of_ones_own_has_no_held_out_images(memdef) -> None:
    status, _, err = memdef("evaluate", "some.module:build", "--detection", "--data", "x", "--epsilon", "8/255")
    assert status == 2
    assert "--detection: only for a run directory" in err
