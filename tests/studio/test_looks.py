"""How the page looks in a real headless Chromium: on a phone, in the dark, with a name that is a trap."""

import shutil

import pytest

from memory_defense.evaluation.flag import Flag, keep_flag
from memory_defense.run_directory import RunDirectory

from .conftest import Running
from .pages import DESK, PHONE, SETTLED, TOURED, until


@pytest.mark.parametrize("page", [{"viewport": PHONE, "has_touch": True}, {"viewport": DESK}], indirect=True)
def test_nothing_is_wider_than_the_screen(page) -> None:
    for tab, ready in (("play", "#play .faces"), ("compare", "#compare .faces"), ("records", "#records > *")):
        page.click(f"#tab-{tab}")
        page.wait_for_selector(ready)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), tab


@pytest.mark.parametrize("page", [{"color_scheme": "dark"}, {"color_scheme": "light"}], indirect=True)
def test_text_stands_out_in_both_schemes(page) -> None:
    """WCAG's contrast of at least 4.5 for text against what is behind it."""
    low = page.evaluate(
        """() => {
          const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
          const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
            .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
          const behind = (one) => {
            for (let at = one; at; at = at.parentElement) {
              const colour = numbers(getComputedStyle(at).backgroundColor);
              if (colour.length < 4 || colour[3] > 0) return colour;
            }
            return [255, 255, 255];
          };
          return [...document.querySelectorAll('main *, header *')]
            .filter((one) => one.offsetParent && [...one.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
            .filter((one) => !one.disabled && !one.closest('option'))
            .map((one) => {
              const ink = light(numbers(getComputedStyle(one).color));
              const [a, b] = [ink, light(behind(one))].sort((x, y) => y - x);
              return [(a + 0.05) / (b + 0.05), one.className || one.tagName, one.textContent.trim().slice(0, 30)];
            })
            .filter(([contrast]) => contrast < 4.5);
        }"""
    )
    assert low == []


@pytest.mark.parametrize("score", ["reconstruction", "disagreement"])
def test_the_flag_names_its_score_and_fits_on_a_phone(chromium, own_root, splits, score) -> None:
    flag = Flag(score=score, threshold=-1.0, false_alarms=0.05, calibration_images=50)
    keep_flag(RunDirectory(own_root / "first"), flag)
    with Running(own_root, splits) as running:
        page = chromium.new_page(viewport=PHONE)
        page.add_init_script(TOURED)
        page.goto(running.address)
        until(page, SETTLED)
        page.click("#defense-card summary")
        page.select_option("#run", "first")
        until(page, "document.querySelector('#play .badge.flagged')")
        assert page.inner_text("#play .faces .badge.flagged >> nth=0") == f"⚑ flagged as suspicious by {score}"
        for tab in ("play", "compare"):
            page.click(f"#tab-{tab}")
            page.wait_for_selector(f"#{tab} .badge.flagged")
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), tab
            outside = page.evaluate(
                """() => {
                  const right = (one) => one.getBoundingClientRect().right;
                  return [...document.querySelectorAll('.faces .badge')].filter((one) => one.offsetParent)
                    .filter((one) => right(one) > right(one.closest('figure')) + 1).length;
                }"""
            )
            assert outside == 0, tab
        page.close()


def test_a_name_that_looks_like_markup_stays_text(chromium, root, splits, tmp_path) -> None:
    evil = tmp_path / "runs" / "<img src=x onerror=alert(1)>"
    shutil.copytree(root / "first", evil)
    with Running(tmp_path / "runs", splits) as running:
        page = chromium.new_page()
        page.add_init_script(TOURED)
        page.goto(running.address)
        until(page, SETTLED)
        assert page.locator("img[src=x]").count() == 0
        assert page.inner_text("#run") == evil.name
        assert page.inner_text("#defense-summary") in ("", evil.name), "shown where the card is closed"
        page.close()


def test_a_run_that_cannot_be_loaded_leaves_the_others_usable(chromium, own_root, splits) -> None:
    weights = own_root / "first" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with Running(own_root, splits) as running:
        page = chromium.new_page()
        page.add_init_script(TOURED)
        page.goto(running.address)
        until(page, SETTLED)
        assert "cannot be used" in page.inner_text("#run option[disabled]")
        page.select_option("#run", "first")
        page.wait_for_selector("#trouble:not([hidden])")
        assert "weights.safetensors" in page.inner_text("#trouble")
        page.select_option("#run", "deeper/second")
        page.wait_for_selector("#trouble", state="hidden")
        until(page, SETTLED)
        page.close()
