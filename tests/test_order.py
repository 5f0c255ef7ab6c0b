"""Properties of the order, over shard sizes, seeds, windows, batches and processes."""

import subprocess
import sys

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
    return [(int(shard), int(place)) for shard, place in order.locate(np.arange(start, stop))]


@given(sizes=shard_sizes, seed=seeds, window=windows, epoch=st.integers(0, 3), lanes=st.integers(1, 5))
def test_every_epoch_holds_each_sample_once(sizes, seed, window, epoch, lanes):
    order = RunOrder(sizes, seed=seed, window_shards=window, lanes=lanes)
    total = int(sizes.sum())
    assert sorted(located(order, epoch * total, (epoch + 1) * total)) == all_samples(sizes)


@given(sizes=shard_sizes, seed=seeds, window=windows, lanes=st.integers(1, 3), data=st.data())
def test_a_slice_is_a_part_of_the_whole_however_it_is_asked_for(sizes, seed, window, lanes, data):
    total = int(sizes.sum())
    whole = located(RunOrder(sizes, seed=seed, window_shards=window, lanes=lanes), 0, 3 * total)
    start = data.draw(st.integers(0, 3 * total))
    stop = data.draw(st.integers(start, 3 * total))
    order = RunOrder(sizes, seed=seed, window_shards=window, lanes=lanes)
    assert located(order, start, stop) == whole[start:stop]


@given(
    sizes=shard_sizes,
    seed=seeds,
    rows=st.integers(1, 4),
    lanes=st.sampled_from([1, 2, 3, 4, 6, 12]),
    processes=st.sampled_from([1, 2, 3, 4, 8]),
    step=st.integers(0, 9),
)
def test_processes_share_the_same_global_batch(sizes, seed, rows, lanes, processes, step):
    batch = rows * 24
    one = RunOrder(sizes, seed=seed, window_shards=2, lanes=lanes)
    whole = one.locate(one.positions(step, batch, range(batch)))
    assert sorted(one.positions(step, batch, range(batch))) == list(range(step * batch, (step + 1) * batch))
    order = RunOrder(sizes, seed=seed, window_shards=2, lanes=lanes)
    shares = []
    for process in range(processes):
        mine = rows_of_process(batch, process, processes)
        assert len(mine) == batch // processes
        shares.append(order.locate(order.positions(step, batch, mine)))
    assert np.array_equal(np.concatenate(shares), whole)


@given(sizes=shard_sizes, seed=seeds, lanes=st.sampled_from([2, 4]), epoch=st.integers(0, 2))
def test_a_process_touches_only_the_shards_of_its_lanes(sizes, seed, lanes, epoch):
    order = RunOrder(sizes, seed=seed, window_shards=2, lanes=lanes)
    total = int(sizes.sum())
    positions = np.arange(epoch * total, (epoch + 1) * total)
    touched = [
        set(order.locate(positions[positions % lanes == lane])[:, 0].tolist()) for lane in range(lanes)
    ]
    # Lanes are consecutive parts of a line of shards: only a shard on a cut is touched by two.
    assert sum(map(len, touched)) <= len(sizes) + lanes - 1


@given(sizes=shard_sizes, seed=seeds, window=windows, lanes=st.integers(1, 3), data=st.data())
def test_the_shards_to_come_are_those_that_are_read(sizes, seed, window, lanes, data):
    order = RunOrder(sizes, seed=seed, window_shards=window, lanes=lanes)
    start = data.draw(st.integers(0, 2 * order.num_samples))
    stop = data.draw(st.integers(start, 3 * order.num_samples))
    read = {shard for shard, _ in located(order, start, stop)}
    announced = order.shards_between(start, stop)
    assert read <= set(announced)
    assert len(announced) == len(set(announced))
    for lane in range(lanes):
        positions = np.arange(start, stop)
        read = set(order.locate(positions[positions % lanes == lane])[:, 0].tolist())
        assert read <= set(order.shards_between(start, stop, [lane])) <= set(announced)


def test_the_order_of_a_billion_faces_begins_at_once():
    order = RunOrder(np.full(1_000_000, 1000, np.int64), seed=0, window_shards=16, lanes=32)
    found = order.locate(np.array([0, 999_999_999, 10**9, 5 * 10**9 + 7]))
    assert ((found >= 0) & (found < [1_000_000, 1000])).all()
    # What is kept are the shards of an epoch and a few windows, not samples.
    assert sum(window.nbytes for window in order._windows.values()) < 2e6


@pytest.mark.multiprocess
def test_the_order_of_a_billion_faces_takes_little_memory():
    program = """if True:
        from pathlib import Path
        import numpy as np
        from flm.data.order import RunOrder
        def peak_mb():
            return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
        before = peak_mb()
        order = RunOrder(np.full(1_000_000, 1000, np.int64), seed=0, window_shards=16, lanes=32)
        for epoch in range(4):
            order.locate(epoch * 10**9 + np.arange(4096))
        print(peak_mb() - before)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 500


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
    shards = RunOrder(sizes, seed=3, window_shards=4).locate(np.arange(200))[:, 0]
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
