"""What is behind the head: backgrounds with texture and clutter."""

import functools

import cv2
import numpy as np
from jaxtyping import UInt8

_BANK_PX = 512
_BANK_SIZE = 6
_NOISE_SEED = 4


@functools.cache
def _noise_bank() -> tuple[UInt8[np.ndarray, "bank bank"], ...]:
    """Clouds of several coarsenesses, mean grey 128; random cuts of them stand for all textures."""
    bank = []
    for number in range(_BANK_SIZE):
        rng = np.random.default_rng((_NOISE_SEED, number))
        total = np.zeros((_BANK_PX, _BANK_PX), np.float32)
        steepness = 0.35 + 0.13 * number
        for octave in range(2, 9):
            cells = 2**octave
            noise = rng.normal(size=(cells, cells)).astype(np.float32)
            size = (_BANK_PX, _BANK_PX)
            total += cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC) * np.float32(steepness**octave)
        total = 128 + 45 * (total - total.mean()) / total.std()
        bank.append(np.clip(total, 0, 255).astype(np.uint8))
    return tuple(bank)


def texture_cut(rng: np.random.Generator, height: int, width: int) -> UInt8[np.ndarray, "height width"]:
    """A random piece of a cloudy grey texture, mean 128."""
    source = _noise_bank()[rng.integers(_BANK_SIZE)]
    zoom = max(height, width) / _BANK_PX
    if zoom > 0.9:
        source = cv2.resize(source, None, fx=zoom / 0.9, fy=zoom / 0.9, interpolation=cv2.INTER_LINEAR)
    top = int(rng.integers(source.shape[0] - height + 1))
    left = int(rng.integers(source.shape[1] - width + 1))
    return source[top : top + height, left : left + width]


def _color(rng: np.random.Generator) -> np.ndarray:
    """Photographs hold more dull colours than bright ones."""
    grey = rng.uniform(10, 245)
    return np.clip(grey + rng.normal(0, rng.choice([8, 25, 60]), 3), 0, 255)


def _color_table(rng: np.random.Generator) -> UInt8[np.ndarray, "256 1 3"]:
    stops = np.stack([_color(rng) for _ in range(3)])
    levels = np.linspace(0, 2, 256)
    return np.stack([np.interp(levels, range(3), stops[:, c]) for c in range(3)], -1).astype(np.uint8)[
        :, None
    ]


def _ramp(rng: np.random.Generator, size: int) -> np.ndarray:
    """Position along a random direction, 0 to 1."""
    angle = rng.uniform(0, 2 * np.pi)
    steps = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    return np.clip(
        0.5 + 0.8 * (np.float32(np.cos(angle)) * steps[None] + np.float32(np.sin(angle)) * steps[:, None]),
        0,
        1,
    )


def _shapes(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Walls, furniture, people: rectangles, lines and skin-coloured ovals, in place."""
    size = canvas.shape[0]
    for _ in range(int(rng.integers(4, 12))):
        color = _color(rng).tolist()
        first, second = rng.integers(-size // 4, size * 5 // 4, (2, 2)).tolist()
        match int(rng.integers(4)):
            case 0:
                cv2.rectangle(canvas, first, second, color, -1)
            case 1:
                cv2.line(canvas, first, second, color, int(rng.integers(1, size // 8)), cv2.LINE_AA)
            case 2:
                axes = rng.integers(size // 20, size // 3, 2).tolist()
                cv2.ellipse(canvas, first, axes, float(rng.uniform(0, 180)), 0, 360, color, -1, cv2.LINE_AA)
            case _:
                _bystander(rng, canvas, first)


def _bystander(rng: np.random.Generator, canvas: np.ndarray, center: list[int]) -> None:
    size = float(rng.uniform(0.06, 0.16)) * canvas.shape[0]
    skin = np.array([225, 175, 145]) * rng.uniform(0.3, 1.1)
    dark = (skin * 0.35).clip(0, 255).tolist()
    x, y = center

    def oval(dx: float, dy: float, half_width: float, half_height: float, color: list[float]) -> None:
        place = (round(x + dx * size), round(y + dy * size))
        axes = (max(1, round(half_width * size)), max(1, round(half_height * size)))
        cv2.ellipse(canvas, place, axes, 0, 0, 360, color, -1, cv2.LINE_AA)

    oval(0.0, 2.3, 1.8, 1.2, _color(rng).tolist())
    oval(0.0, -0.2, 1.0, 1.25, dark)
    oval(0.0, 0.1, 0.85, 1.1, skin.clip(0, 255).tolist())
    for side in (-1, 1):
        oval(side * 0.35, -0.1, 0.16, 0.08, dark)
    oval(0.0, 0.65, 0.3, 0.08, (skin * [0.7, 0.4, 0.4]).clip(0, 255).tolist())


def draw_backdrop(rng: np.random.Generator, size_px: int) -> UInt8[np.ndarray, "size size 3"]:
    """A background at random, RGB."""
    size = size_px if rng.random() < 0.3 else size_px // 2
    kind = rng.random()
    if kind < 0.15:
        levels = (_ramp(rng, size) * 255).astype(np.uint8)
    elif kind < 0.27:
        stripes = np.sin(_ramp(rng, size) * np.float32(rng.uniform(15, 120)))
        levels = (127.5 + 127 * np.clip(stripes * np.float32(rng.uniform(0.8, 4)), -1, 1)).astype(np.uint8)
    else:
        levels = texture_cut(rng, size, size)
    canvas = cv2.applyColorMap(np.ascontiguousarray(levels), _color_table(rng))
    if rng.random() < 0.5:
        _shapes(rng, canvas)
    if rng.random() < 0.6:
        canvas = cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.5, 0.03 * size)))
    if size != size_px:
        canvas = cv2.resize(canvas, (size_px, size_px), interpolation=cv2.INTER_LINEAR)
    return canvas
