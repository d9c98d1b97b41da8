"""Pictures of the studio for the documentation, taken in a headless Chromium, with the times that it measured.

    memdef train fashion-mnist/proving-memory --out runs/proving
    python benchmarks/studio_screenshots.py runs --proof proving

Needs the extras 'studio' and 'test', and a Chromium that is called chromium or google-chrome.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTHS = {"desk": (1280, 900), "phone": (390, 844)}
SETTLED = "Boolean(document.querySelector('#play .faces') && !document.querySelector('[aria-busy]'))"
PROVEN = 0.8
"""L2 radius at which the proof is shown."""
EPSILONS = (0.02, 0.05, 0.08, 0.11, 0.14, 0.17, 0.2, 0.23, 0.26, 0.3)


def main() -> None:
    """Start the studio, take the pictures, say what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--first", default="zoo:fashion-mnist/sound", help="run that is shown")
    parser.add_argument("--second", default="zoo:fashion-mnist/paper", help="run that it is compared with")
    parser.add_argument("--image", type=int, default=10, help="test image")
    parser.add_argument("--proof", help="run whose certificate is shown, in L2")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "memory_defense", "studio", str(given.runs), "--port", "0"]
    if given.data_dir:
        command += ["--data-dir", str(given.data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as studio:
        try:
            assert studio.stdout is not None
            address = studio.stdout.readline().split()[1]
            with sync_playwright() as driver:
                path = shutil.which("chromium") or shutil.which("google-chrome")
                browser = driver.chromium.launch(executable_path=path, args=list(FLAGS))
                _take(browser, address, given)
                browser.close()
        finally:
            studio.terminate()


def _take(browser: Browser, address: str, given: argparse.Namespace) -> None:
    asked: set[str | None] = set()
    paints: list[float] = []
    for name, (width, height) in WIDTHS.items():
        for scheme in ("light", "dark") if name == "desk" else ("light",):
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.on("request", lambda one: asked.add(urlsplit(one.url).hostname))
            page.goto(address)
            _settle(page)
            page.click("#tour-close")
            page.evaluate("document.querySelectorAll('#setup details').forEach(one => one.open = true)")
            paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
            page.select_option("#run", given.first)
            _settle(page)
            page.fill("#test-index", str(given.image))
            page.press("#test-index", "Enter")
            page.evaluate("document.activeElement.blur()")
            _settle(page)
            suffix = name if scheme == "light" else f"{name}-dark"
            page.screenshot(path=given.out / f"studio-play-{suffix}.png", full_page=True)
            if scheme == "light":
                _other_tabs(page, given, suffix)
            page.close()
    if given.proof:
        _proof(browser, address, given)
    print(f"first paint after {', '.join(f'{paint:.0f}' for paint in paints)} ms")
    page = browser.new_page()
    page.goto(address)
    _settle(page)
    for run in (given.first, given.second):
        page.select_option("#run", run)
        _settle(page)
        seconds = [_slide(page, epsilon) for epsilon in EPSILONS]
        print(f"{run}: the slider answers in {statistics.median(seconds):.2f} s, at most {max(seconds):.2f} s")
    print(f"hosts asked: {', '.join(sorted(host for host in asked if host))}")


def _proof(browser: Browser, address: str, given: argparse.Namespace) -> None:
    width, height = WIDTHS["desk"]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
    page.goto(address)
    _settle(page)
    page.click("#tour-close")
    page.select_option("#run", given.proof)
    _settle(page)
    page.select_option("#norm", "l2")
    _settle(page)
    page.fill("#test-index", "0")
    page.press("#test-index", "Enter")
    page.evaluate("document.activeElement.blur()")
    _settle(page)
    _slide(page, PROVEN)
    page.screenshot(path=given.out / "studio-proof.png", full_page=True)
    page.close()


def _other_tabs(page: Page, given: argparse.Namespace, suffix: str) -> None:
    page.click("#tab-compare")
    page.select_option("#other", given.second)
    page.wait_for_selector("#compare .faces")
    _settle(page)
    page.screenshot(path=given.out / f"studio-compare-{suffix}.png", full_page=True)
    page.click("#tab-records")
    page.wait_for_selector("#records > *")
    page.wait_for_timeout(300)
    page.screenshot(path=given.out / f"studio-records-{suffix}.png")


def _settle(page: Page) -> None:
    page.wait_for_timeout(400)
    _until(page, SETTLED)


def _slide(page: Page, epsilon: float) -> float:
    """Return the seconds from moving the slider to the new result on the page."""
    started = time.perf_counter()
    page.evaluate(
        "value => { const slider = document.getElementById('epsilon'); slider.value = value;"
        " slider.dispatchEvent(new Event('input')); }",  # the page marks itself as busy before this returns
        epsilon,
    )
    _until(page, SETTLED)
    return time.perf_counter() - started


def _until(page: Page, expression: str) -> None:
    while not page.evaluate(expression):
        page.wait_for_timeout(10)


if __name__ == "__main__":
    main()
