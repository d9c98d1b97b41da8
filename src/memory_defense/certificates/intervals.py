"""L-inf certificates by interval bounds: what a network of ordinary layers answers everywhere in a box of images.

Two methods, both sound. ``ibp`` sends the box [x - r, x + r], cut at [0, 1], through every layer (interval bound
propagation, Gowal et al. 2018, arXiv:1810.12715); the affine layers at the end are merged with the differences of
logits that matter, which loses nothing (elision, section 4 there). ``crown-ibp`` bounds the hidden layers so, and
then takes one linear bound of each difference back to the image (Zhang et al. 2020, arXiv:1906.06316), at K times
the cost for K classes; of the two bounds the better one counts. Before maximum pooling it knows intervals alone.

What is proven is proven of the network as it runs in float32, on any image of numbers in float32: `boxes` says how
rounding is accounted for, of the network and of the bounds, and what is left out. Bounds are computed in float64.
A proof is about a box; `threat.Linf` lets an attack's image lie `threat.TOLERANCE` farther, so that who holds
attacks against a radius adds that to it.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.certificates.boxes import UNIT, Box, image_box
from memory_defense.certificates.reading import check_precision, steps_of
from memory_defense.certificates.steps import Step, follow, lower_bounds
from memory_defense.checks import check_images, check_labels, nearest
from memory_defense.contracts import Certificates, Images, Labels, PerImage, Rows
from memory_defense.names import check_radius
from memory_defense.wrappers import exact_float32, frozen

Method = Literal["ibp", "crown-ibp"]

METHODS: tuple[Method, ...] = ("ibp", "crown-ibp")
"""Ways to bound, cheap before tight."""

_CHUNKS: dict[Method, int] = {"ibp": 100, "crown-ibp": 20}
"""Images whose bounds are computed at once."""

_ASKED = 4
"""Images at which the network is compared with the layers that it publishes."""


def check_method(method: str) -> None:
    """Raise ValueError, with the nearest name, for a method that is not in `METHODS`."""
    if method not in METHODS:
        raise nearest(method, METHODS, "method")


def margins(
    steps: Sequence[Step], end: Box, labels: Labels, *, to_the_image: bool = False, unit: float = 0.0
) -> Tensor:
    """Return (B, K) lower bounds of ``logit[label] - logit[j]``, 0 for the label itself, after a pass of boxes.

    Parameters
    ----------
    steps
        Those of the whole network, through which a box of images has gone.
    end
        The box of logits (B, K) behind them.
    labels
        (B,) the classes that the others are compared with.
    to_the_image
        Go back to the image, as CROWN-IBP does; otherwise through the last affine layers.
    unit
        `boxes.UNIT` for a proof, 0 for training.
    """
    classes = end.lower.shape[1]
    own = F.one_hot(labels, classes).to(end.lower)  # (B, K)
    others = torch.eye(classes, dtype=own.dtype, device=own.device)
    lines = own - others[:, None, :]  # (K, B, K): row j is one for the label, minus one for j
    first = len(steps)
    while first > 0 and (to_the_image or steps[first - 1].straight):
        first -= 1
    return lower_bounds(steps[first:], lines, end, unit).T


def logit_bounds(model: nn.Module, images: Images, epsilon: float | PerImage) -> tuple[Tensor, Tensor]:
    """Return lower and upper bounds (B, K), float64, of the logits within `epsilon` of images, by plain intervals.

    Parameters
    ----------
    model
        Images (B, C, H, W) in [0, 1] to logits (B, K), of layers that `reading.steps_of` knows. It is bounded as it
        answers in eval mode.
    images
        (B, C, H, W) float32 in [0, 1].
    epsilon
        L-inf radius in pixel units, in [0, 1]; one, or (B,) for each image.

    Raises
    ------
    ValueError
        For bad images, a radius that no ball has, a module without bounds, or a network that answers otherwise than
        the layers that it publishes.
    """
    radii = _radii(epsilon, images)
    with _proving(model, images):
        parts = [
            follow(steps_of(model), image_box(images[rows].double(), radii[rows], UNIT), UNIT)[0]
            for rows in _parts(torch.arange(len(images), device=images.device), "ibp")
        ]
    return torch.cat([part.lower for part in parts]), torch.cat([part.upper for part in parts])


def margin_bounds(
    model: nn.Module, images: Images, labels: Labels, epsilon: float | PerImage, *, method: Method = "crown-ibp"
) -> Tensor:
    """Return (B, K) float64 lower bounds of ``logit[label] - logit[j]`` within `epsilon` of images; see `margins`.

    Parameters
    ----------
    model, images, epsilon
        As in `logit_bounds`, and so are the errors.
    labels
        (B,) int64, any classes.
    method
        One of `METHODS`.
    """
    check_method(method)
    check_labels(labels, len(images))
    radii = _radii(epsilon, images)
    with _proving(model, images):
        rows = torch.arange(len(images), device=images.device)
        return torch.cat([_margins(model, images, labels, radii, part, method) for part in _parts(rows, method)])


def verified(
    model: nn.Module, images: Images, labels: Labels, epsilon: float | PerImage, *, method: Method = "crown-ibp"
) -> PerImage:
    """Return (B,) bool: it is proven that the model answers `labels` everywhere within `epsilon` of these images.

    Parameters
    ----------
    model, images, epsilon
        As in `logit_bounds`, and so are the errors.
    labels
        (B,) int64. At radius 0 it is proven, rounding considered, that the model's answer is this.
    method
        One of `METHODS`; with ``crown-ibp``, images that intervals alone prove are not looked at twice.
    """
    check_method(method)
    check_labels(labels, len(images))
    radii = _radii(epsilon, images)
    with _proving(model, images):
        return _verified(model, images, labels, radii, torch.arange(len(images), device=images.device), method)


def certified_radii(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    largest: float,
    tolerance: float = 1e-3,
    at: Sequence[float] = (),
    method: Method = "crown-ibp",
) -> PerImage:
    """Return (B,) float64 radii within which it is proven that the model answers `labels`; 0 where nothing is.

    The radii of `at`, and `largest`, are tried themselves, so that the share of images whose radius is at least one
    of them is the certified accuracy there. Between them it is bisected. Every radius that is returned has been
    proven; a larger one may exist.

    Parameters
    ----------
    model, images, labels, method
        As in `verified`, and so are the errors.
    largest
        No radius is larger, in [0, 1]; in pixel units as all of them.
    tolerance
        The search ends where proven and not proven are so close, above 0; 1 tries nothing but `at` and `largest`.
    at
        Radii in [0, `largest`].
    """
    check_method(method)
    check_labels(labels, len(images))
    check_radius("linf", largest)
    if not tolerance > 0:
        raise ValueError(
            f"tolerance is {tolerance}, but bisection ends at a distance above 0; give one such as 0.001"
        )
    if wrong := [one for one in at if not 0 <= one <= largest]:
        raise ValueError(
            f"a radius to be tried is {wrong[0]}, but the largest is {largest}; leave it out or raise largest"
        )
    _radii(largest, images)
    low = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    high = torch.full_like(low, largest)
    with _proving(model, images):
        left = torch.arange(len(images), device=images.device)
        for radius in sorted({*at, largest}):
            proven = _verified(model, images, labels, torch.full_like(low, radius), left, method)
            low[left[proven]] = radius
            high[left[~proven]] = radius
            left = left[proven]
        while len(left := (high - low > tolerance).nonzero()[:, 0]):
            middle = (low + high) / 2
            proven = _verified(model, images, labels, middle, left, method)
            low[left[proven]] = middle[left[proven]]
            high[left[~proven]] = middle[left[~proven]]
    return low


def interval_certificates(
    model: nn.Module,
    images: Images,
    *,
    largest: float,
    tolerance: float = 1e-3,
    at: Sequence[float] = (),
    method: Method = "crown-ibp",
) -> Certificates:
    """Return the model's answers to images and the radii within which they are proven to stay, in L-inf.

    It never abstains. Parameters and errors are those of `certified_radii`.
    """
    check_images(images)
    with frozen(model), torch.no_grad(), _float32(images):
        answers = [model(part).argmax(1) for part in torch.split(images, _CHUNKS["ibp"])]
    labels = torch.cat(answers)
    radii = certified_radii(model, images, labels, largest=largest, tolerance=tolerance, at=at, method=method)
    return Certificates(labels, radii)


def answer_slack(model: nn.Module, images: Images, epsilon: float, *, method: Method = "ibp") -> PerImage:
    """Return (B,) float64 the smallest margin of the model's answer within `epsilon`, with a gradient.

    It is above 0 where `verified` proves that answer, and nowhere else. That the network answers as the layers that
    it publishes is not looked at again: `certified_radii` does.
    """
    steps, radii = steps_of(model), _radii(epsilon, images)
    with _float32(images):
        with torch.no_grad():
            labels = model(images).argmax(1)
        end, _ = follow(steps, image_box(images.double(), radii, UNIT), UNIT)
        found = margins(steps, end, labels, unit=UNIT)
        if method == "crown-ibp" and not all(step.straight for step in steps):
            found = torch.maximum(found, margins(steps, end, labels, to_the_image=True, unit=UNIT))
    others = F.one_hot(labels, found.shape[1]) == 0
    return torch.where(others, found.nan_to_num(nan=-torch.inf), torch.inf).amin(1)


def _radii(epsilon: float | PerImage, images: Images) -> PerImage:
    """Return (B,) float64 radii; raise ValueError for bad images or radii."""
    check_images(images)
    radii = torch.as_tensor(epsilon, dtype=torch.float64, device=images.device)
    for one in (float(radii.min()), float(radii.max())):
        check_radius("linf", math.nan if bool(radii.isnan().any()) else one)
    return radii.expand(len(images))


def _parts(rows: Rows, method: Method) -> Sequence[Rows]:
    return torch.split(rows, _CHUNKS[method])


def _margins(
    model: nn.Module, images: Images, labels: Labels, radii: PerImage, rows: Rows, method: Method
) -> Tensor:
    """Return (N, K) margins of a few rows."""
    steps = steps_of(model)
    end, _ = follow(steps, image_box(images[rows].double(), radii[rows], UNIT), UNIT)
    check_labels(labels, len(labels), end.lower.shape[1])
    found = margins(steps, end, labels[rows], unit=UNIT)
    if method == "crown-ibp" and not all(step.straight for step in steps):
        found = torch.maximum(found, margins(steps, end, labels[rows], to_the_image=True, unit=UNIT))
    return found


def _verified(
    model: nn.Module, images: Images, labels: Labels, radii: PerImage, rows: Rows, method: Method
) -> PerImage:
    """Return (N,) bool for these rows of the images; intervals first, and what they leave by the method."""
    proven = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    for one in METHODS[: METHODS.index(method) + 1]:
        left = (~proven).nonzero()[:, 0]
        for part in _parts(left, one):
            if len(part):
                found = _margins(model, images, labels, radii, rows[part], one)
                others = F.one_hot(labels[rows[part]], found.shape[1]) == 0
                proven[part] = ((found > 0) & found.isfinite() | ~others).all(1)
    return proven


@contextmanager
def _float32(images: Images) -> Generator[None]:
    """Run a block in which nothing is computed in less than float32."""
    with torch.autocast(images.device.type, enabled=False), exact_float32():
        yield


@contextmanager
def _proving(model: nn.Module, images: Images) -> Generator[None]:
    """Run a block in which bounds are computed of a network as it answers in eval mode; compare the two first."""
    with frozen(model), torch.no_grad(), _float32(images):
        steps = steps_of(model)
        check_precision(model)
        few = images[:_ASKED]
        logits: Tensor = model(few)
        end, _ = follow(steps, image_box(few.double(), 0.0, UNIT), UNIT)
        if end.lower.dim() != 2:
            raise ValueError(
                f"the network answers with shape {tuple(end.lower.shape)}, expected logits (B, K); "
                "end it with nn.Flatten() and nn.Linear"
            )
        if logits.shape != end.lower.shape or not bool(
            ((end.lower <= logits.double()) & (logits.double() <= end.upper)).all()
        ):
            raise ValueError(
                f"{type(model).__name__} answers differently from the layers that it publishes, so that their "
                "bounds are not its own; let layers(), branches() and affine() say what its forward computes"
            )
        yield
