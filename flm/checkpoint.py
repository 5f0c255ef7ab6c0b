"""Checkpoints: folders that are there whole or not at all, safetensors and JSON only.

RUN/checkpoints/step_0001200/
    config.json            the run's whole configuration
    model.safetensors      the weights to use (the moving average)
    state.json             step, scaler, what the run has reached
    training.safetensors   raw weights and optimizer moments, to go on from here
RUN/last, RUN/best         links to two of them
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from flm.errors import InputError
from flm.fields import from_fields, to_fields
from flm.files import write_whole
from flm.model.network import LandmarkNetwork, ModelConfig, build_network

CONFIG_NAME = "config.json"
MODEL_NAME = "model.safetensors"
STATE_NAME = "state.json"
TRAINING_NAME = "training.safetensors"
CHECKPOINTS = "checkpoints"
UNFINISHED = ".unfinished"
CHECKPOINT_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """Where a run stands after a step, apart from its tensors."""

    step: int
    """Steps that are done."""
    manifest_hash: str
    """Of the shards that it was trained on."""
    best_score: float | None = None
    """The best validation score so far (lower is better)."""
    best_step: int | None = None
    scaler: dict[str, float] | None = None
    """Of the gradient scaler, in fp16."""
    validation: dict[str, float] | None = None
    """The numbers of the last evaluation."""


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
    folder = run / CHECKPOINTS / f"step_{state.step:07d}"
    unfinished = folder.with_name(f".{folder.name}{UNFINISHED}")
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(_contiguous(model), unfinished / MODEL_NAME)
        safetensors.torch.save_file(_contiguous(training), unfinished / TRAINING_NAME)
        versioned = {"schema_version": CHECKPOINT_SCHEMA_VERSION, **to_fields(config)}
        (unfinished / CONFIG_NAME).write_bytes(_json_bytes(versioned))
        (unfinished / STATE_NAME).write_bytes(_json_bytes(to_fields(state)))
        for file in unfinished.iterdir():
            _to_disk(file)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.replace(folder)
        _point(run / "last", folder)
        if is_best:
            _point(run / "best", folder)
        _drop_old(run, state.step, keep)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{folder}: the checkpoint could not be written ({error}); make room and go on with --resume auto"
        ) from error
    finally:
        # Also what a machine that died left.
        for left in folder.parent.glob(f".*{UNFINISHED}"):
            shutil.rmtree(left, ignore_errors=True)
    return folder


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write JSON that a person can read, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    write_whole(path, _json_bytes(fields))


def _json_bytes(fields: Mapping[str, Any]) -> bytes:
    return (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode()


def _to_disk(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def _point(link: Path, folder: Path) -> None:
    unfinished = link.with_name(f".{link.name}{UNFINISHED}")
    unfinished.unlink(missing_ok=True)
    unfinished.symlink_to(folder.relative_to(link.parent))
    unfinished.replace(link)


def _drop_old(run: Path, step: int, keep: int) -> None:
    """Drop all but the newest; those of later steps, from before the run was begun anew, are the oldest."""
    steps = {folder: int(folder.name.removeprefix("step_")) for folder in (run / CHECKPOINTS).glob("step_*")}
    newest_last = sorted(steps, key=lambda folder: (steps[folder] <= step, steps[folder]))
    best = (run / "best").resolve()
    for folder in newest_last[:-keep]:
        if folder.resolve() != best:
            shutil.rmtree(folder)


def find_checkpoint(path: Path) -> Path:
    """The folder of a checkpoint: the path itself, or the best of a run's folder, or its last.

    Raises:
        InputError: there is none.
    """
    for folder in (path, path / "best", path / "last"):
        if (folder / MODEL_NAME).is_file():
            return folder
    raise InputError(
        f"{path}: no checkpoint here; give a folder with {MODEL_NAME}, or the folder of a training run"
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object out of a checkpoint.

    Raises:
        InputError: missing or malformed.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); take another checkpoint") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path}: not a JSON object; take another checkpoint")
    return fields


def read_config(checkpoint: Path) -> dict[str, Any]:
    """The fields of a checkpoint's configuration.

    Raises:
        InputError: malformed, or of another version of flm.
    """
    where = checkpoint / CONFIG_NAME
    fields = read_json(where)
    version = fields.pop("schema_version", None)
    if version != CHECKPOINT_SCHEMA_VERSION:
        raise InputError(
            f"{where}: checkpoint of version {version}, this flm reads {CHECKPOINT_SCHEMA_VERSION}; "
            "update flm or train again"
        )
    for name in ("model", "loader"):
        if name not in fields:
            raise InputError(f"{where}: {name} is missing; take another checkpoint")
    return fields


def load_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: missing or damaged.
    """
    try:
        return safetensors.torch.load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: damaged or missing ({error}); take another checkpoint") from error


def load_network(path: Path) -> LandmarkNetwork:
    """The network of a checkpoint, with its weights, in evaluation mode on the CPU.

    Args:
        path: a checkpoint or a run.

    Raises:
        InputError: there is none, or its weights do not fit its configuration.
    """
    checkpoint = find_checkpoint(path)
    where = str(checkpoint / CONFIG_NAME)
    config = from_fields(ModelConfig, read_config(checkpoint)["model"], where)
    network = build_network(config, load_weights=False)
    load_state(network, load_tensors(checkpoint / MODEL_NAME), checkpoint / MODEL_NAME)
    return network.eval()


def load_state(network: LandmarkNetwork, state: Mapping[str, Tensor], where: Path) -> None:
    """Put weights into a network, each of them.

    Raises:
        InputError: a weight is missing, left over or of another shape.
    """
    wanted = network.state_dict()
    for name in sorted(wanted.keys() | state.keys()):
        got, expected = (_shape_text(tensors.get(name)) for tensors in (state, wanted))
        if got != expected:
            raise InputError(
                f"{where}: these are the weights of another network ({name} is {got}, expected {expected}); "
                f"keep each with its {CONFIG_NAME}"
            )
    network.load_state_dict(dict(state))


def _shape_text(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else str(tuple(tensor.shape))


def find_training(run: Path, resume: str) -> Path | None:
    """The checkpoint to go on from, or None to start anew.

    Args:
        run: the run's folder.
        resume: `auto`, `none`, or a path to a checkpoint or run.

    Raises:
        InputError: there is no checkpoint at that path, or the run lost its last one.
    """
    if resume == "none":
        return None
    if resume == "auto" and not os.path.lexists(run / "last"):
        return None
    path = run if resume == "auto" else Path(resume)
    for folder in (path, path / "last"):
        if (folder / TRAINING_NAME).is_file():
            return folder.resolve()
    raise InputError(
        f"--resume {resume}: {path} has no checkpoint with {TRAINING_NAME}; give the path of one, or "
        "--resume none and another --out to start anew"
    )


def load_training(checkpoint: Path) -> tuple[TrainingState, dict[str, Tensor], dict[str, Tensor]]:
    """State, network to use, and training tensors, as `save_checkpoint` took them.

    Raises:
        InputError: a file is missing or damaged.
    """
    where = checkpoint / STATE_NAME
    state = from_fields(TrainingState, read_json(where), str(where))
    return state, load_tensors(checkpoint / MODEL_NAME), load_tensors(checkpoint / TRAINING_NAME)
