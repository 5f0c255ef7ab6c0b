"""Checkpoints: folders that are there whole or not at all, safetensors and JSON only.

RUN/checkpoints/step_0001200/
    config.json            the run's whole configuration
    model.safetensors      the weights to use (the moving average)
    state.json             step, scaler, what the run has reached
    training.safetensors   raw weights and optimizer moments, to go on from here
    SHA256SUMS             hashes of the files above, for `sha256sum --check` too
RUN/last, RUN/best         links to two of them

No state of a random generator is in it, because no step draws from one that a step before has used: the order
of the samples is a pure function of the seed, augmentation is drawn by (seed, step, row of the global batch),
dropout by (seed, step, process). The learning rate is a function of the step. So the step says all of that,
on any number of processes.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from flm.errors import InputError
from flm.fields import from_fields, parse_json
from flm.files import sha256_of
from flm.model.network import LandmarkNetwork, ModelConfig, build_network

CONFIG_NAME = "config.json"
MODEL_NAME = "model.safetensors"
STATE_NAME = "state.json"
TRAINING_NAME = "training.safetensors"
SUMS_NAME = "SHA256SUMS"
CHECKPOINTS = "checkpoints"
UNFINISHED = ".unfinished"
CHECKPOINT_SCHEMA_VERSION = 1

BEGUN_ANEW = 0
"""A `last` that points at this step, which is never there, says that older checkpoints are another run's."""

_SUM = re.compile(r"([0-9a-f]{64})  ([^/]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """When checkpoints are written, how many stay. Each holds all that is needed to go on."""

    keep: int = 2
    """How many of the newest stay, beside the best."""
    every_steps: int | None = None
    """A checkpoint after as many steps, beside those that each evaluation and the last step have."""
    every_minutes: float | None = None
    """A checkpoint after as much time since the one before, by the first process's clock."""
    on_error: Literal["stop", "continue"] = "stop"
    """When one cannot be written, because the disk is full, say; those before stay in either case."""
    may_differ: tuple[str, ...] = ()
    """Fields, such as optimizer.learning-rate, that may differ from those of the checkpoint that the run goes
    on from, and `data` for other shards; it then ends elsewhere than either run by itself."""

    def __post_init__(self) -> None:
        for flag, value in (
            ("--checkpoint.keep", self.keep),
            ("--checkpoint.every-steps", 1 if self.every_steps is None else self.every_steps),
            ("--checkpoint.every-minutes", 1 if self.every_minutes is None else self.every_minutes),
        ):
            if not 0 < value < float("inf"):
                raise ValueError(f"{flag} is {value}, must be a number above 0")


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
    """The numbers of this step's evaluation, if it had one."""
    run_url: str | None = None
    """Where the training can be looked at, if a tracker has put it online."""


def folder_of_step(run: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return run / CHECKPOINTS / f"step_{step:07d}"


def step_of(checkpoint: Path) -> int:
    """The step in the name of a checkpoint, hidden or not."""
    return int(re.findall(r"step_(\d+)", checkpoint.name)[0])


def hidden(checkpoint: Path) -> Path:
    """Where a checkpoint that is replaced or dropped waits until the new one is there whole."""
    return checkpoint.with_name(f".{checkpoint.name}.old{UNFINISHED}")


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
        fields = parse_json(path.read_bytes())
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


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: missing or damaged.
    """
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: damaged or missing ({error}); take another checkpoint") from error


def load_network(path: Path) -> LandmarkNetwork:
    """The network of a checkpoint, with its weights, in evaluation mode on the CPU.

    Args:
        path: a checkpoint or a run.

    Raises:
        InputError: there is none, it is damaged, or its weights do not fit its configuration.
    """
    checkpoint = find_checkpoint(path)
    config, state = read_network(checkpoint)
    network = build_network(config, load_weights=False)
    load_state(network, state, checkpoint / MODEL_NAME)
    return network.eval()


def read_network(checkpoint: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """What the network of a checkpoint is made of, and its weights.

    Raises:
        InputError: malformed or damaged.
    """
    where = str(checkpoint / CONFIG_NAME)
    config = from_fields(ModelConfig, read_config(checkpoint)["model"], where)
    if (checkpoint / SUMS_NAME).exists():
        # Not with weights that were passed on by themselves.
        check_whole(checkpoint, {MODEL_NAME})
    return config, load_tensors(checkpoint / MODEL_NAME)


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


def check_whole(
    checkpoint: Path, names: Collection[str] = (CONFIG_NAME, MODEL_NAME, STATE_NAME, TRAINING_NAME)
) -> None:
    """Compare files of a checkpoint with their hashes.

    Raises:
        InputError: one is missing, cut or altered, or has no hash.
    """
    where = checkpoint / SUMS_NAME
    try:
        lines = [_SUM.fullmatch(line) for line in where.read_text(encoding="utf-8").splitlines()]
        sums = {line[2]: line[1] for line in lines if line is not None}
        damaged = next((name for name in names if sha256_of(checkpoint / name) != sums.get(name)), None)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{checkpoint}: damaged ({error}); take another checkpoint") from error
    if damaged is not None:
        raise InputError(
            f"{checkpoint / damaged}: damaged (its hash is not that in {SUMS_NAME}); take another checkpoint"
        )


def load_training(checkpoint: Path) -> tuple[TrainingState, dict[str, Tensor], dict[str, Tensor]]:
    """State, network to use, and training tensors, as `save_checkpoint` took them.

    Raises:
        InputError: a file is missing or damaged.
    """
    where = checkpoint / STATE_NAME
    state = from_fields(TrainingState, read_json(where), str(where))
    return state, load_tensors(checkpoint / MODEL_NAME), load_tensors(checkpoint / TRAINING_NAME)
