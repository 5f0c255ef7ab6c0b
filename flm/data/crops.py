"""The model's input out of stored crops, where they lie: pixels and landmarks through one matrix."""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from flm.data.samples import Batch
from flm.geometry import crop_to_unit, transform_points


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentedBatch:
    """What the model is trained or evaluated on, on the device of the batch it came from."""

    images: Float32[Tensor, "batch 3 size size"]
    """RGB in [0, 1], black where the stored crop ends; channels_last from `augment` and `crop_plainly`."""
    landmarks_unit: Float32[Tensor, "batch points 2"]
    """Outside [0, 1] where the crop cuts the face."""
    shard_to_crop: Float32[Tensor, "batch 3 3"]
    """With the augmentation; mirrored rows have a negative determinant."""
    mirrored: Bool[Tensor, " batch"]
    valid: Bool[Tensor, " batch"]


def crop_plainly(batch: Batch, *, size_px: int) -> AugmentedBatch:
    """The crops as evaluation takes them: the base matrices, nothing changed.

    Args:
        batch: stored crops; `batch.shard_to_crop` leads to crops of this size.
        size_px: side of the model's input.
    """
    identity = np.tile(np.eye(3), (len(batch), 1, 1))
    cut = cut_crops(batch, identity, np.zeros(len(batch), np.bool_), size_px=size_px)
    return replace(cut, images=cut.images.contiguous(memory_format=torch.channels_last))


def cut_crops(
    batch: Batch,
    crop_to_augmented: Float[np.ndarray, "batch 3 3"],
    mirrored: Bool[np.ndarray, " batch"],
    *,
    size_px: int,
) -> AugmentedBatch:
    """The crops with one more matrix a row after the base matrix, resampled once.

    Args:
        batch: stored crops; `batch.shard_to_crop` leads to crops of this size.
        crop_to_augmented: affine, px of the base crop to px of the model's input.
        mirrored: the rows whose matrix flips; their left and right landmarks are swapped.
        size_px: side of the model's input.
    """
    device = batch.crops_shard.device
    last = upload(crop_to_augmented, device)
    # Spelled out, since a matmul may round px to TF32 or bfloat16.
    shard_to_crop = (last[:, :, :, None] * batch.shard_to_crop[:, None]).sum(2)
    landmarks_crop = transform_points(batch.landmarks_shard, shard_to_crop)
    permutation = upload(np.array(batch.scheme.mirror_permutation), device)
    swapped = landmarks_crop.index_select(1, permutation)
    is_mirrored = upload(mirrored, device)
    landmarks_crop = torch.where(is_mirrored[:, None, None], swapped, landmarks_crop)
    return AugmentedBatch(
        images=_warp(batch.crops_shard, shard_to_crop, size_px),
        landmarks_unit=crop_to_unit(landmarks_crop, size_px),
        shard_to_crop=shard_to_crop,
        mirrored=is_mirrored,
        valid=batch.valid,
    )


def upload(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Numbers of the CPU on the device, without waiting for it; float64 becomes float32."""
    tensor = torch.as_tensor(values)
    if tensor.dtype == torch.float64:
        tensor = tensor.float()
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


_CPU_PIECE_BYTES = 6 * 2**20
"""Crops made float at a time on a CPU: pieces that stay in the cache were measured 4 to 8 times as quick as
the whole batch."""


def _warp(
    crops: UInt8[Tensor, "batch 3 height width"],
    shard_to_crop: Float32[Tensor, "batch 3 3"],
    size_px: int,
) -> Float32[Tensor, "batch 3 size size"]:
    """Sample bilinearly, in [0, 1]; black outside the stored crop."""
    rows, _, height, width = crops.shape
    # Shards are cut so that a model's crop shows half to all of a stored one. Where the stored one is much
    # larger, whole blocks are averaged first, or fine texture would alias. The shapes decide, and so the same
    # for all rows: the matrices would have to be fetched from the device.
    block = max(1, round(min(height, width) / (2 * size_px)))
    grid = _sampling_grid(shard_to_crop, size_px, (width // block * block, height // block * block))
    on_cpu = crops.device.type == "cpu"
    piece = max(1, _CPU_PIECE_BYTES // (3 * 4 * height * width)) if on_cpu else rows
    images = torch.empty((rows, 3, size_px, size_px), device=crops.device)
    for start in range(0, rows, piece):
        part = slice(start, start + piece)
        source = crops[part].float()
        if block > 1:
            source = F.avg_pool2d(source, block)
        images[part] = F.grid_sample(source, grid[part], padding_mode="zeros", align_corners=False)
    return images.div_(255)


def _sampling_grid(
    shard_to_crop: Float32[Tensor, "batch 3 3"], size_px: int, extent_px: tuple[int, int]
) -> Float32[Tensor, "batch size size 2"]:
    """Where each pixel of the crop lies in the stored crop, whose edges are -1 and 1."""
    # The inverse in closed form: torch.linalg.inv looks for singular matrices and so waits for the device.
    (a, b, x), (c, d, y) = shard_to_crop[:, :2].permute(1, 2, 0)
    inverse = (
        torch.stack([d, c.neg(), b.neg(), a, b * y - d * x, c * x - a * y], 1) / (a * d - b * c)[:, None]
    )
    scale = upload(2 / np.array(extent_px), inverse.device)
    to_x, to_y, shift = (inverse.reshape(-1, 3, 2) * scale).unbind(1)
    shift = shift + scale / 2 - 1
    pixels = torch.arange(size_px, device=scale.device, dtype=scale.dtype)
    along_x = to_x[:, :, None] * pixels + shift[:, :, None]
    along_y = to_y[:, :, None] * pixels
    return (along_x[:, :, None, :] + along_y[:, :, :, None]).permute(0, 2, 3, 1)
