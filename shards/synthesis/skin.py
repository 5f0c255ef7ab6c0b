"""What a face is painted with: skin tone, features, light."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from shards.synthesis.layers import LINE_LAYERS, LINE_WINDOW, SOFT_LAYERS, line_layers, soft_layers
from shards.synthesis.surface import GRID, TEXTURE_PX

# sRGB, light to dark, between the tones of the Monk scale and photographed foreheads.
_TONES = np.array(
    [
        (244, 214, 196),
        (234, 192, 168),
        (222, 172, 142),
        (198, 145, 112),
        (165, 112, 82),
        (122, 80, 58),
        (84, 54, 42),
    ],
    dtype=np.float32,
) / np.float32(255)


@dataclass(frozen=True, kw_only=True, slots=True)
class Light:
    """What shines on the head, in camera axes."""

    toward_key: Float32[np.ndarray, " 3"]
    key: Float32[np.ndarray, " 3"]
    toward_fill: Float32[np.ndarray, " 3"]
    fill: Float32[np.ndarray, " 3"]
    ambient: Float32[np.ndarray, " 3"]
    gloss: float
    wrap: float
    """How far the key light reaches around: 0 is a spot, 1 an overcast sky."""

    def shade(self, normals: Float32[np.ndarray, "*shape 3"]) -> Float32[np.ndarray, "*shape 3"]:
        """By how much each surface multiplies its colour."""
        toward = np.clip((normals @ self.toward_key + self.wrap) / (1 + self.wrap), 0, 1)
        aside = np.clip(normals @ self.toward_fill, 0, 1)
        above = 0.85 - 0.15 * normals[..., 1]
        linear = toward[..., None] * self.key + aside[..., None] * self.fill + above[..., None] * self.ambient
        # Display gamma; red falls off later, as light that went through skin.
        return np.power(linear, np.array([0.50, 0.55, 0.58], np.float32))

    def shine(self, normals: Float32[np.ndarray, "*shape 3"]) -> Float32[np.ndarray, "*shape"]:
        """The highlight that is added, 0 to 1."""
        half = self.toward_key + np.array([0, 0, 1], np.float32)
        half /= np.float32(np.linalg.norm(half))
        facing = np.clip(normals @ half, 0, 1)
        facing *= facing
        facing *= facing
        facing *= facing
        return np.float32(self.gloss) * facing * facing


def _direction(azimuth_deg: float, elevation_deg: float) -> Float32[np.ndarray, " 3"]:
    azimuth, elevation = np.deg2rad([azimuth_deg, elevation_deg])
    return np.array(
        [np.sin(azimuth) * np.cos(elevation), -np.sin(elevation), np.cos(azimuth) * np.cos(elevation)],
        np.float32,
    )


def _tinted(rng: np.random.Generator, strength: float, spread: float) -> Float32[np.ndarray, " 3"]:
    warmth = rng.normal(0, spread)
    return (strength * np.array([1 + warmth, 1.0, 1 - warmth])).clip(0).astype(np.float32)


def draw_light(rng: np.random.Generator) -> Light:
    """Light at random: mostly from above and ahead, sometimes hard from a side."""
    hard = rng.random() < 0.35
    azimuth = rng.normal(0, 45) if hard else rng.normal(0, 30)
    key = rng.uniform(0.55, 1.0) if hard else rng.uniform(0.35, 0.7)
    ambient = rng.uniform(0.12, 0.3) if hard else rng.uniform(0.3, 0.55)
    return Light(
        toward_key=_direction(np.clip(azimuth, -100, 100), rng.uniform(-5, 60)),
        key=_tinted(rng, key, 0.08),
        toward_fill=_direction(-np.sign(azimuth) * rng.uniform(40, 110), rng.uniform(-20, 40)),
        fill=_tinted(rng, rng.uniform(0, 0.25), 0.15),
        ambient=_tinted(rng, ambient, 0.06),
        gloss=float(rng.uniform(0.02, 0.22)),
        wrap=float(rng.uniform(0.05, 0.25) if hard else rng.uniform(0.2, 0.7)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Complexion:
    """The colours of one person."""

    tone: Float32[np.ndarray, " 3"]
    hair: Float32[np.ndarray, " 3"]
    line_strengths: Float32[np.ndarray, "line_layers 3"]
    """Logarithm of what each of LINE_LAYERS multiplies white by; the first is the tone of the skin."""
    soft_strengths: Float32[np.ndarray, "soft_layers 3"]
    masculine: bool
    age: float
    """0 young to 1 old: wrinkles, grey hair."""


# Dark brown twice, since most people's hair is dark; sRGB.
_HAIR_TONES = np.array(
    [
        (20, 17, 16),
        (38, 28, 23),
        (52, 36, 26),
        (84, 56, 36),
        (130, 90, 52),
        (186, 146, 92),
        (122, 58, 30),
        (150, 148, 146),
    ],
    dtype=np.float32,
) / np.float32(255)
_HAIR_SHARES = np.array([0.22, 0.22, 0.15, 0.13, 0.09, 0.09, 0.04, 0.06])


def _hair_tone(rng: np.random.Generator, darkness: float, age: float) -> Float32[np.ndarray, " 3"]:
    shares = _HAIR_SHARES.copy()
    if darkness > 0.55:
        shares[3:7] *= 0.15
    if age > 0.7:
        shares[7] += 0.7
    tone = _HAIR_TONES[rng.choice(len(shares), p=shares / shares.sum())]
    return (tone * rng.normal(1, 0.12)).clip(0.02, 0.95).astype(np.float32)


# What makes skin darker: shadow and pigment take more blue than red, blood takes green.
_GREY = np.ones(3)
_BROWN = np.array([0.8, 1.0, 1.1])
_RED = np.array([0.15, 1.0, 0.9])
_STUBBLE = np.array([1.1, 1.0, 0.8])


def draw_complexion(rng: np.random.Generator, smile: float, raised_brows: float) -> Complexion:
    """Colours at random; the expression deepens folds and wrinkles."""
    darkness = float(rng.beta(1.0, 1.5))
    place = darkness * (len(_TONES) - 1)
    low = min(int(place), len(_TONES) - 2)
    tone = _TONES[low] + (place - low) * (_TONES[low + 1] - _TONES[low])
    tone = (tone * (1 + rng.normal(0, [0.03, 0.03, 0.04]))).clip(0.05, 0.98).astype(np.float32)
    age, masculine = float(rng.beta(1.2, 2.2)), bool(rng.random() < 0.5)
    made_up = not masculine and bool(rng.random() < 0.5)
    hair = _hair_tone(rng, darkness, age)
    thickness = rng.uniform(0.3, 1.0) if masculine else rng.uniform(0, 0.5)
    brow = np.log((hair * 0.75 + tone * 0.1).clip(0.01, 1) / tone)
    freckled = darkness < 0.4 and rng.random() < 0.12
    lines = {
        "everywhere": np.log(tone),
        "lips": np.log(_lip_color(rng, tone, made_up=made_up) / tone),
        "lip_line": -rng.uniform(0.4, 0.9) * _BROWN,
        "lip_shine": rng.uniform(0, 0.25) * _GREY,
        "brow_thin": brow * rng.uniform(0.5, 0.9) * (1 - 0.6 * thickness),
        "brow_thick": brow * thickness * rng.uniform(0.6, 0.95),
        "upper_lash": -rng.uniform(0.9, 1.9) * _BROWN,
        "lower_lash": -rng.uniform(0.15, 0.6) * _BROWN,
        "crease": -rng.uniform(0.05, 0.55) * _BROWN,
        "liner": -(rng.uniform(0.6, 2.0) if made_up else 0.0) * _GREY,
        "nostrils": -rng.uniform(0.7, 1.5) * _BROWN,
        "folds": -rng.uniform(0.1, 0.4) * _BROWN,
        "wrinkles": -(rng.uniform(0, 0.25) * age + 0.15 * raised_brows) * _BROWN,
        "freckles": -(rng.uniform(0.3, 0.7) if freckled else 0.0) * _BROWN,
        "pores": -rng.uniform(0.005, 0.03) * _BROWN,
    }
    softs = _draw_soft_shadows(rng, age=age, smile=smile, masculine=masculine, made_up=made_up)
    return Complexion(
        tone=tone,
        hair=hair,
        line_strengths=np.stack([lines[name] for name in LINE_LAYERS]).astype(np.float32),
        soft_strengths=np.stack([softs[name] for name in SOFT_LAYERS]).astype(np.float32),
        masculine=masculine,
        age=age,
    )


def _lip_color(rng: np.random.Generator, tone: np.ndarray, *, made_up: bool) -> np.ndarray:
    lips = tone * np.array([0.90, 0.66, 0.68]) * rng.normal(1, 0.05)
    if made_up:
        paint = np.array([rng.uniform(0.55, 0.85), rng.uniform(0.08, 0.35), rng.uniform(0.15, 0.4)])
        lips = lips + rng.uniform(0.3, 0.9) * (paint - lips)
    return lips.clip(0.04, 0.98)


def _draw_soft_shadows(
    rng: np.random.Generator, *, age: float, smile: float, masculine: bool, made_up: bool
) -> dict[str, np.ndarray]:
    """The logarithm of what each of SOFT_LAYERS multiplies the skin by."""
    fold = 0.10 + 0.35 * age + 0.4 * max(0.0, smile)
    eyeshadow = rng.uniform(-0.9, 0.1, 3) if made_up and rng.random() < 0.6 else np.zeros(3)
    return {
        "socket": -rng.uniform(0.05, 0.40) * _BROWN,
        "eyeshadow": eyeshadow,
        "bags": -(rng.uniform(0, 0.12) + 0.15 * age) * _BROWN,
        "blush": -rng.uniform(0.0, 0.22) * _RED,
        "nose_side": -rng.uniform(0.0, 0.18) * _BROWN,
        "under_nose": -rng.uniform(0.1, 0.45) * _BROWN,
        "under_lip": -rng.uniform(0.1, 0.4) * _BROWN,
        "mouth_corners": -rng.uniform(0.1, 0.5) * _BROWN,
        "under_jaw": -rng.uniform(0.3, 0.9) * _BROWN,
        "nose_tip": -rng.uniform(0.0, 0.15) * _RED,
        "nasolabial": -fold * rng.uniform(0.5, 1.2) * _BROWN,
        "temples": -rng.uniform(0.0, 0.15) * _BROWN,
        "shave": -(rng.uniform(0, 0.3) if masculine else 0.0) * _STUBBLE,
        "mottle_red": -rng.uniform(0.01, 0.04) * _RED,
        "mottle_dark": -rng.uniform(0.01, 0.04) * _BROWN,
    }


def paint_skin(complexion: Complexion) -> Float32[np.ndarray, "texture texture 3"]:
    """The skin with its sharp features, before light falls on it, 0 to 1."""
    rows, columns = LINE_WINDOW
    lines = cv2.exp(line_layers() @ complexion.line_strengths)
    lines = lines.reshape(rows.stop - rows.start, columns.stop - columns.start, 3)
    rim = rows.start, TEXTURE_PX - rows.stop, columns.start, TEXTURE_PX - columns.stop
    return cv2.copyMakeBorder(lines, *rim, cv2.BORDER_CONSTANT, value=complexion.tone.tolist())


def light_skin(
    painted: Float32[np.ndarray, "texture texture 3"],
    normals: Float32[np.ndarray, "grid grid 3"],
    complexion: Complexion,
    light: Light,
) -> UInt8[np.ndarray, "texture texture 3"]:
    """The texture as it is seen: painted × soft shadows × light + highlight."""
    soft = cv2.exp(soft_layers() @ complexion.soft_strengths).reshape(GRID, GRID, 3)
    shade = soft * light.shade(normals)
    size = (TEXTURE_PX, TEXTURE_PX)
    lit = cv2.multiply(painted, cv2.resize(shade, size), scale=255)
    shine = cv2.resize(light.shine(normals) * 255, size)
    return cv2.add(lit, cv2.merge([shine, shine, shine]), dtype=cv2.CV_8U)
