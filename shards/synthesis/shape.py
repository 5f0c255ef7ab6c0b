"""The 3-D head: a mean shape with the 68 iBUG points, and how identity and expression move it.

The head frame is that of `flm.faces.pose`. Every variation is a displacement of the control points times a
coefficient; what must meet exactly (lids, lips) is closed afterwards.
"""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from flm.faces.pose import mean_face
from flm.landmarks import IBUG_68

# What the landmarks leave open, placed by hand on a head of usual proportions (eyes at half its height).
_EXTRA_MIDDLE = [
    (0.0, -0.14, 0.290), (0.0, -0.45, 0.290), (0.0, -0.78, 0.170), (0.0, -1.05, -0.100),
    (0.0, -1.22, -0.500),
    (0.0, -1.24, -0.900), (0.0, -1.05, -1.450), (0.0, -0.50, -1.800), (0.0, 0.30, -1.700),
    (0.0, 0.90, -1.350),
    (0.0, 0.535, 0.330), (0.0, 0.630, 0.185), (0.0, 1.035, 0.015), (0.0, 1.170, 0.020),
    (0.0, 1.340, -0.450),
    (0.0, 1.300, -0.800),
]  # fmt: skip
_EXTRA_SIDE = [
    # forehead, temple
    (0.36, -0.45, 0.220), (0.62, -0.42, -0.010), (0.33, -0.80, 0.080), (0.77, -0.38, -0.400),
    (0.60, -0.80, -0.240),
    (0.76, -0.08, -0.330), (0.20, -0.28, 0.300),
    # cheekbone, cheek
    (0.67, 0.14, -0.160), (0.52, 0.22, 0.030), (0.30, 0.19, 0.110), (0.40, 0.40, 0.090),
    (0.57, 0.46, -0.120),
    (0.42, 0.66, -0.020), (0.66, 0.50, -0.430), (0.47, 0.90, -0.260), (0.75, 0.12, -0.500),
    (0.30, 1.03, -0.120),
    # nose
    (0.085, 0.19, 0.200), (0.110, 0.34, 0.240), (0.085, 0.455, 0.345), (0.175, 0.460, 0.195),
    (0.215, 0.500, 0.080),
    (0.075, 0.532, 0.255),
    # eye socket, philtrum, chin
    (0.150, 0.00, 0.130), (0.30, -0.100, 0.140), (0.45, -0.105, 0.120), (0.575, -0.02, -0.040),
    (0.17, 1.15, -0.040),
    (0.13, 0.66, 0.150),
    # below the jaw, side and back of the head
    (0.33, 1.16, -0.720), (0.52, 0.98, -0.980), (0.86, -0.38, -0.850), (0.82, 0.20, -1.120),
    (0.80, -0.45, -1.250),
    (0.48, -1.08, -0.550), (0.72, -0.78, -0.750), (0.48, -0.95, -1.200), (0.55, -0.30, -1.600),
    (0.58, 0.45, -1.400),
]  # fmt: skip

NUM_LANDMARKS = IBUG_68.num_points
SKULL_CENTER = np.array([0.0, 0.1, -0.75])
"""From here every point of the surface is seen once, so directions name points."""


@functools.cache
def mean_controls() -> Float[np.ndarray, "controls 3"]:
    """The control points of the mean face, head frame: the 68 landmarks, then what they leave open."""
    side = np.array(_EXTRA_SIDE)
    return np.concatenate([mean_face(), np.array(_EXTRA_MIDDLE), side, side * [-1.0, 1.0, 1.0]])


def _bump(center: tuple[float, float, float], radius: float, *, both_sides: bool = True) -> np.ndarray:
    """How much each control takes part: 1 at the centre (and its mirror image), falling as a Gaussian."""
    controls = mean_controls()
    positions = controls * ([-1, 1, 1] if both_sides and center[0] > 0 else [1, 1, 1])
    squared = ((controls - center) ** 2).sum(1)
    if both_sides and center[0] > 0:
        squared = np.minimum(squared, ((positions - center) ** 2).sum(1))
    return np.exp(-squared / (2 * radius**2))


def _ramp(values: np.ndarray, start: float, stop: float) -> np.ndarray:
    """0 before start, 1 after stop, smooth between."""
    share = np.clip((values - start) / (stop - start), 0, 1)
    return share * share * (3 - 2 * share)


def _move(
    *, x: np.ndarray | float = 0.0, y: np.ndarray | float = 0.0, z: np.ndarray | float = 0.0
) -> np.ndarray:
    columns = (np.broadcast_to(v, len(mean_controls())) for v in (x, y, z))
    return np.stack([*columns], axis=1)


def _of_points(*points: int) -> np.ndarray:
    weights = np.zeros(len(mean_controls()))
    weights[list(points)] = 1
    return weights


