"""The training run: `accelerate launch --config_file launch/X.yaml -m flm.train RECIPE [--field value …]`."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from flm.augment import augment
from flm.checkpoint import (
    TrainingState,
    find_training,
    flat_fields,
    load_state,
    load_training,
    read_config,
    save_checkpoint,
    to_fields,
    write_json,
)
from flm.command_line import parse_config
from flm.config import TrainConfig, check_same_run
from flm.data.loader import ProcessPlace, evaluation_batches, training_batches
from flm.data.manifest import Manifest
from flm.data.samples import Batch
from flm.errors import InputError, exits_on_input_error
from flm.evaluate import evaluate
from flm.model.losses import landmark_loss
from flm.model.network import LandmarkNetwork, build_network
from flm.optimization import (
    MovingAverage,
    build_optimizer,
    learning_rate_at,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
)
from flm.recipes import recipe_named, recipes_text
from flm.report import EvalReport, ced_curve_picture, predictions_picture
from flm.runlog import Clock, RunLog, TrainNumbers

VALIDATION = "validation"

OWNED_BY_CONFIG = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "--accumulation-steps"}
"""Settings of the launcher that would silently win over the configuration."""


def train(config: TrainConfig) -> Path:
    """Run a training to its end, from its start or from where it stopped.

    Args:
        config: the whole run. Machines, processes and precision are Accelerate's.

    Returns:
        The run's folder, with `config.json`, `log.jsonl`, `best/` and `last/`.

    Raises:
        InputError: something the user gave does not fit; the message says what.
    """
    run = build(config.with_resolved_paths())
    restore(run)
    with logging(run) as log:
        clock = Clock(run.accelerator.device, run.step)
        batches = clock.waiting(run.training_batches())
        while run.step < run.steps:
            losses = train_step(run, next(batches))
            run.step += 1
            if run.is_due(run.config.log_every_steps):
                log.train(run.step, numbers_of(run, losses, clock))
            if run.is_due(run.config.eval_every_steps):
                with clock.paused():
                    validate_and_save(run, log)
    return run.config.run


@dataclass(kw_only=True, slots=True)
class Run:
    """Everything that a training step touches, and where the run stands."""

    config: TrainConfig
    manifest: Manifest
    accelerator: Accelerator
    network: LandmarkNetwork
    """Bare."""
    trained: nn.Module
    """The network as Accelerate wraps it for the forward pass."""
    optimizer: AcceleratedOptimizer
    average: MovingAverage
    steps: int
    """Of the whole run."""
    step: int = 0
    """Steps that are done."""
    best_score: float | None = None
    best_step: int | None = None

    @property
    def place(self) -> ProcessPlace:
        return ProcessPlace(
            process=self.accelerator.process_index, num_processes=self.accelerator.num_processes
        )

    def is_due(self, every_steps: int) -> bool:
        return self.step % every_steps == 0 or self.step == self.steps

    def training_batches(self) -> Iterator[Batch]:
        config = self.config
        return training_batches(
            config.data,
            config.loader,
            config.crop,
            steps=range(self.step, self.steps),
            batch_size=config.batch_size,
            seed=config.seed,
            place=self.place,
        )

    def describe(self) -> str:
        config, accelerator = self.config, self.accelerator
        millions = sum(parameter.numel() for parameter in self.network.parameters()) / 1e6
        processes = f"{accelerator.num_processes} process" + "es" * (accelerator.num_processes > 1)
        return (
            f"{config.recipe}: {config.model.backbone}, {config.model.head}, {millions:.2f} M parameters · "
            f"{self.manifest.num_samples('train')} faces, batch {config.batch_size}, "
            f"steps {self.step} to {self.steps} · {processes} on {accelerator.device.type}, "
            f"{accelerator.mixed_precision} precision · {config.run}"
        )


def build(config: TrainConfig) -> Run:
    """Check what can be checked before the first step, and put the parts together."""
    for variable, flag in OWNED_BY_CONFIG.items():
        if variable in os.environ:
            raise InputError(f"the environment sets {variable}; unset it and give {flag} instead")
    manifest = Manifest.read(config.data)
    for split in ("train", VALIDATION):
        manifest.shards_of(split)
    if manifest.scheme != config.model.scheme:
        raise InputError(
            f"{config.data}: the shards have {manifest.scheme} landmarks, --model.scheme is "
            f"{config.model.scheme}; make them agree"
        )
    tracker = config.tracking.tracker
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        log_with=None if tracker == "none" else tracker,
        project_dir=config.run,
    )
    share = accelerator.num_processes * config.accumulation_steps
    if config.batch_size % share:
        raise InputError(
            f"--batch-size {config.batch_size} cannot be shared by {accelerator.num_processes} processes in "
            f"{config.accumulation_steps} accumulation steps; give a multiple of {share}"
        )
    torch.manual_seed(config.seed)
    network = build_network(config.model)
    if config.sync_batch_norm:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network.to(
        accelerator.device,
        memory_format=torch.channels_last if config.channels_last else torch.preserve_format,
    )
    average = MovingAverage(network, config.optimizer.ema_decay)
    trained, optimizer = accelerator.prepare(
        torch.compile(network) if config.compile else network, build_optimizer(network, config.optimizer)
    )
    return Run(
        config=config,
        manifest=manifest,
        accelerator=accelerator,
        network=network,
        trained=trained,
        optimizer=optimizer,
        average=average,
        steps=config.num_steps(manifest.num_samples("train")),
    )


def restore(run: Run) -> None:
    """Go on from a checkpoint where there is one, as `--resume` says."""
    checkpoint = find_training(run.config.run, run.config.resume)
    if checkpoint is None:
        return
    check_same_run(run.config, read_config(checkpoint), checkpoint)
    state, model, training = load_training(checkpoint)
    if state.manifest_hash != run.manifest.content_hash():
        raise InputError(
            f"{checkpoint}: was trained on other shards than {run.config.data}; give the same --data, or "
            "--resume none and another --out"
        )
    weights = {
        name.removeprefix("network."): value for name, value in training.items() if name[:8] == "network."
    }
    load_state(run.network, weights, checkpoint)
    load_state(run.average.network, model, checkpoint)
    load_optimizer_tensors(run.optimizer.optimizer, training)
    if state.scaler is not None and run.accelerator.scaler is not None:
        run.accelerator.scaler.load_state_dict(state.scaler)
    run.step, run.best_score, run.best_step = state.step, state.best_score, state.best_step


@contextlib.contextmanager
def logging(run: Run) -> Iterator[RunLog]:
    """The log, from the description of the run to its end."""
    config, accelerator = run.config, run.accelerator
    if accelerator.is_main_process:
        config.run.mkdir(parents=True, exist_ok=True)
        write_json(config.run / "config.json", to_fields(config))
    facts = {
        **flat_fields(to_fields(config)),
        "manifest_hash": run.manifest.content_hash(),
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
    }
    log = RunLog(config.run, config.tracking, accelerator, steps=run.steps, first_step=run.step, facts=facts)
    log.say(run.describe())
    try:
        yield log
    finally:
        log.finish()


def train_step(run: Run, batch: Batch) -> dict[str, Tensor]:
    """One update of the weights; gives the parts of the loss and `gradient_norm`, on the device."""
    config, accelerator = run.config, run.accelerator
    # What a step draws depends on the step, so that going on needs no state of any generator.
    seed = np.random.SeedSequence([config.seed, run.step, accelerator.process_index])
    torch.manual_seed(int(seed.generate_state(1)[0]))
    set_learning_rate(run.optimizer.optimizer, learning_rate_at(run.step, run.steps, config.optimizer))
    run.trained.train()
    parts = batch.to(accelerator.device).split(len(batch) // config.accumulation_steps)
    totals: dict[str, Tensor] = {}
    for part in parts:
        faces = augment(part, config.augment, size_px=config.model.input_size_px, seed=config.seed)
        with contextlib.nullcontext() if part is parts[-1] else accelerator.no_sync(run.trained):
            losses = landmark_loss(run.trained(faces.images), faces.landmarks_unit, faces.valid, config.loss)
            accelerator.backward(losses["total"] / len(parts))
        for name, value in losses.items():
            totals[name] = totals.get(name, 0) + value.detach() / len(parts)
    largest = config.optimizer.max_gradient_norm or float("inf")
    totals["gradient_norm"] = accelerator.clip_grad_norm_(run.trained.parameters(), largest)
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.average.update(run.network, run.step)
    return totals


def numbers_of(run: Run, losses: Mapping[str, Tensor], clock: Clock) -> TrainNumbers:
    """What the log tells of the steps since its last line; waits for the device."""
    means = {
        name: float(run.accelerator.reduce(value.double(), reduction="mean"))
        for name, value in losses.items()
    }
    timed = clock.read(run.step, steps=run.steps, batch_size=run.config.batch_size)
    return TrainNumbers(
        epoch=run.step * run.config.batch_size / run.manifest.num_samples("train"),
        gradient_norm=means.pop("gradient_norm"),
        losses=means,
        learning_rate=learning_rate_at(run.step - 1, run.steps, run.config.optimizer),
        **timed,
    )


def validate_and_save(run: Run, log: RunLog) -> None:
    """Evaluate the moving average on the validation split, and write a checkpoint."""
    started_s = time.perf_counter()
    report = validate(run)
    score = report.summary.nme_pct if run.config.select_by == "nme" else report.loss
    is_best = run.best_score is None or score < run.best_score
    if is_best:
        run.best_score, run.best_step = score, run.step
    log.validation(run.step, report.to_flat(), is_best=is_best, seconds=time.perf_counter() - started_s)
    if run.config.tracking.num_pictures and report.examples:
        log.pictures(run.step, {"predictions": predictions_picture(report), "ced": ced_curve_picture(report)})
    if run.accelerator.is_main_process:
        folder = save(run, report, is_best=is_best)
        if is_best:
            log.checkpoint(folder, step=run.step, nme_pct=report.summary.nme_pct)
    run.accelerator.wait_for_everyone()


def validate(run: Run) -> EvalReport:
    """The moving average on the validation split, the same report on every process."""
    config, accelerator = run.config, run.accelerator
    if torch.distributed.is_initialized():
        # Each process averaged its own batch statistics; those of the first one count.
        for buffer in run.average.network.buffers():
            torch.distributed.broadcast(buffer, src=0)
    batches = evaluation_batches(
        config.data,
        config.loader,
        config.crop,
        split=VALIDATION,
        batch_size=config.eval_batch_size,
        place=run.place,
    )
    return evaluate(
        run.average.network,
        batches,
        size_px=config.model.input_size_px,
        device=accelerator.device,
        autocast=accelerator.autocast,
        loss=config.loss,
        num_pictures=config.tracking.num_pictures,
    )


def save(run: Run, report: EvalReport, *, is_best: bool) -> Path:
    """Write the checkpoint of this step; only the first process calls it."""
    scaler = run.accelerator.scaler
    state = TrainingState(
        step=run.step,
        manifest_hash=run.manifest.content_hash(),
        best_score=run.best_score,
        best_step=run.best_step,
        scaler=scaler.state_dict() if scaler is not None else None,
        validation=report.to_flat(),
    )
    weights = {f"network.{name}": value for name, value in run.network.state_dict().items()}
    return save_checkpoint(
        run.config.run,
        run.config,
        state,
        model=run.average.network.state_dict(),
        training={**weights, **optimizer_tensors(run.optimizer.optimizer)},
        is_best=is_best,
        keep=run.config.keep_checkpoints,
    )


@exits_on_input_error
def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m flm.train RECIPE [--field value …]`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(recipes_text())
        return
    recipe = recipe_named(words[0])
    train(parse_config(recipe, words[1:], program=f"flm train {words[0]}"))


if __name__ == "__main__":
    main()
