"""Foreign torch code: modes, memory, gradients that are not finite, writing in place, checkpoints, ranks."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cases.case import Case
from cases.observe import Observation, Rule, Seen, Verdict, judged, short, watch
from cases.toolkits import ART, AUTOATTACK, FOOLBOX, OURS, Found, attack, ours
from cases.toy import EPSILON, Small, gratings, random_start_fools, trained
from memory_defense.contracts import Images, Labels, Logits

PATIENCE = 20
"""Seconds that a call on one rank alone may take without a word."""
ROOM = 220 * 2**20
"""Bytes of address space beyond what the process has already."""
IMAGES = 48


class Standardised(nn.Module):
    """Standardises each image; for a constant one the gradient is 0 / 0, and with `tiny` 0 the logits are too."""

    def __init__(self, net: Small, tiny: float) -> None:
        super().__init__()
        self.net, self.tiny = net, tiny

    def forward(self, images: Images) -> Logits:
        """Return the logits (B, K)."""
        centred = images - images.mean((1, 2, 3), keepdim=True)
        spread = centred.pow(2).mean((1, 2, 3), keepdim=True).sqrt() + self.tiny
        return self.net(centred / spread * 0.25 + 0.5)


class InPlace(nn.Module):
    """Normalises the images that it is given in place."""

    def __init__(self, net: Small) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Images) -> Logits:
        """Return the logits (B, K)."""
        return self.net.features(images.sub_(0.5).div_(0.25))


class Checkpointed(nn.Module):
    """Recomputes its activations in the backward pass, in the reentrant way."""

    def __init__(self, net: Small) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Images) -> Logits:
        """Return the logits (B, K)."""
        return checkpoint(self.net, images, use_reentrant=True)


class Hungry(nn.Module):
    """The same logits, with about 3 MB of activations an image."""

    def __init__(self, net: Small) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Images) -> Logits:
        """Return the logits (B, K)."""
        return self.net(images + (0 * images.repeat(1, 1024, 1, 1))[:, :3])


def _modes(toolkit: str) -> list[Observation]:
    net = trained()
    images, labels = gratings(IMAGES)
    truth = attack(toolkit, net, images, labels, EPSILON)

    def within(mode: Callable[[], Any]) -> Found:
        with mode():
            return attack(toolkit, net, images, labels, EPSILON)

    modes = {"torch.no_grad": torch.no_grad, "torch.inference_mode": torch.inference_mode}
    rule = _same_as(truth, MODES.helps, "outside")
    return [judged(name, watch(lambda mode=mode: within(mode)), rule) for name, mode in modes.items()]


def _memory(toolkit: str) -> list[Observation]:
    net, (images, labels) = trained(), gratings(IMAGES)
    truth = attack(toolkit, net, images, labels, EPSILON, kind="bim")
    hungry = Hungry(net).eval()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))
    attack(toolkit, hungry, images[:4], labels[:4], EPSILON, kind="bim")  # the control: a few at a time fit
    seen = watch(lambda: attack(toolkit, hungry, images, labels, EPSILON, kind="bim"))
    return [judged("", seen, _same_as(truth, MEMORY.helps, "with memory enough"))]


def _black(toolkit: str) -> list[Observation]:
    """Put one black image last, so that the others see the same random draws with it and without it."""
    net = trained()
    images, labels = gratings(IMAGES)
    images[-1] = 0
    found: list[Observation] = []
    for tiny, what in ((1e-3, "gradient"), (0.0, "logits")):
        model = Standardised(net, tiny).eval()
        with torch.no_grad():
            labels[-1] = model(images[-1:]).nan_to_num().argmax(1)
        breakable = random_start_fools(model, images[-1:], int(labels[-1]), EPSILON)
        if not breakable:
            raise RuntimeError("the black image was meant to be breakable")
        for kind in ("bim", "minimal"):
            without = watch(
                lambda model=model, kind=kind: attack(toolkit, model, images[:-1], labels[:-1], EPSILON, kind=kind)
            )
            seen = watch(lambda model=model, kind=kind: attack(toolkit, model, images, labels, EPSILON, kind=kind))
            if without.error:  # then there is nothing to compare with
                seen.value, seen.error = None, f"without the black image as well: {without.error}"
            rule = _black_rule(seen, without.value, images[-1])
            found.append(judged(f"NaN {what}, {_called(toolkit, kind)}", seen, rule))
    return found


NAMED = rf"\b{IMAGES - 1}\b"
"""What a refusal has to name: the image, so that it can be left out."""


def _called(toolkit: str, kind: str) -> str:
    if kind == "bim":
        return "APGD" if toolkit == AUTOATTACK else "BIM"
    return "DeepFool" if toolkit in (FOOLBOX, ART) else "FAB"


def _black_rule(seen: Seen, others: Found | None, black: Tensor) -> Rule:
    """Return the rule: the others as without it, no NaN in the images, and the black one broken or named."""
    standing = round(others.robust[0] * (IMAGES - 1)) if others else 0

    def facts(got: Found) -> tuple[int, bool]:
        written = got.images is not None and bool(torch.as_tensor(got.images).isnan().any())
        return round(got.robust[0] * IMAGES) - standing, written

    named = next(
        (line for line in seen.said.splitlines() if re.search(rf"finite.*{NAMED}|nan.*{NAMED}", line, re.I)), ""
    )

    def right(got: Found) -> bool:
        more, written = facts(got)
        return not written and (more == 0 or (more == 1 and named != ""))

    def shown(got: Found) -> str:
        more, written = facts(got)
        words = {0: "the black image is broken", 1: "the black image counts as standing, though it can be broken"}
        text = f"{standing} of 47 others stand as without it; {words[more]}" if more in words else (
            f"{standing + more} stand with it, {standing} without"
        )  # fmt: skip
        if got.images is not None and torch.equal(torch.as_tensor(got.images[-1]), black):
            text += "; it is returned as it was"
        text += f"; said: {named}" if named else ""
        return text + ("; NaN is written into the attacked images" if written else "")

    helps = NAMED if seen.error else BLACK.helps
    return Rule(right=right, helps=helps, shown=shown, text=lambda seen: seen.error or seen.said)


def _in_place(toolkit: str) -> list[Observation]:
    net = trained()
    images, labels = gratings(IMAGES)
    truth = attack(toolkit, net, images, labels, EPSILON)
    given = images.clone()
    seen = watch(lambda: attack(toolkit, InPlace(net).eval(), given, labels, EPSILON))
    changed = not torch.equal(given, images)
    rule = Rule(
        right=lambda got: got.agrees(truth) and got.failed == truth.failed and not changed,
        helps=IN_PLACE.helps,
        shown=lambda got: (
            f"{got}; out of place: {truth}{'; the images that were handed in are altered' if changed else ''}"
        ),
        text=lambda seen: seen.error,
    )
    found = judged("", seen, rule)
    if seen.error and changed:
        found = replace(found, observed=short(f"{found.observed} The images that were handed in are altered."))
    return [found]


def _reentrant(toolkit: str) -> list[Observation]:
    net = trained()
    images, labels = gratings(24)
    truth = attack(toolkit, net, images, labels, EPSILON)
    seen = watch(lambda: attack(toolkit, Checkpointed(net).eval(), images, labels, EPSILON))
    return [judged("", seen, _same_as(truth, REENTRANT.helps, "without checkpoints"))]


def _one_rank(toolkit: str) -> list[Observation]:
    found = [_on_first_rank("", lambda *subject: attack(toolkit, *subject, EPSILON), toolkit)]
    if toolkit == OURS:
        form = "with its setting for one rank alone"
        found = [replace(found[0], form="as anywhere"), _on_first_rank(form, _ours_alone, toolkit)]
    return found


def _ours_alone(net: nn.Module, images: Images, labels: Labels) -> Found:
    from memory_defense import Options

    return ours(net, images, labels, EPSILON, "pgd", options=Options(alone=True))


def _on_first_rank(form: str, call: Callable[..., Found], toolkit: str) -> Observation:
    """Start two ranks by fork; the second one never makes the call and waits until the first is done with.

    What the first one writes meanwhile counts as a message, as it may still be waiting for the other when the time
    is over.
    """
    forked = multiprocessing.get_context("fork")
    mine, theirs = forked.Pipe(duplex=False)
    done = forked.Event()
    folder = Path(tempfile.mkdtemp(dir="."))
    subject = (folder, toolkit, call, theirs, done)
    ranks = [forked.Process(target=_rank, args=(rank, *subject)) for rank in range(2)]
    for one in ranks:
        one.start()
    truth = mine.recv()  # start-up and the call without a group come first
    seen = mine.recv() if mine.poll(PATIENCE) else None
    done.set()
    for one in ranks:
        one.join(1)
        one.kill()
        one.join()
    rule = _same_as(truth, ONE_RANK.helps, "without a process group")
    if seen is not None:
        return judged(form, seen, rule)
    said = (folder / "said").read_text(encoding="utf-8", errors="replace")
    lines = [line for line in said.splitlines() if re.search(rule.helps, line, re.IGNORECASE)]
    if lines:
        return Observation(form, Verdict.HELPS, short(f"waits, and says: {lines[0]}"))
    return Observation(form, Verdict.SILENT, f"no word for {PATIENCE} s")


def _rank(rank: int, folder: Path, toolkit: str, call: Callable[..., Found], answers: Any, done: Any) -> None:
    import torch.distributed as dist

    net, (images, labels) = trained(), gratings(24)
    if rank == 0:
        answers.send(Found(attack(toolkit, net, images, labels, EPSILON).robust))
    dist.init_process_group(
        "gloo", init_method=f"file://{folder.resolve()}/ranks", rank=rank, world_size=2,
        timeout=timedelta(seconds=PATIENCE + 60),
    )  # fmt: skip
    if rank:
        done.wait(2 * PATIENCE + 60)
        return
    with (folder / "said").open("wb") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    try:
        seen = Seen(Found(call(net, images, labels).robust))
    except Exception as error:
        seen = Seen(error=f"{type(error).__name__}: {error}")
    answers.send(seen)


def _same_as(truth: Found, helps: str, words: str) -> Rule:
    return Rule(
        right=lambda got: got.agrees(truth) and got.failed <= truth.failed,
        helps=helps,
        shown=lambda got: f"{got}; {words}: {truth}",
        text=lambda seen: seen.error,
    )


KIND = "foreign torch code"
MODES = Case(
    name="inference-mode",
    kind=KIND,
    situation="The call stands inside `torch.no_grad()` or `torch.inference_mode()`.",
    oracle="The same call outside.",
    helps=r"inference.?mode|inference tensor|no_grad\(|enable_grad",
    ask=_modes,
)
MEMORY = Case(
    name="cpu-out-of-memory",
    kind=KIND,
    situation="The processor's memory has room for a few images at a time, not for all 48.",
    oracle="The same call with memory enough; control: four images at a time fit.",
    helps=r"batch|fewer images|at a time",
    ask=_memory,
)
BLACK = Case(
    name="one-black-image",
    kind=KIND,
    situation="One image of 48 is constant, and the classifier standardises each: NaN gradient, or NaN logits.",
    oracle=(
        "The 47 others stand or fall as without it, no NaN in the attacked images, and the black image is broken "
        "(plain descent from random starts breaks it) or named, as number 47; a refusal names it too."
    ),
    helps=r"\bnan\b|not finite|no finite|infinite",
    ask=_black,
)
IN_PLACE = Case(
    name="in-place-audit",
    kind=KIND,
    situation="The classifier normalises its input in place.",
    oracle="The same function written out of place, no further failed check, and the caller's images unaltered.",
    helps=r"in-?\s?place",
    ask=_in_place,
)
REENTRANT = Case(
    name="reentrant-checkpoint",
    kind=KIND,
    situation="The classifier has gradient checkpoints with use_reentrant=True.",
    oracle="The same classifier without checkpoints, or a message that names them.",
    helps=r"use_reentrant|checkpoint",
    ask=_reentrant,
)
ONE_RANK = Case(
    name="rank-zero-only",
    kind=KIND,
    situation="In a process group of two, only the first rank makes the call.",
    oracle=f"The same call without a process group, or a message, within {PATIENCE} s.",
    helps=r"\branks?\b|every process|all processes",
    ask=_one_rank,
)
CASES = (MODES, MEMORY, BLACK, IN_PLACE, REENTRANT, ONE_RANK)
