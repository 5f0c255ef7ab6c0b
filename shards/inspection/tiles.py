"""Faces as small pictures with their landmarks, ready to stand in a page."""

import numpy as np
from jaxtyping import Float, UInt8

from flm.data.reader import Sample
from flm.draw import PREDICTION_COLOR, TRUTH_COLOR, Canvas, jpeg_uri
from flm.geometry import FaceBox, resample, square_crop, transform_points
from flm.landmarks import LandmarkScheme

SMALL_PX = 144
LARGE_PX = 320
MARGIN = 0.25
"""Around the landmarks, of their longer side."""

SUSPECT_COLOR = (255, 214, 10)


def small_tile(sample: Sample, scheme: LandmarkScheme) -> str:
    """A face for a sheet of many, as a data URI."""
    picture, landmarks, _ = _cut_out(sample, SMALL_PX)
    return jpeg_uri(Canvas(picture).lines(landmarks, scheme, TRUTH_COLOR).picture)


def large_tile(
    sample: Sample, scheme: LandmarkScheme, *, expected_shard: Float[np.ndarray, "points 2"], point: int
) -> str:
    """A face whose annotation may be wrong, as a data URI.

    Args:
        sample: the face.
        scheme: of its landmarks.
        expected_shard: the landmarks, some of them moved to where they are expected, px of the stored crop.
        point: the landmark to point out.
    """
    picture, landmarks, shard_to_tile = _cut_out(sample, LARGE_PX)
    canvas = Canvas(picture).lines(transform_points(expected_shard, shard_to_tile), scheme, PREDICTION_COLOR)
    canvas.lines(landmarks, scheme, TRUTH_COLOR).dots(landmarks, TRUTH_COLOR, 1.6)
    return jpeg_uri(canvas.dots(landmarks[[point]], SUSPECT_COLOR, 4.0).picture)


def _cut_out(
    sample: Sample, size_px: int
) -> tuple[UInt8[np.ndarray, "size size 3"], Float[np.ndarray, "points 2"], Float[np.ndarray, "3 3"]]:
    """The face alone, its landmarks there, and the way there."""
    landmarks_shard = sample.record.landmarks_shard
    shard_to_tile = square_crop(FaceBox.around(landmarks_shard), size_px, MARGIN)
    picture = resample(sample.crop_shard, shard_to_tile, size_px)
    return picture, transform_points(landmarks_shard, shard_to_tile), shard_to_tile
