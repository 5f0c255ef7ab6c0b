"""Every geometric path is measured: dots are drawn where the landmarks are, and looked for in the output."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flm.augment import AugmentConfig, augment
from flm.data.crops import AugmentedBatch, crop_plainly
from flm.data.samples import Batch
from flm.geometry import FaceBox, square_crop, transform_points, unit_to_crop
from flm.landmarks import IBUG_68

NUM_POINTS = IBUG_68.num_points
NOTHING = AugmentConfig()
EVERYTHING = AugmentConfig(
    rotation_deg=25.0,
    scale=0.2,
    translation=0.05,
    mirror_probability=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue_deg=40.0,
    grey_probability=0.2,
    gamma_probability=0.4,
    blur_probability=0.4,
    noise_probability=0.4,
    jpeg_probability=0.4,
    occlusion_probability=0.5,
)
GEOMETRY = AugmentConfig(rotation_deg=25.0, scale=0.2, translation=0.05, mirror_probability=0.5)


def make_batch(
    crops: np.ndarray | Tensor,
    landmarks: np.ndarray | None = None,
    shard_to_crop: np.ndarray | None = None,
    step: int = 0,
) -> Batch:
    """By default the landmarks are at 0 and the model's crop is the stored crop."""
    rows = len(crops)
    if landmarks is None:
        landmarks = np.zeros((rows, NUM_POINTS, 2))
    if shard_to_crop is None:
        shard_to_crop = np.tile(np.eye(3), (rows, 1, 1))
    return Batch(
        crops_shard=torch.as_tensor(crops),
        landmarks_shard=torch.as_tensor(landmarks, dtype=torch.float32),
        shard_to_crop=torch.as_tensor(shard_to_crop, dtype=torch.float32),
        valid=torch.ones(rows, dtype=torch.bool),
        positions=torch.arange(rows),
        first_row=0,
        step=step,
        keys=tuple(str(row) for row in range(rows)),
        subsets=("test",) * rows,
        scheme=IBUG_68,
    )


