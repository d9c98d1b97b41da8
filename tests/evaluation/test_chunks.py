"""Chunks that are done within a minute, and what an evaluation is expected to take."""

from __future__ import annotations

import pytest
import torch

from memory_defense.attacks import Pgd, Square
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.pixels import Pixels
from memory_defense.evaluation.watch import EARLY, KEPT_SECONDS, Chunks, expected_cost, following, opening
from memory_defense.threat import Linf

IMAGES = Pixels.of(torch.zeros(1000, 1, 2, 2))


def case(attack, role="main", purpose="cascade") -> Case:
    return Case(name="x", attack=attack, knowledge="end-to-end", ball=Linf(0.1), purpose=purpose, role=role)


def test_a_chunk_takes_as_many_images_as_fit_into_its_time() -> None:
    chunks = Chunks(512, 8)
    assert chunks.size(case(Pgd(steps=9)), IMAGES) == 512  # nothing was timed yet
    chunks.took(100, 0, 10.0)  # a tenth of a second a pass
    passes = 10 * 3  # nine steps and a last look, there and back
    assert chunks.size(case(Pgd(steps=9)), IMAGES) == int(KEPT_SECONDS / (passes * 0.1)) // 8 * 8
    assert chunks.size(case(Square(queries=5000)), IMAGES) == 8  # never less than a pass is filled up to
    chunks.took(10_000, 10_000, 0.0)  # and now far faster
    assert chunks.size(case(Pgd(steps=9)), IMAGES) == 512


def test_no_clock_is_asked_where_an_answer_may_depend_on_its_batch() -> None:
    chunks = Chunks(512, None)
    chunks.took(1, 0, 10.0)
    assert chunks.size(case(Pgd(steps=9)), IMAGES) == 512


def test_the_expected_cost_is_the_first_attack_s_on_all_and_the_others_on_what_stands() -> None:
    first, second = case(Pgd(steps=9), "scout"), case(Pgd(steps=19))
    assert opening(100, 0.2) == pytest.approx(20 + 80 * EARLY)
    assert following(second, 20.0) == 20.0
    assert following(case(Pgd(steps=9), "scout"), 200.0) == 64
    assert following(case(Square(queries=10), "outward"), 1000.0) == 2.5 * 50 + 48
    assert expected_cost([first, second], 100, 0.2) == pytest.approx(opening(100, 0.2) * 30 + 20 * 60)
    assert expected_cost([case(Pgd(steps=9), purpose="table")], 10, 1.0) == 10 * 30
