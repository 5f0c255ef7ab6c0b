"""Hair on the head and beards: where it grows, how it lies, its colour and volume."""

import functools
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32

from shards.synthesis.layers import beard_masks
from shards.synthesis.skin import Complexion
from shards.synthesis.surface import GRID, TEXTURE_PX, mean_surface, outwards, to_texel, to_uv

_NOISE_SEED = 680


@dataclass(frozen=True, kw_only=True, slots=True)
class HairStyle:
    """The hair of one person."""

    alpha: Float32[np.ndarray, "texture texture"]
    """How much of each texel hair covers, 0 to 1."""
    strands: Float32[np.ndarray, "texture texture"]
    """How bright each texel of hair is, about 1."""
    volume: float
    """How far it stands off the skull, head frame."""
    length: float
    """How far long hair falls below the eyes, head frame; 0 where it does not."""
    covers_ears: bool
    beard: Float32[np.ndarray, "texture texture"] | None
    bald: bool


@functools.cache
def _strand_patterns() -> tuple[Float32[np.ndarray, "texture texture"], ...]:
    """Hair that runs from a crown or a parting, and curls."""
    rng = np.random.default_rng(_NOISE_SEED)
    patterns = []
    places = np.array([(0.0, -1.2, -0.5), (0.35, -1.15, -0.3), (-0.35, -1.15, -0.3), (0.0, -1.0, 0.0)])
    for center in to_texel(to_uv(places)):
        rays = cv2.GaussianBlur(rng.normal(size=(1024, 64)).astype(np.float32), (0, 0), 2.5, sigmaY=1.4)
        rays = (rays / rays.std()).astype(np.float32)
        size = (TEXTURE_PX, TEXTURE_PX)
        flags = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR | cv2.WARP_FILL_OUTLIERS
        patterns.append(cv2.warpPolar(rays, size, tuple(float(c) for c in center), TEXTURE_PX * 1.3, flags))
    for sigma in (1.2, 2.2):
        curls = cv2.GaussianBlur(rng.normal(size=(TEXTURE_PX, TEXTURE_PX)).astype(np.float32), (0, 0), sigma)
        patterns.append(curls / curls.std())
    return tuple(patterns)


@functools.cache
def _places() -> tuple[Float32[np.ndarray, "texture texture"], ...]:
    return tuple(np.ascontiguousarray(plane) for plane in np.moveaxis(mean_surface(), 2, 0))


@functools.cache
def _side_score(low: float) -> Float32[np.ndarray, "texture texture"]:
    """Positive on the sides of the head, behind the temple and above `low`."""
    _, y, z = _places()
    front = np.interp(y, [-0.9, -0.6, -0.3, 0.0, 0.3], [-0.15, -0.33, -0.42, -0.60, -0.66]).astype(np.float32)
    return np.minimum(front - z, (np.float32(low) - y) * np.float32(0.8))


def draw_hair(rng: np.random.Generator, complexion: Complexion) -> HairStyle:
    """Hair at random."""
    masculine = complexion.masculine
    bald = masculine and rng.random() < 0.10 + 0.15 * complexion.age
    long = rng.random() < (0.08 if masculine else 0.75)
    x, y, _ = _places()
    hairline = rng.normal(-0.74, 0.06) - (0.12 * complexion.age * rng.random() if masculine else 0)
    fringe = rng.random() < (0.12 if masculine else 0.28)
    if fringe:
        hairline = rng.uniform(-0.55, -0.3)
    lean, bend = rng.normal(0, 0.12), rng.uniform(-0.15, 0.55)
    line = np.float32(hairline) + np.float32(lean) * x + np.float32(bend) * x * x
    top = line - y
    side = _side_score(1.4 if long else float(np.round(rng.uniform(0.0, 0.35), 1)))
    patterns = _strand_patterns()
    curly = rng.random() < 0.25
    strands = patterns[rng.integers(4, 6) if curly else rng.integers(0, 4)]
    score = np.maximum(top, side) + np.float32(rng.uniform(0.008, 0.03)) * strands
    softness = rng.uniform(0.03, 0.09)
    alpha = np.clip(score / np.float32(softness) + np.float32(0.5), 0, 1)
    if bald:
        alpha *= np.float32(0.0 if rng.random() < 0.5 else rng.uniform(0.1, 0.4))
    contrast = rng.uniform(0.10, 0.28)
    return HairStyle(
        alpha=alpha,
        strands=np.clip(1 + np.float32(contrast) * strands, 0.3, 1.8),
        volume=0.0
        if bald
        else float(rng.uniform(0.03, 0.12) + (0.08 * rng.random() if curly or long else 0)),
        length=float(rng.uniform(0.8, 2.6)) if long else 0.0,
        covers_ears=bool(long and rng.random() < 0.8),
        beard=_draw_beard(rng, complexion),
        bald=bool(bald),
    )


def _draw_beard(
    rng: np.random.Generator, complexion: Complexion
) -> Float32[np.ndarray, "texture texture"] | None:
    if not complexion.masculine or rng.random() < 0.5:
        return None
    cut = rng.choice(["full", "full", "goatee", "moustache"])
    curls = _strand_patterns()[4]
    density = rng.uniform(0.25, 0.95)
    return beard_masks()[cut] * np.clip(np.float32(density) + np.float32(0.22) * curls, 0, 0.97)


def grow(
    vertices: Float32[np.ndarray, "grid grid 3"], style: HairStyle
) -> Float32[np.ndarray, "grid grid 3"]:
    """The head with its hair standing off the skull."""
    if style.volume == 0:
        return vertices
    coarse = cv2.resize(style.alpha, (GRID, GRID), interpolation=cv2.INTER_AREA)
    coarse = cv2.GaussianBlur(coarse, (0, 0), 1.2)
    return vertices + outwards() * (coarse * coarse * np.float32(style.volume))[..., None]


def comb(
    painted: Float32[np.ndarray, "texture texture 3"], style: HairStyle, complexion: Complexion
) -> Float32[np.ndarray, "texture texture 3"]:
    """The painted head with hair and beard in their colour, before light falls on it."""
    for alpha in (style.beard, style.alpha):
        if alpha is None:
            continue
        hair = cv2.merge([style.strands * c for c in complexion.hair])
        cover = cv2.merge([alpha, alpha, alpha])
        painted = painted + (hair - painted) * cover
    return painted
