"""The binarisation test: what is planted is there, and a weak attack is told from a good one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from evaluation.audit.honest import HONEST, shapes
from evaluation.helpers_evaluation import Front, Shift, five_classes, some_images, some_labels
from memory_defense.attacks import Apgd, ApgdTargeted, Bim, FabTargeted, Fgsm, Pgd, Square
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.audit import binarisation as audit_binarisation
from memory_defense.evaluation.audit.binarisation import POINTS, at_most, binarisation, features_of, plant
from memory_defense.evaluation.audit.findings import Findings
from memory_defense.evaluation.audit.probes import surface_point
from memory_defense.evaluation.cases import cross
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.robustness import evaluate
from memory_defense.passes import regular
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf

BALLS = [Linf(0.03), L2(0.3)]
DRAWS = ImageDraws.of(5, "points", 64)


def whole(model, images):
    return model(images)


@pytest.mark.parametrize("ball", BALLS, ids=["linf", "l2"])
def test_what_is_planted_lies_in_the_ball_and_nothing_else_crosses(ball) -> None:
    images, network = some_images(), five_classes()
    readout, made, planted, _ = plant(network, whole, images, ball, DRAWS, classes=5)
    assert made.all()
    assert ball.contains(planted, images).all()
    answers = readout(planted)
    assert answers.shape == (64, 5)
    assert (answers.argmax(1) == 1).all(), "the planted image is adversarial: robust accuracy is 0 by construction"
    torch.testing.assert_close(readout(images)[:, :2], torch.tensor([0.0, -1.0]).expand(64, 2))
    crossing = torch.zeros(64, dtype=torch.int64)
    for number in range(POINTS):
        point = surface_point(ball, images, DRAWS.child(number))
        assert ball.contains(point, images).all()
        crossing += readout(point).argmax(1) == 1
    assert (crossing == 1).all(), "of all random points only the planted one crosses"


def test_the_next_best_point_scores_highest_of_those_that_do_not_cross() -> None:
    images, ball = some_images(), BALLS[0]
    made = plant(five_classes(), whole, images, ball, DRAWS, classes=5)
    scores = torch.stack(
        [made.readout(surface_point(ball, images, DRAWS.child(one)))[:, 1] for one in range(POINTS)]
    )
    torch.testing.assert_close(made.readout(made.next_best)[:, 1], scores.topk(2, 0).values[1])
    assert ball.contains(made.next_best, images).all()


def test_rows_keep_their_own_readout() -> None:
    images = some_images()
    readout = plant(five_classes(), whole, images, BALLS[0], DRAWS, classes=5).readout
    rows = torch.tensor([5, 3, 60])
    torch.testing.assert_close(readout.rows(rows)(images[rows] + 0.01), readout(images + 0.01)[rows])


def test_nothing_is_planted_where_the_answer_never_changes() -> None:
    made = plant(nn.Flatten(), lambda model, images: 0 * model(images), some_images(), BALLS[0], DRAWS, 5).made
    assert not made.any()


def test_features_are_what_enters_the_last_linear_layer() -> None:
    model, images = Front(), some_images()
    with features_of(regular(model), images) as features:
        found = features(regular(model), images[:13])
        torch.testing.assert_close(found, model.network[:-1](images[:13]))
        assert not torch.equal(found, model(images[:13]))
    behind = Front(back=lambda logits: 2 * logits)
    with features_of(regular(behind), images) as features:
        torch.testing.assert_close(features(regular(behind), images), behind(images))
    for module in (*model.modules(), *behind.modules()):
        assert not module._forward_hooks


def found(attacks, *, model=None, images=64, **options):
    defense = Undefended(model or Front())
    cases = cross(attacks, ["end-to-end"], [Linf(0.03)])
    evaluation = evaluate(defense, some_images()[:images], some_labels()[:images], cases, options=Options(seed=0))
    return binarisation(Findings(defense, evaluation, classes=5, seed=0, **options))


@pytest.mark.parametrize(
    "attack",
    [
        Fgsm(),
        Bim(),
        Pgd(steps=10),
        Pgd(steps=10, loss="margin"),
        Pgd(steps=10, loss="dlr"),
        Apgd(steps=10),
        ApgdTargeted(steps=10, targets=3),
        FabTargeted(steps=10, targets=3, stop_when_fooled=True),
    ],
    ids=repr,
)
def test_every_gradient_attack_passes_on_an_honest_network(attack) -> None:
    line = found({"attack": attack})
    assert (line.verdict, line.value) == ("pass", 1.0)


@pytest.mark.parametrize("seed", [3, 9])
def test_an_honest_network_with_several_hills_is_believed(seed) -> None:
    """Begun at the image alone, the attack stops short on a tenth of what is planted in these."""
    images, labels = shapes(10, 32, seed=5)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = HONEST["attention"](1 if seed == 3 else seed)
    cases = cross({"pgd": Pgd(steps=20, loss="margin")}, ["end-to-end"], [Linf(0.15)])
    defense = Undefended(network)
    evaluation = evaluate(defense, images, labels, cases, options=Options(seed=0))
    line = binarisation(Findings(defense, evaluation, classes=10, seed=0))
    assert line.verdict == "pass"
    assert "on a second try" in line.meaning


def test_so_few_by_chance() -> None:
    assert at_most(32, 32) == pytest.approx(1)
    assert at_most(31, 32) == pytest.approx(1 - 0.95**32)
    assert at_most(27, 32) < 0.05 < at_most(28, 32)
    assert at_most(0, 8) == pytest.approx(0.05**8)


@pytest.mark.parametrize(("found", "rounds"), [(32, 1), (20, 1), (29, 4), (31, 1)])
def test_points_are_planted_until_there_is_no_doubt(monkeypatch, found, rounds) -> None:
    asked = []
    count = audit_binarisation._Count(32, 32, found, 0, 0)
    monkeypatch.setattr(audit_binarisation, "_round", lambda *arguments: asked.append(arguments) or count)
    findings = SimpleNamespace(too_long=lambda *_: "")
    case = SimpleNamespace(attack=Pgd(steps=2))
    total = audit_binarisation._counted(findings, Linf(0.1), [case], torch.arange(100))
    assert len(asked) == rounds
    assert total == (32 * rounds, 32 * rounds, found * rounds, 0, 0)
    shown = [one[3].tolist() for one in asked]
    assert shown[0] == list(range(32)), "the first images"
    assert len({tuple(one) for one in shown}) == rounds, "others in every round"
    monkeypatch.setattr(audit_binarisation, "_round", lambda *_: count._replace(found=29))
    findings.too_long = lambda *_: "it would take too long"
    assert audit_binarisation._counted(findings, Linf(0.1), [case], torch.arange(100)).usable == 32


@pytest.mark.parametrize("attack", [Shift(size=0.0), Pgd(steps=1, step_size=1e-4, random_start=False)], ids=repr)
def test_an_attack_that_gets_nowhere_fails(attack) -> None:
    line = found({"attack": attack})
    assert line.verdict == "fail"
    assert line.value < 0.2
    assert found({"attack": attack, "pgd": Pgd(steps=10)}).verdict == "pass", "the best of the attacks counts"


def test_why_it_was_not_run(monkeypatch) -> None:
    def reason(*arguments, **options) -> str:
        line = found(*arguments, **options)
        assert (line.verdict, line.value) == ("not run", None)
        return line.meaning.partition("not run: ")[2]

    pgd = {"pgd": Pgd(steps=2)}
    assert reason(pgd, binarisation=False) == "not asked for"
    assert reason({"square": Square(queries=2)}).startswith("no gradient attack")
    assert reason({}).startswith("no gradient attack")
    assert reason(pgd, images=4).startswith("fewer than 8")
    still = found(pgd, model=Front(lambda images: 0 * images))
    assert (still.verdict, still.value) == ("fail", 0.0)
    assert "the same all over the ball" in still.meaning
    monkeypatch.setattr(audit_binarisation, "SMALL_SET", 10)
    assert reason(pgd).startswith("more than 10 images")
    assert found(pgd, binarisation=True).verdict == "pass"
    monkeypatch.setattr(audit_binarisation, "BUDGET", 0.0)
    assert reason(pgd, binarisation=True).startswith("the attacks would take more than 0 s")


def test_costs_are_judged_by_the_evaluation() -> None:
    def run(seconds: float, done: int):
        return SimpleNamespace(name=str(seconds)), SimpleNamespace(seconds=seconds, done=torch.ones(done))

    runs = [run(10.0, 32), run(40.0, 64), run(1.0, 32)]  # 10, 20 and 1 seconds for 32 images
    assert [case.name for case in audit_binarisation._affordable(runs, 32)] == ["10.0"]
    assert [case.name for case in audit_binarisation._affordable(runs, 16)] == ["10.0", "40.0", "1.0"]
