"""Where a run is logged beside its own folder: which tracker, and how it is begun."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro
from accelerate import Accelerator


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingConfig:
    """Where a run is logged, beside RUN/log.jsonl, which is always written."""

    tracker: Annotated[
        Literal["wandb", "tensorboard", "trackio", "none"], tyro.conf.arg(aliases=["--tracker"])
    ] = "wandb"
    """W&B without a login runs offline and says how to send the run later."""
    project: str = "flm"
    """The tracker's project."""
    name: str | None = None
    """The run's name in the tracker; the run folder's name if not given."""
    num_pictures: int = 16
    """Validation faces that are drawn at each evaluation, the same ones all along; 0 draws none."""

    def __post_init__(self) -> None:
        if self.num_pictures < 0:
            raise ValueError(f"--tracking.num-pictures is {self.num_pictures}, must be at least 0")


def start_tracker(
    accelerator: Accelerator,
    tracking: TrackingConfig,
    name: str,
    facts: Mapping[str, Any],
    *,
    first_step: int,
) -> None:
    """Begin TensorBoard or Trackio as a tracker of Accelerate, or go on with it.

    Args:
        accelerator: that logs to it.
        tracking: which one.
        name: the run's.
        facts: shown as its configuration.
        first_step: where this start begins.
    """
    options: dict[str, Any] = {}
    values = dict(facts)
    match tracking.tracker:
        case "trackio":
            options = {"name": name, "resume": "allow" if first_step else "never"}
        case "tensorboard":
            # Later points, from before a crash, are not shown; its table of hyper-parameters holds no None.
            options = {"purge_step": first_step + 1} if first_step else {}
            values = {key: str(value) if value is None else value for key, value in facts.items()}
    accelerator.init_trackers(tracking.project, config=values, init_kwargs={tracking.tracker: options})
