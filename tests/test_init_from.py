"""A run begins with what fits of another's weights, says what did not fit, and goes on without it."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import draw_face
from pages import block
from safetensors.torch import load_file, save_file
from test_distributed import launch
from test_runlog import read_back, starts_of
from tiny_runs import assert_equal_weights, tiny

from flm.checkpoint import MODEL_NAME, CheckpointConfig
from flm.cli import main as flm_main
from flm.data.manifest import Manifest
from flm.data.samples import SampleRecord, encode_sample
from flm.data.writer import write_shard
from flm.errors import InputError
from flm.geometry import FaceBox
from flm.model.network import ModelConfig
from flm.runlog.trackers import TrackingConfig
from flm.train import main as train_main
from flm.train import train
from flm.training.config import TrainConfig
from flm.training.init_from import take_over
from flm.training.run import Run, build

NO_CHECKPOINT = "no checkpoint here; give a folder with model.safetensors, or the folder of a training run"

MODEL = ModelConfig(backbone="xception_compact_slim", input_size_px=64, head_channels=32)


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


def write_faces_98(folder: Path, faces: Mapping[str, int]) -> Manifest:
    """Shards of drawn faces that have 98 points, the last of them on top of others; one shard a split."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = {}
    for split, count in faces.items():
        samples = []
        for number in range(count):
            picture, landmarks = draw_face(number, 64)
            # Those that the errors are measured by are apart: the outer corners of the eyes, and the pupils.
            landmarks = landmarks[[*range(60), 36, *range(11), 45, *range(23), 37, 44]]
            record = SampleRecord(
                scheme="wflw-98",
                landmarks_shard=landmarks,
                image_to_shard=np.eye(3),
                face_box_image=FaceBox.around(landmarks),
                subset="drawn",
                source_file=f"{split}/{number}.png",
                group=f"{split}/{number}",
            )
            samples.append(encode_sample(f"{split}_{number}", picture, record))
        splits[split] = (write_shard(folder / f"{split}-000000.tar", samples),)
    manifest = Manifest(
        scheme="wflw-98",
        crop_size_px=64,
        crop_margin=0.5,
        source="drawn",
        split_rule="as asked",
        licence="MIT",
        splits=splits,
        subsets={split: {"drawn": count} for split, count in faces.items()},
    )
    manifest.write(folder)
    return manifest


