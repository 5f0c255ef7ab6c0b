"""Samples that cannot be used: a run stops at the first, or goes on with others and says so."""

import dataclasses
import tarfile
from pathlib import Path

import pytest
import torch
from tiny_runs import tiny

from flm.data.loader import CropShape, LoaderConfig, ProcessPlace, evaluation_batches, training_batches
from flm.data.store import open_store
from flm.errors import InputError
from flm.train import train

CROP = CropShape(size_px=32, margin=0.1)
LENIENT = LoaderConfig(num_workers=0, window_shards=2, max_bad_samples=3)
STRICT = dataclasses.replace(LENIENT, max_bad_samples=0)
BAD = ("train_0002", "train_0003", "train_0007")


def spoil(folder: Path, *keys: str) -> None:
    """Change a byte in the JSON of samples, whose shards hold eight each."""
    for key in keys:
        split, number = key.split("_")
        path = folder / f"{split}-{int(number) // 8:06d}.tar"
        with tarfile.open(path) as tar:
            place = tar.getmember(f"{key}.json").offset_data
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"!")


@pytest.fixture
def data(make_shards, tmp_path):
    make_shards(tmp_path, {"train": 24, "validation": 6})
    spoil(tmp_path, *BAD)
    return tmp_path


def read(data: Path, config: LoaderConfig, steps: range = range(4), place: ProcessPlace | None = None):
    return list(
        training_batches(
            open_store(data),
            config,
            CROP,
            steps=steps,
            batch_size=12,
            seed=0,
            place=place or ProcessPlace(),
        )
    )


def test_a_run_stops_at_the_first_bad_sample(data):
    with pytest.raises(InputError, match=r"train-000000\.tar: sample 'train_000[237]'") as caught:
        read(data, STRICT)
    assert "\n" not in str(caught.value)
    assert "--loader.max-bad-samples" in str(caught.value)


def test_the_next_good_sample_of_the_shard_stands_in(data, tmp_path_factory, make_shards):
    whole = tmp_path_factory.mktemp("whole")
    make_shards(whole, {"train": 24, "validation": 6})
    stand_in = {"train_0002": "train_0004", "train_0003": "train_0004", "train_0007": "train_0000"}
    expected = read(whole, STRICT)
    batches = read(data, LENIENT)
    for batch, good in zip(batches, expected, strict=True):
        assert batch.keys == tuple(stand_in.get(key, key) for key in good.keys)
        met = {key for key in good.keys if key in stand_in}
        assert {name.removeprefix("train-000000.tar: ") for name in batch.bad_samples} >= met
        rows = [row for row, key in enumerate(good.keys) if key not in stand_in]
        assert torch.equal(batch.crops_shard[rows], good.crops_shard[rows])
        assert good.bad_samples == ()
    assert {name for batch in batches for name in batch.bad_samples} == {
        f"train-000000.tar: {key}" for key in BAD
    }


@pytest.mark.parametrize("processes", [2, 3])
def test_the_same_samples_stand_in_on_any_number_of_processes(data, processes):
    one = [batch.keys for batch in read(data, LENIENT)]
    shares = [
        read(data, LENIENT, place=ProcessPlace(process=process, num_processes=processes))
        for process in range(processes)
    ]
    assert [sum((part.keys for part in parts), ()) for parts in zip(*shares, strict=True)] == one


def test_more_bad_samples_than_allowed_stop_the_run(data):
    spoil(data, "train_0012")
    with pytest.raises(InputError) as caught:
        read(data, LENIENT)
    told = str(caught.value)
    assert told.startswith("4 samples cannot be used, --loader.max-bad-samples is 3: ")
    for key in (*BAD, "train_0012"):
        assert key in told


def test_workers_count_together(data):
    spoil(data, "train_0012")
    with pytest.raises(InputError, match="4 samples cannot be used"):
        read(data, dataclasses.replace(LENIENT, num_workers=2))


def test_a_sample_counts_once_however_often_it_is_met(data):
    assert len(read(data, LENIENT, range(20))) == 20


def test_a_shard_without_a_good_sample_stops_the_run(data):
    spoil(data, *(f"train_{i:04d}" for i in range(8) if f"train_{i:04d}" not in BAD))
    with pytest.raises(InputError, match=r"train-000000\.tar: sample"):
        read(data, dataclasses.replace(LENIENT, max_bad_samples=50))


def test_an_evaluation_never_goes_on_without_a_sample(data):
    spoil(data, "validation_0004")
    batches = evaluation_batches(
        open_store(data), LENIENT, CROP, split="validation", batch_size=6, place=ProcessPlace()
    )
    with pytest.raises(InputError, match=r"validation-000000\.tar: sample 'validation_0004'"):
        list(batches)


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match=r"--loader\.max-bad-samples is -1"):
        LoaderConfig(max_bad_samples=-1)


@pytest.mark.usefixtures("fresh_accelerator")
def test_the_run_tells_them_at_its_end(data, tmp_path, capsys):
    train(tiny(data, tmp_path / "run", steps=3, eval_batch_size=6, loader=LENIENT))
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("3 samples could not be used, and others were trained on in their place: ")
    for key in BAD:
        assert f"train-000000.tar: {key}" in last
