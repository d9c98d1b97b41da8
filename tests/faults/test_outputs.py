"""Results that cannot be written, or that would be written over something else: said before an image is read."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.helpers_faults import Said, memdef, refused, some_images
from faults.helpers_files import COUNT, Coded, Stops, evaluated, labels_of, stopped, timeless
from memory_defense import outputs
from memory_defense.evaluation.place import check_place, per_image_path, state_path
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.results import read_per_image
from memory_defense.outputs import beside
from memory_defense.recipes.fashion_mnist import TINY
from memory_defense.run_directory import RunDirectory
from memory_defense.tensorfiles import write_tensors
from memory_defense.training.checkpoint import save_weights


@pytest.fixture(autouse=True)
def no_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory_defense.workflows.evaluate.audit", lambda *_, **__: ())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, which is the working directory, with a data file and weights."""
    monkeypatch.chdir(tmp_path)
    names = {"classes": '["a","b","c","d","e"]'}
    write_tensors(Path("data.safetensors"), {"images": some_images(COUNT), "labels": labels_of(Coded())}, names)
    save_weights(Path("w.safetensors"), Coded())
    return tmp_path


def command(*more: object) -> Said:
    return memdef(
        "evaluate", "faults.helpers_files:Coded", "--weights", "w.safetensors", "--data", "data.safetensors",
        "--epsilon", "0.02", "--attacks", "fgsm,pgd", "--threads", "1", *more,
    )  # fmt: skip


def folder(place: Path) -> None:
    place.mkdir()


def read_only(place: Path) -> None:
    place.write_text("{}")
    place.chmod(0o444)


def nothing(place: Path) -> None:
    del place


def pipe(place: Path) -> None:
    os.mkfifo(place)


def notes(place: Path) -> None:
    place.write_text("my notes")


def under_a_file(place: Path) -> None:
    place.parent.write_text("a file")


UNWRITABLE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a folder": ("results", folder, "results is a folder; name the file to write, such as results/record.json"),
    "a folder where the images go": ("r.json", lambda p: beside(p, "images.safetensors").mkdir(), "is a folder"),
    "a parent that is a file": ("dir/r.json", under_a_file, "choose another place"),
    "a read-only file": ("r.json", read_only, "is read-only and stays as it is; choose another name"),
    "a name too long": (f"{'n' * 230}.json", nothing, "too long for this file system, which allows 255 bytes"),
    "a parent too long": (f"{'n' * 300}/r.json", nothing, "too long"),
    "the weights": ("w.safetensors", lambda _: None, "is read as well (--weights) and would be lost"),
    "the data": ("data.safetensors", lambda _: None, "is read as well (--data) and would be lost"),
    "a pipe": ("pipe", pipe, "is a device or the like, not a file; choose another name"),
    "what is no record": ("notes.json", notes, "already exists and is not a record"),
    "no place for a user": ("/proc/r.json", nothing, "choose a place that you may write to (out)"),
}


@pytest.mark.parametrize(("out", "prepare", "said"), UNWRITABLE.values(), ids=UNWRITABLE.keys())
def test_an_evaluation_whose_record_cannot_be_written_reads_no_image(
    world, monkeypatch, out, prepare, said
) -> None:
    prepare(Path(out))
    before = sorted(world.rglob("*"))

    def never(*_: object, **__: object) -> None:
        raise AssertionError("images are read for a record that cannot be written")

    monkeypatch.setattr("memory_defense.data.own.load_images", never)
    refused(command("--out", out), said)
    assert sorted(world.rglob("*")) == before, "nothing is left behind"
    with pytest.raises(ValueError, match=re.escape(said)):
        check_place(Path(out), {"--weights": Path("w.safetensors"), "--data": Path("data.safetensors")})


def test_the_python_door_refuses_before_the_model_is_asked(tmp_path) -> None:
    def never(_: object) -> None:
        raise AssertionError("the model is asked")

    (tmp_path / "results").mkdir()
    with pytest.raises(ValueError, match="is a folder; name the file to write"):
        evaluated(never, tmp_path / "results")
    evaluated(Coded(), tmp_path / "results" / "record.json")


HARDEN = ("harden", "faults.helpers_files:Coded", "--data", "data.safetensors", "--weights")

