"""Defenses at the net's end: answers whose loss has no gradient left, and nets that answer together."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from broken.byhand import Climb, cross_entropy, lead
from broken.parts import Broken, Kit, Loss, Trial, small_net
from memory_defense.contracts import Batch, Images, Labels, Logits, PerImage

TEMPERATURE = 40.0


class Warm(nn.Module):
    """A net trained at a high temperature and asked without it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small_net()

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K), which training made as many times too large as the temperature."""
        return self.network(images)


def at_temperature(model: nn.Module, batch: Batch) -> Loss:
    """Return the cross-entropy of the cooled answers."""
    return Loss(F.cross_entropy(model(batch.images) / TEMPERATURE, batch.labels))


def distillation(kit: Kit) -> Trial:
    """Defensive distillation: the pupil learns what the teacher answers at the same temperature."""
    teacher = kit.trained("teacher", Warm, at_temperature)

    def as_the_teacher(model: nn.Module, batch: Batch) -> Loss:
        with torch.no_grad():
            wanted = (teacher(batch.images) / TEMPERATURE).softmax(1)
        return Loss(F.cross_entropy(model(batch.images) / TEMPERATURE, wanted))

    model = kit.trained("pupil", Warm, as_the_teacher)
    return Trial(
        model,
        Climb(on=model, steps=10, step=0.25, starts=0),
        {"the margin of the logits": Climb(on=model, loss=lead, steps=60, ranks=3)},
    )


class Prototypes(nn.Module):
    """Answers by distance to fixed points, one a class, all equally far apart."""

    def __init__(self, radius: float = 30.0) -> None:
        super().__init__()
        self.network = small_net()
        corners = torch.eye(10) - 0.1
        self.register_buffer("centres", radius * F.normalize(corners, dim=1))

    def forward(self, images: Images) -> Logits:
        """Return (B, K) the negative squared distances."""
        return -torch.cdist(self.network(images), self.centres).square()


def nearest(model: nn.Module, batch: Batch) -> Loss:
    """Return the squared distance to the own class's point."""
    return Loss(-model(batch.images).gather(1, batch.labels[:, None]).mean() / 100)


def prototypes(kit: Kit) -> Trial:
    """A head of prototypes."""
    model = kit.trained("prototypes", Prototypes, nearest)
    return Trial(
        model,
        Climb(on=model, steps=10, step=0.25, starts=0),
        {"the margin of the distances": Climb(on=model, loss=lead, steps=60, ranks=3)},
    )


class Codes(nn.Module):
    """Answers a word of bits; a class is as likely as its code word correlates with it."""

    def __init__(self, bits: int = 16, slope: float = 16.0) -> None:
        super().__init__()
        self.network, self.slope = small_net(outputs=bits), slope
        words = torch.ones(1, 1)
        while len(words) < bits:
            words = torch.cat([torch.cat([words, words], 1), torch.cat([words, -words], 1)])
        self.register_buffer("words", words[1:11])

    def forward(self, images: Images) -> Logits:
        """Return (B, K) logarithms of shares of correlation."""
        likely = ((self.slope * self.network(images)).tanh() @ self.words.T).relu()
        return (likely / likely.sum(1, keepdim=True).clamp(min=1e-6) + 1e-6).log()

    def before(self, images: Images) -> Logits:
        """Return (B, K) the correlations before anything is rounded off."""
        return self.network(images) @ self.words.T


def bits(model: nn.Module, batch: Batch) -> Loss:
    """Return the logistic loss of every bit."""
    wanted = model.words[batch.labels]  # (B, N)
    return Loss(F.softplus(-model.slope * wanted * model.network(batch.images)).mean())


def codes(kit: Kit) -> Trial:
    """Error-correcting output codes."""
    model = kit.trained("codes", Codes, bits)
    return Trial(
        model,
        Climb(on=model, steps=1, step=1.0, starts=0),
        {
            "the bits before they are rounded off": Climb(on=model.before, loss=lead, steps=60, ranks=3),
            "the margin of the answers": Climb(on=model, loss=lead, steps=60, ranks=3),
        },
    )


class Diverse(nn.Module):
    """Several nets whose probabilities are averaged."""

    def __init__(self, members: int = 3) -> None:
        super().__init__()
        self.members = nn.ModuleList([small_net() for _ in range(members)])

    def each(self, images: Images) -> Tensor:
        """Return (M, B, K) every member's probabilities."""
        return torch.stack([one(images).softmax(1) for one in self.members])

    def forward(self, images: Images) -> Logits:
        """Return (B, K) the logarithm of the mean."""
        return self.each(images).mean(0).clamp(min=1e-12).log()


def diverse(model: nn.Module, batch: Batch) -> Loss:
    """Return the members' cross-entropies less a reward for entropy and for different wrong answers."""
    found = model.each(batch.images).clamp(min=1e-8)  # (M, B, K)
    mean = found.mean(0)
    own = batch.labels[None, :, None].expand(len(found), -1, 1)
    wrong = F.normalize(found.scatter(2, own, 0.0), dim=2).transpose(0, 1)  # (B, M, K)
    volume = torch.linalg.det(wrong @ wrong.transpose(1, 2) + 1e-4 * torch.eye(len(found)))
    entropy = -(mean * mean.log()).sum(1)
    reward = 2.0 * entropy + 0.5 * volume.clamp(min=1e-12).log()
    return Loss((-found.gather(2, own).squeeze(2).log().sum(0) - reward).mean())


def ensemble(kit: Kit) -> Trial:
    """An ensemble with diversity."""
    model = kit.trained("diverse", Diverse, diverse)
    return Trial(
        model,
        Climb(on=model, steps=1, step=1.0, starts=0),
        {
            "many steps": Climb(on=model, loss=lead, steps=60, ranks=3),
            "many steps, cross-entropy": Climb(on=model, loss=cross_entropy, steps=60),
            "all members at once": Climb(on=_Members(model), loss=_against_all, steps=60),
        },
    )


class _Members:
    """The members' logits side by side."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, images: Images) -> Tensor:
        return torch.stack([one(images) for one in self.model.members], 1)  # (B, M, K)


def _against_all(logits: Tensor, labels: Labels) -> PerImage:
    """Return (B,) the members' mean lead of the one wrong class that leads most."""
    mean = logits.log_softmax(2).mean(1)
    return lead(mean, labels)


TRAMER = "Tramèr et al. 2020"

HEADS = {
    "distillation": Broken(
        "defensive distillation",
        "Papernot et al. 2016",
        "Carlini & Wagner 2017: 0 % (MNIST, CIFAR-10, unbounded)",
        "PGD, 10 steps of epsilon / 4, from the clean image",
        "the softmax of large logits rounds to one class, and the cross-entropy has no gradient",
        distillation,
    ),
    "prototypes": Broken(
        "a prototype head",
        "Mustafa et al. 2019, Pang et al. 2020",
        "RobustBench: 0.28 % (Mustafa, CIFAR-10, 8/255), claimed 32.32 %",
        "PGD, 10 steps of epsilon / 4, from the clean image",
        "the softmax of large distances rounds to one class",
        prototypes,
    ),
    "codes": Broken(
        "error-correcting output codes",
        "Verma & Swami 2019",
        f"{TRAMER}",
        "FGSM",
        "saturated bits, and correlations below 0, have no gradient",
        codes,
    ),
    "diversity": Broken(
        "an ensemble with diversity (ADP)",
        "Pang et al. 2019",
        f"{TRAMER}",
        "FGSM",
        "one step is too few when the members have different gradients",
        ensemble,
    ),
}
"""By name."""
