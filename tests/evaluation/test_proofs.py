"""A sound certificate and its gate stand under attack; an unsound one is caught by the audit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import memory_defense
from certificates.proving import Planes, images_of
from memory_defense import Options, Record
from memory_defense.defenses.gated import Gated
from memory_defense.evaluation.audit.proofs import at_the_edge

EPSILON = 0.4
BROKE, EDGES, GATE = (
    "no attack broke a certificate",
    "certificates hold up to their edge",
    "no attack got a wrong answer past the gate",
)


def evaluated(model: torch.nn.Module, images: Tensor) -> Record:
    labels = Planes()(images).argmax(1)
    return memory_defense.evaluate(
        model,
        images,
        labels,
        epsilon=[EPSILON / 2, EPSILON],
        norm="l2",
        attacks="pgd,apgd,brief",
        options=Options(seed=1),
    )


def verdicts(record: Record) -> dict[str, tuple[str, float | None]]:
    lines = {one.check: (one.verdict, one.value) for one in record.audit}
    return {name: lines[name] for name in (BROKE, EDGES, GATE)}


def test_a_sound_certificate_stands_and_the_attacks_reach_just_its_edge() -> None:
    images = images_of(40)
    record = evaluated(Planes(), images)
    assert verdicts(record) == {BROKE: ("pass", 0), EDGES: ("pass", 0), GATE: ("not run", None)}
    true = Planes().certificates(images).radii
    for one, worst in zip(record.certified, record.worst_case, strict=True):
        assert one.broken == 0
        assert one.accuracy == float((true >= one.epsilon).double().mean())
        assert worst.accuracy is not None
        assert one.accuracy <= worst.accuracy
        assert worst.accuracy - one.accuracy < 0.1, "the attacks are strong, so that the test could fail"


def test_an_attack_in_another_norm_is_measured_in_the_certificate_s() -> None:
    images = images_of(40)
    labels, radii = Planes().certificates(images)
    for model, verdict in ((Planes(), "pass"), (Planes(exaggeration=20.0), "fail")):
        record = memory_defense.evaluate(model, images, labels, epsilon=0.3, norm="linf", attacks="pgd")
        (worst,) = record.worst_case
        assert worst.accuracy is not None
        near = float((radii > 0.3).double().mean())
        assert worst.accuracy < near, "of some the L-inf distance is below the L2 radius, which is no break"
        lines = {one.check: one.verdict for one in record.audit}
        assert lines[BROKE] == verdict


def test_a_gate_stands_and_says_what_it_costs() -> None:
    images = images_of(60, seed=2)
    record = evaluated(Gated(Planes(), EPSILON), images)
    assert verdicts(record) == {BROKE: ("pass", 0), EDGES: ("pass", 0), GATE: ("pass", 0)}
    one = record.certified[-1]
    assert one.gate is not None
    assert one.gate.wrong_and_accepted_found == 0
    assert one.gate.attacked == round(one.gate.right_or_flagged.accuracy * 60)
    assert one.gate.right_or_flagged.accuracy > one.accuracy + 0.1
    undetected = record.worst_case[-1].undetected
    assert undetected is not None
    assert undetected.accuracy >= one.gate.right_or_flagged.accuracy


@pytest.mark.parametrize("exaggeration", [1.3, 3.0])
def test_an_unsound_certificate_is_caught(exaggeration: float) -> None:
    record = evaluated(Gated(Planes(exaggeration=exaggeration), EPSILON), images_of(60, seed=2))
    found = verdicts(record)
    assert found[BROKE][0] == "fail"
    assert found[EDGES][0] == "fail"
    assert any(one.broken for one in record.certified)
    if exaggeration > 2:  # a gate that opens at a third of what it should is passed
        assert found[GATE][0] == "fail"


def test_what_fights_the_flag_is_accepted_and_wrong_where_the_gate_is_too_wide() -> None:
    """With a gate for a tenth of epsilon, an attack finds what the true gate excludes."""
    images = images_of(60, seed=2)
    labels = Planes()(images).argmax(1)
    gate = Gated(Planes(), EPSILON / 10)
    record = memory_defense.evaluate(gate, images, labels, epsilon=EPSILON, norm="l2", attacks=["pgd", "apgd"])
    undetected, worst = record.worst_case[0].undetected, record.worst_case[0].accuracy
    assert undetected is not None
    assert worst is not None
    assert undetected.accuracy < 1
    assert verdicts(record)[GATE][0] in ("pass", "not run"), "its proof is about its own epsilon"


def test_a_gate_needs_something_to_go_by() -> None:
    with pytest.raises(ValueError, match="Linear proves nothing by itself"):
        Gated(torch.nn.Linear(2, 2), 0.1)
    with pytest.raises(ValueError, match="radius"):
        Gated(Planes(), -0.1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_edge_is_where_it_says_and_inside_the_box(norm: str) -> None:
    images, direction = images_of(20), torch.randn(20, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    direction[0] = 0
    radii = torch.linspace(0, 0.5, 20, dtype=torch.float64)
    moved = at_the_edge(images, direction, radii, norm)
    assert bool(((moved >= 0) & (moved <= 1)).all())
    offset = (moved.double() - images.double()).flatten(1)
    length = offset.abs().amax(1) if norm == "linf" else offset.norm(dim=1)
    assert bool((length <= radii + 1e-6).all())
    inside = 0.5 + 0.01 * images
    far = at_the_edge(inside, direction, radii.clamp(max=0.3), norm)
    offset = (far.double() - inside.double()).flatten(1)
    length = offset.abs().amax(1) if norm == "linf" else offset.norm(dim=1)
    torch.testing.assert_close(length[1:], radii.clamp(max=0.3)[1:], atol=1e-6, rtol=0)


def test_attacks_through_the_gate_s_flag_have_a_gradient() -> None:
    gate, images = Gated(Planes(), EPSILON), images_of(3)
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(gate.excess(leaf).sum(), leaf)
    assert float(gradient.abs().max()) > 0


def test_a_stopped_evaluation_does_not_go_on_with_another_gate(tmp_path) -> None:
    class Stop:
        def begin(self, what: str, total: int) -> None: ...
        def note(self, text: str) -> None: ...
        def advance(self, steps: int, text: str = "") -> None:
            if steps:
                raise KeyboardInterrupt

    images = images_of(20)
    labels = Planes()(images).argmax(1)

    def ask(epsilon: float, progress: object = None) -> Record:
        chosen = Options(progress=progress)  # pyright: ignore[reportArgumentType]
        gate = Gated(Planes(), epsilon)
        return memory_defense.evaluate(
            gate, images, labels, epsilon=0.2, norm="l2", attacks="pgd", out=tmp_path / "r.json", options=chosen
        )

    with pytest.raises(KeyboardInterrupt):
        ask(0.2, Stop())
    assert (tmp_path / "r.progress.log").is_file()
    with pytest.raises(ValueError, match="belongs to another evaluation"):
        ask(0.4)
    assert ask(0.2).images == 20


def test_a_tiny_radius_is_no_reason_to_accuse_a_sound_certificate() -> None:
    """Moving an image to its edge rounds to float32 too, which a radius of a millionth must not be charged with."""
    images = images_of(30)
    step = (Planes().weight[1] - Planes().weight[0]).detach()
    near = images.double()
    for _ in range(3):
        logits = (near - 0.5).flatten(1) @ Planes().weight.T.detach()
        near = near - ((logits[:, 1] - logits[:, 0] - 1e-5) / step.square().sum())[:, None, None, None] * step.view(
            1, 1, 5, 5
        )
    near = near.clamp(0, 1).float()
    labels = Planes()(near).argmax(1)
    record = memory_defense.evaluate(Planes(), near, labels, epsilon=0.1, norm="l2", attacks="pgd")
    assert verdicts(record)[EDGES] == ("pass", 0)
