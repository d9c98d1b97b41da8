"""Checks that tell a classifier from a list: does it fare with images never seen as with those it is judged on?

A defense that holds the images of the evaluation answers what is near one of them with its label. No attack inside
the balls gets past that, and it says nothing of any other image. So a few images that nobody has are made of those
at hand, moved by pixels, mirrored or blended, and attacked as these were; and the answers half-way between two
images are looked at; and what the model holds is compared with the images themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from memory_defense.contracts import Images, Labels, Logits, PerImage, Rows
from memory_defense.evaluation.audit.findings import Check, Findings, above, line
from memory_defense.evaluation.audit.probes import USABLE, abrupt_answers, few_correct, first_attack, withstand
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.metrics import asked
from memory_defense.evaluation.record import AuditLine
from memory_defense.losses import margin
from memory_defense.passes import granule, regular
from memory_defense.wrappers import modules_of
from memory_defense.wrappers.untouched import reached

_T = TypeVar("_T")

_LOST = 0.3
"""Robust accuracy, as a share, that images a pixel away may lose against those judged."""

_HALVINGS = 18
_STATIONS = 9
_MOST_PATHS = 24
_JUMP, _JUMPING = 0.25, 0.15
"""Share of the clean lead, or of an eighth of the way, that logits may jump by; share of paths that may."""

_STEP = 0.02
"""Share of a jump that a model which goes in steps everywhere jumps by elsewhere."""

_WINDOWS = ((0.01, 0.5), (0.05, 0.8))
"""Distance from half-way, and the share of pairs that may switch from one label to the other within it."""

_PAIRS = 64
_FEW_PAIRS = 32
"""Pairs that are made of fewer images; so few give poor class means, and switching is told by details as well."""

_FEWEST = 16
"""Images below which a switch half-way is never held against a model."""

_MEANT = 256
"""The most images that the means of the classes are taken of."""


def shifted(images: Images, down: int, right: int) -> Images:
    """Return images moved by so many pixels, their edges repeated."""
    height, width = images.shape[2:]
    rows = (torch.arange(height, device=images.device) - down).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) - right).clamp(0, width - 1)
    return images[:, :, rows][:, :, :, columns]


def relatives(images: Images) -> list[Images]:
    """Return images (B, C, H, W) a pixel away, that show the same and that nobody has."""
    return [shifted(images, *one) for one in ((1, 0), (-1, 0), (0, 1), (0, -1))]


def unseen_images_fare_alike(findings: Findings) -> AuditLine:
    """Images that nobody has, attacked as those judged were, must not break far more often."""
    check = "images never seen withstand as those judged do"
    meaning = (
        "difference between the robust accuracy of the images judged and of the same images moved by one pixel, "
        "answered alike and attacked with the first gradient attack alone; above 0.3 the model knows the images "
        "that it is judged on"
    )
    remedy = (
        "take away what the model holds of these images (stored images, features, hashes or labels), or evaluate "
        "images that its author has not seen"
    )
    run = first_attack(findings)
    if run is None:
        return line(check, None, None, meaning, remedy, "no gradient attack on the exact model in a bounded ball")
    evaluation, (case, _) = findings.evaluation, run
    rows = few_correct(findings)
    if len(rows) < USABLE:
        return line(check, None, None, meaning, remedy, f"fewer than {USABLE} images are classified correctly")
    steps = getattr(case.attack, "steps", 1)
    if why := findings.too_long(len(rows) * (4 + steps), len(rows) * steps):
        return line(check, None, None, meaning, remedy, why)
    robust = evaluation.state.inside(case.ball).robust[rows]
    gap = _gap(findings, case, rows, robust)
    why = f"fewer than {USABLE} images keep their answer when they are moved by a pixel"
    return above(check, gap, _LOST, meaning, remedy, why)


def _gap(findings: Findings, case: Case, rows: Rows, robust: PerImage) -> float | None:
    """Return how much more robust these images are than their relatives; None for too few answered alike."""
    clean, labels = findings.evaluation.images[rows], findings.evaluation.labels[rows]
    made = torch.stack(relatives(clean))  # (R, B, C, H, W)
    leads = torch.stack([_lead(asked(findings.defense, one), labels) for one in made])  # (R, B), below 0: right
    best = leads.argmin(0)
    usable = (leads.amin(0) < 0).nonzero().squeeze(1)
    usable = usable[: len(usable) - (len(usable) % granule() if len(usable) > granule() else 0)]
    if len(usable) < USABLE:
        return None
    draws = findings.draws("unseen", len(rows)).rows(usable)
    stood = withstand(findings, case, made[best[usable], usable], labels[usable], draws)
    return float(robust[usable].float().mean()) - float(stood.float().mean())


def _lead(logits: Logits, labels: Labels) -> PerImage:
    return torch.where(logits.isfinite().all(1), margin(logits, labels).float(), torch.inf)


def answers_do_not_jump(findings: Findings) -> AuditLine:
    """What is stored for an image ends somewhere, and there the logits jump though the answer stays the same."""
    check = "answers change gradually on the way to images never seen"
    meaning = (
        "share of images for which the logits jump at one point of the way to the same image turned upside down, "
        "each pixel at its own time, by more than a quarter of the clean lead and of what an eighth of the way "
        "changes, while the answer stays the same, or of those for which it becomes another answer at once, with "
        "no lead that shrinks before; above 0.15, or 0.5, something else answers around the images judged, or a "
        "label is all that is answered"
    )
    remedy = (
        "take away what answers near the images judged; of a defense that is all jumps, believe attacks without "
        "gradients"
    )
    if findings.randomised:
        return line(check, None, None, meaning, remedy, "the answers change from call to call anyway")
    rows = findings.evaluation.correct.nonzero().squeeze(1)[:_MOST_PATHS]
    if len(rows) < USABLE:
        return line(check, None, None, meaning, remedy, f"fewer than {USABLE} images are classified correctly")
    if why := findings.too_long(2 * len(rows) * (_STATIONS + _HALVINGS)):
        return line(check, None, None, meaning, remedy, why)
    clean = findings.evaluation.images[rows]
    goals = [clean.flip(2), 1 - clean.flip(2, 3)]
    share = max(
        float(_jumps(findings, clean, goal, findings.evaluation.labels[rows]).float().mean()) for goal in goals
    )
    too_many, switched = abrupt_answers(findings)
    return line(check, share > _JUMPING or too_many, max(share, switched), meaning, remedy)


def _jumps(findings: Findings, clean: Images, goal: Images, labels: Labels) -> PerImage:
    """Return (B,) bool: between the two stations furthest apart, halved again and again, logits still differ.

    Every pixel sets out at its own time, and a model that jumps between the two nearest stations as well rounds.
    """
    column = (-1, *([1] * (clean.dim() - 1)))
    start = findings.draws("jumps", len(clean)).uniform(*clean.shape[1:]).to(clean)

    def at(share: PerImage) -> Logits:
        return asked(findings.defense, clean + (goal - clean) * (2 * share.view(column) - start).clamp(0, 1))

    places = torch.linspace(0, 1, _STATIONS, device=clean.device)
    stations = torch.stack([at(one.expand(len(clean))) for one in places])  # (S, B, K)
    apart = (stations[1:] - stations[:-1]).square().sum(2).sqrt()
    before, after = _halved(at, places, stations, apart.argmax(0))
    jump = (after - before).square().sum(1).sqrt()
    usual = torch.maximum(-_lead(stations[0], labels), apart.median(0).values)
    found = (before.argmax(1) == after.argmax(1)) & (jump > _JUMP * usual)
    if float(found.float().mean()) <= _JUMPING:
        return found
    before, after = _halved(at, places, stations, apart.argmin(0))
    return found & ((after - before).square().sum(1).sqrt() < _STEP * jump)


def _halved(
    at: Callable[[PerImage], Logits], places: Tensor, stations: Tensor, first: Rows
) -> tuple[Logits, Logits]:
    """Return the logits (B, K) on both sides of a point: after this station (B,), where they change the most."""
    each = torch.arange(len(first), device=first.device)
    low, high = places[first].clone(), places[first + 1].clone()
    before, after = stations[first, each], stations[first + 1, each]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        logits = at(middle)
        left = (logits - before).square().sum(1) >= (after - logits).square().sum(1)
        low, high = torch.where(left, low, middle), torch.where(left, middle, high)
        before, after = torch.where(left[:, None], before, logits), torch.where(left[:, None], logits, after)
    return before, after


def answers_do_not_switch_half_way(findings: Findings) -> AuditLine:
    """Who answers by the nearest stored image switches exactly half-way between two of them."""
    check = "answers do not switch half-way between images"
    meaning = (
        "share of pairs of images with different labels whose blend is answered with the first label just before "
        "half-way and with the second just after, of those answered with one of the two; above one half within "
        "1 %, or 0.8 within 5 %, the answer is the label of the nearest image that the model holds"
    )
    remedy = "take the stored images away; nearness to the images of the evaluation is no robustness"
    evaluation = findings.evaluation
    right = evaluation.correct.nonzero().squeeze(1)[:_PAIRS]
    one, other = _pairs_of_two_classes(evaluation.labels[right])
    pairs = _Pairs(findings, right[one], right[other])
    if len(one) < USABLE:
        return line(check, None, None, meaning, remedy, f"fewer than {USABLE} pairs of different classes")
    if why := findings.too_long(2 * len(_WINDOWS) * len(one)):
        return line(check, None, None, meaning, remedy, why)
    found: list[tuple[float, float]] = []
    for by, limit in _WINDOWS:
        share = pairs.switching(by)
        if share is None:
            continue
        if share > limit:
            by_means = pairs.switching_by_means(by)
            if by_means is not None and by_means > limit:
                why = "the images of a class are so much alike that its mean, too, switches half-way"
                return line(check, None, None, meaning, remedy, why)
            if len(right) < _FEWEST or (len(right) < _FEW_PAIRS and not pairs.by_details(by, share)):
                why = f"fewer than {_FEW_PAIRS} images, too few to tell a stored one from a pattern of its class"
                return line(check, None, None, meaning, remedy, why)
        found.append((share, limit))
    if not found:
        return line(check, None, None, meaning, remedy, "blends are answered with neither label")
    share, limit = max(found, key=lambda one: one[0] - one[1])
    return above(check, share, limit, meaning, remedy)


@dataclass(frozen=True)
class _Pairs:
    """Pairs of images of different classes, blended a little to this side and to that of half-way.

    Parameters
    ----------
    findings
        Whose defense is asked.
    rows, others
        (P,) positions of the images of each pair.
    """

    findings: Findings
    rows: Rows
    others: Rows

    def switching(self, by: float) -> float | None:
        """Return the share that the defense answers with the first label just before half-way, the second after."""
        return self._share([asked(self.findings.defense, one).argmax(1) for one in self._blends(by)])

    def switching_by_means(self, by: float) -> float | None:
        """Return the same of who answers by the nearest mean of a class."""
        return self._share([_nearest_mean(self.findings, one, self.rows, self.others) for one in self._blends(by)])

    def by_details(self, by: float, share: float) -> bool:
        """Whether far fewer switch half-way where the first image's details are turned round.

        Who holds the image misses them; who knows a pattern of its class alone never looked at them.
        """
        clean = self.findings.evaluation.images[self.rows]
        turned = (2 * F.avg_pool2d(clean, 3, 1, 1, count_include_pad=False) - clean).clamp(0, 1)
        found = self._share([asked(self.findings.defense, one).argmax(1) for one in self._blends(by, turned)])
        return found is not None and found < share / 2

    def _blends(self, by: float, first: Images | None = None) -> list[Images]:
        images = self.findings.evaluation.images
        first = images[self.rows] if first is None else first
        return [first.lerp(images[self.others], 0.5 + side) for side in (-by, by)]

    def _share(self, answers: Sequence[Labels]) -> float | None:
        labels = self.findings.evaluation.labels
        return _switching(answers, labels[self.rows], labels[self.others])


def _switching(answers: Sequence[Labels], first: Labels, second: Labels) -> float | None:
    """Return the share of pairs answered with the first label before half-way, the second after; None for few."""
    before, after = answers
    told = ((before == first) | (before == second)) & ((after == first) | (after == second))
    if int(told.sum()) < max(USABLE, len(first) // 5):
        return None
    return int(((before == first) & (after == second) & told).sum()) / int(told.sum())


def _nearest_mean(findings: Findings, blends: Images, rows: Rows, others: Rows) -> Labels:
    """Return the label whose images are nearest to each blend on average, without the two that it is made of.

    It holds no image, and where classes are single patterns under noise it switches half-way all the same.
    """
    clean, labels = findings.evaluation.images[:_MEANT], findings.evaluation.labels[:_MEANT]
    kinds, flat = cast("Tensor", torch.unique(labels)), clean.flatten(1)
    member = (labels[None] == kinds[:, None]).to(flat.dtype)  # (K, N)
    whole, count = member @ flat, member.sum(1)
    answers: list[Labels] = []
    pairs = cast("list[list[int]]", torch.stack([rows, others], 1).tolist())
    for blend, pair in zip(blends.flatten(1), pairs, strict=True):
        made_of = [one for one in pair if one < len(labels)]
        left = count - member[:, made_of].sum(1)
        means = (whole - member[:, made_of] @ flat[made_of]) / left.clamp_min(1)[:, None]
        apart = (means - blend).square().sum(1)
        answers.append(kinds[torch.where(left > 0, apart, torch.inf).argmin()])
    return torch.stack(answers)


def _pairs_of_two_classes(labels: Labels) -> tuple[Rows, Rows]:
    """Return two rows of different labels for each pair: one for each image, and more of few images.

    No two pairs are the same, whichever comes first; images without a partner are in none.
    """
    kinds = cast("list[int]", labels.tolist())
    partners = [
        [*(k for k in range(at + 1, len(kinds)) if kinds[k] != one), *(k for k in range(at) if kinds[k] != one)]
        for at, one in enumerate(kinds)
    ]
    found: dict[frozenset[int], tuple[int, int]] = {}
    for turn in range(len(kinds)):
        for at, those in enumerate(partners):
            if those:
                other = those[(at + turn) % len(those)]
                found.setdefault(frozenset((at, other)), (at, other))
        if len(found) >= _FEW_PAIRS:
            break
    pairs = torch.tensor(list(found.values()), dtype=torch.long, device=labels.device).view(-1, 2)
    return pairs[:, 0], pairs[:, 1]


_HELD = 0.1
"""Share of the images that a model may hold by coincidence."""

_SMALLEST = 16
"""Numbers of a view of an image below which two of them are alike by coincidence."""

_ALIKE = ((64, 0.999), (_SMALLEST, 0.99999))
"""Cosine, means taken away, above which a row is an image, for views of at least so many numbers."""

_MOST_NUMBERS = 1 << 26
_MOST_WIDTH = 1 << 16
_MOST_VIEWS = 64
_MOST_UNPACKED = 1 << 22


def holds_no_judged_image(findings: Findings) -> AuditLine:
    """Whatever a model needs for an answer, it is not the images that it is asked about."""
    images, _ = findings.probe
    return above(
        "the model holds none of the images judged",
        held_by(findings.defense, images),
        _HELD,
        "share of the images that lie among the tensors, arrays and lists that calling the model can reach: as "
        "they are, smaller, in grey, or as the model's own layers and matrices see them",
        "take them away; a model that is judged on images that it holds is not judged",
    )


@torch.no_grad()
def held_by(model: object, images: Images) -> float:
    """Return the share of images (N, C, H, W) that the model holds, as they are or as it sees them.

    It is shown black images before it is searched, as it may keep what it computed last; what it makes of them
    that is no answer to them counts as held. Whoever looks for the nearest image makes a view of it on the way.
    """
    answer, black = regular(cast("nn.Module", model)), torch.zeros_like(images)
    _, unpacked = _steps(lambda: answer(black), _unpacked)
    held = [*_numbers(model), *unpacked]

    def wanted(made: Tensor) -> bool:
        return len(made) == len(images) and any(_fits(one, made) for one in held)

    seen, made = _steps(lambda: list(_seen_by_layers(model, images)), wanted)
    _, always = _steps(lambda: answer(black), wanted)  # a matrix with as many rows as there are images, say
    made = [one for one in made if not any(torch.equal(one, other) for other in always)]
    matrices = [one for one in held if one.dim() == 2 and images[0].numel() in one.shape][:_MOST_VIEWS]
    views = [*_views(images), *seen, *_seen_by_matrices(matrices, images)]
    found = torch.zeros(len(images), dtype=torch.bool)
    # What is the same for all images, such as places in them, is no view of one.
    for view, most in [*((one, len(images)) for one in views), *((one.flatten(1), 2) for one in made)]:
        for one in held:
            if _fits(one, view):
                found |= _among(view, one.reshape(-1, view.shape[1]), most)
    return float(found.float().mean())


def _fits(held: Tensor, view: Tensor) -> bool:
    width = view[0].numel()
    wide = _SMALLEST <= width <= _MOST_WIDTH and held.numel() % width == 0
    return wide and (held.dim() < 2 or held.shape[-1] <= width)


def _numbers(model: object) -> Iterator[Tensor]:
    """Yield every tensor and array of numbers that calling the model can reach, as floats on the processor."""
    room, loose = _MOST_NUMBERS, dict[int, list[list[float]]]()
    for thing in reached(model):
        found: Any = thing
        if isinstance(thing, np.ndarray) and found.dtype.kind in "fiu":
            found = torch.from_numpy(np.ascontiguousarray(found).astype(np.float32))
        if isinstance(found, Tensor):
            if found.layout == torch.strided and not (found.is_meta or found.is_complex() or found.is_quantized):
                room -= found.numel()
                if found.numel() >= _SMALLEST and room > 0:
                    yield found.detach().cpu().float()
        elif isinstance(thing, (list, tuple)):
            values: list[Any] = list(cast("Any", thing))
            if len(values) >= _SMALLEST and all(type(one) in (int, float) for one in values):
                loose.setdefault(len(values), []).append([float(one) for one in values])
    for rows in loose.values():
        yield torch.tensor(rows)


def _views(images: Images) -> Iterator[Tensor]:
    """Yield images as rows (N, D): as they are, in grey, and smaller."""
    images = images.detach().cpu().float()
    for one in (images, images.mean(1, keepdim=True)) if images.shape[1] > 1 else (images,):
        height, width = one.shape[2:]
        for side in dict.fromkeys((height, height // 2, height // 4, 16, 14, 12, 10, 8, 7, 6, 5, 4)):
            if not 4 <= side <= height:
                continue
            small = one if side == height else F.adaptive_avg_pool2d(one, (side, max(1, side * width // height)))
            yield small.flatten(1)
            if side < height:
                size = (side, max(1, side * width // height))
                yield F.interpolate(one, size, mode="bilinear").flatten(1)
                yield F.interpolate(one, size, mode="nearest").flatten(1)


def _seen_by_layers(model: object, images: Images) -> Iterator[Tensor]:
    """Yield what each of the model's modules returns for the images, as rows."""
    seen: list[Tensor] = []

    def look(_module: nn.Module, _inputs: object, output: object) -> None:
        if not isinstance(output, Tensor) or output.dim() < 2 or len(output) < len(images):
            return
        if _SMALLEST <= output[0].numel() <= _MOST_WIDTH and len(seen) < _MOST_VIEWS:
            seen.append(output[: len(images)].detach().cpu().float().flatten(1))

    handles = [one.register_forward_hook(look) for one in modules_of(model)]
    try:
        regular(cast("nn.Module", model))(images)
    finally:
        for handle in handles:
            handle.remove()
    yield from seen


