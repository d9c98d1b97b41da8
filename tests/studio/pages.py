"""How the tests look at the page in a browser."""

import base64
import io
import shutil
import time

import numpy as np
from PIL import Image

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
SETTLED = "document.querySelector('#play .faces') && !document.querySelector('[aria-busy]')"


TOURED = "localStorage.setItem('memdef-studio-tour', 'seen')"
"""Run before a page: the tour was closed on an earlier visit."""


def opened(uri: str) -> np.ndarray:
    """Return the pixels of a picture in a ``data:`` address."""
    kind, content = uri.split(",", 1)
    assert kind == "data:image/png;base64"
    return np.array(Image.open(io.BytesIO(base64.b64decode(content))))


def until(page, expression: str) -> None:
    """Wait until an expression is true; Playwright's own way evaluates strings, which the page's policy forbids."""
    deadline = time.monotonic() + 30
    while not page.evaluate(f"Boolean({expression})"):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(20)


def told(page) -> str:
    until(page, SETTLED)
    return page.inner_text("#told")


def shown(page, place: int) -> np.ndarray:
    """Return the pixels of a picture of the result: 0 clean, 1 adversarial."""
    return opened(page.get_attribute(f"#play .faces figure:nth-child({place + 1}) img", "src"))


def set_epsilon(page, value: float) -> None:
    with page.expect_response("**/api/play"):
        page.evaluate(
            "value => { const slider = document.getElementById('epsilon'); slider.value = value;"
            " slider.dispatchEvent(new Event('input')); }",
            value,
        )
    until(page, SETTLED)
