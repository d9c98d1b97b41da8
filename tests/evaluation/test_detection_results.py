"""A defense whose scores and errors are known: what detection says of it, and what its thresholds never see."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evaluation.flagging_toy import Flip, Shaded, some
from memory_defense.attacks import ApgdTargeted
from memory_defense.contracts import Flagging
from memory_defense.data.images import ImageSet
from memory_defense.evaluation.detection_results import AttackedSet, detect, fighting
from memory_defense.evaluation.flag import Flag, calibrate, flagging, score_images
from memory_defense.evaluation.metrics import accuracy
from memory_defense.evaluation.options import Options
from memory_defense.threat import Linf


def run(
    column: float | None = 0.9, *, rate: float = 0.1, test: ImageSet | None = None, held: ImageSet | None = None
):
    attacks = [("flip", Flip(column), Linf(1.0))]
    test, held = test or some(40, 1), held or some(99, 2)
    return detect(Shaded(), test, held, Options(seed=0), attacks=attacks, false_alarms=rate)


def test_a_score_that_separates_and_one_that_does_the_opposite() -> None:
    results = run()
    assert [(one.score, one.fights_flag) for one in results] == [
        ("bright", False), ("bright", True), ("dark", False), ("dark", True),
    ]  # fmt: skip
    bright, dark = results[0], results[2]
    assert (bright.attacked.auroc, bright.fooled.auroc, bright.fooled.tpr_at_1) == (1.0, 1.0, 1.0)
    assert (dark.attacked.auroc, dark.fooled.tpr_at_5) == (0.0, 0.0)
    assert bright.attacked.images == bright.fooled.images == 40
    assert bright.attacked_right.accuracy == 1.0  # every image fooled the defense, and every one was rejected
    assert dark.attacked_right.accuracy == 0.0
    assert bright.clean_right.accuracy == pytest.approx(1 - bright.clean_flagged.accuracy)
    assert {(one.calibration_images, one.false_alarms) for one in results} == {(99, 0.1)}


def test_images_that_are_wrong_when_clean_count_as_wrong_under_attack() -> None:
    test = some(40, 1)
    test.labels[:10] = 1 - test.labels[:10]
    bright = run(test=test)[0]
    assert bright.attacked.images == 30
    assert bright.attacked_right.accuracy == 0.75
    assert bright.clean_right.accuracy <= 0.75


def test_a_defense_that_is_never_right_is_not_attacked() -> None:
    test = some(12, 1)
    test.labels[:] = 1 - test.labels
    for one in run(test=test):
        assert (one.attacked, one.fooled) == (None, None)
        assert (one.clean_right.accuracy, one.attacked_right.accuracy) == (0.0, 0.0)


def test_the_threshold_never_sees_a_test_image() -> None:
    plain, moved = run(), run(test=some(40, 1, low=0.6, high=1.0))
    assert [one.threshold for one in plain] == [one.threshold for one in moved]
    other = run(held=some(99, 2, low=0.6, high=1.0))
    assert all(one.threshold != two.threshold for one, two in zip(plain, other, strict=True))
    held = some(99, 2)
    for result, values in (
        (plain[0], held.images[:, 0, :, -1].mean(1)),
        (plain[2], 1 - held.images[:, 0, :, -1].mean(1)),
    ):
        assert result.threshold == pytest.approx(float(values.sort().values[89]))  # rank ceil(100 * 0.9)


def test_calibration_asks_about_held_out_images_alone() -> None:
    defense, held = Shaded(), some(99, 2)
    flag = calibrate(defense, held, false_alarms=0.05)
    known = {tuple(image.flatten().tolist()) for image in held.images}
    asked = [tuple(image.flatten().tolist()) for part in defense.seen for image in part]
    assert set(asked) == known
    assert (flag.score, flag.calibration_images, defense.flag_threshold) == ("dark", 99, None)


def test_the_attack_that_fights_sees_the_score_it_is_judged_by() -> None:
    """The adaptation is asked for while this very score and threshold are on the defense."""
    seen: list[tuple[str, float | None]] = []

    class Telling(Shaded):
        def adaptive(self):
            seen.append((self.flag_score, self.flag_threshold))
            return super().adaptive()

    defense = Telling()
    attacks = [("flip", Flip(0.9), Linf(1.0))]
    results = detect(defense, some(20, 1), some(99, 2), Options(seed=0), attacks=attacks, false_alarms=0.1)
    thresholds = {one.score: one.threshold for one in results}
    assert {one for one in seen if one[1] is not None} == set(thresholds.items())
    assert {one.knowledge for one in results if one.fights_flag} == {"quiet"}
    assert (defense.flag_score, defense.flag_threshold) == ("dark", None)


def test_sets_found_elsewhere_are_compared_and_need_not_be_whole() -> None:
    test = some(40, 1)
    rows = torch.arange(5)
    images = test.images[rows].clone()
    images[:, 0, :, -1] = 0.9
    found = AttackedSet(
        attack="old", knowledge="any", ball=Linf(1.0), rows=rows, images=images,
        fooled=torch.ones(5, dtype=torch.bool), whole=False,
    )  # fmt: skip
    bright, dark = detect(Shaded(), test, some(99, 2), Options(seed=0), attacks=[], false_alarms=0.1, found=[found])
    assert bright.attacked is None
    assert (bright.fooled.images, bright.fooled.auroc, bright.attacked_right) == (5, 1.0, accuracy(40, 40))
    assert dark.attacked_right == accuracy(35, 40)


def test_an_attack_that_fools_nothing_has_no_separation_of_the_fooled() -> None:
    class Idle(Flip):
        def __call__(self, model, images, labels, ball, draws):
            return images

    attacks = [("idle", Idle(None), Linf(1.0))]
    first = detect(Shaded(), some(40, 1), some(99, 2), Options(seed=0), attacks=attacks, false_alarms=0.1)[0]
    assert first.fooled is None
    assert (first.attacked.images, first.attacked.auroc) == (40, 0.5)
    assert first.attacked_right.accuracy == 1.0


def test_flagging_comes_and_goes() -> None:
    defense = Shaded()
    assert isinstance(defense, Flagging)
    assert fighting(defense) == []
    with flagging(defense, Flag(score="bright", threshold=0.7, false_alarms=0.1, calibration_images=9)):
        assert fighting(defense) == ["quiet"]
        assert defense.suspicious(torch.full((1, 1, 4, 4), 0.8)).tolist() == [True]
    assert (defense.flag_score, defense.flag_threshold) == ("dark", None)


def test_scores_do_not_depend_on_company_and_are_checked() -> None:
    defense, images = Shaded(), some(300, 3).images
    whole = score_images(defense, images)
    assert torch.equal(torch.cat([score_images(defense, part)["dark"] for part in images.split(7)]), whole["dark"])

    class Broken(Shaded):
        wrong = "nan"

        def scores(self, images):
            dark = super().scores(images)["dark"]
            return {"dark": dark / 0 if self.wrong == "nan" else dark[:, None]}

    broken = Broken()
    with pytest.raises(ValueError, match="NaN or infinite"):
        score_images(broken, images[:3])
    broken.wrong = "shape"
    with pytest.raises(ValueError, match="expected"):
        score_images(broken, images[:3])


def test_what_cannot_be_evaluated_is_refused() -> None:
    with pytest.raises(ValueError, match="too few for 1 %"):
        run(rate=0.01, held=some(98, 2))
    with pytest.raises(ValueError, match="publishes no scores"):
        detect(nn.Identity(), some(4), some(99), Options(seed=0), attacks=[], false_alarms=0.1)
    with pytest.raises(ValueError, match="did you mean 'dark'"):
        calibrate(Shaded(), some(99), false_alarms=0.1, score="darkk")


def test_two_classes_are_attacked_on_the_margin_where_four_would_be_ordered() -> None:
    attacks = [("apgd-t", ApgdTargeted(steps=2), Linf(0.1))]
    found = detect(Shaded(), some(8, 1), some(99, 2), Options(seed=0), attacks=attacks, false_alarms=0.1)
    assert {one.parameters["loss"] for one in found} == {"margin"}
