"""The page in a real browser, headless: what is seen, pressed, and downloaded."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from browsers import BROWSER, answered, dots_on_screen, send, tab_of, told
from demo_server import Page, expected_landmarks, red_picture, serving
from PIL import Image

pytest.importorskip("gradio", reason="Gradio is not installed")

pytestmark = BROWSER


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with serving(tmp_path_factory.mktemp("page"), ["--requests-per-minute", "0"]) as running:
        yield running


def test_dots_are_where_they_belong_and_files_come(tab, tmp_path):
    answered(tab, tmp_path, red_picture(110))
    expected = (expected_landmarks(110) + 0.5) / 160
    np.testing.assert_allclose(dots_on_screen(tab), expected, atol=0.004)

    for kind, check in (
        ("json", lambda path: len(json.loads(path.read_text())["faces"]) == 1),
        ("csv", lambda path: path.read_text().startswith("image,face,score")),
        ("pts", lambda path: path.read_text().startswith("version: 1")),
        ("png", lambda path: Image.open(path).size == (160, 160)),
    ):
        with tab.expect_download() as download:
            tab.click(f"#result [data-download={kind}]")
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        assert path.suffix == f".{kind}"
        assert check(path), kind
    drawn = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB")).astype(int)
    x, y = np.round(expected_landmarks(110)[30]).astype(int)
    assert drawn[y, x, 2] > 60  # magenta, on a picture without blue

    numbers = tab.locator("#result .numbers")
    assert not numbers.is_visible()
    tab.get_by_role("button", name="Numbers").first.click()
    assert numbers.is_visible()
    assert tab.locator("#result [data-toggle=numbers]").get_attribute("aria-pressed") == "true"
    tab.locator("#again").click()
    tab.wait_for_selector("#picture")
    assert not tab.locator("#result .stage").count()


def test_a_bad_upload_is_a_sentence_in_the_page(tab, tmp_path):
    send(tab, tmp_path, b"no picture", "bad.png")
    told(tab, "not a whole picture")


def test_an_address_of_the_inside_is_a_sentence_in_the_page(tab):
    tab.fill("#address textarea, #address input", "http://127.0.0.1/a.png")
    tab.click("#fetch")
    told(tab, "public internet")


def wait_for_frames(tab: Any, count: int) -> None:
    """Until so many more frames of the camera have been answered."""
    tab.evaluate(
        """() => {
          window.frames = 0;
          const seen = new MutationObserver(() => { window.frames += 1; });
          seen.observe(document.querySelector('#live .over'), {childList: true});
        }"""
    )
    tab.wait_for_function(f"window.frames >= {count}")


def test_the_camera_is_followed_and_recorded(tab, tmp_path):
    tab.get_by_role("tab", name="Live").click()
    tab.get_by_role("button", name="Start the camera").click()
    tab.wait_for_function("Number(document.querySelector('[data-figure=fps]').textContent) > 0")
    expected = (expected_landmarks(110, 480) + 0.5) / 480
    expected[:, 0] = 1 - expected[:, 0]  # as a mirror shows it
    np.testing.assert_allclose(dots_on_screen(tab, "#live"), expected, atol=0.03)
    tab.get_by_role("button", name="Record").click()
    wait_for_frames(tab, 3)  # the first may have been sent before
    tab.get_by_role("button", name="Stop recording").click()
    with tab.expect_download() as download:
        tab.get_by_role("button", name="JSONL").click()
    download.value.save_as(tmp_path / "track.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "track.jsonl").read_text().splitlines()]
    assert len(lines) > 0
    np.testing.assert_allclose(lines[0]["faces"][0]["landmarks"], expected_landmarks(110, 480), atol=12)
    tab.get_by_role("button", name="Stop", exact=True).click()
    assert tab.get_by_role("button", name="Start the camera").is_visible()


def test_one_camera_is_one_row_of_frames(tab):
    """Pressed twice, or stopped and started again while a frame is out, no two frames are out at once."""
    tab.evaluate(
        """() => {
          const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          window.opened = 0;
          navigator.mediaDevices.getUserMedia = wanted => { window.opened += 1; return open(wanted); };
          const ask = window.fetch;
          window.out = 0;
          window.most = 0;
          window.fetch = async (...about) => {
            if (!String(about[0]?.url ?? about[0]).includes('component_server')) return ask(...about);
            window.most = Math.max(window.most, ++window.out);
            try {
              await window.held;
              return await ask(...about);
            } finally {
              window.out -= 1;
            }
          };
          window.held = new Promise(done => { window.release = done; });
        }"""
    )
    tab.get_by_role("tab", name="Live").click()
    start = tab.get_by_role("button", name="Start the camera")
    start.dblclick()
    tab.wait_for_function("window.out === 1")
    assert tab.evaluate("window.opened") == 1
    tab.get_by_role("button", name="Stop", exact=True).click()
    start.click()
    tab.wait_for_function("window.out === 2")  # that of before is out still
    tab.evaluate("window.release()")
    tab.wait_for_function("window.out < 2")
    tab.evaluate("window.most = 0")
    wait_for_frames(tab, 10)
    assert tab.evaluate("window.most") == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(page, browser, tmp_path, scheme):
    with tab_of(page, browser, width=390, scheme=scheme) as tab:
        answered(tab, tmp_path, red_picture(110))
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        stage = tab.locator("#result .stage").bounding_box()
        assert stage["y"] + stage["height"] < 844  # on the first screen
        color = tab.evaluate("getComputedStyle(document.querySelector('.gradio-container')).backgroundColor")
        brightness = sum(int(part) for part in color[color.index("(") + 1 : -1].split(",")[:3])
        assert (brightness < 150) is (scheme == "dark")


def test_everything_pressable_has_a_name(tab, tmp_path):
    answered(tab, tmp_path, red_picture(110))
    nameless = tab.evaluate(
        """() => [...document.querySelectorAll('button, [role=button], #live input')]
          .filter(part => part.closest('#result, #live'))
          .filter(part => !(part.ariaLabel || part.textContent.trim() || part.closest('label')))
          .map(part => part.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    # The first face is chosen at once; as if it were not, to see that a key chooses it.
    tab.wait_for_selector("#result .pick[aria-pressed=true]")
    tab.evaluate("document.querySelector('#result .pick').setAttribute('aria-pressed', 'false')")
    face = tab.locator("#result .press").first
    face.focus()
    face.press("Enter")
    assert tab.locator("#result .pick").first.get_attribute("aria-pressed") == "true"
