"""Ensembles against hand computation; their certificates on linear members against exact distances."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

import memory_defense
from memory_defense import Options
from memory_defense.contracts import Adaptive, Certificates, Certifying, Defense, Flagging, transfers_of
from memory_defense.defenses.ensemble import CertifiedEnsemble, Ensemble, ensemble_of
from memory_defense.defenses.gated import Gated
from memory_defense.defenses.interval_proof import IntervalProof
from memory_defense.randomness import seeded

HOWS = ("probabilities", "logits", "vote")
PIXELS, CLASSES = 6, 3


class Line(nn.Module):
    """A linear classifier that knows the exact L2 distance to its nearest border."""

    certified_norm = "l2"
    certified_method = "closed form"

    def __init__(self, seed: int, classes: int = CLASSES) -> None:
        super().__init__()
        with seeded(0, "line"):
            self.linear = nn.Linear(PIXELS, classes)
        with seeded(seed, "apart"), torch.no_grad():  # alike enough to agree now and then
            self.linear.weight += 0.2 * torch.randn_like(self.linear.weight)
            self.linear.bias -= self.linear.weight.sum(1) / 2  # so that no class wins everywhere

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))

    def slack(self, images: Tensor, radius: float) -> Tensor:
        logits = self(images)
        top = logits.argmax(1)
        weight = self.linear.weight
        lengths = (weight[top][:, None] - weight[None]).norm(dim=2)
        leads = (logits.gather(1, top[:, None]) - logits) / lengths.clamp_min(1e-9)
        return leads.scatter(1, top[:, None], torch.inf).amin(1) - radius

    def certificates(self, images: Tensor) -> Certificates:
        return Certificates(self(images).argmax(1), self.slack(images, 0.0).double().detach())


class Says(nn.Module):
    """Answers and radii as given, one for each image, told apart by their first pixel."""

    certified_norm = "l2"
    certified_method = "dictated"

    def __init__(self, labels: list[int], radii: list[float], classes: int = 4) -> None:
        super().__init__()
        self.labels, self.classes = torch.tensor(labels), classes
        self.radii = torch.tensor(radii, dtype=torch.float64)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.one_hot(self.labels.clamp(min=0), self.classes).float()

    def slack(self, images: Tensor, radius: float) -> Tensor:
        return (self.radii - radius).float()

    def certificates(self, images: Tensor) -> Certificates:
        return Certificates(self.labels, self.radii)


class Fixed(nn.Module):
    """The same logits for every image."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(logits))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1) + 0 * images.flatten(1).sum(1, keepdim=True)


def lines(count: int = 3) -> list[nn.Module]:
    return [Line(seed) for seed in range(count)]


def images_of(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 2, 3, generator=torch.Generator().manual_seed(seed))


def test_the_three_combinations_are_what_hand_computation_gives() -> None:
    logits = [[2.0, 0.0, 1.0], [0.0, 3.0, 0.0], [1.0, 1.5, 0.0]]
    members = [Fixed(one) for one in logits]
    image = images_of(1)
    exps = [[math.exp(value) for value in one] for one in logits]
    mean = [sum(one[k] / sum(one) for one in exps) / 3 for k in range(3)]
    found = {how: Ensemble(members, how)(image)[0].tolist() for how in HOWS}
    assert found["probabilities"] == pytest.approx([math.log(one) for one in mean], abs=1e-6)
    assert found["logits"] == pytest.approx([sum(one[k] for one in logits) / 3 for k in range(3)], abs=1e-6)
    votes = [1, 2, 0]
    shares = [(vote + one / 2) / 3.5 for vote, one in zip(votes, mean, strict=True)]
    assert found["vote"] == pytest.approx([math.log(one) for one in shares], abs=1e-6)
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("how", HOWS)
def test_identical_members_are_the_member(how) -> None:
    one, images = Line(4), images_of(50)
    both = Ensemble([one, one, one], how)(images)
    assert torch.equal(both.argmax(1), one(images).argmax(1))
    if how == "logits":
        assert torch.allclose(both, one(images), atol=1e-6)
    if how == "probabilities":
        assert torch.allclose(both, one(images).log_softmax(1), atol=1e-6)


