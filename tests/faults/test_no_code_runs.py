"""No file can run code: nothing that unpickles or evaluates is called, and payloads are refused unread."""

from __future__ import annotations

import ast
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import memory_defense
from faults.helpers_faults import memdef, refused
from memory_defense.data.own import load_images
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.results import read_per_image
from memory_defense.reporting import Gallery
from memory_defense.tensorfiles import read_tensors

SOURCE = Path(memory_defense.__file__).parent
MODULES = (
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "yaml",
    "jsonpickle",
)
CALLS = ("eval", "exec", "compile", "__import__")
METHODS = {"torch": ("load",), "np": ("load", "fromregex"), "numpy": ("load",), "os": ("system", "popen")}


def _weights_only(call: ast.Call) -> bool:
    """Return whether torch is told to unpickle nothing but tensors and plain values."""
    return any(
        one.arg == "weights_only" and isinstance(one.value, ast.Constant) and one.value.value is True
        for one in call.keywords
    )


def offences(tree: ast.AST) -> list[str]:
    """Return what a module calls or imports that can run what it reads."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [one.name for one in node.names if one.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(node.module or "")
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in CALLS:
                found.append(node.func.id)
            if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                owner, name = node.func.value.id, node.func.attr
                if name in METHODS.get(owner, ()) and not _weights_only(node):
                    found.append(f"{owner}.{name}")
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if keyword.arg in ("allow_pickle", "shell") and value is not False:
                    found.append(keyword.arg)
                if keyword.arg == "weights_only" and value is not True:
                    found.append(keyword.arg)
    return found


def test_the_source_calls_nothing_that_runs_what_it_reads() -> None:
    modules = sorted(SOURCE.rglob("*.py"))
    assert len(modules) > 100
    found = {str(path): what for path in modules if (what := offences(ast.parse(path.read_text(encoding="utf-8"))))}
    assert not found


@pytest.mark.parametrize(
    "bad",
    [
        "import pickle",
        "from yaml import load",
        "import torch\ntorch.load('x', weights_only=False)",
        "import torch\ntorch.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "eval('1')",
        "import subprocess\nsubprocess.run('x', shell=True)",
    ],
)
def test_the_scan_sees_what_it_looks_for(bad) -> None:
    assert offences(ast.parse(bad))


class Proof:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.place),)


def pickles(proof: Path, folder: Path) -> list[Path]:
    """Return files that make a folder `proof` if anything unpickles them."""
    plain = folder / "plain"
    plain.write_bytes(pickle.dumps(Proof(proof)))
    old = folder / "old"
    old.write_bytes(pickle.dumps(Proof(proof), protocol=0))
    torched = folder / "torched"
    torch.save({"weight": Proof(proof)}, torched)
    legacy = folder / "legacy"
    torch.save({"weight": Proof(proof)}, legacy, _use_new_zipfile_serialization=False)
    objects = folder / "objects"
    with zipfile.ZipFile(objects, "w") as archive, archive.open("images.npy", "w") as member:
        np.lib.format.write_array(member, np.array([Proof(proof)], dtype=object), allow_pickle=True)
    return [plain, old, torched, legacy, objects]


def test_the_payload_works_where_it_is_trusted(tmp_path) -> None:
    proof = tmp_path / "proof"
    for path in pickles(proof, tmp_path)[:2]:
        pickle.loads(path.read_bytes())
        assert proof.is_dir()
        proof.rmdir()


READERS = {
    "weights.safetensors": read_tensors,
    "record.json": Record.read,
    "record.images.safetensors": read_per_image,
    "gallery.safetensors": Gallery.read,
    "images.npz": load_images,
    "images.safetensors": load_images,
}


@pytest.mark.parametrize("name", READERS)
def test_a_pickle_by_any_name_is_refused_unread(tmp_path, name) -> None:
    proof = tmp_path / "proof"
    for number, payload in enumerate(pickles(proof, tmp_path)):
        place = tmp_path / str(number)
        place.mkdir()
        path = payload.replace(place / name)
        with pytest.raises(ValueError, match=name):
            READERS[name](path)
        assert not proof.exists()


def test_a_pickle_among_images_and_datasets_is_refused_unread(tmp_path, idx_folder, small_world) -> None:
    proof = tmp_path / "proof"
    for number, payload in enumerate(pickles(proof, tmp_path)):
        for split in ("a", "b"):
            (tmp_path / f"folder {number}" / "test" / split).mkdir(parents=True)
        (tmp_path / f"folder {number}" / "test" / "a" / "x.png").write_bytes(payload.read_bytes())
        with pytest.raises(ValueError, match=r"x\.png"):
            load_images(tmp_path / f"folder {number}")
        place = tmp_path / f"idx {number}"
        place.mkdir()
        for path in idx_folder.iterdir():
            (place / path.name).write_bytes(payload.read_bytes())
        refused(memdef("data", "fashion-mnist", "--data-dir", place), "ubyte.gz", "delete it and fetch it again")
        assert not proof.exists()
