"""How a head is turned, from its landmarks and a mean head.

Head frame: one unit is the inter-ocular distance (about 9 cm), x to the picture's right, y down, z towards
the camera, origin midway between the outer eye corners.
"""

import functools
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float

from flm.faces.landmark_conversion import shared_points
from flm.landmarks import IBUG_68, LandmarkScheme

# Right half (the picture's left) of a mean over 16 fitted faces, mirrored copies included.
_HALF_LANDMARKS = {
    **dict(enumerate([
        (-0.8366, -0.0911, -0.7998), (-0.8137, 0.1403, -0.8269), (-0.7686, 0.3517, -0.8568),
        (-0.7219, 0.5440, -0.8567), (-0.6553, 0.7602, -0.7980), (-0.5449, 0.9555, -0.6537),
        (-0.4166, 1.1005, -0.4613), (-0.2496, 1.2281, -0.2912), (0.0000, 1.2962, -0.2250),
    ])),
    17: (-0.6513, -0.1736, -0.0409), 18: (-0.5558, -0.2063, 0.1088), 19: (-0.4340, -0.2083, 0.2026),
    20: (-0.3183, -0.1874, 0.2543), 21: (-0.2140, -0.1556, 0.2733),
    27: (0.0000, 0.0600, 0.2665), 28: (0.0000, 0.2150, 0.3325), 29: (0.0000, 0.3707, 0.4065),
    30: (0.0000, 0.4901, 0.4071), 31: (-0.1415, 0.5271, 0.1371), 32: (-0.0809, 0.5504, 0.1835),
    33: (0.0000, 0.5698, 0.2037),
    36: (-0.5000, 0.0000, 0.0000), 37: (-0.4249, -0.0263, 0.1006), 38: (-0.3190, -0.0289, 0.1038),
    39: (-0.2197, 0.0200, 0.0617), 40: (-0.3104, 0.0501, 0.0835), 41: (-0.4224, 0.0494, 0.0571),
    48: (-0.2979, 0.7774, -0.0654), 49: (-0.1964, 0.7329, 0.0894), 50: (-0.0681, 0.7051, 0.1718),
    51: (0.0000, 0.7207, 0.1759), 57: (0.0000, 0.9406, 0.0734), 58: (-0.0969, 0.9299, 0.0638),
    59: (-0.1872, 0.8764, 0.0223), 60: (-0.2745, 0.7749, -0.0581), 61: (-0.0860, 0.7720, 0.0938),
    62: (0.0000, 0.7742, 0.1148), 66: (0.0000, 0.8438, 0.0816), 67: (-0.0844, 0.8349, 0.0704),
}  # fmt: skip

SIDES_OF_THE_JAW = frozenset({*range(5), *range(12, 17)})
"""Left out: on a turned head, annotators follow the visible outline there."""

CAMERA_DISTANCE = 12.0
"""In inter-ocular distances, about a metre. A picture tells neither it nor the focal length, and little
depends on them: a head at half or twice that distance is off by 0.6° on average and 1.5° at most."""

_TOWARDS_TO_AWAY = np.diag([1.0, 1.0, -1.0])
"""The head frame's z points to the camera, that of OpenCV away from it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadPose:
    """The turn of a head, signs as in `rotation_matrix`; 0 is the mean head seen from the front."""

    yaw_deg: float
    """Positive when the face looks to the picture's right."""
    pitch_deg: float
    """Positive when it looks down; within ±90."""
    roll_deg: float
    """Positive when it is tilted clockwise, as the picture shows it."""


def rotation_matrix(yaw_deg: float, pitch_deg: float, roll_deg: float) -> Float[np.ndarray, "3 3"]:
    """Turn about the vertical, then nod (positive looks down), then tilt (positive is clockwise)."""
    yaw, pitch, roll = np.deg2rad([yaw_deg, pitch_deg, roll_deg])
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    nod = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    tilt = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return tilt @ nod @ turn


