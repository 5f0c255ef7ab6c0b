"""Where on the texture lips, brows, creases, beards and shadows lie: masks that are the same on every face.

Geometry moves them to their place on each face; skin.py gives them colours.
"""

import functools

import cv2
import numpy as np
from jaxtyping import Float, Float32

from shards.synthesis.surface import (
    GRID,
    TEXTURE_PX,
    draw_polygon,
    draw_stroke,
    landmark_texels,
    mean_surface,
    smooth_curve,
)

_SCALE = 4
"""Masks are drawn this much larger and averaged down."""

_NOISE_SEED = 68

LINE_WINDOW = (slice(56, 216), slice(24, 232))
"""Rows and columns of the texture outside which no line is drawn."""

LINE_LAYERS = (
    "everywhere",
    "lips",
    "lip_line",
    "lip_shine",
    "brow_thin",
    "brow_thick",
    "upper_lash",
    "lower_lash",
    "crease",
    "liner",
    "nostrils",
    "folds",
    "wrinkles",
    "freckles",
    "pores",
)
SOFT_LAYERS = (
    "socket",
    "eyeshadow",
    "bags",
    "blush",
    "nose_side",
    "under_nose",
    "under_lip",
    "mouth_corners",
    "under_jaw",
    "nose_tip",
    "nasolabial",
    "temples",
    "shave",
    "mottle_red",
    "mottle_dark",
)


def _on_face(*places: tuple[float, float]) -> Float[np.ndarray, "points 2"]:
    """Texels of places given by x and y of the head frame, on the front of the mean head."""
    surface = mean_surface()
    found = []
    for x, y in places:
        distance = (surface[..., 0] - x) ** 2 + (surface[..., 1] - y) ** 2 + (surface[..., 2] < -1.0)
        row, column = np.unravel_index(int(distance.argmin()), distance.shape)
        found.append((column, row))
    return np.array(found, dtype=np.float64)


