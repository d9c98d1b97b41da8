"""The contracts of the house: the page to read first.

A defense is a classifier: images in [0, 1] in, logits out. An attack is a function of a classifier. What the
adversary knows is the choice of the surrogate it differentiates. Success is always judged by the true
defense, image by image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeAlias, runtime_checkable

from torch import Tensor

Images: TypeAlias = Tensor
"""(B, C, H, W) float32 in [0, 1]."""
Labels: TypeAlias = Tensor
"""(B,) int64 in [0, K)."""
Logits: TypeAlias = Tensor
"""(B, K) float, unnormalised."""
PerImage: TypeAlias = Tensor
"""(B,) one number or flag for each image."""
Rows: TypeAlias = Tensor
"""(N,) int64 positions of images inside a batch."""


class Classifier(Protocol):
    """Anything that turns images (B, C, H, W) in [0, 1] into logits (B, K)."""

    def __call__(self, images: Images, /) -> Logits:
        """Return logits (B, K)."""
        ...


@runtime_checkable
class Binding(Protocol):
    """A surrogate that freezes something at the clean images before the attack starts (a memory slot, say).

    The evaluator calls ``bind`` once for each batch and attacks what comes back.
    """

    def bind(self, clean: Images) -> Classifier:
        """Return the classifier frozen at these clean images; its rows are theirs (see `RowBound`)."""
        ...


@runtime_checkable
class RowBound(Protocol):
    """A classifier whose answer depends on which row of the batch an image is."""

    def rows(self, index: Rows) -> Classifier:
        """Return the classifier for a sub-batch made of these rows."""
        ...


@runtime_checkable
class Defense(Protocol):
    """A classifier that publishes what a knowing adversary would differentiate."""

    def __call__(self, images: Images, /) -> Logits:
        """Return logits (B, K)."""
        ...

    def surrogates(self) -> Mapping[str, Classifier | Binding]:
        """Return the published stand-ins by the name of the adversary's knowledge.

        ``end-to-end`` is reserved for the one that gives the defense's own logits, with a gradient.
        """
        ...


@runtime_checkable
class Transferring(Protocol):
    """A defense some of whose surrogates decide otherwise than it does, such as its classifier alone."""

    transfer_knowledge: frozenset[str]
    """Names of those surrogates; attacks on them run `Attack.for_transfer`."""


def transfers_of(defense: object) -> frozenset[str]:
    """Return the names of the surrogates that decide otherwise than the defense: see `Transferring`."""
    return defense.transfer_knowledge if isinstance(defense, Transferring) else frozenset()


class Adaptation(NamedTuple):
    """A surrogate made for attacking one defense, published by the defense itself."""

    surrogate: Classifier | Binding
    """Gives the defense's own verdicts; its gradient is another."""
    towards_each_class: bool = False
    """Worth attacking once for each wrong class, since each leads another way."""
    fights_flag: bool = False
    """Counts an image as fooled only if the defense does not flag it either (`Flagging`)."""


@runtime_checkable
class Adaptive(Protocol):
    """A defense that publishes how it should be attacked, beyond its plain surrogates."""

    def adaptive(self) -> Mapping[str, Adaptation]:
        """Return the adaptations by name; attacks know none of them by name."""
        ...


class Certificates(NamedTuple):
    """What is proven about a batch: no image within `radii` of one, inside [0, 1], gets another label."""

    labels: Labels
    """(B,) the answers, -1 where it abstains."""
    radii: PerImage
    """(B,) float64, at least 0, in the certificate's norm and in pixel units; 0 where nothing is proven."""


@runtime_checkable
class Certifying(Protocol):
    """A defense that proves, image by image, how far its answer holds."""

    certified_norm: str
    """``linf`` or ``l2``."""
    certified_method: str
    """How it proves, in a word or two, for records."""

    def certificates(self, images: Images) -> Certificates:
        """Return its answers to images (B, C, H, W) and the radii within which they are proven to stay."""
        ...

    def slack(self, images: Images, radius: float) -> PerImage:
        """Return (B,) how much room the proof for `radius` has, with a gradient: at least 0 only where it holds."""
        ...


@runtime_checkable
class Flagging(Protocol):
    """A defense that may also flag an image as suspicious, independently of its answer."""

    flag_score: str
    """Name of the score in `scores` that the flag compares with its threshold."""
    flag_threshold: float | None
    """Above it an image is suspicious; None while no threshold was chosen."""

    def scores(self, images: Images) -> Mapping[str, PerImage]:
        """Return every score by name, (B,), higher where more suspicious; differentiable as the defense is."""
        ...

    def suspicious(self, images: Images) -> PerImage:
        """Return (B,) bool: `flag_score` is above the threshold. Raises ValueError while there is none."""
        ...


@runtime_checkable
class Rebuilding(Protocol):
    """A defense that can show what each class's part of its memory makes of an image."""

    def reconstruct_all(self, images: Images) -> Tensor:
        """Return (B, K, C, H, W) in pixel units: every slot's reconstruction, or each class's best item."""
        ...


