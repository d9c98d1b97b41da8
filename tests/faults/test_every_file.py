"""Every file that is read back: a flipped byte is refused or changes nothing, and a kill leaves it whole.

`FILES` is the list. Each entry writes its file in two versions and reads it as the library does.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import memory_defense
from evaluation.test_record import make as made_record
from faults.helpers_faults import made_up, some_images
from faults.kills import Moments
from memory_defense.attacks import Fgsm
from memory_defense.certificates.smoothing import Smoothing
from memory_defense.data.images import ImageSet
from memory_defense.data.sources import AbsentDataError, cache_path, read_cache, write_cache
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.certifying import BySmoothing, Proofs, certify_all
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.results import read_per_image, write_per_image
from memory_defense.evaluation.state import Attempt, State
from memory_defense.evaluation.store import Store, to_tensors
from memory_defense.files import atomic
from memory_defense.paper.half_weights import read_half, write_half
from memory_defense.paper.printed.timing import Timing
from memory_defense.recipes.fashion_mnist import TINY
from memory_defense.reporting import Gallery
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.build import build_classifier, build_defense
from memory_defense.systems.export import export
from memory_defense.systems.load import load, load_exported
from memory_defense.tensorfiles import read_tensors, write_tensors
from memory_defense.threat import Linf
from memory_defense.training.checkpoint import load_weights, save_weights
from memory_defense.training.fit import FitConfig, fit
from memory_defense.training.optimizer import OptimizerConfig
from memory_defense.workflows.offline import Workshop, attacked_bytes
from memory_defense.wrappers import Passes

FLIPS = KILLS = 20
REFUSALS = (ValueError, AbsentDataError)
TIMING = Path(__file__).parents[2] / "docs" / "results" / "timing" / "timing.json"


@dataclass(frozen=True)
class Kept:
    """A file that is read back: who writes it, and what reading it gives."""

    file: str
    write: Callable[[Path, int], object]
    """Writes one of two versions into a folder."""
    read: Callable[[Path], Any]
    """What the library makes of the folder, to be compared; raises ValueError where it refuses."""


def net(version: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(version)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def plain(module: nn.Module) -> dict[str, bytes]:
    return bytes_of(module.state_dict())


def bytes_of(tensors: Any) -> dict[str, bytes]:
    return {name: one.detach().contiguous().numpy().tobytes() for name, one in tensors.items()}


def blank() -> tuple[State, list[Case]]:
    cases = [Case(name="pgd", attack="pgd", knowledge="end-to-end", ball=Linf(0.1))]  # type: ignore[arg-type]
    found = State.blank(some_images(6), torch.arange(6) % 3, torch.arange(6), cases)
    found.start(torch.ones(6, dtype=torch.bool), torch.zeros(6))
    return found, cases


def broken(found: State, row: int) -> tuple[Tensor, Attempt]:
    """Return a row, and an attack that broke its image."""
    rows, yes = torch.tensor([row]), torch.ones(1, dtype=torch.bool)
    images = (found.images[rows] + 0.1).clamp(0, 1)
    return rows, Attempt(images, yes, yes, torch.ones(1), torch.full((1,), 0.1), Passes(3, 2), 0.5, 0)


def grown(store: Store, version: int) -> tuple[State, list[Case]]:
    """Return a state of one more broken image in each version, as a log has it or is made to have it."""
    found, cases = blank()
    store.resume(found)
    for row in range(version + 1):
        if not found.cases[0].done[row]:
            store.add(found, 0, *broken(found, row))
    store.force(at_once=True)
    return found, cases


def state(version: int) -> tuple[State, list[Case]]:
    return grown(Store(None, "mine"), version)


def write_state(folder: Path, version: int) -> None:
    grown(Store(folder / "r.progress.log", "mine"), version)


def read_state(folder: Path) -> list[object]:
    found = blank()[0]
    assert Store(folder / "r.progress.log", "mine").resume(found)
    return [bytes_of(to_tensors(found)), found.broken[0].images[:].numpy().tobytes()]


def per_image(folder: Path) -> list[object]:
    found = read_per_image(folder / "r.images.safetensors")
    tensors = {"ids": found.ids, "labels": found.labels, "predictions": found.predictions}
    return [
        bytes_of(tensors),
        bytes_of(found.broken[0].tensors("ball")),
        found.broken[0].images[:].numpy().tobytes(),
    ]


def write_run(folder: Path, version: int) -> RunDirectory:
    run = RunDirectory(folder)
    manifest = (
        run.begin(TINY, version, 100, "images", resume=True) if not run.manifest_path.exists() else run.read()
    )
    save_weights(run.weights, build_defense(TINY.model, version))
    save_weights(
        run.undefended, build_classifier(TINY.undefended_network, TINY.model.dataset, version, "undefended")
    )
    run.seal({**manifest, "seed": version})
    return run


def read_run(folder: Path) -> list[object]:
    defense: Any = load(folder)
    return [plain(defense), plain(defense.transfer_source), RunDirectory(folder).read()]


class _Halfway:
    """Stops a training at a step."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def begin(self, what: str, total: int) -> None: ...
    def note(self, text: str) -> None: ...
    def advance(self, steps: int, text: str = "") -> None:
        self.left -= steps
        if steps and self.left <= 0:
            raise KeyboardInterrupt