@pytest.fixture(scope="module")
def data_98(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards_98")
    write_faces_98(folder, {"train": 8, "validation": 3})
    return folder


@pytest.fixture(scope="module")
def parent(data, tmp_path_factory) -> Path:
    """A run whose averaged weights are other ones than its last."""
    run = train(tiny(data, tmp_path_factory.mktemp("runs") / "parent", model=MODEL, steps=4))
    AcceleratorState._reset_state(reset_partial_state=True)
    return run


def begun(config: TrainConfig) -> Run:
    """A run before its first step."""
    run = build(config.with_resolved_paths())
    take_over(run)
    return run


def told_by(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("--init-from")]
    return line


def test_all_weights_are_those_of_the_others_moving_average(data, parent, tmp_path, capsys):
    run = begun(tiny(data, tmp_path / "run", model=MODEL, init_from=str(parent)))
    expected = load_file(parent / "best" / MODEL_NAME)
    trained = load_file(parent / "best" / "training.safetensors")
    assert any(not torch.equal(expected[name], trained[f"network.{name}"]) for name in expected)
    for network in (run.network, run.average.network):
        weights = network.state_dict()
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
    checkpoint = (parent / "best").resolve()
    number = len(expected)
    assert told_by(capsys) == f"--init-from {checkpoint}: {number} of {number} tensors are taken"
    assert run.config.init_from == str(checkpoint)


def test_between_schemes_all_is_taken_but_the_layer_of_the_points(data_98, parent, tmp_path, capsys):
    model = dataclasses.replace(MODEL, scheme="wflw-98")
    run = begun(tiny(data_98, tmp_path / "run", model=model, init_from=str(parent / "last")))
    theirs = load_file(parent / "last" / MODEL_NAME)
    weights = run.network.state_dict()
    different = {name for name, value in weights.items() if not torch.equal(value, theirs[name])}
    assert different == {"head.maps.weight", "head.maps.bias"}
    told = told_by(capsys)
    assert f"{len(weights) - 2} of {len(weights)} tensors are taken" in told
    assert told.endswith("but not head.maps (68x32x1x1 there, 98x32x1x1 here)")
    # And it learns.
    run = train(
        tiny(data_98, tmp_path / "trained", model=model, init_from=str(parent), steps=2, batch_size=4)
    )
    assert json.loads((run / "last" / "state.json").read_text())["step"] == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"head": "regression"},
            ": 170 of 172 tensors are taken, but not head (of another kind)",
        ),
        (
            {"head": "simcc"},
            "but not head.flat (not in that checkpoint), head.axes (not in that checkpoint)",
        ),
        ({"color": "grey"}, "but not backbone.model.stem.0 (24x3x3x3 there, 24x1x3x3 here)"),
        ({"head_channels": 16}, " more modules"),
        ({"input_size_px": 96, "crop_margin": 0.3}, "tensors are taken"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(data, parent, tmp_path, capsys, change, told):
    model = dataclasses.replace(MODEL, **change)
    run = begun(tiny(data, tmp_path / "run", model=model, init_from=str(parent)))
    theirs = load_file(parent / "best" / MODEL_NAME)
    line = told_by(capsys)
    assert line.endswith(told), line
    assert len(line) < 600
    taken = int(line.partition(f"{(parent / 'best').resolve()}: ")[2].split()[0])
    weights = run.network.state_dict()
    fits = [name for name in weights if name in theirs and theirs[name].shape == weights[name].shape]
    assert len(fits) == taken
    assert all(torch.equal(weights[name], theirs[name]) for name in fits)
    assert sum(name.startswith("backbone.") for name in fits) > 50


def test_weights_in_half_precision_are_taken(data, parent, tmp_path):
    checkpoint = tmp_path / "half"
    checkpoint.mkdir()
    shutil.copy(parent / "best" / "config.json", checkpoint)
    halved = {
        name: value.half() if value.is_floating_point() else value
        for name, value in load_file(parent / "best" / MODEL_NAME).items()
    }
    save_file(halved, checkpoint / MODEL_NAME)
    run = begun(tiny(data, tmp_path / "run", model=MODEL, init_from=str(checkpoint)))
    for name, value in run.network.state_dict().items():
        assert value.dtype == (torch.float32 if value.is_floating_point() else torch.int64)
        assert torch.equal(value, halved[name].to(value.dtype))


def test_imagenet_weights_are_not_touched(data, parent, tmp_path):
    model = dataclasses.replace(MODEL, weights=tmp_path / "nowhere.safetensors")
    config = tiny(data, tmp_path / "run", model=model)
    with pytest.raises(InputError, match="there is no such file"):
        build(config)
    AcceleratorState._reset_state(reset_partial_state=True)
    begun(dataclasses.replace(config, init_from=str(parent)))


def test_a_run_goes_on_bit_for_bit_without_the_other(data, parent, tmp_path):
    other = tmp_path / "parent"
    shutil.copytree(parent, other, symlinks=True)
    checkpoint = str((other / "best").resolve())
    short = {"steps": 3, "eval_every_steps": 2, "checkpoint": CheckpointConfig(keep=5)}
    whole = train(tiny(data, tmp_path / "whole", model=MODEL, init_from=str(other), **short))
    parted = tiny(data, tmp_path / "parted", model=MODEL, init_from=str(other), **short)
    AcceleratorState._reset_state(reset_partial_state=True)
    train(parted)
    shutil.rmtree(other)
    for init_from in (str(other), None):
        (parted.run / "last").unlink()
        (parted.run / "last").symlink_to("checkpoints/step_0000002")
        AcceleratorState._reset_state(reset_partial_state=True)
        train(dataclasses.replace(parted, init_from=init_from))
        assert_equal_weights(whole, parted.run)
        # What it began from is known for ever.
        for folder in (parted.run, parted.run / "last"):
            assert json.loads((folder / "config.json").read_text())["init_from"] == checkpoint


def test_it_helps(data, parent, tmp_path):
    """The first loss is far below that of a network that begins with nothing."""
    first_losses = []
    for name, init_from in (("with", str(parent)), ("without", None)):
        config = tiny(data, tmp_path / name, model=MODEL, steps=1, init_from=init_from)
        run = train(config)
        AcceleratorState._reset_state(reset_partial_state=True)
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        first_losses.append(next(line["loss"] for line in lines if line["kind"] == "train"))
    assert first_losses[0] < 0.9 * first_losses[1]


@pytest.mark.parametrize(
    ("change", "init_from", "message"),
    [
        (
            {},
            "nowhere",
            "--init-from {here}/nowhere: " + NO_CHECKPOINT,
        ),
        (
            {"backbone": "xception_compact"},
            "parent",
            "has the backbone xception_compact_slim, --model.backbone is xception_compact; give a checkpoint "
            "of xception_compact or --model.backbone xception_compact_slim",
        ),
        ({}, "damaged", "model.safetensors: damaged (its hash is not that in SHA256SUMS)"),
    ],
)
def test_a_mistake_is_one_line(data, parent, tmp_path, capfd, change, init_from, message):
    shutil.copytree(parent, tmp_path / "parent", symlinks=True)
    shutil.copytree(parent, tmp_path / "damaged", symlinks=True)
    path = tmp_path / "damaged" / "best" / MODEL_NAME
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    backbone = change.get("backbone", "xception_compact_slim")
    words = ["quickstart", "--data", data, "--out", tmp_path / "run", "--tracking.tracker", "none"]
    words += ["--init-from", tmp_path / init_from, "--model.backbone", backbone, "--steps", "1"]
    with pytest.raises(SystemExit) as stop:
        train_main([str(word) for word in words])
    assert stop.value.code == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("error: --init-from ")
    assert message.format(here=tmp_path) in line
    assert not (tmp_path / "run" / "last").exists()


@pytest.mark.multiprocess
def test_every_process_begins_with_the_same_weights(data, parent, tmp_path):
    done = launch("tests/programs/print_start.py", data, tmp_path, tmp_path / "bad", parent, processes=2)
    assert done.returncode == 0, done.stderr
    one, other = (json.loads((tmp_path / f"process{i}.json").read_text()) for i in range(2))
    assert one == other
    assert one["mistakes"] == [f"--init-from {tmp_path}/bad: {NO_CHECKPOINT}"]
    assert one["network"] == one["average"]
    assert done.stdout.count("tensors are taken") == 1


def test_the_commands_of_the_readme_run(make_shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("youtube", "300w"):
        make_shards(tmp_path / "data" / name, {"train": 8, "validation": 3})
    # As written, but for the size of the networks and of the runs, and in one process.
    small = "--steps 1 --batch-size 4 --model.input-size-px 64 --model.head regression --model.no-pretrained "
    small += "--model.backbone xception_compact_slim --tracker none --loader.num-workers 0"
    commands = block("pre-train").splitlines()
    assert len(commands) == 4
    for command in commands:
        launcher, is_training, words = command.rpartition(" -m flm.train ")
        if is_training:
            assert launcher == "accelerate launch --config_file launch/cpu.yaml"
            train_main([*words.split(), *small.split()])
            AcceleratorState._reset_state(reset_partial_state=True)
        else:
            # So little training leaves all points in one place, which is no face.
            monkeypatch.setattr("flm.evaluation.relabel.MIN_FACE_PX", 0.0)
            flm_main([*command.removeprefix("flm ").split(), "--max-distance", "1000"])
    began_from = json.loads(Path("runs/ibug68-quick/config.json").read_text())["init_from"]
    assert began_from == str(Path("runs/before/best").resolve())
    assert Manifest.read(Path("data/taught")).labels.startswith("train: found by ibug68-quick (")
    assert Path("runs/small/best", MODEL_NAME).is_file()


def test_wandb_has_the_other_checkpoint_as_an_input(data, parent, tmp_path):
    tracking = TrackingConfig(tracker="wandb", project="faces", num_pictures=0)
    config = tiny(data, tmp_path / "run", model=MODEL, steps=1, init_from=str(parent), tracking=tracking)
    run = train(config)
    (folder,) = starts_of(run)
    found = read_back(folder)
    inputs = [artifact for artifact in found["artifact"] if artifact.use_after_commit]
    assert [(one.name, one.type) for one in inputs][1:] == [("parent", "model")]
    assert {entry.path for entry in inputs[1].manifest.contents} == {
        "config.json",
        "model.safetensors",
        "state.json",
    }
