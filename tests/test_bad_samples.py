"""Samples that cannot be used, in a run of two processes: both go on alike, or both end."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from test_batches import BAD, spoil
from test_distributed import launch

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]


@pytest.fixture
def data(make_shards, tmp_path) -> Path:
    folder = tmp_path / "data"
    make_shards(folder, {"train": 24, "validation": 6})
    return folder


def train(data: Path, most_bad: int) -> subprocess.CompletedProcess[str]:
    words = ["-m", "flm.train", "quickstart", "--data", data, "--out", data.parent / "run", "--steps", "3"]
    words += ["--batch-size", "12", "--model.input-size-px", "64", "--tracking.tracker", "none"]
    return launch(*words, "--loader.max-bad-samples", str(most_bad), processes=2)


def batches(data: Path, processes: int) -> list[tuple[list[str], set[str]]]:
    """Of each step the keys, row by row, and the samples that could not be used."""
    out = data.parent / f"of{processes}"
    out.mkdir()
    done = launch("tests/programs/print_batches.py", data, out, "4", "3", processes=processes)
    assert done.returncode == 0, done.stderr
    logs = [json.loads((out / f"process{p}of{processes}.json").read_text()) for p in range(processes)]
    return [
        ([key for part in parts for key in part["keys"]], {name for part in parts for name in part["bad"]})
        for parts in zip(*logs, strict=True)
    ]


def test_the_same_samples_are_replaced_on_one_process_and_on_two(data):
    spoil(data, *BAD)
    one, two = batches(data, 1), batches(data, 2)
    assert one == two
    assert set().union(*(bad for _, bad in one)) == {f"train-000000.tar: {key}" for key in BAD}
    assert not {*BAD} & {key for keys, _ in one for key in keys}


def test_both_processes_end_and_the_keys_are_told_once(data):
    spoil(data, *BAD)
    done = train(data, len(BAD))
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if "could not be used" in line]
    assert len(told) == 1
    assert told[0].startswith("3 samples could not be used, and others were trained on in their place: ")
    assert all(f"train-000000.tar: {key}" in told[0] for key in BAD)


def test_one_bad_sample_ends_both_processes(data):
    """One of them meets it; the other one waits for it."""
    spoil(data, "train_0003")
    done = train(data, 0)
    assert done.returncode == 2
    *_, last = done.stderr.splitlines()
    assert re.match(r"error: .*train-000000\.tar: sample 'train_0003'.*--loader\.max-bad-samples", last)
    assert done.stderr.count("error: ") == 1
    # Nothing of the run is taken for a result.
    assert not (data.parent / "run" / "best").exists()
