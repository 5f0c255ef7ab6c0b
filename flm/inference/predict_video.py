"""The faces of a whole video, written as it goes by: tables of landmarks, and the video with them drawn in.

NAME.jsonl   a line for each face of each frame
NAME.csv     the same as a table
NAME.mp4     the video with its sound, and what was found

One frame is in memory at a time, however long the video.
"""

import contextlib
import csv
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import UInt8

from flm.draw import Canvas, Color
from flm.files import whole_file
from flm.inference.results.files import EncodedFile
from flm.inference.results.records import Record, face_record, table_columns, table_row
from flm.inference.tracking.tracker import FaceTracker, TrackedFace
from flm.inference.video.input import VideoFrame, VideoReader, is_live, open_video
from flm.inference.video.output import VideoWriter, open_writer
from flm.landmarks import LandmarkScheme

TRACK_COLORS: tuple[Color, ...] = (
    (255, 70, 220), (86, 180, 233), (230, 159, 0), (0, 200, 140), (240, 228, 66), (213, 94, 0),
)  # fmt: skip
"""One after the other by id; colour-blind readers can tell them apart.

Source: but for the first, Okabe and Ito, "Color Universal Design", 2008."""

SPEED_OVER_FRAMES = 30
"""The frames a second that are told are a mean over about so many."""

COLUMNS_OF_A_PICTURE = 2
"""Of `table_columns`: picture and number of the face, in whose place a video has frame, time and id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoOutputs:
    """What is written; None leaves it out."""

    jsonl: Path | None = None
    csv: Path | None = None
    overlay: Path | None = None
    """An .mp4."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoProgress:
    """How far it is."""

    num_frames: int
    """Done."""
    of_frames: int | None
    """As far as the file says."""
    frames_per_s: float
    """Done a second, of late."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoSummary:
    """What was found in a video."""

    width: int
    height: int
    """Px, upright."""
    num_frames: int
    duration_s: float
    """To the last frame."""
    num_faces: int
    """Over all frames."""
    num_tracks: int
    """Different ids."""
    num_bad_frames: int
    """That could not be read."""


def predict_video(
    source: str | Path,
    tracker: FaceTracker,
    outputs: VideoOutputs,
    *,
    most_seconds: float | None = None,
    allow_private_urls: bool = False,
    on_progress: Callable[[VideoProgress], None] | None = None,
) -> VideoSummary:
    """Follow the faces of a video.

    Each file is there whole or not at all; so are those of a camera, which ends at Ctrl-C.

    Args:
        source: see `open_video`.
        tracker: its faces are forgotten first.
        outputs: files that are written.
        most_seconds: of the video; all of it if None.
        allow_private_urls: see `open_video`.
        on_progress: called after every frame.

    Raises:
        InputError: the video cannot be read, or a file cannot be written.
    """
    tracker.reset()
    text = str(source)
    speed = _Speed()
    num_frames = num_faces = 0
    ids: set[int] = set()
    time_s = 0.0
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(open_video(text, allow_private_urls=allow_private_urls))
        is_stopped = stack.enter_context(_stops_at_interrupt(is_live(text)))
        sinks = _opened(stack, outputs, reader, tracker.predictor.scheme)
        for frame in reader:
            if most_seconds is not None and frame.time_s >= most_seconds:
                break
            faces = tracker.update(frame.pixels, frame.time_s)
            for sink in sinks:
                sink(frame, faces)
            num_frames, num_faces, time_s = num_frames + 1, num_faces + len(faces), frame.time_s
            ids.update(face.track_id for face in faces)
            if on_progress is not None:
                per_s = speed.after_frame()
                on_progress(
                    VideoProgress(num_frames=num_frames, of_frames=reader.num_frames, frames_per_s=per_s)
                )
            if is_stopped():
                break
    return VideoSummary(
        width=reader.width,
        height=reader.height,
        num_frames=num_frames,
        duration_s=round(time_s, 3),
        num_faces=num_faces,
        num_tracks=len(ids),
        num_bad_frames=reader.num_bad_frames,
    )


def frame_record(frame: VideoFrame, face: TrackedFace, source: str) -> Record:
    """What is told of one face in one frame: when, whose, and what is told of faces in pictures.

    Args:
        frame: the frame.
        face: in it.
        source: the video, for messages.

    Raises:
        InputError: a landmark is not finite.
    """
    return {
        "frame": frame.number,
        "time_s": round(frame.time_s, 4),
        "id": face.track_id,
        "detected": face.detected,
        **face_record(face.prediction, f"{source}: frame {frame.number}"),
    }


def video_columns(num_points: int) -> list[str]:
    """The columns of a video's table."""
    return ["frame", "time_s", "id", "detected", *table_columns(num_points)[COLUMNS_OF_A_PICTURE:]]


