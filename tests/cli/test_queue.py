"""``memdef queue``: exit statuses, messages, and that listing and help are cheap."""

import subprocess
import sys

import pytest

from memory_defense.cli import main
from memory_defense.cli.queue import UNFINISHED
from memory_defense.paper.half_weights import read_half
from memory_defense.paper.queue import QUEUE


def memdef(monkeypatch, *arguments: str) -> int:
    """Run the command line in this process and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["memdef", *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_a_piece_that_is_not_the_last_says_so(monkeypatch, capsys, tmp_path) -> None:
    out = tmp_path / "runs"
    command = ("queue", "run", "fashion-mnist-strong", "--tiny", "--out", str(out))
    assert memdef(monkeypatch, *command, "--minutes", "0") == UNFINISHED == 75
    assert "not finished: run the same command again" in capsys.readouterr().err
    assert not (out / "back").exists()
    assert memdef(monkeypatch, *command) == 0
    said = capsys.readouterr()
    place = out / "back" / "fashion-mnist-strong"
    assert f"finished: records and weights are in {place}" in said.out
    assert "not finished" not in said.err
    assert read_half(place / "fashion-mnist" / "strong-tiny")
    kept = tmp_path / "kept"
    assert memdef(monkeypatch, *command, "--back", str(kept)) == 0
    assert [path.name for path in kept.iterdir()] == ["fashion-mnist-strong-1-of-1.part"]
    unpacked = tmp_path / "unpacked"
    assert memdef(monkeypatch, "queue", "unpack", str(kept), "--into", str(unpacked)) == 0
    assert read_half(unpacked / "fashion-mnist-strong" / "fashion-mnist" / "strong-tiny")


def test_the_list_has_every_entry_in_order(monkeypatch, capsys) -> None:
    assert memdef(monkeypatch, "queue", "list") == 0
    said = capsys.readouterr().out
    places = [said.index(f"{name} ") for name in QUEUE]
    assert places == sorted(places)
    assert all(f"about {one.minutes}" in said for one in QUEUE.values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pixelcn", "--tiny"), "did you mean 'pixelcnn'"),
        (("pixelcnn", "--tiny", "--data-dir", "."), "made up"),
        (("pixelcnn", "--tiny", "--offline"), "made up"),
        (("pixelcnn", "--tiny", "--device", "gpu"), "unknown device"),
        (("pixelcnn", "--device", "gpu"), "unknown device"),
        (("pixelcnn", "--minutes", "-1"), "--minutes"),
    ],
)
def test_mistakes_get_one_message(monkeypatch, capsys, tmp_path, arguments, said) -> None:
    monkeypatch.chdir(tmp_path)
    assert memdef(monkeypatch, "queue", "run", *arguments) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from memory_defense.cli.app import app; app(['queue', '--help'], standalone_mode=False); "
        "assert 'torch' not in sys.modules, 'slow help'"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "list" in done.stdout
    assert "run" in done.stdout
