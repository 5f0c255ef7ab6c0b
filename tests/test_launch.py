"""What `launch/` holds works as it stands: from any folder, twice, and on bad arguments."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from conftest import REPOSITORY
from demo_server import wait_for_page, write_network
from pages import PAGES

import flm.errors
from flm.bench.measure import free_port
from flm.command_line import parse_config
from flm.process.owners import check_flags
from flm.recipes import recipe_named

LAUNCH = REPOSITORY / "launch"
QUICKSTART = LAUNCH / "quickstart.sh"


@pytest.mark.parametrize(
    "script", sorted([*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"]), ids=lambda path: path.name
)
def test_scripts_are_whole(script):
    subprocess.run(["bash", "-n", script], check=True, timeout=20)
    if script.name != "environment.sh":
        assert os.access(script, os.X_OK)


ACCELERATE = sorted(path for path in LAUNCH.glob("*.yaml") if "distributed_type" in path.read_text())
MANIFESTS = ["kubernetes.yaml", "skypilot.yaml", "sweep.yaml"]


def read(name: str) -> Any:
    return yaml.safe_load((LAUNCH / name).read_text(encoding="utf-8"))


def test_each_yaml_is_of_accelerate_or_known():
    assert {path.name for path in ACCELERATE} | set(MANIFESTS) == {
        path.name for path in LAUNCH.glob("*.yaml")
    }
    assert len(ACCELERATE) == 5


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.name)
def test_accelerate_takes_every_line_of_its_files(path):
    given = read(path.name)
    assert load_config_from_file(str(path)).num_processes >= 1
    arguments = launch_command_parser().parse_args(
        ["--config_file", str(path), "-m", "flm.train", "quickstart"]
    )
    resolved, _, _ = _validate_launch_command(arguments)
    assert resolved.multi_gpu == (given["distributed_type"] == "MULTI_GPU")
    assert resolved.use_fsdp == (given["distributed_type"] == "FSDP")
    for name, value in {**given, **given.get("fsdp_config", {})}.items():
        # A line that a default of the command line beats, as it does rdzv_backend, would be one that lies.
        if name not in ("compute_environment", "distributed_type", "fsdp_config"):
            assert getattr(resolved, name) == value, name


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.name)
def test_files_of_machines_hold_nothing_else(path):
    of_machines = {
        "compute_environment", "distributed_type", "num_machines", "num_processes", "gpu_ids",
        "main_process_port", "mixed_precision", "fsdp_config",
    }  # fmt: skip
    assert read(path.name).keys() <= of_machines


def commands_of(text: str) -> list[list[str]]:
    """The `accelerate launch` commands in a text, without comment signs and line ends that go on."""
    joined = re.sub(r"\\\n[# ]*", " ", text)
    return [
        shlex.split(line) for line in re.findall(r"^[#\s`]*(accelerate launch [^`\n]*)", joined, re.MULTILINE)
    ]


COMMANDS = [
    (path.name, command)
    # The recipe of CONTRIBUTING.md is there once its changes are made.
    for path in [*ACCELERATE, *(REPOSITORY / name for name in PAGES if name != "CONTRIBUTING.md")]
    for command in commands_of(path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(
    ("name", "command"), COMMANDS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_commands_in_comments_and_pages_are_understood(name, command):
    words = [
        {"RANK": "1", "RECIPE": "quickstart", "N": "4", "M": "2", "PORT": "29501"}.get(word, word)
        for word in command
        if word not in ("…", "[--field", "value", "…]")
    ]
    arguments = launch_command_parser().parse_args(words[2:])
    resolved, _, _ = _validate_launch_command(arguments)
    assert resolved.training_script in ("flm.train", "flm")
    if resolved.training_script == "flm.train" and resolved.training_script_args:
        recipe, *flags = resolved.training_script_args
        check_flags(flags)
        parse_config(recipe_named(recipe), flags, program="flm train")


def test_the_page_knows_the_exit_codes():
    page = (LAUNCH / "README.md").read_text(encoding="utf-8")
    named = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert named == {0} | {value for name, value in vars(flm.errors).items() if name.endswith("_EXIT_CODE")}


def test_the_page_is_of_exactly_these_files():
    page = (LAUNCH / "README.md").read_text(encoding="utf-8")
    assert len(page.splitlines()) <= 120
    table = page.partition("| file |")[2].partition("\n\n")[0]
    named = re.findall(r"^\| `([\w.]+)`", table, re.MULTILINE)
    assert sorted(named) == sorted(path.name for path in LAUNCH.iterdir() if path.name != "README.md")


def test_the_networks_of_ibug68_are_made_of_what_was_made_before():
    words = ["--dry-run", "--source", "archive", "--youtube", "faces", "--weights", "w", "--out", "/x"]
    words += ["--seed", "3"]
    told = subprocess.run(
        ["bash", LAUNCH / "ibug68.sh", *words], capture_output=True, text=True, check=True, timeout=20
    )
    made, trained = set(), []
    for command in map(shlex.split, told.stdout.splitlines()):
        inputs = {word for word in command if word.startswith("/x/")}
        if "--out" in command:
            inputs -= {command[command.index("--out") + 1]}
            made.add(command[command.index("--out") + 1])
        assert {path for path in inputs if not path.endswith(".json")} <= made, command
        if "flm.train" in command:
            recipe, *flags = command[command.index("flm.train") + 1 :]
            config = parse_config(recipe_named(recipe), flags, program="flm train")
            trained.append(config.recipe)
            assert config.seed == 3
    assert trained == ["ibug68-xception"] * 6 + ["ibug68-compact"] * 2
    mistaken = subprocess.run(["bash", LAUNCH / "ibug68.sh"], capture_output=True, text=True, timeout=20)
    assert mistaken.returncode == 2
    assert mistaken.stderr.startswith("error: --source and --youtube are needed")


@pytest.mark.multiprocess
def test_fsdp_is_refused_in_one_line(make_shards, tmp_path):
    make_shards(tmp_path / "data", {"train": 8, "validation": 4})
    command = [Path(sys.executable).with_name("accelerate"), "launch", "--config_file", "launch/fsdp.yaml"]
    command += ["--num_processes", "1", "--main_process_port", "0", "-m", "flm.train", "quickstart"]
    command += ["--data", tmp_path / "data", "--out", tmp_path / "run"]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: accelerate launch: chose FSDP, which splits a network over processes; flm's fit on one GPU, "
        "take launch/multi_gpu.yaml"
    )


@pytest.mark.multiprocess
@pytest.mark.slow
def test_the_page_starts_with_a_network_of_the_folder_one_is_in(tmp_path):
    write_network(tmp_path / "network.onnx")
    port, log = free_port(), tmp_path / "log.txt"
    command = ["bash", LAUNCH / "demo.sh", "--checkpoint", "network.onnx", "--port", str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    with log.open("w") as file:
        page = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_for_page(page, f"http://127.0.0.1:{port}/", log)
    finally:
        page.terminate()
        page.wait(20)
    assert "going on with dlib's detector" in log.read_text()


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


def test_quickstart_replaces_no_shards_but_its_own(make_shards, tmp_path):
    make_shards(tmp_path / "data", {"train": 8, "validation": 4})
    before = {path: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    done = quickstart("--data", "data", "--out", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: --data {tmp_path / 'data'}: has shards that this script has not made"
    )
    assert {path: path.read_bytes() for path in (tmp_path / "data").iterdir()} == before


def test_quickstart_on_a_folder_that_is_no_archive(tmp_path):
    done = quickstart("--source", tmp_path, "--data", "data", "--out", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: ")
