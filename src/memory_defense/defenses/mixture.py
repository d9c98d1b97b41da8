"""A mixture of a robust and an accurate classifier: MixedNUTS (Bai et al. 2024, arXiv:2402.02263).

    answer(x) = log((1 - a) * softmax(accurate(x)) + a * softmax(M(robust(x))))
    M(z)      = s * sign(h) * |h| ** p    with    h = clamp(LN(z) + c)

LN subtracts an image's mean logit and divides by the standard deviation of its logits; clamp is GELU, or ReLU. A
robust classifier is surer of right answers under attack than of wrong answers on clean images. M widens that gap,
so that the accurate classifier decides where the robust one is unsure, and nowhere else: where the robust one leads
in probability by more than (1 - a) / a, the mixture gives its answer whatever the accurate one says, since that
adds 1 - a to another class at most.

What an adversary differentiates:

    end-to-end   the mixture itself
    robust       the robust classifier alone, its images are transferred
    accurate     the accurate classifier alone, the same: that is also the transfer from an undefended classifier
    members      the mixture's answers, with the gradient of the sum of both classifiers' log-probabilities
    unclamped    the mixture's answers, with the gradient of the mixture without clamp and power, whose flat parts
                 hide where the robust classifier could be led
    silent       errs without both disagreeing more than the flag's threshold allows

No certificate is claimed. One of the robust classifier speaks of its answer, not of its lead after M, and the
accurate one has none; so nothing follows for the mixture, not even where it gives the robust one's answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.contracts import Adaptation, Binding, Classifier, Images, Labels, Logits, PerImage
from memory_defense.defenses.ensemble import disagreement, white_box
from memory_defense.defenses.flagging import FlaggingModule
from memory_defense.losses import margin
from memory_defense.names import check_name
from memory_defense.wrappers import replace_value

Clamp = Literal["gelu", "relu"]
_CLAMPS: dict[Clamp, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
POWERS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
OFFSETS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5)
"""The values of s, p and c that `choose` tries, each with each."""

FEWEST_CLASSES = 3
"""Two logits are 1 and -1 after LN, however far they were apart: nothing of the confidence is left."""

ROUNDS = 3
"""Times that `fit` attacks the mixture it has chosen, and chooses again."""

_EPSILON = 1e-5
"""Added to the variance of an image's logits, as layer normalisation does."""

_LEAD = 0.999
"""Factor of the margin that the accurate classifier must not reach, so that rounding does not undo it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The four numbers of a mixture.

    Raises
    ------
    ValueError
        For a number out of its range.
    """

    weight: float = 0.5
    """a, the share of the robust classifier, in [0, 1]."""
    scale: float = 1.0
    """s, above 0."""
    power: float = 1.0
    """p, at least 1: below, its slope at 0 is infinite, and no gradient would pass."""
    offset: float = 0.0
    """c, added to the normalised logits; finite."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight is {self.weight}, but the robust classifier's share lies in [0, 1]; give 0.5")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale is {self.scale}, but it must be above 0 and finite; give 1")
        if not 1 <= self.power < math.inf:
            raise ValueError(f"power is {self.power}, but it must be at least 1 and finite; give 1 to leave it out")
        if not math.isfinite(self.offset):
            raise ValueError(f"offset is {self.offset}, but it must be finite; give 0 to leave it out")


def _normalised(logits: Logits) -> Logits:
    """Return LN of each image's logits (B, K): what `torch.nn.functional.layer_norm` computes, for any exporter."""
    centred = logits - logits.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + _EPSILON).sqrt()


