"""Batches: the same on any number of processes and workers, exact over an epoch, padded in evaluation."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from flm.data.loader import CropShape, LoaderConfig, ProcessPlace, evaluation_batches, training_batches
from flm.data.manifest import Manifest
from flm.data.store import open_store
from flm.errors import InputError
from flm.geometry import FaceBox, transform_points

CROP = CropShape(size_px=32, margin=0.1)
NO_WORKERS = LoaderConfig(num_workers=0, window_shards=2)


@pytest.fixture(scope="module")
def data(make_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_shards(folder, {"train": 30, "validation": 7, "test": 0}, shard_size=8)
    return folder


def train(data, steps=range(5), *, config=NO_WORKERS, place=None, batch_size=12, seed=0):
    place = place or ProcessPlace()
    return list(
        training_batches(
            open_store(data), config, CROP, steps=steps, batch_size=batch_size, seed=seed, place=place
        )
    )


def keys_of(batches):
    return [batch.keys for batch in batches]


def test_two_epochs_hold_each_face_twice(data):
    seen = Counter(key for batch in train(data) for key in batch.keys)
    assert len(seen) == 30
    assert set(seen.values()) == {2}


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_together_see_what_one_sees(data, processes):
    one = keys_of(train(data))
    shares = [
        keys_of(train(data, place=ProcessPlace(process=p, num_processes=processes))) for p in range(processes)
    ]
    together = [sum(parts, ()) for parts in zip(*shares, strict=True)]
    assert together == one


def test_workers_change_nothing(data):
    config = dataclasses.replace(NO_WORKERS, num_workers=2)
    for one, other in zip(train(data), train(data, config=config), strict=True):
        assert one.keys == other.keys
        assert torch.equal(one.crops_shard, other.crops_shard)
        assert torch.equal(one.shard_to_crop, other.shard_to_crop)


def test_going_on_is_the_tail_of_the_whole(data):
    whole = train(data)
    tail = train(data, range(3, 5))
    assert keys_of(tail) == keys_of(whole[3:])
    assert [batch.step for batch in tail] == [3, 4]
    assert tail[0].positions.tolist() == list(range(36, 48))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_an_evaluation_pads_and_marks(data, processes):
    counted = Counter()
    steps = set()
    for process in range(processes):
        place = ProcessPlace(process=process, num_processes=processes)
        batches = list(
            evaluation_batches(
                open_store(data), NO_WORKERS, CROP, split="validation", batch_size=6, place=place
            )
        )
        steps.add(len(batches))
        assert {len(batch) for batch in batches} == {6 // processes}
        for batch in batches:
            counted.update(key for key, valid in zip(batch.keys, batch.valid.tolist(), strict=True) if valid)
    assert counted == Counter({f"validation_{i:04d}": 1 for i in range(7)})
    assert len(steps) == 1


def test_a_split_smaller_than_a_batch_is_read_without_padding(data):
    batches = list(
        evaluation_batches(
            open_store(data), NO_WORKERS, CROP, split="validation", batch_size=64, place=ProcessPlace()
        )
    )
    assert [len(batch) for batch in batches] == [7]
    assert batches[0].valid.all()


@pytest.mark.parametrize("boxes", ["truth", "annotation"])
def test_the_crop_is_the_box_with_its_margin(data, boxes):
    batch = train(data, range(1), config=dataclasses.replace(NO_WORKERS, boxes=boxes))[0]
    # In the drawn faces both boxes are the same.
    for landmarks, matrix in zip(batch.landmarks_shard.double(), batch.shard_to_crop.double(), strict=True):
        box = FaceBox.around(transform_points(landmarks, matrix).numpy())
        # One px of the shard, which covers the outermost points, is scaled too.
        scale = float(matrix[0, 0])
        assert box.long_side - 1 + scale == pytest.approx(32 / 1.2, abs=1e-4)
        assert (box.center_x, box.center_y) == pytest.approx((15.5, 15.5), abs=1e-4)


def test_too_few_faces_and_empty_splits_are_told(data):
    with pytest.raises(InputError, match="has 30 faces, fewer than one batch; give --batch-size 30"):
        train(data, batch_size=31)
    with pytest.raises(InputError, match="'test' of the shards is empty"):
        list(
            evaluation_batches(
                open_store(data), NO_WORKERS, CROP, split="test", batch_size=6, place=ProcessPlace()
            )
        )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_shard_comes_out_of_a_worker_as_one_line(make_shards, tmp_path, workers):
    make_shards(tmp_path, {"train": 16})
    shard = tmp_path / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"train-000001\.tar") as caught:
        train(tmp_path, range(4), config=dataclasses.replace(NO_WORKERS, num_workers=workers))
    assert "\n" not in str(caught.value)


def test_a_crop_of_another_size_than_the_manifest_says_is_refused(make_shards, tmp_path):
    manifest = make_shards(tmp_path, {"train": 16})
    Manifest.write(dataclasses.replace(manifest, crop_size_px=96), tmp_path)
    with pytest.raises(InputError, match="64x64 px, the manifest says ibug-68 at 96x96"):
        train(tmp_path)


def test_bad_settings_name_their_flag():
    with pytest.raises(ValueError, match=r"--loader\.window-shards is 0"):
        LoaderConfig(window_shards=0)
    with pytest.raises(ValueError, match=r"--loader\.cache-gib is nan, must be a number above 0"):
        LoaderConfig(cache_gib=float("nan"))


def test_pixels_arrive_as_they_were_stored(data):
    batch = train(data, range(1))[0]
    assert batch.crops_shard.dtype == torch.uint8
    assert batch.crops_shard.shape == (12, 3, 64, 64)
    assert np.ptp(batch.crops_shard.numpy()) > 100


def test_an_epoch_that_moves_to_other_numbers_of_processes_holds_each_face_once(make_shards, tmp_path):
    make_shards(tmp_path, {"train": 72}, shard_size=8)
    seen = Counter()
    for processes, steps in ((4, range(2)), (2, range(2, 4)), (3, range(4, 6))):
        for process in range(processes):
            place = ProcessPlace(process=process, num_processes=processes)
            config = dataclasses.replace(NO_WORKERS, num_workers=process % 2)
            for batch in train(tmp_path, steps, config=config, place=place):
                assert len(batch) == 12 // processes
                seen.update(batch.keys)
    assert seen == {f"train_{i:04d}": 1 for i in range(72)}
