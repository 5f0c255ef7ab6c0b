"""What belongs to the head and is not on its surface: back of the head, long hair, neck, clothes, ears."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from shards.synthesis.backdrop import texture_cut
from shards.synthesis.hair import HairStyle
from shards.synthesis.pose import PosedHead
from shards.synthesis.skin import Complexion, Light
from shards.synthesis.surface import SHIFT, draw_polygon, draw_stroke, fixed_point, smooth_curve


def to_color(color: np.ndarray) -> list[float]:
    """From 0 … 1 to what OpenCV draws with."""
    return (color * 255).clip(0, 255).tolist()


def fill_textured(
    picture: UInt8[np.ndarray, "height width 3"],
    points: Float[np.ndarray, "points 2"],
    color: np.ndarray,
    grain: UInt8[np.ndarray, "rows columns"],
    strength: float,
) -> None:
    """Fill a polygon with a colour (0 … 1) that varies with a grey texture of the size of the picture."""
    height, width = picture.shape[:2]
    draw_polygon(picture, points, to_color(color))
    left, top = np.clip(np.floor(points.min(0)).astype(int), 0, [width, height])
    right, bottom = np.clip(np.ceil(points.max(0)).astype(int) + 1, 0, [width, height])
    if right <= left or bottom <= top:
        return
    mask = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillPoly(mask, [fixed_point(points - [left, top])], 255, cv2.LINE_8, SHIFT)
    mask = cv2.erode(mask, np.ones((3, 3), np.uint8))
    levels = 1 + strength * (np.arange(256) / 128 - 1)
    table = np.clip(levels[:, None] * color * 255, 0, 255).astype(np.uint8)[:, None]
    textured = cv2.applyColorMap(np.ascontiguousarray(grain[top:bottom, left:right]), table)
    cv2.copyTo(textured, mask, picture[top:bottom, left:right])


def hull(points: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "hull 2"]:
    """The outline of points as a convex polygon."""
    return cv2.convexHull(points.astype(np.float32))[:, 0].astype(np.float64)


def ellipsoid(
    center: tuple[float, float, float], radii: tuple[float, float, float]
) -> Float[np.ndarray, "points 3"]:
    """Points all over an ellipsoid of the head frame; the hull of their projection is its outline."""
    around, up = np.meshgrid(np.linspace(0, 2 * np.pi, 16, endpoint=False), np.linspace(-1.4, 1.4, 9))
    unit = np.stack([np.cos(up) * np.cos(around), np.sin(up), np.cos(up) * np.sin(around)], axis=-1).reshape(
        -1, 3
    )
    return np.asarray(center) + unit * np.asarray(radii)


def paint_back_of_head(
    picture: UInt8[np.ndarray, "size size 3"],
    head: PosedHead,
    complexion: Complexion,
    style: HairStyle,
    light: Light,
    rng: np.random.Generator,
) -> None:
    """The skull behind the face, with the hair that falls behind it, in place."""
    shade = light.shade(np.array([[0, -0.2, 0.6]], np.float32))[0]
    width = np.abs(head.shape.controls[[0, 16], 0]).mean()
    volume = style.volume
    skull = ellipsoid((0.0, -0.33, -0.85), (width + volume, 0.86 + volume, 0.95 + volume))
    if style.bald:
        draw_polygon(picture, hull(head.view.project(skull)), to_color(complexion.tone * shade))
        return
    if style.length > 0:
        spread = width + volume + rng.uniform(0.0, 0.25)
        ends = [
            (side * spread, style.length + rng.normal(0, 0.1), z) for side in (-1, 1) for z in (-0.6, -1.1)
        ]
        shoulders = [(side * (spread + 0.05), 0.5, z) for side in (-1, 1) for z in (-0.7, -1.1)]
        skull = np.concatenate([skull, np.array(ends), np.array(shoulders)])
    size = picture.shape[0]
    strands = cv2.resize(texture_cut(rng, 8, size), (size, size), interpolation=cv2.INTER_LINEAR)
    fill_textured(picture, hull(head.view.project(skull)), complexion.hair * shade * 0.75, strands, 0.45)


def paint_neck_and_clothes(
    picture: UInt8[np.ndarray, "size size 3"],
    head: PosedHead,
    complexion: Complexion,
    light: Light,
    rng: np.random.Generator,
) -> None:
    """Shoulders in clothes and a neck in the shadow of the chin, in place."""
    size, unit = picture.shape[0], head.view.scale_px
    top = head.view.project(np.array([[0.0, 0.8, -0.75]]))[0]
    lean = 0.5 * head.view.rotation[:2, 1]
    down = np.array([lean[0], 1.0])
    base = top + down * unit * 1.0
    half_top, half_base = (np.array([0.54, 0.62]) if complexion.masculine else np.array([0.46, 0.54])) * unit
    outline = np.array([(-0.5, -0.30), (-0.8, -0.10), (-1.6, 0.12), (-2.1, 0.5), (-2.4, 1.4), (-2.5, 5.0)])
    outline = np.concatenate([outline, outline[::-1] * [-1, 1]]) * unit * [rng.uniform(0.85, 1.1), 1]
    cloth = np.clip(rng.uniform(0.05, 0.9) + rng.normal(0, 0.15, 3), 0.02, 0.98)
    cloth *= light.shade(np.array([[0, -0.3, 0.9]], np.float32))[0]
    grain = texture_cut(rng, size, size)
    if rng.random() < 0.25:
        period = max(2.0, unit * rng.uniform(0.1, 0.4))
        grain = np.tile(
            (128 + 110 * np.sin(np.arange(size) * 2 * np.pi / period)).astype(np.uint8)[:, None], (1, size)
        )
    fill_textured(picture, smooth_curve(base + outline), cloth, grain, rng.uniform(0.1, 0.4))
    aside = np.array([1.0, 0.0])
    corners = np.stack(
        [top - half_top * aside, top + half_top * aside, base + half_base * aside, base - half_base * aside]
    )
    _paint_neck(picture, corners, rng.uniform(0.1, 0.6) * unit, complexion, light)


def _paint_neck(
    picture: UInt8[np.ndarray, "size size 3"],
    corners: Float[np.ndarray, "4 2"],
    neckline: float,
    complexion: Complexion,
    light: Light,
) -> None:
    """A cylinder between its silhouette's corners (clockwise from top left), dark under the chin."""
    rows, columns = 24, 25
    across, along = np.linspace(-1, 1, columns, dtype=np.float32), np.linspace(0, 1, rows)
    normals = np.stack([across * 0.95, np.full(columns, 0.15), np.sqrt(1 - (across * 0.95) ** 2)], axis=1)
    dark = np.interp(along, [0, 0.35, 0.9], [0.42, 0.55, 0.92])
    texture = complexion.tone * light.shade(normals.astype(np.float32))[None] * dark[:, None, None] * 255
    texture = cv2.resize(texture.clip(0, 255).astype(np.uint8), (columns, rows))
    texture_corners = np.array([[0, 0], [columns - 1, 0], [columns - 1, rows - 1], [0, rows - 1]], np.float32)
    to_picture = cv2.getPerspectiveTransform(texture_corners, corners.astype(np.float32))
    edge = to_color(complexion.tone * light.shade(normals[[0, -1]].astype(np.float32)).mean(0) * 0.7)
    draw_polygon(picture, corners, edge)
    middle, half = corners[2:].mean(0), (corners[2] - corners[3]) / 2
    turn = np.linspace(0, np.pi, 13)[:, None]
    bottom = middle + np.cos(turn) * half + np.sin(turn) * [0, neckline]
    draw_polygon(
        picture,
        bottom,
        to_color(complexion.tone * light.shade(np.array([[0, 0.0, 1]], np.float32))[0] * 0.92),
    )
    size = (picture.shape[1], picture.shape[0])
    cv2.warpPerspective(texture, to_picture, size, picture, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT)


