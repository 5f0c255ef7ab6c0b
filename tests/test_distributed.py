"""Real processes, joined by gloo through `accelerate launch`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

pytestmark = pytest.mark.multiprocess

DEADLINE_S = 240


def launch(*arguments: str | Path, processes: int) -> subprocess.CompletedProcess[str]:
    """Run under `launch/cpu.yaml` with that many processes of one thread each."""
    accelerate = Path(sys.executable).with_name("accelerate")
    # Port 0 lets the system choose one, so that launches beside each other do not meet.
    options = [
        "--config_file",
        "launch/cpu.yaml",
        "--num_processes",
        str(processes),
        "--main_process_port",
        "0",
    ]
    if processes == 1:
        options = ["--cpu", "--num_processes", "1", "--num_machines", "1", "--dynamo_backend", "no"]
        options += ["--mixed_precision", "bf16"]
    return subprocess.run(
        [accelerate, "launch", *options, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


@pytest.fixture(scope="module")
def data(make_shards, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    make_shards(folder, {"train": 30, "validation": 7, "test": 11}, shard_size=8)
    return folder


def steps_of(data: Path, out: Path, processes: int, steps: int = 6) -> list[tuple[list[str], float]]:
    """Keys and loss of each global step, rows in the order of the processes."""
    out.mkdir()
    done = launch("tests/programs/print_batches.py", data, out, str(steps), processes=processes)
    assert done.returncode == 0, done.stderr
    logs = [json.loads((out / f"process{p}of{processes}.json").read_text()) for p in range(processes)]
    return [
        ([key for part in parts for key in part["keys"]], parts[0]["loss"])
        for parts in zip(*logs, strict=True)
    ]


def test_two_processes_see_the_same_samples_in_the_same_steps_as_one(data, tmp_path):
    one = steps_of(data, tmp_path / "one", 1)
    two = steps_of(data, tmp_path / "two", 2)
    assert [keys for keys, _ in one] == [keys for keys, _ in two]
    # The same weights and the same augmentation; only batch statistics are over half a batch each.
    assert one[0][1] == pytest.approx(two[0][1], rel=0.05)


def test_two_processes_train_save_and_measure_the_same_as_one(data, tmp_path):
    run = tmp_path / "run"
    fields = [
        "--steps",
        "3",
        "--batch-size",
        "8",
        "--model.input-size-px",
        "64",
        "--tracking.tracker",
        "none",
    ]
    done = launch("-m", "flm.train", "quickstart", "--data", data, "--out", run, *fields, processes=2)
    assert done.returncode == 0, done.stderr
    assert "2 processes on cpu, bf16 precision" in done.stdout
    assert done.stdout.count("step 3/3 · validation NME") == 1
    reports = []
    for processes in (1, 2, 3):
        path = tmp_path / f"{processes}.json"
        done = launch("-m", "flm", "evaluate", run, "--data", data, "--json", path, processes=processes)
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(path.read_text()))
    assert reports[0]["num_faces"] == 11
    assert reports[0] == reports[1] == reports[2]


def test_a_mistake_that_all_processes_see_is_printed_once(data):
    done = launch("-m", "flm.train", "nonsense", "--data", data, processes=2)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: recipe 'nonsense' is unknown")
