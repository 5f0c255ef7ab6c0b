"""What lens, sensor and file do to a picture."""

import functools

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

_NOISE_PX = 512
_NOISE_SEED = 5


@functools.cache
def _grain() -> Float32[np.ndarray, "noise noise 3"]:
    """Sensor noise, deviation 1, of which a random cut is taken."""
    rng = np.random.default_rng(_NOISE_SEED)
    return rng.standard_normal((_NOISE_PX, _NOISE_PX, 3), dtype=np.float32)


@functools.cache
def _corner_distance(size: int) -> Float32[np.ndarray, "size size"]:
    steps = np.linspace(-1, 1, size, dtype=np.float32)
    return (steps[None] ** 2 + steps[:, None] ** 2) / np.float32(2)


def photograph(
    scene: UInt8[np.ndarray, "size size 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "size size 3"]:
    """The scene as a camera at random records it; no pixel moves."""
    picture = _exposed(_blurred(scene, rng), rng)
    if rng.random() < 0.6:
        picture = _noisy(picture, rng)
    if rng.random() < 0.12:
        picture = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < 0.25:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 85))]
        _, encoded = cv2.imencode(".jpg", picture, quality)
        picture = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return np.asarray(picture, dtype=np.uint8)


def _blurred(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size, kind = picture.shape[0], rng.random()
    if kind < 0.45:
        return cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 0.9)) * size / 256)
    if kind < 0.55:
        return cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.9, 2.2)) * size / 256)
    if kind < 0.63:  # motion
        reach = int(rng.integers(1, 5))
        kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
        dx, dy = (
            np.round(reach * np.array([np.cos(a := rng.uniform(0, np.pi)), np.sin(a)])).astype(int).tolist()
        )
        cv2.line(kernel, (reach - dx, reach - dy), (reach + dx, reach + dy), 1.0)
        return cv2.filter2D(picture, -1, kernel / kernel.sum())
    if kind < 0.75:  # enlarged from a small picture
        small = max(48, round(size / rng.uniform(1.3, 3.0)))
        shrunk = cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA)
        return cv2.resize(shrunk, (size, size), interpolation=cv2.INTER_LINEAR)
    return picture


def _exposed(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gamma, contrast, brightness, colour cast and vignette."""
    levels = np.arange(256) / 255
    gamma, contrast, shift = np.exp(rng.normal(0, 0.18)), rng.normal(1.0, 0.15), rng.normal(0, 0.04)
    cast = 1 + rng.normal(0, 0.05, 3)
    curve = ((levels**gamma)[:, None] - 0.5) * contrast + 0.5 + shift
    table = np.clip(curve * cast * 255, 0, 255).astype(np.uint8)[:, None]
    picture = cv2.LUT(picture, np.ascontiguousarray(table))
    if rng.random() < 0.25:
        shade = np.clip(1 - np.float32(rng.uniform(0.15, 0.6)) * _corner_distance(picture.shape[0]), 0, 1)
        picture = cv2.multiply(picture, cv2.merge([shade, shade, shade]), dtype=cv2.CV_8U)
    return picture


def _noisy(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = picture.shape[0]
    grain = _grain()
    if size > _NOISE_PX:
        grain = np.tile(grain, (-(-size // _NOISE_PX), -(-size // _NOISE_PX), 1))
    top, left = rng.integers(grain.shape[0] - size + 1, size=2)
    strength = float(rng.exponential(3.5))
    return (
        cv2.scaleAdd(
            grain[top : top + size, left : left + size], min(strength, 18), picture.astype(np.float32)
        )
        .clip(0, 255)
        .astype(np.uint8)
    )
