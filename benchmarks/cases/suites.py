"""A suite that does not fit the model, or the list that it stands in."""

from __future__ import annotations

from typing import Any

import torch

from cases.case import Case, absent
from cases.observe import Observation, Rule, judged, watch
from cases.toolkits import (
    ART,
    AUTOATTACK,
    FOOLBOX,
    OURS,
    TORCHATTACKS,
    Found,
    art_classifier,
    art_suite,
    authors,
    ours,
    run_authors,
    suite,
)
from cases.toy import EPSILON, gratings, linear_problem, trained

VERSIONS = {
    TORCHATTACKS: ("standard", "rand"),
    ART: ("standard",),
    AUTOATTACK: ("standard", "rand"),
    OURS: ("standard", "rand", "fast"),
}


def _few_classes(toolkit: str) -> list[Observation]:
    if toolkit == FOOLBOX:
        return absent("has no suite")
    return [_few(toolkit, version, classes) for classes in (2, 3) for version in VERSIONS[toolkit]]


def _few(toolkit: str, version: str, classes: int) -> Observation:
    net, images, labels, epsilon, exact = linear_problem(classes)
    rule = Rule(
        right=lambda got: abs(got.robust[0] - exact) < 1e-6,
        helps=FEW_CLASSES.helps,
        shown=lambda got: f"{got}; exact: {100 * exact:.1f} %",
    )
    seen = watch(lambda: suite(toolkit, net, images, labels, epsilon, version=version))
    return judged(f"{version}, {classes} classes", seen, rule)


def _mixed(toolkit: str) -> list[Observation]:
    if toolkit == FOOLBOX:
        return absent("has no suite, and runs one attack at a time")
    net = trained()
    images, labels = gratings(12)
    asked = {
        TORCHATTACKS: _mixed_torchattacks,
        ART: _mixed_art,
        AUTOATTACK: _mixed_authors,
        OURS: lambda *subject: ours(*subject, "brief,fab-t"),
    }[toolkit]
    seen = watch(lambda: asked(net, images, labels, EPSILON))
    alone = watch(lambda: suite(toolkit, net, images, labels, EPSILON, version=SUITE.get(toolkit, "standard")))
    bound = alone.value.robust[0]
    rule = Rule(
        right=lambda got: got.robust[0] <= bound + 1e-6,
        helps=MIXED.helps,
        shown=lambda got: f"{got}; the suite alone: {100 * bound:.1f} %",
        text=lambda seen: seen.error,
    )
    return [judged("", seen, rule)]


SUITE = {OURS: "brief"}
"""The suite that is mixed with an attack, where it is not `standard`."""


def _mixed_torchattacks(net: Any, images: Any, labels: Any, epsilon: float) -> Found:
    import torchattacks

    first = torchattacks.AutoAttack(net, eps=epsilon, n_classes=4, seed=0)
    both = torchattacks.MultiAttack([first, torchattacks.PGD(net, eps=epsilon, alpha=epsilon / 10, steps=20)])
    found = both(images, labels)
    return Found((float((net(found).argmax(1) == labels).double().mean()),), found)


def _mixed_art(net: Any, images: Any, labels: Any, epsilon: float) -> Found:
    from art.attacks.evasion import AutoAttack, ProjectedGradientDescent

    wrapped = art_classifier(net, images, 4)
    first = art_suite(wrapped, epsilon)
    second = ProjectedGradientDescent(wrapped, eps=epsilon, eps_step=epsilon / 10, max_iter=20, verbose=False)
    both = AutoAttack(wrapped, eps=epsilon, eps_step=epsilon / 4, attacks=[first, second])
    found = torch.from_numpy(both.generate(images.numpy(), labels.numpy()))
    return Found((float((net(found).argmax(1) == labels).double().mean()),), found)


def _mixed_authors(net: Any, images: Any, labels: Any, epsilon: float) -> Found:
    made = authors(net, epsilon, version="standard", attacks=["square"])
    return run_authors(made, images, labels)


FEW_CLASSES = Case(
    name="two-classes",
    kind="a suite that does not fit the model or the list",
    situation="A suite attacks a classifier of two, then of three classes; their number is given where it can be.",
    oracle="The exact worst case of a linear classifier in an L-inf ball, in closed form: half of the images.",
    helps=r"\b(two|three|2|3|4|four|least|few)\b[^.]*classes|classes[^.]*\b(two|three|2|3|4|four|least)\b",
    ask=_few_classes,
)
MIXED = Case(
    name="suite-among-attacks",
    kind="a suite that does not fit the model or the list",
    situation="A suite and an attack are given in one list.",
    oracle="Not more is left than the suite alone leaves, or a refusal that says how suites and attacks are given.",
    helps=r"suite.*(alone|joined|attacks)|version",
    ask=_mixed,
)
CASES = (FEW_CLASSES, MIXED)
