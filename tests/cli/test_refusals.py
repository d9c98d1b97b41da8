"""No command imports torch before the values it was given are checked, and what makes sense gets past the checks.

All calls are made in one process in which importing anything heavy fails and is written down.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from memory_defense.attacks import ATTACKS
from memory_defense.attacks.suites import SUITES
from memory_defense.cli.app import app

PROBE = """
import contextlib, io, json, sys

HEAVY = ("torch", "numpy", "scipy", "PIL", "matplotlib", "safetensors")

class Refuse:
    tried = []

    def find_spec(self, name, path=None, target=None):
        if name in HEAVY:
            self.tried.append(name)
            raise ImportError(f"{name} is imported")

sys.meta_path.insert(0, Refuse())
from memory_defense.cli import main

for arguments in json.load(sys.stdin):
    sys.argv = ["memdef", *arguments]
    Refuse.tried.clear()
    said = io.StringIO()
    status = 0
    with contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as end:
            status = end.code
        except ImportError as error:
            status = str(error)
    loaded = [name for name in HEAVY if name in sys.modules]
    print(json.dumps([status, said.getvalue(), Refuse.tried, loaded]))
"""

TRAIN = ("train", "fashion-mnist/tiny", "--out", "new")
OWN = ("evaluate", "net:build", "--data", "folder", "--epsilon", "8/255")
CERTIFY = ("certify", "net:build", "--data", "folder", "--radius", "0.5", "--sigma", "0.25")
HARDEN = ("harden", "net:build", "--weights", "net.safetensors", "--data", "folder")
NOWHERE = ("--data-dir", "nowhere")
NO_DATA = "data_dir is nowhere, which is not a directory; name one that exists, or none"
NO_RUN = "nowhere is not a run directory: it has no manifest.json; train one with 'memdef train'"
UNFINISHED = "unfinished is not finished; continue it with 'memdef train --resume'"
NO_DEVICE = "unknown device 'gpu'; use cpu, cuda or cuda:N"
NO_FOLDER = "there is no folder or file nowhere"
NO_NUMBER = "epsilon 'much' is not a number; write it as 8/255 or 0.03"
NO_SHARE = "false_alarms is 1.5, but the share of clean images that may be flagged lies between 0 and 1"
NO_WEIGHTS = "nowhere.safetensors does not exist; make it first, or give the path of a .safetensors file"

REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("demo", "--scale", "tinny"), "unknown scale 'tinny'; did you mean 'tiny'? Known: cpu, tiny"),
    (("demo", *NOWHERE), NO_DATA),
    (("train", "fashion-mnist/dmeo", "--out", "new"), "unknown recipe 'fashion-mnist/dmeo'; did you mean"),
    ((*TRAIN, "--device", "gpu"), NO_DEVICE),
    ((*TRAIN, "--device", "cuda:x"), "unknown device 'cuda:x'"),
    ((*TRAIN, *NOWHERE), NO_DATA),
    ((*TRAIN, "--size", "16"), "--size: only together with --data"),
    ((*TRAIN, "--data", "nowhere"), NO_FOLDER),
    (
        (*TRAIN, "--data", "cifar-10"),
        "there is no folder or file cifar-10; unknown dataset 'cifar-10'; did you mean",
    ),
    ((*TRAIN, "--data", "net.py"), "net.py is neither a folder nor a .npz or .safetensors file"),
    ((*TRAIN, "--data", "folder", "--size", "3"), "size is 3, but it must be from 4 to 128 pixels a side"),
    ((*TRAIN, "--data", "cifar10", "--size", "16"), "size is 16, but cifar10 is trained on as it is"),
    (
        ("train", "cifar10/cpu/magnet", "--out", "new", "--data", "folder"),
        "is a recipe of magnet, and only recipes",
    ),
    (("train", "fashion-mnist/tiny", "--out", "run"), "run already holds a run; continue it with --resume"),
    (("evaluate", "nowhere"), NO_RUN),
    (("evaluate", "folder"), "folder is not a run directory"),
    (("evaluate", "unfinished"), UNFINISHED),
    (("evaluate", "damaged"), "damaged/manifest.json is damaged"),
    (("evaluate", "run", "--attacks", "pdg"), "unknown attack or suite 'pdg'; did you mean 'pgd'?"),
    (("evaluate", "run", "--attacks", "fast,,pgd"), "a name in attacks is empty: ['fast,,pgd']; write 'fast,pgd'"),
    (("evaluate", "run", "--attacks", ""), "a name in attacks is empty: ['']; write 'fast'"),
    (("evaluate", "hardened", "--attacks", "cw"), "cw works in l2 balls only, and none is evaluated here"),
    (("evaluate", "run", "--epsilon", "much"), NO_NUMBER),
    (("evaluate", "run", "--epsilon", "8"), "epsilon is 8.0, but an L-inf radius must be in [0, 1], as images are"),
    (("evaluate", "run", "--epsilon", "1e999"), "epsilon '1e999' is not a number"),
    (("evaluate", "run", "--norm", "l2"), "--norm: only for package.module:build, but run is a run directory"),
    (("evaluate", "run", "--weights", "net.safetensors", "--size", "8"), "--weights, --size: only for"),
    (("evaluate", "run", "--false-alarms", "0.1"), "--false-alarms: only together with --detection"),
    (("evaluate", "run", "--detection", "--false-alarms", "1.5"), NO_SHARE),
    (("evaluate", "run", "--detection", "--knowledge", "selector"), "--knowledge: not together with --detection"),
    (("evaluate", "run", "--gate", "much"), "epsilon 'much' is not a number; write it as 0.5 or 128/255"),
    (("evaluate", "run", "--gate", "0.1", "--detection"), "--gate: not together with --detection"),
    ((*OWN, "--gate", "0.1"), "--gate: only for a run directory whose defense proves its answers"),
    (("evaluate", "run", "--data", "nowhere"), NO_FOLDER),
    (("evaluate", "run", *NOWHERE), NO_DATA),
    (("evaluate", "run", "--device", "gpu"), NO_DEVICE),
    (("evaluate", "net:build", "--epsilon", "8/255"), "which images? give --data"),
    (("evaluate", "net.onnx", "--epsilon", "8/255"), "which images? give --data"),
    (("evaluate", "no.onnx", *OWN[2:]), "no.onnx does not exist; write it with 'memdef export RUN'"),
    (("evaluate", "net.safetensors", *OWN[2:], "--weights", "net.safetensors"), "net.safetensors brings its own"),
    (
        ("evaluate", "net:build", "--data", "folder"),
        "the largest change that an attack may make is missing; give --epsilon",
    ),
    (
        ("evaluate", "my/net.py:build", *OWN[2:]),
        "names no classifier; write package.module:attribute, such as my.net",
    ),
    ((*OWN, "--epsilon", "much"), NO_NUMBER),
    ((*OWN, "--norm", "l1"), "unknown norm 'l1'; known: linf, l2"),
    ((*OWN, "--norm", "l2", "--epsilon", "-1"), "epsilon is -1.0, but an L2 radius must be at least 0"),
    ((*OWN, "--norm", "l2", "--epsilon", "much"), "epsilon 'much' is not a number; write it as 0.5 or 128/255"),
    ((*OWN, "--attacks", "pgd,autoatack"), "unknown attack or suite 'autoatack'; did you mean 'autoattack'?"),
    ((*OWN, "--attacks", ""), "a name in attacks is empty"),
    ((*OWN, "--attacks", "fast,ddn"), "ddn works in l2 balls only, and none is evaluated here; leave it out"),
    ((*OWN, "--detection"), "--detection: only for a run directory"),
    ((*OWN, "--knowledge", "selector"), "--knowledge: only for a run directory"),
    ((*OWN, "--size", "1025"), "size is 1025, but it must be from 4 to 1024"),
    ((*OWN, "--weights", "nowhere.safetensors"), NO_WEIGHTS),
    ((*OWN, "--start-from", "nowhere.safetensors"), NO_WEIGHTS),
    ((*OWN, "--data", "nowhere"), NO_FOLDER),
    ((*OWN, "--data", "cifar10", *NOWHERE), NO_DATA),
    ((*OWN, "--device", "gpu"), NO_DEVICE),
    (("certify", "nowhere", "--radius", "0.5"), NO_RUN),
    (("certify", "unfinished", "--radius", "0.5"), UNFINISHED),
    (("certify", "run", "--radius", "much"), "epsilon 'much' is not a number; write it as 0.5 or 128/255"),
    (("certify", "run", "--radius", "-1"), "epsilon is -1.0, but an L2 radius must be at least 0"),
    (("certify", "run", "--radius", "0.5", "--sigma", "0"), "--sigma is 0.0, but noise has a standard deviation"),
    (("certify", "run", "--radius", "0.5", "--samples", "9"), "--samples: only with --sigma"),
    (("certify", "run", "--radius", "0.5", "--bounds", "ibp", "--alpha", "0.1"), "--alpha: only with --sigma"),
    (
        ("certify", "run", "--radius", "0.5", "--sigma", "1", "--alpha", "1"),
        "--alpha is 1.0, but a probability of error is in",
    ),
    (("certify", "run", "--radius", "0.5", "--weights", "net.safetensors"), "--weights: only for"),
    (("certify", "run", "--radius", "0.5", "--device", "gpu"), NO_DEVICE),
    (
        ("certify", "run", "--radius", "0.5", "--bounds", "ipb"),
        "unknown method of bounds 'ipb'; did you mean 'ibp'?",
    ),
    ((*CERTIFY, "--bounds", "ibp"), "--bounds: not together with --sigma"),
    ((*CERTIFY, "--data", "nowhere"), NO_FOLDER),
    ((*CERTIFY, "--size", "1025"), "size is 1025, but it must be from 4 to 1024"),
    ((*CERTIFY, "--weights", "nowhere.safetensors"), NO_WEIGHTS),
    (CERTIFY[:-2], "your classifier proves nothing by itself; give --sigma to smooth it, such as 0.25"),
    (("certify", "net:build", "--radius", "0.5", "--sigma", "1"), "which images? give --data"),
    (("certify", "no.onnx", *CERTIFY[2:]), "no.onnx does not exist; write it with 'memdef export RUN'"),
    (
        ("certify", "net.safetensors", *CERTIFY[2:], "--weights", "net.safetensors"),
        "net.safetensors brings its own",
    ),
    (("predict", "nowhere", "folder"), NO_RUN),
    (("predict", "unfinished", "folder"), UNFINISHED),
    (("predict", "run", "a.png", "b.png"), "there is no a.png or b.png; give image files"),
    (("predict", "run", "folder", "--false-alarms", "1.5"), NO_SHARE),
    (("predict", "run", "folder", "--gate", "much"), "epsilon 'much' is not a number; write it as 0.5 or 128/255"),
    (("predict", "run", "folder", "--gate", "0.1", "--false-alarms", "0.1"), "--false-alarms: not together with"),
    (("predict", "run", "folder", "--data", "nowhere"), NO_FOLDER),
    (("predict", "run", "folder", *NOWHERE), NO_DATA),
    (("predict", "run", "folder", "--device", "gpu"), NO_DEVICE),
    (
        ("harden", "net.py", *HARDEN[2:]),
        "'net.py' names no classifier; write package.module:attribute, such as net",
    ),
    (("harden", "my net:build", *HARDEN[2:]), "'my net:build' names no classifier; write package.module:attribute"),
    ((*HARDEN, "--weights", "nowhere.safetensors"), "--weights nowhere.safetensors does not exist"),
    ((*HARDEN, "--weights", "net.py"), "--weights net.py is not a .safetensors file"),
    ((*HARDEN, "--data", "nowhere"), "--data nowhere does not exist"),
    ((*HARDEN, "--data", "net.py"), "net.py is neither a folder nor"),
    ((*HARDEN, "--data", "cifar10", *NOWHERE), NO_DATA),
    ((*HARDEN, "--data", "cifar10", "--size", "16"), "size is 16, but cifar10 is trained on as it is"),
    ((*HARDEN, "--size", "8"), "--size is 8, but the memory autoencoder takes 16 to 1024 pixels"),
    ((*HARDEN, "--epsilon", "much"), "--epsilon 'much' is not a number; write it as 8/255 or 0.03"),
    ((*HARDEN, "--epsilon", "0"), "--epsilon is 0, but it must be above 0"),
    ((*HARDEN, "--attacks", "pgd", "--attacks", "cw"), "cw works in l2 balls only, and none is evaluated here"),
    ((*HARDEN, "--attacks", "fats"), "unknown attack or suite 'fats'; did you mean 'fast'?"),
    ((*HARDEN, "--device", "gpu"), NO_DEVICE),
    (("compare", "nowhere", "record.json"), "nowhere does not exist; give the file that an evaluation wrote"),
    (("report", "nowhere"), "nowhere"),
    (("report", "run"), "run has no record.json; make one with: memdef evaluate run"),
    (("report", "run", "--format", "latex"), "run has no record.json; make one with: memdef evaluate run"),
    (("report", "damaged/manifest.json"), "damaged/manifest.json is not a record of schema 1"),
    (("report", "run", "--format", "latx"), "unknown format 'latx'; did you mean 'latex'?"),
    (("report", "run", "--markdown", "--format", "latex"), "--markdown and --format latex: give one of them"),
    (("convert", "nowhere.pth", "w.safetensors"), "nowhere.pth does not exist"),
    (("convert", "net.safetensors", "w.pth"), "w.pth should end in .safetensors; write w.safetensors"),
    (("evaluate", "hf:folder", *OWN[2:]), "folder has no config.json, so it is not a folder of transformers"),
    (("evaluate", "theirs.pt2", *OWN[2:]), "theirs.pt2 does not exist, or is not a file"),
    ((*OWN, "--preprocess", "rgb"), "'rgb' says no preprocessing at 'rgb'"),
    ((*OWN, "--argument", "depth"), "--argument 'depth' is not NAME=VALUE"),
    (("export", "net:build", "--data", "folder"), "only a trained run can be written in it, and net:build"),
    (("export", "nowhere"), NO_RUN),
    (("export", "unfinished"), UNFINISHED),
    (("export", "run", "--format", "onxx"), "unknown format 'onxx'; did you mean 'onnx'?"),
    (("export", "run", "--out", "net.safetensors"), "net.safetensors already exists; give --force to replace it"),
    (("export", "run", "--out", "folder"), "folder is a folder; name the file to write"),
    (("export", "run", "--format", "hub-folder"), "run has no record.json, and a model card states"),
    (("export", "run", "--format", "hub-folder", "--out", "net.py"), "net.py is a file; choose a folder"),
    (("reproduce", "tabel1"), "unknown table or figure 'tabel1'; did you mean 'table1'?"),
    (("reproduce", "table1", "--scale", "papre"), "unknown scale 'papre'; did you mean 'paper'?"),
    (("reproduce", "table2", "--row", "magnet"), "unknown row of table2 'magnet'"),
    (("reproduce", "figure3", "--row", "magnet"), "figure3 has no rows to choose from; leave out --row"),
    (("reproduce", "figure3", "--processes", "2"), "figure3 has no rows to make at once; leave out --processes"),
    (("reproduce", "table1", *NOWHERE), NO_DATA),
    (("reproduce", "table1", "--device", "gpu"), NO_DEVICE),
    (("queue", "run", "pixelcn"), "unknown entry of the queue 'pixelcn'; did you mean 'pixelcnn'?"),
    (("queue", "run", "pixelcnn", "--device", "gpu"), NO_DEVICE),
    (("queue", "run", "pixelcnn", *NOWHERE), NO_DATA),
    (("queue", "run", "pixelcnn", "--tiny", "--offline"), "--data-dir and --offline: not with --tiny"),
    (("queue", "run", "pixelcnn", "--tiny", "--device", "gpu"), NO_DEVICE),
    (("data", "fashion-minst"), "unknown dataset 'fashion-minst'; did you mean 'fashion-mnist'?"),
    (("data", "cifar10", *NOWHERE), NO_DATA),
    (("studio", "nowhere"), "nowhere is not a directory; give one that holds runs"),
    (("studio", ".", "--seconds", "0"), "seconds is 0, but a computation may take up to 3600 s"),
    (("studio", ".", *NOWHERE), NO_DATA),
]

ACCEPTED: list[tuple[str, ...]] = [
    ("demo", "--scale", "tiny"),
    (*TRAIN, "--device", "cuda:1"),
    ("queue", "run", "pixelcnn", "--tiny", "--device", "cuda:1"),
    (*TRAIN, "--data", "folder", "--size", "16"),
    ("train", "fashion-mnist/tiny", "--out", "run", "--resume"),
    ("evaluate", "run", "--attacks", "pgd,fast", "--epsilon", "8/255", "--data", "folder"),
    ("evaluate", "hardened", "--attacks", "pgd-margin", *NOWHERE),
    ("evaluate", "hardened", "--attacks", "fgsm"),
    ("evaluate", "run", "--attacks", "square", "--attacks", "FAST,hop-skip-jump"),
    (*OWN, "--attacks", "fast, fab-t"),
    ("evaluate", "run", "--detection", "--false-alarms", "0.05"),
    ("evaluate", "run", "--gate", "0.1"),
    (*OWN, "--norm", "l2", "--epsilon", "3/2", "--weights", "net.safetensors", "--attacks", "pgd, square"),
    (*OWN, *NOWHERE),
    CERTIFY,
    ("certify", "run", "--radius", "0.5", "--radius", "1", "--sigma", "0.25"),
    ("predict", "run", "folder", "a.png"),
    ("predict", "flagged", "folder", *NOWHERE),
    (*HARDEN, "--epsilon", "8/255", "--size", "16"),
    ("report", "record.json"),
    ("export", "run", "--format", "onnx"),
    ("reproduce", "table2", "--row", "memory-defense", "--scale", "tiny"),
    ("reproduce", "anatomy"),
    ("queue", "run", "pixelcnn", "--tiny"),
    ("data", "cifar10"),
    ("recipes",),
    ("compare", "record.json", "record.json"),
    ("convert", "net.safetensors", "converted.safetensors"),
    ("studio", "."),
]


def manifest(**entries: object) -> str:
    model = {"dataset": "fashion-mnist", "defense": "memory-defense", "preset": "sound", "selector": "linear"}
    made_by = {"recipe": "fashion-mnist/tiny", "recipe_sha256": "0", "seed": 0, "train_images": 100}
    plain = {"schema": 1, **made_by, "model": model, "stages": {}, "complete": True, "undefended_network": ""}
    return json.dumps(plain | entries)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A user's folder: runs in every state, a module, weights, images, a record; torch never opens any of them."""
    root = tmp_path_factory.mktemp("user")
    flag = {"score": "reconstruction", "threshold": 1.0, "false_alarms": 0.05, "calibration_images": 100}
    runs = {
        "run": manifest(),
        "flagged": manifest(flag=flag),
        "hardened": manifest(recipe="harden net:build on shapes", hardened={}, images_from={"source": "folder"}),
        "unfinished": manifest(complete=False),
        "damaged": "{}",
    }
    for name, text in runs.items():
        (root / name).mkdir()
        (root / name / "manifest.json").write_text(text)
    (root / "folder").mkdir()
    (root / "net.py").write_text("")
    (root / "net.safetensors").write_bytes(b"")
    shutil.copy(Path(__file__).parents[2] / "docs" / "results" / "demo" / "paper.json", root / "record.json")
    return root


