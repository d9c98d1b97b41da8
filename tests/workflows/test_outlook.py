"""The time left of a work of several parts, by a clock that the test turns."""

from __future__ import annotations

import math
import re

import pytest
import torch

import memory_defense
from memory_defense.evaluation.audit.run import CHECKS
from memory_defense.progress import BETWEEN
from memory_defense.workflows.outlook import BEFORE, BEHIND, Outlook, Part

ALL_BEFORE, ALL_BEHIND = sum(BEFORE.values()), sum(BEHIND.values())


class Shown:
    def __init__(self) -> None:
        self.said, self.begun = [], []

    def begin(self, what: str, total: int) -> None:
        self.begun.append(what)

    def advance(self, steps: int, text: str = "") -> None: ...
    def note(self, text: str) -> None: ...

    def tell(self, text: str, left: float | None = None) -> None:
        assert left == math.inf  # the display says no time of its own
        self.said.append(text)


class Named(Shown):
    def tell(self, text: str, left: float | None = None) -> None: ...


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def work():
    clock = Clock()
    parts = [
        Part("attacking before", lambda survive: 100 + 0 * survive),
        Part("fine-tuning", lambda _: 600.0, steps=60, scores=2, score_cost=50.0),
        Part("attacking after", lambda survive: 1000 * survive, slower=2.0),
    ]
    shown = Shown()
    return clock, shown, Outlook(shown, parts, 0.1, (0.1, 0.5), clock)


def checked(outlook: Outlook, clock: Clock, seconds) -> None:
    """Go through the whole audit, each check in so many seconds."""
    for number, name in enumerate(CHECKS, 1):
        outlook.begin(f"auditing, check {number} of {len(CHECKS)}, {name}", 0)
        clock.now += seconds(name)
        outlook.begin(BETWEEN, 0)


def test_the_stages_are_named_as_the_evaluation_names_them() -> None:
    assert set(BEHIND) - {"after attacking"} <= set(CHECKS)
    shown, net = Named(), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))
    images = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    memory_defense.evaluate(net, images, net(images).argmax(1), epsilon=0.1, attacks="fgsm", progress=shown)
    assert set(BEFORE) - {"beginning"} <= set(shown.begun[: shown.begun.index("attacking")])
    assert shown.begun[shown.begun.index("attacking") + 1] == BETWEEN


def attacked_again(outlook: Outlook, clock: Clock, seconds) -> None:
    """Go through the first evaluation, whose checks take so long, and begin the second one's attacks."""
    outlook.part("attacking before")
    outlook.begin("attacking", 1)
    outlook.expect(0, 0.1)
    checked(outlook, clock, seconds)
    outlook.part("attacking after")
    outlook.begin("attacking", 1)
    outlook.expect(0, 0.2)  # of the slower one


def test_all_parts_count_from_the_beginning(work) -> None:
    _, shown, outlook = work
    outlook.part("attacking before")
    around = (ALL_BEFORE + ALL_BEHIND) * 0.1
    assert outlook.left() == pytest.approx(10 + around + 60 + 2 * 5 + 2 * (50 + around))
    outlook.begin("measuring", 0)
    assert shown.begun == ["1 of 3, attacking before: measuring"]
    assert re.fullmatch(r"about \d+ h \d\d min left in all", shown.said[-1])


