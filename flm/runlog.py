"""What a run tells: a line on the terminal, a line of JSON, and the tracker. All keys stand here.

Every process makes the same calls; only the first writes.
"""

import contextlib
import json
import os
import resource
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import torch
import tyro
from accelerate import Accelerator
from jaxtyping import UInt8

from flm.checkpoint import CONFIG_NAME, MODEL_NAME, STATE_NAME, read_json, write_json
from flm.errors import InputError
from flm.fields import to_fields
from flm.files import write_whole

LOG_NAME = "log.jsonl"
TRACKER_NAME = "tracker.json"

T = TypeVar("T")


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


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainNumbers:
    """What is told of the steps since the last line."""

    epoch: float
    losses: Mapping[str, float]
    """The parts of the loss; `total` is what was minimised."""
    learning_rate: float
    gradient_norm: float
    images_per_s: float
    """Over all processes."""
    data_wait_pct: float
    """Share of the time in which the first process waited for samples."""
    memory_gib: float
    """Most that the first process held: on the accelerator, or of main memory on a CPU."""
    eta_s: float
    """Time left at this speed."""

    def values(self) -> dict[str, float]:
        """Under the names of the log."""
        losses = {"loss" if part == "total" else f"loss_{part}": value for part, value in self.losses.items()}
        rest = {name: value for name, value in to_fields(self).items() if name != "losses"}
        return {**losses, **rest}


