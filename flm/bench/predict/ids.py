"""Whether faces keep their ids: four of them cross, hide each other, leave and come back."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import UInt8

from flm.bench.face_paths import crossing, faces_of_shards
from flm.bench.figures import OURS, Bar, Figure
from flm.bench.moving_faces import MovingFaces, MovingFrame
from flm.bench.predict.setting import HEIGHT, WIDTH, Setting
from flm.draw import Canvas, Color, contact_sheet, write_png
from flm.geometry import FaceBox
from flm.inference.tracking.tracker import FaceTracker, TrackedFace

SUBJECT = "ids of four faces"
SWITCH_BAR = Bar("at most", 0.0)
PICTURE_NAME = "ids.png"

LEAST_VISIBLE = 0.5
"""A face with a smaller share of its landmarks in sight need not be found."""
LEAST_OVERLAP = 0.4
"""Between the boxes of a true face and of its track; MOT's 0.5 is for boxes that cover a body."""
DURATION_S = 10.0
TILES, TILE_COLUMNS, TILE_WIDTH_PX = 8, 4, 480
COLORS: tuple[Color, ...] = ((255, 210, 60), (90, 255, 130), (255, 70, 220), (90, 190, 255), (255, 130, 60))
"""Of the ids, one after the other."""

Ids = dict[int, int]
"""The track's id of each true face that has one."""


@dataclass(slots=True)
class Identities:
    """Which ids faces had, frame by frame."""

    switches: int = 0
    """How often a face had another id than when it was last seen, however long ago (MOT's IDSW)."""
    num_seen: int = 0
    """True faces over all frames that could be found."""
    num_found: int = 0
    history: dict[int, list[int]] = field(default_factory=dict)
    """The ids of each true face, each once in a row."""

    def add(self, frame: MovingFrame, ids: Ids) -> None:
        """The next frame.

        Source: Bernardin and Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The CLEAR MOT
        Metrics", 2008.
        """
        self.num_seen += sum(share >= LEAST_VISIBLE for share in frame.visible.values())
        self.num_found += len(ids)
        for face, track in ids.items():
            before = self.history.setdefault(face, [])
            if before[-1:] != [track]:
                self.switches += bool(before)
                before.append(track)


def measure_ids(setting: Setting) -> list[Figure]:
    """Count switches on a generated video, and draw some of its frames.

    Raises:
        InputError: the shards have no four such faces, or the detector cannot be had.
    """
    rate = setting.length.frames_per_s
    paths = crossing(WIDTH, HEIGHT, duration_s=DURATION_S)
    faces = faces_of_shards(setting.data, len(paths), split=setting.split, detector=setting.detector)
    moving = MovingFaces(
        faces, paths, width=WIDTH, height=HEIGHT, frames_per_s=rate, num_frames=round(DURATION_S * rate)
    )
    tracker, identities = FaceTracker(setting.predictor), Identities()
    shown = set(np.linspace(0.08, 0.97, TILES).dot(len(moving)).astype(int).tolist())
    tiles = []
    for frame in moving:
        tracked = tracker.update(frame.pixels, frame.time_s)
        identities.add(frame, match(frame, tracked))
        if frame.number in shown:
            tiles.append(tile(frame, tracked))
    write_png(setting.out / PICTURE_NAME, contact_sheet(tiles, TILE_COLUMNS))
    ids = "; ".join(
        f"face {face}: {', '.join(map(str, had))}" for face, had in sorted(identities.history.items())
    )
    return [
        Figure(
            subject=SUBJECT, side=OURS, unit="switches", value=float(identities.switches), bar=SWITCH_BAR,
            how=f"{len(moving)} frames in which they cross, leave and come back; ids of {ids or 'none'}",
        ),
        Figure(
            subject="four faces found", side=OURS, unit="%",
            value=100 * identities.num_found / max(1, identities.num_seen),
            how=f"of {identities.num_seen} faces over all frames, at least half of their landmarks in sight",
        ),
    ]  # fmt: skip


def match(frame: MovingFrame, tracked: Sequence[TrackedFace]) -> Ids:
    """Which track is on which true face in sight: the pairs that overlap most first, each once."""
    boxes = {one.track_id: FaceBox.around(one.prediction.landmarks_image) for one in tracked}
    pairs = sorted(
        (-frame.box(face).overlap(box), face, track)
        for face, share in frame.visible.items()
        if share >= LEAST_VISIBLE
        for track, box in boxes.items()
    )
    ids: Ids = {}
    for overlap, face, track in pairs:
        if -overlap >= LEAST_OVERLAP and face not in ids and track not in ids.values():
            ids[face] = track
    return ids


def tile(frame: MovingFrame, tracked: Sequence[TrackedFace]) -> UInt8[np.ndarray, "height width 3"]:
    """A frame, smaller, with the box and the id of each track."""
    canvas = Canvas(frame.pixels)
    for one in tracked:
        color = COLORS[one.track_id % len(COLORS)]
        canvas.box(FaceBox.around(one.prediction.landmarks_image), color, width_px=4)
    picture = canvas.picture
    for one in tracked:
        left, top = one.prediction.landmarks_image.min(0).tolist()
        color = COLORS[one.track_id % len(COLORS)]
        place = (round(left), max(40, round(top) - 10))
        for tint, width in (((20, 20, 20), 10), (color, 4)):
            cv2.putText(picture, str(one.track_id), place, cv2.FONT_HERSHEY_SIMPLEX, 1.6, tint, width)
    height = round(TILE_WIDTH_PX * frame.pixels.shape[0] / frame.pixels.shape[1])
    small = cv2.resize(picture, (TILE_WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    return Canvas(np.asarray(small, np.uint8)).caption(f"{frame.time_s:.1f} s").picture