@functools.cache
def identity_moves() -> Float[np.ndarray, "moves controls 3"]:
    """One standard deviation of each way in which heads differ, as displacements in the head frame."""
    x, y, z = mean_controls().T
    side = np.sign(x)
    eye, brow = _bump((0.36, 0.01, 0.06), 0.12), _bump((0.42, -0.2, 0.16), 0.10)
    mouth, nose_base = _bump((0.0, 0.8, 0.08), 0.22), _bump((0.0, 0.52, 0.18), 0.13)
    chin, lower = _bump((0.0, 1.2, -0.1), 0.22), _ramp(y, 0.3, 1.25)
    from_eye = np.abs(x) - 0.36
    moves = [
        _move(x=0.045 * x),  # width of the face
        _move(y=0.06 * lower),  # length of the lower face
        _move(x=0.075 * x * _ramp(y, 0.35, 1.0)),  # width of the jaw
        _move(z=0.05 * chin),
        _move(y=0.05 * chin),
        _move(y=-0.07 * _ramp(-y, 0.25, 0.8)),  # height of the forehead
        _move(x=0.16 * x * nose_base),
        _move(y=0.035 * _bump((0.0, 0.5, 0.25), 0.15)),  # length of the nose
        _move(z=0.055 * _bump((0.0, 0.45, 0.4), 0.13)),  # how far the nose stands out
        _move(z=0.035 * _bump((0.0, 0.1, 0.28), 0.10)),  # height of its bridge
        _move(y=-0.02 * _bump((0.0, 0.5, 0.4), 0.08)),  # turned-up tip
        _move(x=0.016 * side * eye),  # distance of the eyes
        _move(y=0.22 * (y - 0.01) * eye),  # openness
        _move(x=0.07 * from_eye * eye),  # width of the eyes
        _move(y=0.09 * from_eye * eye),  # tilt of the eyes
        _move(y=0.028 * brow),
        _move(y=0.12 * (np.abs(x) - 0.42) * brow),  # tilt of the brows
        _move(y=0.03 * _bump((0.42, -0.21, 0.2), 0.06)),  # arch of the brows
        _move(x=0.025 * side * brow),
        _move(z=0.03 * brow),
        _move(x=0.10 * x * mouth),
        _move(y=0.025 * mouth),
        _move(z=0.025 * mouth),
        _move(y=-0.022 * _of_points(50, 51, 52) - 0.012 * _of_points(49, 53)),  # upper lip
        _move(y=0.024 * _of_points(56, 57, 58) + 0.014 * _of_points(55, 59)),  # lower lip
        _move(x=0.03 * side * _bump((0.66, 0.15, -0.2), 0.2), z=0.03 * _bump((0.5, 0.25, 0.0), 0.15)),
        _move(x=0.05 * side * _bump((0.6, 0.7, -0.4), 0.25), z=0.03 * _bump((0.45, 0.65, -0.1), 0.2)),
        _move(z=0.06 * _ramp(-z, 0.3, 0.9) * -1),  # depth of the head
        # asymmetry
        _move(x=0.012 * nose_base),
        _move(x=0.012 * chin),
        _move(y=0.012 * side * mouth),
        _move(y=0.008 * side * eye),
        _move(y=0.010 * side * brow),
    ]
    return np.stack(moves)


EXPRESSIONS = ("jaw", "smile", "pucker", "lips_out", "raise_right", "raise_left", "frown", "squint", "skew")


@functools.cache
def expression_moves() -> Float[np.ndarray, "moves controls 3"]:
    """The full strength of each of EXPRESSIONS, as displacements in the head frame."""
    x, y, z = mean_controls().T
    side = np.sign(x)
    lower_lip, corners = _of_points(55, 56, 57, 58, 59, 65, 66, 67), _of_points(48, 54, 60, 64)
    lips = np.zeros_like(x)
    lips[48:68] = 1
    jaw = np.where(lips > 0, lower_lip + 0.38 * corners, _ramp(y, 0.6, 1.02) * _ramp(z, -1.2, -0.5))
    mouth, brow = _bump((0.0, 0.8, 0.08), 0.25), _bump((0.42, -0.22, 0.16), 0.14)
    near_corners = (
        corners + 0.6 * _of_points(49, 53, 55, 59) + 0.25 * _of_points(50, 52, 56, 58, 61, 63, 65, 67)
    )
    cheek = _bump((0.42, 0.42, 0.05), 0.16) * (1 - lips)
    lower_lid = _of_points(40, 41, 46, 47)
    inner_brow = _of_points(21, 22) + 0.6 * _of_points(20, 23) + 0.25 * _of_points(19, 24)
    hinge_y, hinge_z = 0.1, -0.75
    moves = [
        _move(y=0.5 * jaw * (z - hinge_z), z=-0.2 * jaw * (y - hinge_y)),
        _move(
            x=side * (0.085 * near_corners + 0.02 * cheek),
            y=-0.085 * near_corners - 0.05 * cheek - 0.012 * lower_lid,
            z=-0.05 * near_corners + 0.03 * cheek,
        ),
        _move(x=-0.33 * x * mouth, z=0.09 * mouth * _ramp(-np.abs(x), -0.35, 0.0)),
        _move(y=0.03 * lower_lip - 0.03 * _of_points(49, 50, 51, 52, 53, 61, 62, 63)),
        _move(y=-0.10 * brow * (x < 0)),
        _move(y=-0.10 * brow * (x > 0)),
        _move(x=-0.035 * side * inner_brow, y=0.05 * inner_brow),
        _move(y=-0.03 * lower_lid - 0.03 * cheek),
        _move(x=0.05 * mouth, y=0.03 * mouth * x),
    ]
    return np.stack(moves)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadShape:
    """One head with its expression."""

    controls: Float[np.ndarray, "controls 3"]
    """Head frame; the first 68 are the landmarks."""
    closed_eyes: tuple[float, float]
    """How far the right and the left eye are closed, 0 to 1."""
    smile: float
    raised_brows: float


