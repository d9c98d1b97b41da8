"""Signals at any moment: a message, a saved state, an exit status that says which, and no process left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from memory_defense.evaluation.log import Log
from memory_defense.evaluation.record import Record
from memory_defense.tensorfiles import read_tensors, write_tensors

NET = """
import hashlib, os, sys, time
import torch

class Net(torch.nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        torch.manual_seed(3)
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * 256, classes))
    def forward(self, x):
        how = os.environ.get("HOW", "")
        if how == "slow":
            time.sleep(0.01)
        if how == "turns" and x.requires_grad:
            sys.stderr.write("deaf\\n")
            sys.stderr.flush()
            try:
                time.sleep(60)
            except BaseException as error:
                raise RuntimeError("a wrapper of the user's own") from error
        if how == "deaf" and x.requires_grad:
            sys.stderr.write("deaf\\n")
            sys.stderr.flush()
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
        return self.layers(x)

def build(classes, channels):
    if os.environ.get("SAVING"):
        from memory_defense.evaluation import store
        store.SAVE_SECONDS = 0.0
        fsync = os.fsync
        def slowly(handle):
            sys.stderr.write("saving\\n")
            sys.stderr.flush()
            time.sleep(0.3)
            fsync(handle)
        os.fsync = slowly
    return Net(classes, channels)
