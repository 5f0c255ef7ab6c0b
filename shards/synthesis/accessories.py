"""What people wear and what gets in the way: glasses, hats, masks, hands, microphones."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from shards.synthesis.backdrop import texture_cut
from shards.synthesis.bust import fill_textured, hull, to_color
from shards.synthesis.hair import HairStyle
from shards.synthesis.pose import PosedHead
from shards.synthesis.skin import Complexion, Light
from shards.synthesis.surface import draw_polygon, draw_stroke, smooth_curve

GLASSES_SHARE = 0.22
SUNGLASSES_SHARE = 0.2
"""Of those who wear glasses."""
HAT_SHARE = 0.10
OCCLUDER_SHARE = 0.16


def _color(rng: np.random.Generator) -> np.ndarray:
    return np.clip(rng.uniform(0.05, 0.85) + rng.normal(0, 0.18, 3), 0.02, 0.95)


def _blend_polygon(
    picture: UInt8[np.ndarray, "size size 3"], points: np.ndarray, color: np.ndarray, opacity: float
) -> None:
    """Fill a polygon with a see-through colour, in place."""
    size = picture.shape[0]
    left, top = np.clip(np.floor(points.min(0)).astype(int) - 1, 0, size)
    right, bottom = np.clip(np.ceil(points.max(0)).astype(int) + 2, 0, size)
    if right <= left or bottom <= top:
        return
    region = picture[top:bottom, left:right]
    covered = region.copy()
    draw_polygon(covered, points - [left, top], to_color(color))
    region[:] = cv2.addWeighted(covered, opacity, region, 1 - opacity, 0)


def paint_glasses(
    picture: UInt8[np.ndarray, "size size 3"], head: PosedHead, rng: np.random.Generator
) -> None:
    """Glasses or sunglasses in place."""
    controls, view = head.shape.controls, head.view
    dark = rng.random() < SUNGLASSES_SHARE
    frame = np.full(3, rng.uniform(0.02, 0.25)) if rng.random() < 0.6 else _color(rng)
    lens_color = (
        np.clip(rng.uniform(0.02, 0.12) + rng.normal(0, 0.02, 3), 0, 1) if dark else _color(rng) * 0.5 + 0.5
    )
    opacity = rng.uniform(0.82, 1.0) if dark else rng.uniform(0.0, 0.12)
    half_width, half_height = rng.uniform(0.23, 0.30), rng.uniform(0.15, 0.23)
    power, width = 2 / rng.uniform(2.0, 5.0), view.length_px(rng.uniform(0.012, 0.05))
    drop, front = rng.uniform(0.0, 0.06), controls[27, 2] + 0.03
    turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    cos, sin = np.cos(turn), np.sin(turn)
    oval = np.stack([np.sign(cos) * np.abs(cos) ** power, np.sign(sin) * np.abs(sin) ** power], axis=1)
    inner_ends = []
    for side, eye in ((-1.0, slice(36, 42)), (1.0, slice(42, 48))):
        center = controls[eye].mean(0)
        x = center[0] + side * 0.02 + oval[:, 0] * half_width
        y = center[1] + drop + oval[:, 1] * half_height
        z = front - 0.30 * x**2
        lens = view.project(np.stack([x, y, z], axis=1))
        if opacity > 0.02:
            _blend_polygon(picture, lens, lens_color, opacity)
        if rng.random() < 0.35:
            streak = np.stack([lens[i] for i in (18, 20, 8, 6)])
            _blend_polygon(
                picture, lens.mean(0) + 0.8 * (streak - lens.mean(0)), np.ones(3), rng.uniform(0.08, 0.3)
            )
        draw_stroke(picture, lens, width, to_color(frame), closed=True)
        inner_ends.append(lens[16 if side > 0 else 26])
        if (view.rotation @ np.array([side, 0, 0.12]))[2] > 0.05:
            ear = controls[0 if side < 0 else 16] + [side * 0.03, -0.05, -0.05]
            hinge = np.array([x[0 if side > 0 else 14], y[22] + 0.4 * half_height, z[0 if side > 0 else 14]])
            draw_stroke(picture, view.project(np.stack([hinge, ear])), width, to_color(frame * 0.9))
    middle = (inner_ends[0] + inner_ends[1]) / 2 - view.rotation[:2, 1] * view.length_px(0.03)
    draw_stroke(picture, np.stack([inner_ends[0], middle, inner_ends[1]]), width, to_color(frame))


def paint_hat(
    picture: UInt8[np.ndarray, "size size 3"],
    head: PosedHead,
    style: HairStyle,
    light: Light,
    rng: np.random.Generator,
) -> None:
    """A cap, a brimmed hat or a beanie, in place."""
    kind = rng.integers(3)
    size = picture.shape[0]
    reach = np.abs(head.shape.controls[[0, 16], 0]).mean() + 0.06 + style.volume
    rim, crown = rng.uniform(-0.62, -0.45), rng.uniform(-1.75, -1.4)
    turn = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    circle = np.stack([np.cos(turn), np.zeros(32), np.sin(turn)], axis=1)

    def ring(y: float, half_width: float, half_depth: float) -> np.ndarray:
        return head.view.project(circle * [half_width, 0, half_depth] + [0, y, -0.78])

    levels = np.concatenate(
        [ring(rim, reach, 1.10), ring((rim + crown) / 2, reach * 0.97, 1.05), ring(crown, reach * 0.6, 0.7)]
    )
    cloth = _color(rng) * light.shade(np.array([[0, -0.3, 0.9]], np.float32))[0]
    grain = texture_cut(rng, size, size)
    if kind == 0:  # wide brim, behind and in front
        draw_polygon(picture, ring(rim + 0.03, reach + 0.45, 1.6), to_color(cloth * 0.8))
    fill_textured(picture, hull(levels), cloth, grain, 0.35)
    band = head.view.project(circle[:17] * [reach + 0.01, 0, 1.12] + [0, rim, -0.78])
    draw_stroke(picture, band, head.view.length_px(0.08 if kind != 2 else 0.2), to_color(cloth * 0.6))
    if kind == 1:  # visor
        visor = np.stack(
            [np.cos(turn[:17]) * reach * 0.85, np.full(17, rim + 0.02), 0.15 + np.sin(turn[:17]) * 0.75],
            axis=1,
        )
        draw_polygon(picture, head.view.project(visor), to_color(cloth * 0.7))


def paint_occluder(
    picture: UInt8[np.ndarray, "size size 3"],
    head: PosedHead,
    complexion: Complexion,
    light: Light,
    rng: np.random.Generator,
) -> None:
    """Something in front of a part of the face, in place."""
    match int(rng.integers(4)):
        case 0:
            _paint_mask(picture, head, light, rng)
        case 1:
            _paint_hand(picture, head, complexion, light, rng)
        case 2:
            _paint_microphone(picture, head, rng)
        case _:
            _paint_thing(picture, head, rng)


def _paint_mask(picture: np.ndarray, head: PosedHead, light: Light, rng: np.random.Generator) -> None:
    landmarks = head.landmarks_image
    covered = np.concatenate([landmarks[2:15], landmarks[48:60], landmarks[29:31]])
    outline = hull(landmarks[33] + 1.04 * (covered - landmarks[33]))
    cloth = rng.choice(np.array([(0.62, 0.80, 0.88), (0.92, 0.92, 0.92), (0.10, 0.10, 0.11)]))
    cloth = cloth * light.shade(head.view.rotation[:, 2].astype(np.float32)[None])[0]
    size = picture.shape[0]
    fill_textured(picture, outline, cloth, texture_cut(rng, size, size), 0.12)
    for share in (0.3, 0.5, 0.7):
        fold = [landmarks[a] + share * (landmarks[b] - landmarks[a]) for a, b in ((2, 6), (29, 8), (14, 10))]
        draw_stroke(picture, smooth_curve(np.stack(fold)), head.view.length_px(0.015), to_color(cloth * 0.82))


def _paint_hand(
    picture: np.ndarray, head: PosedHead, complexion: Complexion, light: Light, rng: np.random.Generator
) -> None:
    unit, landmarks = head.view.scale_px, head.landmarks_image
    tip = landmarks[rng.choice([3, 5, 8, 11, 13, 57])]
    angle = rng.uniform(-0.9, 0.9) + (0.0 if rng.random() < 0.8 else np.pi)
    along = np.array([np.sin(angle), np.cos(angle)])
    beside = np.array([along[1], -along[0]])
    skin = complexion.tone * light.shade(np.array([[0, -0.2, 0.9]], np.float32))[0]
    palm = tip + along * unit * 1.1
    draw_stroke(picture, np.stack([palm, palm + along * unit * 3]), unit * 0.65, to_color(skin * 0.85))
    for number, length in enumerate((0.80, 1.0, 1.05, 0.9)):
        offset = beside * unit * 0.17 * (number - 1.5)
        finger = np.stack([palm + offset, tip + along * unit * (0.9 - length) + offset * 1.1])
        draw_stroke(picture, finger, unit * 0.20, to_color(skin * [0.66, 0.58, 0.56]))
        draw_stroke(picture, finger, unit * 0.16, to_color(skin))
        nail = finger[1] + (finger[0] - finger[1]) * 0.03
        draw_stroke(
            picture,
            np.stack([nail, nail + along * unit * 0.05]),
            unit * 0.09,
            to_color(np.clip(skin * 1.12, 0, 1)),
        )


def _paint_microphone(picture: np.ndarray, head: PosedHead, rng: np.random.Generator) -> None:
    unit = head.view.scale_px
    ball = head.landmarks_image[57] + np.array([rng.uniform(-0.3, 0.3), rng.uniform(0.1, 0.4)]) * unit
    angle = rng.uniform(-1.0, 1.0)
    end = ball + np.array([np.sin(angle), np.cos(angle)]) * unit * 3
    grey = np.full(3, rng.uniform(0.05, 0.4))
    draw_stroke(picture, np.stack([ball, end]), unit * 0.16, to_color(grey * 0.6))
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1) * unit
    for radius, level in ((0.22, 0.8), (0.17, 1.1), (0.10, 1.5)):
        draw_polygon(picture, ball + circle * radius - (0.22 - radius) * unit * 0.4, to_color(grey * level))


def _paint_thing(picture: np.ndarray, head: PosedHead, rng: np.random.Generator) -> None:
    """A corner of something: a sheet, an arm, a branch."""
    unit, size = head.view.scale_px, picture.shape[0]
    edge: Float[np.ndarray, " 2"] = head.landmarks_image[rng.integers(0, 17)]
    inward = head.landmarks_image[30] - edge
    inward /= max(1e-6, float(np.hypot(*inward)))
    beside = np.array([-inward[1], inward[0]])
    near = edge + inward * unit * rng.uniform(0.05, 0.4)
    half = unit * rng.uniform(0.15, 0.6)
    sheet = np.stack(
        [near + beside * half, near - beside * half, edge - inward * unit * 4 - beside * half * 1.6]
    )
    sheet = np.concatenate([sheet, (edge - inward * unit * 4 + beside * half * 1.6)[None]])
    fill_textured(picture, sheet, _color(rng), texture_cut(rng, size, size), rng.uniform(0.1, 0.6))
