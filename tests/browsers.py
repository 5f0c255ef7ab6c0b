"""The page in a browser, for tests: a tab that may ask nobody else, and what is read back from it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demo_server import Page

from flm.bench.demo.browser import browsing, opened, why_no_browser, write_camera

BROWSER = [
    pytest.mark.browser,
    pytest.mark.multiprocess,
    pytest.mark.skipif(
        why_no_browser() is not None and os.environ.get("FLM_BROWSER_TESTS") != "required",
        reason=f"{why_no_browser()}; launch/test.sh --browser installs it",
    ),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
"""The marks of a file of such tests."""

RED = 110
"""Of what the camera shows: evenly so, so that it is known where the landmarks are."""


@contextlib.contextmanager
def red_browser(folder: Path) -> Iterator[Any]:
    """Chromium with a red camera."""
    camera = folder / "camera.mjpeg"
    write_camera(camera, 10 * [np.full((480, 480, 3), (RED, 0, 0), np.uint8)])
    with browsing(camera) as running:
        yield running


@contextlib.contextmanager
def tab_of(page: Page, browser: Any, *, width: int = 1280, scheme: str = "light") -> Iterator[Any]:
    """A tab with the page, which may ask nobody else."""
    elsewhere: list[str] = []
    ours = (page.url, "data:", "blob:")

    def watch(url: str) -> None:
        if not url.startswith(ours):
            elsewhere.append(url)

    with opened(browser, page.url, width=width, scheme=scheme, watch=watch) as shown:
        yield shown
    assert not elsewhere


def send(tab: Any, folder: Path, content: bytes, name: str = "picture.png", to: str = "#picture") -> None:
    """Choose a file."""
    (folder / name).write_bytes(content)
    tab.set_input_files(f"{to} input[type=file]", str(folder / name))


def told(tab: Any, words: str) -> str:
    """The sentence with these words that the page shows of a mistake.

    The browser may say one of its own before: that it cannot play a clip, say.
    """
    # Read as soon as it is there: it goes away by itself.
    sentence = tab.locator(".toast-body", has_text=words).first.inner_text()
    assert "Traceback" not in tab.content()
    return sentence


def answered(tab: Any, folder: Path, content: bytes) -> None:
    """Send a picture, and wait until its answer stands where the question did."""
    send(tab, folder, content)
    tab.wait_for_selector("#result .dots circle")
    tab.wait_for_selector("#picture", state="hidden")


def dots_on_screen(tab: Any, within: str = "#result", of: str = ".dots circle") -> np.ndarray:
    """Where the dots are, as shares of the picture that is shown, read back from the page."""
    return np.array(
        tab.evaluate(
            """([within, of]) => {
              const stage = document.querySelector(`${within} .stage`).getBoundingClientRect();
              return [...document.querySelectorAll(`${within} ${of}`)].map(dot => {
                const box = dot.getBoundingClientRect();
                return [(box.x + box.width / 2 - stage.x) / stage.width,
                        (box.y + box.height / 2 - stage.y) / stage.height];
              });
            }""",
            [within, of],
        )
    )
