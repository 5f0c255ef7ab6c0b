"""A run as one frozen value."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flm.augment import AugmentConfig
from flm.data.loader import CropShape, LoaderConfig
from flm.data.store import is_url
from flm.errors import InputError
from flm.fields import flat_fields, to_fields
from flm.model.losses import LossConfig, check_loss_fits_head
from flm.model.network import ModelConfig
from flm.optimization import OptimizerConfig
from flm.runlog import TrackingConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """All that changes a training run, but for machines, processes and precision, which launch/ owns."""

    recipe: str
    """The name of the recipe that this began as."""
    data: str = "data/300w"
    """Folder of shards, as `python -m shards convert` makes it, or where it was uploaded: https://…, s3://…,
    gs://… or hf://datasets/…"""
    out: Path | None = None
    """Folder of the run; runs/RECIPE if not given."""
    resume: str = "auto"
    """`auto` goes on from the newest checkpoint in --out, `none` starts anew, a path goes on from there."""

    epochs: float = 50.0
    """Passes over the training split."""
    steps: int | None = None
    """Optimizer updates, instead of --epochs."""
    batch_size: int = 32
    """Samples of one update, over all processes and accumulation steps."""
    eval_batch_size: int = 64
    """Samples of one evaluation step, over all processes."""
    accumulation_steps: int = 1
    """Parts that each process computes its share of a batch in, one after another, to save memory."""
    seed: int = 0
    """Of the weights, the order of the samples and the augmentation."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    log_every_steps: int = 20
    """A line in the log."""
    eval_every_steps: int = 200
    """An evaluation on the validation split, and a checkpoint. The last step always has both."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay, beside the best."""
    select_by: Literal["nme", "loss"] = "nme"
    """What the best checkpoint has the lowest of, on the validation split."""
    sync_batch_norm: bool = False
    """Batch statistics over all processes instead of each its own."""
    channels_last: bool = True
    """Memory format of the network; quicker in reduced precision."""
    compile: bool = False
    """Compile the network with torch.compile; the first steps take minutes."""

    def __post_init__(self) -> None:
        for flag, value in (
            ("--epochs", self.epochs),
            ("--steps", 1 if self.steps is None else self.steps),
            ("--batch-size", self.batch_size),
            ("--eval-batch-size", self.eval_batch_size),
            ("--accumulation-steps", self.accumulation_steps),
            ("--log-every-steps", self.log_every_steps),
            ("--eval-every-steps", self.eval_every_steps),
            ("--keep-checkpoints", self.keep_checkpoints),
        ):
            if not 0 < value < math.inf:
                raise ValueError(f"{flag} is {value}, must be a number above 0")
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}, must be at least 0")
        if self.batch_size % self.loader.lanes:
            raise ValueError(
                f"--batch-size {self.batch_size} is no multiple of --loader.lanes {self.loader.lanes}"
            )
        check_loss_fits_head(self.loss.kind, self.model.head)

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
        return dataclasses.replace(
            self,
            data=self.data if is_url(self.data) else str(Path(self.data).resolve()),
            out=self.run.resolve(),
            loader=dataclasses.replace(self.loader, cache_dir=cache_dir.resolve() if cache_dir else None),
            model=dataclasses.replace(self.model, weights=weights.resolve() if weights else None),
        )


MAY_CHANGE = {
    "data", "out", "resume", "epochs", "steps", "eval_batch_size", "accumulation_steps", "tracking",
    "log_every_steps", "eval_every_steps", "keep_checkpoints", "channels_last", "compile",
    "loader.num_workers", "loader.prefetch_batches", "loader.max_open_files", "loader.cache_dir",
    "loader.cache_gib", "loader.max_bad_samples", "model.pretrained", "model.weights",
}  # fmt: skip
"""What a run may be gone on with in another way, because it does not change what a step does.

The number of steps is among them, so that a run can be made longer; the learning rate then follows the new
length from where it stands.
"""


def check_same_run(config: TrainConfig, saved: Mapping[str, Any], where: Path) -> None:
    """Compare a configuration with the one that a checkpoint was made with.

    Args:
        config: what the user asks for.
        saved: the checkpoint's, as read from JSON.
        where: the checkpoint, for messages.

    Raises:
        InputError: a field differs that changes the optimisation.
    """
    before, now = flat_fields(saved), flat_fields(to_fields(config))
    for name in sorted(before.keys() | now.keys()):
        if name in MAY_CHANGE or name.partition(".")[0] in MAY_CHANGE:
            continue
        if before.get(name) != now.get(name):
            flag = "--" + name.replace("_", "-")
            raise InputError(
                f"{where}: was trained with {flag} {before.get(name)}, now it is {now.get(name)}; give the "
                "old value to go on, or --resume none with another --out to start anew"
            )
