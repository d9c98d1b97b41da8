"""Adaptive knowledge: offered as published, attacked as the library does, refused where it does not fit."""

import re
import time

import pytest
import torch
from torch import nn

from memory_defense.attacks import ATTACKS
from memory_defense.attacks.suites import SuitePart
from memory_defense.contracts import Adaptation
from memory_defense.defenses.flagging import SilentBinder
from memory_defense.defenses.memory.surrogates import EndToEnd, Joint
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.robustness import evaluate
from memory_defense.randomness import ImageDraws
from memory_defense.studio.describe import describe_run
from memory_defense.studio.duel import compare
from memory_defense.studio.knowledge import knowledge_of
from memory_defense.studio.messages import AttackChoice, CompareRequest, ImageChoice
from memory_defense.studio.play import Posed, Subject, build_attack, play
from memory_defense.studio.tickets import Ticket, TooSlowError
from memory_defense.threat import Linf
from memory_defense.workflows.evaluate import cascade_cases

from .conftest import attack

RUN = "deeper/second"
CLASSES = tuple("abcdefghij")


@pytest.fixture
def flagged(library):
    """The run's defense, no class preferred, with a threshold that a twentieth of the images exceeds.

    Trained for so few steps, it may answer one class to everything, and no attack would have anything to do.
    """
    defense, images = library.subject(RUN).defense, library.test_images("fashion-mnist").floats()
    bias = next(m for m in reversed(list(defense.modules())) if isinstance(m, nn.Linear)).bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias -= defense(images).mean(0)
        scores = defense.scores(images)[defense.flag_score]
    defense.flag_threshold = float(scores.quantile(0.95))
    yield defense
    defense.flag_threshold = None
    with torch.no_grad():
        bias.copy_(before)


def right_image(library) -> int:
    """Return a test image that the defense classifies correctly, so that the attack has something to do."""
    defense, tests = library.subject(RUN).defense, library.test_images("fashion-mnist")
    return int((defense(tests.floats()).argmax(1) == tests.labels).nonzero()[0])


def played(library, index, knowledge, name, **changes):
    subject = library.subject(RUN)
    choice = AttackChoice(**attack(attack=name, options={"steps": 5}, knowledge=knowledge, **changes))
    return play(subject, library.pose(ImageChoice(test=index), None, library.runs.find(RUN)), choice, Ticket(60))


@pytest.mark.parametrize(
    ("knowledge", "name"),
    [("steering", "pgd-t"), ("steering", "apgd-t"), ("joint", "pgd"), ("joint", "apgd"), ("silent", "pgd")],
)
def test_the_image_is_the_library_s_own(library, flagged, knowledge, name) -> None:
    """The attack called by itself, on the surrogate built by itself, with draws of the same seed."""
    index = right_image(library)
    image = library.test_images("fashion-mnist").floats(torch.tensor([index]))
    label = library.test_images("fashion-mnist").labels[index : index + 1]
    surrogate = {
        "steering": Joint(flagged, weight=0.0),
        "joint": Joint(flagged),
        "silent": SilentBinder(EndToEnd(flagged), flagged.excess).bind(image),
    }[knowledge]
    draws = ImageDraws.of(7, f"{name} {knowledge}", torch.tensor([index]))
    expected = ATTACKS[name](steps=5)(surrogate, image, label, Linf(0.1), draws)
    result, found = played(library, index, knowledge, name, seed=7)
    assert result.label == int(label)
    assert not torch.equal(expected, image), "an attack that does nothing would agree with anything"
    assert torch.equal(found, expected)


class Narrow(nn.Module):
    """Class 0 unless pixel 9 is raised by almost 0.1: then it is class 9, which is the least likely one before."""

    def forward(self, images):
        pixels = images.flatten(1)
        wrong = [0.9 - 0.01 * k + 0.1 * (pixels[:, k] - 0.5) for k in range(1, 9)]
        far = -1 + 20.5 * (pixels[:, 9] - 0.5)
        return torch.stack([torch.ones(len(images)), *wrong, far], 1)