class Clock:
    """Measures the steps between two lines of the log.

    Args:
        device: whose memory is told.
        step: where this start of the run begins.
    """

    def __init__(self, device: torch.device, step: int) -> None:
        self.device = device
        self._begin(step)

    def _begin(self, step: int) -> None:
        self.first_step = step
        self.started_s = time.perf_counter()
        self.waited_s = 0.0
        self.paused_s = 0.0

    def waiting(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; the time until each is there counts as waiting."""
        while True:
            asked_s = time.perf_counter()
            batch = next(batches, None)
            self.waited_s += time.perf_counter() - asked_s
            if batch is None:
                return
            yield batch

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is no training step, such as an evaluation."""
        began_s = time.perf_counter()
        yield
        self.paused_s += time.perf_counter() - began_s

    def read(self, step: int, *, steps: int, batch_size: int) -> dict[str, float]:
        """The timed fields of `TrainNumbers` for the steps since the last reading."""
        elapsed_s = time.perf_counter() - self.started_s - self.paused_s
        seconds_per_step = elapsed_s / max(1, step - self.first_step)
        numbers = {
            "images_per_s": batch_size / seconds_per_step,
            "data_wait_pct": 100 * self.waited_s / elapsed_s,
            "memory_gib": self._memory_gib(),
            "eta_s": (steps - step) * seconds_per_step,
        }
        self._begin(step)
        return numbers

    def _memory_gib(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class RunLog:
    """The log of one run.

    Args:
        run: its folder, which exists.
        tracking: where it is logged.
        accelerator: whose trackers are used.
        steps: of the whole run.
        first_step: where this start begins; lines of later steps, from before a crash, are dropped.
        facts: what the tracker shows as the run's configuration.

    Raises:
        InputError: the log cannot be written, or is damaged.
    """

    def __init__(
        self,
        run: Path,
        tracking: TrackingConfig,
        accelerator: Accelerator,
        *,
        steps: int,
        first_step: int,
        facts: Mapping[str, Any],
    ) -> None:
        self.accelerator = accelerator
        self.steps = steps
        self.path = run / LOG_NAME
        self._wandb: Any = None
        if not accelerator.is_main_process:
            return
        _keep_lines_until(self.path, first_step)
        if tracking.tracker != "none":
            self._start_tracker(run, tracking, facts, goes_on=first_step > 0)

    def train(self, step: int, numbers: TrainNumbers) -> None:
        """The steps since the last call."""
        self._write("train", step, numbers.values())
        minutes, seconds = divmod(int(numbers.eta_s), 60)
        self.say(
            f"step {step}/{self.steps} · epoch {numbers.epoch:.2f} · loss {numbers.losses['total']:.4f} · "
            f"lr {numbers.learning_rate:.1e} · {numbers.images_per_s:.0f} img/s · "
            f"data {numbers.data_wait_pct:.1f} % · {numbers.memory_gib:.1f} GiB · ETA {minutes}:{seconds:02d}"
        )

    def validation(self, step: int, values: Mapping[str, float], *, is_best: bool, seconds: float) -> None:
        """An evaluation; `values` are the flat numbers of its report."""
        self._write("validation", step, {**values, "seconds": seconds})
        mark = " · best so far" if is_best else ""
        self.say(f"step {step}/{self.steps} · validation NME {values['nme_pct']:.2f} %{mark}")

    def pictures(self, step: int, pictures: Mapping[str, UInt8[np.ndarray, "height width 3"]]) -> None:
        """Pictures by name, into trackers that show them."""
        stacks = {f"validation/{name}": picture[None] for name, picture in pictures.items()}
        for tracker in self.accelerator.trackers if self.accelerator.is_main_process else ():
            options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            if hasattr(tracker, "log_images"):
                tracker.log_images(stacks, step=step, **options)  # pyright: ignore[reportAttributeAccessIssue]

    def best_checkpoint(self) -> None:
        """Hand the best checkpoint to W&B as an artifact; once, at the end, since each is a full copy."""
        if self._wandb is None:
            return
        import wandb

        run = self.path.parent
        state = read_json(run / "best" / STATE_NAME)
        artifact = wandb.Artifact(f"{run.name}-best", type="model", metadata=state)
        for name in (CONFIG_NAME, MODEL_NAME, STATE_NAME):
            artifact.add_file(str(run / "best" / name))
        self._wandb.log_artifact(artifact, aliases=["best", f"step-{state['step']}"])

    def say(self, line: str) -> None:
        """A line on the terminal."""
        if self.accelerator.is_main_process:
            print(line, flush=True)

    def finish(self) -> None:
        """Close the tracker and say how an offline run is sent."""
        self.accelerator.end_training()
        if self._wandb is not None and self._wandb.offline:
            folder = Path(self._wandb.dir).parent
            self.say(f"W&B ran offline; to send the run: wandb login && wandb sync {folder}")

    def _write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        line = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); make room and go on with --resume auto"
            ) from error
        self.accelerator.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def _start_tracker(
        self, run: Path, tracking: TrackingConfig, facts: Mapping[str, Any], *, goes_on: bool
    ) -> None:
        kind, name = tracking.tracker, tracking.name or run.name
        options: dict[str, Any] = {}
        values = dict(facts)
        match kind:
            case "wandb":
                options = _wandb_options(run, name, goes_on=goes_on)
            case "trackio":
                options = {"name": name, "resume": "allow" if goes_on else "never"}
            case "tensorboard":
                # Its table of hyper-parameters holds no None.
                values = {key: str(value) if value is None else value for key, value in facts.items()}
        self.accelerator.init_trackers(tracking.project, config=values, init_kwargs={kind: options})
        if kind == "wandb":
            self._wandb = self.accelerator.get_tracker("wandb", unwrap=True)


def _wandb_options(run: Path, name: str, *, goes_on: bool) -> dict[str, Any]:
    """One id for all starts of a run, so that going on continues its curves."""
    path = run / TRACKER_NAME
    if not goes_on or not path.exists():
        write_json(path, {"wandb_id": secrets.token_hex(4)})
    options: dict[str, Any] = {
        "name": name,
        "id": read_json(path)["wandb_id"],
        "resume": "allow",
        "dir": str(run),
    }
    if "WANDB_MODE" not in os.environ and not _has_wandb_login():
        options["mode"] = "offline"
    return options


def _has_wandb_login() -> bool:
    import wandb

    return wandb.login(prompt=False, verify=False)


def _keep_lines_until(path: Path, step: int) -> None:
    """Forget the steps that will be made again."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    # A machine that died may have left half a line at the end.
    whole = [line for line in lines if line.endswith(b"\n")]
    try:
        kept = [line for line in whole if json.loads(line)["step"] <= step]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a log of flm ({error}); move it away") from error
    write_whole(path, b"".join(kept))
