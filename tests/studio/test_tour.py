"""The first minutes in a real headless Chromium: an attack that worked, the tour and the words, on both screens."""

import base64
from dataclasses import replace

import pytest
import torch

from memory_defense import zoo
from memory_defense.studio.prepared import all_prepared
from memory_defense.studio.records import records_of
from memory_defense.studio.runs import Runs
from reporting.conftest import make_record

from .conftest import Running
from .pages import DESK, PHONE, SETTLED, TOURED, until

SCREENS = pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
SPILLED = """() => [...document.querySelectorAll('main *, header *, #tour *')]
  .filter((one) => one.offsetParent && !one.closest('.hidden, svg, select, details:not([open])'))
  .filter((one) => getComputedStyle(one.closest('thead') ?? one).clipPath === 'none')
  .filter((one) => one.getBoundingClientRect().width > 1)
  .filter((one) => one.getBoundingClientRect().right > window.innerWidth + 1)
  .map((one) => one.outerHTML.slice(0, 120))"""
"""What reaches beyond the screen's right edge, even where it could be scrolled to."""

MARKED = """() => [...document.querySelectorAll('main *, header *')]
  .filter((one) => getComputedStyle(one).outlineStyle === 'solid' && getComputedStyle(one).outlineWidth === '3px')
  .map((one) => one.getBoundingClientRect().top)"""
"""Where the parts begin that a step of the tour marks."""
CUT = """() => [...document.querySelectorAll('.scroll')]
  .filter((one) => one.scrollWidth > one.clientWidth).length"""
"""Tables that are wider than their places."""


@pytest.fixture(scope="module")
def example():
    (found,) = [one.example for one in all_prepared() if one.example]
    return found


@pytest.fixture(scope="module")
def shipped(tmp_path_factory, splits, example):
    """The studio as it opens without a folder; of its dataset, only the example's image is the real one."""
    images, labels = splits.test.images.clone(), splits.test.labels.clone()
    images[example.test] = torch.frombuffer(bytearray(base64.b64decode(example.pixels)), dtype=torch.uint8).view(
        1, 28, 28
    )
    labels[example.test] = example.label
    tests = replace(splits, test=replace(splits.test, images=images, labels=labels))
    with Running(tmp_path_factory.mktemp("nothing"), tests, shipped=zoo.ROOT) as one:
        yield one


@SCREENS
def test_the_page_opens_with_an_attack_that_worked(chromium, shipped, example, viewport) -> None:
    """The prepared answer is there while the same question has no other yet, and says what it is."""
    page = chromium.new_page(viewport=viewport)
    page.route("**/api/play", lambda route: None)
    page.goto(shipped.address)
    until(page, "document.querySelector('#play .faces')")
    assert page.inner_text("#told") == example.played.sentence
    assert "The attack worked" in page.inner_text("#told")
    assert page.evaluate("document.getElementById('told').getBoundingClientRect().bottom < innerHeight")
    assert "It is now being computed again on this machine" in page.inner_text("#play")
    assert page.locator("#play .verdict.fail").count() == 1
    until(page, "document.querySelector('#play[aria-busy]')")
    assert page.evaluate("getComputedStyle(document.getElementById('play')).opacity") == "1"
    page.close()


@pytest.mark.parametrize("other", [False, True])
def test_whether_the_example_comes_out_the_same_here_is_said(chromium, shipped, other) -> None:
    def answer(route) -> None:
        response = route.fetch()
        played = response.json()
        if other:
            played["adversarial"]["answer"] = played["label"]
        route.fulfill(response=response, json=played)

    page = chromium.new_page(viewport=DESK)
    page.add_init_script(TOURED)
    page.route("**/api/play", answer)
    page.goto(shipped.address)
    until(page, SETTLED)
    said = "it gives another answer" if other else "it gives the same answer"
    assert said in page.inner_text("#play > .parts > .note")
    with page.expect_response("**/api/play"):
        page.select_option("#label", "0")
    until(page, f"{SETTLED} && !document.querySelector('#play').textContent.includes('comes with the model')")
    page.close()


