"""The mixture against hand computation; its numbers against a search by hand; what it promises, attacked."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.attacks import Pgd
from memory_defense.contracts import Adaptive, Certifying, Defense, Flagging, transfers_of
from memory_defense.defenses import mixture as module
from memory_defense.defenses.mixture import Choice, HeldOut, Mixture, Settings, build_mixture, choose, fit
from memory_defense.randomness import ImageDraws, seeded
from memory_defense.threat import Linf

PIXELS, CLASSES = 6, 4


def line(seed: int, scale: float = 1.0) -> nn.Module:
    with seeded(seed, "line"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, CLASSES))
    with torch.no_grad():
        net[1].weight *= scale
    return net


def images_of(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 2, 3, generator=torch.Generator().manual_seed(seed))


def normed(logits: list[float]) -> list[float]:
    mean = sum(logits) / len(logits)
    variance = sum((one - mean) ** 2 for one in logits) / len(logits)
    return [(one - mean) / math.sqrt(variance + 1e-5) for one in logits]


def softmax(values: list[float]) -> list[float]:
    return [math.exp(one) / sum(map(math.exp, values)) for one in values]


def test_alone_each_classifier_is_what_it_was() -> None:
    robust, accurate, images = line(0), line(1), images_of(40)
    only_accurate = Mixture(robust, accurate, Settings(weight=0))
    assert torch.allclose(only_accurate(images), accurate(images).log_softmax(1), atol=1e-6)
    for clamp in ("gelu", "relu"):
        only_robust = Mixture(robust, accurate, Settings(weight=1), clamp)
        expected = only_robust.transformed(robust(images)).log_softmax(1)
        assert torch.allclose(only_robust(images), expected, atol=1e-6)
        assert torch.equal(only_robust(images).argmax(1), robust(images).argmax(1))


@pytest.mark.parametrize("clamp", ["gelu", "relu"])
def test_a_mixture_is_what_hand_computation_gives(clamp) -> None:
    settings = Settings(weight=0.7, scale=1.5, power=2.5, offset=-0.25)
    mixture = Mixture(nn.Identity(), nn.Identity(), settings, clamp)
    robust, accurate = [1.0, -2.0, 0.5, 3.0], [0.0, 4.0, 1.0, -1.0]

    def clamped(one: float) -> float:
        return max(one, 0.0) if clamp == "relu" else one * 0.5 * (1 + math.erf(one / math.sqrt(2)))

    h = [clamped(one - 0.25) for one in normed(robust)]
    transformed = [1.5 * math.copysign(abs(one) ** 2.5, one) for one in h]
    expected = [math.log(0.3 * a + 0.7 * r) for a, r in zip(softmax(accurate), softmax(transformed), strict=True)]
    given = torch.tensor([robust]), torch.tensor([accurate])
    assert mixture.transformed(given[0])[0].tolist() == pytest.approx(transformed, abs=1e-4)
    assert mixture.answer(*given)[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_where_the_robust_one_leads_far_enough_no_accurate_classifier_changes_the_answer() -> None:
    draws = torch.Generator().manual_seed(0)
    robust = 3 * torch.randn(500, CLASSES, generator=draws)
    changed = 0
    for settings in (Settings(weight=0.6, scale=2, power=2), Settings(weight=0.8, scale=1, power=3, offset=-0.5)):
        mixture = Mixture(nn.Identity(), nn.Identity(), settings)
        alone = mixture.transformed(robust).softmax(1)
        two = alone.topk(2).values
        leads = two[:, 0] - two[:, 1] > 1.0001 * (1 - settings.weight) / settings.weight
        for target in range(CLASSES):  # certain of any class
            accurate = 1e4 * F.one_hot(torch.full((500,), target), CLASSES).float()
            same = mixture.answer(robust, accurate).argmax(1) == alone.argmax(1)
            assert bool(same[leads].all())
            changed += int((~same).sum())
        assert 0 < int(leads.sum()) < 500
    assert changed > 0


def test_it_publishes_what_the_contracts_ask_for() -> None:
    mixture, images = Mixture(line(0), line(1), Settings(weight=0.6, scale=2.0, power=2.0)).train(), images_of(20)
    assert isinstance(mixture, Defense)
    assert isinstance(mixture, Adaptive)
    assert isinstance(mixture, Flagging)
    assert not isinstance(mixture, Certifying)
    assert not mixture.robust.training
    assert not mixture.accurate.training
    assert not any(parameter.requires_grad for parameter in mixture.parameters())
    surrogates = mixture.surrogates()
    assert [*surrogates] == ["end-to-end", "robust", "accurate"]
    assert transfers_of(mixture) == {"robust", "accurate"}
    with torch.no_grad():
        plain = mixture(images)
    adaptations = {name: one.surrogate for name, one in mixture.adaptive().items()}
    assert [*adaptations] == ["members", "unclamped"]
    for one in (surrogates["end-to-end"], *adaptations.values()):
        leaf = images.clone().requires_grad_()
        answer = one(leaf)
        assert torch.equal(answer.detach(), plain)
        (gradient,) = torch.autograd.grad(answer.gather(1, plain.argmax(1, keepdim=True)).sum(), leaf)
        assert bool(torch.isfinite(gradient).all())
        assert bool((gradient.flatten(1).abs().amax(1) > 0).all())


def test_the_carriers_are_the_sum_of_both_and_the_mixture_without_clamp() -> None:
    settings = Settings(weight=0.6, scale=2.0, power=2.0, offset=-1.0)
    mixture, images = Mixture(line(0), line(1), settings, "relu"), images_of(9)

    def gradient(one) -> Tensor:
        leaf = images.clone().requires_grad_()
        return torch.autograd.grad(one(leaf)[:, 2].sum(), leaf)[0]

    def both(x: Tensor) -> Tensor:
        return mixture.robust(x).log_softmax(1) + mixture.accurate(x).log_softmax(1)

    def unclamped(x: Tensor) -> Tensor:
        robust = (2 * F.layer_norm(mixture.robust(x), (CLASSES,))).softmax(1)
        return (0.6 * robust + 0.4 * mixture.accurate(x).softmax(1)).log()

    adaptations = mixture.adaptive()
    assert torch.allclose(gradient(adaptations["members"].surrogate), gradient(both), atol=1e-5)
    assert torch.allclose(gradient(adaptations["unclamped"].surrogate), gradient(unclamped), atol=1e-5)
    assert not torch.allclose(gradient(mixture), gradient(unclamped), atol=1e-3)


def test_no_gradient_is_infinite_where_the_clamp_is_flat() -> None:
    mixture = Mixture(nn.Identity(), nn.Identity(), Settings(weight=0.5, power=1.5, offset=-9.0), "relu")
    leaf = torch.randn(5, CLASSES, requires_grad=True)
    (gradient,) = torch.autograd.grad(mixture(leaf)[:, 0].sum(), leaf)
    assert bool(torch.isfinite(gradient).all())
    assert torch.equal(mixture.transformed(leaf), torch.zeros(5, CLASSES))


def test_its_numbers_are_saved_with_the_weights() -> None:
    settings = Settings(weight=0.75, scale=2.0, power=3.0, offset=-0.5)
    mixture, other = Mixture(line(0), line(1), settings), build_mixture(robust=line(2), accurate=line(3))
    assert mixture.settings == settings
    other.load_state_dict(mixture.state_dict())
    assert other.settings == settings
    assert torch.equal(other(images_of(4)), mixture(images_of(4)))
    other.settings = replace(settings, weight=0.5)
    assert other.settings.weight == 0.5


def held_out(count: int = 60) -> HeldOut:
    """Members with opinions: the robust one unsure where it is wrong, the accurate one mostly right."""
    draws = torch.Generator().manual_seed(4)
    labels = torch.randint(0, CLASSES, (count,), generator=draws)
    right = F.one_hot(labels, CLASSES).float()
    robust = 2 * right + torch.randn(count, CLASSES, generator=draws)
    accurate = 4 * right + torch.randn(count, CLASSES, generator=draws)
    attacked = torch.stack([robust - right * torch.rand(count, 1, generator=draws) for _ in range(2)])
    return HeldOut(robust, accurate, attacked, labels)


def searched(held: HeldOut, loss: float) -> tuple[float, Settings]:
    """The fewest clean mistakes over all numbers whose threshold, image by image, loses no more than allowed."""
    best = None
    for scale in module.SCALES:
        for power in module.POWERS:
            for offset in module.OFFSETS:
                one = Mixture(nn.Identity(), nn.Identity(), Settings(scale=scale, power=power, offset=offset))
                leads = []
                for row, label in enumerate(held.labels.tolist()):
                    if all(int(version[row].argmax()) == label for version in held.attacked):
                        each = []
                        for version in held.attacked:
                            p = one.transformed(version[row : row + 1]).softmax(1)[0].tolist()
                            each.append(p[label] - max(p[k] for k in range(CLASSES) if k != label))
                        leads.append(min(each))
                threshold = sorted(leads)[math.floor(loss * len(held.labels))]
                if threshold <= 0:
                    continue
                one.settings = replace(one.settings, weight=1 / (1 + 0.999 * threshold))
                answers = one.answer(held.robust, held.accurate)
                rank = (
                    -int((answers.argmax(1) == held.labels).sum()),
                    float(F.cross_entropy(answers, held.labels)),
                )
                if best is None or rank < best[0]:
                    best = rank, one.settings
    assert best is not None
    return -best[0][0] / len(held.labels), best[1]


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_the_choice_is_that_of_a_search_by_hand(loss) -> None:
    held = held_out()
    found = choose(held, robust_loss=loss)
    clean, settings = searched(held, loss)
    assert found.clean == pytest.approx(clean)
    assert vars(found.settings) == pytest.approx(vars(settings), rel=1e-5)
    alone = float((held.robust.argmax(1) == held.labels).double().mean())
    right = float((held.attacked.argmax(2) == held.labels).all(0).double().mean())
    assert found.clean > alone
    assert found.kept >= right - loss - 1e-9


def test_the_robust_classifier_alone_is_taken_where_mixing_gives_nothing() -> None:
    held = held_out()
    lies = 50 * F.one_hot((held.labels + 1) % CLASSES, CLASSES).float()
    misled = held._replace(accurate=lies, attacked=held.attacked / 9)
    right = float((held.robust.argmax(1) == held.labels).double().mean())
    for one in (misled, held._replace(attacked=-held.attacked)):  # a liar; an attack that leaves nothing
        found = choose(one, robust_loss=0)
        assert found.clean >= right
    found = choose(held._replace(attacked=torch.zeros_like(held.attacked)), robust_loss=0)
    assert (found.settings, found.clean, found.kept) == (Settings(weight=1.0), right, 0.0)


def test_what_it_says_of_held_out_images_is_true_of_the_mixture() -> None:
    held = held_out()
    found = choose(held, robust_loss=0.05)
    mixture = Mixture(nn.Identity(), nn.Identity(), found.settings)
    kept = torch.ones(len(held.labels)).bool()
    for version in held.attacked:
        for target in range(CLASSES):
            accurate = 1e4 * F.one_hot(torch.full_like(held.labels, target), CLASSES).float()
            kept &= mixture.answer(version, accurate).argmax(1) == held.labels
    assert float(kept.double().mean()) == pytest.approx(found.kept, abs=1e-9)


def test_fitting_attacks_the_robust_one_and_then_what_it_has_chosen() -> None:
    robust, accurate = line(0, 2.0), line(1, 8.0)
    images = images_of(80, seed=3)
    labels = accurate(images).argmax(1)
    victims: list[object] = []

    def attacked(victim) -> Tensor:
        victims.append(victim)
        draws = ImageDraws.of(0, "fit", len(images))
        return Pgd(steps=5, loss="margin")(victim, images, labels, Linf(0.02), draws)

    mixture = Mixture(robust, accurate)
    choice = fit(mixture, images, labels, attacked, robust_loss=0.05, rounds=2)
    first, *others = victims
    assert first is robust
    assert len(others) == 2
    assert all(torch.equal(one(images), mixture(images)) for one in others)
    assert isinstance(choice, Choice)
    assert vars(mixture.settings) == pytest.approx(vars(choice.settings), rel=1e-6)
    assert float((mixture(images).argmax(1) == labels).double().mean()) == pytest.approx(choice.clean)


def test_bad_numbers_are_told() -> None:
    for changes, why in (
        ({"weight": 1.5}, "lies in .0, 1.; give 0.5"),
        ({"scale": 0.0}, "above 0 and finite; give 1"),
        ({"power": 0.5}, "at least 1 and finite; give 1"),
        ({"offset": math.inf}, "must be finite; give 0"),
    ):
        with pytest.raises(ValueError, match=why):
            Settings(**changes)
    with pytest.raises(ValueError, match="did you mean 'gelu'"):
        build_mixture(robust=line(0), accurate=line(1), preset="glu")
    with pytest.raises(ValueError, match=r"lies in \[0, 1\); give 0.01"):
        choose(held_out(), robust_loss=1.0)
    two = HeldOut(*(torch.rand(4, 2) for _ in range(2)), torch.rand(1, 4, 2), torch.zeros(4).long())
    with pytest.raises(ValueError, match="at least 3, so keep the robust classifier alone"):
        choose(two)
