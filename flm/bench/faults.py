"""A training that is killed again and again beside the same left alone: both end with the same weights."""

import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from rich.progress import Progress
from safetensors.torch import load_file

from flm.checkpoint import CHECKPOINTS, MODEL_NAME, TRAINING_NAME
from flm.data.store import open_store
from flm.errors import InputError
from flm.fields import to_fields
from flm.files import write_json
from flm.runlog.log import LOG_NAME

Moment = Literal["step", "saving", "evaluation"]
MOMENTS: tuple[Moment, ...] = get_args(Moment)

PROCESSES = 2
MOST_STEPS_ALIVE = 5
"""Steps between two kills; the run is long enough that it cannot end before all of them."""
EVERY_STEPS = 3
EVAL_EVERY_STEPS = 8
EVAL_BATCHES = 10
"""Enough for an evaluation to be killed in, few enough that evaluations are not most of the time."""
LONGEST_WAIT_S = 600.0
LONGEST_STEP_S = 0.1
LOOK_EVERY_S = 0.002


@dataclass(kw_only=True, slots=True)
class Faults:
    """What was done to a run, and what came out."""

    kills: int
    seed: int
    moments: dict[Moment, int] = field(default_factory=lambda: dict.fromkeys(MOMENTS, 0))
    """How many kills came in a step, while a checkpoint was written, and in an evaluation."""
    same_weights: bool = False
    """Whether all that the last checkpoint holds is that of the run left alone, bit for bit."""
    same_log: bool = False
    """Whether both logs tell the same loss of every step and the same score of every evaluation."""
    seconds: float = 0.0
    """Of both runs."""

    @property
    def holds(self) -> bool:
        """Whether nothing shows that the run was killed."""
        return self.same_weights and self.same_log

    def describe(self) -> str:
        """One line."""
        when = ", ".join(f"{count} in {moment}" for moment, count in sorted(self.moments.items()))
        end = "the same weights bit for bit, and the same log" if self.holds else "OTHER weights or log"
        return f"{self.kills} kills ({when}) in {self.seconds:.0f} s: {end}"

    def write_json(self, path: Path) -> None:
        """All fields, with how it was done."""
        how = f"{PROCESSES} processes on the processor, torchrun --max-restarts {self.kills}, SIGKILL of one"
        fields = {**to_fields(self), "how": how}
        write_json(path, fields)


def bench_faults(data: Path, *, kills: int, seed: int = 0) -> Faults:
    """Kill the processes of a small run at random instants and compare its end with that of a run left alone.

    Args:
        data: folder of shards.
        kills: how many; each ends one of the processes, and the launcher starts all of them again.
        seed: of the instants.

    Raises:
        InputError: the run left alone, or the launcher, failed.
    """
    faults, started_s = Faults(kills=kills, seed=seed), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        alone, killed = Path(folder) / "alone", Path(folder) / "killed"
        bar = progress.add_task("a run left alone", total=kills + 1)
        with _training(data, alone, kills) as launcher:
            _end_of(launcher, alone)
        progress.update(bar, advance=1, description="kills")
        chance = random.Random(seed)
        # Each kind as often as the others, in an order of chance.
        wanted: list[Moment] = [MOMENTS[i % len(MOMENTS)] for i in range(kills)]
        chance.shuffle(wanted)
        with _training(data, killed, kills) as launcher:
            since_s = 0.0
            for moment in wanted:
                _kill(launcher, killed, moment, since_s, chance)
                faults.moments[moment] += 1
                since_s = time.time()
                progress.update(bar, advance=1)
            _end_of(launcher, killed)
        faults.same_weights = _same_weights(alone, killed)
        faults.same_log = _numbers(alone) == _numbers(killed)
    faults.seconds = round(time.perf_counter() - started_s, 1)
    return faults


