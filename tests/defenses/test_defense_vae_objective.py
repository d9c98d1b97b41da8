"""Defense-VAE's objectives against plain arithmetic, and what each of them trains."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.distributions.kl import kl_divergence as reference_kl

from defenses.small_defense_vae import build, build_double, pairs
from memory_defense.contracts import Batch
from memory_defense.defenses.defense_vae import DefenseVae, DefenseVaeEndToEnd, DefenseVaeObjective, kl_divergence
from memory_defense.networks.defense_vae import Latent


def still(defense: DefenseVae) -> DefenseVae:
    """Put the defense into train mode with batch normalisation fixed, so that passes can be compared."""
    defense.train()
    for layer in defense.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    return defense


def by_hand(defense: DefenseVae, given: Batch, noise: Tensor | None) -> dict[str, float]:
    """Return the terms by plain arithmetic on encoder, decoder and classifier."""
    mean, log_variance = defense.purifier.encoder(given.images)
    codes = mean if noise is None else mean + (log_variance / 2).exp() * noise
    made = 1 / (1 + (-defense.purifier.decoder(codes)).exp())
    logits, clean = defense.classifier(made), given.clean
    terms = dict.fromkeys(("reconstruction", "kl", "cross_entropy"), 0.0)
    for row, label in enumerate(given.labels.tolist()):
        for pixel, goal in zip(made[row].flatten().tolist(), clean[row].flatten().tolist(), strict=True):
            terms["reconstruction"] -= (goal * math.log(pixel) + (1 - goal) * math.log(1 - pixel)) / len(clean)
        for mu, power in zip(mean[row].tolist(), log_variance[row].tolist(), strict=True):
            terms["kl"] -= 0.5 * (1 + power - mu**2 - math.exp(power)) / len(clean)
        scores = logits[row].tolist()
        terms["cross_entropy"] += (math.log(sum(map(math.exp, scores))) - scores[label]) / len(clean)
    return terms


@pytest.mark.parametrize("mode", [False, True], ids=["eval, z = mu", "train, z drawn"])
def test_the_terms_agree_with_plain_arithmetic(mode: bool) -> None:
    defense, given = build_double().release_classifier(), pairs(size=12, dtype=torch.float64)
    noise = None
    if mode:
        defense, noise = still(defense), given.draws.child("latent").normal(7).double()
    terms = by_hand(defense, given, noise)

    rec = DefenseVaeObjective()(defense, given).parts()
    weighted = DefenseVaeObjective(kl_weight=0.3)(defense, given).parts()
    joint = DefenseVaeEndToEnd(cross_entropy=0.7)(defense, given).parts()
    retrained = DefenseVaeObjective(retrain_classifier=True)(defense, given).parts()

    both = terms["reconstruction"] + terms["kl"]
    without = {name: terms[name] for name in ("reconstruction", "kl")}
    assert rec == pytest.approx(without | {"total": both}, rel=1e-5)
    assert weighted["total"] == pytest.approx(terms["reconstruction"] + 0.3 * terms["kl"], rel=1e-5)
    assert joint == pytest.approx(terms | {"total": both + 0.7 * terms["cross_entropy"]}, rel=1e-5)
    assert retrained == pytest.approx(terms | {"total": both + terms["cross_entropy"]}, rel=1e-5)


def test_the_divergence_is_the_closed_form_and_nothing_at_the_standard_normal() -> None:
    mean, log_variance = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    standard = Normal(torch.zeros(5, 3).double(), torch.ones(5, 3).double())
    expected = reference_kl(Independent(Normal(mean, (log_variance / 2).exp()), 1), Independent(standard, 1))

    assert torch.allclose(kl_divergence(Latent(mean, log_variance)).double(), expected, rtol=1e-5)
    assert torch.equal(kl_divergence(Latent(torch.zeros(2, 3), torch.zeros(2, 3))), torch.zeros(2))
    assert float(kl_divergence(Latent(torch.tensor([[2.0]]), torch.zeros(1, 1)))) == 2


def test_the_latent_noise_comes_from_the_batchs_draws_alone() -> None:
    defense, given = still(build()), pairs()
    state = torch.random.get_rng_state()

    first = DefenseVaeObjective()(defense, given).parts()

    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(1)
    assert DefenseVaeObjective()(defense, given).parts() == first
    other = given._replace(draws=given.draws.child("another epoch"))
    assert DefenseVaeObjective()(defense, other).reconstruction.item() != first["reconstruction"]
    assert DefenseVaeObjective()(defense, other).kl.item() == first["kl"]
    defense.eval()
    quiet = DefenseVaeObjective()(defense, given).parts()
    assert DefenseVaeObjective()(defense, other).parts() == quiet
    assert quiet["reconstruction"] != first["reconstruction"]


def test_attacked_images_go_in_and_clean_ones_are_the_goal() -> None:
    defense, given = build(), pairs()
    objective = DefenseVaeObjective()
    swapped = given._replace(images=given.clean, clean=given.images)
    pixels = defense.purifier.decoder(defense.purifier.encoder(given.images).mean).detach()
    expected = nn.functional.binary_cross_entropy(pixels.sigmoid(), given.clean, reduction="sum") / len(pixels)

    assert objective(defense, given).reconstruction.item() == pytest.approx(expected.item(), rel=1e-5)
    assert objective(defense, swapped).reconstruction.item() != pytest.approx(expected.item(), rel=1e-4)
    alone = Batch(given.images, given.labels, given.ids, given.draws, 0.0)
    goal = given._replace(clean=given.images)
    assert objective(defense, alone).parts() == objective(defense, goal).parts()


def test_the_weight_of_the_divergence_is_the_presets_unless_it_is_given() -> None:
    paper, released, given = build(preset="paper"), build(preset="released"), pairs(2)
    objective = DefenseVaeObjective()
    one, other = objective(paper, given), objective(released, given)

    assert one.reconstruction.item() == other.reconstruction.item()
    assert one.kl.item() > 1e-3
    assert one.total.item() == pytest.approx(one.reconstruction.item() + one.kl.item(), rel=1e-6)
    assert other.total.item() == other.reconstruction.item()
    assert DefenseVaeObjective(kl_weight=1)(released, given).total.item() == one.total.item()


def moved(defense: DefenseVae, objective, given: Batch) -> tuple[bool, bool]:
    """Take three steps on what may be trained; return whether purifier and classifier are other than before."""
    before = {name: tensor.clone() for name, tensor in defense.state_dict().items()}
    wanted = [parameter for parameter in defense.train().parameters() if parameter.requires_grad]
    for _ in range(3):
        slopes = torch.autograd.grad(objective(defense, given).total, wanted, allow_unused=True)
        with torch.no_grad():
            for parameter, slope in zip(wanted, slopes, strict=True):
                if slope is not None:
                    parameter.sub_(slope, alpha=1e-4)
    changed = {name for name, tensor in defense.state_dict().items() if not torch.equal(tensor, before[name])}
    return tuple(any(name.startswith(part) for name in changed) for part in ("purifier", "classifier"))  # type: ignore[return-value]


def test_rec_leaves_the_classifier_alone_and_end_to_end_moves_it() -> None:
    given = pairs()

    assert moved(build(), DefenseVaeObjective(), given) == (True, False)
    assert moved(build().release_classifier(), DefenseVaeEndToEnd(), given) == (True, True)
    assert moved(build().release_classifier(), DefenseVaeObjective(retrain_classifier=True), given) == (True, True)


def test_a_retrained_classifier_teaches_the_autoencoder_nothing_and_a_joint_one_does() -> None:
    given = pairs()
    gradients = []
    for objective in (
        DefenseVaeObjective(),
        DefenseVaeObjective(retrain_classifier=True),
        DefenseVaeEndToEnd(),
    ):
        defense = still(build().release_classifier())
        objective(defense, given).total.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in defense.purifier.parameters()]))

    assert torch.equal(gradients[0], gradients[1])
    assert not torch.allclose(gradients[0], gradients[2], rtol=1e-3)


def test_autocast_keeps_the_losses_in_single_precision() -> None:
    defense, given = build().release_classifier(), pairs()
    expected = DefenseVaeEndToEnd()(defense, given).total

    with torch.autocast("cpu", torch.bfloat16):
        losses = DefenseVaeEndToEnd()(defense, given)

    assert losses.total.dtype == losses.kl.dtype == torch.float32
    assert torch.allclose(losses.total, expected, rtol=0.05)


@pytest.mark.parametrize("objective", [DefenseVaeEndToEnd(), DefenseVaeObjective(retrain_classifier=True)])
def test_a_frozen_classifier_is_not_trained_silently(objective) -> None:
    with pytest.raises(ValueError, match=r"frozen; call release_classifier\(\)"):
        objective(build(), pairs())


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (DefenseVaeObjective, {"kl_weight": -1.0}, "kl_weight is -1.0"),
        (DefenseVaeEndToEnd, {"kl_weight": math.nan}, "kl_weight is nan"),
        (DefenseVaeEndToEnd, {"cross_entropy": -0.5}, "cross_entropy is -0.5"),
    ],
)
def test_negative_factors_are_refused(make, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)
