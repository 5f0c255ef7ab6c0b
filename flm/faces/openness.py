"""How far eyes and mouth are open."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from flm.faces.landmark_conversion import can_become, convert_landmarks
from flm.landmarks import IBUG_68, LandmarkScheme

# Of ibug-68: the corners, then pairs of points above each other.
_RIGHT_EYE = ((36, 39), ((37, 41), (38, 40)))
_LEFT_EYE = ((42, 45), ((43, 47), (44, 46)))
_INNER_LIPS = ((60, 64), ((61, 67), (62, 66), (63, 65)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Openness:
    """Height over width: 0 is closed. Turning the head to the side narrows, and so raises it."""

    right_eye: float
    """The eye aspect ratio of the person's right eye; about 0.3 where it is open, below 0.2 in a blink."""
    left_eye: float
    mouth: float
    """The same of the inner lips: 0 where they touch, above 0.5 in a yawn."""


def openness(landmarks: Float[np.ndarray, "points 2"], scheme: LandmarkScheme) -> Openness | None:
    """Eye and mouth aspect ratios.

    EAR = (‖p₂ − p₆‖ + ‖p₃ − p₅‖) / (2 ‖p₁ − p₄‖), with p₁ and p₄ the corners of an eye, p₂ and p₃ on its
    upper lid and p₆ and p₅ below them. MAR is likewise the mean height of the inner lips, at three places,
    over their width.

    Args:
        landmarks: in any frame with equal x and y scale.
        scheme: of the landmarks.

    Returns:
        None where the scheme has no lids, or a width is zero.

    Source: Soukupová and Čech, "Real-Time Eye Blink Detection using Facial Landmarks", 2016, equation 1.
    """
    if not can_become(scheme, IBUG_68):
        return None
    points = convert_landmarks(landmarks, scheme, IBUG_68)
    ratios = [_aspect_ratio(points, *feature) for feature in (_RIGHT_EYE, _LEFT_EYE, _INNER_LIPS)]
    if not np.isfinite(ratios).all():
        return None
    return Openness(right_eye=ratios[0], left_eye=ratios[1], mouth=ratios[2])


def _aspect_ratio(
    points: Float[np.ndarray, "68 2"], corners: tuple[int, int], pairs: tuple[tuple[int, int], ...]
) -> float:
    width = float(np.linalg.norm(points[corners[0]] - points[corners[1]]))
    height = float(np.mean([np.linalg.norm(points[upper] - points[lower]) for upper, lower in pairs]))
    return height / width if width > 0 else float("nan")
