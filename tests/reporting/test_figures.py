from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_defense.evaluation.record import WorstCase
from memory_defense.reporting import figures
from memory_defense.reporting.figures import NARROW, WIDE, accuracy_figure
from memory_defense.reporting.svg import portable

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("layout", [WIDE, NARROW])
def test_the_same_record_gives_the_same_bytes(record, layout):
    first = accuracy_figure(record, "linf", prefix="a", layout=layout)
    with mpl.rc_context({"lines.linewidth": 3}):
        accuracy_figure(record, "linf", prefix="b")
    assert accuracy_figure(record, "linf", prefix="a", layout=layout) == first


def test_lines_are_labelled_with_their_last_value(record):
    labels = texts(accuracy_figure(record, "linf", prefix="a"))
    curves = {result.knowledge: result for result in record.attacks[5:]}
    assert f"fixed slots {100 * curves['fixed-slots'].accuracy:.1f}" in labels
    assert f"selector {100 * curves['selector'].accuracy:.1f}" in labels
    assert "worst case 1.1" in labels


def test_points_lie_where_the_numbers_say(record):
    """Map the drawn marker positions of one line back to data with the two ends of the axes as a ruler."""
    root = ElementTree.fromstring(accuracy_figure(record, "linf", prefix="a"))
    blue = "var(--selector, #0072b2)"
    spots = [
        (float(use.get("x", "nan")), float(use.get("y", "nan")))
        for use in root.iter(f"{SVG}use")
        if f"fill: {blue}" in use.get("style", "") and "fill-opacity" not in use.get("style", "")
    ]
    results = [result for result in record.attacks[5:] if result.knowledge == "selector"]
    wanted = [(0.0, record.clean.accuracy), *((r.epsilon, r.accuracy) for r in results)]
    key, *spots = spots  # the mark beside the line's name
    assert key[0] > max(x for x, _ in spots)
    assert len(spots) == len(wanted)
    (x0, y0), (x1, y1) = spots[0], spots[-1]
    (e0, a0), (e1, a1) = wanted[0], wanted[-1]
    for (x, y), (epsilon, accuracy) in zip(spots, wanted, strict=True):
        assert x == pytest.approx(x0 + (x1 - x0) * (epsilon - e0) / (e1 - e0), abs=0.01)
        assert y == pytest.approx(y0 + (y1 - y0) * (accuracy - a0) / (a1 - a0), abs=0.01)
    assert y1 > y0  # less accuracy is lower on the page


def test_nothing_is_left_that_reaches_outside_the_figure(record):
    svg = accuracy_figure(record, "linf", prefix="one")
    assert not re.search(r"<style|<metadata|<!DOCTYPE|<\?xml|font-family: '|#0102|matplotlib", svg)
    assert set(re.findall(r"https?://[^\"]+", svg)) == {"http://www.w3.org/2000/svg"}
    root = ElementTree.fromstring(svg)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert all(name.startswith("one-") for name in ids)
    pointed = set(re.findall(r"(?:url\(|href=\")#([^\")]+)", svg))
    assert pointed
    assert pointed <= set(ids)


def test_two_figures_share_no_id(record):
    found = [
        set(re.findall(r" id=\"([^\"]+)\"", accuracy_figure(record, "linf", prefix=prefix)))
        for prefix in ("a", "b")
    ]
    assert not found[0] & found[1]


def test_a_screen_reader_hears_the_numbers(record):
    root = ElementTree.fromstring(accuracy_figure(record, "linf", prefix="a"))
    by_id = {element.get("id"): element.text for element in root.iter() if element.get("id")}
    heard = " ".join(by_id[name] or "" for name in root.get("aria-labelledby", "").split())
    assert root.get("role") == "img"
    assert "Accuracy against epsilon, L-inf" in heard
    assert "worst case 1.1 %" in heard


def test_names_are_text_and_not_markup(factory, attacked):
    record = factory(attacks=tuple(attacked("<b>$x^2$ & y", 0.5, epsilon=e, purpose="curve") for e in (0.1, 0.2)))
    svg = accuracy_figure(record, "linf", prefix="a")
    assert "<b>" not in svg
    assert "<b>$x^2$ & y 50.0" in texts(svg)


