"""How the camera sees a head: turn, perspective, and place in the picture."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from flm.faces.pose import rotation_matrix
from shards.synthesis.shape import NUM_LANDMARKS, HeadShape, draw_shape

YAW_LIMIT_DEG = 45.0
PITCH_LIMIT_DEG = 25.0
ROLL_LIMIT_DEG = 40.0
TURNING_CENTER = np.array([0.0, 0.35, -0.6])
"""The head turns about this point of its frame, near the atlas."""

SHAPE_STREAM = 0
"""The draws that landmarks depend on have a stream of their own, so that they need no rendering."""


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """From the head frame to the picture."""

    rotation: Float[np.ndarray, "3 3"]
    yaw_deg: float
    """Positive when the face looks to the picture's right."""
    distance: float
    """Of the camera from the turning centre, in inter-ocular distances."""
    scale_px: float
    """Px per inter-ocular distance at the turning centre."""
    offset_image: Float[np.ndarray, " 2"]

    def turned(self, points: Float[np.ndarray, "*points 3"]) -> Float[np.ndarray, "*points 3"]:
        """Points of the head frame as the camera has them: relative to the turning centre, turned."""
        return (points - TURNING_CENTER.astype(points.dtype)) @ self.rotation.T.astype(points.dtype)

    def project(self, points: Float[np.ndarray, "*points 3"]) -> Float[np.ndarray, "*points 2"]:
        """Points of the head frame in px of the picture (an integer is the centre of a pixel)."""
        return self.flattened(self.turned(points))

    def flattened(self, turned: Float[np.ndarray, "*points 3"]) -> Float[np.ndarray, "*points 2"]:
        """Points as the camera has them in px of the picture."""
        nearness = self.distance / (self.distance - turned[..., 2:])
        return turned[..., :2] * (nearness * self.scale_px) + self.offset_image.astype(turned.dtype)

    def length_px(self, length: float) -> float:
        """Roughly how long a length of the head frame is in the picture."""
        return length * self.scale_px


@dataclass(frozen=True, kw_only=True, slots=True)
class PosedHead:
    """A head and how the camera sees it: all that landmarks depend on."""

    shape: HeadShape
    view: View

    @property
    def landmarks_image(self) -> Float[np.ndarray, "68 2"]:
        """The 68 points in px of the picture."""
        return self.view.project(self.shape.controls[:NUM_LANDMARKS])


def stream(seed: int, index: int, number: int) -> np.random.Generator:
    """One of the independent sources of randomness of face `index`."""
    return np.random.default_rng((seed, index, number))


def _draw_angle(rng: np.random.Generator, spread_deg: float, limit_deg: float) -> float:
    angle = rng.normal(0, spread_deg)
    while abs(angle) > limit_deg:
        angle = rng.normal(0, spread_deg)
    return float(angle)


def draw_head(seed: int, index: int, picture_size_px: int) -> PosedHead:
    """Face `index` before it is painted; landmarks scale with the size of the picture."""
    rng = stream(seed, index, SHAPE_STREAM)
    shape = draw_shape(rng)
    limit = YAW_LIMIT_DEG
    yaw = rng.uniform(-limit, limit) if rng.random() < 0.5 else _draw_angle(rng, 13.0, limit)
    pitch = _draw_angle(rng, 8.0, PITCH_LIMIT_DEG)
    roll = _draw_angle(rng, 9.0, ROLL_LIMIT_DEG)
    unplaced = View(
        rotation=rotation_matrix(yaw, pitch, roll),
        yaw_deg=yaw,
        distance=float(rng.uniform(6, 18)),
        scale_px=1.0,
        offset_image=np.zeros(2),
    )
    landmarks = unplaced.project(shape.controls[:NUM_LANDMARKS])
    low, high = landmarks.min(0), landmarks.max(0)
    share = rng.uniform(0.35, 0.65)
    scale = share * picture_size_px / (high - low).max()
    # Where the middle of the face lies: anywhere that keeps it inside, or one time in 20 over the edge.
    reach = (1 - share) / 2 * 0.6 if rng.random() < 0.95 else (1 - share) / 2 + 0.1
    middle = (np.array([0.5, 0.56]) + rng.uniform(-reach, reach, 2)) * picture_size_px - 0.5
    view = View(
        rotation=unplaced.rotation,
        yaw_deg=yaw,
        distance=unplaced.distance,
        scale_px=float(scale),
        offset_image=middle - scale * (low + high) / 2,
    )
    return PosedHead(shape=shape, view=view)
