"""Speed, waiting and time left, by a clock that a test moves."""

from collections.abc import Iterator

import pytest
import torch

from flm.training.clock import Clock


class Time:
    """A clock that a test moves."""

    now_s = 1000.0

    def perf_counter(self) -> float:
        return self.now_s


@pytest.fixture
def moved(monkeypatch) -> Time:
    moved = Time()
    monkeypatch.setattr("time.perf_counter", moved.perf_counter)
    return moved


def test_a_clock_tells_speed_waiting_and_time_left(moved):
    def batches() -> Iterator[int]:
        for number in range(3):
            moved.now_s += 0.5
            yield number
        moved.now_s += 0.25

    clock = Clock(torch.device("cpu"), 10)
    seen = []
    for batch in clock.waiting(batches()):
        seen.append(batch)
        moved.now_s += 1.5
    assert seen == [0, 1, 2]
    # 3 steps in 6.25 s, 1.75 s of it waiting.
    found = clock.read(13, steps=23, batch_size=8)
    assert found["images_per_s"] == pytest.approx(3 * 8 / 6.25)
    assert found["data_wait_pct"] == pytest.approx(100 * 1.75 / 6.25)
    assert found["eta_s"] == pytest.approx(10 * 6.25 / 3)
    assert 0.05 < found["memory_gib"] < 64


def test_a_reading_begins_anew_and_leaves_pauses_out(moved):
    clock = Clock(torch.device("cpu"), 0)
    moved.now_s += 100
    clock.read(1, steps=10, batch_size=1)
    moved.now_s += 2
    with clock.paused():
        moved.now_s += 50
    moved.now_s += 2
    found = clock.read(5, steps=10, batch_size=3)
    assert found["images_per_s"] == pytest.approx(3)
    assert found["data_wait_pct"] == 0
    assert found["eta_s"] == pytest.approx(5)
