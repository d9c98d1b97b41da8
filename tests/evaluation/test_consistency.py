"""Records that contradict themselves, or the file of every image, are refused wherever they are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from evaluation.test_record import make
from faults.helpers_faults import memdef, refused
from faults.helpers_files import Coded, evaluated
from memory_defense.evaluation.consistency import contradiction, wilson
from memory_defense.evaluation.kept import read_whole
from memory_defense.evaluation.metrics import accuracy
from memory_defense.evaluation.place import per_image_path
from memory_defense.evaluation.record import Record
from memory_defense.tensorfiles import read_tensors, write_tensors

ROOT = Path(__file__).parents[2]


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 5000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_is_that_of_scipy(counts: tuple[int, int]) -> None:
    expected = binomtest(*counts).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson(*counts) == pytest.approx((max(0, expected.low), min(1, expected.high)), abs=1e-12)


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "results").rglob("*.json")), ids=lambda path: path.stem)
def test_no_record_of_ours_contradicts_itself(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    if "worst_case" in content:
        assert Record.read(path).images > 0


def changed(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return change


SHARE = accuracy(80, 100).model_dump(mode="json")
WRONG: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "an interval of another share": (changed("clean", "ci95", to=[0.5, 0.6]), "clean.ci95"),
    "a share of no whole number": (changed("clean", "accuracy", to=0.905), "not a whole number of 100 images"),
    "an accuracy that was raised": (changed("worst_case", 0, "accuracy", to=0.8), "worst_case.0.ci95"),
    "a worst case above an attack": (lambda one: one["worst_case"][0].update(SHARE), "more than attacks.0 leaves"),
    "an attack above clean": (
        lambda one: one["attacks"][0].update(accuracy(95, 100).model_dump(mode="json")),
        "more than the clean accuracy",
    ),
    "more broken first than fooled": (changed("cascades", 0, "stages", 0, "first", to=21), "must rise to"),
    "more broken first than at all": (
        lambda one: one["cascades"][0]["stages"][0].update(first=30, fooled=40),
        "its stages broke 30 images first, but 20 of 100 are broken",
    ),
    "more fooled than tried": (changed("cascades", 0, "stages", 0, "tried", to=10), "fooled 20 and tried 10"),
    "more tried than there are": (changed("cascades", 0, "stages", 0, "tried", to=99), "right when clean"),
    "a cascade of another ball": (changed("cascades", 0, "epsilon", to=0.2), "which has no worst case"),
    "a distance outside of the ball": (changed("attacks", 0, "median_distance", to=0.5), "outside its ball"),
    "passes below nothing": (changed("attacks", 0, "forward_passes", to=-1), "less than 0"),
    "fewer undetected than the worst case": (
        lambda one: one["worst_case"][0]["undetected"].update(accuracy(60, 100).model_dump(mode="json")),
        "not between the worst case",
    ),
    "another number of images": (changed("images", to=1000), "ci95"),
}


@pytest.mark.parametrize(("change", "said"), WRONG.values(), ids=WRONG.keys())
def test_a_record_that_contradicts_itself_is_refused_by_name(tmp_path, change, said) -> None:
    path = tmp_path / "r.json"
    make().write(path)
    content = json.loads(path.read_text())
    del content["checksum"]  # as if it had never had one
    assert contradiction(content) == ""
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"r\.json contradicts itself: .*; restore it, or evaluate again"
    ) as caught:
        Record.read(path)
    assert said in str(caught.value)
    refused(memdef("report", path, "--out", tmp_path / "page.html"), "contradicts itself")
    assert not (tmp_path / "page.html").exists()


def test_two_larger_balls_leave_no_more_than_smaller_ones(tmp_path) -> None:
    small = make(70, 0.1).worst_case[0]
    large = small.model_copy(update={"epsilon": 0.2, **accuracy(75, 100).model_dump()})
    record = make(70, 0.1).model_copy(update={"worst_case": (small, large)})
    assert "worst_case.1.accuracy is 0.75, more than" in contradiction(record.model_dump(mode="json"))


@pytest.fixture
def pair(tmp_path, monkeypatch) -> Path:
    """A record and the file of its images."""
    monkeypatch.setattr("memory_defense.workflows.evaluate.audit", lambda *_, **__: ())
    evaluated(Coded(), tmp_path / "r.json")
    record = read_whole(tmp_path / "r.json")
    assert 0 < record.worst_case[0].accuracy < record.clean.accuracy, "all or nothing proves little"
    return tmp_path / "r.json"


def without_checksums(place: Path) -> None:
    """Leave what an earlier version would have written."""
    content = json.loads(place.read_text())
    del content["checksum"], content["per_image_sha256"]
    place.write_text(json.dumps(content))


def one_more_broken(tensors: dict[str, Any]) -> None:
    row = int(tensors["ball 0 robust"].nonzero()[0])
    tensors["ball 0 robust"][row] = False


def one_fewer_right(tensors: dict[str, Any]) -> None:
    row = int((tensors["ball 0 breaker"] >= 0).nonzero()[0])
    tensors["ball 0 numbers"] = tensors["ball 0 numbers"][1:].clone()
    tensors["ball 0 breaker"][row] = -1


def another_broke_it(tensors: dict[str, Any]) -> None:
    found = tensors["ball 0 breaker"]
    found[found >= 0] = 1 - found[found >= 0].clamp(max=1)


def fewer_images(tensors: dict[str, Any]) -> None:
    for name in [name for name in tensors if not name.endswith(("images", " numbers"))]:
        tensors[name] = tensors[name][:-1].clone()


PAIRS = {
    "one more is broken": (one_more_broken, "the record has a worst case of"),
    "one fewer was right": (one_fewer_right, "the record has a clean accuracy of"),
    "another attack broke it": (another_broke_it, "images first, by the file"),
    "fewer images": (fewer_images, "the record has 24 images, the file 23"),
}


@pytest.mark.parametrize(("change", "said"), PAIRS.values(), ids=PAIRS.keys())
def test_a_record_and_its_images_that_disagree_are_refused(pair, change, said) -> None:
    file = per_image_path(pair)
    tensors, header = read_tensors(file)
    change(tensors)
    write_tensors(file, tensors, header)  # whole by its own checksum
    with pytest.raises(ValueError, match="was written with another one, by its checksum"):
        read_whole(pair)
    without_checksums(pair)
    with pytest.raises(ValueError, match="contradict each other") as caught:
        read_whole(pair)
    assert said in str(caught.value)
    refused(memdef("report", pair, "--out", pair.with_name("page.html")), "contradict each other")


def test_the_images_of_another_evaluation_are_no_record_s(pair) -> None:
    evaluated(Coded(), pair.with_name("s.json"), epsilon=0.05)
    shutil.copy(per_image_path(pair.with_name("s.json")), per_image_path(pair))
    for _ in range(2):
        with pytest.raises(ValueError, match="contradict each other"):
            read_whole(pair)
        if "per_image_sha256" in pair.read_text():
            without_checksums(pair)
    per_image_path(pair).unlink()
    assert read_whole(pair).images == 24, (
        "what the message says works: without the file there is nothing to contradict"
    )


def test_a_record_that_was_changed_by_hand_is_refused_until_it_says_so(pair) -> None:
    content = json.loads(pair.read_text())
    pair.write_text(json.dumps({**content, "defense": "a better name"}))
    with pytest.raises(ValueError, match="remove its entry 'checksum'"):
        Record.read(pair)
    del content["checksum"]
    pair.write_text(json.dumps({**content, "defense": "a better name"}))
    assert read_whole(pair).defense == "a better name"
