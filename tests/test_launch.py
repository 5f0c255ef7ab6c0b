"""What `launch/` holds works as it stands: from any folder, twice, and on bad arguments."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from conftest import REPOSITORY

QUICKSTART = REPOSITORY / "launch" / "quickstart.sh"


@pytest.mark.parametrize("script", sorted(REPOSITORY.glob("launch/*.sh")), ids=lambda path: path.name)
def test_scripts_are_whole(script):
    subprocess.run(["bash", "-n", script], check=True, timeout=20)
    if script.name != "environment.sh":
        assert os.access(script, os.X_OK)


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("launch/*.yaml")), ids=lambda path: path.name)
def test_accelerate_reads_the_files_of_machines(path):
    config = load_config_from_file(str(path))
    assert config.num_processes >= 1
    # Whatever changes the optimisation belongs to TrainConfig.
    assert not {"gradient_accumulation_steps", "dynamo_config"} & set(yaml.safe_load(path.read_text()))


def quickstart(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", QUICKSTART, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=400)


@pytest.mark.multiprocess
@pytest.mark.slow
def test_quickstart_from_another_folder_and_once_more(tmp_path):
    options = [
        "--num-faces",
        "60",
        "--data",
        "data",
        "--out",
        "run",
        "--",
        "--steps",
        "4",
        "--batch-size",
        "16",
    ]
    first = quickstart(*options, cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    run = tmp_path / "run"
    report = json.loads((run / "report.json").read_text())
    assert report["num_faces"] == 6
    assert report["nme_pct"] > 0
    for name in ("ced.png", "predictions.png", "worst.png", "config.json", "best/model.safetensors"):
        assert (run / name).stat().st_size > 1000
    assert "2 processes on cpu" in first.stdout
    assert "flm predict" in first.stdout
    again = quickstart(*options, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "steps 4 to 4" in again.stdout
    assert json.loads((run / "report.json").read_text()) == report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--nonsense"], "--nonsense is unknown"), (["--source"], "--source needs a value")],
)
def test_quickstart_tells_mistakes(tmp_path, arguments, message):
    done = quickstart(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert len(done.stderr.splitlines()) == 1


def test_quickstart_on_a_folder_that_is_no_archive(tmp_path):
    done = quickstart("--source", tmp_path, "--data", "data", "--out", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: ")
