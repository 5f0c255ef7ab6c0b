"""Where the time of training steps goes: a trace of some of them, and the share of each part.

`--profile steps=10..20` records the steps that the log counts as 10 to 20, both included. The trace is read
with https://ui.perfetto.dev or Chrome's about:tracing.
"""

import contextlib
import gzip
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.autograd.profiler import record_function

from flm.errors import InputError
from flm.files import write_json

Part = Literal["data", "augmentation", "forward", "backward", "optimizer"]
PARTS: tuple[Part, ...] = get_args(Part)

TRACE_NAME = "trace.json"
SHARES_NAME = "shares.json"
MOST_TRACE_BYTES = 50 * 2**20
"""Above this the trace is compressed; the viewers read it either way."""

_PREFIX = "flm."
_STEP = "flm.step"
_STEPS = re.compile(r"steps=(\d+)\.\.(\d+)")
_COMMUNICATION = re.compile(r"gloo:|nccl:|ncclDevKernel|ncclKernel")

Intervals = list[tuple[float, float]]


def parse_steps(text: str) -> range:
    """The steps that `--profile` names, counted from 1 as in the log.

    Raises:
        ValueError: it is not `steps=FIRST..LAST`.
    """
    found = _STEPS.fullmatch(text)
    first, last = map(int, found.groups()) if found else (0, 0)
    if not 1 <= first <= last:
        raise ValueError(f"--profile is {text}, expected steps=FIRST..LAST with 1 <= FIRST <= LAST")
    return range(first, last + 1)


def span(part: Part) -> AbstractContextManager[None]:
    """Marks a part of a step; costs a look at a flag where this process does not record.

    While it records, the device is waited for at the end, so that its time counts where it was caused. That
    makes recorded steps a little slower than others on a GPU.
    """
    if torch.autograd._profiler_enabled():  # pyright: ignore[reportPrivateImportUsage] - of no public name
        return _recorded(_PREFIX + part)
    return contextlib.nullcontext()


@contextlib.contextmanager
def _recorded(name: str) -> Iterator[None]:
    with record_function(name):
        yield
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()


@dataclass(frozen=True, kw_only=True, slots=True)
class StepShares:
    """What recorded steps spent their time on."""

    first_step: int
    last_step: int
    seconds_per_step: float
    share_pct: dict[str, float]
    """Of each of `PARTS` without the communication that it waited for, of `communication`, and of the `rest`.
    Adds up to 100."""
    hidden_communication_pct: float
    """Communication beside which the process computed, as a share of the same time."""

    def describe(self) -> str:
        """One line."""
        shares = " · ".join(f"{name} {share:.1f} %" for name, share in self.share_pct.items())
        hidden = f" (a further {self.hidden_communication_pct:.1f} % beside computation)"
        shares = shares.replace(" · rest", f"{hidden} · rest") if self.hidden_communication_pct else shares
        return (
            f"profile of steps {self.first_step} to {self.last_step}, {1000 * self.seconds_per_step:.1f} ms "
            f"each: {shares}"
        )


