"""Samples by their places in a split, over the edges of shards, of our own shards and of others'."""

from pathlib import Path

import numpy as np
import pytest
from test_index import folder as folder  # a fixture
from test_index import index_both

from flm.bench.predict.setting import known_faces
from flm.data.split_samples import samples_at
from flm.data.store import open_store
from flm.errors import InputError


def test_samples_come_in_the_order_that_is_asked_for(data):
    places = np.array([39, 0, 16, 15, 0])
    samples = list(samples_at(open_store(data), "train", places))
    assert [sample.key for sample in samples] == [f"train_{place:04d}" for place in places]
    assert list(samples_at(open_store(data), "validation", np.array([], dtype=np.int64))) == []


def test_a_split_that_there_is_not_is_told(data):
    with pytest.raises(InputError, match="no split 'test'"):
        next(samples_at(open_store(data), "test", np.array([0])))


def test_shards_of_someone_else_are_read_too(folder: Path):
    index_both(folder)
    (sample,) = samples_at(open_store(folder), "validation", np.array([5]))
    assert sample.crop_shard.shape == (64, 64, 3)
    assert len(known_faces(str(folder), "train", 4)) == 4
