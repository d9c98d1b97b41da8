"""Folders as people have them, made up; and what a reader should find in one, said without the reader's code."""

from __future__ import annotations

import io
import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image, ImageOps

NFC, NFD = "caf\u00e9", "cafe\u0301"
ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".apng", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
TEXTS = (".txt", ".md", ".csv", ".json", ".sha256")
LEFTOVERS = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")
TARGET, ORDER = "zz-target.png", "class_order.txt"


def _levels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _opaque(alpha: int) -> Image.Image:
    image = Image.fromarray(_levels(4, 4, 3, seed=4)).convert("RGBA")
    image.putpixel((1, 2), (*image.getpixel((1, 2))[:3], alpha))
    return image


def _sixteen() -> Image.Image:
    return Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000)


GREY, COLOUR = Image.fromarray(_levels(4, 4, seed=1)), Image.fromarray(_levels(4, 4, 3, seed=2))
WHOLE: dict[str, bytes] = {
    "grey.png": _saved(GREY, "PNG"),
    "grey2.png": _saved(Image.fromarray(_levels(4, 4, seed=9)), "PNG"),
    "colour.png": _saved(COLOUR, "PNG"),
    "colour.bmp": _saved(COLOUR, "BMP"),
    "colour.ppm": _saved(COLOUR, "PPM"),
    "grey.jpg": _saved(GREY, "JPEG"),
    "turned.jpg": _saved(COLOUR, "JPEG", exif=_turned(6)),
    "mirrored.png": _saved(GREY, "PNG", exif=_turned(5)),
    "turned.tif": _saved(GREY, "TIFF", exif=_turned(8)),
    "colour.webp": _saved(COLOUR, "WEBP", lossless=True),
    "grey.tif": _saved(GREY, "TIFF"),
    "packed.tif": _saved(COLOUR, "TIFF", compression="tiff_lzw"),
    "grey.gif": _saved(GREY, "GIF"),
    "palette.png": _saved(COLOUR.quantize(8), "PNG"),
    "opaque.png": _saved(_opaque(255), "PNG"),
    "bits.png": _saved(GREY.convert("1"), "PNG"),
}
"""Files that are read, by what is in them."""
OTHER_SHAPES: dict[str, bytes] = {
    "larger.png": _saved(Image.fromarray(_levels(5, 5)), "PNG"),
    "wide.png": _saved(Image.fromarray(_levels(4, 6)), "PNG"),
}
REFUSED: dict[str, bytes] = {
    "tiny.png": _saved(Image.fromarray(_levels(3, 5)), "PNG"),
    "transparent.png": _saved(_opaque(254), "PNG"),
    "sixteen.png": _saved(_sixteen(), "PNG"),
    "sixteen.tif": _saved(_sixteen(), "TIFF"),
    "float.tif": _saved(Image.fromarray(_levels(4, 4).astype(np.float32)), "TIFF"),
    "pages.tif": _saved(GREY, "TIFF", save_all=True, append_images=[COLOUR.convert("L")]),
    "cmyk.jpg": _saved(Image.new("CMYK", (4, 4)), "JPEG"),
    "moving.gif": _saved(GREY, "GIF", save_all=True, append_images=[Image.fromarray(_levels(4, 4, seed=7))]),
    "moving.webp": _saved(COLOUR, "WEBP", save_all=True, append_images=[Image.fromarray(_levels(4, 4, 3, seed=8))]),
    "phone.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40),
    "empty": b"",
    "cut.png": _saved(COLOUR, "PNG")[:-30],
    "cut.tif": _saved(COLOUR, "TIFF")[:-5],
    "text": b"no image",
}
FILES = {**WHOLE, **OTHER_SHAPES, **REFUSED}
ODD = ("folder", "link in", "link out", "link to nothing", "link to itself", "link to the split", "pipe")
"""What else may lie where a file should."""

_CLASSES = ["0", "1", "2", "10", "cat", "Cat", "10_cat", "class_9", "class_10", NFC, NFD, "a b"]
_ODD_CLASSES = [*_CLASSES, "01", "x" * 200, "new\nline", "\udcff", ".git", "__MACOSX", "@eaDir"]
_STEMS = ["1", "2", "10", "b c", NFD, "n\nl", "\udcfe", "y" * 180, ".hidden"]
_NO_IMAGES = ["a.txt", "README.md", "sums.sha256", "Thumbs.db", "._a.png"]