def textured(rows: int, side: int, seed: int = 0) -> Tensor:
    """Soft blobs of strong colour."""
    coarse = torch.rand((rows, 3, 6, 6), generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return (fine * 255).round().to(torch.uint8)


def plain_colour(rows: int, side: int, rgb: tuple[float, float, float]) -> Tensor:
    levels = torch.tensor(rgb).mul(255).round().to(torch.uint8)
    return levels[None, :, None, None].expand(rows, 3, side, side).contiguous()


def luma(images: Tensor) -> Tensor:
    return (images * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)


# Geometry, by dots


@functools.cache
def dots(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Crops whose row r shows the landmarks 3 r, 3 r + 1, 3 r + 2 as a dot in red, green and blue."""
    rows = -(-NUM_POINTS // 3)
    rng = np.random.default_rng(side)
    radius = 0.14 * side * np.sqrt(rng.uniform(size=(rows, NUM_POINTS)))
    angle = rng.uniform(0, 2 * np.pi, (rows, NUM_POINTS))
    center = (side - 1) / 2
    landmarks = center + np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
    y, x = np.mgrid[:side, :side]
    crops = np.zeros((rows, 3, side, side), np.uint8)
    for row in range(rows):
        for channel, (dot_x, dot_y) in enumerate(landmarks[row, 3 * row : 3 * row + 3]):
            squared = (x - dot_x) ** 2 + (y - dot_y) ** 2
            crops[row, channel] = np.round(255 * np.exp(-squared / (2 * (0.01 * side) ** 2)))
    return crops, landmarks


def base_matrices(rows: int, side: int, size_px: int, seed: int) -> np.ndarray:
    """Face boxes of several sizes and places, as a loader has them."""
    rng = np.random.default_rng(seed)
    matrices = []
    for _ in range(rows):
        width, height = side * rng.uniform(0.58, 0.75), side * rng.uniform(0.4, 0.7)
        left, top = (side - width) / 2, (side - height) / 2
        shift_x, shift_y = side * rng.uniform(-0.02, 0.02, 2)
        box = FaceBox(left=left + shift_x, top=top + shift_y, width=width, height=height)
        matrices.append(square_crop(box, size_px, margin=0.0))
    return np.stack(matrices)


def largest_miss_px(out: AugmentedBatch, size_px: int) -> float:
    """How far the centroid of a dot is from its landmark at most, px of the model's input."""
    landmarks = unit_to_crop(out.landmarks_unit, size_px).numpy()
    y, x = np.mgrid[:size_px, :size_px]
    misses = []
    for point in range(NUM_POINTS):
        row, channel = divmod(point, 3)
        weights = np.clip(out.images[row, channel].numpy().astype(float) - 0.02, 0, None)
        assert weights.max() > 0.5, f"the dot of landmark {point} is not in the picture"
        centroid = np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum()
        name = IBUG_68.mirror_permutation[point] if out.mirrored[row] else point
        misses.append(np.linalg.norm(centroid - landmarks[row, name]))
    return max(misses)


@pytest.mark.parametrize("size_px", [96, 128, 192])
@pytest.mark.parametrize(
    "config",
    [
        NOTHING,
        AugmentConfig(rotation_deg=40.0),
        AugmentConfig(scale=0.2),
        AugmentConfig(translation=0.07),
        AugmentConfig(mirror_probability=1.0),
        GEOMETRY,
    ],
    ids=["nothing", "rotation", "scale", "translation", "mirror", "all together"],
)
def test_landmarks_follow_their_pixels(config: AugmentConfig, size_px: int) -> None:
    crops, landmarks = dots(256)
    batch = make_batch(crops, landmarks, base_matrices(len(crops), 256, size_px, seed=size_px))
    out = augment(batch, config, size_px=size_px, seed=7)
    assert largest_miss_px(out, size_px) < 0.1
    if config.mirror_probability == 0.5:
        assert 0 < out.mirrored.sum() < len(batch)


@pytest.mark.parametrize(("side", "size_px"), [(256, 128), (256, 200), (301, 64), (512, 128), (500, 75)])
def test_landmarks_follow_their_pixels_in_a_plain_crop(side: int, size_px: int) -> None:
    crops, landmarks = dots(side)
    batch = make_batch(crops, landmarks, base_matrices(len(crops), side, size_px, seed=side))
    out = crop_plainly(batch, size_px=size_px)
    assert largest_miss_px(out, size_px) < 0.1
    assert torch.equal(out.shard_to_crop, batch.shard_to_crop)
    assert not out.mirrored.any()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    rotation_deg=st.floats(0, 180),
    scale=st.floats(0, 0.2),
    translation=st.floats(0, 0.05),
    mirror_probability=st.floats(0, 1),
    size_px=st.integers(90, 160),
    seed=st.integers(0, 2**32),
)
def test_landmarks_follow_their_pixels_always(
    rotation_deg: float, scale: float, translation: float, mirror_probability: float, size_px: int, seed: int
) -> None:
    crops, landmarks = dots(256)
    batch = make_batch(crops, landmarks, base_matrices(len(crops), 256, size_px, seed=seed))
    config = AugmentConfig(
        rotation_deg=rotation_deg,
        scale=scale,
        translation=translation,
        mirror_probability=mirror_probability,
    )
    out = augment(batch, config, size_px=size_px, seed=seed)
    assert largest_miss_px(out, size_px) < 0.1


def test_the_matrix_is_the_one_the_landmarks_took() -> None:
    crops, landmarks = dots(256)
    batch = make_batch(crops, landmarks, base_matrices(len(crops), 256, 128, seed=0))
    out = augment(batch, GEOMETRY, size_px=128, seed=3)
    moved = transform_points(batch.landmarks_shard, out.shard_to_crop)
    named = torch.where(out.mirrored[:, None, None], moved[:, list(IBUG_68.mirror_permutation)], moved)
    torch.testing.assert_close(unit_to_crop(out.landmarks_unit, 128), named, rtol=0, atol=1e-3)
    assert torch.equal(torch.linalg.det(out.shard_to_crop) < 0, out.mirrored)


def test_geometry_stays_within_its_strengths_and_uses_them() -> None:
    rows = 2000
    batch = make_batch(torch.zeros((rows, 3, 16, 16), dtype=torch.uint8))
    config = AugmentConfig(rotation_deg=20.0, scale=0.25, translation=0.1)
    matrices = augment(batch, config, size_px=16, seed=5).shard_to_crop.double().numpy()
    angle_deg = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    scale = np.sqrt(np.linalg.det(matrices[:, :2, :2]))
    center = np.array([7.5, 7.5, 1.0])
    shift = ((matrices @ center)[:, :2] - 7.5) / 16
    assert angle_deg.min() == pytest.approx(-20, abs=0.2)
    assert angle_deg.max() == pytest.approx(20, abs=0.2)
    assert scale.min() == pytest.approx(1 / 1.25, abs=0.005)
    assert scale.max() == pytest.approx(1.25, abs=0.005)
    assert np.abs(shift).max() == pytest.approx(0.1, abs=0.001)
    assert np.abs(angle_deg).mean() == pytest.approx(10, abs=0.5)
    assert np.abs(np.corrcoef(np.stack([angle_deg, scale, *shift.T])) - np.eye(4)).max() < 0.1


def test_a_mirrored_left_eye_is_the_right_eye() -> None:
    rng = np.random.default_rng(0)
    landmarks = rng.uniform(40, 216, (4, NUM_POINTS, 2))
    landmarks[:, 36] = (80.3, 100.6)
    landmarks[:, 45] = (170.2, 110.1)
    y, x = np.mgrid[:256, :256]
    crops = np.full((4, 3, 256, 256), 90, np.uint8)
    for point, colour in ((36, (255, 0, 0)), (45, (0, 0, 255))):
        disc = np.hypot(x - landmarks[0, point, 0], y - landmarks[0, point, 1]) < 9
        crops[:, :, disc] = np.array(colour, np.uint8)[None, :, None]
    batch = make_batch(crops, landmarks, base_matrices(4, 256, 128, seed=1))

    def colour_under(out: AugmentedBatch, point: int) -> Tensor:
        columns, rows = unit_to_crop(out.landmarks_unit[:, point], 128).round().long().unbind(1)
        return out.images[torch.arange(4), :, rows, columns]

    plain = crop_plainly(batch, size_px=128)
    mirrored = augment(batch, AugmentConfig(mirror_probability=1.0), size_px=128, seed=0)
    red, blue = torch.tensor([1.0, 0, 0]).expand(4, 3), torch.tensor([0, 0, 1.0]).expand(4, 3)
    torch.testing.assert_close(colour_under(plain, 36), red)
    torch.testing.assert_close(colour_under(plain, 45), blue)
    torch.testing.assert_close(colour_under(mirrored, 36), blue)
    torch.testing.assert_close(colour_under(mirrored, 45), red)
    assert (mirrored.landmarks_unit[:, 36, 0] < mirrored.landmarks_unit[:, 45, 0]).all()


def test_mirror_twice_is_the_identity() -> None:
    crops, landmarks = dots(256)
    batch = make_batch(crops, landmarks, base_matrices(len(crops), 256, 128, seed=0))
    plain = crop_plainly(batch, size_px=128)
    config = AugmentConfig(mirror_probability=1.0)
    once = augment(batch, config, size_px=128, seed=0)
    assert (once.images - plain.images).abs().max() > 0.5
    torch.testing.assert_close(once.images, plain.images.flip(3), rtol=0, atol=1e-4)
    again = make_batch(
        (once.images * 255).round().to(torch.uint8), unit_to_crop(once.landmarks_unit, 128).numpy()
    )
    twice = augment(again, config, size_px=128, seed=0)
    torch.testing.assert_close(twice.images, plain.images, rtol=0, atol=0.51 / 255)
    torch.testing.assert_close(twice.landmarks_unit, plain.landmarks_unit, rtol=0, atol=1e-6)


def test_outside_the_stored_crop_is_black() -> None:
    shrunk = np.array([[[0.5, 0, 32], [0, 0.5, 32], [0, 0, 1]]])
    out = crop_plainly(make_batch(plain_colour(1, 128, (1, 1, 1)), shard_to_crop=shrunk), size_px=128)
    assert (out.images[0, :, 34:94, 34:94] == 1).all()
    outside = torch.ones(128, 128, dtype=torch.bool)
    outside[31:97, 31:97] = False
    assert (out.images[0, :, outside] == 0).all()


def test_fine_texture_of_a_much_larger_stored_crop_does_not_alias() -> None:
    y, x = np.mgrid[:512, :512]
    crops = np.repeat(((x + y) % 2 * 255).astype(np.uint8)[None, None], 3, axis=1)
    half = np.array([[[0.47, 0, -60.0], [0, 0.47, -60.0], [0, 0, 1]]])
    out = crop_plainly(make_batch(crops, shard_to_crop=half), size_px=128)
    torch.testing.assert_close(out.images, torch.full_like(out.images, 0.5), rtol=0, atol=1e-5)


# Chance


def same(a: AugmentedBatch, b: AugmentedBatch) -> bool:
    return all(torch.equal(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))


def joined(parts: list[AugmentedBatch]) -> AugmentedBatch:
    names = [field.name for field in dataclasses.fields(AugmentedBatch)]
    return AugmentedBatch(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def faces(rows: int = 24, side: int = 128, step: int = 4) -> Batch:
    landmarks = np.random.default_rng(1).uniform(30, 98, (rows, NUM_POINTS, 2))
    return make_batch(textured(rows, side), landmarks, base_matrices(rows, side, 96, seed=2), step=step)


@pytest.mark.parametrize("rows", [1, 5, 8, 12])
def test_rows_are_the_same_however_the_global_batch_is_split(rows: int) -> None:
    whole = augment(faces(), EVERYTHING, size_px=96, seed=9)
    parts = joined([augment(part, EVERYTHING, size_px=96, seed=9) for part in faces().split(rows)])
    assert torch.equal(parts.landmarks_unit, whole.landmarks_unit)
    assert torch.equal(parts.shard_to_crop, whole.shard_to_crop)
    assert torch.equal(parts.mirrored, whole.mirrored)
    torch.testing.assert_close(parts.images, whole.images, rtol=0, atol=1e-6)


def test_the_same_seed_and_step_give_the_same_and_others_do_not() -> None:
    first = augment(faces(), EVERYTHING, size_px=96, seed=9)
    assert same(first, augment(faces(), EVERYTHING, size_px=96, seed=9))
    for other in (
        augment(faces(), EVERYTHING, size_px=96, seed=10),
        augment(faces(step=5), EVERYTHING, size_px=96, seed=9),
    ):
        differs = (other.shard_to_crop - first.shard_to_crop).abs().amax((1, 2)) > 1e-4
        assert differs.all()
    rows = first.shard_to_crop - faces().shard_to_crop
    assert len(torch.unique(rows[:, 0, 1])) == len(rows)


def test_the_noise_of_other_steps_and_rows_is_other_noise() -> None:
    config = AugmentConfig(noise_probability=1.0, noise_std=0.1)
    batch = make_batch(plain_colour(8, 96, (0.5, 0.5, 0.5)))

    def noise(step: int, seed: int) -> Tensor:
        noisy = augment(dataclasses.replace(batch, step=step), config, size_px=96, seed=seed).images
        return noisy - crop_plainly(batch, size_px=96).images

    first, others = noise(0, 0), [noise(1, 0), noise(0, 1)]
    assert (torch.corrcoef(first.flatten(1)) - torch.eye(8)).abs().max() < 0.1

    def best_overlap(other: Tensor) -> float:
        """The correlation of two rows where one is shifted to fit the other best."""
        a, b = (torch.fft.fft2(rows[:, 0], s=(192, 192)) for rows in (first, other))
        shifted = torch.fft.ifft2(a[:, None] * b[None].conj()).real.amax((2, 3))
        norms = first[:, None, 0].norm(dim=(2, 3)) * other[None, :, 0].norm(dim=(2, 3))
        return float((shifted / norms)[~torch.eye(8, dtype=torch.bool)].max())

    # Rows of one step take their windows from one field, so they do overlap; other steps have other fields.
    assert best_overlap(first) > 0.3
    assert max(best_overlap(other) for other in others) < 0.15


def test_no_strength_is_the_plain_crop_exactly() -> None:
    assert same(augment(faces(), NOTHING, size_px=96, seed=0), crop_plainly(faces(), size_px=96))


def test_turning_one_thing_on_leaves_the_other_draws_alone() -> None:
    geometry = augment(faces(), GEOMETRY, size_px=96, seed=3)
    both = dataclasses.replace(GEOMETRY, noise_probability=1.0, occlusion_probability=1.0)
    with_more = augment(faces(), both, size_px=96, seed=3)
    assert torch.equal(with_more.landmarks_unit, geometry.landmarks_unit)
    assert not torch.equal(with_more.images, geometry.images)


@pytest.mark.parametrize("name", ["grey", "gamma", "blur", "noise", "jpeg", "occlusion"])
@pytest.mark.parametrize("probability", [0.1, 0.6])
def test_probabilities_are_the_share_of_pictures_touched(name: str, probability: float) -> None:
    rows = 1000
    batch = make_batch(textured(rows, 24))
    out = augment(batch, AugmentConfig(**{f"{name}_probability": probability}), size_px=24, seed=0)
    touched = ((out.images - crop_plainly(batch, size_px=24).images).abs().amax((1, 2, 3)) > 1e-6).sum()
    spread = (probability * (1 - probability) / rows) ** 0.5
    assert touched / rows == pytest.approx(probability, abs=4 * spread)


def test_mirror_probability_is_the_share_of_mirrored_rows() -> None:
    batch = make_batch(torch.zeros((4000, 3, 8, 8), dtype=torch.uint8))
    out = augment(batch, AugmentConfig(mirror_probability=0.3), size_px=8, seed=0)
    assert out.mirrored.float().mean() == pytest.approx(0.3, abs=0.03)


# Pixels


@pytest.mark.parametrize(
    "config",
    [
        EVERYTHING,
        AugmentConfig(brightness=1.0, contrast=1.0, saturation=1.0, hue_deg=180.0),
        AugmentConfig(noise_probability=1.0, noise_std=1.0, gamma_probability=1.0, gamma=4.0),
        AugmentConfig(jpeg_probability=1.0, jpeg_quality_min=1.0, blur_probability=1.0, blur_sigma_px=6.0),
        AugmentConfig(occlusion_probability=1.0, occlusion_side_min=0.01, occlusion_side_max=1.0),
    ],
)
@pytest.mark.parametrize("size_px", [64, 75])
def test_images_are_floats_from_0_to_1(config: AugmentConfig, size_px: int) -> None:
    crops = textured(32, 80)
    crops[::4] = (crops[::4] > 127) * 255
    out = augment(make_batch(crops), config, size_px=size_px, seed=1)
    assert out.images.shape == (32, 3, size_px, size_px)
    assert out.images.dtype == torch.float32
    assert out.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.isfinite(out.images).all()
    assert out.images.min() >= 0
    assert out.images.max() <= 1


def test_brightness_is_a_factor() -> None:
    batch = make_batch(plain_colour(500, 8, (0.2, 0.4, 0.6)))
    out = augment(batch, AugmentConfig(brightness=0.3), size_px=8, seed=0).images
    factors = out / crop_plainly(batch, size_px=8).images
    assert factors.flatten(1).std(1).max() < 1e-5
    assert factors.min() == pytest.approx(0.7, abs=0.01)
    assert factors.max() == pytest.approx(1.3, abs=0.01)


def muted(rows: int = 64, side: int = 32) -> Batch:
    """Pictures that no colour operation drives out of [0, 1]."""
    return make_batch((textured(rows, side).float() * 0.3 + 90).round().to(torch.uint8))


@pytest.mark.parametrize("config", [AugmentConfig(hue_deg=180.0), AugmentConfig(saturation=0.8)])
def test_hue_and_saturation_keep_luma(config: AugmentConfig) -> None:
    plain = crop_plainly(muted(), size_px=32).images
    out = augment(muted(), config, size_px=32, seed=0).images
    assert (out - plain).abs().amax((1, 2, 3)).median() > 0.05
    torch.testing.assert_close(luma(out), luma(plain), rtol=0, atol=1e-5)


def test_a_hue_of_half_a_turn_leads_to_the_opposite_colour() -> None:
    batch = make_batch(plain_colour(300, 8, (0.6, 0.4, 0.4)))
    out = augment(batch, AugmentConfig(hue_deg=180.0), size_px=8, seed=0).images[:, :, 4, 4]
    plain = crop_plainly(batch, size_px=8).images[0, :, 4, 4]
    grey = luma(plain[None, :, None, None]).squeeze()
    opposite = 2 * grey - plain
    assert (out - opposite).norm(dim=1).min() < 0.01
    assert (out - plain).norm(dim=1).min() < 0.01


def test_contrast_keeps_the_mean_luma_and_scales_the_rest() -> None:
    plain = crop_plainly(muted(), size_px=32).images
    out = augment(muted(), AugmentConfig(contrast=0.5), size_px=32, seed=0).images
    torch.testing.assert_close(luma(out).mean((1, 2)), luma(plain).mean((1, 2)), rtol=0, atol=1e-5)
    stretch = luma(out).std((1, 2)) / luma(plain).std((1, 2))
    assert stretch.min() == pytest.approx(0.5, abs=0.05)
    assert stretch.max() == pytest.approx(1.5, abs=0.05)


def test_grey_pictures_have_equal_channels_and_their_luma() -> None:
    config = AugmentConfig(grey_probability=1.0, noise_probability=1.0, saturation=0.5, hue_deg=90.0)
    out = augment(muted(), config, size_px=32, seed=0).images
    assert (out.amax(1) - out.amin(1)).max() < 1e-6
    quiet = augment(muted(), AugmentConfig(grey_probability=1.0), size_px=32, seed=0).images
    torch.testing.assert_close(quiet[:, 0], luma(crop_plainly(muted(), size_px=32).images), rtol=0, atol=1e-5)


def test_gamma_is_an_exponent() -> None:
    batch = make_batch(plain_colour(500, 8, (0.2, 0.4, 0.6)))
    plain = crop_plainly(batch, size_px=8).images
    out = augment(batch, AugmentConfig(gamma_probability=1.0, gamma=0.6), size_px=8, seed=0).images
    exponents = out.log() / plain.log()
    assert exponents.flatten(1).std(1).max() < 1e-4
    assert exponents.min() == pytest.approx(1 / 1.6, abs=0.01)
    assert exponents.max() == pytest.approx(1.6, abs=0.01)


def test_blur_widens_a_dot_by_its_sigma() -> None:
    crops = np.zeros((200, 3, 65, 65), np.uint8)
    crops[:, :, 32, 32] = 255
    config = AugmentConfig(blur_probability=1.0, blur_sigma_px=2.0)
    out = augment(make_batch(crops), config, size_px=65, seed=0).images.double().numpy()
    along = np.arange(65) - 32
    profile = out[:, 1].sum(1)
    assert profile.sum(1) == pytest.approx(1, abs=1e-4)
    sigma = np.sqrt((profile * along**2).sum(1))
    # A Gaussian of 0.4 px sampled at whole pixels has a spread of 0.28.
    assert sigma.min() == pytest.approx(0.28, abs=0.03)
    assert sigma.max() == pytest.approx(2, abs=0.05)


def test_noise_has_the_stated_strength() -> None:
    batch = make_batch(plain_colour(200, 64, (0.5, 0.5, 0.5)))
    config = AugmentConfig(noise_probability=1.0, noise_std=0.1)
    noise = augment(batch, config, size_px=64, seed=0).images - crop_plainly(batch, size_px=64).images
    std = noise.flatten(1).std(1)
    assert std.min() < 0.005
    assert std.max() == pytest.approx(0.1, abs=0.005)
    assert std.mean() == pytest.approx(0.05, abs=0.008)
    assert noise.mean().abs() < 1e-3


def test_stronger_jpeg_does_more_harm() -> None:
    batch = make_batch(textured(40, 80))
    plain = crop_plainly(batch, size_px=80).images

    def harm(quality_min: float) -> float:
        config = AugmentConfig(jpeg_probability=1.0, jpeg_quality_min=quality_min)
        return float((augment(batch, config, size_px=80, seed=0).images - plain).square().mean().sqrt())

    assert 0.001 < harm(95.0) < 0.5 * harm(1.0) < 0.05


@pytest.mark.parametrize(("low", "high"), [(0.3, 0.3), (0.1, 0.4)])
def test_occlusion_covers_one_rectangle_of_the_stated_size(low: float, high: float) -> None:
    landmarks = np.random.default_rng(0).uniform(0, 100, (300, NUM_POINTS, 2))
    batch = make_batch(plain_colour(300, 100, (0.31, 0.52, 0.73)), landmarks)
    config = AugmentConfig(occlusion_probability=1.0, occlusion_side_min=low, occlusion_side_max=high)
    out = augment(batch, config, size_px=100, seed=0)
    plain = crop_plainly(batch, size_px=100)
    assert torch.equal(out.landmarks_unit, plain.landmarks_unit)
    covered = ((out.images - plain.images).abs() > 1e-6).any(1)
    widths, heights = covered.any(1).sum(1), covered.any(2).sum(1)
    assert torch.equal(covered.sum((1, 2)), widths * heights)
    for sides in (widths / 100, heights / 100):
        assert low - 0.005 <= sides.min() <= low + 0.01
        assert high - 0.01 <= sides.max() <= high + 0.005
    ever = covered.any(0)
    assert ever[0].any(), "no rectangle touches the top"
    assert ever[:, -1].any(), "no rectangle touches the right side"
    rough = torch.stack([out.images[row, :, covered[row]].std(1).max() for row in range(300)]) > 1e-4
    black = torch.stack([out.images[row, :, covered[row]].max() for row in range(300)]) == 0
    assert rough.float().mean() == pytest.approx(1 / 3, abs=0.1)
    assert black.float().mean() == pytest.approx(1 / 3, abs=0.1)


# Places it runs in


def test_autocast_changes_nothing() -> None:
    plain = augment(faces(), EVERYTHING, size_px=96, seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(augment(faces(), EVERYTHING, size_px=96, seed=0), plain)
        assert same(crop_plainly(faces(), size_px=96), augment(faces(), NOTHING, size_px=96, seed=0))


def test_inference_mode_changes_nothing() -> None:
    plain = augment(faces(), EVERYTHING, size_px=96, seed=0)
    with torch.inference_mode():
        assert same(augment(faces(), EVERYTHING, size_px=96, seed=0), plain)


def test_the_memory_format_of_the_stored_crops_does_not_matter() -> None:
    batch = faces()
    crops = batch.crops_shard.contiguous(memory_format=torch.channels_last)
    other = dataclasses.replace(batch, crops_shard=crops)
    assert same(
        augment(other, EVERYTHING, size_px=96, seed=0), augment(batch, EVERYTHING, size_px=96, seed=0)
    )


def test_rows_that_only_pad_stay_marked() -> None:
    batch = dataclasses.replace(faces(), valid=torch.arange(24) < 20)
    assert torch.equal(crop_plainly(batch, size_px=96).valid, batch.valid)
    assert torch.equal(augment(batch, EVERYTHING, size_px=96, seed=0).valid, batch.valid)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_and_is_never_waited_for() -> None:
    on_cpu = augment(faces(), EVERYTHING, size_px=96, seed=0)
    batch = faces().to(torch.device("cuda"))
    augment(batch, EVERYTHING, size_px=96, seed=0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_gpu = augment(batch, EVERYTHING, size_px=96, seed=0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(on_gpu.landmarks_unit.cpu(), on_cpu.landmarks_unit, rtol=0, atol=1e-6)
    assert torch.equal(on_gpu.mirrored.cpu(), on_cpu.mirrored)
    difference = (on_gpu.images.cpu() - on_cpu.images).abs()
    # JPEG rounds, so that a last bit of difference before it can become a step of its table.
    assert difference.mean() < 1e-3
    uncompressed = dataclasses.replace(EVERYTHING, jpeg_probability=0.0)
    torch.testing.assert_close(
        augment(batch, uncompressed, size_px=96, seed=0).images.cpu(),
        augment(faces(), uncompressed, size_px=96, seed=0).images,
        rtol=0,
        atol=5e-3,
    )


# Configuration


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rotation_deg": 200.0}, r"--augment\.rotation-deg is 200\.0, must be between 0 and 180"),
        ({"scale": -0.1}, r"--augment\.scale is -0\.1"),
        ({"translation": 0.7}, r"--augment\.translation is 0\.7, must be between 0 and 0\.5"),
        ({"mirror_probability": 1.5}, r"--augment\.mirror-probability is 1\.5, must be between 0 and 1"),
        ({"brightness": float("nan")}, r"--augment\.brightness is nan"),
        ({"hue_deg": -1.0}, r"--augment\.hue-deg is -1\.0"),
        ({"gamma": -0.2}, r"--augment\.gamma is -0\.2"),
        ({"blur_sigma_px": 0.0}, r"--augment\.blur-sigma-px is 0\.0, must be between 0\.1 and 10"),
        ({"jpeg_quality_min": 100.0}, r"--augment\.jpeg-quality-min is 100\.0, must be between 1 and 95"),
        (
            {"occlusion_side_min": 0.5, "occlusion_side_max": 0.2},
            r"--augment\.occlusion-side-min is 0\.5, above --augment\.occlusion-side-max 0\.2",
        ),
    ],
)
def test_a_bad_strength_is_named(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**fields)
