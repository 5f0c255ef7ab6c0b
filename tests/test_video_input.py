"""Frames come upright, in order and at their times, whatever is wrong with a few of them."""

import contextlib
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_videos import square_at, square_in, write_video

from flm.errors import InputError
from flm.inference.video import camera
from flm.inference.video.input import is_live, is_video, open_video

FRAMES = [square_at(number) for number in range(30)]


def test_frames_come_in_order_with_their_times(tmp_path):
    path = write_video(tmp_path / "a.mp4", FRAMES)
    with open_video(path) as reader:
        assert (reader.width, reader.height, reader.frames_per_s, reader.num_frames) == (128, 96, 25.0, 30)
        frames = list(reader)
    assert [frame.number for frame in frames] == list(range(30))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(30) / 25, atol=1e-6)
    for frame, sent in zip(frames, FRAMES, strict=True):
        assert abs(square_in(frame.pixels) - square_in(sent)) <= 1
        assert np.abs(frame.pixels.astype(int) - sent).mean() < 4
    assert reader.num_bad_frames == 0


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.mov"])
def test_other_containers_are_read(tmp_path, name):
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = tmp_path / name
    write_video(path, FRAMES[:10], codec=codec, frames_per_s=25)
    with open_video(path) as reader:
        frames = list(reader)
    assert len(frames) == 10
    assert frames[0].time_s == 0
    assert (np.diff([frame.time_s for frame in frames]) > 0).all()


def test_uneven_times_are_kept(tmp_path):
    times = np.cumsum([0, 0.02, 0.5, 0.04, 0.04, 0.3, 0.02]).tolist()
    with open_video(write_video(tmp_path / "a.mp4", FRAMES[:7], times_s=times)) as reader:
        np.testing.assert_allclose([frame.time_s for frame in reader], times, atol=1.1e-3)


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_phones_held_otherwise_give_upright_frames(tmp_path, degrees, turns):
    path = write_video(tmp_path / "a.mp4", FRAMES[:3], rotation=degrees)
    with open_video(path) as reader:
        first = next(iter(reader)).pixels
        assert first.shape[:2] == (reader.height, reader.width)
    # Counter-clockwise, as the container counts.
    expected = np.rot90(FRAMES[0], turns)
    assert np.abs(first.astype(int) - expected).mean() < 4


def test_a_damaged_stretch_is_passed_over_and_counted(tmp_path):
    path = write_video(tmp_path / "a.mp4", [square_at(number) for number in range(60)])
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    middle = start + (content.index(b"moov") - start) // 2
    content[middle : middle + 400] = bytes(range(250, 50, -1)) * 2
    path.write_bytes(content)
    with open_video(path) as reader:
        frames = list(reader)
    assert 0 < reader.num_bad_frames < 30
    assert 30 < len(frames) < 60
    # What comes after it is at its own place and time.
    for frame in frames[-5:]:
        assert abs(square_in(frame.pixels) - square_in(square_at(round(frame.time_s * 25)))) <= 1


def test_a_file_that_was_cut_off_gives_what_is_there(tmp_path):
    path = write_video(tmp_path / "a.mkv", [square_at(number) for number in range(60)])
    path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
    with open_video(path) as reader:
        assert 10 < len(list(reader)) < 60


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        container.mux(stream.encode(av.VideoFrame.from_ndarray(square_at(0, 96), format="rgb24")))
        container.mux(stream.encode())
    with open_video(path) as reader:
        assert (reader.width, reader.height) == (192, 96)
        assert next(iter(reader)).pixels.shape == (96, 192, 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.mp4", None, r"none\.mp4: is missing"),
        ("text.mp4", b"no video", r"text\.mp4: cannot be opened as a video \(Invalid data"),
        ("empty.mov", b"", r"empty\.mov: cannot be opened as a video"),
    ],
)
def test_what_is_no_video_is_told_in_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        open_video(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_sound_alone_is_no_video(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48_000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="holds no pictures, only sound or text"):
        open_video(tmp_path / "a.mp4")


def test_without_pyav_its_extra_is_named(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", FRAMES[:2])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"videos need PyAV; pip install 'flm-landmarks\[video\]'"):
        open_video(path)


def test_a_camera_that_is_not_there_is_told_in_one_line(capfd):
    for source in ("camera:97", "camera:/dev/no-such-camera", "camera:99999999999"):
        with pytest.raises(InputError, match=f"{source}: no such camera, or another program has it"):
            open_video(source)
    assert capfd.readouterr() == ("", "")


class FakeCapture:
    """Three pictures, then nothing more."""

    def __init__(self, name: int | str) -> None:
        self.name = name
        self.left = 3
        self.is_released = False

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[..., 0] = 200
        return (True, picture) if self.left >= 0 else (False, None)

    def get(self, _: int) -> float:
        return 0.0

    def release(self) -> None:
        self.is_released = True


def test_a_camera_gives_rgb_until_it_is_unplugged(monkeypatch, capsys):
    monkeypatch.setattr(camera.cv2, "VideoCapture", FakeCapture)
    with open_video("camera:0") as reader:
        assert (reader.width, reader.height, reader.num_frames) == (64, 48, None)
        assert reader.frames_per_s == 30
        frames = list(reader)
    assert len(frames) == 3
    assert capsys.readouterr().err.startswith("warning: camera:0: gives no more frames, and ends here")
    assert frames[0].pixels[0, 0].tolist() == [0, 0, 200]
    assert (np.diff([frame.time_s for frame in frames]) > 0).all()
    assert reader._capture.is_released
    assert reader._capture.name == 0
    assert cv2.utils.logging.getLogLevel() != cv2.utils.logging.LOG_LEVEL_SILENT


@pytest.fixture
def server(tmp_path):
    """Serves a video at /a.mp4, and redirects to it from /there.mp4."""
    content = write_video(tmp_path / "served.mp4", FRAMES[:5]).read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/there.mp4":
                self.send_response(302)
                self.send_header("Location", "/a.mp4")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Type", "video/mp4")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            # A reader that has seen enough hangs up.
            with contextlib.suppress(ConnectionError):
                super().handle()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_urls_are_read_but_not_of_the_own_network(server):
    for name in ("a.mp4", "there.mp4"):
        with open_video(f"{server}/{name}", allow_private_urls=True) as reader:
            assert len(list(reader)) == 5
        with pytest.raises(InputError, match="which is not of the public internet"):
            open_video(f"{server}/{name}")


def test_videos_are_known_by_their_names():
    videos = (
        "a.mp4",
        "b/C.MOV",
        "https://x.org/a.webm?key=1",
        "camera:0",
        "rtsp://10.0.0.1/stream",
        "a.m3u8",
    )
    assert all(is_video(name) for name in videos)
    pictures = ("a.jpg", "a.gif", "folder", "a.mp4.png", "https://x.org/a.jpg?b=.mp4")
    assert not any(is_video(name) for name in pictures)
    assert [name for name in videos if is_live(name)] == ["camera:0", "rtsp://10.0.0.1/stream"]
    assert not is_live(str(Path("camera") / "a.mp4"))
