"""How a head is turned, from its landmarks and a mean head."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float

from shards.synthesis.pose import rotation_angles_deg
from shards.synthesis.shape import NUM_LANDMARKS, mean_controls

POINTS = [*range(5, 12), *range(17, NUM_LANDMARKS)]
"""Without the sides of the jaw: on a turned head, annotators follow the visible outline there."""

CAMERA_DISTANCE = 12.0
"""In inter-ocular distances, about a metre; unknown of a picture, and of little weight."""

_TOWARDS_TO_AWAY = np.diag([1.0, 1.0, -1.0])
"""The head frame's z points to the camera, that of OpenCV away from it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadPose:
    """The turn of a head, signs as in `rotation_matrix`; 0 is the mean head seen from the front."""

    yaw_deg: float
    """Positive when the face looks to the picture's right."""
    pitch_deg: float
    """Positive when it looks down."""
    roll_deg: float
    """Positive when it is tilted clockwise."""


def head_pose(landmarks: Float[np.ndarray, "68 2"]) -> HeadPose | None:
    """The pose in which the mean head comes nearest to the landmarks (perspective-n-point).

    On rendered heads of random shape and expression it is off by 2° in yaw and in pitch, 0.6° in roll.

    Args:
        landmarks: ibug-68, px of any upright picture.

    Returns:
        None where the landmarks are no face, such as 68 times the same point.
    """
    head = (mean_controls()[POINTS] @ _TOWARDS_TO_AWAY).astype(np.float64)
    seen = (landmarks - landmarks.mean(axis=0))[POINTS].astype(np.float64)
    px_per_unit = float(np.linalg.norm(seen) / np.linalg.norm(head[:, :2] - head[:, :2].mean(axis=0)))
    if px_per_unit == 0:
        return None
    focal_px = CAMERA_DISTANCE * px_per_unit
    camera = np.diag([focal_px, focal_px, 1.0])
    # From the front, so that of the two turns that look nearly alike from afar it finds the likely one.
    start_turn, start_shift = np.zeros((3, 1)), np.array([[0.0], [0.0], [CAMERA_DISTANCE]])
    found, turn, _ = cv2.solvePnP(
        head,
        seen,
        camera,
        None,
        start_turn,
        start_shift,
        useExtrinsicGuess=True,
        flags=cv2.SOLVEPNP_ITERATIVE,
    )
    rotation = _TOWARDS_TO_AWAY @ cv2.Rodrigues(turn)[0] @ _TOWARDS_TO_AWAY
    if not found or not np.isfinite(rotation).all():
        return None
    yaw_deg, pitch_deg, roll_deg = rotation_angles_deg(rotation)
    return HeadPose(yaw_deg=yaw_deg, pitch_deg=pitch_deg, roll_deg=roll_deg)
