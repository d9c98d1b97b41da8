"""One image attacked and looked at: the numbers and pictures of the page.

The attack runs and is judged by `evaluation.attempt`, as every attack of an evaluation does: bounded by its ball,
verified, its verdict the true defense's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from memory_defense.attacks import ATTACKS
from memory_defense.checks import nearest
from memory_defense.contracts import (
    Attack,
    Ball,
    Binding,
    Certifying,
    Defense,
    Flagging,
    Images,
    Rebuilding,
    SlotDefense,
    needs_gradient,
    targets_of,
)
from memory_defense.evaluation.attempt import EXACT_KNOWLEDGE, Attempt, CaseRunner
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.fitting import changes
from memory_defense.evaluation.metrics import answers
from memory_defense.evaluation.options import Options
from memory_defense.losses import suited
from memory_defense.passes import regular
from memory_defense.randomness import seeded
from memory_defense.studio.knowledge import Known, chosen
from memory_defense.studio.messages import AttackChoice, Look, Played, Proof, Slot
from memory_defense.studio.pictures import MAGNIFICATION, magnified, signs, uri
from memory_defense.studio.story import what_happened
from memory_defense.studio.tickets import Ticket, Watched
from memory_defense.threat import ball
from memory_defense.wrappers import frozen

SELECTOR = "selector"
"""The knowledge whose surrogate chooses the slot, where a slot defense publishes one."""

OPTION_LIMITS: Mapping[str, int] = {"steps": 200, "restarts": 5, "targets": 9, "queries": 5000}
"""Options that a page may set, and their largest values; all others stay at the attack's default."""

OPTION_STARTS: Mapping[str, int] = {"queries": 500}
"""Start values on the page below the attack's default, so that the first answer comes soon."""

MOST_EPSILON: Mapping[str, float] = {"linf": 0.5, "l2": 10.0}


@dataclass(frozen=True)
class Subject:
    """A loaded defense under the name that the page knows it by."""

    run: str
    defense: Defense
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Posed:
    """One image and the class that the attack is to leave."""

    image: Images
    """(1, C, H, W)."""
    identity: int
    """Seeds the attack's draws: a test image's position, so that an evaluation's result is met again."""
    label: int | None
    """None is what the defense answers."""
    source: Literal["dataset", "you"]


def options_of(name: str) -> dict[str, int]:
    """Return what the page may set of an attack: names and where they start."""
    made = ATTACKS[name]()
    values: dict[str, object] = {field.name: getattr(made, field.name) for field in fields(made)}
    starts = {one: OPTION_STARTS.get(one, value) for one, value in values.items() if one in OPTION_LIMITS}
    return {one: min(value, OPTION_LIMITS[one]) for one, value in starts.items() if isinstance(value, int)}


def build_attack(name: str, options: Mapping[str, int]) -> Attack:
    """Return the attack with these options.

    Raises
    ------
    ValueError
        For an unknown attack or option, or a value outside what the page may ask.
    """
    if name not in ATTACKS:
        raise nearest(name, ATTACKS, "attack")
    known = options_of(name)
    for option, value in options.items():
        if option not in known:
            raise nearest(option, known, f"option of the attack {name}")
        if not 1 <= value <= OPTION_LIMITS[option]:
            raise ValueError(
                f"{option} is {value}, but the studio takes 1 to {OPTION_LIMITS[option]}; "
                "for more, use 'memdef evaluate'"
            )
    settings: dict[str, Any] = {**known, **options}
    return ATTACKS[name](**settings)


def play(subject: Subject, posed: Posed, choice: AttackChoice, ticket: Ticket) -> tuple[Played, Images]:
    """Attack one image and return everything the page shows, and the adversarial image (1, C, H, W).

    Raises
    ------
    ValueError
        For an unknown attack, option or knowledge, a radius or a class out of range, or an attack that does not
        fit the norm or the knowledge.
    TooSlowError, StoppedError
        As the ticket says.
    """
    limit = MOST_EPSILON[choice.norm]
    if choice.epsilon > limit:
        raise ValueError(f"epsilon is {choice.epsilon:g}, but the studio goes up to {limit:g} in {choice.norm}")
    attack = build_attack(choice.attack, choice.options)
    known = chosen(subject.defense, choice.knowledge, subject.run)
    known.check_fits(choice.attack, attack)
    if posed.label is not None and posed.label >= len(subject.classes):
        raise ValueError(f"label is {posed.label}, but there are {len(subject.classes)} classes, numbered from 0")
    attack, changed = suited(choice.attack, attack, len(subject.classes))
    case = Case(
        name=choice.attack,
        attack=attack,
        knowledge=choice.knowledge,
        ball=ball(choice.norm, choice.epsilon),
        note=changed,
    )
    image, surrogate = posed.image, known.surrogate
    runner = CaseRunner(defense=subject.defense, options=Options(seed=choice.seed))
    with frozen(subject.defense):
        clean = look(subject.defense, image, choice.seed, case.ball)
        label = clean.answer if posed.label is None else posed.label
        ticket.check()
        bound = surrogate.bind(image) if isinstance(surrogate, Binding) else surrogate
        labels, ids = torch.tensor([label]), torch.tensor([posed.identity])
        attempt = runner.run(case, Watched(regular(bound), ticket), image, labels, ids)
        ticket.check()
        adversarial = look(subject.defense, attempt.images, choice.seed, case.ball)
    offset = (attempt.images - image)[0]
    played = Played(
        run=subject.run,
        knowledge=choice.knowledge,
        label=label,
        label_source="defense" if posed.label is None else posed.source,
        clean=clean,
        adversarial=adversarial,
        fooled=bool(attempt.fooled[0]),
        linf=float(offset.abs().max()),
        l2=float(offset.square().sum().sqrt()),
        magnified=magnified(offset),
        signs=signs(offset),
        magnification=MAGNIFICATION,
        forward=attempt.passes.forward,
        seconds=attempt.seconds,
        sentence=what_happened(clean, adversarial, label, subject.classes, moved=bool(offset.any())),
        notes=_notes(case, known, attempt, len(subject.classes)),
    )
    return played, attempt.images


