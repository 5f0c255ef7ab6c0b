"""Video, Compare and Model in a real browser; what goes wrong there; whether everybody can use the page."""

import contextlib
import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import BROWSER, RED, dots_on_screen, send, tab_of, told
from demo_server import DEMO, Page, expected_landmarks, red_picture, serving, write_network

from flm.bench.demo.browser import FLAGS, find_chromium
from flm.landmarks import IBUG_68

pytest.importorskip("gradio", reason="Gradio is not installed")
pytest.importorskip("av", reason="PyAV is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")

pytestmark = BROWSER

RUN_URL = "https://wandb.ai/somebody/faces/runs/1234abcd"

SCRIPT = '\n<img alt="nothing" src="data:," onerror="window.isRun = true"> [a link](javascript:void(0))\n'
"""In the card, as somebody may write it whose model is named."""

MOVED = 0.03
"""By how much of the picture the other network's points are further to the right and down."""

SIDE_PX, NUM_FRAMES, FRAMES_PER_S = 160, 50, 25


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("page")
    write_network(folder / "moved.onnx", moved=MOVED)
    for name in ("README.md", "ced.png"):
        shutil.copy(DEMO / "model" / name, folder)
    with (folder / "README.md").open("a") as card:
        card.write(SCRIPT)
    words = ["--requests-per-minute", "0", "--compare", str(folder / "moved.onnx")]
    with serving(folder, words, run_url=RUN_URL) as running:
        yield running


