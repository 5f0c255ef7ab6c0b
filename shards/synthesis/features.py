"""Eyeballs and the inside of the mouth: what shows through the openings of the skin."""

import functools
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from shards.synthesis.layers import eye_mask, mouth_mask
from shards.synthesis.pose import PosedHead
from shards.synthesis.raster import Raster
from shards.synthesis.skin import Light
from shards.synthesis.surface import draw_polygon

_EYES = ((36, 42), (42, 48))
_EYEBALL_RADIUS = 0.135
"""Inter-ocular distances: 12 mm of 90."""
_IRIS_TONES = np.array(
    [(58, 36, 22), (40, 26, 18), (96, 62, 34), (92, 104, 70), (88, 118, 142), (120, 140, 150)], np.float32
) / np.float32(255)
_IRIS_SHARES = [0.36, 0.24, 0.14, 0.1, 0.1, 0.06]


@dataclass(frozen=True, kw_only=True, slots=True)
class Openings:
    """How the eyes look and what the mouth shows."""

    iris: Float32[np.ndarray, " 3"]
    iris_radius: float
    pupil_share: float
    gaze: Float[np.ndarray, " 2"]
    """Radians to the picture's right and downwards, relative to the head."""
    white: Float32[np.ndarray, " 3"]
    glint: float
    teeth: Float32[np.ndarray, " 3"]
    teeth_height: float
    tongue: float


def draw_openings(rng: np.random.Generator, tone: Float32[np.ndarray, " 3"]) -> Openings:
    """Eyes and mouth at random; dark skin goes with dark eyes."""
    kind = int(rng.choice(len(_IRIS_TONES), p=_IRIS_SHARES))
    kind = kind % 2 if tone.mean() < 0.5 else kind
    iris = _IRIS_TONES[kind] * rng.uniform(0.7, 1.3)
    sideways = rng.uniform(-0.5, 0.5) if rng.random() < 0.3 else rng.normal(0, 0.12)
    return Openings(
        iris=iris.astype(np.float32),
        iris_radius=float(rng.uniform(0.060, 0.070)),
        pupil_share=float(rng.uniform(0.3, 0.55)),
        gaze=np.array([sideways, np.clip(rng.normal(0.02, 0.08), -0.2, 0.2)]),
        white=(np.array([0.93, 0.90, 0.88]) * rng.uniform(0.82, 1.03)).astype(np.float32),
        glint=float(rng.uniform(0.4, 1.0)) if rng.random() < 0.85 else 0.0,
        teeth=(np.array([0.93, 0.90, 0.82]) * rng.uniform(0.75, 1.0)).astype(np.float32),
        teeth_height=float(rng.uniform(0.06, 0.11)),
        tongue=float(rng.uniform(0, 1)),
    )


@functools.cache
def _opening_texture() -> UInt8[np.ndarray, "texture texture 2"]:
    return np.round(np.stack([eye_mask(), mouth_mask()], axis=-1) * 255).astype(np.uint8)


def _window(
    points: Float[np.ndarray, "points 2"], margin_px: float, shape: tuple[int, ...]
) -> tuple[slice, slice] | None:
    """Rows and columns around points; None if they are outside."""
    left, top = np.maximum(np.floor(points.min(0) - margin_px).astype(int), 0)
    right, bottom = np.ceil(points.max(0) + margin_px).astype(int) + 1
    right, bottom = min(right, shape[1]), min(bottom, shape[0])
    return (slice(top, bottom), slice(left, right)) if right > left and bottom > top else None


def _blend(region: np.ndarray, color: np.ndarray, alpha: np.ndarray) -> None:
    region[:] = np.clip(region + (color - region) * alpha[..., None] + 0.5, 0, 255)


def _alpha_of(
    raster: Raster, window: tuple[slice, slice], channel: int
) -> Float32[np.ndarray, "height width"]:
    sampled = cv2.remap(_opening_texture(), raster.texel_x[window], raster.texel_y[window], cv2.INTER_LINEAR)
    return sampled[..., channel].astype(np.float32) / np.float32(255)


def paint_openings(
    face: UInt8[np.ndarray, "height width 3"],
    raster: Raster,
    head: PosedHead,
    openings: Openings,
    light: Light,
) -> None:
    """Put eyeballs and the inside of the mouth where the skin is open, in place.

    `face` is the lit head as rasterised, so its top left pixel is the raster's.
    """
    origin = np.array([raster.left, raster.top], dtype=np.float64)
    landmarks = head.landmarks_image - origin
    margin = max(2.0, head.view.length_px(0.03))
    for start, stop in _EYES:
        window = _window(landmarks[start:stop], margin, face.shape)
        if window is not None:
            color = _eyeball(head, openings, light, start, origin, window)
            _blend(face[window], color, _alpha_of(raster, window, 0))
    window = _window(landmarks[60:68], margin, face.shape)
    if window is not None:
        color = _mouth(head, openings, light, origin, window)
        _blend(face[window], color, _alpha_of(raster, window, 1))