class Mixture(FlaggingModule):
    """A robust and an accurate classifier in one.

    Parameters
    ----------
    robust, accurate
        Images (B, C, H, W) in [0, 1] to logits (B, K), with the same K. They are trained already: their parameters
        are frozen here, and they stay in eval mode when the mixture is put in train mode.
    settings
        Numbers of the mixture. They are buffers, kept with the weights; `fit` chooses them.
    clamp
        ``gelu``, as in the paper, or ``relu``. ReLU never turns the order of two logits, but may make them equal.

    Raises
    ------
    ValueError
        For an unknown clamp.
    """

    flag_score = "disagreement"
    transfer_knowledge: frozenset[str] = frozenset({"robust", "accurate"})
    """Each member's decisions differ from the mixture's."""

    weight: Tensor
    scale: Tensor
    power: Tensor
    offset: Tensor

    def __init__(
        self, robust: nn.Module, accurate: nn.Module, settings: Settings | None = None, clamp: Clamp = "gelu"
    ) -> None:
        super().__init__()
        check_name(clamp, get_args(Clamp), "clamp")
        self.robust = robust.eval().requires_grad_(False)
        self.accurate = accurate.eval().requires_grad_(False)
        self.clamp: Clamp = clamp
        for name, value in vars(settings or Settings()).items():
            self.register_buffer(name, torch.tensor(float(value)))

    @property
    def settings(self) -> Settings:
        """The numbers of the mixture, as float32 holds them."""
        return Settings(**{name: float(getattr(self, name)) for name in vars(Settings())})

    @settings.setter
    def settings(self, settings: Settings) -> None:
        for name, value in vars(settings).items():
            getattr(self, name).fill_(value)

    def transformed(self, logits: Logits) -> Logits:
        """Return M of the robust classifier's logits (B, K)."""
        h = _CLAMPS[self.clamp](_normalised(logits) + self.offset)
        return self.scale * h.sign() * h.abs() ** self.power

    def members(self, images: Images) -> tuple[Logits, Logits]:
        """Return the robust and the accurate classifier's logits (B, K), with a gradient if `images` wants one."""
        both = self.robust, self.accurate
        if torch.is_grad_enabled() and images.requires_grad:
            both = white_box(self.robust), white_box(self.accurate)
        robust, accurate = (one(images) for one in both)
        return robust, accurate

    def mixed(self, robust: Logits, accurate: Logits) -> Logits:
        """Return the answer (B, K) for both classifiers' log-probabilities (B, K), M applied before."""
        shares = torch.stack([(1 - self.weight).log() + accurate, self.weight.log() + robust])
        return shares.logsumexp(0)

    def answer(self, robust: Logits, accurate: Logits) -> Logits:
        """Return the answer (B, K) for both classifiers' logits (B, K)."""
        return self.mixed(self.transformed(robust).log_softmax(1), accurate.log_softmax(1))

    def forward(self, images: Images) -> Logits:
        """Return the mixture's answer, the logarithms (B, K) of its probabilities."""
        return self.answer(*self.members(images))

    def surrogates(self) -> Mapping[str, Classifier | Binding]:
        """Return ``end-to-end``, ``robust`` and ``accurate``; see the module's first lines."""
        return {"end-to-end": self, "robust": white_box(self.robust), "accurate": white_box(self.accurate)}

    def adaptive(self) -> Mapping[str, Adaptation]:
        """Return ``members`` and ``unclamped``, and ``silent`` once there is a threshold."""
        return {
            "members": Adaptation(_Led(self, _both)),
            "unclamped": Adaptation(_Led(self, _unclamped)),
            **super().adaptive(),
        }

    def scores(self, images: Images) -> Mapping[str, PerImage]:
        """Return ``disagreement`` (B,): the Jensen-Shannon divergence of both classifiers, without M, in nats."""
        return {"disagreement": disagreement(torch.stack(self.members(images)).log_softmax(2))}

    def train(self, mode: bool = True) -> Self:
        """Switch the mixture's mode, except that both classifiers stay in eval mode."""
        super().train(mode)
        self.robust.eval()
        self.accurate.eval()
        return self


_Lead = Callable[[Mixture, Logits, Logits], Logits]


@dataclass(frozen=True, eq=False)
class _Led:
    """The mixture's own logits with the gradient of what `lead` makes of both classifiers' logits."""

    mixture: Mixture
    lead: _Lead

    def __call__(self, images: Images) -> Logits:
        """Return the mixture's logits (B, K)."""
        if not (torch.is_grad_enabled() and images.requires_grad):
            return self.mixture(images)
        both = self.mixture.members(images)
        with torch.no_grad():
            value = self.mixture.answer(*both)
        return replace_value(value, self.lead(self.mixture, *both).to(value.dtype))


def _both(mixture: Mixture, robust: Logits, accurate: Logits) -> Logits:
    del mixture
    return robust.log_softmax(1) + accurate.log_softmax(1)


def _unclamped(mixture: Mixture, robust: Logits, accurate: Logits) -> Logits:
    straight = mixture.scale * _normalised(robust)
    return mixture.mixed(straight.log_softmax(1), accurate.log_softmax(1))


class HeldOut(NamedTuple):
    """What both classifiers say of held-out images."""

    robust: Logits
    """(N, K) the robust classifier's logits of the clean images."""
    accurate: Logits
    """(N, K) the accurate classifier's."""
    attacked: Tensor
    """(R, N, K) the robust classifier's logits of R attacked versions of each image."""
    labels: Labels
    """(N,)."""


class Choice(NamedTuple):
    """Numbers of a mixture, and what they do to the held-out images."""

    settings: Settings
    clean: float
    """Share that the mixture answers right when clean."""
    kept: float
    """Share whose attacked versions the mixture answers right, whatever the accurate classifier says of them."""