@pytest.fixture(scope="module")
def red_clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Two seconds of one red, with a tone."""
    frames = NUM_FRAMES * [np.full((SIDE_PX, SIDE_PX, 3), (RED, 0, 0), np.uint8)]
    path = tmp_path_factory.mktemp("clip") / "red.mp4"
    from small_videos import write_video

    return write_video(path, frames, frames_per_s=FRAMES_PER_S, sound="aac").read_bytes()


def choose(tab: Any, name: str) -> None:
    tab.get_by_role("tab", name=name).click()


def saved(tab: Any, folder: Path, press: str) -> Path:
    with tab.expect_download() as download:
        tab.click(press)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def send_clip(tab: Any, folder: Path, content: bytes) -> None:
    choose(tab, "Video")
    send(tab, folder, content, "sent.mp4", "#video")
    tab.wait_for_selector("#video video", state="attached")
    tab.get_by_role("button", name="Find the landmarks").click()


def test_a_clip_comes_back_with_landmarks_sound_charts_and_files(tab, tmp_path, red_clip):
    tab.evaluate(
        """() => {
          window.steps = new Set();
          new MutationObserver(() => {
            const tracker = document.querySelector('#video [data-testid=status-tracker]');
            if (tracker) window.steps.add(tracker.textContent);
          }).observe(document.body, {childList: true, subtree: true, characterData: true});
        }"""
    )
    send_clip(tab, tmp_path, red_clip)
    tab.wait_for_selector("#charts svg")
    steps = tab.evaluate("() => [...window.steps]")
    assert any("Following" in text and "%" in text for text in steps), steps

    tab.wait_for_function("document.querySelector('#clip video')?.readyState >= 2")
    player = "document.querySelector('#clip video')"
    assert tab.evaluate(f"{player}.duration") == pytest.approx(NUM_FRAMES / FRAMES_PER_S, abs=0.1)
    first = np.array(
        tab.evaluate(
            f"""side => {{
              const context = new OffscreenCanvas(side, side).getContext('2d');
              context.drawImage({player}, 0, 0);
              return [...context.getImageData(0, 0, side, side).data];
            }}""",
            SIDE_PX,
        )
    ).reshape(SIDE_PX, SIDE_PX, 4)
    x, y = np.round(expected_landmarks(RED)[30]).astype(int)
    assert first[y, x, 2] > 60  # magenta, on a picture without blue
    tab.evaluate(f"{player}.muted = true; {player}.play()")
    tab.wait_for_function(f"{player}.currentTime > 0.2")

    charts = tab.locator("#charts .chart svg")
    assert charts.count() == 2
    assert "yaw from" in charts.first.get_attribute("aria-label")
    for chart in charts.all():
        assert chart.locator("path").count() == 3
        assert "L" in chart.locator("path").first.get_attribute("d")

    lines = [json.loads(line) for line in saved(tab, tmp_path, "#video-jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(NUM_FRAMES))
    np.testing.assert_allclose(lines[0]["faces"][0]["landmarks"], expected_landmarks(RED), atol=2)
    rows = list(csv.DictReader(saved(tab, tmp_path, "#video-csv").read_text().splitlines()))
    assert float(rows[0]["x30"]) == pytest.approx(lines[0]["faces"][0]["landmarks"][30][0])
    clip = saved(tab, tmp_path, "#clip [aria-label=Download], #clip a[download]")
    assert clip.read_bytes()[4:8] == b"ftyp"

    tab.get_by_role("button", name="New video").click()
    tab.wait_for_selector("#video")
    assert not tab.locator("#charts svg").count()


def test_two_models_on_one_picture(tab, tmp_path):
    choose(tab, "Compare")
    send(tab, tmp_path, red_picture(RED), to="#compare-picture")
    tab.wait_for_selector("#compare-result .dots.other circle")
    expected = (expected_landmarks(RED) + 0.5) / SIDE_PX
    both = ((".dots:not(.other) circle", 0.0), (".dots.other circle", MOVED))
    for of, moved in both:
        np.testing.assert_allclose(dots_on_screen(tab, "#compare-result", of), expected + moved, atol=0.005)
    apart = MOVED * np.sqrt(2) / np.linalg.norm(expected[36] - expected[45])
    mean = tab.locator("#compare-result tbody td").first.inner_text()
    assert float(mean.removesuffix(" %")) == pytest.approx(100 * apart, abs=0.1)
    parts = tab.locator("#compare-result thead th").all_inner_texts()[3:]
    assert parts == list(IBUG_68.parts)
    key = tab.locator("#compare-result .key").inner_text()
    assert "network.onnx" in key
    assert "moved.onnx" in key


def test_the_model_says_what_it_is_and_where_its_training_is(tab):
    choose(tab, "Model")
    facts = tab.locator("#facts")
    tab.wait_for_function("document.querySelector('[data-speed]').textContent.includes('ms a face')")
    assert "made by hand" in facts.inner_text()
    link = facts.get_by_role("link", name="Its training in Weights & Biases")
    assert link.get_attribute("href") == RUN_URL
    assert "Closed eyes" in tab.content()
    tab.wait_for_function("document.querySelector('#card img[alt^=Cumulative]')?.naturalWidth > 0")
    assert tab.locator("#card").inner_text().endswith("a link")
    assert not tab.locator("#card [onerror], #card [href^=javascript]").count()
    assert tab.evaluate("window.isRun") is None


def test_a_picture_without_a_face_is_a_sentence(tab, tmp_path):
    send(tab, tmp_path, red_picture(0))
    note = tab.wait_for_selector("#result .note").inner_text()
    assert note.startswith("No face found.")
    assert not tab.locator("#result .dots").count()
    choose(tab, "Compare")
    send(tab, tmp_path, red_picture(0), to="#compare-picture")
    told(tab, "No face was found")


def test_a_clip_without_a_face_is_a_sentence(tab, tmp_path):
    from small_videos import write_video

    frames = 10 * [np.zeros((96, 128, 3), np.uint8)]
    send_clip(tab, tmp_path, write_video(tmp_path / "black.mp4", frames).read_bytes())
    note = tab.wait_for_selector("#charts .note").inner_text()
    assert note == "No face found in this video."


@pytest.mark.parametrize("name", ["unknown codec", "no video"])
def test_a_clip_that_cannot_be_decoded_is_a_sentence(tab, tmp_path, red_clip, name):
    # As a camera of tomorrow writes it: the container is known, the codec in it is not.
    unknown = red_clip.replace(b"avc1", b"zzz9").replace(b"avcC", b"zzzC")
    content = unknown if name == "unknown codec" else 40 * b"no video at all"
    choose(tab, "Video")
    send(tab, tmp_path, content, "sent.mp4", "#video")
    tab.wait_for_selector("#video input[type=file]", state="detached")
    find = tab.get_by_role("button", name="Find the landmarks")
    find.click()
    told(tab, "send MP4")
    assert find.is_visible()


@pytest.mark.parametrize("name", ["hf://nobody/nothing", "/etc/passwd"])
def test_a_model_that_is_not_there_is_a_sentence(tab, tmp_path, name):
    choose(tab, "Compare")
    tab.get_by_label("Second model").fill(name)
    tab.get_by_label("Second model").press("Enter")
    send(tab, tmp_path, red_picture(RED), to="#compare-picture")
    assert "passwd" not in told(tab, "check")


def test_a_camera_that_is_not_allowed_or_not_there_is_a_sentence(page, browser):
    # That of the other tests allows everything.
    strict = browser.browser_type.launch(executable_path=find_chromium(), args=[*FLAGS])
    with contextlib.closing(strict), tab_of(page, strict) as tab:
        choose(tab, "Live")
        for error, words in (
            (None, ("was not allowed", "was found")),
            ("NotAllowedError", ("was not allowed",)),
            ("NotFoundError", ("No camera was found",)),
            ("NotReadableError", ("close what else uses it",)),
        ):
            if error is not None:
                tab.evaluate(
                    "name => { navigator.mediaDevices.getUserMedia = "
                    "async () => { throw new DOMException('', name); }; }",
                    error,
                )
            start = tab.get_by_role("button", name="Start the camera")
            start.click()
            tab.wait_for_function("document.querySelector('[data-told]').textContent.length > 0")
            text = tab.locator("[data-told]").inner_text()
            assert any(word in text for word in words), text
            assert start.is_visible()


def violations(tab: Any, where: str) -> list[str]:
    """What hinders people seriously, says axe, once nothing fades in or out any more."""
    tab.wait_for_function(
        """document.getAnimations().every(one =>
          one.playState !== 'running' || one.effect.getComputedTiming().endTime === Infinity)"""
    )
    found = axe.Axe().run(tab).response["violations"]
    return [
        f"{where}: {rule['id']} ({rule['impact']}) at {node['target']}: {node['html'][:160]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_everybody_can_use_it(page, browser, tmp_path, red_clip, width, scheme):
    found: list[str] = []
    with tab_of(page, browser, width=width, scheme=scheme) as tab:
        found += violations(tab, "Image")
        send(tab, tmp_path, red_picture(RED))
        tab.wait_for_selector("#result .dots circle")
        for name in ("Numbers", "Uncertainty", "Box", "Pose"):
            tab.locator(f"#result .chip:text-is('{name}')").click()
        found += violations(tab, "Image, answered")
        choose(tab, "Live")
        found += violations(tab, "Live")
        tab.get_by_role("button", name="Start the camera").click()
        tab.wait_for_selector("#live .dots circle", state="attached")
        tab.get_by_role("button", name="Record").click()
        found += violations(tab, "Live, running")
        choose(tab, "Video")
        found += violations(tab, "Video")
        send_clip(tab, tmp_path, red_clip)
        tab.wait_for_selector("#charts svg")
        found += violations(tab, "Video, answered")
        choose(tab, "Compare")
        send(tab, tmp_path, red_picture(RED), to="#compare-picture")
        tab.wait_for_selector("#compare-result .dots.other circle")
        found += violations(tab, "Compare")
        choose(tab, "Model")
        tab.wait_for_function("document.querySelector('[data-speed]').textContent.includes('ms a face')")
        found += violations(tab, "Model")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert found == []
