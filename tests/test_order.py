"""Properties of the order, over shard sizes, seeds, windows, batches and processes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flm.data.order import RunOrder, evaluation_positions, locate_in_split, rows_of_process

shard_sizes = st.lists(st.integers(1, 12), min_size=1, max_size=12).map(lambda s: np.array(s, np.int64))
seeds = st.integers(0, 2**31)
windows = st.integers(1, 5)


def all_samples(sizes: np.ndarray) -> list[tuple[int, int]]:
    return sorted((shard, place) for shard, size in enumerate(sizes) for place in range(size))


def located(order: RunOrder, start: int, stop: int) -> list[tuple[int, int]]:
    return [(int(shard), int(place)) for shard, place in order.locate(start, stop)]


@given(sizes=shard_sizes, seed=seeds, window=windows, epoch=st.integers(0, 3))
def test_every_epoch_holds_each_sample_once(sizes, seed, window, epoch):
    order = RunOrder(sizes, seed=seed, window_shards=window)
    total = int(sizes.sum())
    assert sorted(located(order, epoch * total, (epoch + 1) * total)) == all_samples(sizes)


@given(sizes=shard_sizes, seed=seeds, window=windows, data=st.data())
def test_a_slice_is_a_part_of_the_whole_however_it_is_asked_for(sizes, seed, window, data):
    total = int(sizes.sum())
    whole = located(RunOrder(sizes, seed=seed, window_shards=window), 0, 3 * total)
    start = data.draw(st.integers(0, 3 * total))
    stop = data.draw(st.integers(start, 3 * total))
    assert located(RunOrder(sizes, seed=seed, window_shards=window), start, stop) == whole[start:stop]


@given(
    sizes=shard_sizes,
    seed=seeds,
    rows=st.integers(1, 4),
    processes=st.sampled_from([1, 2, 3, 4]),
    step=st.integers(0, 9),
)
def test_processes_share_the_same_global_batch(sizes, seed, rows, processes, step):
    batch = rows * 12
    one = RunOrder(sizes, seed=seed, window_shards=2).locate(step * batch, (step + 1) * batch)
    order = RunOrder(sizes, seed=seed, window_shards=2)
    shares = []
    for process in range(processes):
        mine = rows_of_process(batch, process, processes)
        assert len(mine) == batch // processes
        shares.append(order.locate(step * batch + mine.start, step * batch + mine.stop))
    assert np.array_equal(np.concatenate(shares), one)


def test_epochs_and_seeds_differ():
    sizes = np.full(10, 100, np.int64)
    first, second = (
        located(RunOrder(sizes, seed=0, window_shards=4), e * 1000, (e + 1) * 1000) for e in (0, 1)
    )
    other = located(RunOrder(sizes, seed=1, window_shards=4), 0, 1000)
    assert first != second
    assert first != other


def test_samples_of_a_window_are_mixed_and_a_window_touches_few_shards():
    sizes = np.full(32, 50, np.int64)
    shards = RunOrder(sizes, seed=3, window_shards=4).locate(0, 200)[:, 0]
    assert len(set(shards.tolist())) == 4
    # Were they read one shard after another, 3 of 199 neighbours would differ.
    assert np.mean(shards[1:] != shards[:-1]) > 0.5


def test_a_batch_that_no_number_of_processes_shares_is_refused():
    with pytest.raises(ValueError, match="10 cannot be shared by 4"):
        rows_of_process(10, 0, 4)


@given(sizes=shard_sizes, rows=st.integers(1, 4), processes=st.sampled_from([1, 2, 3]))
@settings(deadline=None)
def test_an_evaluation_counts_each_sample_once_in_equal_steps(sizes, rows, processes):
    total, batch = int(sizes.sum()), rows * processes
    counted = []
    for process in range(processes):
        mine = rows_of_process(batch, process, processes)
        for step in range(-(-total // batch)):
            positions, valid = evaluation_positions(total, mine, batch, step)
            assert len(positions) == rows
            counted += [tuple(place) for place in locate_in_split(sizes, positions)[valid].tolist()]
    assert sorted(counted) == all_samples(sizes)