def test_a_tied_vote_goes_to_the_larger_mean_probability_and_no_probability_outweighs_a_vote() -> None:
    image = images_of(1)
    assert int(Ensemble([Fixed([0.1, 0.0, 0.0]), Fixed([0.0, 0.0, 9.0])], "vote")(image).argmax(1)) == 2
    two_against_one = Ensemble([Fixed([0.1, 0.0]), Fixed([0.1, 0.0]), Fixed([-90.0, 90.0])], "vote")
    assert int(two_against_one(image).argmax(1)) == 0
    assert bool(torch.isfinite(Ensemble([Fixed([0.0, 300.0]), Fixed([0.0, 300.0])], "vote")(image)).all())


@pytest.mark.parametrize("how", HOWS)
def test_its_surrogates_and_adaptations_keep_the_contract(how) -> None:
    ensemble, images = Ensemble(lines(), how), images_of(20)
    assert isinstance(ensemble, Defense)
    assert isinstance(ensemble, Adaptive)
    assert isinstance(ensemble, Flagging)
    assert not isinstance(ensemble, Certifying)
    surrogates = ensemble.surrogates()
    assert [*surrogates] == ["end-to-end", "member-0", "member-1", "member-2"]
    assert transfers_of(ensemble) == {"member-0", "member-1", "member-2"}
    with torch.no_grad():
        plain = ensemble(images)
    for number, member in enumerate(ensemble.members):
        assert torch.equal(surrogates[f"member-{number}"](images), member(images))
    adaptations = {name: one.surrogate for name, one in ensemble.adaptive().items()}
    assert [*adaptations] == ["members", "weakest"]
    for one in (surrogates["end-to-end"], *adaptations.values()):
        leaf = images.clone().requires_grad_()
        answer = one(leaf)
        assert torch.equal(answer.detach(), plain)
        (gradient,) = torch.autograd.grad(answer.gather(1, plain.argmax(1, keepdim=True)).sum(), leaf)
        assert bool((gradient.flatten(1).abs().amax(1) > 0).all())
    ensemble.train()
    assert not any(member.training for member in ensemble.members)
    assert not any(parameter.requires_grad for parameter in ensemble.parameters())


def test_the_gradients_are_those_of_the_carriers() -> None:
    ensemble, images = Ensemble(lines(), "vote"), images_of(8)
    adaptations = ensemble.adaptive()

    def gradient(one, classes=1) -> Tensor:
        leaf = images.clone().requires_grad_()
        return torch.autograd.grad(one(leaf)[:, classes].sum(), leaf)[0]

    mean = torch.stack([gradient(lambda x, m=m: m(x).log_softmax(1)) for m in ensemble.members]).mean(0)
    assert torch.allclose(gradient(adaptations["members"].surrogate), mean, atol=1e-6)
    expected = []
    for row in range(len(images)):
        one = images[row : row + 1]
        answer = int(ensemble(one).argmax(1))
        leads = []
        for member in ensemble.members:
            logits = member(one)[0]
            others = [float(logits[k]) for k in range(CLASSES) if k != answer]
            leads.append(float(logits[answer]) - max(others))
        standing = [lead if lead >= 0 else math.inf for lead in leads]
        weakest = ensemble.members[standing.index(min(standing))]
        leaf = one.clone().requires_grad_()
        expected.append(torch.autograd.grad(weakest(leaf).log_softmax(1)[:, 1].sum(), leaf)[0])
    assert torch.allclose(gradient(adaptations["weakest"].surrogate), torch.cat(expected), atol=1e-6)


def test_a_member_that_is_a_defense_is_differentiated_by_its_own_white_box() -> None:
    class Stepped(nn.Module):
        transfer_knowledge: frozenset[str] = frozenset()

        def __init__(self) -> None:
            super().__init__()
            self.net = Line(1)

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images).detach()

        def surrogates(self):
            return {"end-to-end": self.net}

    leaf = images_of(4).requires_grad_()
    ensemble = Ensemble([Stepped(), Fixed([0.0, 0.0, 0.0])], "logits")
    (gradient,) = torch.autograd.grad(ensemble(leaf).gather(1, torch.zeros(4, 1).long()).sum(), leaf)
    weight = Line(1).linear.weight[0] / 2
    assert torch.allclose(gradient.flatten(1), weight.expand(4, -1), atol=1e-6)


