"""Texels to pixels: which point of the head each pixel of the picture shows.

The grid's quadrilaterals are drawn back to front with their number as colour, at twice the resolution; a
pixel then gets its exact place in the texture from the affine map of its quadrilateral.
"""

import functools
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from shards.synthesis.surface import GRID, SHIFT, TEXTURE_PX

_OVERSAMPLING = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Raster:
    """The part of the picture that the head covers."""

    left: int
    top: int
    texel_x: Float32[np.ndarray, "height width"]
    texel_y: Float32[np.ndarray, "height width"]
    alpha: UInt8[np.ndarray, "height width"]
    """How much of each pixel the head covers."""

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the picture."""
        height, width = self.alpha.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def sample(self, texture: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
        """A texture as the picture shows it."""
        return cv2.remap(
            texture, self.texel_x, self.texel_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )


@functools.cache
def _lines() -> Int64[np.ndarray, " lines"]:
    """Rows and columns of the grid that the quadrilaterals join: all of the face's, fewer at the sides."""
    inner = np.arange(16, GRID - 16, 2)
    outer = np.arange(0, 16, 4)
    return np.unique(np.concatenate([outer, inner, GRID - 1 - outer]))


@functools.cache
def _quads() -> tuple[np.ndarray, np.ndarray]:
    """Flat vertex numbers (quads, 4) clockwise from top left, and their texels (quads, 4, 2)."""
    lines = _lines()
    row, column = (
        a.ravel() for a in np.meshgrid(np.arange(len(lines) - 1), np.arange(len(lines) - 1), indexing="ij")
    )
    y0, y1, x0, x1 = lines[row], lines[row + 1], lines[column], lines[column + 1]
    corners = np.stack([y0 * GRID + x0, y0 * GRID + x1, y1 * GRID + x1, y1 * GRID + x0], axis=1)
    places = np.stack([corners % GRID, corners // GRID], axis=-1) / (GRID - 1)
    inside = (((places * 2 - 1) ** 2).sum(-1) <= 1.0).all(1)
    texels = (places * (TEXTURE_PX - 1)).astype(np.float32)
    return corners[inside], texels[inside]


def rasterise(
    vertices_image: Float32[np.ndarray, "vertices 2"], depth: Float32[np.ndarray, " vertices"], size_px: int
) -> Raster | None:
    """Which texel each pixel shows; None where the head is outside the picture.

    Args:
        vertices_image: the grid's vertices in px of the picture, row by row.
        depth: larger is nearer to the camera.
        size_px: side of the picture.
    """
    corners, texels = _quads()
    quads = vertices_image[corners]
    across = (quads[:, 1] + quads[:, 2] - quads[:, 0] - quads[:, 3]) / 2
    down = (quads[:, 3] + quads[:, 2] - quads[:, 0] - quads[:, 1]) / 2
    determinant = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    facing = np.flatnonzero(determinant > 0.02)
    order = facing[np.argsort(depth[corners[facing, 0]] + depth[corners[facing, 2]], kind="stable")]
    quads = quads[order]
    if not len(quads):
        return None
    x, y = quads[..., 0], quads[..., 1]
    low = np.maximum(np.floor([x.min(), y.min()]).astype(int) - 1, 0)
    high = np.minimum(np.ceil([x.max(), y.max()]).astype(int) + 2, size_px)
    if (high <= low).any():
        return None
    quads = quads - low.astype(np.float32)
    across, down, determinant = across[order], down[order], determinant[order][:, None]
    step = (texels[order, 2] - texels[order, 0]) / determinant
    # The inverse of [across down] maps px to shares of the quad, which its step in texels scales.
    to_texel = np.empty((len(order) + 1, 6), np.float32)
    to_texel[0] = 0
    to_texel[1:, 0:2] = np.stack([down[:, 1], -down[:, 0]], axis=1) * step[:, :1]
    to_texel[1:, 2:4] = np.stack([-across[:, 1], across[:, 0]], axis=1) * step[:, 1:]
    center = (quads[:, 0] + quads[:, 1] + quads[:, 2] + quads[:, 3]) / 4
    texel_center = (texels[order, 0] + texels[order, 2]) / 2
    moved = to_texel[1:, 0:4].reshape(-1, 2, 2) @ center[:, :, None]
    to_texel[1:, 4:6] = texel_center - moved[..., 0]
    return _resolve(_draw_numbers(quads, high - low), to_texel, low)


def _draw_numbers(quads: Float32[np.ndarray, "quads 4 2"], size: np.ndarray) -> np.ndarray:
    """The number (from 1) of the quadrilateral in front at each subpixel."""
    scale = _OVERSAMPLING * (1 << SHIFT)
    corners = np.round(quads * scale + (_OVERSAMPLING - 1) / 2 * (1 << SHIFT)).astype(np.int32)
    numbers = np.zeros((size[1] * _OVERSAMPLING, size[0] * _OVERSAMPLING), np.int32)
    for number, quad in enumerate(corners, 1):
        cv2.fillConvexPoly(numbers, quad, number, cv2.LINE_8, SHIFT)
    return numbers


def _resolve(numbers: np.ndarray, to_texel: Float32[np.ndarray, "quads 6"], low: np.ndarray) -> Raster:
    blocks = numbers[::2, ::2], numbers[1::2, ::2], numbers[::2, 1::2], numbers[1::2, 1::2]
    front = np.maximum(np.maximum(blocks[0], blocks[1]), np.maximum(blocks[2], blocks[3]))
    alpha = cv2.resize((numbers > 0).astype(np.uint8) * 255, front.shape[::-1], interpolation=cv2.INTER_AREA)
    maps = np.take(to_texel, front, axis=0)
    y, x = (
        np.arange(front.shape[0], dtype=np.float32)[:, None],
        np.arange(front.shape[1], dtype=np.float32)[None],
    )
    return Raster(
        left=int(low[0]),
        top=int(low[1]),
        texel_x=maps[..., 0] * x + maps[..., 1] * y + maps[..., 4],
        texel_y=maps[..., 2] * x + maps[..., 3] * y + maps[..., 5],
        alpha=alpha,
    )
