"""What every benchmark needs: sides that take turns, rates and medians, and rows of ours beside a peer."""

import contextlib
import random
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from flm.errors import InputError
from flm.files import write_json

T = TypeVar("T")
Clock = Callable[[], float]
"""Seconds from any start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One comparison."""

    measure: str
    ours: float
    peer: float
    unit: str
    bar: float
    """What `ratio` should reach."""
    how: str
    """Conditions, in words."""

    @property
    def ratio(self) -> float:
        """Ours over the peer's; larger is better."""
        return self.ours / self.peer

    @property
    def holds(self) -> bool:
        """Whether the bar is reached."""
        return self.ratio >= self.bar

    def to_json(self) -> dict[str, object]:
        """The fields, with `ratio` and `holds`."""
        return {**asdict(self), "ratio": round(self.ratio, 4), "holds": self.holds}


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the rows of one run share."""

    unit: str
    how: str

    def row(self, measure: str, ours: float, peer: float, *, bar: float, how: str = "") -> Row:
        """A comparison under these conditions; `how` is what is its own."""
        both = f"{how}; {self.how}" if how else self.how
        return Row(measure=measure, ours=ours, peer=peer, unit=self.unit, bar=bar, how=both)


def publish(rows: Sequence[Row], path: Path | None) -> None:
    """Print the rows as a table, and write them as JSON where a path is given."""
    table = Table("measure", "ours", "peer", "unit", "ratio", "bar", "holds")
    for row in rows:
        numbers = (f"{row.ours:,.1f}", f"{row.peer:,.1f}", row.unit, f"{row.ratio:.2f}", f"{row.bar:.2f}")
        table.add_row(row.measure, *numbers, "yes" if row.holds else "no")
    Console().print(table)
    for row in rows:
        print(f"{row.measure}: {row.how}")
    if path is not None:
        write_json(path, {"rows": [row.to_json() for row in rows]})


def rate(items: Iterable[int], *, warm_up: int = 1) -> float:
    """Things a second, from after the first items to the last, so that starting up does not count.

    Args:
        items: how many things each item brings.
        warm_up: how many items are left out; one of each worker at least.
    """
    iterator = iter(items)
    for _ in range(warm_up):
        next(iterator)
    started_s = time.perf_counter()
    count = sum(iterator)
    return count / (time.perf_counter() - started_s)


def per_second(act: Callable[[T], object], items: Iterable[T], clock: Clock = time.perf_counter) -> float:
    """How many items an act does a second, from before the first to after the last."""
    started_s, count = clock(), 0
    for item in items:
        act(item)
        count += 1
    return count / (clock() - started_s)


def median_ms(act: Callable[[T], object], items: Iterable[T], clock: Clock = time.perf_counter) -> float:
    """How long an act takes on one of the items."""
    durations = []
    for item in items:
        started_s = clock()
        act(item)
        durations.append(clock() - started_s)
    return 1000 * statistics.median(durations)


def process_s(command: Sequence[str], clock: Clock = time.perf_counter) -> float:
    """How long a process takes, its start included.

    Raises:
        InputError: it fails; with its last line.
    """
    started_s = clock()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    took_s = clock() - started_s
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no word"]
        raise InputError(f"{' '.join(command[1:4])} ends with exit code {done.returncode}: {said[-1]}")
    return took_s


def turns(sides: Sequence[Callable[[], float]], repetitions: int) -> list[list[float]]:
    """What each side gives, the sides taking turns, so that a noisy machine treats them alike."""
    values: list[list[float]] = [[] for _ in sides]
    for _ in range(repetitions):
        for side, found in zip(sides, values, strict=True):
            found.append(side())
    return values


def medians(sides: Sequence[Callable[[], float]], repetitions: int) -> list[float]:
    """The median of each side; see `turns`."""
    return [statistics.median(found) for found in turns(sides, repetitions)]


@dataclass(frozen=True, slots=True)
class Turns:
    """What sides gave, turn by turn."""

    values: Mapping[str, Sequence[float]]

    def median(self, side: str) -> float:
        """Of a side's turns."""
        return statistics.median(self.values[side])

    def ratio(self, over: str, under: str) -> float:
        """One side over another in the same turn, the median of that; what slows both in a turn drops out."""
        pairs = zip(self.values[over], self.values[under], strict=True)
        return statistics.median(one / other for one, other in pairs)


def take_turns(sides: Mapping[str, Callable[[], float]], repetitions: int) -> Turns:
    """Each side once, which is not counted, and then turn by turn."""
    for side in sides.values():
        side()
    values = turns(list(sides.values()), repetitions)
    return Turns(dict(zip(sides, values, strict=True)))


def free_port() -> int:
    """A port of this machine on which nobody listens, for a server in a process that starts now.

    Below the ports that Linux gives to those who ask for any, so that nobody is given it in the meantime.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_768)
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
