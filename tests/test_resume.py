"""A run that was stopped anywhere ends with the weights it would have had, on any number of processes."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import REPOSITORY
from programs.forked_runs import Start, tiny
from safetensors.torch import load_file

from flm.checkpoint import CHECKPOINTS, CheckpointConfig, folder_of_step, load_network
from flm.data.loader import LoaderConfig
from flm.errors import InputError
from flm.fields import to_fields
from flm.train import train
from flm.training.config import TrainConfig, check_same_run
from flm.training.optimization import OptimizerConfig
from flm.training.resume import find_training
from flm.training.run import _check_batch_can_be_shared

NUM_FACES = 60
EPOCH_STEPS = 5
"""Of 12 faces."""

LOSS_TOLERANCE = 1e-5
"""Relative, of a loss in float32 on another number of processes, which adds in another order; statistics of
batches frozen and without dropout."""

SAME_EVERYWHERE = ("--model.freeze-batch-norm", "--model.dropout", "0")


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def data(make_shards, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    make_shards(folder, {"train": NUM_FACES, "validation": 10}, shard_size=16)
    return folder


def train_anew(config: TrainConfig) -> Path:
    AcceleratorState._reset_state(reset_partial_state=True)
    return train(config)


def tensors_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": tensor
        for name in ("model", "training")
        for key, tensor in load_file(checkpoint / f"{name}.safetensors").items()
    }


def assert_same_bits(one: Path, other: Path) -> None:
    first, second = tensors_of(one / "last"), tensors_of(other / "last")
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def losses_of(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def stopped_at(run: Path, step: int, copy: Path) -> Path:
    """The run as it was when it had just saved a step."""
    shutil.copytree(run, copy, symlinks=True)
    for folder in (copy / CHECKPOINTS).iterdir():
        if int(folder.name.removeprefix("step_")) > step:
            shutil.rmtree(folder)
    (copy / "last").unlink()
    (copy / "last").symlink_to(Path(CHECKPOINTS, f"step_{step:07d}"))
    return copy


# Steps 5 and 10 end epochs of 60 faces.
@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        ({"steps": 7}, range(1, 7)),
        ({"accumulation_steps": 3}, [3]),
        ({"loader": LoaderConfig(num_workers=2, window_shards=2)}, [4]),
        ({"eval_every_steps": 3}, [2, 3]),
    ],
    ids=["each step", "accumulation", "workers", "evaluations"],
)
def test_a_run_may_stop_after_any_step(data, tmp_path, changes, stops):
    whole = train_anew(tiny(data, tmp_path / "whole", **changes))
    for step in stops:
        parted = stopped_at(whole, step, tmp_path / f"stopped{step}")
        train_anew(tiny(data, parted, **changes))
        assert_same_bits(whole, parted)
        assert losses_of(whole) == losses_of(parted)


def test_a_damaged_checkpoint_is_passed_over(data, tmp_path, capsys):
    whole = train_anew(tiny(data, tmp_path / "whole", steps=4))
    parted = stopped_at(whole, 3, tmp_path / "parted")
    newest = folder_of_step(parted, 3) / "training.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    capsys.readouterr()
    train_anew(tiny(data, parted, steps=4))
    told = capsys.readouterr()
    (warning,) = told.err.strip().splitlines()
    assert warning.startswith(f"warning: {parted / 'last' / newest.name}: damaged (its hash is not that in ")
    assert warning.endswith(f"take another checkpoint: {folder_of_step(parted, 2)} is taken")
    assert "steps 2 to 4" in told.out
    assert_same_bits(whole, parted)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    busy = subprocess.run(["umount", folder], capture_output=True, text=True, check=False)
    if busy.returncode:
        # Let no later test meet it.
        subprocess.run(["umount", "--lazy", folder], check=True)
    assert busy.returncode == 0, busy.stderr


def test_a_full_disk_stops_the_run_and_it_goes_on_when_there_is_room(data, tmp_path, small_disk):
    whole = train_anew(tiny(data, tmp_path / "whole", steps=4))
    # A checkpoint has 16 MB, so that the disk fills in the second save.
    config = tiny(data, small_disk / "run", steps=4)
    with pytest.raises(
        InputError, match=r"step_0000002: .*No space left.*make room and go on with --resume auto$"
    ):
        train_anew(config)
    assert find_training(config.run, "auto") == folder_of_step(config.run, 1).resolve()
    load_network(config.run / "last")
    assert shutil.disk_usage(small_disk).free > 10e6
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    train_anew(config)
    assert list(losses_of(config.run)) == [1, 2, 3, 4]
    assert_same_bits(whole, config.run)


def test_a_full_disk_is_a_warning_where_the_run_shall_go_on(data, small_disk, capsys):
    going_on = CheckpointConfig(every_steps=1, on_error="continue")
    config = tiny(data, small_disk / "run", steps=4, checkpoint=going_on)
    train_anew(config)
    warnings = capsys.readouterr().err.strip().splitlines()
    assert len(warnings) == 3
    for step, line in zip((2, 3, 4), warnings, strict=True):
        assert f"step_000000{step}: the checkpoint could not be written" in line
    assert find_training(config.run, "auto") == folder_of_step(config.run, 1).resolve()
    assert list(losses_of(config.run)) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("processes", "changes", "words"),
    [
        (
            5,
            {},
            "--batch-size 12 cannot be shared by 5 processes; start 4 or 6 processes, or give --batch-size "
            "10 or 15",
        ),
        (16, {}, "by 16 processes; start 12 processes, or give --batch-size 16"),
        (
            4,
            {"accumulation_steps": 2},
            "by 4 processes in --accumulation-steps 2 parts each; start 3 or 6 processes",
        ),
        (
            1,
            {"accumulation_steps": 5},
            "by 1 processes in --accumulation-steps 5 parts each; give --batch-size 10 or 15",
        ),
        (5, {"loader": LoaderConfig(lanes=4)}, "start 4 or 6 processes, or give --batch-size 20"),
    ],
)
def test_processes_that_cannot_share_a_batch_are_told_how_many_can(processes, changes, words):
    config = dataclasses.replace(tiny(Path("data"), Path("run")), **changes)
    with pytest.raises(InputError) as caught:
        _check_batch_can_be_shared(config, processes)
    assert words in str(caught.value)


def test_processes_that_can_share_a_batch_may():
    for processes in (1, 2, 3, 4, 6, 12):
        _check_batch_can_be_shared(tiny(Path("data"), Path("run")), processes)


def test_a_run_is_gone_on_with_as_another_only_on_purpose(data, tmp_path, make_shards):
    config = tiny(data, tmp_path / "run", steps=1)
    train_anew(config)
    more = dataclasses.replace(config, steps=2)
    other = tmp_path / "other"
    make_shards(other, {"train": NUM_FACES + 1, "validation": 10})
    for changes, named in (
        ({"batch_size": 6}, "batch-size"),
        ({"seed": 5}, "seed"),
        ({"recipe": "other"}, "recipe"),
        ({"optimizer": dataclasses.replace(config.optimizer, learning_rate=0.5)}, "optimizer.learning-rate"),
        ({"data": str(other)}, "data"),
    ):
        changed = dataclasses.replace(more, **changes)
        with pytest.raises(InputError) as caught:
            train_anew(changed)
        message = str(caught.value)
        assert "\n" not in message
        assert f"--checkpoint.may-differ {named} to change" in message
        assert "--resume none with another --out to start anew" in message
        on_purpose = dataclasses.replace(config.checkpoint, may_differ=(named,))
        copy = stopped_at(config.run, 1, tmp_path / named)
        train_anew(dataclasses.replace(changed, out=copy, checkpoint=on_purpose))
        assert losses_of(copy).keys() == {1, 2}


def test_a_run_that_goes_on_elsewhere_has_its_own_best(data, tmp_path):
    first = train_anew(tiny(data, tmp_path / "first", steps=2, eval_every_steps=1))
    # So good that no later one is better.
    state = first / "last" / "state.json"
    sums = first / "last" / "SHA256SUMS"
    old = hashlib.sha256(state.read_bytes()).hexdigest()
    state.write_text(json.dumps({**json.loads(state.read_text()), "best_score": 1e-9}))
    sums.write_text(sums.read_text().replace(old, hashlib.sha256(state.read_bytes()).hexdigest()))
    second = train_anew(tiny(data, tmp_path / "second", steps=3, resume=str(first / "last")))
    assert (second / "best").resolve() == folder_of_step(second, 3).resolve()


def refusal_of(config: TrainConfig, **saved) -> str:
    with pytest.raises(InputError) as caught:
        check_same_run(config, to_fields(dataclasses.replace(config, **saved)), Path("run/last"))
    return str(caught.value)


def test_all_that_differs_is_told():
    config = tiny(Path("data"), Path("run"))
    message = refusal_of(config, batch_size=24, seed=3, recipe="b")
    assert message.startswith(
        "run/last: was trained with recipe b, now it is tiny (--batch-size, --seed too); "
    )
    assert "--checkpoint.may-differ recipe batch-size seed to change it on purpose, or " in message
    optimizer = OptimizerConfig(learning_rate=1.0, weight_decay=1.0)
    message = refusal_of(config, batch_size=24, seed=3, recipe="b", optimizer=optimizer)
    assert "(--batch-size, --optimizer.ema-decay, --optimizer.learning-rate, … too)" in message


def test_another_network_is_no_way_to_go_on():
    config = tiny(Path("data"), Path("run"))
    other = dataclasses.replace(config.model, scheme="wflw-98")
    assert refusal_of(config, model=other) == (
        "run/last: was trained with --model.scheme wflw-98, now it is ibug-68; give the old value to go on, "
        "as the weights fit no other network, or --resume none with another --out to start anew"
    )
    less = dataclasses.replace(config.model, dropout=0.7)
    assert "--checkpoint.may-differ model.dropout to change" in refusal_of(config, model=less)


def test_what_may_differ_must_be_a_field(data, tmp_path):
    config = tiny(data, tmp_path / "run", steps=1)
    train_anew(config)
    wrong = dataclasses.replace(config.checkpoint, may_differ=("learning-rate",))
    with pytest.raises(InputError, match=r"--checkpoint\.may-differ learning_rate: there is no such field"):
        train_anew(dataclasses.replace(config, checkpoint=wrong))


class ForkedRuns:
    """What `programs/forked_runs.py` made."""

    def __init__(self, folder: Path, data: Path, starts: dict[str, Start]) -> None:
        self.folder = folder
        self.starts = starts
        fields = [dataclasses.asdict(start) for start in starts.values()]
        done = subprocess.run(
            [sys.executable, REPOSITORY / "tests/programs/forked_runs.py", json.dumps(fields)],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"},
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr
        self.warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]

    def told(self, name: str, what: str) -> list:
        """Of each process of a start."""
        number = list(self.starts).index(name)
        files = [self.folder / f"starts/{number}-{rank}.json" for rank in range(self.starts[name].processes)]
        return [json.loads(file.read_text())[what] for file in files]

    def keys(self, name: str) -> dict[int, list[str]]:
        """Of each step of a start, rows in the order of the processes."""
        told = self.told(name, "keys")
        return {int(step): [key for of_process in told for key in of_process[step]] for step in told[0]}


@pytest.fixture(scope="module")
def forked(data, tmp_path_factory) -> ForkedRuns:
    folder = tmp_path_factory.mktemp("forked")

    def start(out: str, processes: int, *flags: str, **fields) -> Start:
        return Start(data=str(data), out=str(folder / out), processes=processes, flags=flags, **fields)

    accumulating = ("--accumulation-steps", "2")
    return ForkedRuns(
        folder,
        data,
        {
            "one": start("one", 1, *SAME_EVERYWHERE),
            "on 4": start("elastic", 4, *SAME_EVERYWHERE, stop=2),
            "on 2": start("elastic", 2, *SAME_EVERYWHERE, stop=4),
            "on 3": start("elastic", 3, *SAME_EVERYWHERE),
            "two": start("two", 2, *accumulating),
            "two stopped": start("two_parted{rank}", 2, *accumulating, stop=4),
            "two went on": start("two_parted{rank}", 2, *accumulating),
            "three": start("three", 3),
            "three stopped": start("three_parted", 3, stop=3),
            "three went on": start("three_parted", 3),
            "killed": start("killed", 1, *SAME_EVERYWHERE, dies_at_flush=20),
            "killed went on": start("killed", 1, *SAME_EVERYWHERE),
            "other": start("two_parted{rank}", 2, "--batch-size", "8", *accumulating),
        },
    )


@pytest.mark.multiprocess
def test_four_then_two_then_three_processes_are_one_training(forked):
    parts = [forked.keys(name) for name in ("on 4", "on 2", "on 3")]
    assert [list(part) for part in parts] == [[0, 1], [2, 3], [4, 5, 6, 7]]
    keys = parts[0] | parts[1] | parts[2]
    assert keys == forked.keys("one")
    epoch = [key for step in range(EPOCH_STEPS) for key in keys[step]]
    assert sorted(epoch) == [f"train_{face:04d}" for face in range(NUM_FACES)]
    one, elastic = losses_of(forked.folder / "one"), losses_of(forked.folder / "elastic")
    assert list(elastic) == list(range(1, 9))
    assert elastic == pytest.approx(one, rel=LOSS_TOLERANCE)
    first, second = (tensors_of(forked.folder / run / "last") for run in ("one", "elastic"))
    worst = max((first[name].double() - second[name].double()).abs().max().item() for name in first)
    assert 0 < worst < 1e-3


@pytest.mark.multiprocess
@pytest.mark.parametrize("run", ["two", "three"])
def test_several_processes_stop_and_go_on_bit_for_bit(forked, run):
    parted = forked.folder / ("two_parted0" if run == "two" else f"{run}_parted")
    assert min(forked.keys(f"{run} went on")) == len(forked.keys(f"{run} stopped"))
    assert_same_bits(forked.folder / run, parted)
    assert losses_of(forked.folder / run) == losses_of(parted)


@pytest.mark.multiprocess
def test_machines_without_a_common_folder_go_on_from_the_first_ones(forked):
    assert (forked.folder / "two_parted0" / CHECKPOINTS).is_dir()
    assert not (forked.folder / "two_parted1" / CHECKPOINTS).exists()
    assert min(forked.keys("two went on")) == 4


@pytest.mark.multiprocess
def test_a_mistake_that_only_the_first_machine_sees_is_told_by_all(forked):
    first, second = forked.told("other", "mistake")
    assert first == second
    assert "was trained with --batch-size 12, now it is 8; give the old value to go on" in first
    assert forked.keys("other") == {}


@pytest.mark.multiprocess
def test_a_run_that_is_killed_while_it_writes_ends_with_the_same_weights(forked):
    resumed = list(forked.keys("killed went on"))
    assert 0 < resumed[0] < 8
    assert resumed == list(range(resumed[0], 8))
    assert_same_bits(forked.folder / "one", forked.folder / "killed")
    assert not list((forked.folder / "killed" / CHECKPOINTS).glob(".*"))
