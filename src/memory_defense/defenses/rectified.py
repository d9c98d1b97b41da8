"""A classifier and its flag, trained together (rectified rejection, Pang et al. 2022, arXiv:2105.14785).

    p(k | x)              the classifier's softmax;  y^ its largest, the answer
    A(x) in [0, 1]        a second head on the same features, trained towards p(y | x) / p(y^ | x)
    R-Con = p(y^ | x) A(x)

Where the answer is right the target of A is 1, and where it is wrong the product is as large as the probability of
the true class: a perfect A makes R-Con at most 1/2 for every wrong answer, however sure the classifier is. Both
heads see adversarial images in training. An image is flagged where R-Con lies below a threshold that held-out
clean images give for a stated rate of false alarms. Nothing is proven: the flag may be fought, by ``silent``,
``crossing`` and ``confident``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, Unpack, cast

from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.checks import check_at_least
from memory_defense.contracts import Adaptation, Batch, Classifier, Images, Labels, Logits, PerImage, Rows, Stateful
from memory_defense.defenses.flag_adversaries import ConfidentBinder, Look
from memory_defense.defenses.flagging import FlaggingModule, scores_of, thresholds_at
from memory_defense.defenses.losses import LossTerms
from memory_defense.names import check_name
from memory_defense.networks.classifiers import LeNetSmall, SmallCNN
from memory_defense.networks.layers import ImageClassifier, ImageShape

FALSE_ALARMS = 0.05
"""Share of clean images that the flag may call suspicious, as its threshold is fitted after training."""

MISTRUST = "mistrust"
"""1 - R-Con, the score that the flag looks at."""

UNSURE = "unsure"
"""1 - p(y^ | x), what the same classifier has to say without the second head."""


class Crafts(Protocol):
    """What makes the images that the losses are taken on, such as `training.adversarial.WarmStart`."""

    def craft(self, model: nn.Module, batch: Batch) -> Images:
        """Return images (B, C, H, W), without a gradient."""
        ...


class _PerImage(Protocol):
    """One that remembers something of each image (`training.team.PerImageState`)."""

    def recall(self, ids: Rows) -> Mapping[str, Tensor]: ...

    def remember(self, ids: Rows, rows: Mapping[str, Tensor]) -> None: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class RectifiedLosses(LossTerms):
    """The terms of `RectifiedObjective`, all scalars."""

    answer: Tensor
    """Cross-entropy of the answers."""
    trust: Tensor
    """Binary cross-entropy of A(x) from its target, before its factor; at least the entropy of the targets."""


def trust_target(logits: Logits, labels: Labels) -> PerImage:
    """Return (B,) what A(x) is trained towards, ``p(y | x) / p(y^ | x)`` in (0, 1]: 1 where the answer is right."""
    logits = logits.detach()
    return (logits.gather(1, labels[:, None]).squeeze(1) - logits.amax(1)).exp()


@dataclass(frozen=True, kw_only=True)
class RectifiedObjective:
    """Cross-entropy of the answers and binary cross-entropy of A(x), both on crafted images.

    Pang et al. take the latter of R-Con and p(y | x); dividing both by p(y^ | x), which has no gradient there,
    leaves the same optimum and a loss that does not fade where the classifier is unsure. Both train the trunk.

    Raises
    ------
    ValueError
        For a negative factor.
    """

    crafting: Crafts
    """Makes the adversarial images, as it would for the answers alone."""
    trust: float = 1.0
    """Factor of the second loss, at least 0."""

    def __post_init__(self) -> None:
        check_at_least(0, trust=self.trust)

    def __call__(self, model: Rectified, batch: Batch, /) -> RectifiedLosses:
        """Return the losses of one batch."""
        return self.losses(model, self.craft(model, batch), batch)

    def craft(self, model: nn.Module, batch: Batch) -> Images:
        """Return the crafted images (B, C, H, W)."""
        return self.crafting.craft(model, batch)

    def losses(self, model: nn.Module, images: Images, batch: Batch) -> RectifiedLosses:
        """Return the losses of crafted images."""
        logits, trust = cast("Rectified", model).both(images)
        answer = F.cross_entropy(logits.float(), batch.labels)
        believed = F.binary_cross_entropy_with_logits(trust.float(), trust_target(logits.float(), batch.labels))
        return RectifiedLosses(total=answer + self.trust * believed, answer=answer, trust=believed)

    def state(self) -> Mapping[str, Tensor]:
        """Return what the crafting remembers; see `contracts.Stateful`."""
        return self.crafting.state() if isinstance(self.crafting, Stateful) else {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Give back what `state` returned."""
        if isinstance(self.crafting, Stateful):
            self.crafting.restore(state)

    def recall(self, ids: Rows) -> Mapping[str, Tensor]:
        """Return what the crafting remembers of these images; see `training.team.PerImageState`."""
        return cast("_PerImage", self.crafting).recall(ids) if isinstance(self.crafting, Stateful) else {}

    def remember(self, ids: Rows, rows: Mapping[str, Tensor]) -> None:
        """Put what `recall` returned, here or in another process."""
        if isinstance(self.crafting, Stateful):
            cast("_PerImage", self.crafting).remember(ids, rows)


