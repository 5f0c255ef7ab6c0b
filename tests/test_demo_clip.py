"""A clip: what is let in, and what comes out of it."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_face
from demo_server import demo_module

from flm.errors import InputError
from flm.inference.detector_config import DetectorConfig
from flm.inference.network import FoundLandmarks
from flm.inference.predictor import Predictor
from flm.landmarks import IBUG_68

pytest.importorskip("gradio", reason="Gradio is not installed")
av = pytest.importorskip("av", reason="PyAV is not installed")

clip = demo_module("clip")
charts = demo_module("charts")

NUM_FRAMES = 12


class SteadyNetwork:
    """Finds the drawn face where it is, whatever the crop."""

    scheme = IBUG_68
    input_size_px = 32
    crop_margin = 0.0

    def __init__(self) -> None:
        self._unit = ((draw_face(4, 96)[1] + 0.5) / 96).astype(np.float32)

    def find(self, crops):
        return FoundLandmarks(
            landmarks_unit=np.tile(self._unit, (len(crops), 1, 1)),
            covariance_unit=np.tile(1e-4 * np.eye(2, dtype=np.float32), (len(crops), 68, 1, 1)),
        )


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "sent.mp4"
    picture = draw_face(4, 96)[0]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=6)
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
        sound = container.add_stream("aac", rate=16_000)
        for _ in range(NUM_FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
        wave = (8000 * np.sin(np.arange(32_000) / 6)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        frame.rate = 16_000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


def test_a_clip_with_sound_charts_and_files(video, tmp_path):
    predictor = Predictor(SteadyNetwork(), detector=DetectorConfig(kind="whole"))
    shares: list[float] = []
    track = clip.annotate(
        clip.checked_video(str(video)), tmp_path / "out.mp4", predictor, clip.DRAWN, shares.append
    )
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
    predictor = Predictor(SteadyNetwork(), detector=DetectorConfig(kind="whole"))
    with pytest.raises(InputError, match="cannot be decoded"):
        clip.annotate(tmp_path / "cut.mp4", tmp_path / "out.mp4", predictor, [], lambda _: None)
    assert not (tmp_path / "out.mp4").exists()


def test_a_long_video_is_refused(video, tmp_path, monkeypatch):
    monkeypatch.setattr(clip, "MOST_VIDEO_S", 1.0)
    predictor = Predictor(SteadyNetwork(), detector=DetectorConfig(kind="whole"))
    with pytest.raises(InputError, match="longer than"):
        clip.annotate(video, tmp_path / "out.mp4", predictor, [], lambda _: None)


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
