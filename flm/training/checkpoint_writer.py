"""Checkpoints written beside the training: it waits only for the copy of its tensors to main memory."""

import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from flm.checkpoint import (
    BEGUN_ANEW,
    CHECKPOINT_SCHEMA_VERSION,
    CHECKPOINTS,
    CONFIG_NAME,
    MODEL_NAME,
    STATE_NAME,
    SUMS_NAME,
    TRAINING_NAME,
    UNFINISHED,
    CheckpointConfig,
    TrainingState,
    folder_of_step,
    hidden,
    step_of,
)
from flm.errors import InputError, warn
from flm.fields import to_fields
from flm.files import json_bytes, sha256_of, sync
from flm.training.guards import check_finite


class CheckpointWriter:
    """Writes the checkpoints of a run, one at a time, in a thread of its own.

    Only the first process uses it, and no other process is waited for, so its clock alone decides when a
    checkpoint is due. A process that ends in any way but by a kill waits for what it began to write.

    As a context it waits at the end; if the run ends by an error then, a failure to write is a warning.

    Args:
        run: the run's folder.
        config: when and how many.
    """

    def __init__(self, run: Path, config: CheckpointConfig) -> None:
        self.run = run
        self.config = config
        self.step: int | None = None
        """Of the newest checkpoint that is there whole, as far as is known."""
        self.best: tuple[float, int] | None = None
        """Score and step of what `best` points at."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._begun_s = time.monotonic()
        self._copies: dict[str, Tensor] = {}

    def is_due(self, step: int) -> bool:
        """Whether a step ends with a checkpoint although it ends with no evaluation.

        Raises:
            InputError: the one before could not be written, and the run shall stop then.
        """
        if self._writing is not None and self._writing.done():
            self.wait()
        every_steps, every_minutes = self.config.every_steps, self.config.every_minutes
        if every_steps is not None and step % every_steps == 0:
            return True
        return every_minutes is not None and time.monotonic() - self._begun_s >= 60 * every_minutes

    def save(
        self,
        config: Any,
        state: TrainingState,
        *,
        model: Mapping[str, Tensor],
        training: Mapping[str, Tensor],
        is_best: bool,
    ) -> None:
        """Copy the tensors and begin to write them, once the checkpoint before is written.

        Args:
            config: the run's whole configuration.
            state: where the run stands.
            model: state of the network to use; may change as soon as this returns.
            training: state to go on from; the same.
            is_best: whether `best` shall point at it.

        Raises:
            InputError: the one before could not be written, and the run shall stop then.
        """
        self.wait()
        self._begun_s = time.monotonic()
        copies = self._copied(model, "model"), self._copied(training, "training")
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self._writing = self._executor.submit(self._write, config, state, *copies, is_best)

    def wait(self) -> None:
        """Until what was begun is on the disk. To be called before anything reads it, and before a stop.

        Raises:
            InputError: it could not be written, and the run shall stop then; otherwise that is a warning.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except InputError as error:
            if self.config.on_error == "stop":
                raise InputError(f"{error} and go on with --resume auto") from error
            warn(f"{error}, the run goes on without it")

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        except InputError as error:
            if kind is None:
                raise
            warn(str(error))
        finally:
            self._executor.shutdown()

    def _copied(self, tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
        """Contiguous copies, in memory that is kept for the next checkpoint, since fresh memory is slow."""
        copies = {}
        for name, tensor in tensors.items():
            copy = self._copies.get(f"{group}.{name}")
            if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
                copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
                self._copies[f"{group}.{name}"] = copy
            copies[name] = copy.copy_(tensor.detach(), non_blocking=True)
        return copies

    def _write(
        self,
        config: Any,
        state: TrainingState,
        model: Mapping[str, Tensor],
        training: Mapping[str, Tensor],
        is_best: bool,
    ) -> None:
        where = str(folder_of_step(self.run, state.step))
        for tensors in (model, training):
            check_finite(tensors, where)
        keep = self.config.keep
        save_checkpoint(self.run, config, state, model=model, training=training, is_best=is_best, keep=keep)
        self.step = state.step
        if is_best and state.best_score is not None:
            self.best = state.best_score, state.step


def save_checkpoint(
    run: Path,
    config: Any,
    state: TrainingState,
    *,
    model: Mapping[str, Tensor],
    training: Mapping[str, Tensor],
    is_best: bool,
    keep: int,
) -> Path:
    """Write a checkpoint, point `last` (and `best`) at it, and drop old ones.

    Args:
        run: the run's folder.
        config: the run's whole configuration.
        state: where the run stands.
        model: state of the network to use.
        training: state to go on from.
        is_best: whether `best` shall point at it.
        keep: how many of the newest stay; `best` stays in any case.

    Raises:
        InputError: it could not be written, because the disk is full, say. What was there stays.
    """
    folder = folder_of_step(run, state.step)
    unfinished = folder.with_name(f".{folder.name}{UNFINISHED}")
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(_contiguous(model), unfinished / MODEL_NAME)
        safetensors.torch.save_file(_contiguous(training), unfinished / TRAINING_NAME)
        versioned = {"schema_version": CHECKPOINT_SCHEMA_VERSION, **to_fields(config)}
        (unfinished / CONFIG_NAME).write_bytes(json_bytes(versioned))
        (unfinished / STATE_NAME).write_bytes(json_bytes(to_fields(state)))
        _write_sums(unfinished)
        _put_in_place(unfinished, folder)
        _point(run / "last", folder)
        if is_best:
            _point(run / "best", folder)
        _drop_old(run, state.step, keep)
        # The old ones, and what a machine that died left.
        for left in folder.parent.glob(f".*{UNFINISHED}"):
            shutil.rmtree(left, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{folder}: the checkpoint could not be written ({error}), those before are kept; make room"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def begin_at(run: Path, checkpoint: Path | None) -> None:
    """Let `last` say where a run begins that does not go on from its newest checkpoint.

    Killed before its first checkpoint and started again, it would otherwise go on from one of an older run.

    Args:
        run: the run's folder.
        checkpoint: where it begins; None for its start.

    Raises:
        InputError: it cannot be written.
    """
    if not (run / CHECKPOINTS).is_dir():
        return
    step = BEGUN_ANEW
    if checkpoint is not None and checkpoint.parent == (run / CHECKPOINTS).resolve():
        step = step_of(checkpoint)
    try:
        _point(run / "last", folder_of_step(run, step))
    except OSError as error:
        raise InputError(
            f"{run / 'last'}: cannot be written ({error.strerror}); make room, or take another --out"
        ) from error


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _write_sums(folder: Path) -> None:
    """The hashes of all files, which are on the disk then, as `sha256sum --check` reads them."""
    files = sorted(folder.iterdir())
    (folder / SUMS_NAME).write_text("".join(f"{sha256_of(file)}  {file.name}\n" for file in files))
    for path in (*files, folder / SUMS_NAME, folder):
        sync(path)


def _put_in_place(unfinished: Path, folder: Path) -> None:
    if folder.exists():
        # Of the same step, but without its evaluation, or from before the run was begun anew.
        _hide(folder)
    unfinished.replace(folder)
    sync(folder.parent)


def _point(link: Path, folder: Path) -> None:
    unfinished = link.with_name(f".{link.name}{UNFINISHED}")
    unfinished.unlink(missing_ok=True)
    unfinished.symlink_to(folder.relative_to(link.parent))
    unfinished.replace(link)
    sync(link.parent)


def _drop_old(run: Path, step: int, keep: int) -> None:
    """Drop all but the newest; those of later steps, from before the run was begun anew, are the oldest."""
    steps = {folder: step_of(folder) for folder in (run / CHECKPOINTS).glob("step_*")}
    newest_last = sorted(steps, key=lambda folder: (steps[folder] <= step, steps[folder]))
    best = (run / "best").resolve()
    for folder in newest_last[:-keep]:
        if folder.resolve() != best:
            _hide(folder)


def _hide(folder: Path) -> None:
    """Put a checkpoint out of sight at once, so that a kill leaves none with half of its files."""
    # A kill may have left the one that it replaced.
    shutil.rmtree(hidden(folder), ignore_errors=True)
    folder.replace(hidden(folder))