class Steerable(Undefended):
    """Publishes an adaptation towards each class, under a name that the studio has no words for."""

    surrogate = None

    def adaptive(self):
        return {"own-way": Adaptation(self.surrogate or self, towards_each_class=True)}


def posed() -> Posed:
    return Posed(torch.full((1, 1, 4, 4), 0.5), 0, 0, "you")


def test_a_steered_image_is_the_one_that_an_evaluation_finds() -> None:
    images = 0.5 + 0.02 * ImageDraws.of(0, "near grey", 6).normal(1, 4, 4).clamp(-1, 1)
    defense, labels = Steerable(Narrow()), torch.zeros(6, dtype=torch.int64)
    case = Case(name="pgd-t", attack=ATTACKS["pgd-t"](steps=20), knowledge="own-way", ball=Linf(0.15))
    whole = evaluate(defense, images, labels, [case], options=Options(seed=0))
    assert (whole.broken[0].breaker == 0).all(), "what was not broken would not be compared"
    choice = AttackChoice(**attack(attack="pgd-t", options={"steps": 20}, knowledge="own-way", epsilon=0.15))
    for index, image in enumerate(images.split(1)):
        result, found = play(Subject("narrow", defense, CLASSES), Posed(image, index, 0, "you"), choice, Ticket(60))
        assert result.fooled
        assert torch.equal(found[0], whole.broken[0].images[torch.tensor([index])][0])


@pytest.mark.parametrize(("targets", "fooled", "said"), [(9, True, "9 wrong"), (3, False, "3 likeliest wrong")])
def test_every_wrong_class_is_tried_down_to_the_least_likely(targets, fooled, said) -> None:
    options = {"steps": 20, "targets": targets}
    choice = AttackChoice(**attack(attack="pgd-t", options=options, knowledge="own-way"))
    result, image = play(Subject("narrow", Steerable(Narrow()), CLASSES), posed(), choice, Ticket(60))
    assert result.fooled is fooled
    assert (result.adversarial.answer == 9) is fooled
    assert (float(image.flatten()[9]) > 0.597) is fooled
    assert said in " ".join(result.notes)


def test_the_ticket_stops_an_attack_on_the_way_through_the_classes() -> None:
    calls: list[int] = []

    def slow(images):
        calls.append(len(images))
        time.sleep(0.05)
        return Narrow()(images)

    defense = Steerable(Narrow())
    defense.surrogate = slow
    choice = AttackChoice(**attack(attack="pgd-t", options={"steps": 40}, knowledge="own-way", epsilon=0.01))
    ticket = Ticket(0.6)
    ticket.begin()
    with pytest.raises(TooSlowError, match=r"after 0\.6 s"):
        play(Subject("slow", defense, CLASSES), posed(), choice, ticket)
    assert 1 < len(calls) <= 20, "9 classes of 40 steps would be 360"


def test_everything_published_is_offered_and_adaptive_ones_say_so(library, flagged) -> None:
    offered = describe_run(library, RUN).knowledge
    assert [one.name for one in offered] == [*flagged.surrogates(), *flagged.adaptive()]
    adaptive = [one for one in offered if one.adaptive]
    assert {one.name for one in adaptive} == {"steering", "joint", "silent", "crossing"}
    for one in adaptive:
        assert one.meaning.startswith("The attacker ")
        assert one.meaning.count(".") == 1
    flagged.flag_threshold = None
    assert "silent" not in {one.name for one in describe_run(library, RUN).knowledge}


def test_an_adaptation_without_words_is_described_by_its_contract() -> None:
    (known,) = [one for one in knowledge_of(Steerable(Narrow())).values() if one.adaptation]
    assert known.label == "own-way"
    assert "towards one wrong class after the other" in known.meaning


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_a_pair_is_refused_exactly_where_it_adds_nothing(library, flagged, name) -> None:
    """What an evaluation runs is never refused; it alone runs with target classes what leads towards each."""
    made = build_attack(name, {})
    cases = cascade_cases(flagged, lambda _: (SuitePart(name, made),), [Linf(0.1)])
    evaluated = {case.knowledge for case in cases}
    fits = {known.name for known in knowledge_of(flagged).values() if name in known.methods}
    assert evaluated <= fits
    targeted, blind = hasattr(made, "targets"), bool(getattr(made, "gradient_free", False))
    assert ("steering" in fits) == targeted == ("steering" in evaluated)
    assert ("joint" in fits) == (not blind)
    assert fits >= {"silent", *flagged.surrogates()}