"""
ASKED = ("evaluate", "own:build", "--weights", "w.safetensors", "--data", "data.safetensors", "--epsilon", "0.01")
ATTACKS = ("--attacks", "pgd,gama,pgd-t", "--out", "r.json")
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with a model, its images, and the record of an evaluation that nobody stopped."""
    place = tmp_path_factory.mktemp("own")
    (place / "own.py").write_text(NET)
    sys.path.insert(0, str(place))
    own = __import__("own")
    sys.path.remove(str(place))
    net, images = own.Net(5, 1), torch.rand(40, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = net(images).argmax(1)
    labels[:5] = torch.arange(5)  # every class is there
    write_tensors(place / "w.safetensors", net.state_dict())
    write_tensors(place / "data.safetensors", {"images": images, "labels": labels})
    done = subprocess.run(
        command(*ASKED, "--attacks", "pgd,gama,pgd-t", "--out", "whole.json"),
        cwd=place, env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def place(whole, tmp_path) -> Path:
    for name in ("own.py", "w.safetensors", "data.safetensors"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "memory_defense", *arguments]


def environment(**more: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if name not in ("HOW", "SAVING")}
    return plain | {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "MEMDEF_PROGRESS_SECONDS": "0.05"} | more


@contextmanager
def running(place: Path, *arguments: str, how: str = "slow", **options: Any) -> Iterator[subprocess.Popen[str]]:
    more = options.pop("more", {})
    process = subprocess.Popen(
        command(*arguments),
        cwd=place,
        env=environment(HOW=how, **more),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(process: subprocess.Popen[str], word: str) -> str:
    """Return what the process has said up to a line with this word."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if word in line:
            return said
    raise AssertionError(f"{word} never came:\n{said}")


def numbers(path: Path) -> dict[str, Any]:
    """Return a record without its times, the name of the file beside it, and the checksum over both."""
    found = json.loads(path.read_text())
    for cascade in found["cascades"]:
        for stage in cascade["stages"]:
            del stage["seconds"]
    del found["per_image"], found["checksum"]
    return found


def same_end(place: Path, whole: Path) -> None:
    done = subprocess.run(
        command(*ASKED, *ATTACKS), cwd=place, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "going on where the evaluation stopped" in done.stderr
    assert numbers(place / "r.json") == numbers(whole / "whole.json")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stopped_evaluation_says_so_saves_and_goes_on(place, whole, number) -> None:
    with running(place, *ASKED, *ATTACKS) as process:
        said = until(process, "gama, end-to-end")
        assert "left" not in said or "about 0 s left" not in said
        process.send_signal(number)
        after = process.communicate(timeout=300)[1]
    assert process.returncode == 128 + number
    assert f"{number.name}: stopping" in after
    assert "what was finished is kept" in after.splitlines()[-1]
    assert "r.progress.log" in after
    assert "Traceback" not in after
    entries = [said for _, said, _ in Log(place / "r.progress.log", reading=True).entries()]
    assert any("attempt" in said for said in entries), "the first attack is not lost"
    assert not (place / "r.json").exists()
    same_end(place, whole)


def test_an_error_that_foreign_code_makes_of_it_is_a_stop_too(place, whole) -> None:
    with running(place, *ASKED, *ATTACKS, how="turns") as process:
        until(process, "deaf")
        process.send_signal(signal.SIGTERM)
        time.sleep(1.1)  # a second wish, which is raised where the model is
        process.send_signal(signal.SIGTERM)
        after = process.communicate(timeout=300)[1]
    assert process.returncode == 143
    assert "Traceback" not in after


def test_a_pass_that_nothing_interrupts_is_ended_by_the_second_signal(place) -> None:
    with running(place, *ASKED, *ATTACKS, how="deaf") as process:
        until(process, "deaf")
        process.send_signal(signal.SIGTERM)
        assert "once more stops at once" in until(process, "SIGTERM: stopping")
        time.sleep(1.1)  # within a second it would be the same wish
        process.send_signal(signal.SIGTERM)
        after = process.communicate(timeout=300)[1]
    assert process.returncode == 143
    assert "stopped at once" in after
    assert "Traceback" not in after


def test_a_save_is_finished_first(place, whole) -> None:
    with running(place, *ASKED, *ATTACKS, more={"SAVING": "1"}) as process:
        until(process, "saving")
        process.send_signal(signal.SIGTERM)
        after = process.communicate(timeout=300)[1]
    assert process.returncode == 143
    assert "Traceback" not in after
    assert not list(place.glob(".*.part"))
    same_end(place, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_it_starts_it_says_so_too(place, number) -> None:
    (place / "torch.py").write_text(
        "import sys, time\nsys.stderr.write('importing\\n')\nsys.stderr.flush()\ntime.sleep(60)\n"
    )
    with running(place, *ASKED, *ATTACKS, more={"PYTHONPATH": str(place)}) as process:
        until(process, "importing")
        process.send_signal(number)
        after = process.communicate(timeout=300)[1]
    assert process.returncode == 128 + number
    assert after.startswith("stopped")
    assert "Traceback" not in after


def test_a_closed_terminal_does_not_end_what_nohup_started(place, whole) -> None:
    ignored = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    with running(place, *ASKED, *ATTACKS, preexec_fn=ignored) as process:
        until(process, "attacking")
        process.send_signal(signal.SIGHUP)
        after = process.communicate(timeout=300)[1]
    assert process.returncode == 0, after
    assert numbers(place / "r.json") == numbers(whole / "whole.json")


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pids: list[int]) -> bool:
    for _ in range(1200):
        if not any(Path(f"/proc/{pid}").exists() and "Z (" not in _state(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def _state(pid: int) -> str:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return "Z ("
    return next(line for line in status.splitlines() if line.startswith("State"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are counted in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_several_processes_stop_together_and_leave_no_orphan(place, whole, number) -> None:
    with running(place, *ASKED, *ATTACKS, "--processes", "2") as process:
        said = until(process, "gama, end-to-end")
        ranks = children(process.pid)
        assert len(ranks) == 2
        process.send_signal(number)
        after = process.communicate(timeout=300)[1]
        assert gone(ranks)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in said + after
    assert "attacking 1/3: gama" in said, "only the first speaks"
    assert (place / "r.progress.log.rank-0").exists()
    if number != signal.SIGTERM:
        return  # once is enough: all three left the same files
    done = subprocess.run(
        command(*ASKED, *ATTACKS, "--processes", "2"),
        cwd=place, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert numbers(place / "r.json") == numbers(whole / "whole.json")


def test_an_error_in_several_processes_is_one_message(place) -> None:
    wrong = ("--attacks", "pgd", "--out", "r.json", "--processes", "2", "--start-from", "w.safetensors")
    done = subprocess.run(
        command(*ASKED, *wrong),
        cwd=place, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_ends_no_work(place, whole) -> None:
    shell = f"{' '.join(command(*ASKED, *ATTACKS))} 2>&1 | head -n 1"
    done = subprocess.run(
        shell, shell=True, cwd=place, env=environment(HOW="slow"), capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert numbers(place / "r.json") == numbers(whole / "whole.json")


def test_a_log_has_no_control_characters_and_results_stay_apart(place) -> None:
    done = subprocess.run(
        command(*ASKED, *ATTACKS), cwd=place, env=environment(HOW="slow", FORCE_COLOR="1", TTY_COMPATIBLE="1"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert all(one.isprintable() or one == "\n" for one in done.stderr), repr(done.stderr)
    assert "attacking" in done.stderr
    assert "so far" not in done.stdout


@pytest.mark.parametrize("wrong", ["soon", "0", "-3", "nan"])
def test_an_interval_that_is_none_is_refused(place, wrong) -> None:
    done = subprocess.run(
        command(*ASKED, *ATTACKS), cwd=place, env=environment(MEMDEF_PROGRESS_SECONDS=wrong),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "MEMDEF_PROGRESS_SECONDS" in done.stderr
    assert "such as 15" in done.stderr


HARDENED = ("harden", "own:build", "--weights", "w.safetensors", "--data", "both.safetensors", "--attacks", "pgd")


@pytest.mark.parametrize("word", ["attacking", "training"])
def test_a_stopped_hardening_says_so_and_goes_on(place, word) -> None:
    tensors, _ = read_tensors(place / "data.safetensors")
    arrays = {
        "train_images": tensors["images"].repeat(8, 1, 1, 1), "train_labels": tensors["labels"].repeat(8),
        "test_images": tensors["images"], "test_labels": tensors["labels"],
    }  # fmt: skip
    write_tensors(place / "both.safetensors", arrays)
    asked = (*HARDENED, "--epochs", "2", "--images", "20", "--out", "run")
    with running(place, *asked) as process:
        until(process, word)
        process.send_signal(signal.SIGTERM)
        after = process.communicate(timeout=300)[1]
    assert process.returncode == 143, after
    assert "stopped by SIGTERM" in after.splitlines()[-1]
    assert "Traceback" not in after
    done = subprocess.run(
        command(*asked), cwd=place, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Record.read(place / "run" / "record.json").images == 20


@pytest.mark.skipif(os.name != "posix", reason="terminals are made with pty")
def test_on_a_terminal_there_is_one_live_line(place) -> None:
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(*ASKED, *ATTACKS), cwd=place, env=environment(HOW="slow", TERM="xterm", COLUMNS="200"),
        stdout=subprocess.DEVNULL, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 65536):
            said += part
    except OSError:  # how a terminal says that the other end was closed
        pass
    finally:
        os.close(ours)
    assert process.wait() == 0
    text = said.decode(errors="replace")
    assert "gama, end-to-end" in text
    assert "so far" not in text, "no plain lines beside the live one"
    assert "at most about" in text or "left" not in text
    assert text.rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in text, "the cursor is back"