def look(defense: Defense, image: Images, seed: int = 0, within: Ball | None = None) -> Look:
    """Return what a defense makes of one image (1, C, H, W); slots, a flag and a proof only where it has them.

    `within` is the ball of the attack, for whose epsilon the gate is asked.
    """
    with torch.no_grad(), seeded(seed, "studio"):
        logits = answers(defense, image)[0]
        slot = attention = None
        slots = _slots(defense.reconstruct_all(image)[0], image[0]) if isinstance(defense, Rebuilding) else None
        if isinstance(defense, SlotDefense):
            trace = defense.trace(image)
            slot, attention = int(trace.slots[0]), _numbers(trace.attention[0])
        return Look(
            picture=uri(image[0]),
            answer=int(logits.argmax()),
            probabilities=_numbers(logits.softmax(0)),
            selector=_selector(defense, image),
            slot=slot,
            attention=attention,
            slots=slots,
            flagged=_flagged(defense, image),
            flag_score=defense.flag_score if isinstance(defense, Flagging) else None,
            proof=_proof(defense, image, within),
        )


def answer_to(defense: Defense, image: Images, seed: int = 0) -> int:
    """Return the class that a defense answers to one image (1, C, H, W)."""
    with frozen(defense), seeded(seed, "studio"):
        return int(answers(defense, image)[0].argmax())


def _selector(defense: Defense, image: Images) -> list[float] | None:
    selector = defense.surrogates().get(SELECTOR) if isinstance(defense, SlotDefense) else None
    if selector is None or isinstance(selector, Binding):
        return None
    return _numbers(answers(selector, image)[0].softmax(0))


def _slots(rebuilt: Tensor, image: Tensor) -> list[Slot]:
    """Return each slot's reconstruction (K, C, H, W) beside its error to the image (C, H, W)."""
    errors = _numbers((rebuilt - image).square().flatten(1).mean(1))
    return [Slot(picture=uri(one), error=error) for one, error in zip(rebuilt, errors, strict=True)]


def _numbers(values: Tensor) -> list[float]:
    return [float(value) for value in values.float()]


def _flagged(defense: Defense, image: Images) -> bool | None:
    if not isinstance(defense, Flagging) or defense.flag_threshold is None:
        return None
    return bool(defense.suspicious(image)[0])


def _proof(defense: Defense, image: Images, within: Ball | None) -> Proof | None:
    """Return what is proven of an image, and whether the gate for the ball's epsilon accepts it."""
    if not isinstance(defense, Certifying):
        return None
    labels, radii = defense.certificates(image)
    norm, radius = defense.certified_norm, float(radii[0])
    assert norm in ("linf", "l2")
    accepted = None
    if within is not None and within.norm == norm:
        accepted = bool(labels[0] >= 0 and radius >= within.epsilon / 2)
    return Proof(norm=norm, radius=radius, accepted=accepted)


def _notes(case: Case, known: Known, attempt: Attempt, classes: int) -> list[str]:
    notes = [*changes([case]), *([attempt.failure] if attempt.failure else [])]
    if known.adaptation and known.adaptation.towards_each_class:
        targets, wrong = targets_of(case.attack) or classes, classes - 1
        which = (
            f"each of the {wrong} wrong classes" if targets >= wrong else f"the {targets} likeliest wrong classes"
        )
        notes.append(f"The attack aims at {which}, the likeliest first, until the answer is wrong.")
    if known.adaptation and known.adaptation.fights_flag:
        notes.append(_own_measure(attempt))
    if not needs_gradient(case.attack) and case.knowledge != EXACT_KNOWLEDGE:
        notes.append(f"{case.name} uses no gradient: the chosen knowledge only decides which classifier it asks.")
    if attempt.disagreements:
        notes.append(
            "The model gave two different answers to the attacked image, as a randomised model does; the final "
            "answer counts."
        )
    return notes


def _own_measure(attempt: Attempt) -> str:
    if bool(attempt.silent[0]):
        return "This attacker found a wrong answer that is not flagged."
    if bool(attempt.fooled[0]):
        return (
            "This attacker seeks a wrong answer that is not flagged. The answer is wrong, but the image is flagged."
        )
    return "This attacker seeks a wrong answer that is not flagged, and found none."
