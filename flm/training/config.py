"""A run as one frozen value."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flm.augment import AugmentConfig
from flm.checkpoint import CheckpointConfig
from flm.data.loader import CropShape, LoaderConfig
from flm.data.store import is_url
from flm.errors import InputError
from flm.fields import flat_fields, to_fields
from flm.model.losses import LossConfig, check_loss_fits_head
from flm.model.network import ModelConfig
from flm.runlog.trackers import TrackingConfig
from flm.training.guards import GuardConfig
from flm.training.optimization import OptimizerConfig
from flm.training.profiling import parse_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """All that changes a training run, but for machines, processes and precision, which launch/ owns.

    It ends with exit code 0; with 2 for a mistake; with 75 when a signal stopped it, or 76 when a process is
    missing, and the same command then goes on.
    """

    recipe: str
    """The name of the recipe that this began as."""
    data: str = "data/300w"
    """Folder of shards, as `python -m shards convert` makes it, or where it was uploaded: https://…, s3://…,
    gs://… or hf://datasets/…"""
    out: Path | None = None
    """Folder of the run; runs/RECIPE if not given."""
    resume: str = "auto"
    """`auto` goes on from the newest checkpoint in --out, `none` starts anew, a path goes on from there."""
    init_from: str | None = None
    """A checkpoint, a run (its best) or hf://USER/NAME, of the same backbone: a run that starts anew takes
    all weights that fit from there instead of ImageNet's, also between landmark schemes and heads."""

    epochs: float = 50.0
    """Passes over the training split."""
    steps: int | None = None
    """Optimizer updates, instead of --epochs."""
    batch_size: int = 32
    """Samples of one update, over all processes and accumulation steps."""
    eval_batch_size: int = 64
    """Samples of one evaluation step, over all processes; rounded up to a multiple of their number."""
    accumulation_steps: int = 1
    """Parts that each process computes its share of a batch in, one after another, to save memory."""
    auto_batch_size: bool = False
    """Raise --accumulation-steps before the first step until one fits into memory; the batch stays."""
    seed: int = 0
    """Of the weights, the order of the samples and the augmentation."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    guards: GuardConfig = field(default_factory=GuardConfig)

    log_every_steps: int = 20
    """A line in the log."""
    eval_every_steps: int = 200
    """An evaluation on the validation split, and a checkpoint. The last step always has both."""
    select_by: Literal["nme", "loss"] = "nme"
    """What the best checkpoint has the lowest of, on the validation split."""
    patience_evaluations: int | None = None
    """The run stops early when as many evaluations have gone by without a better one."""
    sync_batch_norm: bool = False
    """Batch statistics over all processes instead of each its own."""
    channels_last: bool = True
    """Memory format of the network; quicker in reduced precision."""
    compile: bool = False
    """Compile the network with torch.compile; the first steps take minutes."""
    profile: str | None = None
    """Steps whose time is taken apart, such as steps=10..20, into RUN/profile/."""

    def __post_init__(self) -> None:
        for flag, value in (
            ("--epochs", self.epochs),
            ("--steps", 1 if self.steps is None else self.steps),
            ("--batch-size", self.batch_size),
            ("--eval-batch-size", self.eval_batch_size),
            ("--accumulation-steps", self.accumulation_steps),
            ("--log-every-steps", self.log_every_steps),
            ("--eval-every-steps", self.eval_every_steps),
            ("--patience-evaluations", 1 if self.patience_evaluations is None else self.patience_evaluations),
        ):
            if not 0 < value < math.inf:
                raise ValueError(f"{flag} is {value}, must be a number above 0")
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}, must be at least 0")
        if self.batch_size % self.loader.lanes:
            raise ValueError(
                f"--batch-size {self.batch_size} is no multiple of --loader.lanes {self.loader.lanes}"
            )
        if self.auto_batch_size and self.sync_batch_norm:
            raise ValueError(
                "--auto-batch-size cannot try what --sync-batch-norm computes on all processes at once; find "
                "--accumulation-steps by hand"
            )
        check_loss_fits_head(self.loss.kind, self.model.head)
        if self.profile is not None:
            parse_steps(self.profile)

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.out if self.out is not None else Path("runs") / self.recipe

    @property
    def crop(self) -> CropShape:
        """The network's view of a face."""
        return CropShape(size_px=self.model.input_size_px, margin=self.model.crop_margin)

    def num_steps(self, num_samples: int) -> int:
        """Optimizer updates of the run, for a training split of that many samples."""
        if self.steps is not None:
            return self.steps
        return math.ceil(self.epochs * num_samples / self.batch_size)

    def with_resolved_paths(self) -> "TrainConfig":
        """The same run wherever it is gone on from."""
        weights, cache_dir = self.model.weights, self.loader.cache_dir
        init_from = self.init_from
        return dataclasses.replace(
            self,
            data=self.data if is_url(self.data) else str(Path(self.data).resolve()),
            out=self.run.resolve(),
            init_from=init_from if init_from is None or is_url(init_from) else str(Path(init_from).resolve()),
            loader=dataclasses.replace(self.loader, cache_dir=cache_dir.resolve() if cache_dir else None),
            model=dataclasses.replace(self.model, weights=weights.resolve() if weights else None),
        )


