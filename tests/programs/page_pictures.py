"""Pictures of the web page, in two widths, light and dark, with faces that are nobody's.

    python tests/programs/page_pictures.py OUT [--detector YUNET.onnx] [--only image live] [--readme]

OUT/image-1280-light.png and so on: a whole page of each tab. With --readme, those that our pages show are put
into .assets/: page.jpg, phones.jpg, and strip.jpg, which begins with faces of .assets/quickstart.jpg.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from flm.bench.demo.browser import browsing, opened, write_camera
from flm.bench.demo.page_server import served
from flm.inference.video.output import open_writer
from shards.synthesis.portrait import render

WIDTHS = {1280: 860, 390: 844}
"""And the heights of the windows."""

SEED, GROUP, MOVING = 7, (83, 79, 52), 79
"""Of the renderer."""


def write_group(path: Path) -> Path:
    """Three faces side by side."""
    portraits = [render(SEED, number, 512)[:, 43:469] for number in GROUP]
    cv2.imwrite(str(path), np.hstack(portraits)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 93])
    return path


def moving(seconds: int) -> Iterator[np.ndarray]:
    """Frames of one that sways, 30 a second."""
    portrait = render(SEED, MOVING, 640)
    for number in range(30 * seconds):
        angle = 2 * math.pi * number / (30 * seconds)
        matrix = cv2.getRotationMatrix2D((320, 300), 7 * math.sin(angle), 0.95 + 0.05 * math.cos(angle))
        matrix[:, 2] += [30 * math.sin(2 * angle), -70]
        yield cv2.warpAffine(portrait, matrix, (640, 480), borderMode=cv2.BORDER_REFLECT)


def write_clip(path: Path) -> Path:
    """Four seconds of it."""
    with open_writer(path, width=640, height=480, frames_per_s=15) as writer:
        for number, pixels in enumerate(moving(4)):
            if number % 2 == 0:
                writer.add(pixels, number / 30)
    return path


def image(tab: Any, folder: Path) -> None:
    tab.set_input_files("#picture input[type=file]", str(folder / "group.jpg"))
    tab.wait_for_selector("#result .dots circle")


def live(tab: Any, folder: Path) -> None:
    tab.get_by_role("tab", name="Live").click()
    tab.get_by_role("button", name="Start the camera").click()
    tab.wait_for_selector("#live .dots circle", state="attached")
    tab.wait_for_timeout(3000)


def video(tab: Any, folder: Path) -> None:
    tab.get_by_role("tab", name="Video").click()
    tab.set_input_files("#video input[type=file]", str(folder / "clip.mp4"))
    tab.wait_for_selector("#video video")
    tab.get_by_role("button", name="Find the landmarks").click()
    tab.wait_for_selector("#charts svg")
    tab.wait_for_function("document.querySelector('#clip video')?.readyState >= 2")
    tab.evaluate("document.querySelector('#clip video').currentTime = 1")
    tab.wait_for_timeout(700)


def compare(tab: Any, folder: Path) -> None:
    tab.get_by_role("tab", name="Compare").click()
    tab.set_input_files("#compare-picture input[type=file]", str(folder / "group.jpg"))
    tab.wait_for_selector("#compare-result .dots circle")


def model(tab: Any, folder: Path) -> None:
    tab.get_by_role("tab", name="Model").click()
    tab.wait_for_selector("#card h2, #facts dd")
    tab.wait_for_timeout(500)


def empty(tab: Any, folder: Path) -> None:
    tab.wait_for_timeout(300)


def empty_live(tab: Any, folder: Path) -> None:
    tab.get_by_role("tab", name="Live").click()
    tab.wait_for_timeout(300)


def empty_video(tab: Any, folder: Path) -> None:
    tab.get_by_role("tab", name="Video").click()
    tab.wait_for_timeout(300)


SCENES: dict[str, Callable[[Any, Path], None]] = {
    "image": image, "live": live, "video": video, "compare": compare, "model": model,
    "empty": empty, "empty_live": empty_live, "empty_video": empty_video,
}  # fmt: skip


ASSETS = Path(__file__).parents[2] / ".assets"

PHONES = ("live-390-dark", "video-390-light", "image-390-dark")
"""Side by side in phones.jpg; the strip has the first two."""

TEST_FACES = ((921, 38), (323, 353), (324, 40), (602, 362))
"""Left and top of faces in quickstart.jpg."""
TEST_FACE_PX, STRIP_PX, GAP_PX, RADIUS_PX = 256, 560, 14, 14
NIGHT = (23, 17, 13)
"""GitHub's dark background, BGR: there the strip has no edge, and on white it is a banner."""


