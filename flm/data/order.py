"""Which sample comes when: pure functions of (shard sizes, seed), the same on every process.

A run reads one epoch after another without a seam: position p of the run is position p mod N of epoch
p // N, and global batch t is the positions t·B … (t + 1)·B - 1. Nothing here knows of processes or workers,
which only choose the rows they read. So every epoch holds each sample once, all processes make equally many
steps, and going on at step t, on any number of processes, is arithmetic.

Inside an epoch the shards are permuted and laid end to end. That line of samples is cut into as many equal
parts as there are lanes, and position p of the run takes its sample from lane p mod lanes. A lane reads its
part window by window: the samples of a few consecutive shards, permuted together. The rows of a batch stand
lane by lane, so that a process with a share of them, where the lanes are a multiple of the processes, touches
only the shards of its own lanes. Memory grows with the number of shards, never with the number of samples.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Int64

T = TypeVar("T")

_SHARDS, _SAMPLES = 0, 1
"""The two uses of randomness; they key the generators apart."""


class RunOrder:
    """The order in which a training run sees its samples.

    Args:
        shard_sizes: samples of each shard, in the manifest's order.
        seed: of the run, not negative.
        window_shards: how many shards are mixed with each other.
        lanes: independent readers; another number is another order.
    """

    def __init__(
        self, shard_sizes: Int64[np.ndarray, " shards"], *, seed: int, window_shards: int, lanes: int = 1
    ) -> None:
        self.shard_sizes = shard_sizes
        self.num_samples = int(shard_sizes.sum())
        self.seed = seed
        self.window_shards = window_shards
        self.lanes = lanes
        # A batch touches at most the end of one epoch and the start of the next, and in each lane the end of
        # one window and the start of the next.
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int, int], Int64[np.ndarray, "samples 2"]] = OrderedDict()

    def positions(self, step: int, batch_size: int, rows: range) -> Int64[np.ndarray, " rows"]:
        """The positions of the run that rows of a global batch hold.

        Args:
            step: which global batch.
            batch_size: of the global batch, a multiple of the lanes.
            rows: of the global batch; row (lane, k), lane by lane, is position k · lanes + lane of the batch.
        """
        lane, k = np.divmod(np.arange(rows.start, rows.stop), batch_size // self.lanes)
        return step * batch_size + k * self.lanes + lane

    def locate(self, positions: Int64[np.ndarray, " samples"]) -> Int64[np.ndarray, "samples 2"]:
        """Shard number and place in that shard, for positions of the run."""
        found = np.empty((len(positions), 2), np.int64)
        lane_of = positions % self.lanes
        epoch_of, place = np.divmod(positions, self.num_samples)
        for epoch, lane in sorted(set(zip(epoch_of.tolist(), lane_of.tolist(), strict=True))):
            chosen = (epoch_of == epoch) & (lane_of == lane)
            found[chosen] = self._locate_in_lane(epoch, lane, place[chosen])
        return found

    def shards_between(self, start: int, stop: int, lanes: Collection[int] | None = None) -> list[int]:
        """The shards of the windows that positions start … stop - 1 of the run are read from, soonest first.

        Only of some lanes if they are given. Takes time with the windows and lanes that are touched, not with
        the samples.
        """
        shards: dict[int, None] = {}
        for epoch in range(start // self.num_samples, -(-stop // self.num_samples)):
            line, origin = self._epoch(epoch), epoch * self.num_samples
            first, last = max(start - origin, 0), min(stop - origin, self.num_samples) - 1
            for lane in range(self.lanes) if lanes is None else lanes:
                # The first and the last place of this lane between the two.
                mine = np.array(
                    [first + (lane - origin - first) % self.lanes, last - (origin + last - lane) % self.lanes]
                )
                if mine[0] <= mine[1]:
                    shards.update(dict.fromkeys(line.shards_along(*line.along(lane, mine).tolist())))
        return list(shards)

    def _locate_in_lane(
        self, epoch: int, lane: int, place: Int64[np.ndarray, " samples"]
    ) -> Int64[np.ndarray, "samples 2"]:
        line = self._epoch(epoch)
        along = line.along(lane, place)
        found = np.empty((len(place), 2), np.int64)
        windows = np.searchsorted(line.window_ends, along, side="right")
        for window in np.unique(windows).tolist():
            samples, start = self._window(line, lane, window)
            chosen = windows == window
            found[chosen] = samples[along[chosen] - start]
        return found

    def _epoch(self, epoch: int) -> "_Epoch":
        return _remembered(self._epochs, epoch, 2, lambda: _Epoch(self, epoch))

    def _window(self, line: "_Epoch", lane: int, window: int) -> tuple[Int64[np.ndarray, "samples 2"], int]:
        """The samples of a window that belong to a lane, permuted, and where along the line they start."""
        start, stop = line.window_in_lane(lane, window)
        key = (line.epoch, lane, window)
        samples = _remembered(
            self._windows, key, 2 * self.lanes + 2, lambda: line.permuted(lane, window, start, stop)
        )
        return samples, start


class _Epoch:
    """The permuted shards of one epoch laid end to end, and where windows and lanes lie on that line."""

    def __init__(self, run: RunOrder, epoch: int) -> None:
        self.run = run
        self.epoch = epoch
        self.shards = self._generator(_SHARDS, 0, 0).permutation(len(run.shard_sizes))
        sizes = run.shard_sizes[self.shards]
        self.ends = np.cumsum(sizes)
        self.starts = self.ends - sizes
        last_shards = np.arange(0, len(sizes), run.window_shards) + run.window_shards - 1
        self.window_ends = self.ends[np.minimum(last_shards, len(sizes) - 1)]
        # How many positions of this epoch fall to each lane: the epoch begins in the middle of the lanes
        # where the one before did not fill them evenly.
        lanes = np.arange(run.lanes)
        self.first_place = (lanes - epoch * run.num_samples) % run.lanes
        counts = np.maximum(0, -(-(run.num_samples - self.first_place) // run.lanes))
        self.lane_ends = np.cumsum(counts)
        self.lane_starts = self.lane_ends - counts

    def along(self, lane: int, place: Int64[np.ndarray, " samples"]) -> Int64[np.ndarray, " samples"]:
        """Where on the line places of the epoch, all of one lane, lie before windows are permuted."""
        return self.lane_starts[lane] + (place - self.first_place[lane]) // self.run.lanes

    def window_in_lane(self, lane: int, window: int) -> tuple[int, int]:
        """Where the part of a window that belongs to a lane starts and stops on the line."""
        window_start = int(self.window_ends[window - 1]) if window else 0
        start = max(window_start, int(self.lane_starts[lane]))
        return start, min(int(self.window_ends[window]), int(self.lane_ends[lane]))

    def shards_along(self, first: int, last: int) -> list[int]:
        """The numbers of the shards in the windows that two points of the line and those between lie in."""
        windows = np.searchsorted(self.window_ends, [first, last], side="right")
        return self.shards[
            windows[0] * self.run.window_shards : (windows[1] + 1) * self.run.window_shards
        ].tolist()

    def permuted(self, lane: int, window: int, start: int, stop: int) -> Int64[np.ndarray, "samples 2"]:
        """Shard and place of the samples start … stop - 1 of the line, permuted."""
        line = np.arange(start, stop)
        at = np.searchsorted(self.ends, line, side="right")
        samples = np.stack([self.shards[at], line - self.starts[at]], axis=1)
        return self._generator(_SAMPLES, lane, window).permutation(samples, axis=0)

    def _generator(self, use: int, lane: int, window: int) -> np.random.Generator:
        key = [self.run.seed, use, self.epoch, lane, window]
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


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