def draw_faces(
    pixels: UInt8[np.ndarray, "height width 3"], faces: Sequence[TrackedFace], scheme: LandmarkScheme
) -> UInt8[np.ndarray, "height width 3"]:
    """A frame with the landmarks and the id of each face, in the id's colour."""
    canvas = Canvas(pixels)
    for face in faces:
        color = TRACK_COLORS[face.track_id % len(TRACK_COLORS)]
        landmarks = face.prediction.landmarks_image
        canvas.lines(landmarks, scheme, color).dots(landmarks, color)
        left, top = landmarks.min(axis=0).tolist()
        canvas.label(str(face.track_id), left, top - 4, color)
    return canvas.picture


Sink = Callable[[VideoFrame, Sequence[TrackedFace]], None]
"""Takes each frame with its faces."""


def _opened(
    stack: contextlib.ExitStack, outputs: VideoOutputs, reader: VideoReader, scheme: LandmarkScheme
) -> list[Sink]:
    sinks: list[Sink] = []
    lines = table = None
    if outputs.jsonl is not None:
        lines = stack.enter_context(whole_file(outputs.jsonl))
    if outputs.csv is not None:
        table = stack.enter_context(whole_file(outputs.csv))
    if lines is not None or table is not None:
        sinks.append(_record_sink(reader.source, lines, table, scheme))
    if outputs.overlay is not None:
        writer = stack.enter_context(
            open_writer(
                outputs.overlay,
                width=reader.width,
                height=reader.height,
                frames_per_s=reader.frames_per_s,
                sound_of=reader.source if Path(reader.source).is_file() else None,
            )
        )
        sinks.append(_overlay_sink(writer, scheme))
    return sinks


def _record_sink(
    source: str, lines: IO[bytes] | None, table: IO[bytes] | None, scheme: LandmarkScheme
) -> Sink:
    rows = None if table is None else csv.writer(EncodedFile(table), lineterminator="\n")
    if rows is not None:
        rows.writerow(video_columns(scheme.num_points))

    def write(frame: VideoFrame, faces: Sequence[TrackedFace]) -> None:
        for face in faces:
            record = frame_record(frame, face, source)
            if lines is not None:
                lines.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            if rows is not None:
                of_face = table_row({"image": source, "faces": [record]}, 0)[COLUMNS_OF_A_PICTURE:]
                when_and_whose = [record["frame"], record["time_s"], record["id"], int(record["detected"])]
                rows.writerow([*when_and_whose, *of_face])

    return write


def _overlay_sink(writer: VideoWriter, scheme: LandmarkScheme) -> Sink:
    return lambda frame, faces: writer.add(draw_faces(frame.pixels, faces, scheme), frame.time_s)


@contextlib.contextmanager
def _stops_at_interrupt(is_wanted: bool) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, which for a camera is no mistake but the end."""
    pressed = threading.Event()
    if not is_wanted or threading.current_thread() is not threading.main_thread():
        yield pressed.is_set  # Python handles signals in the main thread only.
        return
    before = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


class _Speed:
    """Frames a second, of late."""

    def __init__(self) -> None:
        self._last_s = time.perf_counter()
        self._step_s: float | None = None

    def after_frame(self) -> float:
        now_s = time.perf_counter()
        step_s, self._last_s = now_s - self._last_s, now_s
        if self._step_s is None:
            self._step_s = step_s
        self._step_s += (step_s - self._step_s) / SPEED_OVER_FRAMES
        return 1 / max(self._step_s, 1e-9)