class SlotTrace(Protocol):
    """Slots and attention of one batch in a defense that answers through a slot."""

    @property
    def slots(self) -> Labels:
        """(B,) the slot each image was sent to."""
        ...

    @property
    def attention(self) -> Tensor:
        """(B, M) the weights the memory was read with."""
        ...


@runtime_checkable
class SlotDefense(Defense, Rebuilding, Protocol):
    """A defense that first chooses a slot (a class) and then answers through it; the audit looks inside."""

    @property
    def classes(self) -> int:
        """Number of slots, one for each class."""
        ...

    def classify_with_slots(self, images: Images, slots: Labels) -> Logits:
        """Return logits (B, K) when the slots are dictated; never part of `forward`."""
        ...

    def trace(self, images: Images) -> SlotTrace:
        """Return what the defense did with these images."""
        ...

    def diagnostics(self, images: Images, labels: Labels) -> Mapping[str, float]:
        """Return the defense's own measurements by name, for the audit."""
        ...


class Draws(Protocol):
    """Random numbers that belong to images, not to batches.

    The same image gets the same numbers in any batch. A draw is a pure function of its
    purpose: asking twice gives the same numbers, `child` opens a fresh stream.
    """

    def child(self, *purpose: str | int) -> Draws:
        """Return an independent stream for each image."""
        ...

    def rows(self, index: Rows) -> Draws:
        """Return the draws that belong to these rows of the batch."""
        ...

    def uniform(self, *shape: int) -> Tensor:
        """Return (B, *shape) float32 in [0, 1)."""
        ...

    def normal(self, *shape: int) -> Tensor:
        """Return (B, *shape) float32, standard normal."""
        ...

    def integers(self, high: int, *shape: int) -> Tensor:
        """Return (B, *shape) int64 in [0, high)."""
        ...


class Ball(Protocol):
    """The images an adversary may use: within `epsilon` of the clean one, and inside [0, 1]."""

    norm: ClassVar[str]
    """Name of the norm: ``linf`` or ``l2``."""

    @property
    def epsilon(self) -> float:
        """Radius in pixel units of [0, 1]."""
        ...

    def project(self, points: Images, centre: Images) -> Images:
        """Return the points moved into the ball around `centre` and into [0, 1]."""
        ...

    def random_point(self, centre: Images, draws: Draws) -> Images:
        """Return one random image of each ball, inside [0, 1]."""
        ...

    def ascent(self, gradient: Tensor) -> Tensor:
        """Return the unit step of steepest ascent in this norm."""
        ...

    def distance(self, points: Images, centre: Images) -> PerImage:
        """Return (B,) the norm of ``points - centre``."""
        ...

    def contains(self, points: Images, centre: Images) -> PerImage:
        """Return (B,) bool: inside the ball and inside [0, 1], up to float32 rounding."""
        ...


