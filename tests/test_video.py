"""A whole video: its tables agree with the tracker, its picture shows them, its end is clean."""

import csv
import io
import json
import os
import signal
import tracemalloc

import av
import numpy as np
import pytest
from fake_faces import fake_predictor
from simulated_faces import SimulatedPredictor, drawn_faces
from small_videos import TONE_HZ, sound_of, square_at, write_video

from flm.bench.face_paths import still, swaying
from flm.bench.moving_faces import MovingFaces
from flm.errors import InputError
from flm.inference import predict_video as video
from flm.inference.predict_video import TRACK_COLORS, VideoOutputs, VideoProgress, draw_faces, predict_video
from flm.inference.tracking.tracker import FaceTracker, TrackConfig
from flm.inference.video import camera
from flm.inference.video.input import open_video


class TruthTracker(FaceTracker):
    """Knows the truth of the video that it is shown, frame by frame."""

    def __init__(self, truth: MovingFaces) -> None:
        super().__init__(SimulatedPredictor())
        self.truth = truth
        self.seen = []

    def update(self, frame, time_s):
        self.predictor.show(self.truth.frame(len(self.seen)))
        self.seen.append(super().update(frame, time_s))
        return self.seen[-1]


@pytest.fixture
def truth() -> MovingFaces:
    paths = [swaying(100.0, 90.0, 60.0, reach=0.3), still(240.0, 90.0, 60.0)]
    return MovingFaces(drawn_faces(2), paths, width=320, height=180, num_frames=20)


@pytest.fixture
def clip(truth, tmp_path):
    return write_video(tmp_path / "clip.mp4", [frame.pixels for frame in truth], sound="aac")


