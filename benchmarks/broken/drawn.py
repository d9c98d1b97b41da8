"""Defenses that draw: at every call, or by a rule that the image itself seeds."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from broken.byhand import Climb, lead
from broken.parts import Broken, Kit, Loss, Trial, small_net
from memory_defense.contracts import Batch, Images, Logits

DRAWS = 10
"""Calls for one gradient of the attacks that follow an expectation."""


class Resizing(nn.Module):
    """Shrinks each image by a random factor and puts it at a random place, at every call."""

    def __init__(self, smallest: float = 0.7) -> None:
        super().__init__()
        self.network, self.smallest = small_net(), smallest

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K) of one draw."""
        share = self.smallest + (1 - self.smallest) * torch.rand(len(images), 1, device=images.device)
        shift = (2 * torch.rand(len(images), 2, device=images.device) - 1) * (1 - share)
        zero = torch.zeros_like(share)
        across = torch.cat([1 / share, zero, -shift[:, :1] / share], 1)
        down = torch.cat([zero, 1 / share, -shift[:, 1:] / share], 1)
        grid = F.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
        return self.network(F.grid_sample(images, grid, align_corners=False))


def resizing(kit: Kit) -> Trial:
    """Random resizing and padding; the weak attack follows the net behind it, which sees the image unmoved."""
    model = kit.trained("resizing", Resizing)
    return Trial(
        model,
        Climb(on=model.network, steps=1, step=1.0, starts=0),
        {f"the expectation over {DRAWS} draws": Climb(on=model, loss=lead, steps=40, samples=DRAWS)},
    )


class Pruned(nn.Module):
    """An activation that keeps an entry as often as one of many draws would hit it, larger ones more often.

    An entry that is kept grows by as much as it is seldom kept. Entries are kept independently of each other, with
    the probabilities of draws with replacement.
    """

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = share

    def forward(self, values: Tensor) -> Tensor:
        """Return rectified values of one draw."""
        values = values.relu()
        flat = values.flatten(1)
        chance = flat / flat.sum(1, keepdim=True).clamp(min=1e-12)
        hit = 1 - (1 - chance) ** (self.share * flat.shape[1])
        return (flat * (torch.rand_like(flat) < hit) / hit.clamp(min=1e-6)).view_as(values)


def pruning(kit: Kit) -> Trial:
    """Stochastic activation pruning of a net that was trained without it."""
    model = small_net(activation=Pruned)
    model.load_state_dict(kit.plain().state_dict())
    return Trial(
        model.eval(),
        Climb(on=model, steps=1, step=1.0, starts=0),
        {
            f"the expectation over {DRAWS} draws": Climb(on=model, loss=lead, steps=40, samples=DRAWS),
            "the network without pruning": Climb(on=kit.plain(), loss=lead, steps=60),
        },
    )


class KeyedNoise(nn.Module):
    """Adds noise that the image itself seeds: asked twice it answers alike, moved a little it meets other noise."""

    def __init__(self, size: float = 0.3) -> None:
        super().__init__()
        self.network, self.size = small_net(), size
        draws = torch.Generator().manual_seed(0)
        self.register_buffer("keys", torch.randn(784, 784, generator=draws) / 784**0.5)

    def noise(self, images: Images) -> Tensor:
        """Return (B, C, H, W) in [-size, size]."""
        return self.size * (3000 * images.flatten(1) @ self.keys).sin().view_as(images)

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        return self.network(images + self.noise(images))

    def drawn(self, images: Images) -> Logits:
        """Return the logits under noise drawn anew, through which a gradient passes as it is."""
        return self.network(images + self.size * (2 * torch.rand_like(images) - 1))


def keyed_noise(kit: Kit) -> Trial:
    """Noise that depends on the image."""
    model = kit.trained("keyed-noise", KeyedNoise)
    return Trial(
        model,
        Climb(on=model, steps=10, step=0.25),
        {
            f"the expectation over {DRAWS} draws of such noise": Climb(
                on=model.drawn, loss=lead, steps=40, samples=DRAWS, tries=50
            ),
            "the network behind the noise": Climb(on=model.network, loss=lead, steps=60, ranks=3, tries=20),
        },
    )


class Denoiser(nn.Module):
    """Takes noise off an image, at half its size."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(16, 4, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, images: Images) -> Images:
        """Return images of the same shape."""
        return (images + self.layers(images)).clamp(0, 1)


def denoising(model: nn.Module, batch: Batch) -> Loss:
    """Return the squared error behind noise."""
    return Loss((model(batch.images + 0.25 * torch.randn_like(batch.images)) - batch.images).square().mean())


class Purifier(nn.Module):
    """Makes an image noisy, purifies it and asks a net, several times; the answer is the count of votes."""

    def __init__(self, network: nn.Module, denoiser: nn.Module, votes: int = 5, sigma: float = 0.25) -> None:
        super().__init__()
        self.network, self.denoiser, self.votes, self.sigma = network, denoiser, votes, sigma

    def one(self, images: Images) -> Logits:
        """Return the logits of one noisy copy, with a gradient."""
        return self.network(self.denoiser(images + self.sigma * torch.randn_like(images)))

    def forward(self, images: Images) -> Logits:
        """Return (B, K) how many copies voted for each class."""
        votes = [F.one_hot(self.one(images).argmax(1), 10) for _ in range(self.votes)]
        return torch.stack(votes).sum(0).float()


def purifier(kit: Kit) -> Trial:
    """A purifier with votes before an undefended net; the weak attack knows the net alone."""
    model = Purifier(kit.plain(), kit.trained("denoiser", Denoiser, denoising)).eval()
    return Trial(
        model,
        Climb(on=kit.plain(), steps=20, step=0.1),
        {f"the expectation over {DRAWS} copies": Climb(on=model.one, loss=lead, steps=40, samples=DRAWS)},
    )


ATHALYE = "Athalye et al. 2018"

DRAWN = {
    "resizing": Broken(
        "random resizing and padding",
        "Xie et al. 2018",
        f"{ATHALYE}: 0 % (ImageNet, 0.031)",
        "FGSM on the network alone, without resizing",
        "the network sees a resized image, and a different one each time",
        resizing,
    ),
    "pruning": Broken(
        "stochastic activation pruning",
        "Dhillon et al. 2018",
        f"{ATHALYE}: 0 % (CIFAR-10, 0.031)",
        "FGSM with the gradient of a single draw",
        "the gradient of one draw is noisy, and one step is too few",
        pruning,
    ),
    "keyed-noise": Broken(
        "noise seeded by the image",
        "noise injection as in He et al. 2019, with the image as seed",
        f"{ATHALYE}: attacks on the expectation break random defenses",
        "PGD, 10 steps of epsilon / 4, through the noise",
        "the gradient belongs to one noise pattern, and the next image has another",
        keyed_noise,
    ),
    "purifier": Broken(
        "a purifier with votes",
        "Yoon et al. 2021, Hill et al. 2021",
        "Croce et al. 2022: no adaptive purifier is better than a static network",
        "PGD, 20 steps of epsilon / 10, on the network without the purifier",
        "the purifier is not attacked, and votes have no gradient",
        purifier,
    ),
}
"""By name."""
