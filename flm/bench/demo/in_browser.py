"""The web page as one visitor with a browser meets it: how long a photo takes, how many frames a second."""

import dataclasses
import statistics
import tempfile
from pathlib import Path
from typing import Any

import cv2

from flm.bench.demo.browser import browsing, opened, write_camera
from flm.bench.demo.page_server import FACE, ServedPage, ask, client_of
from flm.bench.face_paths import swaying
from flm.bench.figures import OURS, Bar, Figure
from flm.bench.moving_faces import FacePicture, MovingFaces
from flm.pictures import read_picture

START_BAR, PHOTO_BAR, CAMERA_BAR = Bar("at most", 8.0), Bar("at most", 0.7), Bar("at least", 6.0)

PHOTO_PX = (1280, 720)
CAMERA_PX = (640, 480)
CAMERA_S = 8
"""Then it begins again."""

SHOWN = """
() => {
  window.flmPhoto = new Promise(done => {
    document.querySelector('#picture input[type=file]').addEventListener('change', () => {
      const start = performance.now();
      const look = () => {
        const image = document.querySelector('#result .stage img');
        if (image?.complete && document.querySelector('#result .dots circle'))
          requestAnimationFrame(() => requestAnimationFrame(() => done((performance.now() - start) / 1000)));
        else requestAnimationFrame(look);
      };
      look();
    }, {once: true, capture: true});
  });
}
"""
"""From the choice of a file to the frame after that with the dots."""

COUNTED = """
seconds => new Promise(done => {
  let frames = 0;
  const start = performance.now();
  const seen = new MutationObserver(() => { frames += 1; });
  seen.observe(document.querySelector('#live .over'), {childList: true});
  setTimeout(() => { seen.disconnect(); done(1000 * frames / (performance.now() - start)); }, 1000 * seconds);
})
"""
"""Frames a second whose landmarks were drawn."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BrowserLength:
    """How much of it."""

    num_photos: int = 15
    warm_up_s: float = 4.0
    live_s: float = 20.0


def start_figure(started_s: float) -> Figure:
    """How long the page took to be there."""
    how = "from `python demo/app.py` to the first page over HTTP"
    return Figure(subject="start of the page", side=OURS, unit="s", value=started_s, bar=START_BAR, how=how)


def browser_figures(page: ServedPage, length: BrowserLength) -> list[Figure]:
    """One visitor, on the cores that the page has too.

    Raises:
        InputError: there is no browser; see `why_no_browser`.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        face = FacePicture(picture=read_picture(FACE, upright=True), landmarks=ask(client_of(page.url), FACE))
        photo = _write_photo(folder / "photo.jpg", face)
        write_camera(folder / "camera.mjpeg", _camera_frames(face))
        with browsing(folder / "camera.mjpeg") as browser:
            with opened(browser, page.url) as tab:
                photos_s = [_photo_s(tab, photo) for _ in range(length.num_photos + 1)][1:]
            with opened(browser, page.url) as tab:
                frames_per_s, latency_ms = _live(tab, length)
    return figures_of(photos_s, frames_per_s, latency_ms)


def figures_of(photos_s: list[float], frames_per_s: float, latency_ms: str) -> list[Figure]:
    """What came of it."""
    camera = f"{CAMERA_PX[0]} x {CAMERA_PX[1]} px, latency {latency_ms} ms; drawn in Chromium"
    return [
        Figure(
            subject=f"photo of {PHOTO_PX[0]} x {PHOTO_PX[1]} to dots", side=OURS, unit="s",
            value=statistics.median(photos_s), bar=PHOTO_BAR,
            how=f"median of {len(photos_s)}, {min(photos_s):.3f} to {max(photos_s):.3f} s; Chromium on the "
            "same machine",
        ),
        Figure(
            subject="landmarks of the camera", side=OURS, unit="frames/s", value=frames_per_s, bar=CAMERA_BAR,
            how=f"{camera} on the same machine, with a generated camera",
        ),
    ]  # fmt: skip


def _write_photo(path: Path, face: FacePicture) -> Path:
    width, height = PHOTO_PX
    scene = MovingFaces([face], [swaying(width / 2, height / 2, 300.0)], width=width, height=height)
    pixels = scene.frame(0).pixels
    cv2.imwrite(str(path), pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    return path


def _camera_frames(face: FacePicture) -> Any:
    width, height = CAMERA_PX
    path = swaying(width / 2, height / 2, 170.0, reach=0.5, hz=1 / 4)
    scene = MovingFaces([face], [path], width=width, height=height, num_frames=30 * CAMERA_S)
    return (frame.pixels for frame in scene)


def _photo_s(tab: Any, photo: Path) -> float:
    tab.evaluate(SHOWN)
    tab.set_input_files("#picture input[type=file]", str(photo))
    seconds = tab.evaluate("() => window.flmPhoto")
    tab.click("#again")
    tab.wait_for_selector("#picture input[type=file]", state="attached")
    return float(seconds)


def _live(tab: Any, length: BrowserLength) -> tuple[float, str]:
    """Frames a second, and the latency that the page says."""
    tab.get_by_role("tab", name="Live").click()
    tab.get_by_role("button", name="Start the camera").click()
    tab.wait_for_selector("#live .dots circle", state="attached")
    tab.wait_for_timeout(1000 * length.warm_up_s)
    frames_per_s = float(tab.evaluate(COUNTED, length.live_s))
    return frames_per_s, tab.locator("[data-figure=latency]").inner_text()
