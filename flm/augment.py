"""The model's input out of stored crops, on the device that trains, changed at random.

Geometry is one affine per row, resampled once out of the wide crop. Then come blur, sensor noise, colour (one
matrix per picture), gamma, JPEG and occlusion; whatever touches few rows costs only those rows, chosen on the
CPU so that the device never has to be waited for.

A row's parameters depend on nothing but (seed, step, its place in the global batch): not on the process, the
device, the micro-batch, nor on which other augmentations are on.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from kornia.enhance import adjust_gamma, jpeg_codec_differentiable
from kornia.filters import gaussian_blur2d
from torch import Tensor

from flm.data.crops import AugmentedBatch, cut_crops, upload
from flm.data.samples import Batch

_RANGES = {
    "rotation_deg": (0, 180),
    "translation": (0, 0.5),
    "hue_deg": (0, 180),
    "gamma": (0, 4),
    "blur_sigma_px": (0.1, 10),
    "jpeg_quality_min": (1, 95),
}
"""Shares and probabilities, which are not listed, lie between 0 and 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """How far pictures are changed; by default not at all. A probability is the share of pictures touched.

    Raises:
        ValueError: a field is out of its range.
    """

    rotation_deg: float = 0.0
    """Rotation around the crop's centre: uniform between minus and plus this."""
    scale: float = 0.0
    """Zoom: log-uniform between 1 / (1 + this) and 1 + this."""
    translation: float = 0.0
    """Shift along each axis as a share of the crop's side: uniform between minus and plus this."""
    mirror_probability: float = 0.0
    """Flip, with left and right landmarks swapped."""
    brightness: float = 0.0
    """Factor on all channels: uniform between 1 - this and 1 + this."""
    contrast: float = 0.0
    """Factor on the distance from the picture's mean luma: uniform between 1 - this and 1 + this."""
    saturation: float = 0.0
    """Factor on the colour: uniform between 1 - this and 1 + this."""
    hue_deg: float = 0.0
    """Turn of the colour at equal luma: uniform between minus and plus this."""
    grey_probability: float = 0.0
    """All colour taken out."""
    gamma_probability: float = 0.0
    """Tone curve changed."""
    gamma: float = 0.5
    """Exponent of the tone curve: log-uniform between 1 / (1 + this) and 1 + this."""
    blur_probability: float = 0.0
    """Gaussian blur."""
    blur_sigma_px: float = 1.5
    """Largest blur, px of the crop: uniform between a fifth of this and this."""
    noise_probability: float = 0.0
    """Gaussian sensor noise, independent for each channel."""
    noise_std: float = 0.06
    """Strongest noise, as a share of white: uniform between 0 and this."""
    jpeg_probability: float = 0.0
    """JPEG compression."""
    jpeg_quality_min: float = 30.0
    """Strongest compression: the quality is uniform between this and 95."""
    occlusion_probability: float = 0.0
    """A rectangle hidden by black, a colour or a coloured texture; its landmarks stay asked for."""
    occlusion_side_min: float = 0.1
    """Shortest side of the rectangle as a share of the crop's side; width and height are uniform."""
    occlusion_side_max: float = 0.4
    """Longest side of the rectangle as a share of the crop's side."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = _RANGES.get(field.name, (0, 1))
            if not low <= value <= high:
                flag = "--augment." + field.name.replace("_", "-")
                raise ValueError(f"{flag} is {value}, must be between {low} and {high}")
        low, high = self.occlusion_side_min, self.occlusion_side_max
        if low > high:
            raise ValueError(
                f"--augment.occlusion-side-min is {low}, above --augment.occlusion-side-max {high}"
            )


@torch.no_grad()
def augment(batch: Batch, config: AugmentConfig, *, size_px: int, seed: int) -> AugmentedBatch:
    """The crops as training takes them, each changed at random.

    Args:
        batch: stored crops; `batch.shard_to_crop` leads to crops of this size.
        config: how far they are changed.
        size_px: side of the model's input.
        seed: of the run, not negative; with `batch.step` and a row's place in the global batch it decides
            every parameter of the row.
    """
    draws = _draw(batch, seed)
    mirrored = draws["mirror"] < config.mirror_probability
    # Under autocast the colour matrix and the blur would be computed in bfloat16 or float16.
    with torch.autocast(batch.crops_shard.device.type, enabled=False):
        cut = cut_crops(
            batch, _crop_to_augmented(config, draws, mirrored, size_px), mirrored, size_px=size_px
        )
        change_some = functools.partial(_change_some, config, draws)
        images = change_some(cut.images, "is_blurred", config.blur_probability, _blur)
        images = change_some(images, "is_noisy", config.noise_probability, _add_noise)
        images = _recolour(images, config, draws)
        images = change_some(images, "is_toned", config.gamma_probability, _change_tone)
        images = change_some(images, "is_compressed", config.jpeg_probability, _compress)
        images = change_some(images, "is_occluded", config.occlusion_probability, _occlude)
    return replace(cut, images=images.contiguous(memory_format=torch.channels_last))


_DECISIONS = (
    *("rotation", "scale", "translation_x", "translation_y", "mirror"),
    *("brightness", "contrast", "saturation", "hue", "is_grey", "is_toned", "gamma"),
    *("is_blurred", "blur", "is_noisy", "noise", "grain_x", "grain_y", "is_compressed", "quality"),
    *("is_occluded", "width", "height", "left", "top", "fill", "red", "green", "blue"),
)
_NUMBERS_PER_ROW = 32
"""A multiple of four, since Philox makes four numbers a count; the spare ones leave room for more."""
_GRAIN_PLAY_PX = 64
"""How much larger than a crop the field of noise is: a row's grain is cut from one of 65² places."""

