"""A clip: what is let in, and what comes out of it."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_face
from demo_server import demo_module
from fake_faces import Steady

from flm.errors import InputError
from flm.inference.detector_config import DetectorConfig
from flm.inference.predictor import Predictor

pytest.importorskip("gradio", reason="Gradio is not installed")
av = pytest.importorskip("av", reason="PyAV is not installed")

clip = demo_module("clip")
charts = demo_module("charts")

NUM_FRAMES, SIDE_PX = 12, 96


def steady_predictor() -> Predictor:
    network = Steady(draw_face(4, SIDE_PX)[1], SIDE_PX, 1e-4 * np.eye(2))
    return Predictor(network, detector=DetectorConfig(kind="whole"))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from small_videos import write_video

    path = tmp_path_factory.mktemp("clip") / "sent.mp4"
    return write_video(path, NUM_FRAMES * [draw_face(4, SIDE_PX)[0]], frames_per_s=6, sound="aac")


def test_a_clip_with_sound_charts_and_files(video, tmp_path):
    shares: list[float] = []
    sent = clip.checked_video(str(video))
    track = clip.annotate(sent, tmp_path / "out.mp4", steady_predictor(), clip.DRAWN, shares.append)
    assert len(track.frames) == len(shares) == NUM_FRAMES
    assert shares == sorted(shares)
    assert shares[-1] == 1
    with av.open(str(tmp_path / "out.mp4")) as written:
        assert len(written.streams.audio) == 1
        assert sum(1 for _ in written.decode(video=0)) == NUM_FRAMES
    clip.write_track(track, tmp_path, 68)
    lines = [json.loads(line) for line in (tmp_path / "track.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(NUM_FRAMES))
    rows = list(csv.DictReader((tmp_path / "track.csv").read_text().splitlines()))
    assert len(rows) == sum(len(line["faces"]) for line in lines) > 0
    assert float(rows[0]["x8"]) == pytest.approx(lines[0]["faces"][0]["landmarks"][8][0])
    assert clip.charts_of(track).count("<svg") == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n",
     b"v=0\no=- 0 0 IN IP4 127.0.0.1\n", b"<svg/>", b"GIF89a" + bytes(40)],
)  # fmt: skip
def test_playlists_and_other_texts_are_refused_before_they_are_opened(tmp_path, content):
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(InputError, match="MP4"):
        clip.checked_video(str(tmp_path / "clip.mp4"))


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_a_broken_video_is_a_sentence_or_what_is_left_of_it(video, tmp_path, share):
    content = video.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match="cannot be decoded"):
        clip.annotate(tmp_path / "cut.mp4", tmp_path / "out.mp4", steady_predictor(), [], lambda _: None)
    assert not (tmp_path / "out.mp4").exists()


def test_a_long_video_is_refused(video, tmp_path, monkeypatch):
    monkeypatch.setattr(clip, "MOST_VIDEO_S", 1.0)
    with pytest.raises(InputError, match="longer than"):
        clip.annotate(video, tmp_path / "out.mp4", steady_predictor(), [], lambda _: None)


def test_a_gap_is_a_gap():
    line = charts.Series(label="yaw", values=[1.0, None, 3.0, 4.0])
    chart = charts.line_chart("Pose", [0, 1, 2, 3], [line], unit="°")
    path = chart.partition('d="')[2].partition('"')[0]
    assert path.count("M") == 2
    assert path.count("L") == 1
    assert "yaw from 1° to 4°" in chart


@pytest.mark.parametrize("values", [[], [0.0], [5.0, 5.0], [-1e-5, 1e5], [0.1, 0.3]])
def test_an_axis_covers_its_values(values):
    low, high, step = charts._scale(values)
    assert low < high
    assert step > 0
    for value in values:
        assert low <= value <= high
    assert len(charts._steps(low, high, step)) <= 2 * charts.TICKS