def test_the_flag_is_the_jensen_shannon_divergence() -> None:
    one, other = torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.8])
    mean = (one + other) / 2
    divergence = (one * (one / mean).log()).sum() / 2 + (other * (other / mean).log()).sum() / 2
    both = Ensemble([Fixed(one.log().tolist()), Fixed(other.log().tolist())])
    assert float(both.scores(images_of(1))["disagreement"]) == pytest.approx(float(divergence), abs=1e-6)
    same = Ensemble([Fixed([0.0, 1.0]), Fixed([0.0, 1.0])])
    assert float(same.scores(images_of(1))["disagreement"]) == pytest.approx(0, abs=1e-6)
    both.flag_threshold = 0.1
    assert "silent" in both.adaptive()
    assert bool(both.suspicious(images_of(1)))


def test_bad_members_are_told() -> None:
    with pytest.raises(ValueError, match="at least 2; give another one"):
        Ensemble([Line(0)])
    with pytest.raises(ValueError, match="unknown combination 'votes'; did you mean 'vote'"):
        Ensemble(lines(), "votes")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="trained on the same classes"):
        Ensemble([Line(0), Line(1, classes=4)])(images_of(2))


def brute_force(labels, radii, answer: int) -> float:
    """The largest radius at which no votes of those who are not certified change the answer, by trying them all."""
    best = 0.0
    for radius in sorted({one for one in radii if one > 0}):
        fixed = [label for label, one in zip(labels, radii, strict=True) if one >= radius and label >= 0]
        free = len(labels) - len(fixed)
        wins = True
        for others in itertools.product(range(4), repeat=free):
            votes = [*fixed, *others]
            counts = [votes.count(label) for label in range(4)]
            wins &= all(counts[answer] > counts[label] for label in range(4) if label != answer)
        if wins:
            best = radius
    return best


def test_the_vote_s_radius_is_that_of_trying_every_vote() -> None:
    draws = torch.Generator().manual_seed(3)
    seen = set()
    for members in (2, 3, 4, 5):
        for _ in range(40):
            labels = torch.randint(-1 if members == 5 else 0, 3, (members,), generator=draws).tolist()
            radii = torch.randint(0, 5, (members,), generator=draws).double().tolist()
            ensemble = CertifiedEnsemble([Says([a], [r]) for a, r in zip(labels, radii, strict=True)])
            found = ensemble.certificates(images_of(1))
            answer = int(ensemble(images_of(1)).argmax(1))
            assert int(found.labels) == answer
            assert float(found.radii) == brute_force(labels, radii, answer)
            seen.add(float(found.radii))
    assert len(seen) > 3


def test_a_vote_is_proven_as_far_as_its_strict_majority() -> None:
    radii = [0.1, 0.5, 0.3, 0.9, 0.2]
    all_agree = CertifiedEnsemble([Says([1], [one]) for one in radii])
    assert float(all_agree.certificates(images_of(1)).radii) == 0.3
    with_a_doubter = CertifiedEnsemble([*(Says([1], [one]) for one in radii[:4]), Fixed([9.0, 0, 0, 0])])
    assert float(with_a_doubter.certificates(images_of(1)).radii) == 0.3


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("members", [2, 3, 5])
def test_no_image_inside_the_radius_of_linear_members_gets_another_answer(how, members) -> None:
    ensemble, images = CertifiedEnsemble(lines(members), how), images_of(60, seed=5)
    found = ensemble.certificates(images)
    assert torch.equal(found.labels, ensemble(images).argmax(1))
    assert int((found.radii > 0).sum()) > 0
    assert ensemble.certified_norm == "l2"
    draws = torch.Generator().manual_seed(1)
    directions = [torch.randn(images.shape, generator=draws) for _ in range(60)]
    for member in ensemble.members:  # straight at every border of every member
        for a, b in itertools.permutations(range(CLASSES), 2):
            weight = member.linear.weight
            directions.append((weight[a] - weight[b]).reshape(1, 1, 2, 3).expand_as(images))
    for direction in directions:
        unit = direction / direction.flatten(1).norm(dim=1)[:, None, None, None]
        moved = images + (0.999 * found.radii.float())[:, None, None, None] * unit
        inside = (moved >= 0).flatten(1).all(1) & (moved <= 1).flatten(1).all(1)
        assert torch.equal(ensemble(moved).argmax(1)[inside], found.labels[inside])