class _Heard:
    """Stops a certification after some images, and remembers how many were done before."""

    def __init__(self, left: int = 100) -> None:
        self.left, self.before = left, -1

    def begin(self, what: str, total: int) -> None: ...
    def note(self, text: str) -> None: ...
    def advance(self, steps: int, text: str = "") -> None:
        self.before = steps if self.before < 0 else self.before
        self.left -= steps
        if self.left < 0:
            raise KeyboardInterrupt


def certified(folder: Path, progress: _Heard) -> Proofs:
    method = BySmoothing(net(0).eval(), Smoothing(sigma=0.1, samples=100, selection=10), 0)
    labels, state = torch.arange(6) % 3, folder / "c.progress.safetensors"
    return certify_all(net(0).eval(), some_images(6), labels, method, Options(progress=progress), state_file=state)


def write_proofs(folder: Path, version: int) -> None:
    with tempfile.TemporaryDirectory() as other:
        with pytest.raises(KeyboardInterrupt):
            certified(Path(other), _Heard(2 + version))
        tensors, header = read_tensors(Path(other) / "c.progress.safetensors")
    write_tensors(folder / "c.progress.safetensors", tensors, header)


def proofs(folder: Path) -> list[object]:
    shutil.copy(folder / "c.progress.safetensors", kept := folder / "kept")
    heard = _Heard()
    found = certified(folder, heard)
    shutil.move(kept, folder / "c.progress.safetensors")
    return [heard.before, bytes_of(found.tensors())]


class _Loss:
    def __init__(self, value: Tensor) -> None:
        self.total = value

    def parts(self) -> dict[str, float]:
        return {"loss": float(self.total.detach())}


def _objective(model: Any, batch: Any) -> Any:
    return _Loss(nn.functional.cross_entropy(model(batch.images), batch.labels))


def training(folder: Path, stop: int | None) -> dict[str, bytes]:
    model, images = net(1), ImageSet(some_images(12), torch.arange(12) % 3, torch.arange(12))
    config = FitConfig(epochs=2, batch_size=4, optimizer=OptimizerConfig(), compile=False)
    progress: Any = None if stop is None else _Halfway(stop)
    try:
        fit(model, _objective, images, config, seed=1, state=folder / "s.state.safetensors", progress=progress)
    except KeyboardInterrupt:
        assert stop is not None
    return plain(model)


def write_training(folder: Path, version: int) -> None:
    (folder / "s.state.safetensors").unlink(missing_ok=True)
    training(folder, 1 + version)


def part(folder: Path, version: int) -> Tensor:
    pixels = (some_images(5) * 255).to(torch.uint8)
    images = ImageSet(pixels, torch.arange(5) % 3, torch.arange(5))
    return attacked_bytes(images, net(1).eval(), Fgsm(), Linf(0.1), version, Workshop(folder))


def write_part(folder: Path, version: int) -> None:
    for path in folder.glob("1-*.safetensors"):
        path.unlink()
    del version
    part(folder, 1)


def gallery(folder: Path, version: int) -> None:
    images, labels = some_images(3 + version), torch.arange(3 + version) % 2
    tensors = {"images": images, "adversarial": images, "labels": labels}
    tensors |= {"predictions_clean": labels, "predictions_adversarial": labels}
    header = {"classes": '["a", "b"]', "attack": "pgd", "knowledge": "any", "epsilon": "0.1", "norm": "linf"}
    write_tensors(
        folder / "gallery.safetensors", {n: one.clone() for n, one in tensors.items()}, header | {"defense": "d"}
    )


def gallery_of(folder: Path) -> list[object]:
    found = Gallery.read(folder / "gallery.safetensors")
    return [bytes_of({"images": found.images, "labels": found.labels}), found.attack, found.epsilon, found.classes]


