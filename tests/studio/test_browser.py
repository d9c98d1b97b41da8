"""The page in a real headless Chromium: load, attack, upload, draw, compare; by mouse and by keyboard."""

import numpy as np

from memory_defense.data.own import load_splits
from workflows.own_folder import write_folder

from .conftest import Running, png
from .pages import PHONE, SETTLED, TOURED, set_epsilon, shown, told, until
from .test_own_images import run_on


def test_the_first_result_is_there_without_a_click(page, splits) -> None:
    assert (shown(page, 0) == splits.test.images[0, 0].numpy()).all()
    assert told(page)
    assert page.locator("#play .probabilities tbody tr").count() == 20
    assert page.locator("#play .slot").count() == 10
    assert page.locator("#play .slot.chosen").count() == 1
    assert page.locator("#play .strip").count() == 2
    assert page.locator("#thumbnails button").count() == 12


def choose_one_that_is_right(page, library) -> None:
    """Choose a test image that the defense classifies correctly, so that the attack has something to do."""
    defense, tests = library.subject("deeper/second").defense, library.test_images("fashion-mnist")
    index = int((defense(tests.floats()).argmax(1) == tests.labels).nonzero()[0])
    page.select_option("#run", "deeper/second")
    page.fill("#test-index", str(index))
    with page.expect_response("**/api/play"):
        page.press("#test-index", "Tab")
    until(page, SETTLED)


def test_the_slider_attacks_again(page, library) -> None:
    choose_one_that_is_right(page, library)
    set_epsilon(page, 0)
    assert (shown(page, 0) == shown(page, 1)).all()
    set_epsilon(page, 0.2)
    change = np.abs(shown(page, 0).astype(int) - shown(page, 1)).max()
    assert change == 51
    assert "0.200 = 51/255" in page.inner_text("#epsilon-text")


def test_only_the_newest_of_many_moves_is_answered(page, library) -> None:
    choose_one_that_is_right(page, library)
    for step in range(12):
        page.evaluate(
            "value => { const slider = document.getElementById('epsilon'); slider.value = value;"
            " slider.dispatchEvent(new Event('input')); }",
            0.02 * step,
        )
    page.wait_for_timeout(300)
    until(page, SETTLED)
    assert np.abs(shown(page, 0).astype(int) - shown(page, 1)).max() == 56


def test_every_choice_reaches_the_attack(page) -> None:
    for selector, value, key in (
        ("#attack", "fgsm", "attack"),
        ("#knowledge", "selector", "knowledge"),
        ("#norm", "l2", "norm"),
    ):
        with page.expect_request("**/api/play") as sent:
            page.select_option(selector, value)
        assert sent.value.post_data_json["attack"][key] == value
    page.select_option("#attack", "ddn")
    assert page.locator("#norm option[value=linf]").is_disabled()
    with page.expect_request(lambda one: '"steps":7' in (one.post_data or "")) as sent:
        page.fill("#option-steps", "7")
        page.press("#option-steps", "Tab")
    assert sent.value.post_data_json["attack"]["attack"] == "ddn"


def test_adaptive_knowledge_is_chosen_by_keyboard(page) -> None:
    heading = "#knowledge optgroup[label^=Adaptive]"
    assert page.eval_on_selector_all(f"{heading} option", "all => all.map((one) => one.value)") == [
        "steering",
        "joint",
    ]
    page.focus("#knowledge")
    page.keyboard.press("End")
    assert page.input_value("#knowledge") == "joint"
    with page.expect_response("**/api/play"):
        page.keyboard.press("ArrowUp")
    page.wait_for_selector("#told.trouble")
    assert "pgd leads away" in page.inner_text("#told")
    note = page.inner_text("#" + page.get_attribute("#knowledge", "aria-describedby"))
    assert note.startswith("Adaptive. The attacker knows the whole defense")
    assert note.endswith("It needs pgd-t, fab-t, apgd-t or autoattack.")
    with page.expect_request("**/api/play") as sent:
        page.select_option("#attack", "pgd-t")
    assert sent.value.post_data_json["attack"]["knowledge"] == "steering"
    page.wait_for_selector("#told.fail, #told.pass")
    assert "It needs" not in page.inner_text("#knowledge-note")
    until(page, SETTLED)
    assert "each of the 9 wrong classes" in page.inner_text("#play")
    page.click("#tab-compare")
    page.wait_for_selector("#compare .faces")
    assert page.inner_text("#compare").count("each of the 9 wrong classes") == 2


