"""The benchmark of training, in a small form, and the processes that its sides have."""

import dataclasses
import time
from collections.abc import Iterator

import pytest
import torch
from test_bench import photos_and_shards  # noqa: F401 - a fixture

from flm.bench.team import Step, Team
from flm.bench.train import TrainLength, measure
from flm.model.network import ModelConfig
from flm.recipes import recipe_named

pytestmark = pytest.mark.multiprocess


START_S = 3.0


def slow_steps(pause_s: float) -> Iterator[Step]:
    time.sleep(START_S)
    while True:
        time.sleep(pause_s)
        yield Step(images=torch.get_num_threads(), waited_s=pause_s / 2)


def broken(setting: str) -> Iterator[Step]:
    raise ValueError(setting)


def test_a_team_makes_the_steps_of_a_turn_and_tells_its_rate():
    with Team(slow_steps, 0.05, processes=2, threads=3) as team:
        team.wait_until_ready()
        turn = team.take_turn(4)
    # Two processes, each of three threads, four steps of 50 ms and what a busy machine adds.
    assert turn.images_per_s <= 3 * 2 / 0.05
    # The start is in no turn.
    assert 4 * 3 * 2 / turn.images_per_s < START_S
    assert 0 < turn.waited_share <= 0.5


def test_a_side_that_fails_is_no_endless_wait():
    with Team(broken, "no faces", threads=1) as team, pytest.raises(EOFError):
        team.wait_until_ready()


@pytest.mark.slow
def test_training_is_measured(photos_and_shards):  # noqa: F811
    photos, shards = photos_and_shards
    recipe = recipe_named("reference")
    small = dataclasses.replace(
        recipe,
        data=str(shards),
        batch_size=8,
        model=ModelConfig(backbone="xception_compact_slim", head="regression", input_size_px=64),
    )
    rows = measure(small, photos, TrainLength(repetitions=1, steps=2, saving_steps=3))
    assert [row.bar for row in rows] == [0.97, 0.97, 4.0, 1.8, 0.98]
    assert all(row.ours > 0 and row.peer > 0 for row in rows)
    assert rows[0].ratio <= 1