def exported(format: str, name: str) -> Callable[[Path, int], None]:
    def write(folder: Path, version: int) -> None:
        run = RunDirectory(folder.with_name(f"{folder.name}-run-{version}"))
        if not run.manifest_path.exists():
            write_run(run.path, version)
            made_record(70 - version).write(run.record)
        folder.mkdir(exist_ok=True)
        hub = format == "hub-folder"
        export(run.path, folder / name, format=format, force=True, card=(lambda *_: "card") if hub else None)

    return write


@cache
def onnx_model(version: int) -> bytes:
    """Return what an export writes, made once: tracing takes seconds and writes nothing."""
    with tempfile.TemporaryDirectory() as place:
        exported("onnx", "mine.onnx")(Path(place) / "out", version)
        return (Path(place) / "out" / "mine.onnx").read_bytes()


def write_onnx(folder: Path, version: int) -> None:
    with atomic(folder / "mine.onnx") as temporary:
        temporary.write_bytes(onnx_model(version))


def loaded(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        found: Any = load_exported(folder / name)
        with torch.no_grad():
            return [plain(found), found(torch.full((2, 1, 28, 28), 0.4)).numpy().tobytes()]

    return read


def hub_record(folder: Path) -> object:
    return Record.read(folder / "hub" / "record.json").model_dump_json()


def figure(folder: Path, version: int) -> None:
    Timing.read(TIMING).model_copy(update={"threads": 1 + version}).write(folder / "timing.json")


def write_cached(folder: Path, version: int) -> None:
    del version
    os.environ["MEMDEF_CACHE"] = str(folder)
    write_cache(made_up()[1], replace(made_up()[0], name="made-up"))


def cached(folder: Path) -> object:
    os.environ["MEMDEF_CACHE"] = str(folder)
    assert cache_path(replace(made_up()[0], name="made-up")).is_relative_to(folder)
    return bytes_of(read_cache(replace(made_up()[0], name="made-up")).tensors())


def stage(folder: Path, version: int) -> None:
    said = {"stage": "selector-clean", "images_sha256": "i"}
    save_weights(folder / "selector-clean.safetensors", net(version), said)


def stage_weights(folder: Path) -> object:
    model = net(0)
    said = load_weights(folder / "selector-clean.safetensors", model)
    return [plain(model), said]


def write_certificates(folder: Path, version: int) -> None:
    tensors = {"clean": torch.tensor([True, version == 0]), "answers": torch.tensor([version, 1])}
    write_tensors(folder / "c.certificates.safetensors", tensors, {"method": "smoothing"})


def certificates(folder: Path) -> bytes:
    return bytes_of(read_tensors(folder / "c.certificates.safetensors")[0])


FILES = (
    Kept("r.json", lambda f, v: made_record(70 - v).write(f / "r.json"), lambda f: Record.read(f / "r.json")),
    Kept("r.images.safetensors", lambda f, v: write_per_image(f / "r.images.safetensors", *state(v)), per_image),
    Kept("r.progress.log", write_state, read_state),
    Kept("c.progress.safetensors", write_proofs, proofs),
    Kept("c.certificates.safetensors", write_certificates, certificates),
    Kept("manifest.json", write_run, lambda f: RunDirectory(f).read()),
    Kept("weights.safetensors", write_run, read_run),
    Kept("undefended.safetensors", write_run, read_run),
    Kept("selector-clean.safetensors", stage, stage_weights),
    Kept("s.state.safetensors", write_training, lambda f: training(f, None)),
    Kept("1-0.safetensors", write_part, lambda f: part(f, 1).numpy().tobytes()),
    Kept("gallery.safetensors", gallery, gallery_of),
    Kept("mine.safetensors", exported("safetensors", "mine.safetensors"), loaded("mine.safetensors")),
    Kept("mine.onnx", write_onnx, loaded("mine.onnx")),
    Kept("hub/config.json", exported("hub-folder", "hub"), loaded("hub")),
    Kept("hub/model.safetensors", exported("hub-folder", "hub"), loaded("hub")),
    Kept("hub/record.json", exported("hub-folder", "hub"), hub_record),
    Kept("weights.json", lambda f, v: write_half(net(v), f), lambda f: bytes_of(read_half(f))),
    Kept("weights-1-of-1.safetensors", lambda f, v: write_half(net(v), f), lambda f: bytes_of(read_half(f))),
    Kept("timing.json", figure, lambda f: Timing.read(f / "timing.json").model_dump_json()),
    Kept("datasets/made-up.safetensors", write_cached, cached),
)
"""All that is written and read back. Locks, half-written files, pages and model cards are never read."""

each = pytest.mark.parametrize("kept", FILES, ids=lambda kept: kept.file)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMDEF_CACHE", "unused")


def copied(folder: Path, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place)
    return place


def outcome(kept: Kept, folder: Path) -> tuple[object, str]:
    """Return what reading gives, or why it is refused."""
    try:
        return kept.read(folder), ""
    except REFUSALS as error:
        return None, str(error)


@each
def test_a_flipped_byte_is_refused_or_changes_nothing(tmp_path: Path, kept: Kept) -> None:
    folder = tmp_path / "whole"
    folder.mkdir()
    kept.write(folder, 1)
    content = (folder / kept.file).read_bytes()
    expected = kept.read(copied(folder, tmp_path / "read"))
    chance, refusals = random.Random(f"flips {kept.file}"), 0
    places = [chance.randrange(len(content)) for _ in range(FLIPS)]
    places += [chance.randrange(min(len(content), 300)) for _ in range(FLIPS)]  # headers are short and matter most
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= chance.randrange(1, 256)
        other = copied(folder, tmp_path / "read")
        (other / kept.file).write_bytes(flipped)
        found, said = outcome(kept, other)
        assert said or found == expected, f"byte {place} of {len(content)} was believed"
        assert not said or Path(kept.file).name in said, f"byte {place}: {said}"
        refusals += bool(said)
    assert refusals > FLIPS, "the flips must be felt"


def killed(act: Callable[[], object], at: int | None) -> int:
    """Do something in a fork that is killed at its moment of this number; return how many moments it had."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        moments = Moments(at)
        try:
            moments.install()
            act()
        finally:
            os.writev(writing, [str(moments.count).encode()])
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as said:
        return int(said.read() or 0)


@each
def test_a_kill_while_it_is_written_leaves_the_old_or_the_new(tmp_path: Path, kept: Kept) -> None:
    """Between two files that belong together a kill may leave one of each: then it is refused."""
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, version in ((old, 0), (new, 1)):
        folder.mkdir()
        kept.write(folder, version)
    versions = [kept.read(copied(folder, tmp_path / "read")) for folder in (old, new)]
    for version in (0, 1):  # what an export is made of is no part of what is killed
        kept.write(copied(old, tmp_path / "at"), version)
    moments = killed(lambda: kept.write(copied(old, tmp_path / "at"), 1), None)
    assert moments > 3, "the fork must have written"
    chance, seen = random.Random(f"kills {kept.file}"), set()
    for number in range(KILLS):
        at = copied(old, tmp_path / "at")
        killed(lambda at=at: kept.write(at, 1), 1 + (number * moments + chance.randrange(moments)) // KILLS)
        found, said = outcome(kept, copied(at, tmp_path / "read"))
        assert said or found in versions, f"kill {number} left something else"
        seen.add("refused" if said else "old" if found == versions[0] else "new")
        kept.write(at, 1)
        assert kept.read(copied(at, tmp_path / "read")) == versions[1], "the same command mends it"
        assert not list(at.rglob("*.part")), "nothing half-written is left"
    assert seen - {"refused"}, seen


READS = re.compile(r"\bread_tensors\(|\bparsed\(|\bparted\(|from memory_defense\.checksums import|\b_tail\(")


def test_the_list_is_whole() -> None:
    """Every place in the library that reads such a file is behind some entry; a new one must get its own."""
    source = Path(memory_defense.__file__).parent
    readers = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if READS.search(path.read_text(encoding="utf-8"))
    }
    assert readers == READERS, readers ^ READERS


READERS = {
    "checksums.py",
    "evaluation/verdicts.py",
    "systems/convert.py",
    "tensorfiles.py",
    "run_directory.py",
    "data/array_files.py",  # a user's own file of arrays, which carries no checksum unless this program wrote it
    "data/pictures.py",  # the same
    "data/sources.py",
    "evaluation/certifying.py",
    "evaluation/record.py",
    "evaluation/results.py",
    "evaluation/log.py",
    "paper/half_weights.py",
    "paper/printed/measured.py",
    "paper/shipped.py",  # the header of a classifier that rows share, which `workflows/train.py` reads whole
    "reporting/gallery.py",
    "systems/export.py",  # compares on the gallery's images
    "systems/facts.py",
    "systems/load.py",
    "systems/onnx_export.py",  # compares on the gallery's images
    "systems/onnx_run.py",
    "systems/own_model.py",  # a user's own weights
    "training/checkpoint.py",
    "workflows/harden_certified.py",  # every image's certificate, beside its record
    "workflows/offline.py",
    "workflows/train.py",  # what several runs share
}
