"""Figures 3 and 4 and the timing as text and figure: every number of the file is there, as a reader expects it."""

import re
from xml.etree import ElementTree

import pytest

from memory_defense.evaluation.record import Accuracy, Provenance
from memory_defense.paper.printed.anatomy import html_table
from memory_defense.paper.printed.figure3 import Figure3, Panel, PanelRow, figure3_svg, figure3_text
from memory_defense.paper.printed.figure4 import AttackedError, Figure4, MemorySize, figure4_svg, figure4_text
from memory_defense.paper.printed.timing import Latency, Timing, timing_text
from memory_defense.reporting.text import plain_markdown

FROM = Provenance(version="0", git="", seed=0, device="a device", torch="2", recipe_sha256="")
SHARE = Accuracy(accuracy=0.5, ci95=(0.25, 0.75))


def panel(key: str, right: float, slot: float | None, clean: float | None) -> Panel:
    return Panel(
        key=key,
        title=f"space {key}",
        meaning="what it is",
        neighbours_right=right,
        neighbours_slot=slot,
        clean_neighbours_right=clean,
        answers_right=0.321,
        x=tuple(range(0, 1000, 50)),
        y=tuple(range(1000, 0, -50)),
    )


@pytest.fixture
def figure3() -> Figure3:
    spaces = [("one", 0.811, None), ("two", 0.822, 0.922), ("three", 0.833, 0.933), ("four", 0.844, None)]
    rows = [
        PanelRow(title=title, panels=tuple(panel(key, right, slot, clean) for key, right, slot in spaces))
        for title, clean in (("Clean", None), ("Attacked", 0.177))
    ]
    return Figure3(
        dataset="fashion-mnist",
        scale="tiny",
        provenance=FROM,
        images=20,
        classes=tuple(f"class {number}" for number in range(10)),
        labels=tuple(number % 10 for number in range(20)),
        neighbours=5,
        perplexity=6.0,
        epsilon=25 / 255,
        pixels_right=0.799,
        rows=tuple(rows),
    )


def test_every_share_stands_beside_its_map_and_in_the_table(figure3) -> None:
    svg, text = figure3_svg(figure3), figure3_text(figure3)
    for number in ("81.1", "82.2", "83.3", "84.4", "92.2", "93.3"):
        assert number in svg
        assert number in text
    for number in ("17.7", "79.9", "32.1", "25/255"):
        assert number in text


def test_every_image_is_a_dot_of_its_class_in_every_map(figure3) -> None:
    root = ElementTree.fromstring(figure3_svg(figure3))
    dots = 0
    for path in root.iter("{http://www.w3.org/2000/svg}path"):
        style = path.get("style", "")
        if "stroke-linecap: round" in style:
            dots += len(re.findall("M", path.get("d", "")))
    assert dots == 8 * 20


@pytest.fixture
def figure4() -> Figure4:
    def size(items: int, error: float) -> MemorySize:
        attacked = [
            AttackedError(
                knowledge=known,
                epsilon=eps / 255,
                percentile_99=error + eps / 1e4,
                median=0.01,
                auroc=0.876,
                right=SHARE,
            )
            for eps in (9, 25)
            for known in ("fixed-slots", "end-to-end")
        ]
        return MemorySize(items=items, percentile_99=error, median=0.02, right=SHARE, attacked=tuple(attacked))

    return Figure4(
        dataset="fashion-mnist",
        scale="tiny",
        provenance=FROM,
        images=20,
        sizes=(size(20, 0.1234), size(50, 0.2345)),
    )


def test_figure_4_has_a_line_for_every_size_and_attack(figure4) -> None:
    text = figure4_text(figure4)
    assert len([line for line in text.splitlines() if line.startswith("| 20 ")]) == 5
    assert "| 20 | benign | 0.1234 |" in text
    assert "| 50 | fixed slots, 25/255 | 0.2370 | 0.0100 | 0.876 | 50.0 | [25.0, 75.0] |" in text
    assert "no readable numbers" in text
    svg = figure4_svg(figure4)
    for label in ("benign", "fixed slots, 9/255", "end-to-end, 25/255", "tells nothing"):
        assert label in svg


def test_published_seconds_stand_beside_ten_images_alone() -> None:
    rows = [
        Latency(key=key, title=f"system {key}", batch=batch, runs=100, seconds=0.02, fastest=0.01, ratio=2.5)
        for key in ("without-memory", "with-memory", "defense")
        for batch in (1, 10)
    ]
    text = timing_text(
        Timing(dataset="fashion-mnist", scale="cpu", provenance=FROM, threads=1, latencies=tuple(rows))
    )
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| system ") and " ms" not in line]
    published = {(cells[0][2:], cells[1]): cells[-1].rstrip(" |") for cells in lines}
    assert published == {
        ("system without-memory", "1"): "–",
        ("system without-memory", "10"): "1.712",
        ("system with-memory", "1"): "–",
        ("system with-memory", "10"): "6.192",
        ("system defense", "1"): "–",
        ("system defense", "10"): "–",
    }
    assert "| system with-memory | 10 | 20.000 | 10.000 | 1.000 | 2.50 |" in text
    assert "a device" in text
    assert "3.6 times" in text


def test_tables_escape_what_would_break_them() -> None:
    assert plain_markdown(("a|b", "c"), [("x", "1")]) == ["| a\\|b | c |", "| --- | ---: |", "| x | 1 |"]
    html = html_table(("<b>", "t", "c"), [("x&y", "a", "1<2")])
    assert "<b>" not in html
    assert '<th scope="row">x&amp;y</th><td>a</td><td class="number">1&lt;2</td>' in html