MAY_CHANGE = {
    "data", "out", "resume", "init_from", "epochs", "steps", "eval_batch_size", "accumulation_steps",
    "tracking", "auto_batch_size", "guards", "profile",
    "checkpoint", "log_every_steps", "eval_every_steps", "patience_evaluations", "channels_last", "compile",
    "loader.num_workers", "loader.prefetch_batches", "loader.max_open_files", "loader.cache_dir",
    "loader.cache_gib", "loader.max_bad_samples", "model.pretrained", "model.weights",
}  # fmt: skip
"""What a run may be gone on with in another way, because it does not change what a step does.

The number of steps is among them, so that a run can be made longer; the learning rate then follows the new
length from where it stands.
"""


FITS_ANY_WEIGHTS = {
    "model.input_size_px", "model.crop_margin", "model.dropout", "model.freeze_batch_norm",
}  # fmt: skip
"""The fields of a network that change no weight's shape."""


def check_same_run(config: TrainConfig, saved: Mapping[str, Any], where: Path) -> None:
    """Compare a configuration with the one that a checkpoint was made with.

    Args:
        config: what the user asks for.
        saved: the checkpoint's, as read from JSON.
        where: the checkpoint, for messages.

    Raises:
        InputError: a field differs that changes the optimisation, and `--checkpoint.may-differ` has it not.
    """
    before, now = flat_fields(saved), flat_fields(to_fields(config))
    may_differ = {name.replace("-", "_") for name in config.checkpoint.may_differ}
    unknown = sorted(name for name in may_differ if not any(_is_part(field, {name}) for field in now))
    if unknown:
        raise InputError(f"--checkpoint.may-differ {unknown[0]}: there is no such field; see --help")
    # The recipe decides most other fields, so it is told first.
    names = sorted(before.keys() | now.keys(), key=lambda name: (name != "recipe", name))
    different = [
        name
        for name in names
        if before.get(name) != now.get(name) and not _is_part(name, MAY_CHANGE | may_differ)
    ]
    if different:
        raise InputError(f"{where}: was trained with {_ways_out(different, before, now)}")


def _ways_out(different: Sequence[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The fields that differ, and what to do about it."""
    flags = [name if name == "recipe" else "--" + name.replace("_", "-") for name in different]
    few, more = flags[:4], "…" * (len(flags) > 4)
    others = f" ({', '.join([*few[1:], *more])} too)" if flags[1:] else ""
    if any(name.startswith("model.") and name not in FITS_ANY_WEIGHTS for name in different):
        on_purpose = "as the weights fit no other network,"
    else:
        names = " ".join([*(flag.removeprefix("--") for flag in few), *more])
        on_purpose = f"--checkpoint.may-differ {names} to change it on purpose,"
    first = different[0]
    return (
        f"{flags[0]} {before.get(first)}, now it is {now.get(first)}{others}; give the old value to go on, "
        f"{on_purpose} or --resume none with another --out to start anew"
    )


def _is_part(name: str, fields: Collection[str]) -> bool:
    """Whether a dotted name is one of these fields, or inside one."""
    return name in fields or name.partition(".")[0] in fields
