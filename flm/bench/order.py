"""The order of a run over a billion faces: how soon it is there, and how soon any place of it."""

import time

import numpy as np

from flm.bench.figures import OURS, Bar, Figure
from flm.bench.measure import medians
from flm.data.order import RunOrder

SHARDS = 1_000_000
FACES_A_SHARD = 1_000
WINDOW_SHARDS = 16
LANES = 32
BATCH_SIZE = 4096
PLACES = 200
REPETITIONS = 3

START_BAR, PLACE_BAR = Bar("at least", 0.5), Bar("at least", 1000.0)


def bench_order() -> list[Figure]:
    """Measure on this machine."""
    start_s, batch_s, far_s = medians((_start_s, _batch_s, _far_s), REPETITIONS)
    shared = f"{SHARDS:,} shards of {FACES_A_SHARD:,} faces, {LANES} lanes"
    first, in_a_row = f"until the first batch of {BATCH_SIZE} is known", f"as read, batches of {BATCH_SIZE}"
    return [
        Figure(subject=subject, side=OURS, unit="1/s", value=1 / took_s, bar=bar, how=f"{how}; {shared}")
        for subject, took_s, bar, how in (
            ("starts of the order", start_s, START_BAR, first),
            ("places in a row", batch_s, PLACE_BAR, in_a_row),
            ("places anywhere", far_s, PLACE_BAR, "at random in an epoch, one by one"),
        )
    ]


def _order() -> RunOrder:
    sizes = np.full(SHARDS, FACES_A_SHARD, np.int64)
    return RunOrder(sizes, seed=0, window_shards=WINDOW_SHARDS, lanes=LANES)


def _start_s() -> float:
    began_s = time.perf_counter()
    _order().locate(np.arange(BATCH_SIZE))
    return time.perf_counter() - began_s


def _batch_s() -> float:
    """Of one place."""
    order = _order()
    order.locate(np.arange(BATCH_SIZE))
    began_s = time.perf_counter()
    for step in range(1, 33):
        order.locate(np.arange(step * BATCH_SIZE, (step + 1) * BATCH_SIZE))
    return (time.perf_counter() - began_s) / (32 * BATCH_SIZE)


def _far_s() -> float:
    """Of one place, each in a window that was not looked at yet."""
    order = _order()
    order.locate(np.arange(BATCH_SIZE))
    places = np.random.default_rng(0).integers(0, order.num_samples, PLACES)
    began_s = time.perf_counter()
    for place in places:
        order.locate(np.array([place]))
    return (time.perf_counter() - began_s) / PLACES
