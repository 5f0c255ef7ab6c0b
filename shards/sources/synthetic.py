"""The embedded data set: rendered faces with exact landmarks, drawn from a seed."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from flm.errors import InputError
from flm.geometry import FaceBox
from flm.landmarks import IBUG_68
from flm.pictures import DecodedPicture
from shards.annotation import FaceAnnotation
from shards.synthesis.portrait import render
from shards.synthesis.pose import draw_head, stream

MIN_FACES = 10
MIN_PICTURE_SIZE_PX = 64
TEST_EVERY = 10
"""Each tenth face is test."""

FRONTAL_BELOW_DEG = 15.0
TURNED_UP_TO_DEG = 30.0

_BOX_STREAM = 2
_BOX_JITTER = 0.04
"""A detector's box varies by about this share of its side."""


@dataclass(frozen=True, slots=True)
class RenderedFace:
    """A picture that is made when it is read; the same numbers give the same bytes."""

    seed: int
    index: int
    picture_size_px: int

    def decode(self, part: FaceBox, most_reduction: float) -> DecodedPicture:  # noqa: ARG002 - always whole
        """Render the face, RGB."""
        pixels = render(self.seed, self.index, self.picture_size_px)
        size = self.picture_size_px
        return DecodedPicture(pixels=pixels, width=size, height=size)


def annotations(*, num_faces: int, seed: int, picture_size_px: int = 256) -> Iterator[FaceAnnotation]:
    """The faces 0 … num_faces - 1 of a seed; nothing is rendered before a picture is read.

    Face i depends on (seed, i) only. Each tenth is test, the rest train; the subset is `frontal` (yaw below
    15°), `turned` (15° to 30°) or `profile` (beyond).

    Raises:
        InputError: fewer than 10 faces, a negative seed, or a picture too small to show a face.
    """
    if num_faces < MIN_FACES:
        raise InputError(f"num_faces is {num_faces}, expected at least {MIN_FACES}; ask for more faces")
    if seed < 0:
        raise InputError(f"seed is {seed}, expected 0 or more; choose another")
    if picture_size_px < MIN_PICTURE_SIZE_PX:
        raise InputError(
            f"picture_size_px is {picture_size_px}, expected at least {MIN_PICTURE_SIZE_PX}; "
            "ask for larger pictures"
        )
    return (_annotation(seed, index, picture_size_px) for index in range(num_faces))


def _annotation(seed: int, index: int, picture_size_px: int) -> FaceAnnotation:
    head = draw_head(seed, index, picture_size_px)
    name = f"synthetic/{index:06d}"
    return FaceAnnotation(
        picture=RenderedFace(seed, index, picture_size_px),
        landmarks_image=head.landmarks_image,
        scheme=IBUG_68.name,
        face_box_image=_detected_box(FaceBox.around(head.landmarks_image), stream(seed, index, _BOX_STREAM)),
        split="test" if index % TEST_EVERY == TEST_EVERY - 1 else "train",
        subset=subset_of(head.view.yaw_deg),
        source_file=name,
        group=name,
    )


def subset_of(yaw_deg: float) -> str:
    """Which part of the report a face of that yaw counts in."""
    if abs(yaw_deg) < FRONTAL_BELOW_DEG:
        return "frontal"
    return "turned" if abs(yaw_deg) <= TURNED_UP_TO_DEG else "profile"


def _detected_box(truth: FaceBox, rng: np.random.Generator) -> FaceBox:
    """A square box around the landmarks, as far off as a detector's."""
    dx, dy, growth = rng.normal(0, _BOX_JITTER, 3).clip(-2 * _BOX_JITTER, 2 * _BOX_JITTER)
    side = truth.long_side * (1 + growth)
    return FaceBox.about(truth.middle + np.array([dx, dy]) * truth.long_side, side, side)