def draw_shape(rng: np.random.Generator) -> HeadShape:
    """A head at random."""
    identity = np.clip(rng.normal(size=len(identity_moves())), -2.2, 2.2)
    strength = dict.fromkeys(EXPRESSIONS, 0.0)
    if rng.random() < 0.45:
        strength["jaw"] = rng.beta(1.1, 2.0)
    strength["smile"] = rng.uniform(0.3, 1.1) if rng.random() < 0.45 else rng.normal(0, 0.2)
    strength["pucker"] = rng.uniform(0.3, 1) if rng.random() < 0.1 else 0.0
    strength["lips_out"] = rng.uniform(0, 1) if rng.random() < 0.3 else 0.0
    brows = rng.normal(0, 0.35) + (0.7 if rng.random() < 0.12 else 0)
    strength["raise_right"], strength["raise_left"] = np.clip(brows + rng.normal(0, 0.15, 2), -0.5, 1.2)
    strength["frown"] = rng.uniform(0.3, 1) if rng.random() < 0.15 else 0.0
    strength["squint"] = float(np.clip(rng.normal(0.2 * strength["smile"], 0.25), -0.3, 0.9))
    strength["skew"] = rng.normal(0, 0.25)
    expression = np.array([strength[name] for name in EXPRESSIONS])
    controls = mean_controls() + np.tensordot(identity, identity_moves(), 1)
    controls += np.tensordot(expression, expression_moves(), 1)
    lids = _draw_lids(rng)
    close_eyes(controls, lids)
    if strength["jaw"] == 0:
        close_mouth(controls, share=rng.uniform(0.85, 1.0) if rng.random() < 0.75 else rng.uniform(0, 0.8))
    keep_lips_apart(controls)
    return HeadShape(
        controls=controls, closed_eyes=lids, smile=strength["smile"], raised_brows=max(0.0, float(brows))
    )


def _draw_lids(rng: np.random.Generator) -> tuple[float, float]:
    kind = rng.random()
    if kind < 0.07:  # both closed
        share = rng.uniform(0.9, 1.0)
        return share, share
    if kind < 0.09:  # a wink
        share = rng.uniform(0.8, 1.0)
        return (share, 0.1) if rng.random() < 0.5 else (0.1, share)
    share = rng.uniform(0.35, 0.8) if kind < 0.2 else rng.uniform(-0.6, 0.15)
    return share, share + rng.normal(0, 0.04)


def close_eyes(controls: Float[np.ndarray, "controls 3"], shares: tuple[float, float]) -> None:
    """Bring the upper lids that share of the way down to the lower ones, in place; below 0 opens wider."""
    for share, pairs in zip(shares, (((37, 41), (38, 40)), ((43, 47), (44, 46))), strict=True):
        for upper, lower in pairs:
            closed = controls[lower] + [0, -0.004, 0.012]
            controls[upper] += np.clip(share, -0.7, 1) * (closed - controls[upper])


def close_mouth(controls: Float[np.ndarray, "controls 3"], share: float) -> None:
    """Bring the inner lips together, in place."""
    apart = np.array([0, 0.002, 0])
    for upper, lower in ((61, 67), (62, 66), (63, 65)):
        meeting = (controls[upper] + controls[lower]) / 2
        meeting[2] = max(controls[upper, 2], controls[lower, 2])
        controls[upper] += share * (meeting - apart - controls[upper])
        controls[lower] += share * (meeting + apart - controls[lower])


def keep_lips_apart(controls: Float[np.ndarray, "controls 3"]) -> None:
    """Give each lip some thickness where a rare combination of moves took it all, in place."""
    upper, lower = [50, 51, 52], [58, 57, 56]
    controls[upper, 1] = np.minimum(controls[upper, 1], controls[[61, 62, 63], 1] - 0.02)
    controls[lower, 1] = np.maximum(controls[lower, 1], controls[[67, 66, 65], 1] + 0.03)
