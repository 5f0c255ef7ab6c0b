"""Faces cut out upright, all alike in size and place."""

import numpy as np
from jaxtyping import Float, UInt8

from flm.faces.shape import beside_mean_face, turn_onto
from flm.geometry import resample
from flm.landmarks import LandmarkScheme

ALIGNED_SIZE_PX = 256

MEAN_FACE_SHARE = 0.36
"""Of the crop's side: the distance between the outer eye corners of a mean face seen from the front."""

SMALLEST_SPREAD_PX = 1e-3
"""Landmarks nearer to each other are all in one place."""

MIDDLE_OF_FACE = 0.47j
"""What lies in the middle of the crop: between brows and chin of the mean head, in its frame;
x + iy."""


def aligned_crop(
    picture: UInt8[np.ndarray, "height width 3"],
    landmarks_image: Float[np.ndarray, "points 2"],
    scheme: LandmarkScheme,
    size_px: int = ALIGNED_SIZE_PX,
) -> UInt8[np.ndarray, "size size 3"]:
    """A face, turned upright and scaled so that its features lie as near as can be to those of a mean face.

    Args:
        picture: RGB.
        landmarks_image: px of the picture.
        scheme: of the landmarks.
        size_px: side of the crop.

    Raises:
        ValueError: as `image_to_aligned`.
    """
    return resample(picture, image_to_aligned(landmarks_image, scheme, size_px), size_px)


def image_to_aligned(
    landmarks_image: Float[np.ndarray, "points 2"], scheme: LandmarkScheme, size_px: int = ALIGNED_SIZE_PX
) -> Float[np.ndarray, "3 3"]:
    """The similarity from px of the picture to px of an aligned crop, without a reflection.

    Raises:
        ValueError: the landmarks are all in one place, or not finite.

    The turn is that of least squares; the scale is that of the spreads, which does not shrink where the fit
    is poor.
    """
    seen, mean = beside_mean_face(landmarks_image, scheme)
    wanted = (mean - MIDDLE_OF_FACE) * MEAN_FACE_SHARE * size_px
    seen_middle, wanted_middle = complex(seen.mean()), complex(wanted.mean())
    seen, wanted = seen - seen_middle, wanted - wanted_middle
    spread = float(np.linalg.norm(seen))
    if not np.isfinite(spread) or spread < SMALLEST_SPREAD_PX:
        raise ValueError("the landmarks show no face")
    turn = turn_onto(seen, wanted)
    turn *= float(np.linalg.norm(wanted)) / spread / abs(turn)
    shift = wanted_middle + (1 + 1j) * (size_px - 1) / 2 - turn * seen_middle
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag], [0, 0, 1.0]])