def test_tables_and_pictures_tell_what_the_tracker_found(truth, clip, tmp_path):
    tracker = TruthTracker(truth)
    files = {name: tmp_path / "out" / f"clip.{name}" for name in ("jsonl", "csv")}
    overlay = tmp_path / "out" / "clip.mp4"
    told: list[VideoProgress] = []
    summary = predict_video(clip, tracker, VideoOutputs(**files, overlay=overlay), on_progress=told.append)
    assert (summary.width, summary.height, summary.num_frames, summary.num_bad_frames) == (320, 180, 20, 0)
    assert (summary.num_faces, summary.num_tracks) == (40, 2)
    assert summary.duration_s == pytest.approx(19 / 25)
    assert [(one.num_frames, one.of_frames) for one in told] == [(count, 20) for count in range(1, 21)]
    assert all(one.frames_per_s > 0 for one in told)

    lines = [json.loads(line) for line in files["jsonl"].read_text().splitlines()]
    assert [(line["frame"], line["id"]) for line in lines] == [(row // 2, row % 2) for row in range(40)]
    assert [line["time_s"] for line in lines[::2]] == pytest.approx(np.arange(20) / 25, abs=1e-4)
    for line in lines:
        face = tracker.seen[line["frame"]][line["id"]]
        np.testing.assert_allclose(line["landmarks"], face.prediction.landmarks_image, atol=0.00051)
        assert line["detected"] == face.detected
        assert line["pose"].keys() == {"yaw_deg", "pitch_deg", "roll_deg"}

    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    assert [(row["frame"], row["id"]) for row in rows] == [(str(n // 2), str(n % 2)) for n in range(40)]
    for row, line in zip(rows, lines, strict=True):
        assert [[float(row[f"{axis}{point}"]) for axis in "xy"] for point in range(68)] == line["landmarks"]
        assert float(row["yaw_deg"]) == line["pose"]["yaw_deg"]

    _, hertz, _ = sound_of(overlay)
    assert hertz == pytest.approx(TONE_HZ, abs=3)
    with open_video(overlay) as reader:
        drawn = list(reader)
    assert len(drawn) == 20
    expected = draw_faces(truth.frame(19).pixels, tracker.seen[-1], tracker.predictor.scheme)
    assert np.abs(drawn[-1].pixels.astype(int) - expected).mean() < 6


def test_each_id_has_its_color(truth):
    tracker = TruthTracker(truth)
    for frame in truth:
        faces = tracker.update(frame.pixels, frame.time_s)
    black = np.zeros((180, 320, 3), np.uint8)
    drawn = draw_faces(black, faces, tracker.predictor.scheme)
    for face in faces:
        x, y = np.round(face.prediction.landmarks_image[30]).astype(int).tolist()
        color = np.array(TRACK_COLORS[face.track_id])
        assert np.abs(drawn[y - 1 : y + 2, x - 1 : x + 2].astype(int) - color).sum(axis=2).min() < 40
    assert not black.any()


def test_only_so_many_seconds_and_nothing_but_what_is_asked_for(truth, clip, tmp_path):
    summary = predict_video(clip, TruthTracker(truth), VideoOutputs(csv=tmp_path / "a.csv"), most_seconds=0.4)
    assert summary.num_frames == 10
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "a.csv"}


def test_a_stop_in_the_middle_leaves_nothing(truth, clip, tmp_path):
    tracker = TruthTracker(truth)

    def stop(done: VideoProgress) -> None:
        if done.num_frames == 5:
            raise KeyboardInterrupt

    outputs = VideoOutputs(jsonl=tmp_path / "a.jsonl", csv=tmp_path / "a.csv", overlay=tmp_path / "a.mp4")
    with pytest.raises(KeyboardInterrupt):
        predict_video(clip, tracker, outputs, on_progress=stop)
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4"}


class EndlessCamera:
    """Gives a picture for ever; Ctrl-C is pressed at the fifth."""

    def __init__(self, _: int) -> None:
        self.count = 0

    def read(self) -> tuple[bool, np.ndarray]:
        self.count += 1
        if self.count == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return True, np.full((48, 64, 3), 100, np.uint8)

    def get(self, _: int) -> float:
        return 30.0

    def release(self) -> None:
        pass


def test_a_camera_ends_at_control_c_with_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(camera.cv2, "VideoCapture", EndlessCamera)
    before = signal.getsignal(signal.SIGINT)
    outputs = VideoOutputs(jsonl=tmp_path / "a.jsonl", overlay=tmp_path / "a.mp4")
    summary = predict_video("camera:0", FaceTracker(fake_predictor()), outputs)
    assert 5 <= summary.num_frames <= 6
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == summary.num_faces > 0
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == summary.num_frames
    assert signal.getsignal(signal.SIGINT) == before


def test_landmarks_that_are_not_finite_are_told_with_their_frame(truth, clip, tmp_path, monkeypatch):
    def broken(*_: object) -> dict:
        raise InputError("clip.mp4: frame 0: the network gives landmarks that are not finite")

    monkeypatch.setattr(video, "face_record", broken)
    with pytest.raises(InputError, match="frame 0: the network gives"):
        predict_video(clip, TruthTracker(truth), VideoOutputs(csv=tmp_path / "a.csv"))
    assert not (tmp_path / "a.csv").exists()


def test_memory_does_not_grow_with_the_video(tmp_path):
    path = write_video(tmp_path / "long.mp4", [square_at(number % 40, 320, 240) for number in range(120)])
    # What is remembered of lost faces is bounded by time.
    tracker = FaceTracker(fake_predictor(), TrackConfig(remember_s=0.5))
    used = []
    tracemalloc.start()
    predict_video(
        path,
        tracker,
        VideoOutputs(jsonl=tmp_path / "a.jsonl", csv=tmp_path / "a.csv"),
        on_progress=lambda done: used.append(tracemalloc.get_traced_memory()[0]),
    )
    tracemalloc.stop()
    assert len(used) == 120
    # A frame is 230 kB: not one more is kept in the second half of the video.
    assert max(used[60:]) < max(used[30:60]) + 100_000
