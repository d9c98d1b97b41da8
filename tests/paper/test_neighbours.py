"""Nearest neighbours and percentiles against loops written out."""

import random

import pytest
import torch

from memory_defense.paper.figure3 import neighbours_answer, percentile
from memory_defense.randomness import generator


def by_hand(vectors, labels, k, queries):
    vectors, labels = vectors.numpy(), labels.tolist()
    answers = []
    for row, query in enumerate(queries.numpy()):
        distance = ((vectors - query) ** 2).sum(1)
        others = sorted((other for other in range(len(vectors)) if other != row), key=distance.__getitem__)
        near = [labels[other] for other in others[:k]]
        most = max(near.count(label) for label in near)
        answers.append(next(label for label in near if near.count(label) == most))
    return answers


@pytest.mark.parametrize("k", [1, 4, 5])
@pytest.mark.parametrize("other", [False, True])
def test_votes_are_those_of_a_loop(k, other) -> None:
    draws = generator(1, "neighbours", k)
    vectors = torch.randn(530, 3, generator=draws, dtype=torch.float64)
    labels = torch.randint(4, (530,), generator=draws)
    queries = vectors + 0.5 * torch.randn(530, 3, generator=draws, dtype=torch.float64) if other else vectors
    answers = neighbours_answer(vectors, labels, k=k, queries=queries if other else None)
    assert answers.tolist() == by_hand(vectors, labels, k, queries)


def test_an_image_has_no_vote_on_itself() -> None:
    # Two far pairs: each one's only near neighbour is of the other class.
    vectors, labels = torch.tensor([[0.0], [0.1], [9.0], [9.1]]), torch.tensor([0, 1, 0, 1])
    assert neighbours_answer(vectors, labels, k=1).tolist() == [1, 0, 1, 0]
    # A query at the place of its own counterpart still asks the others.
    assert neighbours_answer(vectors, labels, k=1, queries=vectors).tolist() == [1, 0, 1, 0]


def test_differences_far_below_float32_still_decide() -> None:
    vectors = torch.tensor([[100.0], [100.0 + 1e-6], [100.0 + 5e-6], [100.0 + 5.5e-6]], dtype=torch.float64)
    assert neighbours_answer(vectors, torch.tensor([0, 0, 1, 1]), k=1).tolist() == [0, 0, 1, 1]


def test_neighbours_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="k is 3"):
        neighbours_answer(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long), k=3)
    with pytest.raises(ValueError, match="do not fit"):
        neighbours_answer(torch.zeros(9, 2), torch.zeros(8, dtype=torch.long))


def test_percentile_by_hand() -> None:
    values = list(range(1, 101))
    random.Random(0).shuffle(values)
    hundred = torch.tensor(values, dtype=torch.float64)
    assert percentile(hundred, 0.99) == 99  # 99 of 100 values do not exceed it
    assert percentile(hundred, 1) == 100
    assert percentile(hundred, 0.001) == 1
    assert percentile(hundred[hundred <= 10], 0.5) == 5
    assert percentile(torch.tensor([3.0]), 0.99) == 3
    assert percentile(torch.arange(500).float(), 0.99) == 494  # the 495th of 500


@pytest.mark.parametrize("share", [0, 1.01])
def test_percentile_refuses_what_is_none(share) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(torch.ones(3), share)
