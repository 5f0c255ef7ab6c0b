"""Frames a second of a video of one face, from the file to steadied landmarks."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from flm.bench.face_paths import faces_of_shards, swaying
from flm.bench.figures import OURS, Bar, Figure
from flm.bench.measure import Clock, per_second, take_turns
from flm.bench.moving_faces import MovingFaces
from flm.bench.predict.setting import HEIGHT, WIDTH, Setting
from flm.inference.tracking.tracker import FaceTracker
from flm.inference.video.input import VideoFrame, open_video
from flm.inference.video.output import open_writer

SUBJECT = "video of one face"
SPEED_BAR = Bar("at least", 40.0)
FRAME_BY_FRAME = f"{OURS}, frame by frame"
FACE_PX = 260.0


def measure_video(setting: Setting, clock: Clock = time.perf_counter) -> list[Figure]:
    """Ours, with tracking and without, on a generated video in H.264.

    Raises:
        InputError: the shards have no such face, or the detector or PyAV cannot be had.
    """
    length = setting.length
    faces = faces_of_shards(setting.data, 1, split=setting.split, detector=setting.detector)
    moving = MovingFaces(
        faces,
        [swaying(WIDTH / 2, HEIGHT / 2, FACE_PX)],
        width=WIDTH,
        height=HEIGHT,
        frames_per_s=length.frames_per_s,
        num_frames=length.video_frames,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "moving.mp4"
        write_video(moving, file)
        turns = take_turns(
            {
                OURS: lambda: frames_per_s(file, _tracking(setting), clock),
                FRAME_BY_FRAME: lambda: frames_per_s(file, _predicting(setting), clock),
                "reading": lambda: frames_per_s(file, lambda _: None, clock),
            },
            length.turns,
        )
    reading = turns.median("reading")
    return [
        Figure(
            subject=SUBJECT, side=OURS, unit="frames/s", value=turns.median(OURS), bar=SPEED_BAR,
            how=f"1,280 x 720, {len(moving)} frames of a moving face, read from H.264, followed and "
            f"steadied, nothing written; reading alone does {reading:,.0f} frames/s",
        ),
        Figure(
            subject=SUBJECT, side=FRAME_BY_FRAME, unit="frames/s", value=turns.median(FRAME_BY_FRAME),
            beside=turns.ratio(OURS, FRAME_BY_FRAME), how="detection in every frame, nothing steadied",
        ),
    ]  # fmt: skip


def write_video(moving: MovingFaces, file: Path) -> None:
    """The frames as a file.

    Raises:
        InputError: PyAV is not installed.
    """
    with open_writer(
        file, width=moving.width, height=moving.height, frames_per_s=moving.frames_per_s
    ) as writer:
        for frame in moving:
            writer.add(frame.pixels, frame.time_s)


def frames_per_s(file: Path, act: Callable[[VideoFrame], object], clock: Clock) -> float:
    """How many frames are read and dealt with; opening the file counts."""
    with open_video(file) as frames:
        return per_second(act, frames, clock)


def _tracking(setting: Setting) -> Callable[[VideoFrame], object]:
    tracker = FaceTracker(setting.predictor)
    return lambda frame: tracker.update(frame.pixels, frame.time_s)


def _predicting(setting: Setting) -> Callable[[VideoFrame], object]:
    return lambda frame: setting.predictor.predict(frame.pixels)
