"""Randomized smoothing (Cohen et al. 2019, arXiv:1902.02918): an L2 certificate for any classifier, by asking it.

The smoothed classifier answers with the class that the base classifier gives most often to the image under normal
noise of standard deviation sigma. If that class has at least the probability p > 1/2, no image within
``sigma * quantile(p)`` gets another one (their Theorem 1 with 1 - p for the runner-up). Here p is a lower
confidence limit from counted answers, so a radius is wrong with probability alpha at most, image by image.

Three things are done otherwise than usual. Sums of image and noise are exact: noise is rounded to a lattice of
65,280 steps between black and white, on which every 8-bit image lies, so that floating-point addition cannot betray
the image (Voráček & Hein 2023, arXiv:2207.07209); an image off the lattice is moved onto it first, and its radius
is shortened by what that may cost. The noise of an image comes from its own stream: batches, order and the number
of processes change no count. And with several looks an image is left alone as soon as every radius that somebody
asks about is proven or out of reach: look k, after a number of copies that is known beforehand, has its own share
alpha_k of alpha. As the shares add up to alpha, all limits of all looks hold together with probability 1 - alpha.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from memory_defense.certificates.confidence import differ, lower_limit
from memory_defense.contracts import Certificates, Classifier, Images, Labels
from memory_defense.passes import regular
from memory_defense.randomness import ImageDraws

ABSTAINS = -1
"""Label of an image to which it gives no answer."""
LATTICE = 255 * 256
"""Steps of the noise's lattice in [0, 1]."""
CHUNK = 100
"""Noisy copies that are drawn together; an image's n-th copy is the same whatever is asked beside it."""
LARGEST_NORMAL = math.sqrt(2 * 24 * math.log(2))
"""No normal number is larger: those here are made of uniform numbers of 24 bits (`ImageDraws.normal`)."""
MOST_LOOKS = 10
EARLY_SHARE = 0.05
"""Share of alpha of each look but the last, which has what is left."""
NO_ANSWER = -1
"""Class of a copy for which the model has no finite logits."""
_PASS, _PASS_ELSEWHERE, _MOST_NUMBERS = 200, 1000, 1 << 23
"""Noisy copies in one pass, at most, on a processor, whose cache holds what so few of them become in a small
network, and elsewhere; and pixel values of all of them together."""
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Counted:
    """What was counted for one image."""

    label: int
    """The class that was certified, or `ABSTAINS`."""
    radius: float
    """Certified L2 radius in pixel units; 0 where it abstains."""
    top: int
    """Copies that got the class which most of the selection's copies got."""
    asked: int
    """Copies asked, at most `Smoothing.samples`: fewer where every wanted radius was decided."""
    guess: int
    """That class, certified or not."""


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """How a classifier is smoothed, and how sure its certificate is.

    Raises
    ------
    ValueError
        For a sigma that is not above 0, no sample, an alpha outside (0, 1), or looks outside 1 to `MOST_LOOKS`.
    """

    sigma: float
    """Standard deviation of the noise, in pixel units of [0, 1]."""
    selection: int = 100
    """Copies by which the class is chosen (n0); they do not count for the certificate."""
    samples: int = 100_000
    """Copies by which its probability is bounded (n)."""
    alpha: float = 0.001
    """Probability that an image's certificate is wrong."""
    bfloat16: bool = False
    """Whether the classifier answers in bfloat16 (torch's autocast), in certificates and predictions alike: faster
    on processors that multiply it. The certificate is about the classifier that answers so."""
    looks: int = 1
    """How often the count is looked at, where radii are wanted: after all copies, half of them, a quarter and so
    on. With 1 an image whose radius is in reach is asked about all copies."""

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise ValueError(
                f"sigma is {self.sigma}, but the noise needs a standard deviation above 0; give 0.25, say"
            )
        for name in ("selection", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but at least 1 noisy copy is needed; give 1000, say"
                )
        if not 0 < self.alpha < 1:
            raise ValueError(
                f"alpha is {self.alpha}, but the probability of a wrong certificate is in (0, 1); give 0.001, say"
            )
        if not 1 <= self.looks <= MOST_LOOKS:
            raise ValueError(
                f"looks is {self.looks}, but a count is looked at 1 to {MOST_LOOKS} times; give 6, say"
            )

    @property
    def early_looks(self) -> tuple[int, ...]:
        """Copies after which a count is looked at before all are asked, ascending."""
        halves = (self.samples >> look for look in range(self.looks - 1, 0, -1))
        return tuple(sorted({copies for copies in halves if 0 < copies < self.samples}))

    @property
    def last_alpha(self) -> float:
        """What the earlier looks leave of alpha."""
        return self.alpha * (1 - EARLY_SHARE * (self.looks - 1))

    @property
    def largest_radius(self) -> float:
        """The radius of an image all of whose copies get one class: no larger one can be certified."""
        return self.radius(self.samples)

    def radius(self, top: int) -> float:
        """Return the certified radius where `top` of the samples got the class; 0 where none is."""
        return self._radius(top, self.samples, self.last_alpha)

    def _radius(self, top: int, samples: int, alpha: float) -> float:
        limit = float(lower_limit(top, samples, alpha))
        return max(0.0, self.sigma * _NORMAL.inv_cdf(limit)) if 0.5 < limit < 1 else 0.0

    def _upper_radius(self, top: int, samples: int) -> float:
        """Return a radius that the truth exceeds as rarely as a look proves too much: nothing is proven by it."""
        limit = 1 - float(lower_limit(samples - top, samples, EARLY_SHARE * self.alpha))
        return self.sigma * _NORMAL.inv_cdf(limit) if 0.5 < limit < 1 else math.inf if limit == 1 else 0.0

    def least_top(self, radius: float) -> int:
        """Return how many of the samples must get the class for this radius; more than all where none is enough."""
        low, high = 0, self.samples + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.radius(middle) >= radius > 0 else (middle, high)
        return high

    @property
    def exact(self) -> bool:
        """Whether the noise is coarser than its lattice, and no sum on it is too large for float32."""
        return 1 <= self.sigma * LATTICE <= (2**24 - LATTICE) / LARGEST_NORMAL

    def least_samples(self, radius: float) -> int:
        """Return the least number of samples with which this radius could be certified at all."""
        wanted = _NORMAL.cdf(radius / self.sigma)
        return math.ceil(math.log(self.last_alpha) / math.log(wanted)) if wanted < 1 else 2**63

    def count(
        self, model: Classifier, image: Tensor, draws: ImageDraws, *, wanted: Sequence[float] = ()
    ) -> Counted:
        """Certify one image.

        Parameters
        ----------
        model
            The base classifier.
        image
            (C, H, W) in [0, 1].
        draws
            Of this image alone.
        wanted
            Radii above 0 that somebody asks about. Where each is proven at one of the looks, or out of reach, for
            certain or by a look's limit from above, no more copies are asked, and the radius is what is proven by
            then. Empty asks all copies.
        """
        asking, lost = regular(model), off_lattice(image)
        chosen = torch.cat([*self._answers(asking, image, draws.child("selection"), self.selection)])
        guess = int(chosen.mode().values)
        top, asked, proven = 0, 0, 0.0
        if guess != NO_ANSWER:
            needed = [(radius + lost, self.least_top(radius + lost)) for radius in wanted]
            ahead, hopeless = list(self.early_looks if wanted else ()), math.inf
            for answers in self._answers(asking, image, draws.child("estimation"), self.samples):
                hits = answers == guess
                while ahead and ahead[0] <= asked + len(hits):
                    look = ahead.pop(0)
                    so_far = top + int(hits[: look - asked].sum())
                    proven = max(proven, self._radius(so_far, look, EARLY_SHARE * self.alpha))
                    hopeless = min(hopeless, self._upper_radius(so_far, look))
                top, asked = top + int(hits.sum()), asked + len(hits)
                reach = self.samples - (asked - top)
                if needed and all(
                    radius <= proven or radius > hopeless or reach < enough for radius, enough in needed
                ):
                    break
        radius = max(0.0, max(proven, self.radius(top)) - lost)
        return Counted(guess if radius > 0 else ABSTAINS, radius, top, asked, guess)

    def certify(
        self, model: Classifier, images: Images, draws: ImageDraws, *, wanted: Sequence[float] = ()
    ) -> Certificates:
        """Return the certificates of images (B, C, H, W), one after the other; see `count`."""
        found = [
            self.count(model, image, draws.rows(torch.tensor([row])), wanted=wanted)
            for row, image in enumerate(images)
        ]
        return Certificates(
            torch.tensor([one.label for one in found], dtype=torch.int64, device=images.device),
            torch.tensor([one.radius for one in found], dtype=torch.float64),
        )

    def predict(self, model: Classifier, images: Images, draws: ImageDraws, *, samples: int = 1000) -> Labels:
        """Return the smoothed classifier's answers (B,), `ABSTAINS` where the copies do not decide.

        An answer is another than the true majority class with probability alpha at most.
        """
        asking, labels = regular(model), list[int]()
        for row, image in enumerate(images):
            own = draws.rows(torch.tensor([row])).child("prediction")
            counts = (torch.cat([*self._answers(asking, image, own, samples)]) + 1).bincount(minlength=2)
            top = counts.topk(2)  # the first place is that of `NO_ANSWER`
            sure = bool(differ(int(top.values[0]), int(top.values[1]), self.alpha))
            labels.append(int(top.indices[0]) - 1 if sure else ABSTAINS)
        return torch.tensor(labels, dtype=torch.int64, device=images.device)

    @torch.no_grad()
    def _answers(self, model: Classifier, image: Tensor, draws: ImageDraws, count: int) -> Generator[Labels]:
        """Yield the classes of so many noisy copies, pass by pass; `NO_ANSWER` where the logits are not finite.

        A pass has as many copies as the images' size and the kind of device say, so that nothing else decides how
        an answer is rounded.
        """
        most = _PASS if image.device.type == "cpu" else _PASS_ELSEWHERE
        size = max(1, min(most, _MOST_NUMBERS // image.numel()) // CHUNK) * CHUNK
        for start in range(0, count, size):
            copies = noisy(image, draws, self.sigma, start, min(size, count - start))
            with torch.autocast(image.device.type, torch.bfloat16, enabled=self.bfloat16):
                logits = model(copies)
            yield logits.argmax(1).masked_fill_(~logits.isfinite().all(1), NO_ANSWER)


def noisy(image: Tensor, draws: ImageDraws, sigma: float, start: int, count: int) -> Images:
    """Return copies number `start` to ``start + count - 1`` of an image (C, H, W) under normal noise.

    `start` is a multiple of `CHUNK`. Copies are not clipped to [0, 1]: the theorem is about the whole space.
    """
    chunks = range(start // CHUNK, -(-(start + count) // CHUNK))
    keys = torch.cat([draws.child("chunk", number).keys for number in chunks])
    noise = ImageDraws(keys).normal(CHUNK, *image.shape).flatten(0, 1)[:count]
    return noise.mul_(sigma * LATTICE).round_().add_(_on_lattice(image)).div_(LATTICE)


def _on_lattice(image: Tensor) -> Tensor:
    """Return an image as whole numbers of the lattice's steps, exact in float32."""
    return (image.double() * LATTICE).round().float()


def off_lattice(image: Tensor) -> float:
    """Return what the lattice may cost the radius of an image (C, H, W), in L2 and pixel units.

    An attacked image is moved by half a step a pixel at most, and this one by as much as it lies off.
    """
    steps = image.double() * LATTICE
    moved = (steps - steps.round()).square().sum().sqrt()
    return float(moved) / LATTICE + 0.5 * math.sqrt(image.numel()) / LATTICE
