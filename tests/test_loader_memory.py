"""A long run needs no more memory and no more open files than a short one."""

import gc
import os

import pytest
from processes import family_of, open_tars, resident_mib

from flm.data.loader import CropShape, LoaderConfig, ProcessPlace, training_batches
from flm.data.store import open_store

NUM_SHARDS = 20
SAMPLES_PER_SHARD = 30
EPOCHS = 50
SETTLED = 5
"""Epochs after which everything that is kept is there: headers of all shards, buffers, caches."""

MOST_GROWTH_MIB = 5.0
"""Of each process in 45 epochs; a hundredth of a batch kept from each would be three times as much."""

MOST_OPEN_FILES = 3
BATCH_SIZE = 60
STEPS_PER_EPOCH = NUM_SHARDS * SAMPLES_PER_SHARD // BATCH_SIZE


@pytest.fixture(scope="module")
def data(make_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    faces = {"train": NUM_SHARDS * SAMPLES_PER_SHARD}
    make_shards(folder, faces, shard_size=SAMPLES_PER_SHARD, size_px=32)
    return folder


def read(data, *, workers: int, epochs: int):
    return training_batches(
        open_store(data),
        LoaderConfig(num_workers=workers, window_shards=8, max_open_files=MOST_OPEN_FILES),
        CropShape(size_px=32, margin=0.1),
        steps=range(epochs * STEPS_PER_EPOCH),
        batch_size=BATCH_SIZE,
        seed=0,
        place=ProcessPlace(),
    )


def num_open_before() -> int:
    # Other tests' loaders, in cycles of references, would otherwise be closed in the middle of this one.
    gc.collect()
    return len(open_tars(os.getpid()))


@pytest.mark.multiprocess
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_and_open_files_stay_over_fifty_epochs(data, workers):
    open_before = num_open_before()
    early: dict[int, float] = {}
    most_open = 0
    for batch in read(data, workers=workers, epochs=EPOCHS):
        family = family_of(os.getpid())
        if batch.step == SETTLED * STEPS_PER_EPOCH:
            early = {process: resident_mib(process) for process in family}
            assert len(early) >= 1 + workers
        if early:
            # Those of before are handed down to the workers.
            num_open = {process: len(open_tars(process)) - open_before for process in family}
            most_open = max(most_open, *num_open.values())
            assert workers == 0 or num_open[os.getpid()] == 0
        if batch.step == EPOCHS * STEPS_PER_EPOCH - 1:
            growth_mib = {process: resident_mib(process) - before for process, before in early.items()}
            assert max(growth_mib.values()) < MOST_GROWTH_MIB
    assert most_open == MOST_OPEN_FILES


@pytest.mark.parametrize("num_batches", [3, STEPS_PER_EPOCH])
def test_what_was_opened_is_closed_at_the_end(data, num_batches):
    before = num_open_before()
    batches = read(data, workers=0, epochs=1)
    for _ in range(num_batches):
        next(batches)
    assert len(open_tars(os.getpid())) > before
    del batches
    gc.collect()
    assert len(open_tars(os.getpid())) == before