@SCREENS
def test_the_tour_has_four_steps_and_is_closed_for_good(chromium, shipped, viewport) -> None:
    context = chromium.new_context(viewport=viewport, reduced_motion="reduce")
    page = context.new_page()
    page.goto(shipped.address)
    until(page, SETTLED)
    assert page.is_visible("#tour")
    assert page.evaluate("document.activeElement === document.body"), "nobody asked for it: the focus stays"
    titles = []
    for step in range(4):
        titles.append(page.inner_text("#tour-title"))
        assert titles[-1].startswith(f"{step + 1} of 4: ")
        assert page.is_visible("#tour-back") == (step > 0)
        assert page.evaluate(SPILLED) == []
        box = page.locator("#tour").bounding_box()
        assert box["height"] < 0.45 * viewport["height"], "the page is still seen behind it"
        page.click("#tour-next")
        if step < 3:
            assert page.evaluate("document.activeElement.id") == "tour-title", "read out at once"
            marks, top = page.evaluate(MARKED), page.locator("#tour").bounding_box()["y"]
            assert marks
            assert [mark for mark in marks if not -1 < mark < top] == [], "what is marked is not behind the tour"
    assert len(set(titles)) == 4
    assert page.is_hidden("#tour")
    assert page.evaluate("document.activeElement.id") == "tour-start"
    page.reload()
    until(page, SETTLED)
    assert page.is_hidden("#tour")
    page.click("#tour-start")
    assert page.inner_text("#tour-title") == titles[0]
    context.close()


def test_the_tour_can_be_taken_by_keyboard_alone(page) -> None:
    page.focus("#tour-start")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "tour-title"
    assert page.get_attribute("#tour", "aria-labelledby") == "tour-title"
    for _ in range(2):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "tour-next"
    page.keyboard.press("Enter")
    assert page.inner_text("#tour-title").startswith("2 of 4")
    page.keyboard.press("Escape")
    assert page.is_hidden("#tour")
    assert page.evaluate("document.activeElement.id") == "tour-start"
    page.click("#tab-records")
    page.keyboard.press("Tab")
    page.click("#tour-start")
    assert page.get_attribute("#tab-play", "aria-selected") == "true", "the steps are about this tab"


def test_another_tab_ends_the_tour(page) -> None:
    page.click("#tour-start")
    page.focus("#tab-play")
    page.keyboard.press("ArrowRight")
    assert page.is_hidden("#tour")
    assert page.evaluate("document.body.dataset.tour") is None, "nothing stays marked"
    assert page.evaluate("document.activeElement.id") == "tab-compare"


def test_a_slot_and_the_selector_are_explained_before_their_charts(page) -> None:
    terms = page.locator("#meaning dt").all_inner_texts()
    assert terms == ["Selector", "Slot", "Answer"]
    tops = [
        page.locator(one).bounding_box()["y"] for one in ("#faces", "#meaning", "#play .probabilities >> nth=0")
    ]
    assert tops == sorted(tops)


@SCREENS
def test_no_table_of_a_record_is_cut_off(chromium, own_root, splits, viewport) -> None:
    make_record().write(own_root / "first" / "record.json")
    make_record().model_copy(update={"defense": "package.module:Net"}).write(own_root / "mine.json")
    runs = Runs(own_root, shipped=zoo.ROOT)
    wanted = records_of(runs).records
    with Running(own_root, splits, shipped=zoo.ROOT) as running:
        page = chromium.new_page(viewport=viewport)
        page.add_init_script(TOURED)
        page.goto(running.address)
        until(page, SETTLED)
        page.click("#tab-records")
        until(page, "document.querySelector('#records article')")
        assert page.locator("#records article h2").all_inner_texts() == [one.title for one in wanted]
        assert page.evaluate(SPILLED) == []
        for one, shown in zip(wanted, page.locator("#records .figures").all_inner_texts(), strict=True):
            assert all(number.text in shown and number.detail in shown for number in one.numbers)
        page.evaluate("document.querySelectorAll('#records details').forEach((one) => (one.open = true))")
        page.wait_for_timeout(500)
        assert page.evaluate(SPILLED) == []
        assert page.evaluate(CUT) == 0
        if viewport == PHONE:
            names = page.locator(".stacked .cell-name").all_inner_texts()
            assert "worst case" in names, "a number on a phone stands beside its column's title"
        page.close()
