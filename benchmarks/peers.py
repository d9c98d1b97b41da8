"""The peers behind one signature: (model, images, labels, seed) -> images. Nothing is tuned beyond what is passed.

Imports stand inside the functions, so that one missing peer does not stop the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from measure import Counted, Run
from memory_defense.attacks import attack as our_attack
from memory_defense.contracts import Attack, Ball, Images, Labels
from memory_defense.randomness import ImageDraws

CLASSES = 10
PACKAGES = {
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "ART": "adversarial-robustness-toolbox",
    "cleverhans": "cleverhans",
    "pyautoattack": "pyautoattack",
}
"""Peers by the name in the tables, and what the package index calls them."""


def versions() -> dict[str, str]:
    """Return the versions of the peers that are installed."""
    found: dict[str, str] = {}
    for name, package in PACKAGES.items():
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def ours(attack: Attack | str, ball: Ball) -> Run:
    """Return an attack of this library, by itself or by name."""
    made = our_attack(attack) if isinstance(attack, str) else attack

    def run(model: Counted, images: Images, labels: Labels, seed: int) -> Images:
        return made(model, images, labels, ball, ImageDraws.of(seed, "benchmark", len(images)))

    return run


def fed(run: Run, size: int) -> Run:
    """Return the same attack for a caller who hands over `size` images at a time."""

    def feed(model: Counted, images: Images, labels: Labels, seed: int) -> Images:
        parts = zip(images.split(size), labels.split(size), strict=True)
        return torch.cat([run(model, *part, seed) for part in parts])

    return feed


def fgsm(peer: str, epsilon: float) -> Run:
    """Return a peer's fast gradient sign method."""
    return {
        "torchattacks": partial(_torchattacks, "FGSM", {"eps": epsilon}),
        "foolbox": partial(_foolbox, "FGSM", {}, epsilon),
        "ART": partial(_art, "FastGradientMethod", {"norm": np.inf, "eps": epsilon}),
        "cleverhans": partial(_cleverhans, {"eps": epsilon}),
    }[peer]


def pgd(peer: str, epsilon: float, step: float, steps: int) -> Run:
    """Return a peer's projected gradient descent from a random start, in L-inf."""
    art = {"norm": np.inf, "eps": epsilon, "eps_step": step, "max_iter": steps, "num_random_init": 1}
    return {
        "torchattacks": partial(_torchattacks, "PGD", {"eps": epsilon, "alpha": step, "steps": steps}),
        "foolbox": partial(_foolbox, "LinfPGD", {"abs_stepsize": step, "steps": steps}, epsilon),
        "ART": partial(_art, "ProjectedGradientDescentPyTorch", {**art, "verbose": False}),
        "cleverhans": partial(_cleverhans, {"eps": epsilon, "eps_iter": step, "nb_iter": steps}),
    }[peer]


def carlini_wagner(peer: str, *, steps: int, search_steps: int, rate: float, const: float) -> Run:
    """Return a peer's Carlini-Wagner attack in L2; torchattacks has no search for the constant."""
    names = {
        "torchattacks": partial(
            _torchattacks, "CW", {"c": const, "kappa": 0, "steps": steps * search_steps, "lr": rate}
        ),
        "foolbox": partial(
            _foolbox,
            "L2CarliniWagnerAttack",
            {"binary_search_steps": search_steps, "steps": steps, "stepsize": rate, "initial_const": const},
            None,
        ),
        "ART": partial(
            _art,
            "CarliniL2Method",
            {
                "binary_search_steps": search_steps,
                "max_iter": steps,
                "learning_rate": rate,
                "initial_const": const,
                "batch_size": 64,
                "verbose": False,
            },
        ),
        "cleverhans": partial(
            _cleverhans_cw,
            {
                "binary_search_steps": search_steps,
                "max_iterations": steps,
                "lr": rate,
                "initial_const": const,
            },
        ),
    }
    return names[peer]


def foolbox_minimum(name: str, **options: Any) -> Run:
    """Return one of foolbox's attacks that look for the smallest change."""
    return partial(_foolbox, name, options, None)


def autoattack(peer: str, epsilon: float) -> Run:
    """Return the standard ensemble in L-inf, every gradient part with 100 steps.

    torchattacks' own ensemble takes 10 of them, so its parts are put together here as it does, with 100.
    """
    return {"pyautoattack": partial(_pyautoattack, epsilon), "torchattacks": partial(_torchattacks_parts, epsilon)}[
        peer
    ]


def _torchattacks(
    name: str, options: Mapping[str, Any], model: nn.Module, images: Images, labels: Labels, seed: int
) -> Images:
    import torchattacks

    del seed
    return getattr(torchattacks, name)(model, **options)(images, labels)


def _torchattacks_parts(epsilon: float, model: nn.Module, images: Images, labels: Labels, seed: int) -> Images:
    import torchattacks

    common: dict[str, Any] = {"eps": epsilon, "norm": "Linf", "seed": seed, "n_restarts": 1}
    parts = [
        torchattacks.APGD(model, steps=100, loss="ce", **common),
        torchattacks.APGDT(model, steps=100, n_classes=CLASSES, **common),
        torchattacks.FAB(model, steps=100, multi_targeted=True, n_classes=CLASSES, **common),
        torchattacks.Square(model, n_queries=5000, resc_schedule=False, **common),
    ]
    return torchattacks.MultiAttack(parts)(images, labels)


def _foolbox(
    name: str,
    options: Mapping[str, Any],
    epsilon: float | None,
    model: nn.Module,
    images: Images,
    labels: Labels,
    seed: int,
) -> Images:
    import foolbox

    del seed
    attack = getattr(foolbox.attacks, name)(**options)
    return attack(foolbox.PyTorchModel(model, bounds=(0, 1)), images, labels, epsilons=epsilon)[1]


def _art(
    name: str, options: Mapping[str, Any], model: nn.Module, images: Images, labels: Labels, seed: int
) -> Images:
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    del seed
    classifier = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=CLASSES,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    found = getattr(evasion, name)(classifier, **options).generate(images.numpy(), labels.numpy())
    model.eval()
    return torch.from_numpy(found)


def _cleverhans(options: Mapping[str, Any], model: nn.Module, images: Images, labels: Labels, seed: int) -> Images:
    from cleverhans.torch.attacks.fast_gradient_method import fast_gradient_method
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

    del seed
    method = projected_gradient_descent if "nb_iter" in options else fast_gradient_method
    found: Tensor = method(
        model, images, norm=np.inf, clip_min=0, clip_max=1, y=labels, sanity_checks=False, **options
    )
    return found.detach()


def _cleverhans_cw(
    options: Mapping[str, Any], model: nn.Module, images: Images, labels: Labels, seed: int
) -> Images:
    from cleverhans.torch.attacks.carlini_wagner_l2 import carlini_wagner_l2

    del seed
    return carlini_wagner_l2(model, images, CLASSES, y=labels, **options)


def _pyautoattack(epsilon: float, model: nn.Module, images: Images, labels: Labels, seed: int) -> Images:
    from pyautoattack import AutoAttack

    attack = AutoAttack(model, norm="Linf", eps=epsilon, seed=seed, version="standard", device="cpu")
    return attack.run_standard_evaluation(images, labels, batch_size=250)[0]
