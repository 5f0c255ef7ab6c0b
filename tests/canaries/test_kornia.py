"""What flm.augment takes for granted of Kornia."""

import cv2
import numpy as np
import torch
from kornia.augmentation import AugmentationSequential, RandomHorizontalFlip
from kornia.enhance import adjust_gamma, jpeg_codec_differentiable
from kornia.filters import gaussian_blur2d
from kornia.geometry.transform import warp_affine
from torch import Tensor


def textured(rows: int, side: int) -> Tensor:
    coarse = torch.rand((rows, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)


def test_blur_takes_a_sigma_for_each_picture() -> None:
    images = torch.zeros(3, 3, 41, 41)
    images[:, :, 20, 20] = 1
    sigma = torch.tensor([0.8, 1.2, 2.0])
    profile = gaussian_blur2d(images, 15, sigma[:, None].expand(3, 2))[:, 0].sum(1)
    measured = (profile * (torch.arange(41.0) - 20) ** 2).sum(1).sqrt()
    torch.testing.assert_close(measured, sigma, rtol=0.02, atol=0.02)


def test_gamma_takes_an_exponent_for_each_picture() -> None:
    images = torch.full((2, 3, 4, 4), 0.5)
    out = adjust_gamma(images, torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(out[:, 0, 0, 0], torch.tensor([0.5, 0.25]))


def test_jpeg_is_near_a_real_codec_at_each_quality_and_any_size() -> None:
    images = (textured(3, 75) * 255).round() / 255
    qualities = torch.tensor([10.0, 50.0, 90.0])
    out = jpeg_codec_differentiable(images, qualities)
    assert out.shape == images.shape
    for row, quality in enumerate(qualities):
        bgr = (images[row].permute(1, 2, 0).numpy()[:, :, ::-1] * 255).round().astype(np.uint8)
        options = [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
        decoded = np.asarray(cv2.imdecode(cv2.imencode(".jpg", bgr, options)[1], cv2.IMREAD_COLOR))
        real = torch.from_numpy(decoded[:, :, ::-1].copy()).permute(2, 0, 1) / 255
        apart = (out[row] - real).square().mean().sqrt()
        harm = (real - images[row]).square().mean().sqrt()
        assert apart < 0.6 * harm + 0.01


def test_jpeg_stays_between_0_and_1() -> None:
    """So nothing is clamped after it."""
    black_and_white = (textured(8, 64) > 0.5).float()
    out = jpeg_codec_differentiable(black_and_white, torch.full((8,), 20.0))
    assert out.min() >= 0
    assert out.max() <= 1


def test_a_warp_by_kornia_is_our_warp() -> None:
    """Ours takes a fifth less time and no matrix inverse that waits for the device."""
    from flm.augment import AugmentConfig, augment
    from flm.data.samples import Batch
    from flm.landmarks import IBUG_68

    crops = (textured(6, 128) * 255).round().to(torch.uint8)
    batch = Batch(
        crops_shard=crops,
        landmarks_shard=torch.zeros(6, 68, 2),
        shard_to_crop=torch.tensor([[0.9, 0, -10], [0, 0.9, -8], [0, 0, 1]]).expand(6, 3, 3),
        valid=torch.ones(6, dtype=torch.bool),
        positions=torch.arange(6),
        first_row=0,
        step=0,
        keys=("",) * 6,
        subsets=("",) * 6,
        scheme=IBUG_68,
    )
    ours = augment(batch, AugmentConfig(rotation_deg=30.0, mirror_probability=0.5), size_px=96, seed=0)
    theirs = warp_affine(crops / 255, ours.shard_to_crop[:, :2], (96, 96), align_corners=True)
    torch.testing.assert_close(ours.images, theirs, rtol=0, atol=2e-3)


def test_a_flip_does_not_swap_left_and_right() -> None:
    """The reason that the mirror is ours."""
    flip = AugmentationSequential(RandomHorizontalFlip(p=1.0), data_keys=["input", "keypoints"])
    points = torch.tensor([[[2.0, 5.0], [12.0, 5.0]]])
    _, flipped = flip(torch.zeros(1, 3, 16, 16), points)
    assert flipped[0, 0, 0] > flipped[0, 1, 0]