def _mirrored(texels: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points 2"]:
    return np.stack([TEXTURE_PX - 1 - texels[:, 0], texels[:, 1]], axis=1)


class _Canvas:
    """Draws both halves of a mask at once, in texels of the right half (the picture's left)."""

    def __init__(self, *, mirrored: bool = True) -> None:
        self._mask = np.zeros((TEXTURE_PX * _SCALE, TEXTURE_PX * _SCALE), np.uint8)
        self._mirrored = mirrored

    def _sides(self, texels: np.ndarray) -> list[np.ndarray]:
        sides = [texels, _mirrored(texels)] if self._mirrored else [texels]
        return [(side + 0.5) * _SCALE - 0.5 for side in sides]

    def fill(self, texels: np.ndarray, value: int = 255) -> "_Canvas":
        for side in self._sides(texels):
            draw_polygon(self._mask, side, value)
        return self

    def stroke(self, texels: np.ndarray, width: float, value: int = 255) -> "_Canvas":
        for side in self._sides(smooth_curve(texels)):
            draw_stroke(self._mask, side, width * _SCALE, value)
        return self

    def blob(self, texel: np.ndarray, radius: float) -> "_Canvas":
        turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        return self.fill(texel + radius * np.stack([np.cos(turn), np.sin(turn)], axis=1))

    def done(self, blur: float = 0.0) -> Float32[np.ndarray, "texture texture"]:
        mask = cv2.resize(self._mask, (TEXTURE_PX, TEXTURE_PX), interpolation=cv2.INTER_AREA)
        mask = mask.astype(np.float32) / 255
        return cv2.GaussianBlur(mask, (0, 0), blur) if blur else mask


def _noise(sigma_x: float, sigma_y: float, seed: int) -> Float32[np.ndarray, "texture texture"]:
    """Smooth noise with mean 0 and deviation 1."""
    rng = np.random.default_rng((_NOISE_SEED, seed))
    noise = cv2.GaussianBlur(
        rng.normal(size=(TEXTURE_PX, TEXTURE_PX)).astype(np.float32), (0, 0), sigma_x, sigmaY=sigma_y
    )
    return (noise - noise.mean()) / noise.std()


@functools.cache
def eye_mask() -> Float32[np.ndarray, "texture texture"]:
    """Where eyeballs show, 0 to 1."""
    return _Canvas().fill(smooth_curve(landmark_texels()[36:42], closed=True)).done()


@functools.cache
def mouth_mask() -> Float32[np.ndarray, "texture texture"]:
    """The opening between the lips, 0 to 1."""
    return _Canvas(mirrored=False).fill(smooth_curve(landmark_texels()[60:68], closed=True)).done()


def _brow(below: float, above: float) -> np.ndarray:
    """A brow that is thick at the nose and thin at the temple, with the grain of its hairs."""
    line = smooth_curve(landmark_texels()[17:22])
    taper = np.interp(np.linspace(0, 1, len(line)), [0, 0.15, 0.6, 0.95, 1], [0.15, 0.6, 1, 1, 0.8])
    upper, lower = line - np.outer(taper, [0, above]), line + np.outer(taper, [0, below])
    grain = np.clip(0.85 + 0.22 * _noise(1.6, 0.6, 1), 0.3, 1)
    return _Canvas().fill(np.concatenate([upper, lower[::-1]])).done(0.9) * grain


def _lines() -> dict[str, np.ndarray]:
    points = landmark_texels()
    lid = points[[36, 37, 38, 39]]
    outer, inner = smooth_curve(points[48:60], closed=True), smooth_curve(points[60:68], closed=True)
    center = points[[51, 57]].mean(0)
    wing = np.concatenate([np.add(points[[36]], [-3.5, -1.5]), lid])
    lip_line = points[[60, 61, 62, 63, 64]] / 2 + points[[60, 67, 66, 65, 64]] / 2
    freckles = np.clip(_noise(0.7, 0.7, 2) - 1.5, 0, 1) * _Canvas().blob(
        _on_face((-0.35, 0.35))[0], 26.0
    ).done(8.0)
    wrinkles = _Canvas(mirrored=False)
    for y in (-0.42, -0.53, -0.65):
        wrinkles.stroke(
            _on_face((-0.45, y + 0.03), (-0.2, y), (0.0, y + 0.02), (0.2, y), (0.45, y + 0.03)), 0.8
        )
    nostrils = _Canvas().fill(
        points[32] + np.array([[-3.3, -0.2], [-2.2, -1.8], [0.2, -1.9], [1.6, -0.6], [0.0, 0.4], [-2.0, 0.6]])
    )
    return {
        "everywhere": np.ones((TEXTURE_PX, TEXTURE_PX), np.float32),
        "lips": _Canvas(mirrored=False).fill(outer).fill(inner, 200).done(0.6),
        "lip_line": _Canvas(mirrored=False).stroke(lip_line, 1.2).done(0.5),
        "lip_shine": _Canvas(mirrored=False).blob(np.add(center, [0, 5.5]), 3.0).done(2.2),
        "brow_thin": _brow(2.6, 1.0),
        "brow_thick": _brow(5.0, 2.2),
        "upper_lash": _Canvas().stroke(lid, 1.25).done(0.45),
        "lower_lash": _Canvas().stroke(points[[36, 41, 40, 39]], 0.8).done(0.4),
        "crease": _Canvas()
        .stroke(np.add(lid, [[-1, -3.0], [0, -4.2], [0, -4.2], [0.5, -3.2]]), 1.0)
        .done(0.8),
        "liner": _Canvas().stroke(wing, 1.8).done(0.4),
        "nostrils": nostrils.done(0.7),
        "folds": _Canvas().stroke(_on_face((-0.19, 0.42), (-0.235, 0.48), (-0.20, 0.545)), 1.2).done(1.0),
        "wrinkles": wrinkles.done(0.8),
        "freckles": freckles,
        "pores": 0.5 * _noise(0.8, 0.8, 3) + 0.5 * _noise(2.5, 2.5, 4),
    }


def _softs() -> dict[str, np.ndarray]:
    points = landmark_texels()
    x, y, z = np.moveaxis(mean_surface(), 2, 0)
    lid, brow = points[[36, 37, 38, 39]], points[[21, 20, 19, 18, 17]]
    jaw = np.clip((y - 0.62 - 0.25 * np.abs(x)) / 0.25, 0, 1) * np.clip((z + 0.95) / 0.25, 0, 1)
    sideburns = (
        np.clip((np.abs(x) - 0.62) / 0.1, 0, 1)
        * np.clip((y - 0.2) / 0.3, 0, 1)
        * np.clip((z + 0.9) / 0.15, 0, 1)
    )
    moustache = _Canvas(mirrored=False).fill(
        np.concatenate(
            [points[[48, 49, 50, 51, 52, 53, 54]], _on_face((0.30, 0.68), (0.0, 0.61), (-0.30, 0.68))]
        )
    )
    below = (y - 0.02) > np.interp(
        z, [-0.9, -0.8, -0.65, -0.46, -0.29, -0.22], [0.5, 0.76, 0.95, 1.10, 1.22, 1.29]
    )
    return {
        "socket": _Canvas().fill(np.concatenate([lid, np.add(brow, [0, 3])])).done(3.5)
        + 0.8 * _Canvas().blob(_on_face((-0.15, 0.0))[0], 3.5).done(3.0),
        "eyeshadow": _Canvas().fill(np.concatenate([lid, np.add(lid, [0, -5])[::-1]])).done(1.8),
        "bags": _Canvas()
        .stroke(points[[36, 41, 40, 39]] + [[0, 3], [0, 4.5], [0, 5], [0, 3.5]], 3.0)
        .done(2.0),
        "blush": _Canvas().blob(_on_face((-0.45, 0.42))[0], 11.0).done(8.0),
        "nose_side": _Canvas().stroke(_on_face((-0.12, 0.1), (-0.14, 0.3), (-0.19, 0.42)), 4.0).done(3.0),
        "under_nose": _Canvas(mirrored=False).stroke(np.add(points[31:36], [0, 1.5]), 3.0).done(2.0),
        "under_lip": _Canvas(mirrored=False).stroke(points[[58, 57, 56]] + [0, 3.5], 3.0).done(2.2),
        "mouth_corners": _Canvas().blob(points[48] + [-0.8, 0.5], 1.8).done(1.4),
        "under_jaw": cv2.GaussianBlur(below.astype(np.float32), (0, 0), 2.5),
        "nose_tip": _Canvas(mirrored=False).blob(points[30], 6.0).done(5.0),
        "nasolabial": _Canvas().stroke(_on_face((-0.24, 0.5), (-0.33, 0.62), (-0.39, 0.76)), 1.6).done(1.3),
        "temples": np.clip((np.abs(x) - 0.55) / 0.3, 0, 1) * np.clip((0.3 - y) / 0.3, 0, 1),
        "shave": cv2.GaussianBlur(np.maximum.reduce([jaw, sideburns, moustache.done()]), (0, 0), 4),
        "mottle_red": _noise(9.0, 9.0, 5),
        "mottle_dark": _noise(14.0, 14.0, 6),
    }


@functools.cache
def line_layers() -> Float32[np.ndarray, "texels layers"]:
    """The masks that need every texel, one column for each of LINE_LAYERS."""
    masks = _lines()
    return np.stack([masks[name][LINE_WINDOW].ravel() for name in LINE_LAYERS], axis=1).astype(np.float32)


@functools.cache
def soft_layers() -> Float32[np.ndarray, "vertices layers"]:
    """The masks that are smooth enough for the grid, one column for each of SOFT_LAYERS."""
    masks = _softs()
    columns = [
        cv2.resize(masks[name].astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_LINEAR).ravel()
        for name in SOFT_LAYERS
    ]
    return np.stack(columns, axis=1)


@functools.cache
def beard_masks() -> dict[str, Float32[np.ndarray, "texture texture"]]:
    """Where beards grow, 0 to 1, by cut."""
    x, y, z = np.moveaxis(mean_surface(), 2, 0)
    points = landmark_texels()
    lips = _Canvas(mirrored=False).fill(smooth_curve(points[48:60], closed=True)).done(0.7)
    upper = [
        (-0.31, 0.80),
        (-0.25, 0.69),
        (-0.10, 0.615),
        (0.0, 0.625),
        (0.10, 0.615),
        (0.25, 0.69),
        (0.31, 0.80),
    ]
    moustache = _Canvas(mirrored=False).fill(
        np.concatenate([_on_face(*upper), points[[54, 53, 52, 51, 50, 49, 48]]])
    )
    chin = np.clip(1.6 - (np.abs(x) / 0.27) ** 2, 0, 1) * np.clip((y - 0.97) / 0.08, 0, 1)
    ring = np.clip(1 - np.abs(np.hypot(x / 0.36, (y - 0.88) / 0.36) - 1.05) / 0.22, 0, 1) * (y > 0.6)
    cheek_line = 0.80 - 0.42 * np.clip((np.abs(x) - 0.38) / 0.4, 0, 1)
    full = np.clip((y - cheek_line) / 0.10, 0, 1) * np.clip((z + 1.0) / 0.1, 0, 1)
    side = (
        np.clip((np.abs(x) - 0.62) / 0.08, 0, 1)
        * np.clip((y + 0.05) / 0.2, 0, 1)
        * np.clip((z + 0.86) / 0.12, 0, 1)
    )
    not_lips = 1 - lips
    masks = {
        "full": np.maximum.reduce([full, side * (z < -0.45), moustache.done(), chin]),
        "goatee": np.maximum.reduce([chin, ring, moustache.done()]),
        "moustache": moustache.done(),
    }
    return {
        cut: cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.5) * not_lips for cut, mask in masks.items()
    }
