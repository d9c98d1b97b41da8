"""Checks of certificates: a proof that an attack breaks is none, and nothing else that is claimed can stand."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from memory_defense.contracts import Certifying, Images, PerImage, Rows
from memory_defense.evaluation.audit.findings import Check, Findings, line
from memory_defense.evaluation.metrics import judge_batches, predict
from memory_defense.evaluation.proofs import accepted_wrong, broken_proofs, length_of
from memory_defense.evaluation.record import AuditLine
from memory_defense.evaluation.robustness import Evaluation
from memory_defense.randomness import ImageDraws

_NOISE = 20
"""Random points at the edge of each proven ball that are asked."""
_JUST_INSIDE = 1 - 1e-4


def no_attack_broke_a_certificate(findings: Findings) -> AuditLine:
    """Inside its certified radius an image keeps its answer, whatever the attack."""
    defense, evaluation, proofs = findings.defense, findings.evaluation, findings.proofs
    assert isinstance(defense, Certifying)
    broken = torch.zeros(len(evaluation.images), dtype=torch.bool)
    for one in evaluation.broken:
        broken |= broken_proofs(evaluation, proofs, one, defense.certified_norm)
    return _violations(
        "no attack broke a certificate",
        broken,
        "images for which an attack inside their certified radius changed the answer",
    )


def certificates_hold_at_their_edge(findings: Findings) -> AuditLine:
    """Towards what the attacks found, and in random directions, an answer stays up to the certified radius."""
    defense, evaluation = findings.defense, findings.evaluation
    assert isinstance(defense, Certifying)
    images = evaluation.images
    answers, radii = findings.proofs
    broken = torch.zeros(len(images), dtype=torch.bool)
    asked = (answers >= 0) & (radii > 0)
    drawn = findings.draws("edges", len(images))
    rounding = 2.0**-24 * math.sqrt(math.prod(images.shape[1:]))  # of a moved image to float32
    reach = (radii * _JUST_INSIDE - rounding).clamp_min(0)
    for rows in judge_batches(images):
        clean, here = images[rows], rows.cpu()
        for direction in _directions(evaluation, drawn, rows, clean):
            moved = at_the_edge(clean, direction, reach[here], defense.certified_norm)
            broken[here] |= asked[here] & (predict(defense, moved).cpu() != answers[here])
    return _violations(
        "certificates hold up to their edge",
        broken,
        "images whose answer changes inside their certified radius, towards what the attacks found and in "
        f"{_NOISE} random directions",
    )


def _directions(evaluation: Evaluation, drawn: ImageDraws, rows: Rows, clean: Images) -> Iterator[Tensor]:
    """Yield directions (n, C, H, W) for these rows: to what broke them in each ball, and random ones."""
    for one in evaluation.broken:
        yield one.images[rows] - clean
    for number in range(_NOISE):
        yield drawn.child("direction", number).rows(rows).normal(*clean.shape[1:])


def no_attack_passed_the_gate(findings: Findings) -> AuditLine:
    """A gate that accepts a wrong answer within epsilon of a right and accepted image has no proof."""
    check = "no attack got a wrong answer past the gate"
    evaluation = findings.evaluation
    passed = accepted_wrong(findings.defense, evaluation)
    if passed is None:
        meaning = "the defense has no gate, or nothing was attacked within its epsilon"
        return line(check, None, None, meaning, "evaluate it with a gate: defenses.gated.Gated, or --gate EPSILON")
    said = "images, right and accepted when clean, for which an attack found a wrong answer that is accepted"
    return _violations(check, passed, said)


def at_the_edge(images: Images, direction: Tensor, radii: PerImage, norm: str) -> Images:
    """Return images moved this far in this direction, inside [0, 1], no further than `radii` (N,)."""
    flat = direction.flatten(1).double()
    if norm == "linf":
        flat = flat.sign()
    length = length_of(flat, norm)
    step = flat * (radii.to(flat.device) / length.clamp_min(1e-30))[:, None]
    moved = images.double() + step.where((length > 0)[:, None], 0.0).view(images.shape)
    return moved.clamp(0, 1).to(images.dtype)


def _violations(check: str, broken: Tensor, meaning: str) -> AuditLine:
    count = int(broken.sum())
    remedy = "the proof, or its implementation, is wrong: believe no certificate of this defense until it is fixed"
    return line(check, count > 0, float(count), meaning, remedy)


PROOF_CHECKS: dict[str, Check] = {
    "certificates": no_attack_broke_a_certificate,
    "certificates' edges": certificates_hold_at_their_edge,
    "gate": no_attack_passed_the_gate,
}
"""Checks of a defense that proves its answers, in the order of the report."""