class StepProfiler:
    """Records the steps of `--profile`; does nothing without the flag.

    Args:
        text: the flag, as `parse_steps` reads it.
        folder: where the trace and the shares go.
        steps: of the whole run.
        records: whether this process does, which one of them is enough for.
        say: tells a line.
        pause: entered while the trace is written, which is no part of the training.

    Raises:
        InputError: the run ends before the first of the steps.
    """

    def __init__(
        self,
        text: str | None,
        folder: Path,
        *,
        steps: int,
        records: bool = True,
        say: Callable[[str], None] = print,
        pause: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        wanted = range(0) if text is None else parse_steps(text)
        self.steps = range(wanted.start, min(wanted.stop, steps + 1))
        if wanted and not self.steps:
            raise InputError(f"--profile {text}: the run has {steps} steps; name earlier ones")
        self.records = records
        self.folder = folder
        self.say = say
        self.pause = pause
        self._profile: torch.profiler.profile | None = None
        self._recorded: list[int] = []

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around a step, of which 1 is the run's first."""
        if number not in self.steps or not self.records:
            yield
            return
        if self._profile is None:
            self._profile = _started()
        with _recorded(_STEP):
            yield
        self._recorded.append(number)
        if number == self.steps[-1]:
            with self.pause():
                self._finish(self._profile)

    def _finish(self, profile: torch.profiler.profile) -> None:
        profile.stop()
        shares = shares_of(profile.events() or [], self._recorded[0], self._recorded[-1])
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            trace = self.folder / TRACE_NAME
            profile.export_chrome_trace(str(trace))
            trace = _compressed_if_large(trace)
        except OSError as error:
            raise InputError(
                f"{self.folder}: the profile cannot be written ({error.strerror}); make room, or go on "
                "without --profile"
            ) from error
        write_json(self.folder / SHARES_NAME, asdict(shares))
        self.say(f"{shares.describe()} · {trace}")


def _started() -> torch.profiler.profile:
    # Kineto tells on the terminal that it found no GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    profile = torch.profiler.profile(activities=activities, acc_events=True)
    profile.start()
    return profile


def _compressed_if_large(trace: Path) -> Path:
    if trace.stat().st_size <= MOST_TRACE_BYTES:
        return trace
    packed = trace.with_name(f"{trace.name}.gz")
    with trace.open("rb") as plain, gzip.open(packed, "wb", compresslevel=5) as file:
        shutil.copyfileobj(plain, file)
    trace.unlink()
    return packed


def shares_of(events: Iterable[Any], first_step: int, last_step: int) -> StepShares:
    """What the time of the recorded steps was spent on.

    A part has the time of its spans, but for the time in which nothing was computed while gloo or NCCL
    worked: that is communication. Communication beside computation, as DistributedDataParallel arranges it in
    the backward pass, delays nobody and is told apart.

    Args:
        events: PyTorch's `FunctionEvent`s, their times in µs.
        first_step: the first that was recorded.
        last_step: the last.
    """
    events = list(events)
    communicating = [event for event in events if _COMMUNICATION.match(event.name)]
    communication = _intervals(communicating)
    computation = _intervals(_computing(events, {event.thread for event in communicating}))

    def spans(name: str) -> Intervals:
        return _intervals(event for event in events if event.name == name and _is_on_host(event))

    def waited_us(within: Intervals) -> float:
        either = _length(_clipped(communication + computation, within))
        return either - _length(_clipped(computation, within))

    steps = spans(_STEP)
    parts = {part: spans(_PREFIX + part) for part in PARTS}
    us = {part: _length(within) - waited_us(within) for part, within in parts.items()}
    us["communication"] = sum(waited_us(within) for within in parts.values())
    step_us = _length(steps)
    us["rest"] = step_us - sum(us.values())
    hidden_us = _length(_clipped(communication, steps)) - waited_us(steps)
    return StepShares(
        first_step=first_step,
        last_step=last_step,
        seconds_per_step=step_us / 1e6 / (last_step - first_step + 1),
        share_pct={name: 100 * value / step_us for name, value in us.items()},
        hidden_communication_pct=100 * hidden_us / step_us,
    )


def _is_on_host(event: Any) -> bool:
    return event.device_type.name == "CPU"


def _computing(events: Iterable[Any], communicating_threads: set[int]) -> Iterator[Any]:
    """Kernels where there is a device that runs them, else operators of threads that do not communicate."""
    events = list(events)
    kernels = [
        event
        for event in events
        if not _is_on_host(event) and not event.is_user_annotation and "nccl" not in event.name.lower()
    ]
    if kernels:
        yield from kernels
        return
    for event in events:
        if event.name.startswith("aten::") and event.thread not in communicating_threads:
            yield event


def _intervals(events: Iterable[Any]) -> Intervals:
    return [(event.time_range.start, event.time_range.end) for event in events]


def _clipped(intervals: Intervals, within: Intervals) -> Intervals:
    """The parts of intervals that lie in others, which do not overlap each other."""
    if not intervals:
        return []
    starts, ends = np.array(intervals).T
    clipped: Intervals = []
    for start, end in within:
        low, high = np.maximum(starts, start), np.minimum(ends, end)
        clipped += [tuple(pair) for pair in np.stack([low, high], axis=1)[low < high].tolist()]
    return clipped


def _length(intervals: Intervals) -> float:
    """What intervals cover together; where they overlap counts once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
