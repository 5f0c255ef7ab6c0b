"""A clip that a visitor sent: its faces followed, drawn, charted and written down."""

import csv
import html
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from charts import Series, line_chart
from jaxtyping import UInt8
from limits import MOST_VIDEO_BYTES, MOST_VIDEO_S
from overlay import count_words

from flm.draw import PREDICTION_COLOR, Canvas
from flm.errors import InputError
from flm.inference.predictor import Predictor
from flm.inference.results.records import Record, face_record, table_columns, table_row
from flm.inference.tracking.tracker import FaceTracker, TrackedFace
from flm.inference.video.input import VideoReader, open_video
from flm.inference.video.output import open_writer

MOST_FRAME_PIXELS = 1920 * 1088
MOST_FRAMES = 3600
CHARTED_FACES = 2
"""Those that are seen in most frames."""

DRAWN = ["Points", "Lines", "Uncertainty", "Box"]

ELLIPSE_COLOR = (255, 225, 77)

_PACKET_BYTES = 188

_STARTS = (
    (4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"wide"), (4, b"free"),
    (0, b"\x1a\x45\xdf\xa3"), (8, b"AVI "), (0, b"OggS"), (0, b"FLV"),
    (0, b"\x00\x00\x01\xba"), (0, b"\x00\x00\x01\xb3"), (0, b"\x30\x26\xb2\x75"),
)  # fmt: skip
"""What the files of containers begin with; those of MPEG-TS repeat a G in each packet.

Playlists and other texts, which name further files, are none.
"""


@dataclass(slots=True)
class Track:
    """What was found in a clip."""

    frames: list[Record] = field(default_factory=list)
    """One for each: its time, and the records of its faces."""


def checked_video(upload: str | None) -> Path:
    """A file that may be opened.

    Raises:
        InputError: it is none of a video, or too large.
    """
    if not upload or not Path(upload).is_file():
        raise InputError("no video came; choose one first")
    path = Path(upload)
    if path.stat().st_size > MOST_VIDEO_BYTES:
        raise InputError(f"the video is larger than {MOST_VIDEO_BYTES // 2**20} MB; cut or shrink it")
    with path.open("rb") as file:
        start = file.read(_PACKET_BYTES + 1)
    is_stream = start[:1] == start[_PACKET_BYTES:] == b"\x47"
    if not is_stream and not any(start[offset : offset + len(mark)] == mark for offset, mark in _STARTS):
        raise InputError("that is no video that can be read here; send MP4, MOV, WebM, MKV or AVI")
    return path


def annotate(
    video: Path, clip: Path, predictor: Predictor, drawn: Sequence[str], advance: Callable[[float], None]
) -> Track:
    """Follow the faces of a video, and write it with them.

    Args:
        video: as it was sent.
        clip: an .mp4 that is written.
        predictor: finds the faces.
        drawn: some of `DRAWN`.
        advance: told the share that is done.

    Raises:
        InputError: it is no video, or too long or large.
    """
    try:
        reader = open_video(video)
    except InputError as mistake:
        raise InputError("that video cannot be decoded; send MP4 with H.264, or WebM") from mistake
    track, tracker = Track(), FaceTracker(predictor)
    with reader:
        _check(reader)
        num_frames = reader.num_frames or MOST_FRAMES
        size = {"width": reader.width, "height": reader.height, "frames_per_s": reader.frames_per_s}
        with open_writer(clip, sound_of=str(video), **size) as writer:
            for frame in reader:
                if frame.time_s > MOST_VIDEO_S or frame.number >= MOST_FRAMES:
                    raise InputError(_TOO_LONG)
                faces = tracker.update(frame.pixels, frame.time_s)
                writer.add(drawn_frame(frame.pixels, faces, drawn), frame.time_s)
                track.frames.append(_frame_record(frame.number, frame.time_s, reader, faces))
                advance(min(1.0, (frame.number + 1) / num_frames))
    return track


_TOO_LONG = f"the video is longer than {MOST_VIDEO_S:.0f} s or {MOST_FRAMES} frames; cut it"


def _check(reader: VideoReader) -> None:
    if reader.width * reader.height > MOST_FRAME_PIXELS:
        raise InputError(
            f"frames of {reader.width} x {reader.height} px are too large; send 1920 x 1080 or less"
        )
    if reader.num_frames and reader.num_frames > min(MOST_FRAMES, 1.02 * MOST_VIDEO_S * reader.frames_per_s):
        raise InputError(_TOO_LONG)


def drawn_frame(
    frame: UInt8[np.ndarray, "height width 3"], faces: Sequence[TrackedFace], drawn: Sequence[str]
) -> UInt8[np.ndarray, "height width 3"]:
    """A frame with its faces."""
    canvas = Canvas(frame)
    for face in faces:
        found = face.prediction
        if "Box" in drawn:
            canvas.box(found.box_image)
        if "Uncertainty" in drawn and found.covariance_image is not None:
            canvas.ellipses(found.landmarks_image, found.covariance_image, ELLIPSE_COLOR)
        if "Lines" in drawn:
            canvas.lines(found.landmarks_image, found.scheme, PREDICTION_COLOR)
        if "Points" in drawn:
            canvas.dots(found.landmarks_image, PREDICTION_COLOR)
    return canvas.picture


def _frame_record(number: int, time_s: float, reader: VideoReader, faces: Sequence[TrackedFace]) -> Record:
    return {
        "frame": number,
        "time_s": round(time_s, 4),
        "width": reader.width,
        "height": reader.height,
        "faces": [{"track_id": face.track_id, **face_record(face.prediction, "the video")} for face in faces],
    }


def write_track(track: Track, folder: Path, num_points: int) -> None:
    """The track as lines of JSON, and as a table: `track.jsonl` and `track.csv`."""
    lines, table = folder / "track.jsonl", folder / "track.csv"
    with lines.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(frame) + "\n" for frame in track.frames)
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["frame", "time_s", "track_id", *table_columns(num_points)[2:]])
        for frame in track.frames:
            named = {**frame, "image": ""}
            writer.writerows(
                [frame["frame"], frame["time_s"], face["track_id"], *table_row(named, number)[2:]]
                for number, face in enumerate(frame["faces"])
            )


def charts_of(track: Track) -> str:
    """Pose and openness over time, of the faces that are seen most."""
    seen = Counter(face["track_id"] for frame in track.frames for face in frame["faces"])
    if not seen:
        return '<p class="note" role="status"><strong>No face found</strong> in this video.</p>'
    times_s = [frame["time_s"] for frame in track.frames]
    charts = []
    for number, (track_id, _) in enumerate(seen.most_common(CHARTED_FACES), 1):
        faces = [
            next((face for face in frame["faces"] if face["track_id"] == track_id), None)
            for frame in track.frames
        ]
        of = "" if len(seen) == 1 else f" of face {number}"
        for title, group, names, unit in (
            (f"Pose{of}", "pose", {"yaw_deg": "yaw", "pitch_deg": "pitch", "roll_deg": "roll"}, "°"),
            (
                f"Openness{of}",
                "openness",
                {"right_eye": "right eye", "left_eye": "left eye", "mouth": "mouth"},
                "",
            ),
        ):
            series = [
                Series(
                    label=label,
                    values=[face[group][name] if face and face[group] else None for face in faces],
                )
                for name, label in names.items()
            ]
            charts.append(line_chart(title, times_s, series, unit=unit))
    summary = f"{count_words(len(seen))} in {len(track.frames)} frames, {times_s[-1]:.1f} s"
    return f'<p class="soft">{html.escape(summary)}</p><div class="charts">{"".join(charts)}</div>'