@dataclass(frozen=True)
class Tree:
    """What lies below a folder."""

    files: dict[str, str]
    """What each path is: a key of `FILES`, or one of `ODD`."""
    order: bytes | None = None
    """The order file."""

    def write(self, root: Path) -> None:
        """Make it; beside `root` is one image that links lead to."""
        root.mkdir(parents=True)
        (root / TARGET).write_bytes(FILES["grey.png"])
        (root.parent / "outside.png").write_bytes(FILES["grey.png"])
        if self.order is not None:
            (root / ORDER).write_bytes(self.order)
        for name, kind in self.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "folder":
                path.mkdir()
            elif kind == "pipe":
                os.mkfifo(path)
            elif kind in ODD:
                path.symlink_to(
                    {
                        "link in": root / TARGET,
                        "link out": root.parent / "outside.png",
                        "link to nothing": root / "none.png",
                        "link to itself": path,
                        "link to the split": path.parent.parent,
                    }[kind]
                )
            else:
                path.write_bytes(FILES[kind])


@dataclass
class Found:
    """What a reader should find."""

    faults: list[str] = field(default_factory=list)
    """Why it should be refused, if it should."""
    images: list[np.ndarray] = field(default_factory=list)
    """(C, H, W) of the test images, in order."""
    labels: list[int] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)


def pixels(kind: str) -> np.ndarray:
    """Return (H, W) or (H, W, 3) by Pillow's own way to open, turn and convert a file."""
    image = Image.open(io.BytesIO(FILES["grey.png" if kind == "link in" else kind]))
    grey = image.mode in ("1", "L", "LA")
    return np.asarray(ImageOps.exif_transpose(image).convert("L" if grey else "RGB"))


def hidden(path: str) -> bool:
    """Return whether some part of a path is left out."""
    return any(part.startswith(".") or part in LEFTOVERS for part in path.split("/"))


def _ending(name: str) -> str:
    return Path(name).suffix.lower()


def expected(tree: Tree) -> Found:
    """Return what `load_images` should find in the test split, looking at the tree's description alone."""
    found = Found()
    folders: dict[str, dict[str, dict[str, str]]] = {"train": {}, "test": {}}
    there = {name.split("/")[0] for name in tree.files if "/" in name}
    for name, kind in tree.files.items():
        parts = name.split("/")
        if hidden(name):
            if len(parts) > 2 and not hidden("/".join(parts[:2])):
                folders[parts[0]].setdefault(parts[1], {})
        elif len(parts) == 3:
            folders[parts[0]].setdefault(parts[1], {})[parts[2]] = kind
        elif len(parts) == 2 and kind == "folder":
            folders[parts[0]].setdefault(parts[1], {})
        elif len(parts) == 2 and not (_ending(parts[1]) in TEXTS and (kind in FILES or kind == "link in")):
            found.faults.append(f"{name} beside the classes")
    if "test" not in there:
        found.faults.append("no test")
        return found
    first = "train" if "train" in there else "test"
    _classes(tree, found, sorted(folders[first]), sorted(folders["train"] | folders["test"]))
    if found.faults:
        return found
    files, _ = _listed(found, folders["test"], "test")
    read = [pixels(kind) for kind, _ in files if kind not in REFUSED]
    if len(read) < len(files) or not files or len({one.shape[:2] for one in read}) > 1:
        found.faults.append("no images, some that cannot be read, or several sizes")
    colour = any(one.ndim == 3 for one in read)
    if not found.faults and not colour and "train" in there:
        _, headers = _listed(found, folders["train"], "train")
        colour = bool(headers)
    found.labels = [label for _, label in files]
    found.images = [
        one.transpose(2, 0, 1) if one.ndim == 3 else np.stack([one] * (3 if colour else 1)) for one in read
    ]
    return found