def test_the_vote_s_radius_is_tight_for_parallel_members() -> None:
    """Of three borders in a row the vote's lies at the second: a step to just behind it changes two votes."""
    members = [Line(1), Line(1), Line(1)]
    for member, shift in zip(members, (0.0, 0.02, 0.05), strict=True):
        member.linear.bias.data[0] += shift
    ensemble, images = CertifiedEnsemble(members), images_of(200)
    found = ensemble.certificates(images)
    second = torch.stack([member.certificates(images).radii for member in members]).sort(0).values[1]
    agreed = torch.stack([member(images).argmax(1) == found.labels for member in members]).all(0)
    assert torch.equal(found.radii[agreed], second[agreed])
    changed = 0
    for row in agreed.nonzero().squeeze(1).tolist():
        weight = members[0].linear.weight
        for other in set(range(CLASSES)) - {int(found.labels[row])}:
            step = weight[other] - weight[found.labels[row]]
            length = 1.001 * float(second[row]) + 1e-5
            moved = images[row : row + 1] + (length * step / step.norm()).reshape(1, 1, 2, 3)
            changed += int(ensemble(moved).argmax(1)) != int(found.labels[row])
    assert changed >= 0.9 * int(agreed.sum())


@pytest.mark.parametrize("how", HOWS)
def test_slack_and_certificate_agree(how) -> None:
    ensemble, images = CertifiedEnsemble(lines(), how), images_of(60, seed=2)
    radii = ensemble.certificates(images).radii
    for radius in (float(radii[radii > 0].median()), 0.05):
        slack = ensemble.slack(images, radius)
        assert torch.equal(slack >= 0, radii >= radius)
        assert 0 < int((slack >= 0).sum()) < 60
        leaf = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(ensemble.slack(leaf, radius).sum(), leaf)
        assert bool((gradient.flatten(1).abs().amax(1) > 0).all())


def test_what_cannot_be_proven_is_not_claimed() -> None:
    intervals = [IntervalProof(nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, CLASSES)), largest=0.2)]
    cases = [
        ([Line(0), Fixed([0.0, 0, 0])], "vote", "1 of 2 members prove .* but a vote needs more than half"),
        ([Line(0), Line(1), Fixed([0.0, 0, 0])], "logits", "2 of 3 members .* the mean of logits needs every one"),
        ([Line(0), Line(1), *intervals], "vote", "in the norms l2, linf"),
    ]
    for members, how, why in cases:
        assert not isinstance(ensemble_of(members, how), Certifying)
        with pytest.raises(ValueError, match=why):
            CertifiedEnsemble(members, how)
    assert isinstance(ensemble_of(lines(), "vote"), Certifying)
    assert isinstance(ensemble_of([Line(0), Line(1), Fixed([0.0, 0, 0])], "vote"), Certifying)


def test_members_that_disagree_prove_nothing_about_their_mean() -> None:
    ensemble = CertifiedEnsemble([Says([0, 1], [0.4, 0.4]), Says([1, 1], [0.5, 0.3])], "probabilities")
    assert ensemble.certificates(images_of(2)).radii.tolist() == pytest.approx([0.0, 0.3])
    assert bool((ensemble.slack(images_of(2), 0.01) >= 0).tolist() == [False, True])


def test_it_is_attacked_end_to_end_by_its_members_and_its_gate_stands() -> None:
    ensemble, images = CertifiedEnsemble(lines()), images_of(40, seed=9)
    labels = ensemble(images).argmax(1)
    record = memory_defense.evaluate(
        Gated(ensemble, 0.1), images, labels, norm="l2", epsilon=0.1, attacks="brief", options=Options(seed=0)
    )
    tried = {stage.knowledge for stage in record.cascades[0].stages}
    assert {"end-to-end", "members", "weakest"} <= tried
    (one,) = record.certified
    assert (one.norm, one.broken) == ("l2", 0)
    assert one.gate is not None
    assert one.gate.wrong_and_accepted_found == 0
