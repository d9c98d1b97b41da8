"""The toolkits behind a few questions that all of them can be asked: an attack, a suite, a suite in a list.

Everything is asked as the toolkit's own pages do, with its defaults where no number is passed. Imports stand inside
the functions, so that one missing toolkit does not stop the others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from memory_defense.contracts import Images

FOOLBOX, TORCHATTACKS, ART, AUTOATTACK, OURS = (
    "foolbox",
    "torchattacks",
    "ART",
    "AutoAttack",
    "memory_defense",
)
PACKAGES = {
    FOOLBOX: "foolbox",
    TORCHATTACKS: "torchattacks",
    ART: "adversarial-robustness-toolbox",
    AUTOATTACK: "pyautoattack",
    OURS: "memory-defense",
}
"""Toolkits by the name in the table, and what the package index calls them; AutoAttack is the authors' code."""
PEERS = tuple(PACKAGES)[:-1]
STEP = 0.01
"""Pixel step of the attacks that take one: a plain float, so that only the radius has an unusual type."""
STEPS = 20


@dataclass(frozen=True)
class Found:
    """What a user reads off an attack."""

    robust: tuple[float, ...]
    """Accuracy under attack at every radius: what the toolkit says itself, else that of the images it returned."""
    images: Images | None = None
    """The attacked images of the last radius; ours keeps them in a file."""
    failed: int = 0
    """Checks of an audit that failed; only ours has one."""

    def __str__(self) -> str:
        """Return the accuracies in percent."""
        numbers = ", ".join(f"{100 * one:.1f} %" for one in self.robust)
        return f"{numbers} left" + (f", {self.failed} checks failed" if self.failed else "")

    def agrees(self, other: Found) -> bool:
        """Return whether both leave the same share of images at every radius."""
        return len(self.robust) == len(other.robust) and all(
            abs(one - two) < 1e-6 for one, two in zip(self.robust, other.robust, strict=True)
        )


def attack(
    toolkit: str, model: nn.Module, images: Any, labels: Any, epsilon: Any, *, kind: str = "pgd", truth: Any = None
) -> Found:
    """Return what a toolkit's attack finds in L-inf.

    Parameters
    ----------
    toolkit
        One of `PACKAGES`.
    model
        In eval mode.
    images, labels, epsilon
        Handed over as they are; ART is given arrays where they are tensors, as arrays are what it takes.
    kind
        ``pgd`` from a random start (for AutoAttack, which has none, APGD), ``bim`` from the image itself (for
        AutoAttack APGD again), ``minimal`` for FAB or DeepFool (ART's knows no radius, so every image counts).
    truth
        (N,) labels to judge returned images by, where `labels` is not that.
    """
    torch.manual_seed(0)
    np.random.seed(0)
    truth = labels if truth is None else truth
    return _ATTACKS[toolkit](model, images, labels, epsilon, kind, truth)


def suite(toolkit: str, model: nn.Module, images: Any, labels: Any, epsilon: float, *, version: str) -> Found:
    """Return what a toolkit's suite (``standard`` or ``rand``; ours has more) finds in L-inf.

    Class counts are given wherever a suite takes them.
    """
    torch.manual_seed(0)
    np.random.seed(0)
    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    if toolkit == TORCHATTACKS:
        import torchattacks

        made = torchattacks.AutoAttack(model, eps=epsilon, version=version, n_classes=classes, seed=0)
        return _of_images(model, made(images, labels), labels)
    if toolkit == ART:
        made = art_suite(art_classifier(model, images, classes), epsilon)
        return _of_images(model, made.generate(images.numpy(), labels.numpy()), labels)
    if toolkit == AUTOATTACK:
        made = authors(model, epsilon, version=version)
        made.apgd_targeted.n_target_classes = made.fab.n_target_classes = min(9, classes - 1)
        return run_authors(made, images, labels)
    if toolkit == OURS:
        return ours(model, images, labels, epsilon, version)
    raise ValueError(f"{toolkit} has no suite")


def authors(model: nn.Module, epsilon: Any, **options: Any) -> Any:
    """Return AutoAttack's own class, seeded."""
    from pyautoattack import AutoAttack

    return AutoAttack(model, norm="Linf", eps=epsilon, seed=0, **options)


def run_authors(made: Any, images: Any, labels: Any, truth: Any = None, **options: Any) -> Found:
    """Run AutoAttack's own class; its answer is the labels that it says the attacked images get."""
    found, answers = made.run_standard_evaluation(images, labels, **options)
    right = (answers == (labels if truth is None else truth)).double()
    return Found((float(right.mean()),), found)


def art_classifier(model: nn.Module, images: Any, classes: int) -> Any:
    """Return ART's wrapper of a model."""
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images[0].shape),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def art_suite(wrapped: Any, epsilon: float) -> Any:
    """Return ART's AutoAttack of the four parts that it has by default, from one start each instead of five."""
    from art.attacks.evasion import AutoAttack, AutoProjectedGradientDescent, DeepFool, SquareAttack

    apgd = {"eps": epsilon, "eps_step": epsilon / 4, "max_iter": 100, "nb_random_init": 1, "verbose": False}
    parts = [
        AutoProjectedGradientDescent(wrapped, loss_type="cross_entropy", **apgd),
        AutoProjectedGradientDescent(wrapped, loss_type="difference_logits_ratio", **apgd),
        DeepFool(wrapped, max_iter=100, epsilon=1e-3, nb_grads=10, batch_size=32, verbose=False),
        SquareAttack(wrapped, eps=epsilon, max_iter=1000, p_init=0.8, nb_restarts=1, verbose=False),
    ]
    return AutoAttack(wrapped, eps=epsilon, eps_step=epsilon / 4, attacks=parts)


