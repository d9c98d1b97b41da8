"""Every number of a play, computed again by other means."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from memory_defense.attacks import ATTACKS
from memory_defense.defenses.proving_memory import build_proving_memory
from memory_defense.defenses.undefended import Undefended
from memory_defense.randomness import seeded
from memory_defense.studio.describe import describe_run
from memory_defense.studio.library import Library
from memory_defense.studio.messages import AttackChoice, ImageChoice, Proof
from memory_defense.studio.play import OPTION_LIMITS, Posed, Subject, build_attack, look, options_of, play
from memory_defense.studio.tickets import Ticket, TooSlowError
from memory_defense.threat import L2, Linf

from .conftest import attack
from .pages import opened


@pytest.fixture
def first(library) -> Subject:
    return library.subject("first")


def posed(library: Library, index: int, label: int | None = None) -> Posed:
    return library.pose(ImageChoice(test=index), label, library.runs.find("first"))


def test_a_look_agrees_with_the_defense_itself(library, first) -> None:
    image = posed(library, 4).image
    seen, defense = look(first.defense, image), first.defense
    with torch.no_grad():
        trace, logits = defense.trace(image), defense(image)[0]
        rebuilt = torch.stack([defense.reconstruct(image, torch.tensor([k]))[0] for k in range(10)])
    assert seen.answer == int(logits.argmax())
    assert seen.probabilities == pytest.approx(logits.softmax(0).tolist(), abs=1e-5)
    assert seen.selector == pytest.approx(trace.selector_logits[0].softmax(0).tolist(), abs=1e-5)
    assert seen.slot == int(trace.slots[0]) == int(np.argmax(seen.selector))
    assert seen.attention == pytest.approx(trace.attention[0].tolist(), abs=1e-6)
    errors = [float(((one - image[0]) ** 2).mean()) for one in rebuilt]
    assert [slot.error for slot in seen.slots] == pytest.approx(errors, rel=1e-4)
    assert (opened(seen.picture) == (image[0, 0] * 255).round().byte().numpy()).all()


def test_attention_lies_in_the_chosen_slot_alone(library, first) -> None:
    seen = look(first.defense, posed(library, 7).image)
    weights = np.array(seen.attention).reshape(10, -1).sum(1)
    assert weights[seen.slot] == pytest.approx(1, abs=1e-5)
    assert np.delete(weights, seen.slot).max() == 0


@pytest.mark.parametrize("knowledge", ["fixed-slots", "selector", "end-to-end", "target-classifier"])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.2), ("l2", 2.0)])
def test_verdict_and_distance_are_the_true_defense_s(library, first, knowledge, norm, epsilon) -> None:
    choice = AttackChoice(**attack(knowledge=knowledge, norm=norm, epsilon=epsilon))
    where = posed(library, 3)
    played, image = play(first, where, choice, Ticket(60))
    with torch.no_grad():
        clean, answer = int(first.defense(where.image).argmax()), int(first.defense(image).argmax())
    assert played.label == 3 == int(library.test_images("fashion-mnist").labels[3])
    assert (played.clean.answer, played.adversarial.answer) == (clean, answer)
    assert played.fooled == (answer != 3)
    offset = image - where.image
    assert played.linf == pytest.approx(float(offset.abs().max()))
    assert played.l2 == pytest.approx(float(offset.norm()))
    assert {"linf": played.linf, "l2": played.l2}[norm] <= epsilon + 1e-5
    assert float(image.min()) >= 0
    assert float(image.max()) <= 1
    changed = opened(played.signs).astype(int)
    assert ((changed[..., 0] > changed[..., 2]) == (offset[0, 0] > 0).numpy()).all(), "brighter pixels are red"
    assert ((changed[..., 2] > changed[..., 0]) == (offset[0, 0] < 0).numpy()).all(), "darker pixels are blue"


def test_epsilon_zero_changes_nothing(library, first) -> None:
    played, image = play(first, posed(library, 1), AttackChoice(**attack(epsilon=0)), Ticket(60))
    assert torch.equal(image, posed(library, 1).image)
    assert played.clean == played.adversarial
    assert np.unique(opened(played.magnified)).size == 1


def test_the_same_question_has_the_same_answer(library, first) -> None:
    once = [play(first, posed(library, 5), AttackChoice(**attack()), Ticket(60))[1] for _ in range(2)]
    assert torch.equal(*once)


def test_without_a_class_the_attack_leaves_the_defense_s_answer(library, first) -> None:
    pixels = Posed(posed(library, 2).image, 11, None, "you")
    played, _ = play(first, pixels, AttackChoice(**attack()), Ticket(60))
    assert played.label == played.clean.answer
    assert played.label_source == "defense"


def test_a_defense_without_slots_is_shown_without_them(library) -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    subject = Subject("plain", Undefended(plain), tuple("abcdefghij"))
    played, _ = play(subject, posed(library, 0), AttackChoice(**attack()), Ticket(60))
    assert (played.clean.slots, played.clean.attention, played.clean.slot, played.clean.selector) == (None,) * 4
    assert played.clean.flagged is None


class Flags(Undefended):
    flag_score = "brightness"
    flag_threshold: float | None = 0.5

    def scores(self, images):
        return {"brightness": images.flatten(1).mean(1)}

    def suspicious(self, images):
        return self.scores(images)["brightness"] > self.flag_threshold


def test_the_flag_is_the_defense_s_own() -> None:
    defense = Flags(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)))
    assert look(defense, torch.full((1, 1, 28, 28), 0.6)).flagged is True
    assert look(defense, torch.full((1, 1, 28, 28), 0.4)).flagged is False
    defense.flag_threshold = None
    assert look(defense, torch.full((1, 1, 28, 28), 0.6)).flagged is None


def test_a_proof_is_the_defense_s_own_and_its_items_are_shown(library) -> None:
    with seeded(0, "proving"):
        shape = {"channels": 1, "size": 28, "classes": 10, "mean": (0.3,), "std": (0.3,)}
        defense = build_proving_memory(preset="tiny", **shape).eval()
    image = posed(library, 6).image
    (label,), (radius,) = defense.certificates(image)
    assert radius > 0
    for within, accepted in ((L2(1.9 * float(radius)), True), (L2(2.1 * float(radius)), False), (Linf(0.1), None)):
        seen = look(defense, image, within=within)
        assert seen.proof == Proof(norm="l2", radius=float(radius), accepted=accepted)
        assert seen.answer == int(label)
    assert look(defense, image).proof == Proof(norm="l2", radius=float(radius), accepted=None)
    assert (seen.slot, seen.attention, seen.selector) == (None, None, None)
    assert seen.slots is not None
    shown = defense.reconstruct_all(image)[0]
    assert [one.error for one in seen.slots] == pytest.approx(
        [float((one - image[0]).square().mean()) for one in shown]
    )
    subject = Subject("proving", defense, tuple("abcdefghij"))
    choice = AttackChoice(**attack(norm="l2", epsilon=min(10, 1.9 * float(radius))))
    played, adversarial = play(subject, posed(library, 6, int(label)), choice, Ticket(60))
    assert played.clean.proof is not None
    assert played.clean.proof.accepted
    found = defense.certificates(adversarial)
    assert played.adversarial.proof is not None
    assert played.adversarial.proof.accepted == bool(found.radii[0] >= choice.epsilon / 2)
    assert "The gate for this epsilon accepts" in played.sentence


def test_what_a_proving_defense_does_is_told() -> None:
    with seeded(0, "proving"):
        shape = {"channels": 1, "size": 28, "classes": 10, "mean": (0.3,), "std": (0.3,)}
        subject = Subject("proving", build_proving_memory(preset="tiny", **shape).eval(), tuple("abcdefghij"))
    told = SimpleNamespace(subject=lambda _: subject, find=str, tests_of=lambda _: [])
    described = describe_run(told, "proving")  # pyright: ignore[reportArgumentType]
    assert described.flag.startswith("It proves its answers (nearest items)")
    assert not described.slots


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_every_attack_can_be_built_within_the_limits(name) -> None:
    options = options_of(name)
    assert all(1 <= value <= OPTION_LIMITS[option] for option, value in options.items())
    made = build_attack(name, dict.fromkeys(options, 1))
    assert all(getattr(made, option) == 1 for option in options)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"attack": "pdg"}, "did you mean 'pgd'"),
        ({"options": {"steps": 100_000}}, "takes 1 to 200"),
        ({"options": {"steps": 0}}, "takes 1 to 200"),
        ({"options": {"micro_batch": 4}}, "unknown option"),
        ({"knowledge": "everything"}, "unknown knowledge"),
        ({"epsilon": 0.9}, "goes up to 0.5"),
        ({"attack": "ddn", "options": {}}, "minimises the L2 distance"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_reason(library, first, changes, why) -> None:
    with pytest.raises(ValueError, match=why):
        play(first, posed(library, 0), AttackChoice(**attack(**changes)), Ticket(60))


def test_a_class_that_is_none_is_refused(library, first) -> None:
    with pytest.raises(ValueError, match="there are 10 classes"):
        play(first, posed(library, 0, label=10), AttackChoice(**attack()), Ticket(60))


def test_a_heavy_attack_is_stopped_by_its_ticket(library, first) -> None:
    ticket = Ticket(0.2)
    ticket.begin()
    choice = AttackChoice(**attack(attack="square", options={"queries": 5000}, epsilon=0.001))
    with pytest.raises(TooSlowError, match=r"after 0\.2 s"):
        play(first, Posed(posed(library, 2).image, 0, None, "you"), choice, ticket)
