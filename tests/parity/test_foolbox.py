"""Our attacks beside foolbox's on one small trained network: never weaker, and FGSM with equal pixels."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.attacks import Bim, CarliniWagner, Ddn, FabTargeted, Fgsm, Fmn, Pgd
from memory_defense.contracts import Attack, Ball
from memory_defense.randomness import ImageDraws, generator
from memory_defense.threat import L2, Linf

foolbox: Any = pytest.importorskip("foolbox")


class Setting(NamedTuple):
    network: nn.Module
    images: Tensor
    labels: Tensor

    def ours(self, attack: Attack, ball: Ball) -> Tensor:
        return attack(self.network, self.images, self.labels, ball, ImageDraws.of(0, "parity", len(self.images)))

    def theirs(self, attack: Any, epsilon: float | None) -> Tensor:
        torch.manual_seed(0)
        model = foolbox.PyTorchModel(self.network, bounds=(0, 1))
        return attack(model, self.images, self.labels, epsilons=epsilon)[1]

    def fooled(self, points: Tensor) -> Tensor:
        with torch.no_grad():
            return self.network(points).argmax(1) != self.labels


@pytest.fixture(scope="module")
def setting() -> Setting:
    """Train a small network on ten noisy patterns; keep 128 images that it gets right."""
    random = generator(0, "patterns")
    patterns = torch.rand(10, 1, 10, 10, generator=random)
    labels = torch.randint(0, 10, (1024,), generator=random)
    images = (patterns[labels] + 0.35 * torch.randn(1024, 1, 10, 10, generator=random)).clamp(0, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        )
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for step in range(70):
        batch = torch.arange(128) + 128 * (step % 7)
        optimizer.zero_grad()
        F.cross_entropy(network(images[batch]), labels[batch]).backward()
        optimizer.step()
    network.eval().requires_grad_(False)
    right = (network(images).argmax(1) == labels).nonzero().squeeze(1)[-128:]
    return Setting(network, images[right], labels[right])


@pytest.mark.parametrize("epsilon", [0.02, 0.1])
def test_fgsm_gives_the_same_images(setting: Setting, epsilon: float) -> None:
    ours = setting.ours(Fgsm(), Linf(epsilon))
    theirs = setting.theirs(foolbox.attacks.FGSM(), epsilon)
    assert ((ours - theirs).abs() < 1e-6).double().mean() > 0.999, "signs may differ where the gradient is rounding"
    assert torch.equal(setting.fooled(ours), setting.fooled(theirs))


@pytest.mark.parametrize("steps", [5, 20])
def test_pgd_and_bim_leave_no_more_images_robust(setting: Setting, steps: int) -> None:
    epsilon, size = 0.06, 2.5 * 0.06 / steps
    pgd = setting.fooled(setting.theirs(foolbox.attacks.LinfPGD(steps=steps, abs_stepsize=size), epsilon)).sum()
    bim = setting.fooled(
        setting.theirs(foolbox.attacks.LinfBasicIterativeAttack(steps=steps, abs_stepsize=size), epsilon)
    ).sum()
    assert 10 < pgd < 118
    same = setting.fooled(setting.ours(Pgd(steps=steps, step_size=size), Linf(epsilon))).sum()
    assert abs(int(same - pgd)) <= 3, "the random starts differ"
    assert setting.fooled(setting.ours(Bim(steps=steps, step_size=size), Linf(epsilon))).sum() >= bim
    assert setting.fooled(setting.ours(Pgd(steps=steps), Linf(epsilon))).sum() >= pgd - 1
    assert setting.fooled(setting.ours(Bim(steps=steps), Linf(epsilon))).sum() >= bim


def test_l2_pgd_leaves_no_more_images_robust(setting: Setting) -> None:
    theirs = setting.fooled(setting.theirs(foolbox.attacks.L2PGD(steps=20, abs_stepsize=0.06), 0.5)).sum()
    assert 10 < theirs < 118
    assert setting.fooled(setting.ours(Pgd(steps=20), L2(0.5))).sum() >= theirs


def test_carlini_wagner_finds_distances_as_small(setting: Setting) -> None:
    few = setting._replace(images=setting.images[:24], labels=setting.labels[:24])
    settings = {"steps": 60, "initial_const": 1.0}
    peer = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=5, stepsize=0.05, abort_early=False, **settings
    )
    theirs = few.theirs(peer, None)
    assert few.fooled(theirs).all()
    median = L2(0).distance(theirs, few.images).median()

    def ours(**options: Any) -> Tensor:
        result = few.ours(CarliniWagner(search_steps=5, learning_rate=0.05, **settings, **options), L2(torch.inf))
        assert few.fooled(result).all()
        return L2(0).distance(result, few.images).median()

    same = ours(variant="tanh")
    assert same <= 1.05 * median
    assert same >= 0.95 * median, "the same algorithm, so not much better either"
    assert ours() <= median


def distances(setting: Setting, points: Tensor, ball: Ball) -> Tensor:
    assert setting.fooled(points).all()
    return ball.distance(points, setting.images)


@pytest.mark.parametrize("steps", [20, 100])
def test_ddn_finds_the_same_distances(setting: Setting, steps: int) -> None:
    ball = L2(torch.inf)
    ours = distances(setting, setting.ours(Ddn(steps=steps), ball), ball)
    theirs = distances(setting, setting.theirs(foolbox.attacks.DDNAttack(steps=steps), None), ball)
    assert 0.94 <= ours.median() / theirs.median() <= 1.01, "ours also judges the last iterate"
    assert (ours <= 1.005 * theirs).double().mean() > 0.95


def test_fmn_finds_distances_as_small(setting: Setting) -> None:
    """In L-inf the same; in L2 far smaller, as foolbox's projection there multiplies by ``norms / norms``."""
    for ball, peer, least in (
        (Linf(1.0), foolbox.attacks.LInfFMNAttack(steps=100), 0.95),
        (L2(torch.inf), foolbox.attacks.L2FMNAttack(steps=100), 0.0),
    ):
        ours = distances(setting, setting.ours(Fmn(), ball), ball).median()
        theirs = distances(setting, setting.theirs(peer, None), ball).median()
        assert least <= ours / theirs <= 1.05


@pytest.mark.parametrize("attack", [Ddn(), Fmn(), FabTargeted(steps=20, targets=3)], ids=["ddn", "fmn", "fab"])
def test_minimum_norm_attacks_keep_up_with_carlini_wagner(setting: Setting, attack: Attack) -> None:
    """They take a fifth of its passes."""
    ball = L2(torch.inf)
    few = setting._replace(images=setting.images[:64], labels=setting.labels[:64])
    peer = distances(few, few.ours(CarliniWagner(), ball), ball)
    assert distances(few, few.ours(attack, ball), ball).median() <= 1.05 * peer.median()