def write_readme_pictures(folder: Path) -> None:
    """page.jpg, phones.jpg and strip.jpg."""
    page = cv2.imread(str(folder / "image-1280-light.png"))
    phones = [cv2.imread(str(folder / f"{name}.png"))[:960] for name in PHONES]
    sheet = np.full((960, 390 * len(phones) + 24 * (len(phones) - 1), 3), 128, np.uint8)
    for number, phone in enumerate(phones):
        sheet[: len(phone), 414 * number : 414 * number + 390] = phone
        sheet[len(phone) :, 414 * number : 414 * number + 390] = phone[-1, 0]
    strip = strip_of([quickstart_faces(), page[:775, 80:1200], *(phone[:900] for phone in phones[:2])])
    for name, picture in (("page", page), ("phones", sheet), ("strip", strip)):
        cv2.imwrite(str(ASSETS / f"{name}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 85])


def quickstart_faces() -> np.ndarray:
    """Two rows of two, with a line between."""
    sheet = cv2.imread(str(ASSETS / "quickstart.jpg"))
    side = 2 * TEST_FACE_PX + GAP_PX // 2
    faces = np.full((side, side, 3), NIGHT, np.uint8)
    starts = (0, side - TEST_FACE_PX)
    places = [(y, x) for y in starts for x in starts]
    for (y, x), (left, top) in zip(places, TEST_FACES, strict=True):
        face = sheet[top : top + TEST_FACE_PX, left : left + TEST_FACE_PX]
        faces[y : y + TEST_FACE_PX, x : x + TEST_FACE_PX] = face
    return faces


def strip_of(panels: list[np.ndarray]) -> np.ndarray:
    """Panels of one height with round corners, side by side."""
    row = [np.full((STRIP_PX, GAP_PX, 3), NIGHT, np.uint8)]
    for panel in panels:
        width = round(STRIP_PX * panel.shape[1] / panel.shape[0])
        shown = cv2.resize(panel, (width, STRIP_PX), interpolation=cv2.INTER_AREA)
        row += [np.where(inside(width)[..., None], shown, np.uint8(NIGHT)), row[0]]
    return cv2.copyMakeBorder(np.hstack(row), GAP_PX, GAP_PX, 0, 0, cv2.BORDER_CONSTANT, value=NIGHT)


def inside(width: int) -> np.ndarray:
    """Where a panel is, of the rectangle around it."""
    y, x = np.ogrid[:STRIP_PX, :width]
    beyond_x = np.maximum(0, RADIUS_PX - 0.5 - np.minimum(x, width - 1 - x))
    beyond_y = np.maximum(0, RADIUS_PX - 0.5 - np.minimum(y, STRIP_PX - 1 - y))
    return np.hypot(beyond_x, beyond_y) <= RADIUS_PX


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--detector", type=Path)
    parser.add_argument("--only", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--widths", nargs="+", type=int, default=list(WIDTHS))
    parser.add_argument("--schemes", nargs="+", default=["light", "dark"])
    parser.add_argument("--readme", action="store_true")
    given = parser.parse_args()
    folder: Path = given.out
    folder.mkdir(parents=True, exist_ok=True)
    write_group(folder / "group.jpg")
    write_clip(folder / "clip.mp4")
    write_camera(folder / "camera.mjpeg", moving(4))
    with served(detector=given.detector) as page, browsing(folder / "camera.mjpeg") as browser:
        for width in given.widths:
            for scheme in given.schemes:
                for name in given.only:
                    size = {"width": width, "height": WIDTHS[width]}
                    with opened(browser, page.url, scheme=scheme, **size) as tab:
                        SCENES[name](tab, folder)
                        tab.mouse.move(2, 2)
                        tab.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)
                        print(folder / f"{name}-{width}-{scheme}.png", flush=True)
    if given.readme:
        write_readme_pictures(folder)


if __name__ == "__main__":
    main()
