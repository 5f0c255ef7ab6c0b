"""The training run: `accelerate launch --config_file launch/X.yaml -m flm.train RECIPE [--field value …]`."""

import atexit
import contextlib
import gc
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch.distributed
from accelerate.utils import gather_object
from torch import Tensor

from flm.command_line import parse_config
from flm.errors import InputError, PreemptedError, exits_on_input_error
from flm.evaluation.evaluate import evaluate
from flm.evaluation.report import EvalReport, ced_curve_picture, predictions_picture
from flm.fields import flat_fields, to_fields
from flm.files import write_json
from flm.process.owners import check_flags
from flm.process.rendezvous import tell_other_machines
from flm.process.signals import tell_agent
from flm.recipes import recipe_named, recipes_text
from flm.runlog.log import RunLog, TrainNumbers
from flm.training.clock import Clock
from flm.training.config import TrainConfig
from flm.training.guards import telling_memory
from flm.training.init_from import take_over
from flm.training.optimization import learning_rate_at
from flm.training.profiling import StepProfiler, span
from flm.training.resume import restore, save
from flm.training.run import Run, build
from flm.training.step import fit_into_memory, train_step


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
    if not restore(run):
        take_over(run)
    if config.auto_batch_size and not run.is_over:
        fit_into_memory(run)
    guards = run.guards
    with (
        guards.listening(),
        logging(run) as log,
        run.writer,
        guards.watching(),
        saving_when_stopped(run, log),
    ):
        clock = Clock(run.accelerator.device, run.step)
        batches = guards.batches(clock.waiting(run.training_batches()))
        profiler = profiler_of(run, log, clock)
        if run.owes_validation:
            validate_and_save(run, log)
        while not run.is_over:
            with profiler.step(run.step + 1):
                with span("data"):
                    batch = next(batches)
                losses = train_step(run, batch)
            run.step += 1
            is_logged = run.is_due(run.config.log_every_steps)
            guards.bad_steps.look(log.warn, now=is_logged)
            if is_logged:
                log.train(run.step, numbers_of(run, losses, clock))
            if run.is_due(run.config.eval_every_steps):
                with clock.paused():
                    validate_and_save(run, log)
            elif run.writer.is_due(run.step):
                save(run)
        run.accelerator.wait_for_everyone()
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
    log = RunLog(
        config.run,
        config.tracking,
        accelerator,
        steps=run.steps,
        first_step=run.step,
        facts=facts,
        data=config.data,
        manifest=run.manifest,
        init_from=config.init_from,
    )
    log.say(run.describe())
    # A start that logs offline belongs to the run that is online.
    run.run_url = log.url or run.run_url
    exit_code = 1
    try:
        yield log
        exit_code = 0
    finally:
        log.finish(exit_code=exit_code)


def profiler_of(run: Run, log: RunLog, clock: Clock) -> StepProfiler:
    """Records the steps of `--profile` in the first process."""
    return StepProfiler(
        run.config.profile,
        run.config.run / "profile",
        steps=run.steps,
        records=run.accelerator.is_main_process,
        say=log.say,
        pause=clock.paused,
    )


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


@contextlib.contextmanager
def saving_when_stopped(run: Run, log: RunLog) -> Iterator[None]:
    """Leave a checkpoint of the step just done where the processes agreed to stop."""
    try:
        yield
    except PreemptedError:
        if run.step > 0:
            save(run)
            run.writer.wait()
        log.preempted(run.step)
        # No process ends, and is taken for a failure, before the checkpoint is on the disk.
        run.accelerator.wait_for_everyone()
        raise


def validate_and_save(run: Run, log: RunLog) -> None:
    """Evaluate the moving average on the validation split, and write a checkpoint."""
    save(run, validate_and_tell(run, log))
    if run.is_over:
        if run.step < run.steps:
            log.say(
                f"no better score since step {run.best_step} (--patience-evaluations "
                f"{run.config.patience_evaluations}), so the run ends at step {run.step}"
            )
        run.writer.wait()
        log.checkpoints()


def validate_and_tell(run: Run, log: RunLog) -> dict[str, float]:
    """Evaluate the moving average on the validation split; gives the numbers of the report."""
    started_s = time.perf_counter()
    report = validate(run)
    flat = report.to_flat()
    score = run.score_of(flat)
    is_best = run.best_score is None or score < run.best_score
    if is_best:
        run.best_score, run.best_step = score, run.step
    log.validation(run.step, flat, is_best=is_best, seconds=time.perf_counter() - started_s)
    if log.shows_pictures and report.examples:
        log.pictures(run.step, {"predictions": predictions_picture(report), "ced": ced_curve_picture(report)})
    return flat


def validate(run: Run) -> EvalReport:
    """The moving average on the validation split, the same report on every process."""
    config, accelerator = run.config, run.accelerator
    if torch.distributed.is_initialized():
        # Each process averaged its own batch statistics; those of the first one count.
        for buffer in run.average.network.buffers():
            torch.distributed.broadcast(buffer, src=0)
    rows = -(-config.eval_batch_size // accelerator.num_processes)
    with telling_memory(f"{rows} faces at a time in each process; give a smaller --eval-batch-size"):
        return evaluate(
            run.average.network,
            run.guards.batches(run.validation_batches()),
            crop=config.crop,
            boxes=config.loader.boxes,
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
    # Else the interpreter looks through half a million objects at its end, while others wait for it.
    atexit.register(gc.freeze)
    recipe = recipe_named(words[0])
    check_flags(words[1:])
    try:
        train(parse_config(recipe, words[1:], program=f"flm train {words[0]}"))
    except PreemptedError:
        tell_agent()
        raise
    except InputError:
        tell_other_machines()
        raise


if __name__ == "__main__":
    main()
