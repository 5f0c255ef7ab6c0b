"""Trains a tiny network again and again on several processes, as a launcher starts them.

Each of them is forked off this one, which has imported everything before, since that takes longer than the
runs. The argument is a JSON list of the fields of `Start`, made one after another. Each process writes
`starts/START-RANK.json` into the current folder: which samples it read in which step, and the mistake that
ended it.
"""

import contextlib
import dataclasses
import json
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import matplotlib.backends.backend_agg  # noqa: F401 - otherwise imported by each process, as timm
import timm  # noqa: F401

import flm.train
from flm.augment import AugmentConfig
from flm.bench.measure import free_port
from flm.checkpoint import CheckpointConfig
from flm.command_line import parse_config
from flm.data.loader import LoaderConfig
from flm.errors import InputError
from flm.model.losses import LossConfig
from flm.model.network import ModelConfig
from flm.runlog.trackers import TrackingConfig
from flm.training.config import TrainConfig
from flm.training.optimization import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of the command."""

    processes: int
    data: str
    out: str
    """With `{rank}` in it each process has a folder of its own, as on machines without a common one."""
    stop: int | None = None
    """The first step that is not made; the run is left as if it had been killed before it."""
    flags: tuple[str, ...] = ()
    dies_at_flush: int | None = None
    """The first process is killed where it flushes a file or folder after so many others."""


class StopError(Exception):
    """The run is left here."""


def tiny(data: Path, out: Path, **changes) -> TrainConfig:
    config = TrainConfig(
        recipe="tiny",
        data=str(data),
        out=out,
        steps=8,
        batch_size=12,
        eval_batch_size=8,
        model=ModelConfig(backbone="xception_compact_slim", head="regression", input_size_px=32, dropout=0.2),
        loss=LossConfig(kind="l1"),
        augment=AugmentConfig(
            rotation_deg=10.0, mirror_probability=0.5, brightness=0.2, noise_probability=0.5
        ),
        optimizer=OptimizerConfig(warmup_steps=2, ema_decay=0.9),
        loader=LoaderConfig(num_workers=0, window_shards=2),
        tracking=TrackingConfig(tracker="none"),
        checkpoint=CheckpointConfig(every_steps=1, keep=20),
        log_every_steps=1,
        eval_every_steps=100,
    )
    return dataclasses.replace(config, **changes)


def run(start: Start, report: Path) -> None:
    """What one process does."""
    out = start.out.format(rank=os.environ["RANK"])
    config = parse_config(tiny(Path(start.data), Path(out)), list(start.flags), program="tiny")
    keys: dict[int, list[str]] = {}
    train_step = flm.train.train_step

    def told(run, batch):
        if run.step == start.stop:
            raise StopError
        keys[run.step] = list(batch.keys)
        return train_step(run, batch)

    flm.train.train_step = told
    if start.dies_at_flush is not None:
        die_at_flush(start.dies_at_flush)
    mistake = None
    try:
        with contextlib.suppress(StopError):
            flm.train.train(config)
    except InputError as error:
        mistake = str(error)
    report.write_text(json.dumps({"keys": keys, "mistake": mistake}))


def die_at_flush(number: int) -> None:
    flush, flushed = os.fsync, iter(range(number))

    def count(descriptor: int) -> None:
        if next(flushed, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(descriptor)

    os.fsync = count


def fork(start: Start, rank: int, port: int, report: Path) -> int:
    child = os.fork()
    if child:
        return child
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        WORLD_SIZE=str(start.processes),
        LOCAL_WORLD_SIZE=str(start.processes),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
    )
    failed = True
    try:
        run(start, report)
        failed = False
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(failed)


def main() -> None:
    Path("starts").mkdir()
    for number, fields in enumerate(json.loads(sys.argv[1])):
        start = Start(**fields)
        port = free_port()
        children = [
            fork(start, rank, port, Path(f"starts/{number}-{rank}.json")) for rank in range(start.processes)
        ]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        expected = [0] * start.processes if start.dies_at_flush is None else [-signal.SIGKILL]
        if codes != expected:
            sys.exit(f"start {number} ended with {codes}, expected {expected}")


if __name__ == "__main__":
    main()