def _pixels(window: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = window
    return (
        np.arange(columns.start, columns.stop, dtype=np.float32)[None],
        np.arange(rows.start, rows.stop, dtype=np.float32)[:, None],
    )


def _iris_disc(head: PosedHead, openings: Openings, start: int) -> Float[np.ndarray, "3 3"]:
    """Centre of the iris and a point on its rim to the right and below, head frame."""
    controls = head.shape.controls
    corners = controls[start] + controls[start + 3]
    center = corners / 2 + [0, 0.0, -0.03]
    horizontal, vertical = openings.gaze
    forward = np.array(
        [np.sin(horizontal) * np.cos(vertical), np.sin(vertical), np.cos(horizontal) * np.cos(vertical)]
    )
    right = np.array([np.cos(horizontal), 0, -np.sin(horizontal)])
    iris = center + _EYEBALL_RADIUS * forward
    radius = openings.iris_radius
    return np.stack([iris, iris + radius * right, iris + radius * np.cross(forward, right)])


def _eyeball(
    head: PosedHead,
    openings: Openings,
    light: Light,
    start: int,
    origin: np.ndarray,
    window: tuple[slice, slice],
) -> Float32[np.ndarray, "height width 3"]:
    """Colours of an eyeball in a window of the face, 0 to 255."""
    center, rim_right, rim_below = head.view.project(_iris_disc(head, openings, start)) - origin
    to_iris = np.linalg.inv(np.stack([rim_right - center, rim_below - center], axis=1)).astype(np.float32)
    x, y = _pixels(window)
    x, y = x - np.float32(center[0]), y - np.float32(center[1])
    across = to_iris[0, 0] * x + to_iris[0, 1] * y
    down = to_iris[1, 0] * x + to_iris[1, 1] * y
    rho = np.sqrt(across**2 + down**2)
    soft = np.float32(max(0.12, 0.8 / max(1.0, np.linalg.norm(rim_below - center))))

    def within(radius: float) -> np.ndarray:
        return np.clip((radius - rho) / soft + 0.5, 0, 1)[..., None]

    corner = np.clip(1.06 - 0.06 * rho**2, 0.55, 1)[..., None]
    color = openings.white * corner
    spokes = 1 + 0.12 * np.sin(9 * np.arctan2(down, across)) + 0.35 * np.clip(down, -1, 1)
    iris = openings.iris * spokes[..., None] * np.clip(1.5 - 0.75 * rho**3, 0.4, 1.3)[..., None]
    color = color + (iris - color) * within(1.0)
    color = color * (1 - 0.93 * within(openings.pupil_share))
    # The upper lid and its lashes shade the upper third of the ball.
    lid = np.float32(0.62) + np.float32(0.38) * np.clip((down + 1.0) / 1.1, 0, 1)[..., None]
    facing = head.view.rotation[:, 2].astype(np.float32)
    color = color * lid * light.shade(facing[None])[0]
    spot = light.toward_key[:2] * np.float32(0.45)
    glint = np.clip(1.6 - np.hypot(across - spot[0], down - spot[1]) / 0.2, 0, 1)[..., None]
    return (color + (np.float32(1) - color) * glint * np.float32(openings.glint)) * np.float32(255)


def _mouth(
    head: PosedHead, openings: Openings, light: Light, origin: np.ndarray, window: tuple[slice, slice]
) -> Float32[np.ndarray, "height width 3"]:
    """Colours of the inside of the mouth in a window of the face, 0 to 255."""
    controls, view = head.shape.controls, head.view
    corner = np.array([window[1].start, window[0].start]) + origin
    shape = (window[0].stop - window[0].start, window[1].stop - window[1].start)
    across = np.linspace(-1, 1, 13)
    half = np.abs(controls[64, 0] - controls[60, 0]) / 2 * 0.95
    upper, lower = controls[62], controls[66]
    arc = np.stack(
        [upper[0] + across * half, np.zeros(13), min(upper[2], lower[2]) - 0.03 - 0.15 * across**2], 1
    )
    shade = light.shade(view.rotation[:, 2].astype(np.float32)[None])[0]

    def band(top: float, bottom: float) -> UInt8[np.ndarray, "height width"]:
        mask = np.zeros(shape, np.uint8)
        edges = np.concatenate([np.add(arc, [0, top, 0]), np.add(arc, [0, bottom, 0])[::-1]])
        draw_polygon(mask, view.project(edges) - corner)
        return mask

    color = np.empty((*shape, 3), np.float32)
    color[:] = np.array([0.20, 0.06, 0.06], np.float32)
    gap = lower[1] - upper[1]
    tongue = band(lower[1] - 0.45 * gap * (0.4 + 0.6 * openings.tongue), lower[1] + 0.1)
    tongue = cv2.GaussianBlur(tongue, (0, 0), max(0.6, view.length_px(0.02)))[..., None] / np.float32(255)
    color += (np.array([0.55, 0.24, 0.24], np.float32) - color) * tongue
    height = openings.teeth_height
    # Between lips that nearly touch it is dark.
    opened = np.float32(np.clip((gap - 0.02) / 0.04, 0, 1))
    teeth = cv2.GaussianBlur(band(upper[1] - 0.06, upper[1] - 0.02 + height), (0, 0), 0.6)[..., None]
    x = (_pixels(window)[0] + np.float32(origin[0]) - np.float32(view.project(upper)[0])) / np.float32(
        max(1.0, view.length_px(half))
    )
    dark_sides = np.clip(1.1 - 0.55 * x**2, 0.35, 1)
    grooves = 1 - 0.10 * (np.cos(x * np.float32(4.5 * np.pi)) > 0.9)
    color += (openings.teeth * (dark_sides * grooves)[..., None] - color) * (
        teeth * (opened / np.float32(255))
    )
    return color * shade * np.float32(255)