OTHERS: dict[str, tuple[tuple[str, ...], str]] = {
    "train": (("train", "fashion-mnist/tiny", "--out", "file"), "file is a file; choose a folder"),
    "train, under a file": (("train", "fashion-mnist/tiny", "--out", "file/run"), "choose another place"),
    "train, over weights that are no run's": (("train", "fashion-mnist/tiny", "--out", "mine"), "is not a run but"),
    "harden": (
        (*HARDEN, "w.safetensors", "--out", "file"),
        "file is a file; choose a folder",
    ),
    "harden, over its own weights": (
        (*HARDEN, "mine/weights.safetensors", "--out", "mine"),
        "is not a run but already holds weights.safetensors",
    ),
    "demo": (("demo", "--out", "file"), "file is a file; choose a folder"),
    "reproduce": (("reproduce", "table1", "--out", "file"), "file is a file; choose a folder"),
    "reproduce, results": (("reproduce", "table1", "--results", "file"), "file is a file; choose a folder"),
    "queue": (("queue", "run", "pixelcnn", "--tiny", "--out", "file"), "file is a file; choose a folder"),
    "queue, back": (("queue", "run", "pixelcnn", "--tiny", "--back", "file/x"), "choose another place"),
    "report, a folder": (("report", "r.json", "--out", "mine"), "name the file to write, such as mine/report.html"),
    "report, its own record": (("report", "r.json", "--out", "r.json"), "is read as well (r.json)"),
    "report, something else": (("report", "r.json", "--out", "file"), "is not a report of this program"),
    "evaluate, a run": (("evaluate", "run", "--attacks", "pgd", "--out", "mine"), "is a folder; name the file"),
    "export, a folder": (("export", "run", "--out", "mine"), "is a folder; name the file to write"),
    "export, its own weights": (
        ("export", "run", "--out", "run/weights.safetensors", "--force"),
        "is read as well (the run's weights.safetensors)",
    ),
    "export, hub under a file": (
        ("export", "run", "--format", "hub-folder", "--out", "file/hub"),
        "is a file, not a folder",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "said"), OTHERS.values(), ids=OTHERS.keys())
def test_no_command_begins_what_it_cannot_write(world, trained_run, monkeypatch, arguments, said) -> None:
    """None of them has its images here; so what is said must have come first."""
    monkeypatch.setenv("MEMDEF_CACHE", str(world / "cold"))
    Path("file").write_text("a file")
    Path("mine").mkdir()
    shutil.copy("w.safetensors", "mine/weights.safetensors")
    shutil.copytree(trained_run, "run")
    evaluated(Coded(), Path("r.json"))
    before = {path: path.read_bytes() for path in world.rglob("*") if path.is_file()}
    refused(memdef(*arguments), said)
    assert {path: path.read_bytes() for path in world.rglob("*") if path.is_file()} == before


def test_names_keep_their_dots(world) -> None:
    for epsilon in ("0.03", "0.1"):
        assert command("--epsilon", epsilon, "--out", f"eps{epsilon}").status == 0
    for epsilon in ("0.03", "0.1"):
        record = Record.read(Path(f"eps{epsilon}"))
        assert record.per_image == f"eps{epsilon}.images.safetensors"
        found = read_per_image(world / record.per_image)
        assert [one.ball.epsilon for one in found.broken] == [0.02, float(epsilon)]
    stopped(Coded(), Path("a.b.c"))
    assert state_path(Path("a.b.c")).name == "a.b.c.progress.log"
    assert state_path(Path("a.b.c")).is_file()
    assert beside(Path("x/record.json"), "images.safetensors") == Path("x/record.images.safetensors"), "as ever"
    assert beside(Path("v1.2"), "gallery.safetensors") == Path("v1.2.gallery.safetensors")


def test_two_names_that_would_share_a_file_are_refused(world) -> None:
    evaluated(Coded(), Path("eps0.03"))
    refused(command("--out", "eps0.03.json"), "would share eps0.03.images.safetensors", "remove eps0.03")
    Path("eps0.03").unlink()
    assert command("--out", "eps0.03.json").status == 0, "what the message says works"


def test_an_old_record_s_images_are_found_by_the_name_that_it_gives(world) -> None:
    """Earlier versions cut names at their last dot."""
    evaluated(Coded(), Path("eps0.03"))
    per_image_path(Path("eps0.03")).rename("eps0.images.safetensors")
    said = json.loads(Path("eps0.03").read_text())
    del said["checksum"], said["per_image_sha256"]
    Path("eps0.03").write_text(json.dumps(said | {"per_image": "eps0.images.safetensors"}))
    assert memdef("report", "eps0.03").status == 0
    evaluated(Coded(), Path("other.json"), epsilon=0.05)
    shutil.copy("other.images.safetensors", "eps0.images.safetensors")
    refused(memdef("report", "eps0.03"), "contradict each other", "the file [('linf', 0.05)]", "evaluate again")


