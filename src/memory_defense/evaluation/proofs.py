"""What a defense proves about the images that it was attacked on, and what the attacks make of it."""

from __future__ import annotations

import torch
from torch import Tensor

from memory_defense.contracts import Certificates, Certifying, Flagging, PerImage
from memory_defense.evaluation.metrics import JUDGE_BATCH, accuracy
from memory_defense.evaluation.pixels import parts
from memory_defense.evaluation.record import CertifiedGate, CertifiedResult
from memory_defense.evaluation.robustness import Evaluation
from memory_defense.evaluation.state import Broken
from memory_defense.wrappers import exact_float32, frozen


@torch.no_grad()
def proven(defense: Certifying, evaluation: Evaluation) -> Certificates:
    """Return the certificates of an evaluation's clean images, on the CPU."""
    with exact_float32(), frozen(defense):
        found = [defense.certificates(part) for part in parts(evaluation.images, JUDGE_BATCH)]
    labels = torch.cat([one.labels for one in found]).cpu()
    return Certificates(labels, torch.cat([one.radii for one in found]).double().cpu())


def broken_proofs(evaluation: Evaluation, proofs: Certificates, broken: Broken, norm: str) -> PerImage:
    """Return (N,) bool: an attack in this ball changed an answer within the radius that was certified for it.

    The distance is measured in the certificate's `norm`, whatever the ball's: a proof in L2 says something of an
    image that an L-inf attack found, if that is near enough in L2.
    """
    distance = torch.zeros(len(evaluation.images), dtype=torch.float64)
    for rows in torch.split((broken.breaker >= 0).nonzero().squeeze(1), JUDGE_BATCH):
        moved = (broken.images[rows].double() - evaluation.images[rows].double()).flatten(1)
        distance[rows.cpu()] = length_of(moved, norm).cpu()
    found = (broken.breaker >= 0).cpu() & (proofs.labels == evaluation.labels.cpu())
    return found & (distance <= proofs.radii)


def length_of(moves: Tensor, norm: str) -> PerImage:
    """Return the length of each row of (N, D), in ``linf`` or ``l2``."""
    return moves.abs().amax(1) if norm == "linf" else moves.square().sum(1).sqrt()


def accepted_wrong(defense: object, evaluation: Evaluation) -> PerImage | None:
    """Return (N,) bool: right and accepted when clean, and some attack within the gate's epsilon got past it.

    None for a defense without a gate, or where no attack was tried within its epsilon.
    """
    epsilon: float | None = getattr(defense, "gate_epsilon", None)
    if epsilon is None or not isinstance(defense, Certifying) or not isinstance(defense, Flagging):
        return None
    state = evaluation.state
    tried, passed = torch.zeros_like(state.correct), torch.zeros_like(state.correct)
    for case, one in zip(evaluation.cases, state.cases, strict=True):
        if case.ball.norm == defense.certified_norm:
            inside = (one.distance <= epsilon) | (case.ball.epsilon <= epsilon)
            tried |= one.done & inside
            passed |= one.silent & inside
    if not bool(tried.any()):
        return None
    return (passed & state.correct & _accepted(defense, evaluation, epsilon)).cpu()


@torch.no_grad()
def _accepted(defense: Certifying, evaluation: Evaluation, epsilon: float) -> Tensor:
    with exact_float32(), frozen(defense):
        asked = parts(evaluation.images, JUDGE_BATCH)
        return torch.cat([defense.slack(part, epsilon / 2) >= 0 for part in asked])


def certified_result(
    right: PerImage, proofs: Certificates, epsilon: float, *, norm: str, method: str, seconds: float
) -> CertifiedResult:
    """Return what is certified within `epsilon`, and what the gate for it is worth; nothing was attacked.

    Parameters
    ----------
    right
        (N,) bool: the certified answer is the true class.
    proofs
        The certificates, -1 and 0 where nothing is proven.
    epsilon
        Radius in pixel units; at 0 there is nothing for a gate to do.
    norm, method, seconds
        As the record has them.
    """
    accepted = (proofs.labels >= 0) & (proofs.radii >= epsilon / 2)
    gate = CertifiedGate(
        epsilon=epsilon,
        right_or_flagged=accuracy(right & accepted),
        clean_accepted=accuracy(accepted),
        clean_wrong_accepted=accuracy(accepted & ~right),
    )
    return CertifiedResult(
        **accuracy(right & (proofs.radii >= epsilon)).model_dump(),
        method=method,
        norm=norm,
        epsilon=epsilon,
        images=len(right),
        seconds=seconds,
        gate=gate if epsilon > 0 else None,
    )


def certified_results(
    defense: Certifying, evaluation: Evaluation, proofs: Certificates, seconds: float
) -> tuple[CertifiedResult, ...]:
    """Return an entry for each ball of the certificate's norm that was attacked, with what the attacks made of it.

    `proofs` are those of `proven`, which took so many seconds.
    """
    right = proofs.labels == evaluation.labels.cpu()
    passed, gated = accepted_wrong(defense, evaluation), getattr(defense, "gate_epsilon", None)
    results: list[CertifiedResult] = []
    for one in evaluation.broken:
        if one.ball.norm != defense.certified_norm:
            continue
        epsilon, method = one.ball.epsilon, defense.certified_method
        found = certified_result(right, proofs, epsilon, norm=one.ball.norm, method=method, seconds=seconds)
        gate = found.gate
        if gate is not None and passed is not None and gated is not None and epsilon <= gated:
            tried = round(gate.right_or_flagged.accuracy * len(right))
            gate = gate.model_copy(update={"wrong_and_accepted_found": int(passed.sum()), "attacked": tried})
        broken = int(broken_proofs(evaluation, proofs, one, defense.certified_norm).sum())
        results.append(found.model_copy(update={"gate": gate, "broken": broken}))
    return tuple(results)
