"""Folders as people have them. No peer reads folders, so that these are asked of this library alone."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageFile

from cases.case import Case, absent, command
from cases.observe import Observation, Rule, Seen, judged, watch
from cases.toolkits import OURS, Found, attack
from cases.toy import CLASSES, EPSILON, gratings, linear_problem, trained
from memory_defense.contracts import Images

NO_FOLDERS = "reads no folders: images come as tensors or arrays"
NAMES = ("ant", "bee", "cat", "dog")
FACTORY = """from cases.toy import Linear, Small

def build(classes):
    return Small(classes)

def large(classes):
    return Linear(classes, 224)
"""


def write_folder(
    root: str, images: Images, labels: torch.Tensor, names: Sequence[str] = NAMES, *, split: str = "test"
) -> None:
    """Write ROOT/SPLIT/CLASS/NUMBER.png."""
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        place = Path(root) / split / names[label]
        place.mkdir(parents=True, exist_ok=True)
        pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype("uint8")
        Image.fromarray(pixels).save(place / f"{number:04d}.png")


def net_file(classes: int = CLASSES, *, steps: int = 80) -> None:
    """Write a factory ``toynet:build`` and the weights of a trained net, w.safetensors."""
    from safetensors.torch import save_file

    Path("toynet.py").write_text(FACTORY, encoding="utf-8")
    save_file(trained(classes, steps=steps).state_dict(), "w.safetensors")


def evaluate(*arguments: object, radius: float = EPSILON) -> Seen:
    """Evaluate the trained net on the folder `data` with a single step."""
    return command(
        "evaluate", "toynet:build", "--weights", "w.safetensors", "--data", "data",
        "--epsilon", repr(radius), "--attacks", "fgsm", "--out", "record.json", *arguments,
    )  # fmt: skip


def _numbered(toolkit: str) -> list[Observation]:
    if toolkit != OURS:
        return absent(NO_FOLDERS)
    classes = 12
    images, labels = gratings(96, classes)
    write_folder("data", images, labels, [str(one) for one in range(classes)])
    net_file(classes, steps=250)
    net = trained(classes, steps=250)
    with torch.no_grad():
        truth = float((net((images * 255).round() / 255).argmax(1) == labels).double().mean())
    seen = evaluate(radius=0.02)
    if not seen.error:
        seen.value = json.loads(Path("record.json").read_text())["clean"]["accuracy"]
    rule = Rule(
        right=lambda got: abs(got - truth) < 1e-6 or re.search(NUMBERED.helps, seen.said) is not None,
        helps=NUMBERED.helps,
        shown=lambda got: f"{100 * got:.1f} % clean; labels that follow the numbers: {100 * truth:.1f} %",
    )
    return [judged("", seen, rule)]


def _predict(toolkit: str) -> list[Observation]:
    if toolkit != OURS:
        return absent("reads no image files and has no verdict on single images")
    images, labels = gratings(300)
    large = torch.nn.functional.interpolate(images[:, :1], 28)
    write_folder("data", large.repeat(1, 3, 1, 1), labels, split="train")
    write_folder("data", large[:20].repeat(1, 3, 1, 1), labels[:20])
    made = command("train", "fashion-mnist/tiny", "--data", "data", "--out", "run")
    if made.error:
        raise RuntimeError(f"no run to predict with: {made.error}")
    Path("inbox").mkdir()
    for number in range(3):
        picture = Image.fromarray((large[number, 0].numpy() * 255).astype("uint8"))
        for ending, kind in (("png", None), ("webp", None), ("tif", None), ("jfif", "JPEG")):
            picture.convert("RGB").save(f"inbox/{number}.{ending}", format=kind)
    files = {one.name for one in Path("inbox").iterdir()}
    seen = command("predict", "run", "inbox", "--json")
    named = {Path(one).name for one in re.findall(r"inbox/[\w.]+", seen.said)}
    said = "every file is named" if named >= files else f"{len(named & files)} of {len(files)} files are named"
    seen.value, status, seen.error = said, seen.value, ""
    rule = Rule(
        right=lambda _: named >= files or (bool(status) and "not read" in seen.said),
        helps=PREDICT.helps,
        shown=lambda got: f"{got}, exit status {status}",
    )
    return [judged("", seen, rule)]


def _composed(toolkit: str) -> list[Observation]:
    if toolkit != OURS:
        return absent(NO_FOLDERS)
    from memory_defense.data.own import load_images

    names = ["café", "naïve", "tea", "zinc"]
    images, labels = gratings(16)
    write_folder("data", images, labels, names, split="train")
    write_folder("data", images, labels, [unicodedata.normalize("NFD", one) for one in names])
    rule = Rule(
        right=lambda got: [unicodedata.normalize("NFC", one) for one in got] == sorted(names),
        helps=COMPOSED.helps,
        shown=", ".join,
    )
    return [judged("", watch(lambda: list(load_images("data").classes)), rule)]


def _few(toolkit: str) -> list[Observation]:
    if toolkit != OURS:
        return absent(NO_FOLDERS)
    many, asked = 600, 8
    images, labels = gratings(many)
    write_folder("data", images, labels)
    net_file()
    decoded: list[str] = []
    load = ImageFile.ImageFile.load

    def counted(self: ImageFile.ImageFile) -> object:
        if self.tile:  # emptied once the pixels are there
            decoded.append(str(self.filename))
        return load(self)

    ImageFile.ImageFile.load = counted
    seen = evaluate("--images", asked)
    seen.value = len(decoded)
    rule = Rule(
        right=lambda got: asked <= got <= 2 * asked,
        helps=FEW.helps,
        shown=lambda got: f"{got} of {many} files decoded for {asked} images",
        text=lambda seen: seen.error,
    )
    return [judged("", seen, rule)]


def _large(toolkit: str) -> list[Observation]:
    net, images, labels, epsilon, exact = linear_problem(2, count=8, side=224)
    rule = Rule(
        right=lambda got: abs(got.robust[0] - exact) < 1e-6,
        helps=LARGE.helps,
        shown=lambda got: f"{got}; exact: {100 * exact:.1f} %",
        text=lambda seen: seen.error,
    )
    found = [judged("from Python", watch(lambda: attack(toolkit, net, images, labels, epsilon, kind="bim")), rule)]
    if toolkit == OURS:
        found += _large_folder(images, labels, rule)
    return found


def _large_folder(images: Images, labels: torch.Tensor, rule: Rule) -> list[Observation]:
    from safetensors.torch import save_file

    write_folder("data", images, labels, NAMES[:2])
    Path("toynet.py").write_text(FACTORY, encoding="utf-8")
    _, _, _, epsilon, _ = linear_problem(2, count=8, side=224)
    net = linear_problem(2, count=8, side=224)[0]
    save_file({"weight": net.weight.detach()}, "w.safetensors")
    found: list[Observation] = []
    for options in ((), ("--size", 224)):
        seen = command("evaluate", "toynet:large", "--weights", "w.safetensors", "--data", "data", *options,
                       "--epsilon", repr(epsilon), "--attacks", "bim", "--out", "record.json")  # fmt: skip
        if not seen.error:
            record = json.loads(Path("record.json").read_text())
            seen.value = Found(tuple(one["accuracy"] for one in record["worst_case"]))
        found.append(judged(" ".join(map(str, ("memdef evaluate", *options))), seen, rule))
    return found


NUMBERED = Case(
    name="numbered-folders",
    kind="folders as people have them",
    situation="Twelve class folders are named 0 ... 11, which sort otherwise as text.",
    oracle="The accuracy with labels that follow the numbers, or a line that says how they are sorted.",
    helps=r"sorted (as|by)|as numbers",
    ask=_numbered,
)
PREDICT = Case(
    name="predict-skips",
    kind="folders as people have them",
    situation="A folder of pictures to check holds .png, .webp, .tif and .jfif files.",
    oracle="Every file has a line, or those that were not read are named and the exit status is not 0.",
    helps=r"not read|passed over|skipped",
    ask=_predict,
)
COMPOSED = Case(
    name="composed-names",
    kind="folders as people have them",
    situation="Class names with accents are composed in train/ and decomposed in test/, as a Mac writes them.",
    oracle="The same four classes, or a message about composition.",
    helps=r"NFD|NFC|combining|compos",
    ask=_composed,
)
FEW = Case(
    name="few-of-many",
    kind="folders as people have them",
    situation="Eight images are asked for out of a folder of 600.",
    oracle="The number of files that are decoded: about eight.",
    helps=r"reading all",
    ask=_few,
)
LARGE = Case(
    name="pixels-224",
    kind="folders as people have them",
    situation="The classifier takes 224 x 224 pixels and nothing else.",
    oracle="The exact worst case of a linear classifier of that size; or a message that says what remains.",
    helps=r"memory_defense\.evaluate",
    ask=_large,
)
CASES = (NUMBERED, PREDICT, COMPOSED, FEW, LARGE)
