"""The anatomy as text and figure: the document says what the file says, and the figure says what the table says."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from memory_defense.evaluation.record import Accuracy, Provenance
from memory_defense.paper.printed.anatomy import (
    Anatomy,
    AnatomyStep,
    anatomy_html,
    anatomy_markdown,
    anatomy_svg,
    published_cell,
    with_anatomy,
    write_anatomy,
)
from memory_defense.reporting.svg import as_file

DOCS = Path(__file__).parents[3] / "docs"


def step(key: str, score: float, title: str = "a change") -> AnatomyStep:
    share = Accuracy(accuracy=score, ci95=(score / 2, (1 + score) / 2))
    return AnatomyStep(
        key=key,
        title=title,
        changed="steps",
        protocol={"steps": 10},
        score=score,
        attacked=share,
        selector=share,
        agreement=1.0,
        median_change=25 / 255,
    )


@pytest.fixture
def anatomy() -> Anatomy:
    return Anatomy(
        dataset="fashion-mnist",
        scale="tiny",
        provenance=Provenance(version="0", git="", seed=0, device="cpu", torch="2", recipe_sha256=""),
        images=12,
        epsilon=25 / 255,
        clean=Accuracy(accuracy=0.9, ci95=(0.8, 1.0)),
        steps=(step("a", 0.85), step("d", 0.75), step("h", 0.0123)),
        controls=(step("a", 0.86, "Random signs, no attack"), step("d", 0.77, "Random signs, no attack")),
    )


def test_the_paper_s_cell_is_the_table_s() -> None:
    assert published_cell() == 89.80


def test_the_document_holds_what_the_file_measured() -> None:
    document = (DOCS / "anatomy.md").read_text(encoding="utf-8")
    result = Anatomy.read(DOCS / "results" / "anatomy" / "anatomy.json")
    assert with_anatomy(document, result) == document


def test_the_pictures_and_pages_beside_the_file_are_its_own(tmp_path) -> None:
    kept = DOCS / "results" / "anatomy"
    for path in write_anatomy(Anatomy.read(kept / "anatomy.json"), tmp_path):
        if path.suffix != ".svg":  # matplotlib places letters by the fonts it finds
            assert path.read_bytes() == (kept / path.name).read_bytes()


def test_a_document_keeps_what_stands_around_the_marks(anatomy) -> None:
    document = "before\n<!-- begin anatomy -->\nold\n<!-- end -->\nafter\n"
    new = with_anatomy(document, anatomy)
    assert new.startswith("before\n<!-- begin anatomy -->\n")
    assert new.endswith("<!-- end -->\nafter\n")
    assert "old" not in new
    assert with_anatomy(new, anatomy) == new


@pytest.mark.parametrize("document", ["nothing", "<!-- begin anatomy -->", "<!-- end --> <!-- begin anatomy -->"])
def test_a_document_without_the_marks_is_refused(anatomy, document) -> None:
    with pytest.raises(ValueError, match="once each"):
        with_anatomy(document, anatomy)


def test_every_number_stands_in_table_page_and_figure(anatomy) -> None:
    for text in (anatomy_markdown(anatomy), anatomy_html(anatomy), anatomy_svg(anatomy)):
        for number in ("89.80", "85.0", "75.0", "1.2"):
            assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", text)
    remark = (
        "leaves 86.0 % where the attack of step a leaves 85.0 % and 77.0 % where the attack of step d leaves 75.0 %"
    )
    assert remark in anatomy_markdown(anatomy)


def test_the_figure_follows_the_page_and_the_file_the_reader(anatomy) -> None:
    svg = anatomy_svg(anatomy)
    assert svg == anatomy_svg(anatomy)
    assert "<style" not in svg
    assert set(re.findall(r"#0102\w\w", svg)) == set()
    file = as_file(svg, dark=True)
    assert "prefers-color-scheme:dark" in file
    root = ElementTree.fromstring(file.encode())
    assert root.get("role") == "img"
    used = set(re.findall(r"var\(--([a-z-]+)", svg))
    assert used <= set(re.findall(r"--([a-z-]+):#", file))
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert all(name.startswith("anatomy") for name in ids)


def test_bars_go_from_number_to_number(anatomy) -> None:
    """Measured by the bar of the paper's cell, which begins at 0."""
    svg = ElementTree.fromstring(anatomy_svg(anatomy))
    widths = []
    for path in svg.iter("{http://www.w3.org/2000/svg}path"):
        if "opacity: 0.75" not in path.get("style", ""):
            continue
        across = [float(x) for x in re.findall(r"[ML] (-?[\d.]+) ", path.get("d", ""))]
        widths.append(max(across) - min(across))
    assert len(widths) == 4
    shares = [width / widths[0] * 89.8 for width in widths]
    assert shares == pytest.approx([89.8, 89.8 - 85, 10, 75 - 1.23], abs=0.3)
