"""What a run tells: a line on the terminal, a line of JSON, the tracker, a picture of the curves.

All keys stand here. Every process makes the same calls; only the first writes.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from jaxtyping import UInt8

from flm.data.manifest import Manifest
from flm.draw import write_png
from flm.errors import InputError
from flm.fields import to_fields
from flm.files import LineFile, write_whole
from flm.runlog.curves import curves_picture
from flm.runlog.trackers import TrackingConfig, start_tracker

LOG_NAME = "log.jsonl"
CURVES_NAME = "curves.png"
NUMBERS = ("train", "validation")
"""The kinds of lines that hold numbers of a step, for trackers too."""
NO_NUMBERS = {"kind", "step", "time"}
"""What those hold beside."""


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


class RunLog:
    """The log of one run.

    Args:
        run: its folder, which exists.
        tracking: where it is logged.
        accelerator: whose processes log, and whose trackers are used.
        steps: of the whole run.
        first_step: where this start begins; lines of later steps, from before a crash, are dropped.
        facts: what the tracker shows as the run's configuration.
        data: where the shards are.
        manifest: what they hold.
        init_from: the checkpoint that the run began from, if any.

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
        data: str,
        manifest: Manifest,
        init_from: str | None = None,
    ) -> None:
        self.accelerator = accelerator
        self.steps = steps
        self.path = run / LOG_NAME
        self._lines = LineFile(self.path)
        self._wandb: Any = None
        self._other_machine: Any = None
        self.shows_pictures = (
            accelerator.is_main_process
            and tracking.num_pictures > 0
            and tracking.tracker in ("wandb", "tensorboard")
        )
        """Whether `pictures` does anything; they take time to draw."""
        name = tracking.name or run.name
        if accelerator.is_main_process:
            lines = _keep_lines_until(self.path, first_step)
            if tracking.tracker == "wandb":
                self._start_wandb(tracking.project, name, lines, facts, goes_on=first_step > 0)
                self._wandb.use_data(data, manifest)
                if init_from is not None:
                    self._wandb.use_checkpoint(Path(init_from))
            elif tracking.tracker != "none":
                start_tracker(accelerator, tracking, name, facts, first_step=first_step)
        if tracking.tracker == "wandb" and _has_other_machines(accelerator):
            self._start_on_other_machine(run, tracking.project, name)

    @property
    def url(self) -> str | None:
        """Where the run is shown online; None offline, and in other processes than the first."""
        return None if self._wandb is None else self._wandb.url

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
        """An evaluation; `values` are the flat numbers of its report. Draws RUN/curves.png anew."""
        self._write("validation", step, {**values, "seconds": seconds})
        mark = " · best so far" if is_best else ""
        self.say(f"step {step}/{self.steps} · validation NME {values['nme_pct']:.2f} %{mark}")
        if self.accelerator.is_main_process:
            try:
                write_png(self.path.with_name(CURVES_NAME), curves_picture(read_log(self.path)))
            except InputError as error:
                # No reason to stop: the log has all that is on it.
                self.say(f"warning: {error}")

    def pictures(self, step: int, pictures: Mapping[str, UInt8[np.ndarray, "height width 3"]]) -> None:
        """Pictures of a step that was logged, by name, into trackers that show them."""
        named = {f"validation/{name}": picture for name, picture in pictures.items()}
        if self._wandb is not None:
            self._wandb.log_pictures(named, step, time_s=time.time())
        for tracker in self.accelerator.trackers if self.accelerator.is_main_process else ():
            if tracker.name == "tensorboard":
                stacks = {name: picture[None] for name, picture in named.items()}
                tracker.log_images(stacks, step=step, dataformats="NHWC")  # pyright: ignore[reportAttributeAccessIssue]

    def checkpoints(self) -> None:
        """Hand the best checkpoint and the last to W&B as artifacts; once, when both are on the disk."""
        if self._wandb is not None:
            self._wandb.log_checkpoints()

    def warn(self, step: int, text: str) -> None:
        """Something that a person should look at, in the log and on the terminal."""
        self._write("warning", step, {"text": text})
        self.say(f"step {step}/{self.steps} · warning: {text}")

    def preempted(self, step: int) -> None:
        """The run was asked to stop, and will be gone on with; W&B is told at once."""
        self._write("preempted", step, {})
        self.say(f"step {step}/{self.steps} · stopped; --resume auto goes on from here")
        if self._wandb is not None:
            self._wandb.run.mark_preempting()

    def say(self, line: str) -> None:
        """A line on the terminal."""
        if self.accelerator.is_main_process:
            print(line, flush=True)

    def finish(self, *, exit_code: int = 0) -> None:
        """Close the tracker, and say how an offline run is sent.

        Args:
            exit_code: of the program; W&B shows a run of another code than 0 as failed, or as pre-empted.
        """
        self.accelerator.end_training()
        for run in (self._wandb, self._other_machine):
            if run is not None:
                run.finish(exit_code=exit_code)

    def _write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        time_s = round(time.time(), 3)
        line = {"kind": kind, "step": step, "time": time_s, **values}
        self._lines.add(json.dumps(line))
        if kind not in NUMBERS:
            return
        named = {f"{kind}/{name}": value for name, value in values.items()}
        if self._wandb is not None:
            self._wandb.log(named, step, time_s=time_s)
        else:
            self.accelerator.log(named, step=step)

    def _start_wandb(
        self,
        project: str,
        name: str,
        lines: list[dict[str, Any]],
        facts: Mapping[str, Any],
        *,
        goes_on: bool,
    ) -> None:
        # Not with the other trackers, nor where only the configuration is read: it takes a second.
        from flm.runlog.wandb_run import LoggedLine, WandbRun

        logged = []
        for line in lines:
            if (kind := line["kind"]) in NUMBERS:
                values = {f"{kind}/{key}": value for key, value in line.items() if key not in NO_NUMBERS}
                logged.append(LoggedLine(step=line["step"], time_s=line["time"], values=values))
        self._wandb = WandbRun(
            self.path.parent,
            project=project,
            name=name,
            lines=logged,
            goes_on=goes_on,
            facts=facts,
            many_machines=_has_other_machines(self.accelerator),
            say=self.say,
        )

    def _start_on_other_machine(self, run: Path, project: str, name: str) -> None:
        from flm.runlog.wandb_run import log_this_machine

        group = broadcast_object_list([self._wandb.id if self._wandb is not None else ""])[0]
        accelerator = self.accelerator
        if accelerator.is_local_main_process and not accelerator.is_main_process:
            rank = accelerator.process_index
            self._other_machine = log_this_machine(run, project=project, name=name, group=group, rank=rank)


def _has_other_machines(accelerator: Accelerator) -> bool:
    """Whether there are more processes than those of this machine, as launchers tell."""
    here = os.environ.get("LOCAL_WORLD_SIZE")
    return here is not None and accelerator.num_processes > int(here)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, by increasing step.

    Raises:
        InputError: it is no log of flm.
    """
    # A machine that died may have left half a line at the end.
    whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    try:
        lines = [json.loads(line) for line in whole]
        for line in lines:
            _ = (line["kind"], line["step"] + 0, line["time"] + 0)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a log of flm ({error}); move it away") from error
    return lines


def _keep_lines_until(path: Path, step: int) -> list[dict[str, Any]]:
    """Forget the steps that will be made again; gives the lines that stay."""
    if not path.exists():
        return []
    kept = [line for line in read_log(path) if line["step"] <= step]
    write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
    return kept
