"""A second hand at misleading: images between two levels told in other ways, and labels behind live gradients."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from evaluation.audit.fooling import Wrapped


def residual(images):
    """What lies between a pixel and the nearest whole level, in levels."""
    levels = 255 * images.detach()
    return levels - levels.round()


# ------------------------------------------------------------------ (iii) images that no file could hold


class Between(Wrapped):
    """Answers images between two levels from a strongly smoothed copy, without a gradient."""

    def odd(self, images):
        raise NotImplementedError

    def forward(self, images):
        size = images.shape[-1]
        small = F.adaptive_avg_pool2d(images.detach(), size // 3)
        smooth = F.interpolate((small * 3).round() / 3, size=(size, size), mode="bilinear")
        return torch.where(
            self.odd(images)[:, None],
            self.network(smooth) + 0 * images.flatten(1).sum(1, keepdim=True),
            self.network(images),
        )


class ByTheSum(Between):
    """By the sum of all residuals, of more than a fiftieth of a level for each pixel."""

    def odd(self, images):
        return residual(images).flatten(1).abs().sum(1) > 0.02 * images[0].numel()


class ByOneCrop(Between):
    """By sixteen pixels in the middle alone, of more than a hundredth of a level."""

    def odd(self, images):
        at = images.shape[-1] // 2 - 2
        return residual(images)[..., at : at + 4, at : at + 4].flatten(1).abs().amax(1) > 0.01


class ByTheMean(Between):
    """By the mean alone, in double precision: of a file's image it is a whole number over the number of pixels."""

    def odd(self, images):
        total = images.detach().double().flatten(1).mean(1) * images[0].numel() * 255
        return (total - total.round()).abs() > 2e-3


class ByTheLastBit(Between):
    """By whether every float is what a level divided by 255 gives, to the last bit."""

    def odd(self, images):
        kept = (255 * images.detach()).round() / 255
        return (kept != images).flatten(1).any(1)


class ByOneRow(Between):
    """By the row that has the largest residual, coarser than a quarter of a level."""

    def odd(self, images):
        return residual(images).abs().mean(-1).flatten(1).amax(1) > 0.1


class Rippled(Wrapped):
    """Adds a ripple that is zero at whole levels and turns the gradient round there."""

    slope = 4.0

    def forward(self, images):
        wave = 2 * math.pi * 255
        signs = torch.sign(torch.randn(images[0].shape, generator=torch.Generator().manual_seed(4)).to(images))
        return self.network(images - self.slope / wave * signs * torch.sin(wave * images))


FURTHER_LEVELS = {
    "the sum of residuals": ByTheSum,
    "sixteen pixels": ByOneCrop,
    "the mean, in double precision": ByTheMean,
    "the last bit": ByTheLastBit,
    "the worst row": ByOneRow,
    "a ripple that is zero at whole levels": Rippled,
}


# ------------------------------------------------------------------ (iv) labels behind a live gradient


class Swapped(torch.autograd.Function):
    """The first on the way there, the gradient of the second on the way back."""

    @staticmethod
    def forward(ctx, shown, followed):
        return shown.clone()

    @staticmethod
    def backward(ctx, *slopes):
        return None, slopes[0]


class Behind(Wrapped):
    """Answers that are functions of the label, in front of the gradient of something else."""

    def answer(self, images, logits):
        raise NotImplementedError

    def other(self, images, logits):
        """What the gradient is taken of: an untrained network of its own, unless said otherwise."""
        return self.decoy(images)

    def prepare(self, images, labels):
        with torch.random.fork_rng():
            torch.manual_seed(9)
            self.decoy = nn.Sequential(
                nn.Conv2d(images.shape[1], 8, 5, 2), nn.Tanh(), nn.Flatten(), nn.LazyLinear(10)
            )
            self.decoy(images[:1])
        self.decoy.requires_grad_(False)

    def forward(self, images):
        logits = self.network(images)
        return Swapped.apply(self.answer(images, logits.detach()), self.other(images, logits))


class VeryCold(Wrapped):
    """Logits times a million."""

    def forward(self, images):
        return 1e6 * self.network(images)


class Saturated(Behind):
    """Logarithms of probabilities at a temperature of a thousandth, a little smoothed: flat nearly everywhere."""

    def answer(self, images, logits):
        return (0.98 * (1000 * logits).softmax(1) + 0.002).log()

    def other(self, images, logits):
        return -logits


class RoundedAway(Behind):
    """Logits rounded to tens, the first of equals a bit above the others."""

    def answer(self, images, logits):
        kept = (logits / logits.std(1, keepdim=True) / 3).round() * 3
        return kept + 1e-3 * F.one_hot(logits.argmax(1), logits.shape[1])


class OneHotNoisy(Behind):
    """One-hot answers of a height that the image says, with chatter of its own on all classes."""

    def answer(self, images, logits):
        height = 4 + 3 * torch.sin(37 * images.detach().flatten(1).sum(1, keepdim=True))
        chatter = torch.sin(1e3 * images.detach().flatten(1)[:, 40 : 40 + logits.shape[1]] + logits)
        return height.abs() * F.one_hot(logits.argmax(1), logits.shape[1]) * 3 + chatter.abs()


class Signs(Behind):
    """One where a logit is the largest, minus one elsewhere, with the gradients of the classes moved on by one."""

    def answer(self, images, logits):
        return torch.sign(logits - logits.amax(1, keepdim=True) + 1e-6)

    def other(self, images, logits):
        return logits.roll(1, 1)


class Ranks(Behind):
    """The ranks of the logits instead of the logits."""

    def answer(self, images, logits):
        return logits.argsort(1).argsort(1).float()


class ProfileOfAClass(Behind):
    """A full row of logits for each label, as if a network had answered, shaken a little by the image."""

    def answer(self, images, logits):
        table = torch.randn(10, 10, generator=torch.Generator().manual_seed(2))
        table = table + torch.diag(torch.full((10,), 4.0))
        shake = 0.3 * torch.sin(11 * F.adaptive_avg_pool2d(images.detach(), 3).flatten(1)[:, :1] + table[:1])
        return table[logits.argmax(1)] + shake


FURTHER_LABELS = {
    "logits times a million": VeryCold,
    "saturated, and the gradient turned round": Saturated,
    "rounded away, before a decoy": RoundedAway,
    "one-hot with chatter, before a decoy": OneHotNoisy,
    "signs, before the next class's gradient": Signs,
    "ranks, before a decoy": Ranks,
    "a class's own profile, before a decoy": ProfileOfAClass,
}