Rows = Float[np.ndarray, " rows"]
Images = Float32[Tensor, "rows 3 size size"]


@dataclass(frozen=True, slots=True)
class _Draws:
    """What chance decides for some rows of a step, on the CPU and so the same everywhere."""

    seed: int
    step: int
    numbers: Float[np.ndarray, "rows decisions"]
    """Uniform in [0, 1)."""

    def __getitem__(self, decision: str) -> Rows:
        return self.numbers[:, _DECISIONS.index(decision)]

    def signed(self, decision: str) -> Rows:
        """Uniform in [-1, 1)."""
        return 2 * self[decision] - 1

    def grain(self, size_px: int, device: torch.device) -> Images:
        """Standard normal noise, on the device: for each row a window of the step's field."""
        field = upload(_grain_field(self.seed, self.step, size_px + _GRAIN_PLAY_PX), device)
        places = np.stack([self["grain_y"], self["grain_x"]]) * (_GRAIN_PLAY_PX + 1)
        top, left = upload(places.astype(np.int64), device)
        return field.unfold(1, size_px, 1).unfold(2, size_px, 1)[:, top, left].transpose(0, 1)


def _draw(batch: Batch, seed: int) -> _Draws:
    """Row r of the global batch gets the numbers 32 r … 32 r + 31 of the Philox stream with key (seed, step).

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    philox = np.random.Philox(key=[seed, batch.step])
    philox.advance(batch.first_row * _NUMBERS_PER_ROW // 4)
    numbers = np.random.Generator(philox).random((len(batch), _NUMBERS_PER_ROW))
    return _Draws(seed, batch.step, numbers)


@functools.lru_cache(maxsize=1)
def _grain_field(seed: int, step: int, side_px: int) -> Float32[Tensor, "3 side side"]:
    """One field a step, since drawing a picture's worth for every row is slow; micro-batches share it."""
    # The highest word of the counter keeps this stream apart from that of the rows.
    philox = np.random.Philox(key=[seed, step], counter=[0, 0, 0, 1])
    return torch.from_numpy(np.random.Generator(philox).standard_normal((3, side_px, side_px), np.float32))


def _crop_to_augmented(
    config: AugmentConfig, draws: _Draws, mirrored: Bool[np.ndarray, " rows"], size_px: int
) -> Float[np.ndarray, "rows 3 3"]:
    """Rotation and zoom around the crop's centre, then the flip, then the shift."""
    scale = (1 + config.scale) ** draws.signed("scale")
    linear = scale[:, None, None] * _rotations(config.rotation_deg * draws.signed("rotation"))
    linear[mirrored, 0] *= -1
    shift = np.stack([draws.signed("translation_x"), draws.signed("translation_y")], 1)
    center = np.full(2, (size_px - 1) / 2)
    matrix = np.tile(np.eye(3), (len(linear), 1, 1))
    matrix[:, :2, :2] = linear
    matrix[:, :2, 2] = center - linear @ center + config.translation * size_px * shift
    return matrix


def _rotations(angle_deg: Rows) -> Float[np.ndarray, "rows 2 2"]:
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)], 1)


def _change_some(
    config: AugmentConfig,
    draws: _Draws,
    images: Images,
    decision: str,
    probability: float,
    change: Callable[[Images, AugmentConfig, _Draws], Images],
) -> Images:
    """Change the rows that chance picks, in place and at no cost for the others."""
    chosen = draws[decision] < probability
    if chosen.any():
        rows = upload(np.flatnonzero(chosen), images.device)
        changed = change(images.index_select(0, rows), config, replace(draws, numbers=draws.numbers[chosen]))
        images.index_copy_(0, rows, changed)
    return images