@pytest.fixture(scope="module")
def calls(place) -> dict[tuple[str, ...], tuple[object, str, list[str], list[str]]]:
    """Return what every call came to: its status, what it said, what heavy it asked for, what heavy is loaded."""
    every = [arguments for arguments, _ in REFUSED] + ACCEPTED
    environment = {key: value for key, value in os.environ.items() if key not in ("MEMDEF_DATA", "WORLD_SIZE")}
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        input=json.dumps(every),
        capture_output=True,
        text=True,
        env=environment,
        cwd=place,
        timeout=120,
        check=True,
    )
    found = [tuple(json.loads(line)) for line in done.stdout.splitlines()]
    return dict(zip(every, found, strict=True))


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[" ".join(one) for one, _ in REFUSED])
def test_a_mistake_is_named_without_torch(calls, arguments, message) -> None:
    status, said, tried, loaded = calls[arguments]
    assert (tried, loaded) == ([], [])
    assert status == 2, said
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("arguments", ACCEPTED, ids=" ".join)
def test_what_makes_sense_gets_as_far_as_importing(calls, arguments) -> None:
    status, said, tried, loaded = calls[arguments]
    assert tried, said
    assert status == f"{tried[0]} is imported"
    assert "error" not in said
    assert loaded == []


def test_nothing_is_written(calls, place) -> None:
    assert calls
    assert not (place / "new").exists()
    assert not (place / "runs").exists()
    assert sorted(one.name for one in (place / "run").iterdir()) == ["manifest.json"]


def test_every_command_that_takes_values_is_tried() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {arguments[0] for arguments, _ in REFUSED} == set(commands) - {"recipes", "attacks", "zoo", "systems"}
    assert {arguments[0] for arguments in ACCEPTED} == set(commands) - {"attacks", "zoo", "systems"}


def test_attacks_are_listed_without_torch() -> None:
    code = "import sys; sys.argv[1:] = ['attacks']; from memory_defense.cli import main; main(); "
    code += "sys.stderr.write(str('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "False"
    named = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert named == {*SUITES, *ATTACKS}