@pytest.mark.parametrize(
    ("knowledge", "name", "why"),
    [
        ("steering", "pgd", "pgd leads away.*choose pgd-t, fab-t, apgd-t or autoattack"),
        ("steering", "square", "square leads away"),
        ("joint", "square", "square uses no gradient.*choose a method that uses gradients"),
    ],
)
def test_a_pair_that_does_not_fit_is_refused_with_a_way_out(client, knowledge, name, why) -> None:
    message = {"image": {"test": 0}, "attack": attack(attack=name, options={}, knowledge=knowledge)}
    for path, runs in (("play", {"run": RUN}), ("compare", {"runs": [RUN, "first"]})):
        answer = client.post(f"/api/{path}", json={**message, **runs})
        assert answer.status_code == 422
        assert re.search(why, answer.json()["error"])


def test_two_defenses_are_compared_under_adaptive_knowledge(library, client) -> None:
    index = right_image(library)
    message = {
        "image": {"test": index},
        "attack": attack(attack="pgd-t", options={"steps": 5}, knowledge="steering"),
    }
    compared = client.post("/api/compare", json={"runs": [RUN, "first"], **message}).json()
    assert [play["knowledge"] for play in compared["plays"]] == ["steering", "steering"]
    for run, play_of in zip((RUN, "first"), compared["plays"], strict=True):
        alone = client.post("/api/play", json={"run": run, **message}).json()
        assert {key for key in alone if alone[key] != play_of[key]} <= {"seconds"}


def test_only_one_of_two_publishes_it(library, flagged) -> None:
    choice = AttackChoice(**attack(options={"steps": 2}, knowledge="silent"))
    wanted = CompareRequest(runs=[RUN, "first"], image=ImageChoice(test=right_image(library)), attack=choice)
    compared = compare(library, wanted, Ticket(60))
    assert [one.knowledge for one in compared.plays] == ["silent", "end-to-end"]
    assert "There is no silent for this model; the attacker knows " in " ".join(compared.plays[1].notes)


class Quiet(Undefended):
    """Flags by a pixel, and publishes its plain self as what fights the flag."""

    flag_score = "pixel"
    flag_threshold: float | None = None

    def scores(self, images):
        return {"pixel": images.flatten(1)[:, 9]}

    def suspicious(self, images):
        return self.scores(images)["pixel"] > self.flag_threshold

    def adaptive(self):
        return {"quiet": Adaptation(self, fights_flag=True)}


@pytest.mark.parametrize(
    ("threshold", "epsilon", "said"),
    [(0.9, 0.15, "found a wrong answer"), (0.1, 0.15, "wrong, but the image is flagged"), (0.9, 0.0, "found none")],
)
def test_an_attacker_who_fights_the_flag_hears_whether_it_was_silent(threshold, epsilon, said) -> None:
    defense = Quiet(Narrow())
    defense.flag_threshold = threshold
    options = {"steps": 20, "targets": 9}
    choice = AttackChoice(**attack(attack="pgd-t", options=options, knowledge="quiet", epsilon=epsilon))
    result, image = play(Subject("quiet", defense, CLASSES), posed(), choice, Ticket(60))
    assert result.fooled is (epsilon > 0) is (result.adversarial.answer == 9)
    assert result.adversarial.flagged is (float(image.flatten()[9]) > threshold)
    assert result.adversarial.flag_score == "pixel"
    assert " ".join(result.notes).count(said) == 1


def test_the_flag_s_words_name_its_score(library, flagged) -> None:
    assert (
        f"when its reconstruction score is above {flagged.flag_threshold:.4g}." in describe_run(library, RUN).flag
    )
    flagged.flag_threshold = None
    said = describe_run(library, RUN).flag
    assert "their reconstruction score" in said
    assert f"memdef evaluate {library.runs.find(RUN).directory.path} --detection" in said
