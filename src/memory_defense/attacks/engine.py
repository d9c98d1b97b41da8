"""Passes through the attacked model, forward and backward, in micro-batches of the images that still need them.

An attack holds the whole set of images and a list of the rows that still need work. Each step visits those rows in
micro-batches small enough for the processor's cache. An image that is done costs nothing more, and the last
survivors of a large set still travel in full batches.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from memory_defense.checks import (
    NoGradientError,
    check_class_count,
    check_images,
    check_labels,
    nearest,
    vouched_for,
)
from memory_defense.contracts import Classifier, Images, Labels, Logits, PerImage, Rows
from memory_defense.losses import LOSSES, AdversarialLoss, targeted
from memory_defense.noticed import all_gradients_seen, answered, finite_rows, gradients_seen
from memory_defense.passes import (
    channels_last,
    differentiable_answers,
    gradients_in_bfloat16,
    micro_batch_for,
    original_rows,
    regular,
)
from memory_defense.wrappers import Backward, CountingPasses, exact_float32, frozen, outside_inference, rows_of


class LogOdds:
    """The log-odds of any other class, ``log sum_{i != y} exp z_i - z_y``.

    The cross-entropy is ``log(1 + exp(log_odds))``: the same directions, the same order of iterates, but no
    float32 saturation when the model is sure of itself. Steps here ignore the gradient's length, so this is
    the cross-entropy attack without its blind spot.
    """

    def __call__(self, logits: Logits, labels: Labels) -> PerImage:
        """Return the log-odds (B,), as `losses.AdversarialLoss`."""
        others, at = self._others(logits, labels)
        return others.logsumexp(1) - logits.gather(1, at).squeeze(1)

    def with_slope(self, logits: Logits, labels: Labels) -> tuple[PerImage, Tensor]:
        """Return the log-odds (B,) and their gradient (B, K) with respect to the logits: no graph is needed.

        That gradient is the softmax over the other classes, and -1 at the label.
        """
        others, at = self._others(logits, labels)
        sums = others.logsumexp(1, keepdim=True)
        return (sums - logits.gather(1, at)).squeeze(1), (others - sums).exp_().scatter_(1, at, -1)

    @staticmethod
    def _others(logits: Logits, labels: Labels) -> tuple[Logits, Labels]:
        at = labels[:, None]
        return logits.scatter(1, at, -torch.inf), at


log_odds = LogOdds()
ASCENT_LOSSES: dict[str, AdversarialLoss] = {**LOSSES, "cross-entropy": log_odds}


def ascent_loss(name: str, towards_label: bool = False) -> AdversarialLoss:
    """Return the loss to increase, by its name in `losses.LOSSES`; raise ValueError for an unknown one."""
    if name not in ASCENT_LOSSES:
        raise nearest(name, ASCENT_LOSSES, "loss")
    return targeted(ASCENT_LOSSES[name]) if towards_label else ASCENT_LOSSES[name]


def reached(logits: Logits, labels: Labels, towards_label: bool = False) -> PerImage:
    """Return (B,) bool: the model errs, or in a targeted attack, answers the target."""
    return (logits.argmax(1) == labels) == towards_label


def check_settings(loss: str, micro_batch: int | None, **counts: int) -> None:
    """Raise ValueError for an unknown loss, or a count that is no whole number of at least 1."""
    ascent_loss(loss)
    if micro_batch is not None:
        counts["micro_batch"] = micro_batch
    for name, count in counts.items():
        if not (count >= 1 and count == int(count)):
            raise ValueError(f"{name} is {count}, expected a whole number, at least 1")


@dataclass(frozen=True, kw_only=True)
class StopsEarly:
    """Base of the attacks with the option `stop_when_fooled`."""

    def for_transfer(self) -> Self:
        """Return the same attack without early stops: the highest loss or margin instead of the first success."""
        return replace(self, stop_when_fooled=False)


class Pass(NamedTuple):
    """Result of one forward and backward pass."""

    gradient: Tensor
    """(B, C, H, W), of each image's own loss."""
    losses: PerImage
    logits: Logits