def test_one_worst_case_is_a_point_and_not_a_line(factory, record):
    single = factory(worst_case=(WorstCase(norm="linf", epsilon=0.05, accuracy=0.2, ci95=(0.1, 0.3)),))
    ink = "stroke: var(--ink, #1c2430); stroke-width: 4.2"
    assert ink in accuracy_figure(record, "linf", prefix="a")
    assert ink not in accuracy_figure(single, "linf", prefix="a")
    assert "worst case 20.0 at 0.05" in texts(accuracy_figure(single, "linf", prefix="a"))


@pytest.mark.parametrize("layout", [WIDE, NARROW])
def test_nothing_is_drawn_like_a_line_but_lines(factory, layout):
    """The paths that are no curve, no band and no frame: none leads from a name to a curve that ended before."""
    short = factory(worst_case=(WorstCase(norm="linf", epsilon=0.05, accuracy=0.2, ci95=(0.1, 0.3)),))
    root = ElementTree.fromstring(accuracy_figure(short, "linf", prefix="a", layout=layout))
    ink = [path for path in root.iter(f"{SVG}path") if "stroke: var(--ink" in path.get("style", "")]
    shapes = [re.findall(r"[ML] (\S+) (\S+)", path.get("d", "")) for path in ink]
    assert all(len({x for x, _ in shape}) == 1 for shape in shapes if len(shape) == 2), "the interval, upright"
    assert not [shape for shape in shapes if len(shape) > 2]


def test_a_narrow_figure_has_room_for_every_name(record):
    """Names stand below one another and below the axes, inside the figure."""
    svg = accuracy_figure(record, "linf", prefix="a", layout=NARROW)
    root = ElementTree.fromstring(svg)
    _, _, width, height = map(float, root.get("viewBox", "").split())
    names = [
        one for one in root.iter(f"{SVG}text") if re.match(r"(worst case|fixed slots|selector) ", one.text or "")
    ]
    spots = [tuple(map(float, (one.get("x", "nan"), one.get("y", "nan")))) for one in names]
    assert len(spots) == 3
    assert len({x for x, _ in spots}) == 1
    heights = sorted(y for _, y in spots)
    assert all(b - a >= 9 for a, b in itertools.pairwise(heights))
    assert heights[-1] <= height
    assert spots[0][0] < width / 4


def test_without_a_curve_there_is_an_error_with_a_remedy(bare, record):
    with pytest.raises(ValueError, match="the recipe's curve"):
        accuracy_figure(bare, "linf", prefix="a")
    with pytest.raises(ValueError, match="'l2'"):
        accuracy_figure(record, "l2", prefix="a")


@given(st.lists(st.floats(0, 100), max_size=12), st.floats(0.5, 8))
def test_spread_labels_keep_order_and_distance(wanted, step):
    wanted = sorted(wanted)
    places = figures._spread(wanted, step, 0.0, 100.0)
    assert len(places) == len(wanted)
    assert all(b - a >= step - 1e-9 for a, b in itertools.pairwise(places))
    if (len(wanted) - 1) * step <= 100:
        assert all(-1e-9 <= place <= 100 for place in places)


def test_spread_leaves_distant_labels_alone():
    assert figures._spread([10.0, 40.0, 90.0], 5.0, 0.0, 100.0) == [10.0, 40.0, 90.0]
    assert figures._spread([99.0, 99.5], 5.0, 0.0, 100.0) == [95.0, 100.0]
    assert figures._spread([50.0, 50.0, 50.0], 5.0, 0.0, 100.0) == [45.0, 50.0, 55.0]


def test_portable_renames_and_recolours():
    source = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'width="1" height="1">'
        '<style>* {color: red}</style><g id="unused"><path id="p" style="fill: #010200; '
        'font-family: Arial"/></g>'
        '<use xlink:href="#p" clip-path="url(#c)"/><clipPath id="c"/></svg>'
    )
    svg = portable(source, prefix="x", colours={"#010200": "var(--ink)"}, title="T & t", description="D")
    assert '<path style="fill: var(--ink); " id="x-p" />' in svg
    assert 'href="#x-p"' in svg
    assert 'clip-path="url(#x-c)"' in svg
    assert "unused" not in svg
    assert "<style" not in svg
    assert "T &amp; t" in svg