def ours(model: nn.Module, images: Any, labels: Any, epsilon: Any, attacks: str, **options: Any) -> Found:
    """Return what this library's record says; its notes are printed, as they are part of the record."""
    import memory_defense

    record = memory_defense.evaluate(model, images, labels, epsilon=epsilon, attacks=attacks, **options)
    return of_record(record)


def of_record(record: Any) -> Found:
    """Return what a record says, and print its notes and failed checks."""
    failed = [line for line in record.audit if line.verdict == "fail"]
    print(*_notes(record.model_dump()), *(f"failed check: {line.check}" for line in failed), sep="\n")
    return Found(tuple(one.accuracy for one in record.worst_case), failed=len(failed))


def _notes(value: Any, key: str = "") -> list[str]:
    """Return every note of a record, wherever it is."""
    if isinstance(value, dict):
        return [text for name, one in value.items() for text in _notes(one, name)]
    if isinstance(value, (list, tuple)):
        return [text for one in value for text in _notes(one, key)]
    return [value] if isinstance(value, str) and value and re.fullmatch("notes?", key) else []


def _of_images(model: nn.Module, found: Any, truth: Any) -> Found:
    """Judge returned images in one pass, of a copy in case the model writes into them."""
    images = torch.as_tensor(found).detach()
    with torch.no_grad():
        right = model(images.clone()).argmax(1) == torch.as_tensor(truth)
    return Found((float(right.double().mean()),), images)


def _foolbox(model: nn.Module, images: Any, labels: Any, epsilon: Any, kind: str, truth: Any) -> Found:
    import foolbox

    del truth
    made = {
        "pgd": foolbox.attacks.LinfPGD,
        "bim": lambda: foolbox.attacks.LinfBasicIterativeAttack(random_start=False),
        "minimal": foolbox.attacks.LinfDeepFoolAttack,
    }[kind]()
    _, found, success = made(foolbox.PyTorchModel(model, bounds=(0, 1)), images, labels, epsilons=epsilon)
    flags = np.atleast_2d(np.asarray(success))
    last = found[-1] if isinstance(found, list) else found
    return Found(tuple(float(one) for one in 1 - flags.mean(1)), last)


def _torchattacks(model: nn.Module, images: Any, labels: Any, epsilon: Any, kind: str, truth: Any) -> Found:
    import torchattacks

    made = {
        "pgd": lambda: torchattacks.PGD(model, eps=epsilon, alpha=STEP, steps=STEPS),
        "bim": lambda: torchattacks.BIM(model, eps=epsilon, alpha=STEP, steps=STEPS),
        "minimal": lambda: torchattacks.FAB(
            model, eps=epsilon, steps=STEPS, n_classes=int(labels.max()) + 1, seed=0
        ),
    }[kind]()
    return _of_images(model, made(images, labels), truth)


def _art(model: nn.Module, images: Any, labels: Any, epsilon: Any, kind: str, truth: Any) -> Found:
    from art.attacks.evasion import BasicIterativeMethod, DeepFool, ProjectedGradientDescent

    arrays = [one.numpy() if isinstance(one, torch.Tensor) else one for one in (images, labels)]
    wrapped = art_classifier(model, arrays[0], int(np.asarray(truth).max()) + 1)
    if kind == "minimal":
        made = DeepFool(wrapped, max_iter=STEPS, epsilon=1e-3, batch_size=32, verbose=False)
        return _of_images(model, made.generate(*arrays), truth)
    options = {"eps": epsilon, "eps_step": epsilon / 10, "max_iter": STEPS, "batch_size": 64, "verbose": False}
    if kind == "pgd":
        made = ProjectedGradientDescent(wrapped, num_random_init=1, **options)
    else:
        made = BasicIterativeMethod(wrapped, **options)
    return _of_images(model, made.generate(*arrays), truth)


def _autoattack(model: nn.Module, images: Any, labels: Any, epsilon: Any, kind: str, truth: Any) -> Found:
    made = authors(model, epsilon, version="custom", attacks=["fab-t" if kind == "minimal" else "apgd-ce"])
    if kind == "minimal":
        made.fab.n_restarts, made.fab.n_target_classes = 1, int(torch.as_tensor(truth).max())
    return run_authors(made, images, labels, truth)


def _ours(model: nn.Module, images: Any, labels: Any, epsilon: Any, kind: str, truth: Any) -> Found:
    del truth
    return ours(model, images, labels, epsilon, {"minimal": "fab-t"}.get(kind, kind))


_ATTACKS = {FOOLBOX: _foolbox, TORCHATTACKS: _torchattacks, ART: _art, AUTOATTACK: _autoattack, OURS: _ours}
