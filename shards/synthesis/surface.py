"""The head as a map: which direction from the skull's centre lies where in the texture, and back to 3-D.

Texture frame (`_uv`): the direction straight ahead is (0, 0), u grows to the picture's right, v downwards,
and the distance from the middle grows with the angle, ever more slowly, so that the face gets most texels.
"""

import functools

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from shards.synthesis.shape import NUM_LANDMARKS, SKULL_CENTER, mean_controls

TEXTURE_PX = 256
GRID = 80
"""Vertices of the head per side; the shading is computed on them."""

_HALF_ANGLE = np.deg2rad(120)
_EDGE_ANGLE = np.deg2rad(135)
_EDGE = _EDGE_ANGLE / (_EDGE_ANGLE + _HALF_ANGLE)


def to_uv(points: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "points 2"]:
    """Where points on the mean head (head frame) lie in the texture; the edge of the disc is at 1."""
    direction = points - SKULL_CENTER
    aside = np.hypot(direction[:, 0], direction[:, 1])
    angle = np.arctan2(aside, direction[:, 2])
    radius = angle / (angle + _HALF_ANGLE) / _EDGE
    return direction[:, :2] / np.maximum(aside, 1e-9)[:, None] * radius[:, None]


def to_texel(uv: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points 2"]:
    """From the texture frame to texels (an integer is the centre of a texel)."""
    return (uv + 1) / 2 * (TEXTURE_PX - 1)


@functools.cache
def landmark_texels() -> Float[np.ndarray, "68 2"]:
    """Where the landmarks lie in the texture: the same on every face."""
    return to_texel(to_uv(mean_controls()[:NUM_LANDMARKS]))


def _thin_plate(squared: np.ndarray) -> np.ndarray:
    return squared * np.log(np.maximum(squared, 1e-12))


@functools.cache
def _grid_weights(size: int) -> Float32[np.ndarray, "controls vertices"]:
    """How each vertex of a size × size grid over the texture follows the controls.

    Thin-plate interpolation: exact at the controls, smooth between.

    Source: Bookstein, "Principal warps", 1989.
    """
    centers = to_uv(mean_controls())
    count = len(centers)
    squared = ((centers[:, None] - centers[None]) ** 2).sum(-1)
    linear = np.concatenate([np.ones((count, 1)), centers], axis=1)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = _thin_plate(squared)
    system[:count, count:], system[count:, :count] = linear, linear.T
    steps = np.linspace(-1, 1, size)
    vertices = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    to_centers = ((vertices[:, None] - centers[None]) ** 2).sum(-1)
    rows = np.concatenate([_thin_plate(to_centers), np.ones((len(vertices), 1)), vertices], axis=1)
    return np.ascontiguousarray(np.linalg.solve(system, rows.T)[:count], dtype=np.float32)


def head_surface(controls: Float[np.ndarray, "controls 3"]) -> Float32[np.ndarray, "grid grid 3"]:
    """The vertices of a head in its frame, row = v, column = u."""
    planes = np.ascontiguousarray(controls.T, dtype=np.float32) @ _grid_weights(GRID)
    return np.ascontiguousarray(planes.T).reshape(GRID, GRID, 3)


@functools.cache
def mean_surface(size: int = TEXTURE_PX) -> Float32[np.ndarray, "size size 3"]:
    """The mean head at each texel, head frame: where on the head a texel lies."""
    return (_grid_weights(size).T @ mean_controls().astype(np.float32)).reshape(size, size, 3)


@functools.cache
def outwards() -> Float32[np.ndarray, "grid grid 3"]:
    """Unit directions away from the skull's centre, in which hair grows."""
    away = mean_surface(GRID) - SKULL_CENTER.astype(np.float32)
    return away / np.linalg.norm(away, axis=2, keepdims=True)


def surface_normals(vertices: Float32[np.ndarray, "grid grid 3"]) -> Float32[np.ndarray, "grid grid 3"]:
    """Unit normals that point out of the head."""
    along_u = np.empty_like(vertices)
    along_v = np.empty_like(vertices)
    along_u[:, 1:-1] = vertices[:, 2:] - vertices[:, :-2]
    along_u[:, [0, -1]] = along_u[:, [1, -2]]
    along_v[1:-1] = vertices[2:] - vertices[:-2]
    along_v[[0, -1]] = along_v[[1, -2]]
    (a, b, c), (d, e, f) = np.moveaxis(along_u, 2, 0), np.moveaxis(along_v, 2, 0)
    across, down, ahead = b * f - c * e, c * d - a * f, a * e - b * d
    length = np.sqrt(across * across + down * down + ahead * ahead) + np.float32(1e-9)
    return np.stack([across / length, down / length, ahead / length], axis=-1)


def smooth_curve(
    points: Float[np.ndarray, "points 2"], *, closed: bool = False, steps: int = 8
) -> Float[np.ndarray, "samples 2"]:
    """A Catmull-Rom spline through points, in any frame."""
    if closed:
        padded = np.concatenate([points[-1:], points, points[:2]])
    else:
        padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    a, b, c, d = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    pieces = b + t / 2 * ((c - a) + t * ((2 * a - 5 * b + 4 * c - d) + t * (3 * b - a - 3 * c + d)))
    curve = pieces.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


SHIFT = 4
"""Fractional bits of places as OpenCV takes them: it draws at a sixteenth of a pixel."""


def fixed_point(points: Float[np.ndarray, "points 2"]) -> np.ndarray:
    """Places as OpenCV takes them, with `SHIFT`."""
    return np.round(points * (1 << SHIFT)).astype(np.int32)


def draw_polygon(
    picture: UInt8[np.ndarray, "height width *channels"],
    points: Float[np.ndarray, "points 2"],
    value: int | list[float] = 255,
) -> None:
    """Fill a polygon, anti-aliased, in place, with a grey value or a colour from 0 to 255."""
    cv2.fillPoly(picture, [fixed_point(points)], value, cv2.LINE_AA, SHIFT)


def draw_stroke(
    picture: UInt8[np.ndarray, "height width *channels"],
    points: Float[np.ndarray, "points 2"],
    thickness_px: float,
    value: int | list[float] = 255,
    *,
    closed: bool = False,
) -> None:
    """Draw a line through points, anti-aliased, in place, in a grey value or a colour from 0 to 255."""
    thickness = max(1, round(thickness_px))
    cv2.polylines(picture, [fixed_point(points)], closed, value, thickness, cv2.LINE_AA, SHIFT)
