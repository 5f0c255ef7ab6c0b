"""The training run: `accelerate launch --config_file launch/X.yaml -m flm.train RECIPE [--field value …]`."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.distributed
from accelerate.utils import gather_object
from torch import Tensor

from flm.augment import augment
from flm.checkpoint import write_json
from flm.command_line import parse_config
from flm.config import TrainConfig
from flm.data.samples import Batch
from flm.errors import exits_on_input_error
from flm.evaluate import evaluate
from flm.fields import flat_fields, to_fields
from flm.model.losses import landmark_loss
from flm.optimization import learning_rate_at, set_learning_rate
from flm.recipes import recipe_named, recipes_text
from flm.report import EvalReport, ced_curve_picture, predictions_picture
from flm.run import Run, build, restore, save
from flm.runlog import Clock, RunLog, TrainNumbers


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
        tell_bad_samples(run, log)
    return run.config.run


@contextlib.contextmanager
def logging(run: Run) -> Iterator[RunLog]:
    """The log, from the description of the run to its end."""
    config, accelerator = run.config, run.accelerator
    if accelerator.is_main_process:
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
    run.bad_samples.update(batch.bad_samples)
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
    totals["gradient_norm"] = cast(Tensor, accelerator.clip_grad_norm_(run.trained.parameters(), largest))
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.average.update(run.network, run.step)
    return totals


def numbers_of(run: Run, losses: Mapping[str, Tensor], clock: Clock) -> TrainNumbers:
    """What the log tells of the steps since its last line; waits for the device."""
    means = {name: _mean_over_processes(run, value) for name, value in losses.items()}
    timed = clock.read(run.step, steps=run.steps, batch_size=run.config.batch_size)
    return TrainNumbers(
        epoch=run.step * run.config.batch_size / run.manifest.num_samples("train"),
        gradient_norm=means.pop("gradient_norm"),
        losses=means,
        learning_rate=learning_rate_at(run.step - 1, run.steps, run.config.optimizer),
        **timed,
    )


def _mean_over_processes(run: Run, value: Tensor) -> float:
    return cast(Tensor, run.accelerator.reduce(value.double(), reduction="mean")).item()


def validate_and_save(run: Run, log: RunLog) -> None:
    """Evaluate the moving average on the validation split, and write a checkpoint."""
    started_s = time.perf_counter()
    report = validate(run)
    flat = report.to_flat()
    score = flat["nme_pct" if run.config.select_by == "nme" else "loss"]
    is_best = run.best_score is None or score < run.best_score
    if is_best:
        run.best_score, run.best_step = score, run.step
    log.validation(run.step, flat, is_best=is_best, seconds=time.perf_counter() - started_s)
    if run.config.tracking.num_pictures and report.examples:
        log.pictures(run.step, {"predictions": predictions_picture(report), "ced": ced_curve_picture(report)})
    if run.accelerator.is_main_process:
        save(run, flat, is_best=is_best)
    if run.step == run.steps:
        log.best_checkpoint()
    run.accelerator.wait_for_everyone()


def validate(run: Run) -> EvalReport:
    """The moving average on the validation split, the same report on every process."""
    config, accelerator = run.config, run.accelerator
    if torch.distributed.is_initialized():
        # Each process averaged its own batch statistics; those of the first one count.
        for buffer in run.average.network.buffers():
            torch.distributed.broadcast(buffer, src=0)
    return evaluate(
        run.average.network,
        run.validation_batches(),
        size_px=config.model.input_size_px,
        device=accelerator.device,
        autocast=lambda: accelerator.autocast(),
        loss=config.loss,
        num_pictures=config.tracking.num_pictures,
    )


def tell_bad_samples(run: Run, log: RunLog) -> None:
    """The samples that the processes replaced, as `--loader.max-bad-samples` let them."""
    if run.config.loader.max_bad_samples == 0:
        return
    of_all = sorted({*gather_object(sorted(run.bad_samples))})
    if of_all:
        log.say(
            f"{len(of_all)} samples could not be used, and others were trained on in their place: "
            f"{', '.join(of_all)}; `python -m shards verify --repair` drops them"
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
