"""``memdef studio`` as its users see it."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from memory_defense.cli.studio import studio
from memory_defense.studio import server


def started(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "memory_defense", "studio", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_says_where_it_is_and_stops_without_a_traceback(root, number) -> None:
    running = started(root, "--port", "0")
    try:
        line = running.stdout.readline()
        address = line.split()[1]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=60) as page:
            assert page.status == 200
        running.send_signal(number)
        out, errors = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 128 + number
    assert out == ""
    assert errors.startswith("stopped")
    assert len(errors.splitlines()) == 1


def test_a_directory_that_is_not_there_is_a_mistake_not_a_traceback(tmp_path) -> None:
    running = started(tmp_path / "nothing")
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 2
    assert "is not a directory" in errors
    assert "Traceback" not in errors


def test_without_the_extra_it_says_what_to_install(root, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ValueError, match=r"needs uvicorn.*pip install 'memory-defense\[studio\]'"):
        studio(folders=[root], port=0)


def test_other_machines_are_let_in_only_with_a_warning(root, monkeypatch, capsys) -> None:
    monkeypatch.setattr(server, "serve", lambda settings, say: say(f"http://{settings.host}/"))
    studio(folders=[root], host="0.0.0.0", port=0)
    assert "no login" in capsys.readouterr().out
    studio(folders=[root], port=0)
    assert "no login" not in capsys.readouterr().out


@pytest.mark.parametrize("seconds", [0, -1, 10_000])
def test_a_time_that_is_none_is_refused(root, seconds) -> None:
    with pytest.raises(ValueError, match="up to 3600 s"):
        server.StudioOptions(runs=root, seconds=seconds)
