"""Training beside one resident batch, beside the usual way, in two processes, and with checkpoints."""

import contextlib
import dataclasses
import functools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from flm.augment import augment
from flm.bench.loader import WORKERS, PerFileFaces, training_faces
from flm.bench.machine import usable_threads
from flm.bench.measure import Conditions, Row, medians
from flm.bench.team import Step, Team, Turn
from flm.model.losses import landmark_loss
from flm.model.network import build_network
from flm.recipes import recipe_named
from flm.runlog.trackers import TrackingConfig
from flm.training.clock import Clock
from flm.training.config import TrainConfig
from flm.training.resume import save
from flm.training.run import Run, build
from flm.training.step import train_step

RECIPE = "reference"
SAVE_EVERY_STEPS = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainLength:
    """How long is measured."""

    repetitions: int = 5
    steps: int = 4
    """In each turn, with all cores; the usual way makes one."""
    saving_steps: int = 12
    """In a turn with a checkpoint, which is written whole in it, and in one without."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SideSetting:
    """What a side trains."""

    config: TrainConfig
    source: Path | None = None
    """Files of the usual way."""
    turn_steps: int = 0
    """Of `training_and_saving`, with the one that is not timed."""


Side = Callable[[SideSetting], Iterator[Step]]


def training(setting: SideSetting) -> Iterator[Step]:
    """Our training, from shards to the update."""
    for _, step in _steps(setting.config):
        yield step


def training_and_saving(setting: SideSetting) -> Iterator[Step]:
    """The same with a checkpoint in each turn, which is written while the next steps are made."""
    for run, step in _steps(setting.config):
        # The first step made the team ready, the next is not timed.
        if (run.step - 3) % setting.turn_steps == 0:
            save(run)
        yield step


def _steps(config: TrainConfig) -> Iterator[tuple[Run, Step]]:
    run = build(config)
    clock = Clock(run.accelerator.device, 0)
    for batch in clock.waiting(run.training_batches()):
        waited_s, clock.waited_s = clock.waited_s, 0.0
        train_step(run, batch)
        run.step += 1
        run.guards.bad_steps.look(lambda *_: None, now=False)
        yield run, Step(len(batch), waited_s)


def resident(setting: SideSetting) -> Iterator[Step]:
    """The same network on one batch that stays in memory: forward, backward, update and nothing else."""
    run = build(setting.config)
    config, network, optimizer = run.config, run.trained.train(), run.optimizer
    batch = next(run.training_batches()).to(run.accelerator.device)
    faces = augment(batch, config.augment, size_px=config.model.input_size_px, seed=0)
    while True:
        losses = landmark_loss(network(faces.images), faces.landmarks_unit, faces.valid, config.loss)
        run.accelerator.backward(losses["total"])
        optimizer.step()
        optimizer.zero_grad()
        yield Step(len(batch))


def usual(setting: SideSetting) -> Iterator[Step]:
    """The reference project's way: one file a sample, float32, contiguous memory, Adam, MSE."""
    config, source = setting.config, setting.source
    assert source is not None
    network = build_network(config.model).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=config.optimizer.learning_rate)
    faces = PerFileFaces(training_faces(Path(config.data), source))
    while True:
        for images, landmarks in DataLoader(faces, config.batch_size, shuffle=True, num_workers=WORKERS):
            optimizer.zero_grad()
            # Its landmarks have their origin in the middle of the crop.
            F.mse_loss(network(images).landmarks_unit - 0.5, landmarks).backward()
            optimizer.step()
            yield Step(len(images))


def bench_train(data: Path, source: Path) -> list[Row]:
    """Measure on this machine's processor.

    Args:
        data: folder of shards of an iBUG archive.
        source: the archive's folder, whose files the usual way reads.

    Raises:
        InputError: there are no shards, or a file that they were made of is missing.
    """
    # Here, where it is told in a line, and not by a process of its own.
    training_faces(data, source)
    return measure(dataclasses.replace(recipe_named(RECIPE), data=str(data)), source, TrainLength())


def measure(config: TrainConfig, source: Path, length: TrainLength) -> list[Row]:
    """Measure a configuration, with all cores and with one.

    Args:
        config: what is trained.
        source: files of the usual way.
        length: of the measurement.
    """
    cores = usable_threads()
    settled = dataclasses.replace(config, steps=10**6, tracking=TrackingConfig(tracker="none"))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def team(name: str, side: Side, *, processes: int = 1, threads: int = cores) -> Callable[[int], Turn]:
            its = dataclasses.replace(settled, out=folder / name)
            setting = SideSetting(config=its, source=source, turn_steps=length.saving_steps + 1)
            one = stack.enter_context(Team(side, setting, processes=processes, threads=threads))
            one.wait_until_ready()
            return one.take_turn

        sides = [
            team("ours", training),
            team("resident", resident),
            team("usual", usual),
            team("one", training, threads=1),
            team("two", training, threads=1, processes=2),
        ]
        steps = (length.steps, length.steps, 1, -(-length.steps // 2), length.steps)
        waited, rates = _rates(sides, steps, length.repetitions)
        sides = [team("saving", training_and_saving), team("plain", training)]
        _, saved = _rates(sides, (length.saving_steps,) * 2, length.repetitions)
    how = (
        f"network of `{config.recipe}`, bf16, channels last, {cores} threads, batches of {config.batch_size}"
    )
    how = f"{how}, median of {length.repetitions} turns in one run"
    return [*_rows(rates, 1 - waited, how), _saving_row(saved, config.batch_size, length)]


def _rates(
    sides: Sequence[Callable[[int], Turn]], steps: Sequence[int], repetitions: int
) -> tuple[float, list[float]]:
    """Median share of the time that the first side waited for data, and of images a second of each."""
    turns: list[list[Turn]] = [[] for _ in sides]

    def rate_of(number: int) -> float:
        turns[number].append(sides[number](steps[number]))
        return turns[number][-1].images_per_s

    rates = medians([functools.partial(rate_of, number) for number in range(len(sides))], repetitions)
    return statistics.median(turn.waited_share for turn in turns[0]), rates


def _rows(rates: list[float], busy: float, how: str) -> list[Row]:
    ours, resident_rate, usual_rate, one, two = rates
    row = Conditions("images/s", how).row
    resident_batch = "peer: forward, backward and update on one resident batch, already augmented"
    usual_way = f"peer: one file a sample, {WORKERS} workers, float32, contiguous memory, Adam, MSE"
    alone = "one thread each; peer: one process of one thread, the same global batch"
    return [
        Conditions("%", how).row("time not waiting for data", 100 * busy, 100.0, bar=0.97),
        row("training", ours, resident_rate, bar=0.97, how=resident_batch),
        row("training, beside the usual way", ours, usual_rate, bar=4.0, how=usual_way),
        row("two processes", two, one, bar=1.8, how=alone),
    ]


def _saving_row(rates: list[float], batch_size: int, length: TrainLength) -> Row:
    """What one checkpoint costs in a turn that holds it, spread over the steps between two."""
    saving, plain = rates
    seconds = length.saving_steps * batch_size * (1 / saving - 1 / plain)
    images = SAVE_EVERY_STEPS * batch_size
    return Row(
        measure="training with checkpoints",
        ours=images / (images / plain + seconds),
        peer=plain,
        unit="images/s",
        bar=0.98,
        how=f"one every {SAVE_EVERY_STEPS} steps of {batch_size} faces, costing {seconds:.2f} s; peer: none",
    )