def test_own_test_images_are_offered_or_their_absence_told(chromium, tmp_path, splits) -> None:
    here, lost = write_folder(tmp_path / "here"), write_folder(tmp_path / "lost")
    run_on(here, tmp_path / "runs" / "own")
    run_on(lost, tmp_path / "runs" / "without")
    lost.rename(tmp_path / "moved")
    with Running(tmp_path / "runs", splits) as running:
        page = chromium.new_page(viewport=PHONE)
        page.add_init_script(TOURED)
        page.goto(running.address)
        until(page, SETTLED)
        page.click("#defense-card summary")
        assert page.locator("#thumbnails button").count() == 9
        assert (shown(page, 0) == load_splits(here).test.images[0].permute(1, 2, 0).numpy()).all()
        assert page.inner_text("#test-note") == ""
        page.select_option("#run", "without")
        until(page, "document.getElementById('test-note').textContent")
        assert page.is_visible("#test-note")
        assert f"{lost}, which is not there any more" in page.inner_text("#test-note")
        assert page.is_disabled("#source-test")
        assert page.is_visible("#canvas")
        assert page.inner_text("#told") == "Upload an image or draw one."
        assert page.inner_text("#play") == "", "the result of another run is no answer about this one"
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.select_option("#run", "own")
        until(page, f"{SETTLED} && document.querySelectorAll('#thumbnails button').length")
        assert page.is_checked("#source-test")
        page.close()


def test_another_test_image_is_one_click_away(page, splits) -> None:
    with page.expect_response("**/api/play"):
        page.click("#thumbnails button:nth-child(5)")
    until(page, SETTLED)
    assert (shown(page, 0) == splits.test.images[4, 0].numpy()).all()
    assert page.get_attribute("#thumbnails button:nth-child(5)", "aria-pressed") == "true"


def test_an_upload_is_attacked(page) -> None:
    grey = np.random.default_rng(2).integers(0, 256, (28, 28), dtype=np.uint8)
    page.click("label[for=source-upload]")
    with page.expect_response("**/api/play"):
        page.set_input_files("#file", {"name": "noise.png", "mimeType": "image/png", "buffer": png(grey)})
    until(page, SETTLED)
    assert (shown(page, 0) == grey).all()
    with page.expect_response("**/api/play"):
        page.check("#invert")
    until(page, SETTLED)
    assert (shown(page, 0) == 255 - grey).all()


def test_a_file_that_is_no_picture_is_refused_in_words(page) -> None:
    page.click("label[for=source-upload]")
    page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"<html>"})
    page.wait_for_selector("#trouble:not([hidden])")
    assert "not a PNG" in page.inner_text("#trouble")


def test_a_drawing_is_attacked(page) -> None:
    page.click("label[for=source-draw]")
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 140)
    page.mouse.down()
    page.mouse.move(box["x"] + 240, box["y"] + 140, steps=8)
    with page.expect_response("**/api/play"):
        page.mouse.up()
    until(page, SETTLED)
    drawn = shown(page, 0)
    assert drawn[14, 6:22].min() > 200
    assert drawn[:8].max() == drawn[20:].max() == 0


def test_two_defenses_are_compared(page) -> None:
    page.click("#tab-compare")
    page.wait_for_selector("#compare .faces")
    assert page.locator("#compare h3:text-is('first')").count() == 1
    assert page.locator("#compare h3:text-is('deeper/second')").count() == 1
    until(page, "document.getElementById('told').textContent.includes('For the image made against')")


def test_records_have_a_tab(page) -> None:
    page.click("#tab-records")
    page.wait_for_selector("#records > *")
    assert page.is_hidden("#work")
    assert "memdef evaluate" in page.inner_text("#records")


def test_everything_can_be_done_by_keyboard(page) -> None:
    page.focus("#tab-play")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-compare", "aria-selected") == "true"
    page.keyboard.press("End")
    assert page.get_attribute("#tab-records", "aria-selected") == "true"
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-play", "aria-selected") == "true"
    page.focus("#epsilon")
    before = page.inner_text("#epsilon-text")
    with page.expect_response("**/api/play"):
        page.keyboard.press("ArrowRight")
    assert page.inner_text("#epsilon-text") != before
    page.focus("#source-test")
    page.keyboard.press("ArrowLeft")
    assert page.is_visible("#canvas")
    page.focus("#canvas")
    with page.expect_response("**/api/play"):
        page.keyboard.press("Space")
    until(page, SETTLED)
    drawn = shown(page, 0)
    assert drawn[13:15, 13:15].min() > 150
    assert drawn[:10].max() == 0


def test_every_control_can_be_reached_and_has_a_name(page) -> None:
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, canvas, a, summary')]
        .filter((one) => !one.closest('[hidden]'))
        .filter((one) => !(one.labels?.length || one.textContent.trim() || one.getAttribute('aria-label')
          || one.querySelector?.('img[alt]')))
        .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    page.focus("#tab-play")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    wanted = {"run", "source-test", "test-index", "test-random", "label", "attack", "knowledge", "norm", "epsilon"}
    assert wanted <= reached