class Attack(Protocol):
    """A frozen, keyword-only dataclass: the object is its own configuration and repr.

    It may also declare what the evaluator and the audit ask about: see `GradientFree`, `HardLabel`, `Targeting`,
    `Directed`, `Restarting`, `Averaging`, `LossFollowing`, `NormBound`, `Fitting` and `Composite`, all of them
    optional.
    """

    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball` around `images`, chosen so that `model` errs."""
        ...

    def for_transfer(self) -> Self:
        """Return the same attack made to push past this model's decision, for use against another."""
        ...


@runtime_checkable
class GradientFree(Protocol):
    """An attack that says whether it works without gradients."""

    gradient_free: ClassVar[bool]


@runtime_checkable
class HardLabel(Protocol):
    """An attack that says whether it sees nothing but the predicted class."""

    hard_label: ClassVar[bool]


@runtime_checkable
class Targeting(Protocol):
    """An attack that aims at several wrong classes in turn, and counts any wrong answer as a success."""

    targets: int | None
    """Wrong classes tried on each image; None leaves it to the attack's parts."""


@runtime_checkable
class Directed(Protocol):
    """An attack that may be called with the classes to reach in place of the true labels."""

    targeted: bool
    """Whether the labels are those classes."""


@runtime_checkable
class Restarting(Protocol):
    """An attack that may start several times on one image."""

    restarts: int


@runtime_checkable
class Stepping(Protocol):
    """An attack that says how many steps it takes from each start."""

    steps: int


@runtime_checkable
class Querying(Protocol):
    """An attack that says how often it asks the model about one image."""

    queries: int


@runtime_checkable
class Averaging(Protocol):
    """An attack that may average each gradient over several passes, for models that draw at every call."""

    samples: int
    """Passes for one gradient."""


@runtime_checkable
class LossFollowing(Protocol):
    """An attack whose loss can be chosen."""

    loss: str
    """A name in `losses.LOSSES`."""


@runtime_checkable
class NormBound(Protocol):
    """An attack that works in the balls of some norms only."""

    norms: ClassVar[tuple[str, ...]]
    """Of ``linf`` and ``l2``."""


@runtime_checkable
class Fitting(Protocol):
    """An attack that knows which form of itself suits a model with few classes."""

    def for_classes(self, classes: int) -> Attack:
        """Return the attack for so many classes, at least 2: itself where nothing has to be changed."""
        ...


@runtime_checkable
class Composite(Protocol):
    """An attack that runs other attacks, each on the images that the earlier ones did not fool."""

    def parts(self, norm: str) -> Mapping[str, Attack]:
        """Return its attacks by name in this norm (``linf`` or ``l2``), in order."""
        ...


def needs_gradient(attack: object) -> bool:
    """Return whether the attack asks for gradients: all do but those that say otherwise."""
    return not (isinstance(attack, GradientFree) and attack.gradient_free)


def sees_labels_only(attack: object) -> bool:
    """Return whether the attack sees nothing but the predicted class."""
    return isinstance(attack, HardLabel) and attack.hard_label


def targets_of(attack: object) -> int | None:
    """Return how many wrong classes the attack tries on each image; None unless it says so."""
    return attack.targets if isinstance(attack, Targeting) else None


def aims_at_a_class(attack: object) -> bool:
    """Return whether the attack leads towards a class, rather than away from the true one."""
    return isinstance(attack, Targeting) or (isinstance(attack, Directed) and attack.targeted)


def least_classes(attack: object) -> int:
    """Return how many classes a model must have for this attack: the DLR loss orders 3, its targeted form 4."""
    if isinstance(attack, LossFollowing) and attack.loss == "dlr":
        return 4 if isinstance(attack, Targeting) else 3
    return 2


def works_in(attack: object, norm: str) -> bool:
    """Return whether the attack works in balls of this norm: all do but those that say otherwise."""
    return not isinstance(attack, NormBound) or norm in attack.norms


def parts_of_attack(attack: Attack, norm: str) -> Mapping[str, Attack]:
    """Return the attacks that this one consists of, by name: itself alone, named "", unless it is `Composite`."""
    return attack.parts(norm) if isinstance(attack, Composite) else {"": attack}


class _Step(NamedTuple):
    images: Images
    labels: Labels
    ids: Rows
    draws: Draws
    progress: float
    clean: Images


class Batch(_Step):
    """The input of one training step.

    `ids` are positions in the dataset, `draws` are fresh for this epoch, `progress` in [0, 1) is the share of
    training done. `clean` are the images before an attack changed them: the same tensor as `images` if none did.
    """

    def __new__(  # noqa: D102
        cls, images: Images, labels: Labels, ids: Rows, draws: Draws, progress: float, clean: Images | None = None
    ) -> Self:
        return super().__new__(cls, images, labels, ids, draws, progress, images if clean is None else clean)


class Objective(Protocol):
    """The losses that a training step minimises."""

    def __call__(self, model: Any, batch: Batch, /) -> Losses:
        """Return the named losses of one batch."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """An objective that remembers something between steps; it travels with the training checkpoint."""

    def state(self) -> Mapping[str, Tensor]:
        """Return everything needed to go on exactly."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned; an empty mapping forgets everything."""
        ...


class Losses(Protocol):
    """A named breakdown whose `total` is minimised."""

    @property
    def total(self) -> Tensor:
        """Loss to minimise: a differentiable scalar."""
        ...

    def parts(self) -> Mapping[str, float]:
        """Return every named term as a number, for logs."""
        ...


class Progress(Protocol):
    """Receiver of the progress of long work: a terminal bar, plain lines, a log, or nothing.

    Its methods are called in the thread that does the work, and none of them has a part in any number. Of several
    processes each calls its own, so that only the first should show something. `advance` may raise
    KeyboardInterrupt: the work then saves its state and ends.
    """

    def begin(self, what: str, total: int) -> None:
        """Start a stage of `total` steps; it ends where the next one begins."""
        ...

    def advance(self, steps: int, text: str = "") -> None:
        """Count steps done, with a short status text."""
        ...

    def note(self, text: str) -> None:
        """Show one line of text beside the display."""
        ...


@runtime_checkable
class FineProgress(Progress, Protocol):
    """A `Progress` that also hears from inside a step, and of stages whose number of steps nobody knows.

    For those `begin` is given a total of 0. A display without `tell` hears of neither.
    """

    def tell(self, text: str, left: float | None = None) -> None:
        """Take where the work is now; it may raise KeyboardInterrupt as `advance` may.

        Called after passes of the model, at most some times a second.

        Parameters
        ----------
        text
            Such as the attack, its images and its passes so far.
        left
            Seconds left in this stage, at most, as the work itself expects, and infinity while it cannot say; None
            where the steps are alike, so that the display may go by these.
        """
        ...