def choose(held_out: HeldOut, *, robust_loss: float = 0.01, clamp: Clamp = "gelu") -> Choice:
    """Return the numbers that make the fewest clean mistakes for at most so much robustness.

    An image is *held* by s, p and c at a margin q if the robust classifier's probabilities, after M, lead with its
    label by at least q on every attacked version of it; then a = 1 / (1 + q), a trifle more, makes the mixture
    right on all of them, whatever the accurate classifier answers. For each s, p and c (`SCALES`, `POWERS`,
    `OFFSETS`) q is the largest margin at which at most ``robust_loss * N`` images are not held of those that the
    robust classifier alone answers right on every attacked version: so the accurate classifier has as much to say
    as that allows. Of all these the mixture with the fewest mistakes on the N clean images is taken, where equal
    that with the smallest cross-entropy, and then the first. The robust classifier alone (a = 1, s = p = 1, c = 0),
    which loses nothing, is among them.

    The paper bounds robustness by the same margins, but minimises the share of the robust classifier's clean
    mistakes whose margin is above (1 - a) / a, in place of the mixture's own mistakes, which are known here.

    Parameters
    ----------
    held_out
        Both classifiers' logits; at least 1 image, 1 attacked version and 3 classes.
    robust_loss
        Share of images that may be lost, in [0, 1).
    clamp
        The mixture's.

    Raises
    ------
    ValueError
        For a share out of its range, or fewer classes.
    """
    if not 0 <= robust_loss < 1:
        raise ValueError(f"robust_loss is {robust_loss}, but the share of images to lose lies in [0, 1); give 0.01")
    if held_out.robust.shape[1] < FEWEST_CLASSES:
        raise ValueError(
            f"there are {held_out.robust.shape[1]} classes, but layer normalisation leaves nothing of two logits' "
            f"distance; a mixture needs at least {FEWEST_CLASSES}, so keep the robust classifier alone"
        )
    labels = held_out.labels
    right = (held_out.attacked.argmax(2) == labels).all(0)  # (N,)
    lost = math.floor(robust_loss * len(labels))
    best: tuple[tuple[float, float], Choice] | None = None
    for settings in _candidates():
        mixture = Mixture(nn.Identity(), nn.Identity(), settings, clamp).to(labels.device)
        chosen, margins = settings, _margins(mixture, held_out.attacked, labels)  # (N,)
        if settings.weight < 1:
            threshold = _threshold(margins[right], lost)
            if threshold is None:
                continue
            chosen = _with_weight(settings, 1 / (1 + _LEAD * threshold))
            mixture.settings = chosen
        answers = mixture.answer(held_out.robust, held_out.accurate)
        clean = float((answers.argmax(1) == labels).double().mean())
        rank = -clean, float(F.cross_entropy(answers, labels))
        if best is None or rank < best[0]:
            needed = (1 - chosen.weight) / chosen.weight
            kept = float((margins > needed).double().mean())
            best = rank, Choice(chosen, clean, kept)
    assert best is not None, "the robust classifier alone is always a candidate"
    return best[1]


def _candidates() -> Iterator[Settings]:
    yield Settings(weight=1.0)
    for scale in SCALES:
        for power in POWERS:
            for offset in OFFSETS:
                yield Settings(scale=scale, power=power, offset=offset)


def _with_weight(settings: Settings, weight: float) -> Settings:
    return Settings(weight=weight, scale=settings.scale, power=settings.power, offset=settings.offset)


def _margins(mixture: Mixture, attacked: Tensor, labels: Labels) -> PerImage:
    """Return (N,) by how much probability the label leads at least, over all attacked versions."""
    found = [-margin(mixture.transformed(logits).softmax(1), labels) for logits in attacked]
    return torch.stack(found).amin(0)


def _threshold(margins: PerImage, lost: int) -> float | None:
    """Return the largest margin that at most so many images are below; None where it is not above 0."""
    if len(margins) <= lost:
        return 1.0
    at = float(margins.sort().values[lost])
    return at if at > 0 else None


@torch.no_grad()
def _logits(classifier: nn.Module, images: Images) -> Logits:
    return torch.cat([classifier(part) for part in torch.split(images, 256)])


def fit(
    mixture: Mixture,
    images: Images,
    labels: Labels,
    attacked: Callable[[Classifier], Images],
    *,
    robust_loss: float = 0.01,
    rounds: int = ROUNDS,
) -> Choice:
    """Choose a mixture's numbers on held-out images, put them into it, and return them.

    The robust classifier is attacked first, and `choose` is asked. Then the mixture itself is attacked `rounds`
    times, by its adaptation ``unclamped``: what was found joins the attacked versions, and `choose` is asked again.
    An attack that finds more than this one did may lose more images than `robust_loss` allows.

    Parameters
    ----------
    mixture
        Keeps the numbers.
    images, labels
        (N, C, H, W) and (N,), none of which it is judged by later.
    attacked
        Attacks a classifier on these images, and returns them attacked, in their order.
    robust_loss
        See `choose`.
    rounds
        At least 0.

    Raises
    ------
    ValueError
        As `choose`.
    """
    robust, accurate = _logits(mixture.robust, images), _logits(mixture.accurate, images)
    versions = [_logits(mixture.robust, attacked(white_box(mixture.robust)))]

    def chosen() -> Choice:
        held_out = HeldOut(robust, accurate, torch.stack(versions), labels)
        choice = choose(held_out, robust_loss=robust_loss, clamp=mixture.clamp)
        mixture.settings = choice.settings
        return choice

    choice = chosen()
    for _ in range(rounds):
        versions.append(_logits(mixture.robust, attacked(_Led(mixture, _unclamped))))
        choice = chosen()
    return choice


def build_mixture(*, robust: nn.Module, accurate: nn.Module, preset: str = "gelu") -> Mixture:
    """Return a mixture whose numbers are not chosen yet; `preset` names its clamp: ``gelu`` or ``relu``."""
    return Mixture(robust, accurate, clamp=cast("Clamp", preset))