class Victim:
    """A frozen classifier and the labels it is attacked with; made by `attacked`.

    Parameters
    ----------
    model
        The classifier; if its rows matter, the positions given to `answers` and `gradient` restrict it.
    labels
        (N,) of the whole set.
    micro_batch
        Images in one pass; None is what `passes.micro_batches_of` says, else chosen by the device.
    exact
        Gradients are computed in float32 even where `passes.bfloat16_gradients` says otherwise, for attacks that
        believe the logits of such a pass.
    """

    def __init__(self, model: Classifier, labels: Labels, micro_batch: int | None, exact: bool = False) -> None:
        self.model = regular(model)
        self.labels = labels
        self.exact = exact
        self.micro_batch = micro_batch or micro_batch_for(labels.device)
        self.back = Backward()
        self.on_cpu = labels.device.type == "cpu"
        """Whether a look at a number costs nothing; an accelerator must be waited for."""
        known = labels.is_meta or vouched_for(labels)
        self._highest = int(labels.max()) if len(labels) and not known else 0

    def all_rows(self) -> Rows:
        """Return every row of the set."""
        return torch.arange(len(self.labels), device=self.labels.device)

    def parts(self, rows: Rows) -> Iterator[Rows]:
        """Yield the rows in micro-batches; no rows make no part."""
        for start in range(0, len(rows), self.micro_batch):
            yield rows[start : start + self.micro_batch]

    def laid_out(self, images: Images) -> Images:
        """Return the images in the memory layout of a pass, uncopied if they have it."""
        return channels_last(images) if self.on_cpu and images.dim() == 4 else images

    def answers(self, points: Images, rows: Rows) -> Logits:
        """Return the logits (B, K) of one micro-batch that holds these rows, without a graph.

        Where the model has no answer it is a wrong one; see `noticed.answered`.
        """
        with torch.no_grad():
            logits = self._enough(rows_of(self.model, rows)(points))
        return answered(logits, self.labels.index_select(0, rows))

    def discount(self, forward: int, backward: int = 0) -> None:
        """Subtract passes from the count, because their answers were thrown away."""
        if isinstance(self.model, CountingPasses):
            self.model.passes.forward -= forward
            self.model.passes.backward -= backward

    def gradient(self, points: Images, rows: Rows, loss: AdversarialLoss) -> Pass:
        """Return the gradient of one micro-batch that holds these rows.

        Where it is NaN or infinite for an image, it is 0 for that image, which is noticed (`noticed`); every other
        image goes on as it would without that one.

        Raises
        ------
        NoGradientError
            If the logits do not depend on the images differentiably.
        ModelError
            For whatever the model raises on the way back.
        """
        with torch.enable_grad():
            # Laid out before `requires_grad_`, the leaf has that layout, and so has its gradient.
            leaf = self.laid_out(points.clone() if points.is_inference() else points.detach()).requires_grad_()
            spent, called = self.back.plain, rows_of(self.model, rows)
            labels = self.labels.index_select(0, rows)
            gradient, (losses, logits) = self.back(leaf, lambda: self._weighed(called, leaf, labels, loss))
            if self.back.plain and not spent:  # the pass was made twice, and counts once
                self.discount(len(points), len(points))
        if gradient is None:
            raise NoGradientError(
                "the model's logits do not depend on the images differentiably, so there is no gradient to "
                "follow; give the step that cuts it a stand-in with wrappers.Bpda or StraightThrough"
            )
        seen = Pass(gradient, losses.detach().to(gradient.dtype), logits.detach())
        # A NaN anywhere makes the sum NaN; `sign` would turn it into a step of 0 and hide it.
        if self.on_cpu and math.isfinite(float(gradient.sum() + 0 * (seen.losses.sum() + seen.logits.sum()))):
            all_gradients_seen()
            return seen
        return self._finite(seen, labels, loss, original_rows(called, rows))

    def confirmed(self, logits: Logits, points: Images, rows: Rows, towards_label: bool = False) -> Logits:
        """Return the logits (B, K) of a pass made for its gradient, with every success asked anew in float32.

        Without `passes.bfloat16_gradients` they are in float32 already, and no pass is made.

        Parameters
        ----------
        logits
            What that pass answered.
        points, rows
            The micro-batch (B, C, H, W), and the positions of its images (B,).
        towards_label
            As in `reached`.
        """
        if self.exact or not gradients_in_bfloat16():
            return logits
        hits = reached(logits, self.labels.index_select(0, rows), towards_label).nonzero().squeeze(1)
        if len(hits) == 0:
            return logits
        sure = self.answers(points.index_select(0, hits), rows.index_select(0, hits))
        return logits.index_copy(0, hits, sure.to(logits.dtype))

    @staticmethod
    def _finite(seen: Pass, labels: Labels, loss: AdversarialLoss, rows: Rows) -> Pass:
        """Return the pass with a gradient of 0 and a wrong answer where these are NaN or infinite.

        On an accelerator nobody looks whether there are any: what is finite comes out as it was.
        """
        logits = answered(seen.logits, labels)
        losses = seen.losses
        given = finite_rows(seen.logits)
        if logits is not seen.logits:
            losses = torch.where(given, losses, loss(logits, labels).to(losses))
        finite = given & finite_rows(seen.gradient) & losses.isfinite()
        gradients_seen(rows, finite, given)
        gradient = seen.gradient.masked_fill(~finite[:, None, None, None], 0)
        return Pass(gradient, losses.nan_to_num(nan=0.0), logits)

    def _enough(self, logits: Logits) -> Logits:
        """Return the logits; raise ValueError where they have no class for some label, or one for each image."""
        check_class_count(logits.shape[1])
        if logits.shape[1] <= self._highest:
            raise ValueError(
                f"labels go up to {self._highest}, but the model has {logits.shape[1]} classes, counted from 0; "
                "labels that count from 1 become labels - 1"
            )
        return logits

    def _weighed(
        self, model: Classifier, leaf: Images, labels: Labels, loss: AdversarialLoss
    ) -> tuple[Tensor, Tensor | None, tuple[PerImage, Logits]]:
        """Return what is differentiated and its weights, and the losses and logits of one pass."""
        logits = self._enough(model(leaf) if self.exact else differentiable_answers(model, leaf))
        if isinstance(loss, LogOdds):  # its slope is known, so no graph of the loss is built
            losses, slope = loss.with_slope(logits.detach(), labels)
            return logits, slope, (losses, logits)
        losses = loss(logits, labels)
        return losses.sum(), None, (losses, logits)


