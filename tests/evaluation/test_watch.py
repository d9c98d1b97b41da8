"""An evaluation says what it does: with one radius, within one attack, by a clock that the model turns."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import memory_defense
from memory_defense import Options
from memory_defense.attacks import Pgd, attack
from memory_defense.evaluation import robustness, watch
from memory_defense.evaluation.audit import run
from memory_defense.evaluation.watch import most_passes
from memory_defense.progress import Lines, beat, stage
from memory_defense.workflows import suspicion

SECONDS = 0.05
"""What an image takes, on the clock of these tests."""


class Timed(nn.Module):
    """A linear classifier that turns the clock."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.linear, self.now = nn.Linear(36, 5), 0.0

    def forward(self, images: Tensor) -> Tensor:
        self.now += SECONDS * len(images)
        return self.linear(images.flatten(1))


def problem() -> tuple[Timed, Tensor, Tensor]:
    model, images = Timed(), torch.rand(24, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model, images, model(images).argmax(1)


@dataclass
class Heard:
    """Lines by the model's clock; the clock is put where the evaluation reads its own."""

    model: Timed
    lines: list[tuple[float, str]] = field(default_factory=list)

    def display(self) -> Lines:
        return Lines(lambda text: self.lines.append((self.model.now, text)), clock=lambda: self.model.now)


def evaluated(
    monkeypatch, attacks: str, epsilon: Any = 0.02, **options: Any
) -> tuple[Any, list[tuple[float, str]]]:
    model, images, labels = problem()
    heard = Heard(model)
    monkeypatch.setattr(robustness, "Watch", partial(watch.Watch, clock=lambda: model.now))
    for place in (robustness, run, suspicion):
        monkeypatch.setattr(place, "stage", partial(stage, clock=lambda: model.now))
    record = memory_defense.evaluate(
        model,
        images,
        labels,
        epsilon=epsilon,
        attacks=attacks,
        options=Options(progress=heard.display(), **options),
    )
    return record, heard.lines


def test_with_one_radius_a_line_every_fifteen_seconds(monkeypatch) -> None:
    _, lines = evaluated(monkeypatch, "pgd,apgd,apgd-t,gama")
    times = [0.0, *(when for when, _ in lines)]
    gaps = [later - sooner for sooner, later in pairwise(times)]
    largest_pass = SECONDS * 256
    assert len(lines) > 10
    assert max(gaps) <= 15 + largest_pass, "a line as soon as the pass is over in which it became due"
    attacking = [text for _, text in lines if "attacking" in text]
    for name in ("pgd", "apgd", "apgd-t", "gama"):
        assert any(f" {name}, end-to-end, linf 0.02, 0/" in text for text in attacking), name
    for text in attacking:
        assert re.search(r"[\d,]+ of at most [\d,]+ image passes, .* so far", text), text
        assert "about 0 s left" not in text
    assert all(character.isprintable() for _, text in lines for character in text)


def test_the_time_left_is_an_upper_bound_once_there_is_one(monkeypatch) -> None:
    _, lines = evaluated(monkeypatch, "pgd,apgd-t,gama", epsilon=0.002)  # hardly anything breaks, so it is used up
    over = max(when for when, text in lines if "attacking" in text)
    claims = [(when, text) for when, text in lines if "attacking" in text and "left" in text]
    assert len(claims) > 5
    for when, text in claims:
        minutes = re.search(r"at most about (?:(\d+) min)? ?(?:(\d+) s)? ?left", text)
        assert minutes is not None, text
        left = 60 * int(minutes[1] or 0) + int(minutes[2] or 0)
        assert when + left + 30 >= over, text


def test_every_other_stage_is_named_too() -> None:
    model, images, labels = problem()
    said: list[str] = []
    options = Options(progress=Lines(said.append, every=0.0))
    memory_defense.evaluate(model, images, labels, epsilon=0.02, attacks="fast", options=options)
    for name in ("depends on its batch", "about the clean images", "attacking", "auditing, check", "binarisation"):
        assert any(name in text for text in said), name


def test_what_a_cascade_passes_over_is_said_and_recorded() -> None:
    model, images, labels = problem()
    said: list[str] = []
    options = Options(progress=Lines(said.append, every=1e9))
    record = memory_defense.evaluate(model, images, labels, epsilon=0.9, attacks="fast", options=options)
    notes = {one.attack: one.note for one in record.cascades[0].stages if one.note}
    assert notes["apgd-t"] == "no image was left standing"
    assert {"pgd-margin", "square-100"} & set(notes), "of the scouts one broke nothing new"
    for name, note in notes.items():
        assert any(f"{name}, end-to-end, linf 0.9: {note}" in text for text in said)


@pytest.mark.parametrize("attacks", ["fast", "pgd,hop-skip-jump", "rand"])
def test_a_display_changes_no_number(attacks) -> None:
    def found(progress: Any) -> str:
        model, images, labels = problem()
        options = Options(progress=progress, seed=4)
        record = memory_defense.evaluate(model, images, labels, epsilon=0.02, attacks=attacks, options=options)
        return re.sub(r'"seconds":[\d.e-]+', "", record.model_dump_json())

    assert found(Lines(lambda _: None, every=1e-9)) == found(None)


@pytest.mark.parametrize(
    ("made", "passes"),
    [
        (attack("pgd", steps=40), 41),
        (attack("pgd", steps=10, restarts=3), 33),
        (attack("apgd-t", steps=20, targets=9), 189),
        (attack("apgd-t", steps=40, targets=3, among=9), 132),
        (attack("square", queries=500), 500),
        (attack("cw", steps=10, search_steps=5), 51),
    ],
)
def test_what_an_attack_may_take_follows_from_its_settings(made, passes) -> None:
    assert most_passes(made, "linf") == passes


def test_an_attack_made_of_parts_takes_what_its_parts_take() -> None:
    whole = attack("autoattack")
    assert most_passes(whole, "linf") == sum(most_passes(one, "linf") or 0 for one in whole.parts("linf").values())
    assert most_passes(whole, "linf") > 5000


class Foreign:
    """An attack that does not say what it takes."""

    def __call__(self, *problem: Any) -> Tensor:
        return Pgd(steps=3)(*problem)

    def for_transfer(self) -> Foreign:
        return self


def test_nobody_knows_what_a_foreign_attack_takes() -> None:
    assert most_passes(Foreign(), "linf") is None


@pytest.mark.parametrize("name", ["pgd", "apgd", "apgd-t", "gama", "square", "fab-t", "pgd-t"])
def test_no_attack_of_the_house_takes_much_more_than_it_says(name) -> None:
    model, images, labels = problem()
    record = memory_defense.evaluate(model, images, labels, epsilon=0.002, attacks=name)
    found = record.cascades[0].stages[0]
    most = most_passes(attack(name), "linf")
    assert most is not None
    assert found.forward_passes <= 1.3 * most * found.tried


@pytest.mark.parametrize("call", [30, 60, 90])
def test_an_interruption_inside_the_model_leaves_the_state_and_the_users_torch_as_they_were(tmp_path, call) -> None:
    model, images, labels = problem()
    own = nn.Sequential(Pressed(model), nn.Dropout(0.5)).train()
    own[0].call = call
    out = tmp_path / "record.json"
    torch.manual_seed(11)
    before = torch.get_rng_state()
    options = Options(seed=2, chunk=8, batch_size=8)
    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        memory_defense.evaluate(own, images, labels, epsilon=0.02, attacks="pgd,gama", out=out, options=options)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()
    assert own.training
    assert own[1].training
    assert all(parameter.requires_grad for parameter in own.parameters())
    beat(8)  # nobody listens any more
    if call > 30:  # by then the attacks had begun
        assert out.with_suffix(".progress.log").is_file()
    own[0].call = 0
    again = memory_defense.evaluate(own, images, labels, epsilon=0.02, attacks="pgd,gama", out=out, options=options)
    whole = memory_defense.evaluate(own, images, labels, epsilon=0.02, attacks="pgd,gama", options=options)
    assert again.cascades[0].stages[0].fooled == whole.cascades[0].stages[0].fooled
    assert again.worst_case == whole.worst_case
    assert not out.with_suffix(".progress.log").exists()


class Pressed(nn.Module):
    """A classifier during whose pass somebody presses Ctrl-C."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.call, self.calls = model, 0, 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.call:
            raise KeyboardInterrupt
        return self.model(images)
