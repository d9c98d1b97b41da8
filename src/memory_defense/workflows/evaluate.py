"""Evaluate any classifier, however it was trained: worst case, audit and one record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, Unpack, cast

from memory_defense.attacks import ATTACKS
from memory_defense.attacks.suites import Suite, SuitePart, check_attacks, parts_of, written
from memory_defense.checks import check_path
from memory_defense.contracts import (
    Adaptation,
    Adaptive,
    Ball,
    Certificates,
    Certifying,
    Classifier,
    Defense,
    Labels,
    Targeting,
    needs_gradient,
    transfers_of,
)
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.attempt import EXACT_KNOWLEDGE
from memory_defense.evaluation.audit.behaviour import required_arguments
from memory_defense.evaluation.audit.findings import Doubts
from memory_defense.evaluation.audit.run import audit
from memory_defense.evaluation.cases import QUERIES, Case, cross
from memory_defense.evaluation.fitting import changes
from memory_defense.evaluation.invariance import largest_pass
from memory_defense.evaluation.odd import notes_of, odd_images
from memory_defense.evaluation.options import OptionFields, Options
from memory_defense.evaluation.pixels import Pictures, Pixels
from memory_defense.evaluation.provenance import provenance
from memory_defense.evaluation.record import CertifiedResult, Record
from memory_defense.evaluation.replay import EARLIER, Replay
from memory_defense.evaluation.results import Evaluation, Reserve, read_per_image, untried, write_per_image
from memory_defense.evaluation.robustness import evaluate as attack_all
from memory_defense.evaluation.sizes import taken_by
from memory_defense.evaluation.store import (
    discard,
    of_earlier_versions,
    of_other_company,
    of_rank,
    only_writer,
)
from memory_defense.files import remove
from memory_defense.foreign import undisturbed, watched_outside
from memory_defense.passes import granules_of
from memory_defense.progress import stage
from memory_defense.ranks import current, in_company
from memory_defense.threat import ball as ball_of
from memory_defense.workflows.arguments import (
    ImagesLike,
    LabelsLike,
    Radii,
    check_model,
    checked_norm,
    labels_of,
    options_of,
    paired,
    pictures_of,
    radii,
)
from memory_defense.workflows.first_answer import as_found, in_own_precision, introduced, on_device, reaching
from memory_defense.workflows.suspicion import doubted, in_reserve, masked, suspected, with_labels_alone
from memory_defense.wrappers import apart, modules_seen, ordinary_modes, torch_defaults
from memory_defense.wrappers.untouched import Untouched

if TYPE_CHECKING:
    from memory_defense.attacks.own import AttacksLike
    from memory_defense.evaluation.place import Claim


def evaluate(
    model: Classifier | Defense,
    images: ImagesLike | Pixels,
    labels: LabelsLike | None = None,
    *,
    epsilon: Radii,
    norm: str = "linf",
    attacks: AttacksLike = "fast",
    out: Path | str | None = None,
    options: Options | None = None,
    **also: Unpack[OptionFields],
) -> Record:
    """Attack a classifier image by image until nothing is left to try, audit the result, and return its record.

    Under ``torchrun`` the processes share the images: all of them must make this very call, every one returns the
    whole record, and the first one writes it. To evaluate on one rank, such as in ``if rank == 0: ...``, give it
    ``options=Options(alone=True)``.

    Parameters
    ----------
    model
        Images (B, C, H, W) in [0, 1] to logits (B, K): a module or a function. If it publishes surrogates
        (`contracts.Defense`), every one of them is attacked.
    images, labels
        (N, C, H, W) in [0, 1] and (N,): tensors, or arrays of numpy, or lists. Floats of any precision are taken as
        float32, integers of any type as int64, labels on another device are moved to the images'. Grey levels,
        channels last and one-hot labels are not guessed at: the error says what to write. A `DataLoader`, a
        `Dataset` of pairs, or what `data.own.load_images` returns, has its own labels, which are then left out. For
        images that are more than fit into memory as floats, give what `load_images` returns, or
        `evaluation.pixels.Pixels.of` their grey levels.
    epsilon
        Radii in pixel units of [0, 1], such as 8 / 255; numbers of Python, numpy or torch. A float32 counts as the
        decimal that it is written as: ``np.float32(0.1)`` is 0.1. A radius that is given twice is tried once.
    norm
        ``linf`` or ``l2``.
    attacks
        Suites (``fast``, ``standard``, which is also called ``autoattack``, ``rand``, ``brief``, ``glimpse``) and
        attacks (`attacks.ATTACKS`), joined by commas or in a list; they run in this order, each once. In a list, or
        by names in a mapping, also attacks with settings, ``Pgd(steps=100)``, and functions that are attacks
        themselves, ``mine(model, images, labels, ball, draws)``: see `attacks.own`.
    out
        File of the record, with every image's verdict and adversarial image in a file beside it. A stopped
        evaluation goes on from there. None writes nothing.
    options
        Seed, batch size, device, repetitions, resuming and names; see `Options`.
    also
        Any of them as a keyword of its own, before what `options` says: ``seed=1, progress=True``.

    Examples
    --------
    >>> import memory_defense, torch
    >>> from memory_defense.attacks import Pgd
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))
    >>> images = torch.rand(8, 1, 4, 4)
    >>> record = memory_defense.evaluate(
    ...     net, images, net(images).argmax(1), epsilon=0.1, attacks=["glimpse", Pgd(steps=5)], seed=1, batch_size=8
    ... )
    >>> record.clean.accuracy
    1.0
    >>> record.recipe
    'attacks: glimpse,pgd(steps=5)'

    Raises
    ------
    ValueError
        For inputs or options that make no sense, or a model that asks for more than images or cannot answer them.

    Notes
    -----
    What is computed does not depend on the modes of torch around the call: ``no_grad``, ``inference_mode`` and
    ``autocast`` are left while it lasts (the last two with a note in the record), and so are other default types
    and devices, except in the model itself. A model in double, half or bfloat16 is judged in its own precision,
    from images in float32. Its images are copies where it writes to them.
    """
    check_model(model)
    chosen, around = options_of(options, also), torch_defaults()
    place = None if out is None else check_path(out, "out", "record.json")
    together = in_company("memory_defense.evaluate", alone=chosen.alone)
    with undisturbed(), ordinary_modes(model) as left, together, apart(model):
        if place is not None:
            from memory_defense.evaluation.place import check_place  # who writes nothing does without it

            check_place(place, {"start_from": None if chosen.start_from is None else Path(chosen.start_from)})
        chosen = replace(chosen, notes=(*chosen.notes, *left))
        defense, ball = as_defense(model), checked_norm(norm)
        balls: list[Ball] = [ball_of(ball, radius) for radius in dict.fromkeys(radii(epsilon))]
        (suite, names), earlier = _suite_of(attacks, ball), None
        if chosen.start_from is not None:
            file = Path(chosen.start_from)
            earlier = Replay(source=file.name, results=read_per_image(file))
        cases = cascade_cases(defense, suite, balls, earlier, transfers=True)
        _check_something_can_be_tried(defense, cases, names)
        recipe = f"attacks: {names}"
        with on_device(defense, chosen.device), alone_at(place):
            untouched = Untouched(defense)
            given, truth, order = paired(images, labels)
            chosen = _with_note(chosen, order)
            pixels = pictures_of(given)
            pixels = pixels if chosen.device is None else pixels.to(chosen.device)
            truth = labels_of(truth, pixels)
            chosen.numbers(len(pixels))
            follows = any(needs_gradient(case.attack) for case in cases)
            most = largest_pass(len(pixels), pixels.device, chosen.batch_size, cases)
            defense = as_found(defense, *around)
            shown = in_own_precision(defense)
            with watched_outside() as outside, modules_seen(defense) as seen:
                taken = taken_by(shown, pixels, largest=most, wanted=chosen.batch_size, seed=chosen.seed)
            defense, found = reaching(defense, seen)
            chosen = _with_note(_with_note(chosen, taken.note), found)
            with granules_of(taken.granule, taken.most):
                defense, classes = introduced(defense, pixels, follows=follows)
                defense, doubts = suspected(
                    defense,
                    untouched,
                    pixels,
                    truth,
                    cases,
                    seed=chosen.seed,
                    progress=chosen.progress,
                    outside=outside,
                )
                suite = with_labels_alone(suite, names, doubts)
                plan = partial(cascade_cases, suite=suite, balls=balls, start_from=earlier, transfers=True)
                spare = partial(reserve_of, names, balls, classes=classes, seed=chosen.seed)
                attacking = partial(saved_evaluation, images=pixels, labels=truth, place=place, recipe=recipe)
                evaluation = attacking(defense, cases=plan(defense), options=chosen, reserve=spare(defense, doubts))
                once_more, doubts = doubted(defense, untouched, evaluation, doubts, seed=chosen.seed)
                if once_more is not defense:
                    defense, anew = once_more, replace(chosen, resume=False)
                    evaluation = attacking(
                        defense, cases=plan(defense), options=anew, reserve=spare(defense, doubts)
                    )
                record = finished_record(
                    defense, evaluation, chosen, place, recipe=recipe, classes=classes, doubts=doubts
                )
            if (left_over := _state_file(place)) is not None and current().leads:
                discard(left_over)
    return record


def _suite_of(attacks: AttacksLike, norm: str) -> tuple[Suite, str]:
    """Return what is named, or given, as one suite, and a text that names it in records."""
    if isinstance(attacks, str):
        check_attacks(attacks, norms=(norm,))
        return parts_of(attacks), written(attacks)
    from memory_defense.attacks.own import suite_of  # names alone do without it

    return suite_of(attacks, norm)


def _with_note(options: Options, text: str) -> Options:
    """Return the options with a line for the record, which is shown at once; the same for an empty one."""
    if text and options.progress:
        options.progress.note(text)
    return replace(options, notes=(*options.notes, text)) if text else options


def alone_at(place: Path | None) -> AbstractContextManager[None]:
    """Keep every other evaluation from writing to `place` until the record is there; None keeps nothing off."""
    return only_writer(_state_file(place), current())


def _state_file(place: Path | None) -> Path | None:
    if place is None:
        return None
    from memory_defense.evaluation.place import state_path  # who writes nothing does without it

    return state_path(place)


def saved_evaluation(
    defense: Defense,
    images: Pictures,
    labels: Labels,
    cases: Sequence[Case],
    options: Options,
    place: Path | None,
    *,
    recipe: str,
    reserve: Reserve | None = None,
) -> Evaluation:
    """Run the cases, saving to and going on from a file beside the record's `place`; None saves nothing.

    Raises ValueError, before anything runs, where the record cannot be written there. That it will replace a record
    of another evaluation is said.
    """
    state = _state_file(place)
    if place is not None:
        from memory_defense.evaluation.place import check_place, tell_replaced  # who writes nothing does without it

        check_place(place, {"start_from": None if options.start_from is None else Path(options.start_from)})
        if current().leads:
            tell_replaced(place, _claim(images, cases, options, recipe), options.progress)
    if state is not None and not options.resume:
        remove(of_rank(state, current()))  # each process its own, so that none goes on from what another removes
        for one in (*of_other_company(state, current()), *of_earlier_versions(state)) if current().leads else ():
            remove(one)
    return attack_all(defense, images, labels, cases, options, reserve=reserve, state_file=state, keep_state=True)


def _claim(images: Pictures, cases: Sequence[Case], options: Options, recipe: str) -> Claim:
    from memory_defense.evaluation.place import Claim  # who writes nothing does without it

    balls = {(case.ball.norm, case.ball.epsilon) for case in cases if case.purpose != "curve"}
    return Claim(
        defense=options.defense,
        recipe=recipe,
        dataset=options.dataset,
        images=len(images),
        seed=options.seed,
        weights_sha256=options.weights_sha256,
        balls=tuple(sorted(balls)),
    )


def finished_record(
    defense: Defense,
    evaluation: Evaluation,
    options: Options,
    place: Path | None,
    *,
    recipe: str,
    classes: int,
    doubts: Doubts | None = None,
) -> Record:
    """Return the record of an evaluation, its audit included; write it to `place` with the images beside it.

    The file to go on from stays until the caller removes it, so that a kill in between loses nothing.

    Parameters
    ----------
    defense, evaluation
        As `saved_evaluation` had and returned them.
    options
        Names, seed and hash for the record.
    place
        File of the record; None writes nothing. Of several processes only the first writes.
    recipe
        Recipe or suite that the record names.
    classes
        K, for the audit's chance level.
    doubts
        What was found out about the model beside its verdicts.
    """
    worst = evaluation.worst_cases()
    proofs, certified = _certified(defense, evaluation, options)
    audited = audit(
        defense,
        evaluation,
        classes=classes,
        seed=options.seed,
        proofs=proofs,
        doubts=doubts,
        progress=options.progress,
    )
    per_image, checksum = None, ""
    if place is not None:
        from memory_defense.evaluation.place import per_image_path  # who writes nothing does without it

        per_image = per_image_path(place)
        target, ranks = per_image, current()
        with stage(options.progress, f"writing {per_image}"):
            _, checksum = ranks.lead(lambda: ({}, write_per_image(target, evaluation.state, evaluation.cases)))
            ranks.total()  # nobody removes what another rank still reads
    record = Record(
        defense=options.defense,
        recipe=recipe,
        dataset=options.dataset,
        images=len(evaluation.images),
        clean=evaluation.clean,
        attacks=tuple(outcome.result for outcome in evaluation.outcomes),
        worst_case=worst,
        cascades=evaluation.cascades,
        submissions=evaluation.submissions.count,
        bfloat16=evaluation.bfloat16,
        batch_invariance=evaluation.batch_invariance,
        odd_images=odd_images(evaluation.state),
        certified=certified,
        per_image=None if per_image is None else per_image.name,
        per_image_sha256=checksum,
        notes=(
            *options.notes,
            *changes(evaluation.cases),
            *notes_of(evaluation.state, evaluation.cases),
            *untried(worst),
        ),
        audit=audited,
        provenance=provenance(options.seed, evaluation.images.device, options.weights_sha256),
    )
    if place is not None and current().leads:
        record.write(place)
    return record


def _certified(
    defense: Defense, evaluation: Evaluation, options: Options
) -> tuple[Certificates | None, tuple[CertifiedResult, ...]]:
    """Return what the defense proves of the images, and of the balls that were attacked; nothing for most."""
    if not isinstance(defense, Certifying):
        return None, ()
    from memory_defense.evaluation.proofs import certified_results, proven  # few models need it

    began = time.monotonic()
    with stage(options.progress, "certifying the clean images"):
        proofs = proven(defense, evaluation)
    return proofs, certified_results(defense, evaluation, proofs, round(time.monotonic() - began, 1))


def cascade_cases(
    defense: Defense,
    suite: Suite,
    balls: Sequence[Ball],
    start_from: Replay | None = None,
    *,
    transfers: bool = False,
) -> list[Case]:
    """Return the cascade of every ball: what an earlier evaluation found, then the suite with every knowledge.

    A gradient-free attack runs against the defense itself only, as knowledge changes gradients. A part that names
    target classes also runs with every adaptation that is worth attacking towards each class; every other part
    runs with the others.

    Parameters
    ----------
    defense
        Its surrogates that decide as it does are attacked, and its adaptive set.
    suite
        From `attacks.suites.parts_of`.
    balls
        One cascade each.
    start_from
        Images of an earlier evaluation, tried first.
    transfers
        Whether the suite's first attack by gradients also runs on the surrogates that decide otherwise
        (`contracts.Transferring`), where tables have no rows for them.
    """
    cases: list[Case] = []
    elsewhere = [known for known in defense.surrogates() if known in transfers_of(defense)] if transfers else []
    for ball in balls:
        if start_from is not None:
            cases.append(Case(name="replay", attack=start_from, knowledge=EARLIER, ball=ball, purpose="cascade"))
        parts = suite(ball.norm)
        first = next((part for part in parts if needs_gradient(part.attack)), None)
        for part in parts:
            known = _knowledge_for(part, defense)
            if part is first:
                cases += cross({part.name: part.attack}, elsewhere, [ball], purpose="cascade", role="main")
            cases += cross({part.name: part.attack}, known, [ball], purpose="cascade", role=part.role)
    return cases


def reserve_of(
    names: str, balls: Sequence[Ball], defense: Defense, doubts: Doubts | None = None, *, classes: int, seed: int
) -> Reserve:
    """Return the cases that follow the suites `names` in these balls where gradients are masked (`suspicion`)."""
    cases = tuple(cascade_cases(defense, in_reserve(names), balls))
    return Reserve(cases, partial(masked, defense=defense, doubts=doubts or Doubts(), classes=classes, seed=seed))


def _knowledge_for(part: SuitePart, defense: Defense) -> list[str]:
    surrogates = defense.surrogates()
    deciding = [known for known in surrogates if known not in transfers_of(defense)]
    if not needs_gradient(part.attack):
        return [EXACT_KNOWLEDGE] if EXACT_KNOWLEDGE in deciding else deciding[:1]
    adaptive: Mapping[str, Adaptation] = defense.adaptive() if isinstance(defense, Adaptive) else {}
    towards_classes = isinstance(part.attack, Targeting)
    deciding += [name for name, one in adaptive.items() if one.towards_each_class == towards_classes]
    return deciding


def _check_something_can_be_tried(defense: Defense, cases: Sequence[Case], attacks: str) -> None:
    """Raise ValueError where the model only answers and every case needs a gradient: nothing would be attacked."""
    if set(defense.surrogates()) != {QUERIES} or any(
        isinstance(case.attack, Replay) or not needs_gradient(case.attack) for case in cases
    ):
        return
    remedy = ", ".join(name for name, one in ATTACKS.items() if not needs_gradient(one))
    raise ValueError(
        f"the model answers but has no gradient, and all of {attacks!r} need one: nothing would be tried; "
        f"give attacks that only ask: {remedy}, or the suite fast, which has the first"
    )


def as_defense(model: Classifier | Defense) -> Defense:
    """Return the model as a defense; a plain classifier publishes itself.

    Raises
    ------
    ValueError
        For a model that asks for more than images: a label that is handed in decides its answer.
    """
    needed = required_arguments(model) or []
    if len(needed) > 1:
        raise ValueError(
            f"the model asks for {', '.join(needed)}; a classifier is given images only. One that is handed the "
            "label, or a slot made of it, has no robustness to measure: wrap it so that it finds these itself"
        )
    return model if _publishes(model) else Undefended(model)


def _publishes(model: Classifier | Defense) -> TypeGuard[Defense]:
    """Return whether a model is a defense that says how it is to be attacked, and not one with such a name in it.

    Raises ValueError for one that names nothing to attack.
    """
    if not isinstance(model, Defense):
        return False
    try:
        found = cast("object", model.surrogates())
    except TypeError:  # no method, or one that asks for something
        return False
    if not isinstance(found, Mapping):
        return False
    if not found:
        raise ValueError(
            "the model's surrogates() names nothing to attack; return at least {'end-to-end': self}, or leave the "
            "method out"
        )
    return True
