"""A run put into a checkpoint, and taken up again out of one.

The first process alone reads and writes, and the others get everything from it, so that machines need no
folder in common. There may be another number of processes than before: `flm.checkpoint` says why that changes
nothing.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import broadcast, broadcast_object_list
from torch import Tensor

from flm.checkpoint import (
    BEGUN_ANEW,
    CHECKPOINTS,
    TRAINING_NAME,
    TrainingState,
    check_whole,
    folder_of_step,
    hidden,
    load_state,
    load_training,
    read_config,
    step_of,
)
from flm.errors import InputError, warn
from flm.training.checkpoint_writer import begin_at
from flm.training.config import check_same_run
from flm.training.optimization import load_optimizer_tensors, optimizer_tensors
from flm.training.run import Run

NETWORK = "network."
"""Begins the names of the raw weights among a checkpoint's training tensors."""

RESTART_COUNTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
"""Where torchrun and SLURM count how often they started the same command again."""


def save(run: Run, validation: Mapping[str, float] | None = None) -> None:
    """Begin to write the checkpoint of the step just done; returns when its tensors are copied.

    Every process may call it; only the first does anything, and no process is waited for. A step that has a
    checkpoint already gets no other. It is on the disk when `run.writer.wait()` returns, which is to be
    called before a stop by a signal.

    Args:
        run: where it stands.
        validation: the numbers of this step's evaluation, if it had one; the best of them is `best`.

    Raises:
        InputError: the checkpoint before could not be written, and `--checkpoint.on-error` is stop.
    """
    writer = run.writer
    if not run.accelerator.is_main_process:
        return
    writer.wait()
    if writer.step == run.step and validation is None:
        return
    best, is_best = writer.best, False
    if validation is not None:
        # Compared with what is on the disk, not with one that a full disk lost.
        is_best = best is None or run.score_of(validation) < best[0]
        best = (run.score_of(validation), run.step) if is_best else best
    scaler = run.accelerator.scaler
    state = TrainingState(
        step=run.step,
        manifest_hash=run.manifest.content_hash(),
        best_score=best[0] if best else None,
        best_step=best[1] if best else None,
        scaler=scaler.state_dict() if scaler is not None else None,
        validation=dict(validation) if validation is not None else None,
        run_url=run.run_url,
    )
    weights = {f"{NETWORK}{name}": value for name, value in run.network.state_dict().items()}
    writer.save(
        run.config,
        state,
        model=run.average.network.state_dict(),
        training={**weights, **optimizer_tensors(run.optimizer.optimizer)},
        is_best=is_best,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """A checkpoint as it was read."""

    checkpoint: Path
    init_from: str | None
    """The checkpoint that its run began from."""
    state: TrainingState
    model: Mapping[str, Tensor]
    training: Mapping[str, Tensor]


def restore(run: Run) -> bool:
    """Go on from a checkpoint where there is one, as `--resume` says.

    Returns:
        Whether there is one; else the run starts anew.

    Raises:
        InputError: on every process, where the checkpoint is damaged or another run's.
    """
    found = _from_first_process(run)
    if found is None:
        return False
    # What the run began from, whatever the command says now.
    run.config = dataclasses.replace(run.config, init_from=found.init_from)
    weights = {
        name.removeprefix(NETWORK): value
        for name, value in found.training.items()
        if name.startswith(NETWORK)
    }
    load_state(run.network, weights, found.checkpoint)
    load_state(run.average.network, found.model, found.checkpoint)
    load_optimizer_tensors(run.optimizer.optimizer, found.training)
    state = found.state
    if state.scaler is not None and run.accelerator.scaler is not None:
        run.accelerator.scaler.load_state_dict(state.scaler)
    run.step, run.best_score, run.best_step = state.step, state.best_score, state.best_step
    run.run_url = state.run_url
    run.owes_validation = state.validation is None and run.is_due(run.config.eval_every_steps)
    if found.checkpoint == folder_of_step(run.config.run, state.step).resolve():
        run.writer.step = state.step
    score, step = state.best_score, state.best_step
    # Gone on from another run's folder, this one has no `best` yet.
    if score is not None and step is not None and folder_of_step(run.config.run, step).is_dir():
        run.writer.best = score, step
    return True


def _from_first_process(run: Run) -> _Found | None:
    """What the first process read, or the mistake that it met, on every process."""
    found, mistake = None, None
    if run.accelerator.is_main_process:
        try:
            found = _read(run)
        except InputError as error:
            mistake = str(error)
    if run.accelerator.num_processes > 1:
        # The rest first, with tensors that have only a shape: those follow one by one.
        told: list[Any] = [mistake, found and _changed(found, lambda tensor: tensor.to("meta"))]
        broadcast_object_list(told)
        mistake, shapes = told
        if shapes is not None:
            found = _changed(found or shapes, lambda tensor: _broadcast(tensor, run.accelerator.device))
    if mistake is not None:
        raise InputError(mistake)
    return found


def _changed(found: _Found, change: Callable[[Tensor], Tensor]) -> _Found:
    model, training = (
        {name: change(tensor) for name, tensor in tensors.items()}
        for tensors in (found.model, found.training)
    )
    return dataclasses.replace(found, model=model, training=training)


def _broadcast(tensor: Tensor, device: torch.device) -> Tensor:
    """The first process's tensor; the others give one of its shape."""
    sent = torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device)
    return cast(Tensor, broadcast(sent)).cpu()


