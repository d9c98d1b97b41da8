"""What Python callers hand in: radii and images of other types, labels of other shapes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from cases.case import Case
from cases.observe import Observation, Rule, judged, watch
from cases.toolkits import FOOLBOX, OURS, Found, attack
from cases.toy import EPSILON, gratings, trained

RADII = np.linspace(0.02, EPSILON, 3)
ONE_RADIUS: dict[str, Callable[[], Any]] = {
    "np.float64": lambda: np.float64(EPSILON),
    "np.float32": lambda: np.float32(EPSILON),
    "0-d tensor": lambda: torch.tensor(EPSILON),
}
SEVERAL_RADII: dict[str, Callable[[], Any]] = {
    "list of np.float64": lambda: list(RADII),
    "np.ndarray of radii": lambda: RADII,
}
"""For the toolkits that take several radii."""


def _types(toolkit: str) -> list[Observation]:
    net = trained()
    images, labels = gratings(24)
    found: list[Observation] = []

    def ask(form: str, truth: Found, epsilon: Any, pixels: Any = images, classes: Any = labels) -> None:
        seen = watch(lambda: attack(toolkit, net, pixels, classes, epsilon, truth=labels))
        rule = Rule(
            right=lambda got: got.agrees(truth) and _inside(got, images),
            helps=TYPES.helps,
            shown=lambda got: f"{got}; with plain numbers: {truth}",
            text=lambda seen: seen.error,
        )
        found.append(judged(form, seen, rule))

    one = attack(toolkit, net, images, labels, EPSILON)
    for form, radius in ONE_RADIUS.items():
        ask(form, one, radius())
    if toolkit in (FOOLBOX, OURS):
        several = attack(toolkit, net, images, labels, [float(one) for one in RADII])
        for form, radii in SEVERAL_RADII.items():
            ask(form, several, radii())
    ask("numpy images and labels", one, EPSILON, images.numpy(), labels.numpy())
    ask("list of images", one, EPSILON, list(images))
    return found


def _inside(found: Found, images: torch.Tensor) -> bool:
    if found.images is None:
        return True
    return bool((torch.as_tensor(found.images) - images).abs().max() <= EPSILON + 1e-5)


def _shapes(toolkit: str) -> list[Observation]:
    net = trained()
    images, labels = gratings(24)
    truth = attack(toolkit, net, images, labels, EPSILON)
    forms = {
        "column (N, 1)": labels[:, None],
        "row (1, N)": labels[None],
        "one-hot (N, K)": torch.nn.functional.one_hot(labels),
    }
    found: list[Observation] = []
    for form, given in forms.items():
        seen = watch(lambda given=given: attack(toolkit, net, images, given, EPSILON, truth=labels))
        rule = Rule(
            right=truth.agrees,
            helps=SHAPES.helps,
            shown=lambda got: f"{got}; with labels (N,): {truth}",
            text=lambda seen: seen.error,
            advice_works=lambda text, given=given: _advised(text, given, labels),
        )
        found.append(judged(form, seen, rule))
    return found


def _advised(text: str, given: torch.Tensor, labels: torch.Tensor) -> bool:
    """Return whether the call on `labels` that a message advises, if any, makes (N,) labels of what was given."""
    advised = re.search(r"labels\.(argmax|squeeze|flatten|reshape|view)\(([-\d, ]*)\)", text)
    if not advised:
        return True
    made = getattr(given, advised[1])(*(int(one) for one in advised[2].split(",") if one.strip()))
    return torch.equal(made, labels)


TYPES = Case(
    name="numpy-radii",
    kind="types and precision at the Python door",
    situation="Radii come from numpy or as 0-d tensors, images as an array or a list.",
    oracle="The same call with plain floats and tensors: the same share left at every radius, inside the ball.",
    helps=(
        r"from_numpy|float\(|torch\.stack|eps(ilon)?\b[^.]*(is|has|must|has to)\b|"
        r"(expected|has to be|must be) [^.]*(tensor|float|number)"
    ),
    ask=_types,
)
SHAPES = Case(
    name="column-labels",
    kind="types and precision at the Python door",
    situation="Labels are a column (N, 1), a row (1, N) or one-hot (N, K).",
    oracle="The same call with labels (N,), or a refusal that names the shape of labels.",
    helps=r"labels?\b.*(shape|1D)|(shape|1D).*\b(labels?|target)|squeeze",
    ask=_shapes,
)
CASES = (TYPES, SHAPES)
