"""The shape of a face: its landmarks apart from their place, size and turn.

A point is a complex number here, x + iy, so that scale and rotation are one number too, and a similarity is
turn · point + shift.
"""

import functools
from typing import TypeAlias

import numpy as np
from jaxtyping import Complex128, Float, Float64

from flm.faces.landmark_conversion import shared_points
from flm.faces.pose import SIDES_OF_THE_JAW, mean_face
from flm.landmarks import IBUG_68, LandmarkScheme, scheme_named

_TINY = 1e-12

Points: TypeAlias = Complex128[np.ndarray, " points"]


def as_complex(points: Float[np.ndarray, "points 2"]) -> Points:
    """Points as complex numbers."""
    return points[:, 0].astype(np.float64) + 1j * points[:, 1]


def as_points(points: Points) -> Float64[np.ndarray, "points 2"]:
    """Complex numbers as points."""
    return np.stack([np.real(points), np.imag(points)], axis=1)


def turn_onto(source: Points, target: Points) -> complex:
    """The turn and scale that bring points nearest to others, by least squares; never 0.

    Args:
        source: about their middle.
        target: about their middle, in the same order.

    Source: Umeyama, "Least-Squares Estimation of Transformation Parameters Between Two Point Patterns", 1991;
    in the plane, and without reflections, it is this quotient of complex numbers.
    """
    turn = complex(np.vdot(source, target)) / max(float(np.vdot(source, source).real), _TINY)
    return turn if abs(turn) >= _TINY else complex(_TINY)


def beside_mean_face(
    landmarks: Float[np.ndarray, "landmarks 2"], scheme: LandmarkScheme
) -> tuple[Points, Points]:
    """The landmarks that keep their place on a head, and the same ones of the mean face seen from the front.

    Args:
        landmarks: in any frame.
        scheme: of the landmarks.

    Returns:
        The landmarks in their frame, and those of the mean face in the head frame of `flm.faces.pose`.
    """
    own, reference = shared_points(scheme, IBUG_68)
    inner = [row for row, point in enumerate(reference) if point not in SIDES_OF_THE_JAW]
    mean = mean_face()[np.array(reference)[inner], :2]
    return as_complex(landmarks[np.array(own)[inner]]), as_complex(mean)


def inter_ocular_px(landmarks_image: Float[np.ndarray, "points 2"], scheme: LandmarkScheme) -> float:
    """The distance between the outer eye corners that a face of this size would have, seen from the front.

    From the spread of all landmarks, since the corners of a profile fall together; positive.

    Args:
        landmarks_image: px of any picture with square pixels.
        scheme: of the landmarks.
    """
    own, share = _spread_of_mean_face(scheme.name)
    seen = landmarks_image[own]
    spread = float(np.sqrt(((seen - seen.mean(axis=0)) ** 2).sum(axis=1).mean()))
    return max(spread / share, _TINY)


@functools.cache
def _spread_of_mean_face(scheme: str) -> tuple[list[int], float]:
    """Points that the mean face has too, and their spread there in inter-ocular distances."""
    own, reference = shared_points(scheme_named(scheme), IBUG_68)
    flat = mean_face()[reference, :2]
    return own, float(np.sqrt(((flat - flat.mean(axis=0)) ** 2).sum(axis=1).mean()))