def test_a_record_of_another_evaluation_is_replaced_with_a_word(world, recwarn) -> None:
    assert command("--out", "r.json").status == 0
    again = command("--out", "r.json")
    assert "is replaced" not in again.err, "the same evaluation again is no other"
    other = command("--out", "r.json", "--epsilon", "0.05", "--seed", "2")
    assert other.status == 0
    assert (
        "r.json holds another evaluation (seed 0, balls linf 0.02); it is replaced when this one is done"
        in other.err
    )
    progress = Stops()
    evaluated(Coded(), Path("r.json"), progress)
    assert any("it is replaced" in note for note in progress.notes)
    assert not [one for one in recwarn if "replaced" in str(one.message)]
    evaluated(Coded(), Path("r.json"), epsilon=0.07)
    (warning,) = [one for one in recwarn if "replaced" in str(one.message)]
    assert Path(warning.filename).name == "helpers_files.py", "the caller's line, not one of the library"


def test_pages_and_figures_of_something_else_are_replaced_with_a_word(world) -> None:
    evaluated(Coded(), Path("one.json"))
    evaluated(Coded(), Path("two.json"), epsilon=0.05)
    assert "replaced" not in memdef("report", "one.json").out
    assert "replaced" not in memdef("report", "one.json").out, "the same page again is no other"
    assert "replaced: report.html, which was the page of something else" in memdef("report", "two.json").out
    before = outputs.contents(world)
    Path("one.json").write_text("other")
    Path("new").write_text("new")
    assert outputs.replaced(before, world) == [world / "one.json"]


def test_images_that_are_started_from_are_not_written_over(world) -> None:
    evaluated(Coded(), Path("record.json"))
    refused(command("--start-from", "record.images.safetensors"), "record.images.safetensors is read as well")
    assert command("--start-from", "record.images.safetensors", "--out", "next.json").status == 0


def _hold(out: str, started: object, go_on: object) -> None:
    class Waits(Stops):
        def advance(self, steps: int, text: str = "") -> None:
            started.set()  # type: ignore[attr-defined]
            go_on.wait(60)  # type: ignore[attr-defined]

    evaluated(Coded(), Path(out), Waits())


def test_one_evaluation_at_a_time_writes_to_a_place(world) -> None:
    """From its first pass to its record, whatever the other one evaluates."""
    context = multiprocessing.get_context("spawn")
    started, go_on = context.Event(), context.Event()
    other = context.Process(target=_hold, args=("r.json", started, go_on))
    other.start()
    try:
        assert started.wait(120)
        refused(
            command("--out", "r.json", "--epsilon", "0.05"), f"is being written by process {other.pid}", "(out)"
        )
        with pytest.raises(ValueError, match="is being written by process"):
            evaluated(Coded(), Path("r.json"))
        assert command("--out", "elsewhere.json").status == 0, "what the message says works"
    finally:
        go_on.set()
        other.join(120)
    assert other.exitcode == 0
    expected = timeless(evaluated(Coded(), Path("fresh/r.json")))
    assert timeless(Record.read(Path("r.json"))) == {
        **expected,
        "audit": timeless(Record.read(Path("r.json")))["audit"],
    }


def test_a_run_is_another_s_by_seed_images_or_training(tmp_path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.begin(TINY, 3, 100, "a" * 64, resume=False)
    run.begin(TINY, 3, 100, "a" * 64, resume=True)
    run.check_same_training(TINY, 3, 100, "a" * 64)
    for seed, count, images, said in (
        (4, 100, "a" * 64, "seed is 3, not 4"),
        (3, 90, "a" * 64, "train_images is 100, not 90"),
        (3, 100, "b" * 64, "trained on other images"),
    ):
        for ask in (lambda *given: run.begin(*given, resume=True), run.check_same_training):
            with pytest.raises(ValueError, match=said):
                ask(TINY, seed, count, images)
    manifest = run.read()
    for name in ("training_sha256", "images_sha256"):
        del manifest[name]
    run.write(manifest)
    run.check_same_training(TINY, 3, 100, "b" * 64)  # a run of an earlier version does not say
