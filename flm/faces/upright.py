"""Where a face is cut out, and how a tilted one is cut out upright."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from flm.faces.shape import beside_mean_face, turn_onto
from flm.geometry import MIN_FACE_PX, FaceBox, square_crop, transform_points, turned_back
from flm.landmarks import LandmarkScheme

AS_IT_IS_DEG = 30.0
"""Networks learn from faces that are tilted by up to so much, which are not turned."""

UPRIGHT_FROM_DEG = 60.0
"""A face tilted by so much is turned all the way. Between the two angles there is no jump, which a video
would show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FacePlace:
    """Where a face is, and how it is cut out of its picture."""

    box_image: FaceBox
    """Px of the picture; as wide and high as the face along its own axes."""
    turn_deg: float | None = None
    """How the face is tilted, clockwise, as far as its crop undoes it; None where that is not known, and the
    crop is not turned."""

    def crop(self, size_px: int, margin: float) -> Float[np.ndarray, "3 3"]:
        """The matrix from the picture to the crop; see `square_crop`."""
        as_it_is = square_crop(self.box_image, size_px, margin)
        if not self.turn_deg:
            return as_it_is
        return turned_back(self.turn_deg, np.full(2, (size_px - 1) / 2)) @ as_it_is


def turn_for(roll_deg: float) -> float:
    """By how much a crop is turned for a face that is tilted, degrees, clockwise as the roll is."""
    beyond = max(0.0, abs(roll_deg) - AS_IT_IS_DEG) / (UPRIGHT_FROM_DEG - AS_IT_IS_DEG)
    return math.copysign(min(abs(roll_deg), beyond * UPRIGHT_FROM_DEG), roll_deg)


def roll_deg_of(landmarks_image: Float[np.ndarray, "points 2"], scheme: LandmarkScheme) -> float:
    """How a face is tilted in the picture, degrees, clockwise, between -180 and 180.

    Args:
        landmarks_image: px of any picture, not all in one place.
        scheme: of the landmarks.
    """
    seen, mean = beside_mean_face(landmarks_image, scheme)
    return math.degrees(np.angle(turn_onto(mean - mean.mean(), seen - seen.mean())))


def place_of(landmarks_image: Float[np.ndarray, "points 2"], scheme: LandmarkScheme) -> FacePlace | None:
    """Where to cut a face out whose landmarks are known: their own box, along the axes of a tilted face.

    Args:
        landmarks_image: px of any picture.
        scheme: of the landmarks.

    Returns:
        None where the landmarks show no face: they are not finite, or all in one place.
    """
    if not np.isfinite(landmarks_image).all():
        return None
    box = FaceBox.around(landmarks_image)
    if box.long_side <= MIN_FACE_PX:
        return None
    turn_deg = turn_for(roll_deg_of(landmarks_image, scheme))
    if not turn_deg:
        return FacePlace(box_image=box, turn_deg=0.0)
    image_to_upright = turned_back(turn_deg, box.middle)
    upright = FaceBox.around(transform_points(landmarks_image, image_to_upright))
    middle = transform_points(upright.middle[None], np.linalg.inv(image_to_upright))[0]
    return FacePlace(box_image=FaceBox.about(middle, upright.width, upright.height), turn_deg=turn_deg)
