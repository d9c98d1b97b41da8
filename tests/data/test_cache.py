from __future__ import annotations

import multiprocessing
import sys

import pytest

from memory_defense.data.decode import Arrays, DamagedDataError
from memory_defense.data.layouts import AbsentDataError
from memory_defense.data.sources import cache_path, read_cache, write_cache


def test_round_trip(alone, grey):
    write_cache(grey.arrays, grey.spec)
    assert cache_path(grey.spec).is_relative_to(alone)
    assert grey.same(read_cache(grey.spec))


def test_empty_cache_is_absent_not_damaged(alone, grey):
    with pytest.raises(AbsentDataError, match=r"fashion-mnist\.safetensors does not exist yet"):
        read_cache(grey.spec)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:4],
        lambda content: b"",
        lambda content: b"\x80\x04\x95 not safetensors",
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    ],
    ids=["cut", "stub", "empty", "pickle", "flipped bit"],
)
def test_damage_is_noticed(alone, grey, damage):
    write_cache(grey.arrays, grey.spec)
    path = cache_path(grey.spec)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedDataError, match=r"fashion-mnist\.safetensors"):
        read_cache(grey.spec)


def test_other_dataset_in_the_cache_is_noticed(alone, grey, colour):
    write_cache(colour.arrays, grey.spec)
    with pytest.raises(DamagedDataError, match="expected uint8"):
        read_cache(grey.spec)


def test_cache_is_in_the_users_directory_by_default(monkeypatch, grey):
    monkeypatch.delenv("MEMDEF_CACHE", raising=False)
    assert "memory-defense" in str(cache_path(grey.spec))


def _write_and_read(arrays: Arrays, spec, rounds: int) -> None:
    for _ in range(rounds):
        write_cache(arrays, spec)
        read_cache(spec)


@pytest.mark.skipif(sys.platform != "linux", reason="needs the fork start method")
def test_two_processes_at_once_never_see_half_a_file(alone, grey):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_and_read, args=(grey.arrays, grey.spec, 20)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert [path.name for path in cache_path(grey.spec).parent.iterdir()] == ["fashion-mnist.safetensors"]
