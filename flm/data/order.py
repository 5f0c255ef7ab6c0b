"""Which sample comes when: pure functions of (shard sizes, seed), the same on every process.

A run reads one epoch after another without a seam: position p of the run is position p mod N of epoch
p // N, and global batch t is the positions t·B … (t + 1)·B - 1. Nothing here knows of processes or workers,
which only choose the rows they read. So every epoch holds each sample once, all processes make equally many
steps, and going on at step t, on any number of processes, is arithmetic.

Inside an epoch the shards are permuted, cut into windows of a few shards, and the samples of a window are
permuted together, so that a process touches only a few shards at a time. Memory grows with the number of
shards, never with the number of samples.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Int64

T = TypeVar("T")

_SHARDS, _SAMPLES = 0, 1
"""The two uses of randomness; they key the generators apart."""

REMEMBERED_WINDOWS = 4
"""A batch touches at most the end of one window and the start of the next, also where an epoch turns."""


class RunOrder:
    """The order in which a training run sees its samples.

    Args:
        shard_sizes: samples of each shard, in the manifest's order.
        seed: of the run.
        window_shards: how many shards are mixed with each other.
    """

    def __init__(self, shard_sizes: Int64[np.ndarray, " shards"], *, seed: int, window_shards: int) -> None:
        self.shard_sizes = shard_sizes
        self.num_samples = int(shard_sizes.sum())
        self.seed = seed
        self.window_shards = window_shards
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], Int64[np.ndarray, "samples 2"]] = OrderedDict()

    def locate(self, start: int, stop: int) -> Int64[np.ndarray, "samples 2"]:
        """Shard number and place in that shard, for the positions start … stop - 1 of the run."""
        parts = []
        while start < stop:
            epoch, place = divmod(start, self.num_samples)
            count = min(stop - start, self.num_samples - place)
            parts.append(self._locate_in_epoch(epoch, place, place + count))
            start += count
        return np.concatenate(parts) if parts else np.empty((0, 2), np.int64)

    def _locate_in_epoch(self, epoch: int, start: int, stop: int) -> Int64[np.ndarray, "samples 2"]:
        shards = _remembered(self._epochs, epoch, 2, lambda: _Epoch(self, epoch))
        parts = []
        while start < stop:
            window = int(np.searchsorted(shards.window_ends, start, side="right"))
            key = (epoch, window)
            samples = _remembered(self._windows, key, REMEMBERED_WINDOWS, lambda w=window: shards.window(w))
            end = int(shards.window_ends[window])
            first = end - len(samples)
            parts.append(samples[start - first : min(stop, end) - first])
            start = min(stop, end)
        return np.concatenate(parts)


class _Epoch:
    """The permuted shards of one epoch and where their windows end."""

    def __init__(self, run: RunOrder, epoch: int) -> None:
        self.run = run
        self.epoch = epoch
        self.shards = _generator(run.seed, _SHARDS, epoch, 0).permutation(len(run.shard_sizes))
        ends = np.cumsum(run.shard_sizes[self.shards])
        last_of_window = np.arange(
            run.window_shards - 1, len(ends) + run.window_shards - 1, run.window_shards
        )
        self.window_ends = ends[np.minimum(last_of_window, len(ends) - 1)]

    def window(self, window: int) -> Int64[np.ndarray, "samples 2"]:
        first = window * self.run.window_shards
        shards = self.shards[first : first + self.run.window_shards]
        sizes = self.run.shard_sizes[shards]
        first_of_shard = np.repeat(np.cumsum(sizes) - sizes, sizes)
        place = np.arange(len(first_of_shard)) - first_of_shard
        samples = np.stack([np.repeat(shards, sizes), place], axis=1)
        return _generator(self.run.seed, _SAMPLES, self.epoch, window).permutation(samples, axis=0)


def _generator(seed: int, use: int, epoch: int, window: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, use, epoch, window])))


def _remembered(memory: OrderedDict, key: object, most: int, make: Callable[[], T]) -> T:
    """The value of a key, made when it is new; the one least recently asked for makes room."""
    if key not in memory:
        memory[key] = make()
        if len(memory) > most:
            memory.popitem(last=False)
    memory.move_to_end(key)
    return memory[key]


def locate_in_split(
    shard_sizes: Int64[np.ndarray, " shards"], positions: Int64[np.ndarray, " samples"]
) -> Int64[np.ndarray, "samples 2"]:
    """Shard number and place in that shard, for positions in the unshuffled split (evaluation)."""
    ends = np.cumsum(shard_sizes)
    shards = np.searchsorted(ends, positions, side="right")
    return np.stack([shards, positions - (ends - shard_sizes)[shards]], axis=1).astype(np.int64)


def rows_of_process(batch_size: int, process: int, num_processes: int) -> range:
    """The rows of a global batch that a process reads.

    Raises:
        ValueError: the processes cannot share the batch equally.
    """
    if batch_size % num_processes:
        raise ValueError(f"a global batch of {batch_size} cannot be shared by {num_processes} processes")
    rows = batch_size // num_processes
    return range(process * rows, (process + 1) * rows)


def evaluation_positions(
    num_samples: int, rows: range, batch_size: int, step: int
) -> tuple[Int64[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
    """Positions in the split that a process reads in one step of an evaluation, and which of them count.

    The last step is filled up with repetitions of the last sample, so that all processes make equally many
    steps on equal shapes; those rows are not valid.
    """
    positions = step * batch_size + np.arange(rows.start, rows.stop)
    valid = positions < num_samples
    return np.minimum(positions, num_samples - 1), valid