class Averaged(Victim):
    """A victim whose gradient is the mean over several passes; its losses and logits are the last pass's.

    The mean of the losses' gradients is the gradient of the expected loss. `wrappers.Eot` averages the logits
    instead and takes one loss of them: less noise in what is judged, but another loss, and a success there is
    one of the mean, not of a single draw.

    Parameters
    ----------
    victim
        The model and the labels.
    samples
        Passes for one gradient, at least 1.
    """

    def __init__(self, victim: Victim, samples: int) -> None:
        super().__init__(victim.model, victim.labels, victim.micro_batch)
        self.samples = samples

    def gradient(self, points: Images, rows: Rows, loss: AdversarialLoss) -> Pass:
        """Return the mean gradient, and what the last pass answered; see `Victim.gradient`."""
        last = super().gradient(points, rows, loss)
        total = last.gradient.clone()
        for _ in range(self.samples - 1):
            last = super().gradient(points, rows, loss)
            total.add_(last.gradient)
        return Pass(total.div_(self.samples), last.losses, last.logits)


def put(into: Tensor, rows: Rows, chosen: PerImage, values: Tensor) -> None:
    """Write the values of the chosen ones, (B,) bool, to their rows of a tensor, in place.

    On an accelerator all of these rows are written, the others as they were: to choose is to wait for their number.

    Parameters
    ----------
    into
        (N, ...).
    rows
        (B,) int64, each once.
    chosen
        (B,) bool.
    values
        (B, ...), of the same type or a narrower one.
    """
    if into.device.type == "cpu":
        at = chosen.nonzero().squeeze(1)
        into.index_copy_(0, rows.index_select(0, at), values.index_select(0, at).to(into))
        return
    picked = chosen.view(-1, *(1 for _ in values.shape[1:]))
    into.index_copy_(0, rows, torch.where(picked, values.to(into), into.index_select(0, rows)))


@contextmanager
def attacked(
    model: Classifier, images: Images, labels: Labels, micro_batch: int | None = None, *, exact: bool = False
) -> Generator[Victim]:
    """Check the inputs, freeze the model and turn gradients off, for the duration of an attack.

    With `exact` every pass is in float32 as written, for attacks that tell leads of a hundred-thousandth apart.

    Raises ValueError for images outside [0, 1], labels that do not fit, and what else `checks` refuses.
    """
    check_images(images)
    check_labels(labels, len(images))
    with outside_inference(model), frozen(model), torch.no_grad(), exact_float32() if exact else nullcontext():
        yield Victim(model, labels, micro_batch, exact)


def input_gradient(
    model: Classifier,
    images: Images,
    labels: Labels,
    loss: AdversarialLoss,
    micro_batch: int | None = None,
) -> tuple[Tensor, Logits]:
    """Return the gradient (B, C, H, W) of each image's own loss, and the logits (B, K) of the same pass.

    Raises ValueError for inputs that `checks` refuses, or a model without a usable gradient.
    """
    with attacked(model, images, labels, micro_batch) as victim:
        passes = [
            victim.gradient(images.index_select(0, rows), rows, loss) for rows in victim.parts(victim.all_rows())
        ]
    return torch.cat([one.gradient for one in passes]), torch.cat([one.logits for one in passes])


def column(values: Tensor) -> Tensor:
    """Return (B,) as (B, 1, 1, 1)."""
    return values[:, None, None, None]  # (B, 1, 1, 1)
