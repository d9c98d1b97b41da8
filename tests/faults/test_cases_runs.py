"""Faults 16 to 20: kills, full disks, little memory, a second process, and files that are no weights."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import memory_defense
from faults.helpers_faults import Front, memdef, refused, some_images, some_labels
from memory_defense.evaluation import store
from memory_defense.evaluation.record import Record
from memory_defense.run_directory import RunDirectory
from memory_defense.tensorfiles import read_tensors, write_tensors

ATTACKS = ("--attacks", "fgsm,pgd", "--knowledge", "end-to-end", "--epsilon", "0.1", "--images", "10")


def train(out: Path, data: Path, *more: object) -> object:
    return memdef("train", "fashion-mnist/tiny", "--out", out, "--data-dir", data, "--train-images", 100, *more)


@pytest.mark.usefixtures("small_world")
def test_case_16_what_was_stopped_goes_on_only_as_it_was(tmp_path, trained_run, idx_folder, monkeypatch) -> None:
    """The kills themselves are in `test_kill`."""
    monkeypatch.setattr(store, "SAVE_SECONDS", 0.0)
    out = tmp_path / "record.json"

    def evaluate(*more: object):
        return memdef("evaluate", trained_run, *ATTACKS, "--data-dir", idx_folder, "--out", out, *more)

    with monkeypatch.context() as stopping:
        stopping.setattr("memory_defense.workflows.evaluate.audit", _interrupt)
        said = evaluate()
    assert said.status == 130
    assert "the same command" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["record.progress.log"]
    for changed in (("--epsilon", "0.05"), ("--seed", "1"), ("--images", "9"), ("--attacks", "apgd")):
        refused(evaluate(*changed), "belongs to another evaluation", "remove it to start over")
    assert not out.exists()
    said = evaluate()
    assert said.status == 0, said
    assert "going on where the evaluation stopped" in said.err
    assert Record.read(out).images == 10
    assert not (tmp_path / "record.progress.log").exists()


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def read_only(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Refuse every new file or folder in `folder`, as a read-only file system does, to root as well."""
    true_open, true_mkdir = os.open, os.mkdir

    def refuse(path: object) -> None:
        if Path(str(path)).is_relative_to(folder):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def opening(path: object, flags: int, *more: object, **options: object) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            refuse(path)
        return true_open(path, flags, *more, **options)  # type: ignore[arg-type]

    def mkdir(path: object, *more: object, **options: object) -> None:
        refuse(path)
        true_mkdir(path, *more, **options)  # type: ignore[arg-type]

    patch.setattr(os, "open", opening)
    patch.setattr(os, "mkdir", mkdir)


@pytest.mark.usefixtures("small_world")
def test_case_17_a_full_disk_loses_nothing(tmp_path, trained_run, idx_folder) -> None:
    """Every write of a training finds the disk full once; it ends in the same files as if none had."""
    whole = (trained_run / "weights.safetensors").read_bytes()
    out, fulls = tmp_path / "run", 0
    for number in range(1, 200):
        with pytest.MonkeyPatch.context() as patch:
            left = _full_at(patch, number % 7 + 1)
            said = train(out, idx_folder, *(("--resume",) if (out / "manifest.json").exists() else ()))
        assert not list(out.rglob("*.part")), "nothing half-written is left"
        assert not list(out.rglob("*.lock"))
        if said.status == 0:
            break
        refused(said, "could not be written: the disk, or your share of it, is full", "--resume")
        assert not left()
        fulls += 1
    assert fulls > 3
    assert (out / "weights.safetensors").read_bytes() == whole
    assert memory_defense.load(out)


def _full_at(patch: pytest.MonkeyPatch, number: int) -> Callable[[], int]:
    """Let the write of this number fail."""
    true_write, left = os.write, [number]

    def write(handle: int, content: bytes) -> int:
        if handle > 2:
            left[0] -= 1
            if left[0] == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return true_write(handle, content)

    patch.setattr(os, "write", write)
    return lambda: max(left[0], 0)


@pytest.mark.usefixtures("small_world")
def test_case_17_a_read_only_place(tmp_path, trained_run, idx_folder, monkeypatch) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    monkeypatch.setattr("memory_defense.workflows.train._Training.stage", _never)
    read_only(monkeypatch, place)
    said = train(place / "run", idx_folder)
    refused(said, "could not be written: Read-only file system", "choose a place that you may write to (out)")
    command = ("evaluate", trained_run, *ATTACKS, "--data-dir", idx_folder, "--out", place / "record.json")
    monkeypatch.setattr("memory_defense.evaluation.attempt.CaseRunner.run", _never)
    refused(memdef(*command), "could not be written: Read-only file system", "(out)")
    refused(memdef("report", trained_run, "--out", place / "page.html"), "record")
    assert not list(place.iterdir())


