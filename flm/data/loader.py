"""Batches for training and evaluation, read by PyTorch workers.

A worker makes a whole batch, the rows of one process in one global batch, so the workers' number changes
nothing but speed. Crops stay uint8; augmentation happens on the device.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from flm.data.batches import BatchReader, Boxes, CropShape
from flm.data.device_decode import decode_on
from flm.data.foreign import decoder_of
from flm.data.handover import Handover, PackedBatch
from flm.data.order import RunOrder, evaluation_positions, locate_in_split, rows_of_process
from flm.data.reader import ShardReader
from flm.data.samples import OWN_SAMPLES, Batch
from flm.data.store import ShardStore
from flm.errors import InputError, OneProcessInputError
from flm.process.signals import outlive_signals

CPU = torch.device("cpu")

WINDOWS_AHEAD = 2
"""How far a reader of a remote store looks: the next shards are fetched while these are read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderConfig:
    """How shards are read."""

    boxes: Boxes = "truth"
    """Which face box the crop is cut around: the landmarks' own, or the one that came with the annotation."""
    num_workers: int = 1
    """Worker processes that read and decode, for each training process; 0 reads in the training process."""
    decode: Literal["cpu", "gpu"] = "cpu"
    """Where JPEGs become pixels: in the workers, or by nvJPEG on each process's NVIDIA GPU, where few cores
    stand beside a quick one; its pixels differ by a rounding here and there."""
    prefetch_batches: int = 4
    """Batches that each worker keeps ready."""
    window_shards: int = 16
    """Shards whose samples are mixed with each other; larger mixes better and opens more files."""
    lanes: int = 1
    """Parts that the shards of an epoch are dealt to, a divisor of the batch; where it is a multiple of the
    number of machines, each machine reads only its own part. Another number is another order."""
    max_open_files: int = 64
    """Shards that each worker keeps open."""
    cache_dir: Path | None = None
    """Where shards of a remote --data are kept, for all processes of a machine; ~/.cache/flm if not given."""
    cache_gib: float = 50.0
    """How much of them is kept; the least recently used go first. There should be room for three windows."""
    max_bad_samples: int = 0
    """Different samples that cannot be used, and that each training process may replace by the next good one
    of their shard, since the run was last started; 0 stops at the first. An evaluation stops in any case."""

    def __post_init__(self) -> None:
        for flag, value, least in (
            ("--loader.num-workers", self.num_workers, 0),
            ("--loader.prefetch-batches", self.prefetch_batches, 1),
            ("--loader.window-shards", self.window_shards, 1),
            ("--loader.lanes", self.lanes, 1),
            ("--loader.max-open-files", self.max_open_files, 1),
            ("--loader.max-bad-samples", self.max_bad_samples, 0),
        ):
            if value < least:
                raise ValueError(f"{flag} is {value}, must be at least {least}")
        if not 0 < self.cache_gib < math.inf:
            raise ValueError(f"--loader.cache-gib is {self.cache_gib}, must be a number above 0")
        if self.decode == "gpu" and self.max_bad_samples:
            raise ValueError(
                f"--loader.decode gpu cannot replace pictures, --loader.max-bad-samples is "
                f"{self.max_bad_samples}; make it 0 or take --loader.decode cpu"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessPlace:
    """Which of the training processes this is."""

    process: int = 0
    num_processes: int = 1
    device: torch.device = CPU
    """What it computes on; batches come to the CPU but for `--loader.decode gpu`."""


def training_batches(
    store: ShardStore,
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
        store: the shards.
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
    num_samples = _num_samples(store, split)
    if num_samples < batch_size:
        raise InputError(
            f"{store.place}: split {split!r} has {num_samples} faces, fewer than one batch; "
            f"give --batch-size {num_samples} or less, or convert more faces"
        )
    rows = rows_of_process(batch_size, place.process, place.num_processes)
    handover = _handover(store, config, rows=len(rows), num_batches=len(steps))
    reader = _SplitReader(store, split, config, crop, handover, most_bad=config.max_bad_samples)
    batches = _TrainingBatches(reader, batch_size=batch_size, seed=seed, rows=rows)
    return _counting_bad_samples(_read(batches, steps, config, place.device), config.max_bad_samples)


def evaluation_batches(
    store: ShardStore,
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
    num_samples = _num_samples(store, split)
    # A split smaller than one batch is read in one batch of its size, not padded to the full one.
    batch_size = min(batch_size, -(-num_samples // place.num_processes) * place.num_processes)
    steps = range(-(-num_samples // batch_size))
    rows = rows_of_process(batch_size, place.process, place.num_processes)
    handover = _handover(store, config, rows=len(rows), num_batches=len(steps))
    # Without replacements: a score over fewer or other faces would compare with nothing.
    reader = _SplitReader(store, split, config, crop, handover, most_bad=0)
    return _read(_EvaluationBatches(reader, batch_size=batch_size, rows=rows), steps, config, place.device)


def _num_samples(store: ShardStore, split: str) -> int:
    return sum(shard.num_samples for shard in store.manifest.shards_of(split))


def _handover(store: ShardStore, config: LoaderConfig, *, rows: int, num_batches: int) -> Handover:
    size = store.manifest.crop_size_px
    # Beside those on their way: one that is written, and one that the training process holds.
    slots = min(config.prefetch_batches + 2, num_batches)
    return Handover(config.num_workers if config.decode == "cpu" else 0, slots, (rows, size, size, 3))


def _read(batches: Dataset, steps: range, config: LoaderConfig, device: torch.device) -> Iterator[Batch]:
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=steps,
        num_workers=config.num_workers,
        prefetch_factor=config.prefetch_batches if config.num_workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=outlive_signals,
    )
    for item in loader:
        # Raised inside a worker, it would come out as a page of traceback.
        if isinstance(item, InputError):
            raise item
        batch = item.unpack() if isinstance(item, PackedBatch) else item
        yield decode_on(batch, device) if batch.jpegs else batch


def _counting_bad_samples(batches: Iterator[Batch], most_bad: int) -> Iterator[Batch]:
    """The same batches, until too many samples were bad; the workers do not know of each other's."""
    bad: dict[str, None] = {}
    for batch in batches:
        bad |= dict.fromkeys(batch.bad_samples)
        if len(bad) > most_bad:
            raise OneProcessInputError(
                f"{len(bad)} samples cannot be used, --loader.max-bad-samples is {most_bad}: "
                f"{', '.join(bad)}; `python -m shards verify --repair` drops them"
            )
        yield batch


class _SplitReader:
    """Reads the batches of one split, where it lies."""

    def __init__(
        self,
        store: ShardStore,
        split: str,
        config: LoaderConfig,
        crop: CropShape,
        handover: Handover,
        *,
        most_bad: int,
    ) -> None:
        manifest = store.manifest
        shards = manifest.shards_of(split)
        decoder = decoder_of(manifest)
        if config.decode == "gpu" and decoder is not OWN_SAMPLES:
            raise InputError(
                f"{store.place}: --loader.decode gpu reads shards that `python -m shards convert` made, and "
                "these are somebody else's; take --loader.decode cpu"
            )
        self.config = config
        self.shard_sizes = np.array([shard.num_samples for shard in shards], np.int64)
        self.num_samples = int(self.shard_sizes.sum())
        self.shards = ShardReader(store, shards, max_open_files=config.max_open_files, decoder=decoder)
        self.handover = handover
        self.batches = BatchReader(
            self.shards,
            manifest,
            crop,
            boxes=config.boxes,
            most_bad=most_bad,
            make_room=handover.make_room,
            decodes=config.decode == "cpu",
        )

    def read(self, places: np.ndarray, **facts: Any) -> Batch | PackedBatch | InputError:
        """As `BatchReader.read`, ready to be handed over."""
        batch = self.batches.read(places, **facts)
        return self.handover.pack(batch) if isinstance(batch, Batch) else batch


class _TrainingBatches(Dataset):
    """Item t: this process's rows of global batch t."""

    def __init__(self, reader: _SplitReader, *, batch_size: int, seed: int, rows: range) -> None:
        self.reader = reader
        self.batch_size = batch_size
        self.rows = rows
        config = reader.config
        self.order = RunOrder(
            reader.shard_sizes, seed=seed, window_shards=config.window_shards, lanes=config.lanes
        )
        in_windows = reader.shard_sizes.mean() * config.window_shards * config.lanes
        self.ahead = min(int(WINDOWS_AHEAD * in_windows), reader.num_samples)
        self.looked_ahead = range(0)

    def __getitem__(self, step: int) -> Batch | PackedBatch | InputError:
        positions = self.order.positions(step, self.batch_size, self.rows)
        self._look_ahead(step * self.batch_size, np.unique(positions % self.order.lanes).tolist())
        return self.reader.read(
            self.order.locate(positions),
            positions=positions,
            valid=[True] * len(positions),
            first_row=self.rows.start,
            step=step,
        )

    def _look_ahead(self, start: int, lanes: list[int]) -> None:
        """Say every now and then which shards this process reads next."""
        if start not in self.looked_ahead:
            self.looked_ahead = range(start, start + max(1, self.ahead // 2))
            self.reader.shards.will_need(self.order.shards_between(start, start + self.ahead, lanes))


class _EvaluationBatches(Dataset):
    """Item t: this process's rows of the t-th batch of a split."""

    def __init__(self, reader: _SplitReader, *, batch_size: int, rows: range) -> None:
        self.reader = reader
        self.batch_size = batch_size
        self.rows = rows
        self.first_shard = -1

    def __getitem__(self, step: int) -> Batch | PackedBatch | InputError:
        positions, valid = evaluation_positions(self.reader.num_samples, self.rows, self.batch_size, step)
        places = locate_in_split(self.reader.shard_sizes, positions)
        self._look_ahead(int(places[0, 0]))
        return self.reader.read(
            places,
            positions=positions,
            valid=valid.tolist(),
            first_row=self.rows.start,
            step=step,
        )

    def _look_ahead(self, first: int) -> None:
        if first != self.first_shard:
            self.first_shard = first
            last = min(first + self.reader.config.window_shards, len(self.reader.shard_sizes))
            self.reader.shards.will_need(range(first, last))
