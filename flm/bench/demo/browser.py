"""A real browser, headless, that asks nobody else and has a camera that plays a video."""

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from flm.errors import InputError

NAMES = ("chromium", "chromium-browser", "google-chrome")

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip

PATIENCE_MS = 90_000
"""A busy machine is slow, not broken."""

CAMERA_QUALITY = 92
"""Of the JPEG frames that a fake camera plays, 30 a second, again and again."""

Frame = UInt8[np.ndarray, "height width 3"]


def find_chromium() -> str | None:
    """Chromium's program: what the variable CHROMIUM names, or where a package manager puts it."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def why_no_browser() -> str | None:
    """What is missing for `browsing`, in words; None where nothing is."""
    if importlib.util.find_spec("playwright") is None:
        return "Playwright is not installed"
    return None if find_chromium() else "Chromium is not installed"


@contextlib.contextmanager
def browsing(camera: Path | None = None) -> Iterator[Any]:
    """Chromium, driven by Playwright.

    Args:
        camera: what its camera plays, a file of `write_camera`; no page may use a camera without.

    Raises:
        InputError: something is missing.
    """
    if reason := why_no_browser():
        raise InputError(f"{reason}; `bash launch/test.sh --browser` installs both")
    from playwright.sync_api import sync_playwright

    flags = [*FLAGS]
    if camera is not None:
        flags += [
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-video-capture={camera}",
        ]
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=find_chromium(), args=flags)
        try:
            yield running
        finally:
            running.close()


@contextlib.contextmanager
def opened(
    browser: Any,
    url: str,
    *,
    width: int = 1280,
    height: int = 844,
    scheme: str = "light",
    watch: Callable[[str], None] | None = None,
) -> Iterator[Any]:
    """A tab that shows our page.

    Args:
        browser: of `browsing`.
        url: of the page.
        width: of the window, px.
        height: of the window, px.
        scheme: `light` or `dark`.
        watch: told every address that the page asks for.
    """
    size: Mapping[str, int] = {"width": width, "height": height}
    context = browser.new_context(viewport=size, color_scheme=scheme)
    context.set_default_timeout(PATIENCE_MS)
    try:
        tab = context.new_page()
        if watch is not None:
            tab.on("request", lambda asked: watch(asked.url))
        tab.goto(url)
        tab.wait_for_selector("#picture input[type=file]", state="attached")
        yield tab
    finally:
        context.close()


def write_camera(path: Path, frames: Iterable[Frame]) -> None:
    """Write what a fake camera plays.

    Args:
        path: ends with .mjpeg.
        frames: RGB.
    """
    quality = [cv2.IMWRITE_JPEG_QUALITY, CAMERA_QUALITY]
    with path.open("wb") as file:
        for frame in frames:
            file.write(cv2.imencode(".jpg", np.ascontiguousarray(frame[..., ::-1]), quality)[1].tobytes())
