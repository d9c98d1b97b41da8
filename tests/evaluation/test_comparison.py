"""Differences have the intervals of their source, are paired where they may be, and the rest is said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import memory_defense
from memory_defense import Options, Record
from memory_defense.evaluation.comparison import Comparison, compare
from memory_defense.evaluation.naming import name_of, names_of
from memory_defense.evaluation.proportions import mcnemar, paired_difference, unpaired_difference
from memory_defense.evaluation.published import published, published_for
from memory_defense.evaluation.verdicts import verdicts_of

COUNT = 60


def test_the_unpaired_interval_is_the_published_one() -> None:
    found = unpaired_difference((56, 70), (48, 80))  # Newcombe 1998, table II, example (a), method 10
    assert found.value == pytest.approx(0.2)
    assert found.ci95 == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert found.paired is None


@pytest.mark.parametrize(("one", "other", "p"), [(1, 5, 14 / 64), (0, 3, 0.25), (4, 4, 1.0), (0, 0, 1.0)])
def test_mcnemar_counts_coins(one: int, other: int, p: float) -> None:
    assert mcnemar(one, other) == pytest.approx(p)
    assert mcnemar(other, one) == pytest.approx(p)


def test_a_paired_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator, chances, images = np.random.default_rng(0), (0.6, 0.12, 0.05, 0.23), 200
    truth = chances[1] - chances[2]
    held, widths = 0, list[float]()
    for counts in generator.multinomial(images, chances, size=1500).tolist():
        low, high = paired_difference(*(int(one) for one in counts)).ci95
        held += low <= truth <= high
        widths.append(high - low)
    assert 0.935 <= held / 1500 <= 0.98
    apart = unpaired_difference((144, 200), (130, 200)).ci95
    assert np.mean(widths) < 0.75 * (apart[1] - apart[0]), "pairs tell smaller differences from chance"


def test_paired_intervals_mirror_and_stay_in_range() -> None:
    forth, back = paired_difference(30, 9, 2, 9), paired_difference(30, 2, 9, 9)
    assert forth.value == -back.value == pytest.approx(7 / 50)
    assert forth.ci95 == pytest.approx((-back.ci95[1], -back.ci95[0]))
    for counts in ((10, 0, 0, 0), (0, 10, 0, 0), (0, 0, 0, 10), (5, 0, 0, 5), (1, 0, 0, 0)):
        found = paired_difference(*counts)
        assert -1 <= found.ci95[0] <= found.value <= found.ci95[1] <= 1
        assert all(math.isfinite(end) for end in found.ci95)


def made(
    place: Path,
    *,
    name: str,
    push: float = 0.0,
    epsilon: float | list[float] = 0.02,
    attacks: str = "fgsm",
    ids: Sequence[int] = range(COUNT),
    dataset: str = "made up",
) -> Record:
    """A record of a linear net, its weights pushed aside a little."""
    torch.manual_seed(0)
    linear = nn.Linear(16, 4)
    net = nn.Sequential(nn.Flatten(), linear)
    images = torch.rand(COUNT, 1, 4, 4)
    labels = net(images).argmax(1)
    with torch.no_grad():
        linear.weight += push * torch.randn_like(linear.weight)
    options = Options(defense=name, ids=ids, dataset=dataset)
    return memory_defense.evaluate(
        net, images, labels, epsilon=epsilon, attacks=attacks, out=place, options=options
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Record]:
    place = tmp_path_factory.mktemp("pair")
    first = made(place / "a.json", name="plain")
    return first, made(place / "b.json", name="pushed", push=0.02, attacks="fgsm,bim", epsilon=[0.02, 0.05])


def test_the_same_images_are_compared_one_by_one(pair: tuple[Record, Record]) -> None:
    found = memory_defense.compare(*pair)
    assert found.names == ("plain", "pushed")
    assert [measure.ball for measure in found.measures] == [None, ("linf", 0.02)]
    assert "paired, on 60 images" in found.pairing[0]
    ours, theirs = (verdicts_of(record).balls[0].standing for record in pair)
    worst = found.measures[1].differences[1]
    assert worst is not None
    assert worst.paired == COUNT
    assert worst.only_first == sum(b and not a for a, b in zip(ours, theirs, strict=True))
    assert worst.only_second == sum(a and not b for a, b in zip(ours, theirs, strict=True))
    shares = [one.accuracy for one in found.measures[1].shares if one is not None]
    assert worst.value == pytest.approx(shares[1] - shares[0])
    assert found.measures[1].differences[0] is None


def test_what_else_differs_is_said_in_a_line_each(pair: tuple[Record, Record]) -> None:
    lines = {line.partition(":")[0]: line for line in compare(*pair).differing}
    assert lines["attacks"] == "attacks: plain: fgsm; pushed: fgsm, bim"
    assert lines["balls"] == "balls: plain: linf 0.02; pushed: linf 0.02, linf 0.05"
    assert "audit" in lines
    assert not {"images", "settings", "version"} & set(lines), "what is alike is not said"
    assert compare(pair[0], pair[0]).differing == ()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"dataset": "others"}, "one has 'made up', the other 'others'"),
        ({"ids": range(500, 500 + COUNT)}, "no image was judged by both"),
        ({"ids": range(1, 1 + COUNT)}, "labels of images with the same position differ"),
    ],
)
def test_different_images_are_not_paired(
    pair: tuple[Record, Record], tmp_path: Path, more: dict[str, Any], why: str
) -> None:
    found = compare(pair[0], made(tmp_path / "c.json", name="other", **more))
    assert why in found.pairing[0]
    difference = found.measures[0].differences[1]
    assert difference is not None
    assert difference.paired is None
    assert difference.p_value is None


def test_without_the_files_of_images_nothing_is_paired(pair: tuple[Record, Record]) -> None:
    bare = Record.model_validate(pair[1].model_dump(by_alias=True))
    assert "not there for both" in compare(pair[0], bare).pairing[0]


def test_some_shared_images_are_enough(pair: tuple[Record, Record], tmp_path: Path) -> None:
    part = made(tmp_path / "part.json", name="part")
    cut = verdicts_of(part)
    assert len(cut.ids) == COUNT
    shifted = made(tmp_path / "some.json", name="some", ids=[*range(30), *range(900, 930)])
    found = compare(pair[0], shifted)
    assert "paired, on 30 images that both judged (30 were judged by one of them only)" in found.pairing[0]


def test_what_makes_no_sense_is_refused(pair: tuple[Record, Record]) -> None:
    with pytest.raises(ValueError, match="needs at least 2 records, but 1 came"):
        compare(pair[0])
    with pytest.raises(ValueError, match="1 names for 2 records"):
        compare(*pair, names=["one"])
    assert isinstance(compare(*pair, names=["one", "two"]), Comparison)


def test_names_are_those_given_and_all_different(pair: tuple[Record, Record]) -> None:
    first, second = pair
    assert [name_of(record) for record in pair] == ["plain", "pushed"]
    nameless = [record.model_copy(update={"defense": "a classifier"}) for record in pair]
    assert names_of(nameless) == (
        "a classifier, attacks: fgsm",
        "a classifier, attacks: fgsm,bim",
    )
    twice = names_of([first, first.model_copy(update={"notes": ("again",)})], [Path("a.json"), Path("b.json")])
    assert twice == ("plain, a.json", "plain, b.json")
    assert len(set(names_of([second, second]))) == 2
    shipped = Record.read(Path(memory_defense.__file__).parent / "zoo/fashion-mnist/sound/record.json")
    assert name_of(shipped) == "fashion-mnist/demo", "a run that was given no name is called by its recipe"
    assert name_of(shipped.model_copy(update={"defense": "ours"})) == "ours"


def test_published_numbers_have_sources_and_fit_by_dataset_norm_and_radius(pair: tuple[Record, Record]) -> None:
    found = published()
    assert len(found) > 40
    assert len({(one.dataset, one.norm, one.epsilon, one.name) for one in found}) == len(found)
    for one in found:
        assert one.source.startswith("https://github.com/")
        assert one.link.startswith("https://")
        assert len(one.date.removeprefix("read ")) == len("2025-03-31")
        assert one.clean is None or one.clean >= one.robust
    best = max((one for one in found if (one.dataset, one.norm) == ("cifar10", "linf")), key=lambda one: one.robust)
    assert (best.name, best.robust, best.epsilon) == ("Bartoldson2024Adversarial_WRN-94-16", 0.7371, 8 / 255)
    adaptive = next(one for one in found if one.name.startswith("Amini2024MeanSparse_S-WRN-94"))
    assert (adaptive.robust, adaptive.by) == (0.731, "AutoAttack and others")
    assert published_for(pair) == ()
    worst = pair[0].worst_case[0]
    for dataset, epsilon, there in (
        ("CIFAR-10", 8 / 255, True),
        ("cifar10", 0.0314, True),
        ("cifar10", 0.031, False),
        ("cifar10", 4 / 255, False),
        ("imagenet", 4 / 255, True),
    ):
        record = pair[0].model_copy(
            update={"dataset": dataset, "worst_case": (worst.model_copy(update={"epsilon": epsilon}),)}
        )
        shown = published_for([record])
        assert bool(shown) == there, (dataset, epsilon)
        assert list(shown) == sorted(shown, key=lambda one: -one.robust)