class Rectified(FlaggingModule):
    """Images (B, C, H, W) in [0, 1] to logits (B, K), and how far to trust them.

    Parameters
    ----------
    network
        Its head is an `nn.Sequential` that ends in a linear layer; what comes before that is shared.
    hidden
        Width of the second head's hidden layer, at least 1.

    Raises
    ------
    ValueError
        For a network with another head, or a width below 1.
    """

    transfer_knowledge: frozenset[str] = frozenset()
    """Empty: the only surrogate is the defense itself."""
    flag_score = MISTRUST

    def __init__(self, network: ImageClassifier, *, hidden: int = 64) -> None:
        super().__init__()
        check_at_least(1, hidden=hidden)
        head = getattr(network, "head", None)
        last = head[-1] if isinstance(head, nn.Sequential) and len(head) else None
        if not isinstance(last, nn.Linear):
            raise ValueError(
                f"{type(network).__name__} has no head that ends in a linear layer, so there is nothing for a "
                "second head to share; give a network such as networks.classifiers.LeNetSmall or SmallCNN"
            )
        self.network = network
        self.trust_head = nn.Sequential(nn.Linear(last.in_features, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, images: Images) -> Logits:
        """Return the network's logits (B, K)."""
        return self.network(images)

    def both(self, images: Images) -> tuple[Logits, PerImage]:
        """Return the logits (B, K), and (B,) the log-odds of A(x), in one pass."""
        head = cast("nn.Sequential", self.network.head)
        features = head[:-1](self.network.trunk(self.network.normalize(images)))  # (B, F)
        return head[-1](features), self.trust_head(features).squeeze(1)

    def surrogates(self) -> Mapping[str, Classifier]:
        """Return the network itself: the white box."""
        return {"end-to-end": self.network}

    def scores(self, images: Images) -> Mapping[str, PerImage]:
        """Return ``mistrust``, 1 - R-Con, and ``unsure``, 1 - p(y^ | x), (B,) in [0, 1]."""
        logits, trust = self.both(images)
        return self._scores(logits, trust)

    def adaptive(self) -> Mapping[str, Adaptation]:
        """Return ``silent``, ``crossing`` and ``confident``, once there is a threshold."""
        found = dict(super().adaptive())
        if found:
            found["confident"] = Adaptation(ConfidentBinder(self.look), towards_each_class=True, fights_flag=True)
        return found

    def look(self, images: Images) -> Look:
        """Return what `ConfidentBinder` follows: the logarithm of R-Con of each class, as if it were the answer."""
        logits, trust = self.both(images)
        watched, threshold = self._scores(logits, trust)[self.flag_score], cast("float", self.flag_threshold)
        confidence = logits.log_softmax(1)
        if self.flag_score == MISTRUST:
            confidence = confidence + F.logsigmoid(trust)[:, None]
        return Look(logits, watched - threshold, confidence)

    def fit_threshold(self, images: Images, false_alarms: float = FALSE_ALARMS) -> None:
        """Choose the threshold so that a share `false_alarms` of clean images is flagged at most.

        Parameters
        ----------
        images
            (N, C, H, W) held-out clean images, neither trained on nor used in the evaluation.
        false_alarms
            In (0, 1).

        Raises
        ------
        ValueError
            What `flagging.thresholds_at` raises.
        """
        scores = scores_of(images, lambda part: self.watched_score(part)[:, None])
        self.flag_threshold = float(thresholds_at(scores, false_alarms)[0])

    @staticmethod
    def _scores(logits: Logits, trust: PerImage) -> Mapping[str, PerImage]:
        sure = logits.softmax(1).amax(1)
        return {MISTRUST: 1 - sure * trust.sigmoid(), UNSURE: 1 - sure}


@dataclass(frozen=True, kw_only=True)
class RectifiedPreset:
    """The network that both heads share, and the width of the second."""

    network: Callable[..., ImageClassifier]
    hidden: int


PRESETS: dict[str, RectifiedPreset] = {
    "small": RectifiedPreset(network=LeNetSmall, hidden=64),
    "small-cnn": RectifiedPreset(network=SmallCNN, hidden=64),
    "tiny": RectifiedPreset(network=partial(LeNetSmall, widths=(4, 8), hidden=16), hidden=8),
}
"""``small`` is the demo's network; ``tiny`` is for tests."""


def build_rectified(*, preset: str = "small", **shape: Unpack[ImageShape]) -> Rectified:
    """Return a freshly initialised system; draws from the global generator.

    Parameters
    ----------
    preset
        Name in `PRESETS`.
    shape
        See `ImageShape`.

    Raises
    ------
    ValueError
        For an unknown preset, or a size out of range.
    """
    check_name(preset, PRESETS, "preset of rectified rejection")
    chosen = PRESETS[preset]
    return Rectified(chosen.network(**shape), hidden=chosen.hidden)
