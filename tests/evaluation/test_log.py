"""The log of an evaluation: resumable from every prefix, torn ends cut off, damage refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evaluation import scenario
from memory_defense.evaluation.log import MAGIC, Log, with_length
from memory_defense.evaluation.options import Options

BLOBS = [b"first", b"", b"third one"]


def written(path: Path | None) -> tuple[Log, list[list[int]]]:
    log = Log(path)
    places = [
        log.append({"rows": torch.arange(3)}, {"number": "0"}, [with_length(one) for one in BLOBS]),
        log.append({"rows": torch.arange(2)}, {"number": "1"}),
        log.append({"rows": torch.arange(1)}, {"number": "2"}, [with_length(b"last")]),
    ]
    return log, places


@pytest.mark.parametrize("named", [True, False])
def test_what_was_appended_is_there_with_its_blobs(named: bool, tmp_path) -> None:
    log, places = written(tmp_path / "log" if named else None)
    assert [log.blob(place) for place in places[0]] == BLOBS
    assert log.blob(places[2][0]) == b"last"
    found = list(log.entries())
    assert [metadata["number"] for _, metadata, _ in found] == ["0", "1", "2"]
    assert [where for _, _, where in found] == places
    assert found[0][0]["rows"].tolist() == [0, 1, 2]


def test_every_torn_end_is_cut_off_and_what_follows_is_written_there(tmp_path) -> None:
    path = tmp_path / "log"
    written(path)
    content = path.read_bytes()
    counts = [_entries(tmp_path, content[:at]) for at in range(len(content) + 1)]
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2, 3}
    path.write_bytes(content[:-3])
    log = Log(path)
    assert len(list(log.entries())) == 2
    log.append({"rows": torch.arange(1)}, {"number": "again"})
    assert [metadata["number"] for _, metadata, _ in Log(path).entries()] == ["0", "1", "again"]


def _entries(folder: Path, content: bytes) -> int:
    path = folder / "prefix"
    path.write_bytes(content)
    return len(list(Log(path).entries()))


def test_damage_is_refused_and_what_the_message_says_keeps_what_is_before(tmp_path) -> None:
    path = tmp_path / "log"
    _, places = written(path)
    content = bytearray(path.read_bytes())
    content[places[2][0] + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"log is damaged after its first (\d+) bytes") as error:
        list(Log(path).entries())
    end = int(str(error.value).rpartition("truncate -s ")[2].split()[0])
    path.write_bytes(content[:end])
    assert [metadata["number"] for _, metadata, _ in Log(path).entries()] == ["0", "1"]
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not a log of this version"):
        Log(path)


def test_a_removed_log_can_be_read_on(tmp_path) -> None:
    log, places = written(tmp_path / "log")
    log.remove()
    assert not (tmp_path / "log").exists()
    assert log.blob(places[2][0]) == b"last"


def test_an_evaluation_goes_on_from_every_prefix_to_the_same_end(tmp_path) -> None:
    state, options = tmp_path / "state", Options(chunk=13)
    expected = scenario.outcomes(scenario.run(options=options))
    with pytest.raises(KeyboardInterrupt):
        scenario.run(options=replace(options, progress=scenario.StopAt(12)), state_file=state)
    content = state.read_bytes()
    ends, at = [], len(MAGIC)
    while at < len(content):
        at += 16 + int.from_bytes(content[at : at + 8], "little")
        ends.append(at)
    assert len(ends) > 6
    for end in (len(MAGIC), *ends[::3], ends[-1] - 5):
        state.write_bytes(content[:end])
        found = scenario.outcomes(scenario.run(options=options, state_file=state))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected), end
        assert not state.exists()
