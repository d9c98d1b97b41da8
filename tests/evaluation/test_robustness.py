"""The evaluator against defenses whose robust accuracy is known exactly."""

import pytest
import torch

from evaluation.helpers_evaluation import BrightnessDefense, Shift, SlotToy, grey
from memory_defense.attacks import Fgsm, Pgd
from memory_defense.evaluation.metrics import NO_ANSWER, accuracy, predict
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.robustness import Case, cross, evaluate
from memory_defense.threat import L2, Linf

LEVELS = [0.3, 0.45, 0.58, 0.66, 0.9, 0.2]
LABELS = torch.tensor([0, 0, 1, 1, 1, 1])  # the last one is misclassified when clean


def run(cases, defense=None, levels=LEVELS, labels=LABELS, **options):
    return evaluate(defense or BrightnessDefense(), grey(levels), labels, cases, options=Options(seed=0), **options)


def case(epsilon: float, attack=None, knowledge: str = "end-to-end", **options) -> Case:
    name = type(attack or Pgd()).__name__.lower()
    return Case(name=name, attack=attack or Pgd(steps=10), knowledge=knowledge, ball=Linf(epsilon), **options)


@pytest.mark.parametrize("epsilon", [0.0, 0.04, 0.06, 0.1, 0.17, 0.25, 0.5])
def test_robust_accuracy_is_the_one_known_by_construction(epsilon) -> None:
    expected = [abs(level - 0.5) > epsilon for level in LEVELS[:5]] + [False]
    evaluation = run([case(epsilon)])
    assert evaluation.outcomes[0].robust.tolist() == expected
    assert evaluation.outcomes[0].result.accuracy == pytest.approx(sum(expected) / 6)
    assert evaluation.clean.accuracy == pytest.approx(5 / 6)


def test_worst_case_is_per_image_and_nested() -> None:
    cases = [case(0.1), case(0.25, Fgsm()), case(0.17, Shift(size=0.0))]
    worst = {one.ball.epsilon: one.robust.tolist() for one in run(cases).broken}
    assert worst[0.1] == [True, False, False, True, True, False]
    assert worst[0.17] == worst[0.1]  # the weak attack of this ball adds nothing, the smaller ball's images count
    assert worst[0.25] == [False, False, False, False, True, False]


def test_curve_cases_stay_out_of_the_list_but_their_images_count() -> None:
    cases = [case(0.1, Shift(size=0.0)), case(0.06, purpose="curve")]
    evaluation = run(cases)
    assert [one.epsilon for one in evaluation.worst_cases()] == [0.1]
    assert evaluation.broken[0].robust.tolist() == [True, False, True, True, True, False]
    assert evaluation.outcomes[1].result.parameters["purpose"] == "curve"


def test_breaking_images_really_break() -> None:
    evaluation = run([case(0.1), case(0.25)])
    for one in evaluation.broken:
        images = one.images[:]
        answers = predict(BrightnessDefense(), images)
        assert ((answers == LABELS) == one.robust).all()
        assert one.ball.contains(images, evaluation.images[:]).all()
        assert ((one.breaker >= 0) == (~one.robust & evaluation.correct)).all()


def test_norms_do_not_mix() -> None:
    cases = [case(0.25), Case(name="pgd", attack=Pgd(steps=5), knowledge="end-to-end", ball=L2(0.1))]
    by_norm = {one.ball.norm: one.robust.float().mean().item() for one in run(cases).broken}
    assert by_norm["l2"] > by_norm["linf"]


def test_the_true_defense_judges_and_transfer_is_pushed() -> None:
    outcome = run([case(0.3, Shift(size=0.21), knowledge="other")]).outcomes[0]
    assert outcome.result.parameters["transfer"] is True
    assert outcome.robust.tolist() == [False, False, False, False, True, False]


def test_fixed_slots_keep_what_a_direct_attack_breaks() -> None:
    defense = SlotToy()
    cases = cross({"pgd": Pgd(steps=10)}, ["fixed-slots", "selector"], [Linf(0.3)])
    kept, broken = run(cases, defense).outcomes
    assert kept.result.accuracy > broken.result.accuracy
    assert broken.result.accuracy == pytest.approx(1 / 6)


def test_passes_and_distances_are_measured() -> None:
    result = run([case(0.1, Fgsm())]).outcomes[0].result
    assert result.backward_passes == 5  # the misclassified image is not attacked
    assert result.forward_passes >= 5
    assert result.median_distance == pytest.approx(0.1, abs=1e-6)
    assert run([case(0.01)]).outcomes[0].result.median_distance is None


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (Shift(size=0.2), "outside its linf ball"),
        (Shift(size=0.0, value=float("nan")), "outside its linf ball"),
    ],
)
def test_a_cheating_attack_is_refused(attack, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        run([case(0.1, attack)])


def test_leaving_the_pixel_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        run([case(0.3, Shift(size=0.0, value=-0.2))], levels=[0.05], labels=torch.tensor([0]))


@pytest.mark.parametrize("levels", [[0.9], [0.2, 0.1]])
def test_all_wrong_and_none_fooled(levels) -> None:
    wrong = torch.tensor([0 if level > 0.5 else 1 for level in levels])
    evaluation = run([case(0.1)], levels=levels, labels=wrong)
    assert evaluation.clean.accuracy == 0
    assert evaluation.worst_cases()[0].accuracy is None, "nothing was left to attack"
    right = 1 - wrong
    assert run([case(0.01)], levels=levels, labels=right).worst_cases()[0].accuracy == 1


def test_the_defense_is_left_as_it_was() -> None:
    defense = BrightnessDefense().train()
    run([case(0.1)], defense)
    assert defense.training
    assert defense.scale.requires_grad
    assert defense.scale.grad is None


def test_unknown_knowledge_is_named() -> None:
    with pytest.raises(ValueError, match="'end-to-end'"):
        run([case(0.1, knowledge="end2end")])


def test_bad_inputs() -> None:
    with pytest.raises(ValueError, match="x / 255"):
        evaluate(BrightnessDefense(), grey(LEVELS) * 255, LABELS, [case(0.1)], options=Options(seed=0))
    with pytest.raises(ValueError, match="one for each image"):
        evaluate(BrightnessDefense(), grey(LEVELS), LABELS[:2], [case(0.1)], options=Options(seed=0))


def test_predict_refuses_what_is_not_logits() -> None:
    with pytest.raises(ValueError, match="expected logits"):
        predict(lambda images: images, grey([0.1]))
    assert predict(lambda images: torch.full((len(images), 2), torch.nan), grey([0.1])).tolist() == [NO_ANSWER]


def test_wilson_interval_against_its_formula() -> None:
    z, n, p = 1.959963984540054, 50, 0.8
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    low, high = accuracy(40, 50).ci95
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-9)
    assert accuracy(torch.tensor([True, True])).ci95[1] == 1.0
