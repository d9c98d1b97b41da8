"""Two ranks exchange no pixels, and their record is that of one process, whatever its images are kept as."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from memory_defense.evaluation.results import read_per_image

PIXELS = 12 * 3 * 96 * 96
"""Numbers of the larger images of one rank."""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bytes")
    script = Path(__file__).with_name("rank_bytes.py")
    processes = [
        subprocess.Popen(
            [sys.executable, script, folder, str(rank)],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    for process in processes:
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error
    return folder


@pytest.fixture(scope="module")
def found(place) -> list[dict[str, dict[str, object]]]:
    return [json.loads((place / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("kind", ["kept", "nameless"])
@pytest.mark.parametrize("rank", [0, 1])
def test_what_is_sent_does_not_grow_with_the_images(found, kind, rank) -> None:
    small, large = (int(found[rank][f"{size} {kind}"]["sent"]) for size in (16, 96))
    assert small > 1000, "verdicts are sent"
    assert abs(large - small) < 2000, "only a number more or less that is written in digits"
    assert large < PIXELS / 10


@pytest.mark.parametrize("size", [16, 96])
def test_the_record_and_every_image_are_those_of_one_process(found, place, size) -> None:
    alone = found[0][f"{size} alone"]
    for rank in range(2):
        assert found[rank][f"{size} kept"]["worst"] == alone["worst"]
        assert found[rank][f"{size} nameless"]["worst"] == alone["worst"]
        assert found[rank][f"{size} kept"]["audit"] == alone["audit"]
        assert found[rank][f"{size} kept"]["sha256"] == alone["sha256"]
    assert (place / f"r{size}.images.safetensors").read_bytes() == (
        place / f"alone{size}.images.safetensors"
    ).read_bytes()
    assert 0 < alone["worst"][1]["accuracy"] < alone["worst"][0]["accuracy"] < 1
    assert not list(place.glob("*progress*"))


def test_grey_levels_by_reference_give_what_floats_give(found, place) -> None:
    assert found[0]["floats"]["worst"] == found[0]["16 alone"]["worst"]
    assert found[0]["floats"]["sha256"] == found[0]["16 alone"]["sha256"]


def test_an_image_that_counts_in_two_balls_is_kept_once(place) -> None:
    small, large = read_per_image(place / "r96.images.safetensors").broken
    both = (small.breaker >= 0) & (large.breaker == small.breaker)
    assert both.any()
    assert (small.place[both] == large.place[both]).all()