def rotation_angles_deg(rotation: Float[np.ndarray, "3 3"]) -> tuple[float, float, float]:
    """Yaw, pitch and roll that `rotation_matrix` makes this rotation of; pitch within ±90°."""
    yaw = np.arctan2(-rotation[2, 0], rotation[2, 2])
    pitch = np.arcsin(np.clip(-rotation[2, 1], -1, 1))
    roll = np.arctan2(-rotation[0, 1], rotation[1, 1])
    yaw_deg, pitch_deg, roll_deg = np.rad2deg([yaw, pitch, roll]).tolist()
    return yaw_deg, pitch_deg, roll_deg


@functools.cache
def mean_face() -> Float[np.ndarray, "68 3"]:
    """The 68 points of a mean head, head frame; the jaw is the head's, behind the cheek of a profile."""
    landmarks = np.zeros((IBUG_68.num_points, 3))
    for point, position in _HALF_LANDMARKS.items():
        landmarks[point] = position
        landmarks[IBUG_68.mirror_permutation[point]] = np.array(position) * [-1, 1, 1]
    return landmarks


def head_pose(landmarks_image: Float[np.ndarray, "points 2"], scheme: LandmarkScheme) -> HeadPose | None:
    """The pose in which the mean head comes nearest to the landmarks (perspective-n-point).

    Angles are against the line from the camera to the head. On rendered heads of random shape and expression
    they are off by 2° in yaw and in pitch and 0.5° in roll on average, up to profiles.

    Args:
        landmarks_image: px of any picture with square pixels.
        scheme: of the landmarks.

    Returns:
        None where the landmarks are no face: 68 times the same point, say, or not finite; and where too few
        points of the scheme are known to be some of ibug-68.
    """
    own, reference = _points_used(scheme)
    head = mean_face()[reference] @ _TOWARDS_TO_AWAY
    seen = landmarks_image[own].astype(np.float64)
    seen -= seen.mean(axis=0)
    spread = float(np.linalg.norm(seen))
    if not spread > 0 or not np.isfinite(spread):
        return None
    focal_px = CAMERA_DISTANCE * spread / float(np.linalg.norm(head[:, :2] - head[:, :2].mean(axis=0)))
    turn = _nearest_turn(head, seen / focal_px)
    if turn is None:
        return None
    yaw_deg, pitch_deg, roll_deg = rotation_angles_deg(_TOWARDS_TO_AWAY @ turn @ _TOWARDS_TO_AWAY)
    return HeadPose(yaw_deg=yaw_deg, pitch_deg=pitch_deg, roll_deg=roll_deg)


def _points_used(scheme: LandmarkScheme) -> tuple[list[int], list[int]]:
    """Which points are compared: their numbers in the scheme and in ibug-68."""
    pairs = zip(*shared_points(scheme, IBUG_68), strict=True)
    used = [(own, reference) for own, reference in pairs if reference not in SIDES_OF_THE_JAW]
    return [own for own, _ in used], [reference for _, reference in used]


def _nearest_turn(
    head: Float[np.ndarray, "points 3"], seen: Float[np.ndarray, "points 2"]
) -> Float[np.ndarray, "3 3"] | None:
    """The rotation that brings a head's points nearest to those that a camera of focal length 1 sees.

    None where there is none with the head before the camera.

    Source: Terzakis and Lourakis, "A Consistently Fast and Globally Optimal Solution to the
    Perspective-n-Point Problem", 2020, then least squares in the picture.
    """
    camera = np.eye(3)
    try:
        found, turn, shift = cv2.solvePnP(head, seen, camera, None, flags=cv2.SOLVEPNP_SQPNP)
        if not found:
            return None
        turn, shift = cv2.solvePnPRefineLM(head, seen, camera, None, turn, shift)
    except cv2.error:  # points that determine no turn
        return None
    rotation = cv2.Rodrigues(turn)[0]
    is_before_camera = bool(np.isfinite(rotation).all()) and float(shift[2, 0]) > 0
    return rotation if is_before_camera else None
