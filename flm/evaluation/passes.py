"""The landmarks of a batch, from one look at each face or several."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from flm.data.batches import CropShape
from flm.data.crops import AugmentedBatch, crop_plainly, upload
from flm.data.samples import Batch
from flm.faces.upright import place_of
from flm.geometry import square_crops, transform_points, unit_to_crop
from flm.inference.pass_config import ONE_PASS, PassConfig
from flm.landmarks import LandmarkScheme
from flm.model.heads import NetworkOutput


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Found:
    """What a network found in a batch."""

    output: NetworkOutput
    """Of the last look, as the network gave it: not averaged with the mirrored picture's."""
    crops: AugmentedBatch
    """What it was shown last."""
    landmarks_shard: Float64[Tensor, "batch points 2"]
    """Px of the stored crop, on the CPU; averaged where that was asked for."""
    covariance_shard: Float64[Tensor, "batch points 2 2"] | None = None
    """Px², likewise, but of the last look at the picture as it is; None for networks without maps."""


def find_landmarks(
    network: nn.Module,
    batch: Batch,
    *,
    crop: CropShape,
    passes: PassConfig = ONE_PASS,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Found:
    """Find the landmarks of each face, in one look or two.

    Args:
        network: from images (batch, 3, size, size) in [0, 1] to a `NetworkOutput`; in evaluation mode.
        batch: on the network's device.
        crop: the network's view of a face, for the box of the second look.
        passes: how often it looks.
        autocast: entered around each forward pass, for mixed precision.
    """
    found = _look(network, batch, crop.size_px, passes.mirror_average, autocast)
    if not passes.second_pass:
        return found
    again = cut_around_landmarks(batch, found.landmarks_shard, crop)
    return _look(network, again, crop.size_px, passes.mirror_average, autocast)


def cut_around_landmarks(
    batch: Batch, landmarks_shard: Float64[Tensor, "batch points 2"], crop: CropShape
) -> Batch:
    """The batch cut out around landmarks that were found in it.

    Args:
        batch: on any device.
        landmarks_shard: px of the stored crop, on the CPU. Faces whose landmarks are not finite, or all in
            one place, keep their view.
        crop: the network's view of a face.
    """
    places = [place_of(landmarks, batch.scheme) for landmarks in landmarks_shard.numpy()]
    cut = [np.eye(3) if place is None else place.crop(crop.size_px, crop.margin) for place in places]
    return cut_by(batch, np.stack(cut), np.array([place is not None for place in places]))


def cut_around(
    batch: Batch,
    left_top: Float[np.ndarray, "batch 2"],
    sides: Float[np.ndarray, "batch 2"],
    rows: np.ndarray,
    crop: CropShape,
) -> Batch:
    """The batch with other boxes around some of its faces.

    Args:
        batch: on any device.
        left_top: of the boxes, px of the stored crop.
        sides: width and height of each.
        rows: whose boxes they are; the others keep their view.
        crop: the network's view of a face.
    """
    return cut_by(batch, square_crops(left_top, sides, crop.size_px, crop.margin), rows)


def cut_by(batch: Batch, shard_to_crop: Float[np.ndarray, "batch 3 3"], rows: np.ndarray) -> Batch:
    """The batch with other views of some of its faces.

    Args:
        batch: on any device.
        shard_to_crop: from the stored crop to what the network sees.
        rows: whose views they are; the others keep theirs.
    """
    device = batch.shard_to_crop.device
    cut, chosen = upload(shard_to_crop, device), upload(rows, device)
    return replace(batch, shard_to_crop=torch.where(chosen[:, None, None], cut, batch.shard_to_crop))


def _look(
    network: nn.Module,
    batch: Batch,
    size_px: int,
    mirror_average: bool,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Found:
    crops = crop_plainly(batch, size_px=size_px)
    with autocast():
        output = network(crops.images)
        landmarks_unit = output.landmarks_unit
        if mirror_average:
            of_mirrored = network(crops.images.flip(-1)).landmarks_unit
            landmarks_unit = (landmarks_unit + _mirrored(of_mirrored, batch.scheme)) / 2
    crop_to_shard = torch.linalg.inv(crops.shard_to_crop.cpu().double())
    covariance_shard = None
    if output.covariance_unit is not None:
        turn = (crop_to_shard[:, :2, :2] * size_px)[:, None]
        covariance_shard = turn @ output.covariance_unit.cpu().double() @ turn.mT
    return Found(
        output=output,
        crops=crops,
        landmarks_shard=transform_points(unit_to_crop(landmarks_unit.cpu().double(), size_px), crop_to_shard),
        covariance_shard=covariance_shard,
    )


def _mirrored(
    landmarks_unit: Float[Tensor, "batch points 2"], scheme: LandmarkScheme
) -> Float[Tensor, "batch points 2"]:
    x, y = landmarks_unit[:, list(scheme.mirror_permutation)].unbind(dim=-1)
    return torch.stack([1 - x, y], dim=-1)
