"""Two ways to run one network, beside each other on the same crops."""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, UInt8

from flm.checkpoint import read_config
from flm.data.crops import crop_plainly
from flm.data.loader import CropShape, LoaderConfig, ProcessPlace, evaluation_batches
from flm.data.store import ShardStore
from flm.fields import from_fields
from flm.geometry import unit_to_crop
from flm.inference.network import FaceNetwork
from flm.metrics.nme import measurable, nme

FACES_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FaceCrops:
    """Crops as a predictor cuts them out."""

    pixels: UInt8[np.ndarray, "faces size size 3"]
    landmarks_crop: Float64[np.ndarray, "faces points 2"] | None = None
    """The truth, where it is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far the landmarks of one network lie from those of the other."""

    num_crops: int
    difference_px: float
    """The largest, of any coordinate of any crop; px of the crop. Infinite where one is no number."""
    num_faces: int
    """Crops whose truth is known."""
    reference_nme_pct: float
    nme_pct: float
    """By inter-ocular distance, of the faces whose truth is known; 0 without any."""

    @property
    def nme_change_points(self) -> float:
        """By how many points of a per cent the error is larger than the reference's; negative if smaller."""
        return self.nme_pct - self.reference_nme_pct


def compare(reference: FaceNetwork, other: FaceNetwork, batches: Iterable[FaceCrops]) -> Agreement:
    """Run two networks on the same crops."""
    difference_px, num_crops = 0.0, 0
    errors: list[np.ndarray] = []
    for batch in batches:
        found = [network.find(batch.pixels).landmarks_unit for network in (reference, other)]
        apart = np.abs(found[0] - found[1]).max() * reference.input_size_px
        difference_px = max(difference_px, float(np.nan_to_num(apart, nan=np.inf)))
        num_crops += len(batch.pixels)
        if batch.landmarks_crop is not None:
            errors.append(np.stack([_nme_pct(one, batch.landmarks_crop, reference) for one in found]))
    all_errors = np.concatenate(errors, axis=1) if errors else np.zeros((2, 0))
    means = all_errors.mean(axis=1).tolist() if all_errors.size else [0.0, 0.0]
    return Agreement(
        num_crops=num_crops,
        difference_px=difference_px,
        num_faces=all_errors.shape[1],
        reference_nme_pct=means[0],
        nme_pct=means[1],
    )


def _nme_pct(landmarks_unit: np.ndarray, truth_crop: np.ndarray, network: FaceNetwork) -> np.ndarray:
    truth = torch.from_numpy(truth_crop)
    found = torch.from_numpy(unit_to_crop(landmarks_unit.astype(np.float64), network.input_size_px))
    usable = measurable(truth, network.scheme)
    return 100 * nme(found[usable], truth[usable], network.scheme).numpy()


def random_crops(size_px: int) -> FaceCrops:
    """Eight crops of noise, half of it smooth, the same each time; the side is a multiple of 16."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (8, size_px, size_px, 3)).astype(np.uint8)
    coarse = random.integers(0, 256, (4, size_px // 16, size_px // 16, 3)).astype(np.uint8)
    noise[:4] = coarse.repeat(16, axis=1).repeat(16, axis=2)
    return FaceCrops(pixels=noise)


def faces_of(
    store: ShardStore, checkpoint: Path, crop: CropShape, *, split: str, most: int
) -> Iterator[FaceCrops]:
    """The first faces of a split, cut out as in an evaluation of the checkpoint, as pixels.

    Args:
        store: the shards.
        checkpoint: says around which boxes they are cut out.
        crop: the network's view of a face.
        split: of the shards.
        most: how many faces at most.

    Raises:
        InputError: the split is missing or empty, or a sample is bad.
    """
    trained_with = from_fields(LoaderConfig, read_config(checkpoint)["loader"], str(checkpoint))
    loader = dataclasses.replace(trained_with, num_workers=0, decode="cpu")
    batches = evaluation_batches(
        store, loader, crop, split=split, batch_size=FACES_AT_ONCE, place=ProcessPlace()
    )
    left = most
    for batch in batches:
        if left <= 0:
            return
        crops = crop_plainly(batch, size_px=crop.size_px)
        rows = crops.valid.nonzero().flatten()[:left]
        left -= len(rows)
        pixels = (crops.images[rows] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        landmarks = unit_to_crop(crops.landmarks_unit[rows].double(), crop.size_px)
        yield FaceCrops(pixels=pixels.contiguous().numpy(), landmarks_crop=landmarks.numpy())
