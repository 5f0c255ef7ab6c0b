"""Batches for training and evaluation, read by PyTorch workers.

A worker makes a whole batch, the rows of one process in one global batch, so the workers' number changes
nothing but speed. Crops stay uint8; augmentation happens on the device.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch.utils.data import DataLoader, Dataset

from flm.data.manifest import Manifest
from flm.data.order import RunOrder, evaluation_positions, locate_in_split, rows_of_process
from flm.data.reader import Sample, ShardReader
from flm.data.samples import Batch
from flm.errors import InputError, OneProcessInputError
from flm.geometry import FaceBox, square_crop


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderConfig:
    """How shards are read."""

    boxes: Literal["truth", "annotation"] = "truth"
    """Which face box the crop is cut around: the landmarks' own, or the one that came with the annotation."""
    num_workers: int = 1
    """Worker processes that read and decode, for each training process; 0 reads in the training process."""
    prefetch_batches: int = 4
    """Batches that each worker keeps ready."""
    window_shards: int = 16
    """Shards whose samples are mixed with each other; larger mixes better and opens more files."""
    lanes: int = 1
    """Parts that the shards of an epoch are dealt to, a divisor of the batch; where it is a multiple of the
    number of machines, each machine reads only its own part. Another number is another order."""
    max_open_files: int = 64
    """Shards that each worker keeps open."""

    def __post_init__(self) -> None:
        for flag, value, least in (
            ("--loader.num-workers", self.num_workers, 0),
            ("--loader.prefetch-batches", self.prefetch_batches, 1),
            ("--loader.window-shards", self.window_shards, 1),
            ("--loader.lanes", self.lanes, 1),
            ("--loader.max-open-files", self.max_open_files, 1),
        ):
            if value < least:
                raise ValueError(f"{flag} is {value}, must be at least {least}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CropShape:
    """The network's view of a face: what `Batch.shard_to_crop` leads to."""

    size_px: int
    margin: float
    """Share of the box's longer side that is added on each side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessPlace:
    """Which of the training processes this is."""

    process: int = 0
    num_processes: int = 1


def training_batches(
    data: Path,
    config: LoaderConfig,
    crop: CropShape,
    *,
    steps: range,
    batch_size: int,
    seed: int,
    place: ProcessPlace,
    split: str = "train",
) -> Iterator[Batch]:
    """This process's rows of the global batches `steps` of a run, in order.

    Args:
        data: a folder of shards.
        config: how it is read.
        crop: the network's view of a face.
        steps: which global batches; `range(t, n)` goes on at step t.
        batch_size: of the global batch.
        seed: of the run's order.
        place: this process among all.
        split: which split is trained on.

    Raises:
        InputError: the split is missing or smaller than one batch; a shard or sample is bad.
    """
    manifest = Manifest.read(data)
    num_samples = sum(shard.num_samples for shard in manifest.shards_of(split))
    if num_samples < batch_size:
        raise InputError(
            f"{data}: split {split!r} has {num_samples} faces, fewer than one batch; "
            f"give --batch-size {num_samples} or less, or convert more faces"
        )
    batches = _TrainingBatches(
        _BatchReader(data, manifest, split, config, crop), batch_size=batch_size, seed=seed, place=place
    )
    return _read(batches, steps, config)


def evaluation_batches(
    data: Path,
    config: LoaderConfig,
    crop: CropShape,
    *,
    split: str,
    batch_size: int,
    place: ProcessPlace,
) -> Iterator[Batch]:
    """This process's rows of a split in order, once, padded with rows that are not valid.

    Raises:
        InputError: the split is missing or empty; a shard or sample is bad.
    """
    manifest = Manifest.read(data)
    reader = _BatchReader(data, manifest, split, config, crop)
    # A split smaller than one batch is read in one batch of its size, not padded to the full one.
    batch_size = min(batch_size, -(-reader.num_samples // place.num_processes) * place.num_processes)
    batches = _EvaluationBatches(reader, batch_size=batch_size, place=place)
    return _read(batches, range(-(-reader.num_samples // batch_size)), config)


def _read(batches: Dataset, steps: range, config: LoaderConfig) -> Iterator[Batch]:
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=steps,
        num_workers=config.num_workers,
        prefetch_factor=config.prefetch_batches if config.num_workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    for item in loader:
        # Raised inside a worker, it would come out as a page of traceback.
        if isinstance(item, InputError):
            raise item
        yield item


class _BatchReader:
    """Makes a `Batch` out of positions of a split."""

    def __init__(
        self, data: Path, manifest: Manifest, split: str, config: LoaderConfig, crop: CropShape
    ) -> None:
        shards = manifest.shards_of(split)
        self.reader = ShardReader(data, shards, max_open_files=config.max_open_files)
        self.shard_sizes = np.array([shard.num_samples for shard in shards], np.int64)
        self.num_samples = int(self.shard_sizes.sum())
        self.manifest = manifest
        self.config = config
        self.crop = crop

    def read(
        self,
        places: Int64[np.ndarray, "batch 2"],
        *,
        positions: Int64[np.ndarray, " batch"],
        valid: Sequence[bool],
        first_row: int,
        step: int,
    ) -> Batch | InputError:
        try:
            samples = [self.reader.read(int(shard), int(place)) for shard, place in places]
            return self._assemble(samples, positions, valid, first_row, step)
        except OneProcessInputError as error:
            return error

    def _assemble(
        self,
        samples: list[Sample],
        positions: Int64[np.ndarray, " batch"],
        valid: Sequence[bool],
        first_row: int,
        step: int,
    ) -> Batch:
        size = self.manifest.crop_size_px
        # The decoder's own memory format, so that a copy is one pass.
        crops = torch.empty(
            (len(samples), 3, size, size), dtype=torch.uint8, memory_format=torch.channels_last
        )
        for row, sample in enumerate(samples):
            self._check(sample)
            crops[row] = sample.crop_shard
        landmarks = np.stack([sample.record.landmarks_shard for sample in samples])
        shard_to_crop = np.stack([self._shard_to_crop(sample) for sample in samples])
        return Batch(
            crops_shard=crops,
            landmarks_shard=torch.from_numpy(landmarks.astype(np.float32)),
            shard_to_crop=torch.from_numpy(shard_to_crop.astype(np.float32)),
            valid=torch.tensor(valid, dtype=torch.bool),
            positions=torch.from_numpy(positions),
            first_row=first_row,
            step=step,
            keys=tuple(sample.key for sample in samples),
            subsets=tuple(sample.record.subset for sample in samples),
            scheme=self.manifest.landmark_scheme,
        )

    def _check(self, sample: Sample) -> None:
        """Compare a sample with what the manifest says of all of them."""
        size, scheme = self.manifest.crop_size_px, self.manifest.scheme
        height, width = sample.crop_shard.shape[1:]
        if sample.record.scheme != scheme or (height, width) != (size, size):
            raise OneProcessInputError(
                f"{self.reader.folder}: sample {sample.key!r} is {sample.record.scheme} at "
                f"{width}x{height} px, the manifest says {scheme} at {size}x{size} px; convert the data again"
            )

    def _shard_to_crop(self, sample: Sample) -> Float[np.ndarray, "3 3"]:
        record = sample.record
        if self.config.boxes == "annotation":
            box = record.face_box_image.mapped(record.image_to_shard)
        else:
            box = FaceBox.around(record.landmarks_shard)
        return square_crop(box, self.crop.size_px, self.crop.margin)


class _TrainingBatches(Dataset):
    """Item t: this process's rows of global batch t."""

    def __init__(self, reader: _BatchReader, *, batch_size: int, seed: int, place: ProcessPlace) -> None:
        self.reader = reader
        self.batch_size = batch_size
        self.rows = rows_of_process(batch_size, place.process, place.num_processes)
        config = reader.config
        self.order = RunOrder(
            reader.shard_sizes, seed=seed, window_shards=config.window_shards, lanes=config.lanes
        )

    def __getitem__(self, step: int) -> Batch | InputError:
        positions = self.order.positions(step, self.batch_size, self.rows)
        return self.reader.read(
            self.order.locate(positions),
            positions=positions,
            valid=[True] * len(positions),
            first_row=self.rows.start,
            step=step,
        )


class _EvaluationBatches(Dataset):
    """Item t: this process's rows of the t-th batch of a split."""

    def __init__(self, reader: _BatchReader, *, batch_size: int, place: ProcessPlace) -> None:
        self.reader = reader
        self.batch_size = batch_size
        self.rows = rows_of_process(batch_size, place.process, place.num_processes)

    def __getitem__(self, step: int) -> Batch | InputError:
        positions, valid = evaluation_positions(self.reader.num_samples, self.rows, self.batch_size, step)
        return self.reader.read(
            locate_in_split(self.reader.shard_sizes, positions),
            positions=positions,
            valid=valid.tolist(),
            first_row=self.rows.start,
            step=step,
        )
