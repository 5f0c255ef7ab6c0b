"""Paths of faces for generated videos, and pictures of faces for them out of shards."""

import math

import numpy as np

from flm.bench.moving_faces import FacePath, FacePicture, Placement
from flm.data.split_samples import samples_at
from flm.data.store import open_store
from flm.errors import InputError
from flm.faces.pose import head_pose
from flm.geometry import FaceBox
from flm.inference.detector import FaceDetector

MOST_YAW_DEG = 20.0
"""Of the faces that are taken out of shards: one that looks aside is no face for a video."""

FEWEST_PX = 100.0
"""Of the longer side of their landmarks' box."""


def still(center_x: float, center_y: float, size_px: float) -> FacePath:
    """A face that does not move."""
    placement = Placement(center_x=center_x, center_y=center_y, size_px=size_px)
    return lambda _: placement


def swaying(
    center_x: float, center_y: float, size_px: float, *, reach: float = 1.0, hz: float = 0.5
) -> FacePath:
    """A face that goes to and fro, nods, turns and comes nearer, each at a frequency of its own.

    Args:
        center_x: of the path, px.
        center_y: of the path, px.
        size_px: of the face on average.
        reach: to each side, in sizes of the face.
        hz: of the way to and fro.
    """

    def at(time_s: float) -> Placement:
        angle = 2 * math.pi * hz * time_s
        return Placement(
            center_x=center_x + reach * size_px * math.sin(angle),
            center_y=center_y + 0.3 * reach * size_px * math.sin(1.7 * angle),
            size_px=size_px * (1 + 0.1 * math.sin(0.6 * angle)),
            roll_deg=12 * math.sin(1.3 * angle),
            squeeze=1 - 0.08 * (1 - math.cos(0.9 * angle)),
        )

    return at


def crossing(
    width: int = 1280, height: int = 720, *, size_px: float = 150.0, duration_s: float = 10.0
) -> list[FacePath]:
    """Four faces: two walk past each other, one goes behind both and out of the picture and comes back, one
    comes and leaves and comes back.

    Args:
        width: of the frames, px.
        height: of the frames, px.
        size_px: of the faces.
        duration_s: of the video.
    """
    row = 0.42 * height

    def walk(start: float, end: float, time_s: float) -> float:
        return start + (end - start) * time_s / duration_s

    def rightwards(time_s: float) -> Placement:
        x = walk(0.15, 0.85, time_s) * width
        return Placement(center_x=x, center_y=row + 8 * math.sin(4 * time_s), size_px=size_px)

    def leftwards(time_s: float) -> Placement:
        x = walk(0.85, 0.15, time_s) * width
        return Placement(center_x=x, center_y=row + 8 * math.cos(4 * time_s), size_px=1.1 * size_px)

    def out_and_back(time_s: float) -> Placement | None:
        # To the right and out of the picture at 45 % of the time, and back from 60 % on.
        share = time_s / duration_s
        if 0.45 < share < 0.6:
            return None
        x = 0.5 + 0.62 * share / 0.45 if share <= 0.45 else 1.12 - 0.62 * (share - 0.6) / 0.4
        return Placement(center_x=x * width, center_y=row + 0.03 * height, size_px=0.9 * size_px)

    def guest(time_s: float) -> Placement | None:
        # From the bottom at 10 % of the time, out by 40 %, and again from 65 % on.
        share = time_s / duration_s
        if share < 0.1 or 0.4 < share < 0.65:
            return None
        away = abs(share - 0.25) / 0.15 if share <= 0.4 else max(0.0, 1 - (share - 0.65) / 0.1)
        return Placement(center_x=0.3 * width, center_y=(0.8 + 0.4 * away) * height, size_px=size_px)

    return [out_and_back, rightwards, leftwards, guest]


def faces_of_shards(
    data: str, count: int, *, split: str = "test", seed: int = 0, detector: FaceDetector | None = None
) -> list[FacePicture]:
    """Faces of different photos, seen from the front, large enough to be shown.

    Args:
        data: folder or URL of shards.
        count: how many.
        split: of the shards.
        seed: which ones.
        detector: pictures in which it finds another number of faces than one are passed over: who stands
            beside is no part of the truth.

    Raises:
        InputError: there are not as many, or no such split.
    """
    store = open_store(data)
    scheme = store.manifest.landmark_scheme
    order = np.random.default_rng(seed).permutation(store.manifest.num_samples(split))
    found: dict[str, FacePicture] = {}
    for sample in samples_at(store, split, order):
        if len(found) == count:
            break
        landmarks = sample.record.landmarks_shard.astype(np.float64)
        pose = head_pose(landmarks, scheme)
        is_large = FaceBox.around(landmarks).long_side >= FEWEST_PX
        looks_ahead = pose is not None and abs(pose.yaw_deg) <= MOST_YAW_DEG
        if is_large and looks_ahead and (detector is None or len(detector.detect(sample.crop_shard)) == 1):
            found.setdefault(
                sample.record.group, FacePicture(picture=sample.crop_shard.copy(), landmarks=landmarks)
            )
    if len(found) < count:
        alone = "" if detector is None else " and are found alone"
        raise InputError(
            f"{data}: {len(found)} faces of {split} are large and look ahead{alone}, {count} are needed; "
            "give more"
        )
    return list(found.values())
