"""Eight honest networks of different kinds, trained for a moment on smooth shapes at whole grey levels."""

from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

SIDE = 12


@cache
def shapes(classes: int, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (count, 1, 12, 12) of so many smooth shapes, moved and noised, and their labels."""
    chance = torch.Generator().manual_seed(7)
    coarse = torch.rand(classes, 1, 5, 5, generator=chance)
    shown = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic", align_corners=True).clamp(0, 1)
    own = torch.Generator().manual_seed(100 + seed)
    labels = torch.randint(classes, (count,), generator=own)
    images = shown[labels] + 0.12 * torch.randn(count, 1, SIDE, SIDE, generator=own)
    moved = torch.stack([one.roll(int(torch.randint(-1, 2, (), generator=own)), 2) for one in images])
    return (moved.clamp(0, 1) * 255).round() / 255, labels


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, images):
        return F.relu(images + self.two(F.relu(self.one(images))))


class Attending(nn.Module):
    """Attention over patches; keeps its last weights, as many do."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.cut, self.pool = nn.Conv2d(1, width, 3, 3), nn.Linear(width, 10)
        self.place = nn.Parameter(0.1 * torch.randn(1, 16, width))
        self.attention, self.last = nn.MultiheadAttention(width, 2, batch_first=True), None

    def forward(self, images):
        tokens = self.cut(images).flatten(2).transpose(1, 2) + self.place
        mixed, self.last = self.attention(tokens, tokens, tokens)
        return self.pool(F.relu(tokens + mixed).mean(1))


class Transformer(nn.Module):
    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.cut, self.head = nn.Conv2d(1, width, 3, 3), nn.Linear(width, 10)
        self.place = nn.Parameter(0.1 * torch.randn(1, 16, width))
        layer = nn.TransformerEncoderLayer(width, 2, 48, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, images):
        return self.head(self.encoder(self.cut(images).flatten(2).transpose(1, 2) + self.place).mean(1))


def plain(classes: int = 10, *more: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, 2, 1), *more, nn.ReLU(), nn.Flatten(), nn.Linear(12 * 36, 48), nn.ReLU(),
        nn.Linear(48, classes),
    )  # fmt: skip


def trained(
    network: nn.Module, classes: int = 10, steps: int = 120, adversarial: float = 0.0, seed: int = 1
) -> nn.Module:
    """The network after some steps of Adam; against one FGSM step of this length, if it is positive."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for one in network.modules():
            if hasattr(one, "reset_parameters"):
                one.reset_parameters()
        images, labels = shapes(classes, 3000)
        optimiser = torch.optim.Adam(network.train().parameters(), 4e-3)
        for _ in range(steps):
            rows = torch.randint(len(images), (96,))
            shown, truth = images[rows].clone(), labels[rows]
            if adversarial:
                shown = (shown + adversarial * (2 * torch.rand_like(shown) - 1)).requires_grad_()
                (slope,) = torch.autograd.grad(F.cross_entropy(network(shown), truth), shown)
                shown = (shown + adversarial * slope.sign()).clamp(0, 1).detach()
            optimiser.zero_grad()
            F.cross_entropy(network(shown), truth).backward()
            optimiser.step()
    return network.eval()


def quantised(network: nn.Module) -> nn.Module:
    """The network with its weights rounded to 16 levels."""
    with torch.no_grad():
        for one in network.parameters():
            step = one.abs().amax() / 8
            one.copy_((one / step).round() * step)
    return network


HONEST = {
    "batch norm": lambda seed=1: trained(plain(10, nn.BatchNorm2d(12)), steps=60, seed=seed),
    "dropout": lambda seed=1: trained(plain(10, nn.Dropout(0.3)), seed=seed),
    "attention": lambda seed=1: trained(Attending(), steps=120, seed=seed),
    "residual": lambda seed=1: trained(
        nn.Sequential(nn.Conv2d(1, 10, 3, 2, 1), nn.ReLU(), Residual(10), nn.Flatten(), nn.Linear(360, 10)),
        steps=60,
        seed=seed,
    ),
    "transformer": lambda seed=1: trained(Transformer(), steps=120, seed=seed),
    "adversarially trained": lambda seed=1: trained(plain(), steps=120, adversarial=0.1, seed=seed),
    "quantised weights": lambda seed=1: quantised(trained(plain(), seed=seed)),
    "1,000 classes": lambda seed=1: trained(plain(1000), classes=1000, steps=250, seed=seed),
}


def honest(name: str, seed: int = 1) -> nn.Module:
    """The network of this name, the same each time: some layers draw their first weights when they are made."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return HONEST[name](seed)