def _classes(tree: Tree, found: Found, first: list[str], every: list[str]) -> None:
    found.faults += [f"class {name!a}" for name in every if not name.isprintable()]
    same: dict[str, str] = {}
    for name in first:
        same.setdefault(unicodedata.normalize("NFC", name), name)
    if tree.order is not None:
        try:
            lines = [line.strip() for line in tree.order.decode().splitlines() if line.strip()]
        except UnicodeDecodeError:
            lines = []
        if not lines or len({unicodedata.normalize("NFC", line) for line in lines}) < len(lines):
            found.faults.append("order file")
        same = {unicodedata.normalize("NFC", line): line for line in lines}
    found.faults += [f"{name!a} unknown" for name in every if unicodedata.normalize("NFC", name) not in same]
    found.classes = list(same.values())
    if tree.order is None and all(name.isascii() and name.isdecimal() for name in same.values()):
        found.classes.sort(key=int)
        if len({int(name) for name in found.classes}) < len(found.classes):
            found.faults.append("one number twice")
    if len(found.classes) < 2:
        found.faults.append("one class")


def _listed(
    found: Found, folders: dict[str, dict[str, str]], split: str
) -> tuple[list[tuple[str, int]], list[str]]:
    """Return kind and label of a split's files, and those of colour; note its faults."""
    files: list[tuple[str, int]] = []
    for label, one in enumerate(found.classes):
        for folder in sorted(folders):
            if unicodedata.normalize("NFC", folder) != unicodedata.normalize("NFC", one):
                continue
            for name, kind in sorted(folders[folder].items()):
                regular = kind in FILES or kind == "link in"
                if regular and _ending(name) in TEXTS:
                    continue
                if regular and _ending(name) in ENDINGS:
                    files.append((kind, label))
                else:
                    found.faults.append(f"{split}/{folder!a}/{name!a} is {kind}")
    return files, [kind for kind, _ in files if kind not in REFUSED and pixels(kind).ndim == 3]


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Draw a folder of at most 14 entries; one in two holds nothing that should be refused by itself."""
    odd = draw(st.booleans())
    every = [*FILES, *ODD] if odd else [*WHOLE, "link in"]
    known = draw(st.lists(st.sampled_from(_ODD_CLASSES if odd else _CLASSES), min_size=2, max_size=4, unique=True))
    palette = st.sampled_from(known)
    ending = st.sampled_from([*ENDINGS[:11], ".PNG", ".JPG"])
    image = st.tuples(st.sampled_from(_STEMS), ending).map("".join)
    other = st.sampled_from([*_NO_IMAGES, "x.heic", "none"] if odd else _NO_IMAGES)
    usual = st.tuples(palette, image, st.sampled_from([*WHOLE]))
    strange = st.tuples(palette, st.one_of(image, other), st.sampled_from(every))
    text = st.tuples(palette, other, st.just("text"))
    entry = st.one_of(usual, usual, strange if odd else usual, text)
    chosen: dict[str, str] = {}
    for split, entries in (
        ("test", draw(st.lists(entry, max_size=9))),
        ("train", draw(st.lists(st.one_of(usual, text), max_size=5))),
    ):
        chosen |= {f"{split}/{label}/{name}": kind for label, name, kind in entries}
    if not odd:
        chosen |= {
            f"{split}/{label}/0.png": "grey.png"
            for split in {name.split("/")[0] for name in chosen}
            for label in known
        }
    elif draw(st.integers(0, 3)) == 0:
        kind = draw(
            st.sampled_from(["grey.png", "text", "folder", "link out", "link to nothing", "pipe", "link in"])
        )
        chosen[f"{draw(st.sampled_from(['test', 'train']))}/{draw(st.one_of(image, other))}"] = kind
    kept: dict[str, str] = {}
    for name in sorted(chosen):
        parts = name.split("/")
        parents = ["/".join(parts[:n]) for n in range(1, len(parts))]
        below = any(one.startswith(f"{name}/") for one in chosen)
        if not below and not any(parent in kept for parent in parents) and len(os.fsencode(parts[-1])) < 250:
            kept[name] = chosen[name]
    return Tree(kept, draw(_orders(palette)) if draw(st.integers(0, 5)) == 0 else None)


@st.composite
def _orders(draw: st.DrawFn, palette: st.SearchStrategy[str]) -> bytes:
    """Draw an order file: right, short, with names that are no folders, with one twice, or none in UTF-8."""
    lines = draw(st.lists(palette, min_size=1, max_size=6, unique=True))
    lines += draw(st.sampled_from([[], [], ["more"], ["more", "more"], ["\udcff"]]))
    return "\n".join(lines).encode("utf8", "surrogateescape")
