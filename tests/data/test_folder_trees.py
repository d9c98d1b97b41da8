"""Whatever lies in a folder: the right images with the right labels, or a ValueError that says what to do."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings

from data.trees import FILES, LEFTOVERS, REFUSED, TARGET, Tree, expected, hidden, trees
from generated import examples
from memory_defense.data.own import load_images, load_splits
from memory_defense.data.pictures import LeftOut, Picture, Unreadable, pictures

pytestmark = pytest.mark.filterwarnings("ignore:class")
REMEDY = re.compile(
    r"\b(add|choose|convert|copy|enlarge|give|list|make|move|name|put|read|remove|rename|replace|resize|save|see|unpack|"
    r"write)\b"
)
"""What a message advises begins with one of these."""


@contextmanager
def written(tree: Tree) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="trees-"))
    try:
        tree.write(place / "root")
        yield place / "root"
    finally:
        shutil.rmtree(place)


def read(root: Path, load: Callable[..., Any] = load_images, **options: int) -> Any:
    """Return what is loaded, or the message of its refusal."""
    try:
        return load(root, **options)
    except ValueError as error:
        return str(error)


usual = settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@usual
@given(trees())
def test_a_folder_is_read_rightly_or_refused_with_a_way_out(tree: Tree) -> None:
    wanted = expected(tree)
    with written(tree) as root:
        found = read(root)
        event("refused" if isinstance(found, str) else f"{len(found.images)} images")
        if wanted.faults:
            assert isinstance(found, str), f"read in spite of {wanted.faults}"
            assert str(root) in found
            assert REMEDY.search(found.replace(str(root), "")), found
            return
        assert not isinstance(found, str), f"{found}, but it should be read"
        assert found.classes == tuple(wanted.classes)
        order = found.images.ids.argsort()
        assert found.images.ids[order].tolist() == list(range(len(wanted.labels)))
        assert found.images.labels[order].tolist() == wanted.labels
        assert np.array_equal(found.images.images[order].numpy(), np.stack(wanted.images))
        few = read(root, images=2)
        assert not isinstance(few, str)
        assert torch.equal(few.images.images, found.images.images[:2])
        assert torch.equal(few.images.ids, found.images.ids[:2])
        said = " ".join(found.notes)
        if any(hidden(name) for name in tree.files if name.startswith("test/")):
            assert "left out" in said
        if tree.order is None and sorted(wanted.classes) != wanted.classes and wanted.classes[0].isdecimal():
            assert "in the order of their numbers" in said
        refused = read(root, load_splits)
        assert not isinstance(refused, str) or REMEDY.search(refused.replace(str(root), "")), refused


@usual
@given(trees())
def test_every_file_of_a_folder_has_its_turn(tree: Tree) -> None:
    files = {name: kind for name, kind in tree.files.items() if kind != "folder" and not hidden(name)}
    with written(tree) as root:
        found = list(pictures([root], channels=3, size=4))
        lines = {str(Path(one.name).relative_to(root)): one for one in found if not isinstance(one, LeftOut)}
        extra = {TARGET} | ({"class_order.txt"} if tree.order is not None else set())
        assert lines.keys() == files.keys() | extra
        for name, kind in files.items():
            readable = kind == "link in" or (kind in FILES and kind not in REFUSED)
            assert isinstance(lines[name], Picture if readable else Unreadable), (name, kind, lines[name])
            if isinstance(one := lines[name], Unreadable):
                assert REMEDY.search(one.reason.replace(str(root), "")), one.reason
        left = [one for one in found if isinstance(one, LeftOut)]
        assert len(left) == any(hidden(name) for name in tree.files)


def test_leftovers_are_those_that_people_have() -> None:
    assert all(hidden(f"test/{name}/x.png") for name in LEFTOVERS)
    with pytest.raises(ValueError, match="neither"):
        load_images(Path(__file__).parent)