@contextlib.contextmanager
def _training(data: Path, out: Path, kills: int) -> Iterator[subprocess.Popen[bytes]]:
    faces = open_store(data).manifest.num_samples("validation")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(PROCESSES)]
    # A free port, since two launchers would meet on the usual one.
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--max-restarts", str(kills)]
    fields = {
        "data": data,
        "out": out,
        "steps": MOST_STEPS_ALIVE * kills + 2 * EVAL_EVERY_STEPS,
        "batch-size": 8,
        "eval-batch-size": max(PROCESSES, faces // EVAL_BATCHES),
        "model.backbone": "xception_compact_slim",
        "model.input-size-px": 64,
        "loader.num-workers": 1,
        "tracking.tracker": "none",
        "tracking.num-pictures": 0,
        "log-every-steps": 1,
        "eval-every-steps": EVAL_EVERY_STEPS,
        "checkpoint.every-steps": EVERY_STEPS,
    }
    flags = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
    out.mkdir(parents=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (out.parent / f"{out.name}.txt").open("wb") as output:
        launcher = subprocess.Popen(
            [*launch, "-m", "flm.train", "quickstart", *flags],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield launcher
        finally:
            launcher.terminate()
            launcher.wait()


def _kill(
    launcher: subprocess.Popen[bytes], run: Path, moment: Moment, since_s: float, chance: random.Random
) -> None:
    """Kill one of the processes at a moment of a kind."""
    # Every start makes some steps before its end.
    least_steps = chance.randint(1, MOST_STEPS_ALIVE - 1) if moment == "step" else 1
    deadline_s = time.monotonic() + LONGEST_WAIT_S
    while True:
        lines = [line for line in _lines(run) if line["time"] > since_s]
        if sum(line["kind"] == "train" for line in lines) >= least_steps:
            if moment == "step":
                time.sleep(chance.uniform(0, LONGEST_STEP_S))
            if _moment(run) == moment:
                break
        if launcher.poll() is not None or time.monotonic() > deadline_s:
            raise InputError(f"the run did not get to the next kill, in {moment}; {_output(run)}")
        time.sleep(LOOK_EVERY_S)
    # Only the first process writes.
    victim = 0 if moment == "saving" else chance.randrange(PROCESSES)
    os.kill(_process(launcher, victim), signal.SIGKILL)


def _moment(run: Path) -> Moment:
    """What the run is at."""
    if any((run / CHECKPOINTS).glob(".step_*")):
        return "saving"
    last = next(reversed(_lines(run)), None)
    is_evaluation = last is not None and last["kind"] == "train" and last["step"] % EVAL_EVERY_STEPS == 0
    return "evaluation" if is_evaluation else "step"


def _process(launcher: subprocess.Popen[bytes], rank: int) -> int:
    """The process of a rank, among those that a launcher started."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    for child in children:
        # One may end in the meantime.
        with contextlib.suppress(OSError):
            if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                return int(child)
    raise InputError(f"rank {rank} is not among the processes of the launcher")


def _lines(run: Path) -> list[dict[str, Any]]:
    path = run / LOG_NAME
    try:
        now = path.stat()
        return _parsed(path, now.st_size, now.st_mtime_ns)
    except FileNotFoundError:
        return []


@functools.lru_cache(maxsize=1)
def _parsed(path: Path, _size: int, _time_ns: int) -> list[dict[str, Any]]:
    """Kept as long as nothing is added: who looks so often would take the time of the run's processes."""
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _end_of(launcher: subprocess.Popen[bytes], run: Path) -> None:
    if launcher.wait() != 0:
        raise InputError(f"the run did not come to its end; {_output(run)}")


def _output(run: Path) -> str:
    lines = run.with_suffix(".txt").read_text(errors="replace").splitlines()
    return f"its output ended with: {' | '.join(lines[-3:])}"


def _same_weights(one: Path, other: Path) -> bool:
    def weights(run: Path) -> dict[str, torch.Tensor]:
        return {
            f"{name}/{key}": tensor
            for name in (MODEL_NAME, TRAINING_NAME)
            for key, tensor in load_file(run / "last" / name).items()
        }

    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _numbers(run: Path) -> list[tuple[Any, ...]]:
    """What the log tells that does not depend on time."""
    values = {"train": "loss", "validation": "nme_pct"}
    return [
        (line["kind"], line["step"], line[values[line["kind"]]])
        for line in _lines(run)
        if line["kind"] in values
    ]
