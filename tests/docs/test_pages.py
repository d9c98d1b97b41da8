"""Pages that are written from the code or from records say what these say now; links and names lead somewhere."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from memory_defense.evaluation.metrics import accuracy
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.rejection import selection_result
from memory_defense.paper.printed.published import PUBLISHED

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]
EXTERNAL = re.compile(r"^[a-z]+:")


def script(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_command_reference_is_the_commands() -> None:
    made = script("make_commands")
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), "run make docs"


def test_the_page_of_messages_is_the_tables() -> None:
    made = script("make_messages")
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), "run make docs"


@pytest.mark.parametrize(
    "name", ["README.md", "docs/paper-map.md", "docs/peers-on-cases.md", "docs/broken-defenses.md"]
)
def test_numbers_are_those_of_the_records(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert script("make_numbers").filled(text) == text, "run make docs"


def test_every_published_row_has_a_place_in_the_map() -> None:
    text = (ROOT / "docs" / "paper-map.md").read_text(encoding="utf-8")
    rows = {
        f"{what}/{one.dataset}/{row.key}"
        for what, tables in PUBLISHED.items()
        for one in tables
        for row in one.rows
    }
    places = set(re.findall(r"<!-- fill (table\S+) -->", text))
    assert rows - {"table5/fashion-mnist/resnet-offline"} <= places  # which is Table 1's row again


def test_a_record_fills_its_place(tmp_path: Path) -> None:
    made = script("make_numbers")
    record = Record.read(ROOT / "docs/results/demo/paper.json")
    published = PUBLISHED["table5"][0]
    fgsm = [one for one in record.attacks if one.attack == "fgsm" and abs(one.epsilon - 25 / 255) < 1e-9]
    by_knowledge = {one.knowledge: one.accuracy for one in fgsm}
    assert by_knowledge, "the demo's record has the column of Table 5"
    record.write(tmp_path / "cpu/table5/fashion-mnist/memory-defense.json")
    text = made.filled("<!-- fill table5/fashion-mnist/memory-defense -->old<!-- end fill -->", tmp_path)
    worst = next(
        one.accuracy for one in record.worst_case if one.norm == "linf" and abs(one.epsilon - 25 / 255) < 1e-9
    )
    for number in (by_knowledge["fixed-slots"], min(by_knowledge.values()), worst, record.clean.accuracy):
        assert f"{100 * number:.1f} %" in text
    for score in (published.rows[-1].scores[0][0], published.rows[-1].scores[1][0]):
        assert f"{score:g} %" in text
    assert "old" not in text
    assert "not measured yet" in made.filled("<!-- fill table5/fashion-mnist/memae --><!-- end fill -->", tmp_path)


def test_a_defense_that_reads_too_high_is_named_unless_a_check_fails(tmp_path: Path) -> None:
    made = script("make_numbers")

    def row(title: str, said: float, true: float, failed: list[str]) -> dict[str, object]:
        return {"title": title, "ours": {"accuracy": said, "failed": failed}, "truth": {"accuracy": true}}

    rows = [row("fooling", 0.5, 0.1, []), row("seen through", 0.5, 0.1, ["a check"]), row("honest", 0.12, 0.1, [])]
    written = {"rows": {str(number): one for number, one in enumerate(rows)}}
    (tmp_path / "broken-defenses.json").write_text(json.dumps(written), encoding="utf-8")
    place = "<!-- fill broken/open --><!-- end fill -->"
    assert "fooling (50 % where 10 % stand by hand)<" in made.filled(place, tmp_path)
    assert "not measured yet" in made.filled(place, tmp_path / "nowhere")


def test_names_in_the_map_exist() -> None:
    text = (ROOT / "docs" / "paper-map.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)(?::(\w+))?`", text)
    assert len(named) > 60
    for path, name in named:
        (file,) = (one for one in (ROOT / "src/memory_defense" / path, ROOT / "tests" / path) if one.is_file())
        if name:
            assert re.search(rf"^(?:def|class) {name}\b|^{name}\b.*=", file.read_text("utf-8"), re.M), (path, name)
    for number in range(1, 45):
        assert f"| A{number} |" in text


def test_no_dependency_is_unexplained_and_licences_are_the_packages_own() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:(\w+) \| )?([\w-]+) \| ([\w. -]+?) \| \w.*\|$", text, re.M)
    explained = {(extra, name): licence for extra, name, licence in rows if name not in ("package", "licence")}
    asked = {"": project["dependencies"], **project["optional-dependencies"]}
    needed = {
        (extra, re.split(r"[<>=\[ ]", one)[0])
        for extra, several in asked.items()
        for one in several
        if not one.startswith("memory-defense")
    }
    assert set(explained) == needed
    for (_, name), licence in explained.items():
        try:
            meta = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed here
        files = importlib.metadata.files(name) or ()
        texts = [one.read_text()[:200] for one in files if one.name == "LICENSE" and not meta["License-Expression"]]
        stated = f"{meta['License-Expression']} {meta['License']} {meta.get_all('Classifier')} {' '.join(texts)}"
        assert licence.lower() in stated.lower(), (name, licence, stated[:300])


def anchors(page: Path) -> set[str]:
    """Return the anchors that a page's headings make, as GitHub does."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[*`]", "", one).lower()).replace(" ", "-") for one in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda one: one.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if EXTERNAL.match(target):
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), target
        if anchor:
            assert anchor in anchors(place), target


def test_the_architecture_page_names_files_that_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text[text.index("## In which file") : text.index("Imports point down only")]
    named = re.findall(r"`([\w/]+\.py)`", table)
    assert len(named) >= 20
    for path in named:
        assert (ROOT / "src/memory_defense" / path).is_file(), path
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ][0]
    drawn = re.findall(r"[\w|>]+", text[text.index("```\ncli") : text.index("version\n```") + 7])
    assert [word for word in drawn if word not in (">", "|")] == re.findall(r"\w+", " ".join(layers["layers"]))


def test_the_page_of_flags_shows_the_records_that_are_there(tmp_path: Path) -> None:
    made = script("make_flags")
    empty = made.page(tmp_path)
    assert all(title in empty for title in made.ROWS.values())
    assert "Not measured yet" in empty
    images, right = 20, 15
    verdicts = torch.arange(images)
    for name, lost in (("gate", 0), ("none", 8)):
        one = selection_result(
            verdicts < right,
            verdicts >= right + 2,
            verdicts < lost,
            verdicts >= images,
            costs=[0.1],
            norm="linf",
            epsilon=0.1,
            near=0.01,
        )
        record = Record.read(ROOT / "docs" / "results" / "demo" / "sound.json")
        clean = accuracy(right, images)
        changed = {
            "images": images,
            "clean": clean,
            "selection": (one,),
            "attacks": (),
            "worst_case": (),
            "cascades": (),
        }
        record.model_copy(update=changed).write(tmp_path / f"{name}.json")
    page = made.page(tmp_path)
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("|")}
    assert "75.0" in lines[made.ROWS["gate"]]
    assert "35.0" in lines[made.ROWS["none"]], "seven of twenty stand"
    assert made.ROWS["memory"] not in lines
    assert made.ROWS["memory"] in page


def test_records_of_other_images_are_not_put_side_by_side(tmp_path: Path) -> None:
    made, record = script("make_flags"), Record.read(ROOT / "docs" / "results" / "demo" / "sound.json")
    record.write(tmp_path / "gate.json")
    record.model_copy(update={"dataset": "cifar10"}).write(tmp_path / "none.json")
    with pytest.raises(ValueError, match="make them again with the same --images"):
        made.page(tmp_path)