def _read(run: Run) -> _Found | None:
    config = run.config
    is_restart = any(os.environ.get(name, "0") != "0" for name in RESTART_COUNTS)
    checkpoint = find_training(config.run, config.resume, is_restart=is_restart)
    found = None
    if checkpoint is not None:
        saved = read_config(checkpoint)
        check_same_run(config, saved, checkpoint)
        state, model, training = load_training(checkpoint)
        _check_same_shards(run, state, checkpoint)
        found = _Found(
            checkpoint=checkpoint,
            init_from=saved.get("init_from"),
            state=state,
            model=model,
            training=training,
        )
    if config.resume != "auto" and not is_restart:
        begin_at(config.run, checkpoint)
    return found


def _check_same_shards(run: Run, state: TrainingState, checkpoint: Path) -> None:
    now = run.manifest.content_hash()
    if state.manifest_hash != now and "data" not in run.config.checkpoint.may_differ:
        raise InputError(
            f"{checkpoint}: was trained on other shards than {run.config.data} (manifest "
            f"{state.manifest_hash[:12]}, now {now[:12]}); give the same --data, --checkpoint.may-differ "
            "data to change them on purpose, or --resume none with another --out to start anew"
        )


def find_training(run: Path, resume: str, *, is_restart: bool = False) -> Path | None:
    """The checkpoint to go on from, whole, or None to start anew.

    Args:
        run: the run's folder.
        resume: `auto`, `none`, or a path to a checkpoint or run.
        is_restart: whether a launcher started the same command again; what was reached since then is gone on
            from, whatever it said at first.

    Raises:
        InputError: there is no whole checkpoint at that path, or none is left of the run's.
    """
    if resume == "auto" or is_restart:
        newest = _newest_whole(run)
        if newest is not None or resume == "auto":
            return newest
    if resume == "none":
        return None
    path = Path(resume)
    for folder in (path, path / "last"):
        if (folder / TRAINING_NAME).is_file():
            check_whole(folder)
            return folder.resolve()
    raise InputError(
        f"--resume {resume}: has no checkpoint with {TRAINING_NAME}; give the path of one, or "
        "--resume none and another --out to start anew"
    )


def _newest_whole(run: Path) -> Path | None:
    """The newest checkpoint of a run that is whole; those before it are passed over with a warning."""
    last = run / "last"
    if last.is_symlink() and last.readlink().name == folder_of_step(run, BEGUN_ANEW).name:
        return None
    damaged = None
    for folder in _newest_first(run):
        if damaged is not None:
            warn(f"{damaged}: {folder} is taken")
        try:
            check_whole(folder)
        except InputError as error:
            damaged = error
        else:
            return folder.resolve()
    if damaged is None:
        return None
    raise InputError(
        f"--resume auto: no whole checkpoint is left in {run} (the oldest: {damaged}); put one back, or give "
        "--resume none to start anew"
    )


def _newest_first(run: Path) -> Iterator[Path]:
    """The checkpoints that a run may go on from; those of later steps than `last` are another run's."""
    last, checkpoints = run / "last", run / CHECKPOINTS
    # One that was about to be replaced is as good, but for the evaluation.
    folders = [*checkpoints.glob("step_*"), *checkpoints.glob(hidden(Path("step_*")).name)]
    if os.path.lexists(last):
        yield last
        name = last.readlink().name if last.is_symlink() else ""
        if re.fullmatch(r"step_\d+", name):
            newest = step_of(Path(name))
            folders = [folder for folder in folders if step_of(folder) <= newest and folder.name != name]
    yield from sorted(folders, key=step_of, reverse=True)