# Outline of an ear and its hollow: (towards the back, downwards) from where it meets the cheek, in
# inter-ocular distances.
_EAR = np.array([
    (-0.02, 0.02), (0.00, -0.14), (0.07, -0.25), (0.17, -0.28), (0.25, -0.21), (0.27, -0.08), (0.23, 0.06),
    (0.17, 0.17), (0.12, 0.27), (0.05, 0.31), (-0.01, 0.25), (-0.03, 0.12),
])  # fmt: skip
_EAR_HOLLOW = np.array(
    [(0.03, 0.04), (0.06, -0.14), (0.15, -0.19), (0.20, -0.10), (0.16, 0.04), (0.09, 0.13), (0.04, 0.13)]
)


def paint_ears(
    picture: UInt8[np.ndarray, "size size 3"],
    head: PosedHead,
    complexion: Complexion,
    light: Light,
    *,
    in_front: bool,
) -> None:
    """The ears that are nearer to the camera than the head's side, or those that are farther, in place."""
    unit = head.view.scale_px
    for point, side in ((1, -1.0), (15, 1.0)):
        facing = head.view.rotation @ np.array([side, 0, 0.12])
        if (facing[2] > 0.12) != in_front:
            continue
        root = head.shape.controls[point] + [-side * 0.01, -0.05, 0.02]
        away = np.array([side * 0.42, 0, -0.9])

        def place(outline: np.ndarray, root: np.ndarray = root, away: np.ndarray = away) -> np.ndarray:
            points = root + outline[:, :1] * away + outline[:, 1:] * np.array([0.0, 1.0, 0.0])
            return smooth_curve(head.view.project(points), closed=True, steps=4)

        normal = head.view.rotation @ np.array([side * 0.75, 0, 0.65])
        lit = complexion.tone * np.array([1.0, 0.92, 0.90]) * light.shade(normal.astype(np.float32)[None])[0]
        draw_polygon(picture, place(_EAR), to_color(lit * 0.9))
        draw_polygon(picture, place(_EAR * 0.82 + [0.02, 0.0]), to_color(lit))
        draw_polygon(picture, place(_EAR_HOLLOW), to_color(lit * [0.74, 0.66, 0.64]))
        draw_stroke(picture, place(_EAR), unit * 0.012, to_color(lit * 0.72), closed=True)