def test_measured_speed_replaces_what_was_guessed(work) -> None:
    clock, shown, outlook = work
    outlook.part("attacking before")
    outlook.begin("asking the model about the clean images", 0)
    clock.now = 4.0
    outlook.begin("attacking", 1)
    outlook.expect(50, 0.2)
    behind, around = ALL_BEHIND * 0.2, (ALL_BEFORE + ALL_BEHIND) * 0.2
    later = 60 * 10 * 0.2 + 2 * 50 * 0.2 + 2 * (500 * 0.2 + around)
    assert outlook.left() == pytest.approx(50 * 0.2 + behind + later)
    clock.now = 14.0
    outlook.begin(BETWEEN, 0)
    clock.now = 114.0
    assert outlook.left() == pytest.approx(behind - 100.0 + later)
    checked(outlook, clock, lambda name: 0.2 * BEHIND.get(name, 0.0))
    outlook.part("fine-tuning")
    around = 4.0 + 100.0 + 0.2 * (ALL_BEHIND - BEHIND["after attacking"])  # what it took
    around += 0.2 * (ALL_BEFORE - BEFORE["asking the model about the clean images"])  # what was not seen
    after = 2 * (500 * 0.2 + around)
    outlook.begin("training", 60)
    outlook.advance(0)
    for step in range(30):
        clock.now += 3.0
        outlook.advance(1, "10 images/s")
        assert outlook.left() == pytest.approx((59 - step) * (3.0 if step >= 2 else 2.0) + 2 * 10.0 + after)
    clock.now += 7.0
    outlook.note("epoch 1/2: loss 1.2, held-out score 0.25")
    assert outlook.left() == pytest.approx(30 * 3.0 + 7.0 + after - 2 * 250 * 0.2)
    outlook.tell("scoring")
    assert shown.said[-1].startswith("scoring, about ")


def test_an_audit_is_counted_check_by_check_at_its_own_speed(work) -> None:
    """A long check does not make the short ones behind it look long, and one that did not run changes no speed."""
    clock, _, outlook = work
    outlook.part("attacking after")
    outlook.begin("attacking", 1)
    outlook.expect(0, 0.002)
    outlook.begin(BETWEEN, 0)
    clock.now += 2000 * 0.004  # twice as slow as passes in attacks
    factors = []
    truth = clock.now + 0.004 * sum(
        cost for name, cost in BEHIND.items() if name not in ("after attacking", "held")
    )
    for number, name in enumerate(CHECKS, 1):
        outlook.begin(f"auditing, check {number} of {len(CHECKS)}, {name}", 0)
        if name == "held":
            held = 0.004 * BEHIND[name]
            assert outlook.left() == pytest.approx(held, rel=0.01)
            continue  # it does not run, and no time passes
        for _ in range(4):
            clock.now += 0.004 * BEHIND.get(name, 0.0) / 4
            if number > list(CHECKS).index("noise") + 1 and truth - clock.now > 1:  # its speed is known
                factors.append(outlook.left() / (truth + 0.004 * BEHIND["held"] - clock.now))
        outlook.begin(BETWEEN, 0)
    assert min(factors) > 0.95
    assert max(factors) < 1.05


def test_the_second_audit_takes_what_the_first_took(work) -> None:
    clock, _, outlook = work
    attacked_again(outlook, clock, lambda name: 40.0 if name == "curve-end" else 1.0)
    once = 40.0 + len(CHECKS) - 1
    assert outlook.left() == pytest.approx(2 * (once + 0.1 * BEHIND["after attacking"]))


def test_a_training_that_goes_on_is_found_by_its_steps(work) -> None:
    clock, _, outlook = work
    outlook.part("attacking before")
    outlook.begin("training", 60)
    outlook.advance(40)
    for _ in range(4):
        clock.now += 1.0
        outlook.advance(1)
    after = 2 * 0.1 * (500 + ALL_BEFORE + ALL_BEHIND)
    assert outlook.left() == pytest.approx(16 * 1.0 + 1 * 5.0 + after)  # a score was before


def test_a_part_without_an_audit_counts_its_attacks_alone() -> None:
    clock = Clock()
    outlook = Outlook(Shown(), [Part("attacking the flag", lambda _: 100.0, audited=False)], 0.1, (0.1, 0.5), clock)
    outlook.part("attacking the flag")
    clock.now = 4.0
    assert outlook.left() == pytest.approx(6.0)


def test_a_check_that_had_nothing_to_do_is_not_expected_to_have_nothing_again(work) -> None:
    """Where everything breaks no image is left to draw noise around; of the hardened classifier there are some."""
    clock, _, outlook = work
    attacked_again(outlook, clock, lambda name: 0.0 if name == "many-draws" else 1.0)
    once = len(CHECKS) - 1 + 0.1 * (BEHIND["after attacking"] + BEHIND["many-draws"])
    assert outlook.left() == pytest.approx(2 * once)
