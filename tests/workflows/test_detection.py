"""Detection of a trained run: into its record and back, with a flag that the run keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from evaluation.flagging_toy import Flip, Shaded, some
from memory_defense.attacks import Fgsm, Pgd
from memory_defense.evaluation.flag import keep_flag
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.place import per_image_path
from memory_defense.evaluation.provenance import provenance
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.results import write_per_image
from memory_defense.evaluation.robustness import Case, cross, evaluate
from memory_defense.recipes.fashion_mnist import TINY
from memory_defense.recipes.recipe import EvaluationPlan
from memory_defense.systems.load import load
from memory_defense.threat import L2, Linf
from memory_defense.workflows.assess import ANY_NORM, add_detection, calibrated, detection_cases, found_by
from paper.made_up import made_up_splits, tiny_run

PLAN = EvaluationPlan(images=20, linf=(Linf(0.3),), attacks={"pgd": Pgd(steps=2)}, l2=(L2(1.5),))


@pytest.fixture(scope="module")
def splits():
    return made_up_splits()


@pytest.fixture(scope="module")
def detected(tmp_path_factory, splits):
    run = tiny_run(tmp_path_factory.mktemp("runs") / "run", splits)
    defense = load(run.path)
    flag = calibrated(defense, splits.held_out, 0.1)
    keep_flag(run, flag)
    test = splits.test.first(PLAN.images)
    cases = cross(PLAN.attacks, ["end-to-end"], PLAN.linf)
    evaluation = evaluate(defense, test.floats(), test.labels, cases, options=Options(seed=3, ids=test.ids))
    write_per_image(per_image_path(run.record), evaluation.state, evaluation.cases)
    record = Record(
        defense="memory-defense/sound",
        recipe=TINY.name,
        dataset="fashion-mnist",
        images=len(test),
        clean=evaluation.clean,
        attacks=tuple(one.result for one in evaluation.outcomes),
        worst_case=evaluation.worst_cases(),
        audit=(),
        provenance=provenance(3, torch.device("cpu"), TINY.sha256),
    )
    record.write(run.record)
    return run, flag, record, add_detection(record, run.record, defense, splits, PLAN, flag)


def test_the_record_holds_every_score_and_attack_and_comes_back(detected) -> None:
    run, flag, record, whole = detected
    assert record.detection == ()
    assert Record.read(run.record) == whole
    assert whole.model_copy(update={"detection": ()}) == record
    kinds = {
        (one.score, one.attack, one.norm, one.fights_flag) for one in whole.detection if one.knowledge != "any"
    }
    expected = {("pgd", "linf"), ("pgd-margin", "l2")}
    assert kinds == {
        (score, *attack, fights)
        for score in ("reconstruction", "disagreement")
        for attack in expected
        for fights in (False, True)
    }
    thresholds = {one.threshold for one in whole.detection if one.score == "reconstruction"}
    assert thresholds == {flag.threshold}
    assert all(one.calibration_images == 50 and one.false_alarms == 0.1 for one in whole.detection)


def test_an_attack_that_fights_the_flag_is_flagged_no_more_often(detected) -> None:
    whole = detected[3]
    rejected: dict[tuple[str, str, bool], float] = {}
    for one in whole.detection:  # several adversaries fight it, each in its own way
        if one.attacked is not None:
            key = one.score, one.norm, one.fights_flag
            rejected[key] = min(rejected.get(key, 1.0), one.attacked.flagged.accuracy)
    pairs = [(rejected[key], rejected[(*key[:2], True)]) for key in rejected if not key[2]]
    assert len(pairs) == 4
    assert sum(fought for _, fought in pairs) <= sum(ignored for ignored, _ in pairs)


def test_loading_restores_the_flag_and_the_adversary_that_fights_it(detected, splits) -> None:
    run, flag = detected[:2]
    defense = load(run.path)
    assert (defense.flag_score, defense.flag_threshold) == (flag.score, flag.threshold)
    assert "silent" in defense.adaptive()
    scores = torch.sort(load(run.path).scores(splits.held_out.floats())["reconstruction"].detach()).values
    assert flag.threshold == pytest.approx(float(scores[45]))  # rank ceil(51 * 0.9) of 50


def test_what_the_evaluation_broke_is_taken_over_unless_it_fought_the_flag(tmp_path) -> None:
    defense, test, path = Shaded(), some(12, 1), tmp_path / "r.images.safetensors"
    defense.flag_threshold = 0.0
    large, small = Linf(1.0), Linf(0.6)
    half = test.images[:, 0, 0, 0].sub(0.5).abs() < 0.3  # the others move further than the small ball allows
    cases = [
        Case(name="flip", attack=Timid(), knowledge="end-to-end", ball=small),
        Case(name="flip", attack=Flip(0.9), knowledge="quiet", ball=large),
    ]
    evaluation = evaluate(defense, test.images, test.labels, cases, options=Options(seed=0, ids=test.ids))
    write_per_image(path, evaluation.state, evaluation.cases)
    rows = half.nonzero().squeeze(1)
    assert 0 < len(rows) < 12
    shuffled = test.take(torch.arange(11, -1, -1))
    sets = found_by(path, shuffled, ["quiet"])
    assert [(one.ball, one.whole) for one in sets] == [(small, False), (large, False)]
    for one in sets:  # in the large ball the others were broken by an attack that fights
        assert one.rows.tolist() == [11 - row for row in rows.tolist()]
        assert torch.equal(one.images[:, 0, 0, 0], 1 - test.images[rows, 0, 0, 0])
    assert len(found_by(path, shuffled, [])[1].rows) == 12
    assert found_by(path, shuffled, ["quiet", "end-to-end"]) == []


class Timid(Flip):
    """Turns over what may be turned over inside its ball."""

    def __init__(self) -> None:
        super().__init__(None)

    def __call__(self, model, images, labels, ball, draws):
        return torch.where(
            images[:, :1, :1, :1].sub(0.5).abs() < 0.3, super().__call__(model, images, labels, ball, draws), images
        )


def test_which_attacks_are_tried() -> None:
    margin, fgsm = Pgd(steps=3), Fgsm()
    balls = (Linf(0.1), Linf(0.2))
    white = EvaluationPlan(
        images=1, linf=balls, attacks={"fgsm": fgsm}, white_box={"margin": margin}, l2=(L2(1.0),)
    )
    assert detection_cases(white) == [
        ("margin", margin, balls[0]), ("margin", margin, balls[1]), ("pgd-margin", ANY_NORM, L2(1.0)),
    ]  # fmt: skip
    assert detection_cases(replace(white, white_box={}, l2=())) == [("fgsm", fgsm, ball) for ball in balls]
    assert detection_cases(replace(white, white_box={}, attacks={}))[0] == ("pgd-margin", ANY_NORM, balls[0])


def test_a_defense_without_scores_is_refused(splits) -> None:
    with pytest.raises(ValueError, match="--detection: Linear has no scores"):
        calibrated(torch.nn.Linear(1, 1), splits.held_out, 0.1)
