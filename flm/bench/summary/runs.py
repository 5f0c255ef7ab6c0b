"""A benchmark that was run: what it measured, or why it did not, on which machine, and when."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flm.bench.machine import Machine
from flm.bench.summary.comparisons import comparisons
from flm.errors import InputError
from flm.fields import from_fields, to_fields
from flm.files import write_json

RUN_NAME = "run.json"
LOG_NAME = "log.txt"

_MACHINE_PATH = re.compile(r"(?<![\w.:/~-])/(?:[\w.+-]+/)+([\w.+-]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One of them."""

    command: str
    """That does it again."""
    began: str
    """Date and time, UTC."""
    seconds: float | None
    """None where it is not known, as of runs by hand."""
    machine: Machine
    conditions: str = ""
    """In words, written by hand: what a reader of the rows has to know, such as why a bar is missed."""
    why: str = ""
    """It failed; empty where it did not."""
    result: dict[str, Any] | None = None
    """What the benchmark wrote; None where it failed before."""

    @property
    def is_done(self) -> bool:
        """Whether it came to its end."""
        return not self.why and self.result is not None

    @property
    def date(self) -> str:
        """Without the time."""
        return self.began[:10]

    def write(self, folder: Path) -> None:
        """Into a folder of its own.

        Raises:
            InputError: it cannot be written.
        """
        write_json(folder / RUN_NAME, to_fields(self))

    @classmethod
    def read(cls, folder: Path) -> "Run | None":
        """What `write` wrote; None where nothing is.

        Raises:
            InputError: it is damaged, or of another version of flm.
        """
        path = folder / RUN_NAME
        if not path.exists():
            return None
        try:
            fields = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read; delete it, and it is measured again") from error
        return from_fields(cls, fields, str(path))

    def without_machine_paths(self) -> "Run":
        """With the names of files and folders alone, since where they lie is nobody's business."""
        command, result = _without_paths(self.command), _without_paths(self.result)
        return replace(self, command=command, result=result)


@dataclass(frozen=True, slots=True)
class NotRun:
    """A benchmark without a result, and why."""

    why: str


Outcome = Run | NotRun


def describe(run: Run) -> str:
    """What came out, in a line."""
    took = "" if run.seconds is None else f" after {duration(run.seconds)}"
    if not run.is_done:
        return f"FAILED{took}: {run.why}"
    reached, bars = bars_of(run)
    return f"{reached} of {bars} bars reached{took}" if bars else f"measured{took}"


def bars_of(run: Run) -> tuple[int, int]:
    """How many bars were reached, and how many there are."""
    verdicts = [row.holds for row in comparisons(run.result or {}) if row.holds is not None]
    return sum(verdicts), len(verdicts)


def duration(seconds: float) -> str:
    """Such as 2 min 13 s, or 3 h 05 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_paths(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_without_paths(one) for one in value]
    return _MACHINE_PATH.sub(r"\1", value) if isinstance(value, str) else value