class _Steps(TorchDispatchMode):
    """Keeps what operations make, as far as it is wanted."""

    def __init__(self, wanted: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.wanted, self.seen = wanted, list[Tensor]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.layout == torch.strided and made.dim() > 1 and self.wanted(made):
            self.seen.append(made.detach().cpu().float())
        return made


def _steps(run: Callable[[], _T], wanted: Callable[[Tensor], bool]) -> tuple[_T, list[Tensor]]:
    """Return what this returns, and of what its operations make the first `_MOST_VIEWS` that are wanted."""
    steps = _Steps(lambda made: len(steps.seen) < _MOST_VIEWS and wanted(made))
    try:
        with steps:
            return run(), steps.seen
    except Exception:  # what was compiled may not be looked into
        return run(), []


def _unpacked(made: Tensor) -> bool:
    """Whether an operation on equal images made rows that differ: it was made of what the model holds."""
    return len(made) > 1 and _SMALLEST <= made.numel() <= _MOST_UNPACKED and not torch.equal(made[0], made[-1])


def _seen_by_matrices(matrices: list[Tensor], images: Images) -> Iterator[Tensor]:
    """Yield the images through every matrix that takes an image: projections, first layers."""
    flat = images.detach().cpu().float().flatten(1)
    for one in matrices:
        for matrix in (one, one.T):
            if matrix.shape[0] == flat.shape[1] and _SMALLEST <= matrix.shape[1] < flat.shape[1]:
                yield flat @ matrix


def _among(view: Tensor, rows: Tensor, most: int) -> Tensor:
    """Return (N,) bool: the image's view, as of `most` images, is a row, up to brightness and contrast."""
    least = next(cosine for width, cosine in _ALIKE if view.shape[1] >= width)
    mine, found = _directions(view), torch.zeros(len(view), dtype=torch.bool)
    for part in torch.split(rows, 8192):
        close = mine @ _directions(part).T > least
        found |= (close & (close.sum(0) <= most)).any(1)
    return found


def _directions(rows: Tensor) -> Tensor:
    found = torch.nan_to_num(rows.double(), 0, 0, 0)
    found -= found.mean(1, keepdim=True)
    return found / found.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)


UNSEEN_CHECKS: dict[str, Check] = {
    "unseen": unseen_images_fare_alike,
    "jumps": answers_do_not_jump,
    "half-way": answers_do_not_switch_half_way,
    "held": holds_no_judged_image,
}
"""Checks of how the model answers images that nobody has, in the order of the report."""