def _never(*_: object, **__: object) -> None:
    raise AssertionError("no work is done for a place that cannot be written to")


class Hungry(Front):
    """Has memory for so many images at a time."""

    room = 4

    def forward(self, images: Tensor) -> object:
        if len(images) > self.room:
            raise torch.OutOfMemoryError("out of memory")
        return self.network(images)


def test_case_18_out_of_memory() -> None:
    def found(model: Front) -> Record:
        record = memory_defense.evaluate(
            model.eval(), some_images(40), some_labels(40), epsilon=0.03, attacks="fgsm,pgd"
        )
        return record.model_copy(update={"cascades": (), "notes": (), "provenance": None, "audit": ()})

    plenty = found(Front())
    assert 0 < plenty.worst_case[0].accuracy < 1
    hungry = Hungry()
    hungry.room = 32  # the attacks begin with 64 in a pass, the audit looks at all 40
    assert found(hungry) == plenty
    hungry.room = 0
    with pytest.raises(ValueError, match="not enough memory for one image in a pass; use a smaller network"):
        found(hungry)


@pytest.mark.usefixtures("small_world")
def test_case_19_two_processes_in_one_directory(tmp_path, idx_folder, trained_run) -> None:
    out = tmp_path / "run"
    shutil.copytree(trained_run, out)
    code = (
        "import sys; from pathlib import Path; from memory_defense.files import locked\n"
        "with locked(Path(sys.argv[1])), locked(Path(sys.argv[2])):\n    print('held', flush=True)\n"
        "    sys.stdin.read()"
    )
    unfinished = tmp_path / "record.progress.log"
    command = [sys.executable, "-c", code, RunDirectory(out).manifest_path, unfinished]
    before = {path: path.read_bytes() for path in out.rglob("*.safetensors")}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        said = train(out, idx_folder, "--resume")
        refused(said, f"the run {out} is being written by process {other.pid}", "since", "wait until it is done")
        evaluate = ("evaluate", out, *ATTACKS, "--data-dir", idx_folder, "--out", tmp_path / "record.json")
        refused(memdef(*evaluate), f"is being written by process {other.pid}", "write to another place (out)")
        assert memory_defense.load(out), "reading stays possible"
        other.kill()
    assert train(out, idx_folder, "--resume").status == 0, "the lock of a killed process is free"
    assert {path: path.read_bytes() for path in out.rglob("*.safetensors")} == before
    with RunDirectory(out).only_writer():
        refused(train(out, idx_folder, "--resume"), f"written by process {os.getpid()}", "which is this one")


def _truncated(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-9])


def _with_extra_key(weights: Path) -> None:
    tensors, header = read_tensors(weights)
    write_tensors(weights, tensors | {"extra": torch.ones(1)}, header)


def _without_a_key(weights: Path) -> None:
    tensors, header = read_tensors(weights)
    write_tensors(weights, dict(list(tensors.items())[1:]), header)


def _of_another_shape(weights: Path) -> None:
    tensors, header = read_tensors(weights)
    name = next(name for name, tensor in tensors.items() if tensor.dim() == 4)
    write_tensors(weights, tensors | {name: tensors[name].repeat(1, 3, 1, 1)}, header)  # 3 channels, not 1


def _one_bit_flipped(weights: Path) -> None:
    content = bytearray(weights.read_bytes())
    content[-5] ^= 4
    weights.write_bytes(content)


def _pickle(weights: Path) -> None:
    weights.write_bytes(pickle.dumps({"weight": [1.0]}))


def _torch_file(weights: Path) -> None:
    torch.save({"weight": torch.ones(1)}, weights)


def _web_page(weights: Path) -> None:
    weights.write_text("<!DOCTYPE html>\n<html>Quota exceeded</html>")


@pytest.mark.usefixtures("small_world")
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_truncated, "is not a whole safetensors file"),
        (_with_extra_key, "does not fit this model: 1 unexpected (first: extra)"),
        (_without_a_key, "does not fit this model: 1 missing"),
        (_of_another_shape, "of another shape"),
        (_one_bit_flipped, "is damaged: its content is not what its checksum says"),
        (_pickle, "is a pickle, whatever its name"),
        (_torch_file, "is a pickle, whatever its name"),
        (_web_page, "is a web page, not weights"),
    ],
)
def test_case_20_files_that_are_not_the_weights(tmp_path, trained_run, idx_folder, spoil, said) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    spoil(run / "weights.safetensors")
    refused(memdef("evaluate", run, *ATTACKS, "--data-dir", idx_folder), "weights.safetensors", said)
    assert not (run / "partial.json").exists()
    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        memory_defense.load(run)