def _per_picture(values: Rows, images: Images) -> Float32[Tensor, "rows 1 1 1"]:
    return upload(values, images.device)[:, None, None, None]


def _blur(images: Images, config: AugmentConfig, draws: _Draws) -> Images:
    sigma_px = config.blur_sigma_px * (0.2 + 0.8 * draws["blur"])
    kernel_side = 2 * math.ceil(3 * config.blur_sigma_px) + 1
    return gaussian_blur2d(images, kernel_side, upload(np.stack([sigma_px, sigma_px], 1), images.device))


def _add_noise(images: Images, config: AugmentConfig, draws: _Draws) -> Images:
    """Before the colour, as in a camera, so that a grey picture has grey noise."""
    std = _per_picture(config.noise_std * draws["noise"], images)
    return (images + std * draws.grain(images.shape[-1], images.device)).clamp_(0, 1)


_LUMA = np.array([0.299, 0.587, 0.114])
_YIQ_FROM_RGB = np.array([_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
"""Luma and two axes of colour. Source: FCC, NTSC standard for colour television, 1953."""
_RGB_FROM_YIQ = np.linalg.inv(_YIQ_FROM_RGB)


def _recolour(images: Images, config: AugmentConfig, draws: _Draws) -> Images:
    """Brightness, contrast, saturation, hue and grey as one matrix a picture."""
    strengths = (config.brightness, config.contrast, config.saturation, config.hue_deg)
    if not any(strengths) and not config.grey_probability:
        return images
    brightness = 1 + config.brightness * draws.signed("brightness")
    contrast = 1 + config.contrast * draws.signed("contrast")
    gain = (brightness * contrast)[:, None, None] * _chroma_gain(config, draws)
    # Contrast leaves the mean luma alone, a grey, which saturation and hue leave alone too.
    mean_luma = (images.mean((2, 3), keepdim=True) * upload(_LUMA[:, None, None], images.device)).sum(1, True)
    images = torch.einsum("bij,bjhw->bihw", upload(gain, images.device), images)
    return images.add_(mean_luma * _per_picture(brightness * (1 - contrast), images)).clamp_(0, 1)


def _chroma_gain(config: AugmentConfig, draws: _Draws) -> Float[np.ndarray, "rows 3 3"]:
    """Saturation as a stretch and hue as a turn of the two axes of colour; luma stays."""
    saturation = 1 + config.saturation * draws.signed("saturation")
    saturation[draws["is_grey"] < config.grey_probability] = 0
    in_yiq = np.tile(np.eye(3), (len(saturation), 1, 1))
    in_yiq[:, 1:, 1:] = saturation[:, None, None] * _rotations(config.hue_deg * draws.signed("hue"))
    return _RGB_FROM_YIQ @ in_yiq @ _YIQ_FROM_RGB


def _change_tone(images: Images, config: AugmentConfig, draws: _Draws) -> Images:
    exponent = (1 + config.gamma) ** draws.signed("gamma")
    return adjust_gamma(images, upload(exponent, images.device))


def _compress(images: Images, config: AugmentConfig, draws: _Draws) -> Images:
    quality = config.jpeg_quality_min + (95 - config.jpeg_quality_min) * draws["quality"]
    # Kornia looks at the quality before it moves it to the device, so it stays on the CPU.
    return jpeg_codec_differentiable(images, torch.from_numpy(quality).float())


def _occlude(images: Images, config: AugmentConfig, draws: _Draws) -> Images:
    """A third each: black, one colour, one colour with grain."""
    size_px = images.shape[-1]
    inside_x = upload(_span(config, draws["width"], draws["left"], size_px), images.device)
    inside_y = upload(_span(config, draws["height"], draws["top"], size_px), images.device)
    colour = np.stack([draws["red"], draws["green"], draws["blue"]], 1)
    colour[draws["fill"] < 1 / 3] = 0
    roughness = _per_picture(np.where(draws["fill"] < 2 / 3, 0.0, 0.2), images)
    cover = upload(colour, images.device)[:, :, None, None] + roughness * draws.grain(size_px, images.device)
    return torch.where(inside_x[:, None, None, :] & inside_y[:, None, :, None], cover.clamp_(0, 1), images)


def _span(config: AugmentConfig, length: Rows, start: Rows, size_px: int) -> Bool[np.ndarray, "rows size"]:
    """Which pixels of one axis each row's rectangle covers; it lies within the crop."""
    low, high = config.occlusion_side_min, config.occlusion_side_max
    length_px = np.maximum(1, np.round((low + (high - low) * length) * size_px))
    first = np.floor(start * (size_px - length_px + 1))
    from_first = np.arange(size_px) - first[:, None]
    return (from_first >= 0) & (from_first < length_px[:, None])
