"""What `flm bench predict` finds: numbers with their bars, as a table and as JSON."""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from rich.console import Console
from rich.table import Table

from flm.bench.measure import turns
from flm.files import write_whole

T = TypeVar("T")
Clock = Callable[[], float]
"""Seconds from any start."""

OURS = "ours"
REPORT_NAME = "predict.json"

FILE_WIDTH = 140
"""Columns of the table where no terminal sets them."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What a number should reach."""

    kind: Literal["at least", "at most"]
    value: float
    is_of_ratio: bool = False
    """Of how many times as good ours is, instead of the value itself."""

    def holds(self, number: float) -> bool:
        """Whether it does; a number that is none does not."""
        return number >= self.value if self.kind == "at least" else number <= self.value


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One side of one subject."""

    subject: str
    side: str
    """Ours, or the peer's name."""
    unit: str
    value: float | None = None
    """None where it could not be measured."""
    beside: float | None = None
    """How many times as good ours was as this side: the median over the turns."""
    bar: Bar | None = None
    how: str = ""
    """Conditions, in words; or why there is no value, in one line."""

    @property
    def holds(self) -> bool | None:
        """Whether the bar is reached; None without a bar or a number."""
        if self.bar is None:
            return None
        number = self.beside if self.bar.is_of_ratio else self.value
        return None if number is None else self.bar.holds(number)

    def to_json(self) -> dict[str, Any]:
        """The fields, with `holds`."""
        return {**dataclasses.asdict(self), "holds": self.holds}


def missing(subject: str, side: str, why: str, *, unit: str = "", bar: Bar | None = None) -> Figure:
    """A side that cannot be measured, and why."""
    return Figure(subject=subject, side=side, unit=unit, bar=bar, how=why)


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


def median_ms(act: Callable[[T], object], items: Iterable[T], clock: Clock = time.perf_counter) -> float:
    """How long an act takes on one of the items."""
    durations = []
    for item in items:
        started_s = clock()
        act(item)
        durations.append(clock() - started_s)
    return 1000 * statistics.median(durations)


def per_second(act: Callable[[T], object], items: Iterable[T], clock: Clock = time.perf_counter) -> float:
    """How many items an act does, from before the first to after the last."""
    started_s, count = clock(), 0
    for item in items:
        act(item)
        count += 1
    return count / (clock() - started_s)


def publish(figures: Sequence[Figure], conditions: Mapping[str, object], out: Path) -> None:
    """Print the table, and write all of it as JSON.

    Args:
        figures: in the order of the table.
        conditions: what they share.
        out: folder of predict.json.
    """
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, FILE_WIDTH)
    table = Table("subject", "side", "value", "unit", "ours beside it", "bar", "holds")
    for figure in figures:
        table.add_row(*_cells(figure))
    console.print(table)
    for figure in figures:
        if figure.how:
            print(f"{figure.subject}, {figure.side}: {figure.how}")
    print("; ".join(f"{name} {value}" for name, value in conditions.items()))
    content = {"conditions": dict(conditions), "figures": [figure.to_json() for figure in figures]}
    write_whole(out / REPORT_NAME, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def _cells(figure: Figure) -> tuple[str, ...]:
    value, beside, bar, verdict = "", "", "", ""
    if figure.value is not None:
        value = f"{figure.value:,.3g}" if figure.value < 100 else f"{figure.value:,.0f}"
    if figure.beside is not None:
        beside = f"{figure.beside:.2f} times"
    if figure.bar is not None:
        unit = "times" if figure.bar.is_of_ratio else figure.unit
        bar = f"{figure.bar.kind} {figure.bar.value:g} {unit}"
        verdict = {True: "yes", False: "no", None: "not measured"}[figure.holds]
    return figure.subject, figure.side, value, figure.unit, beside, bar, verdict
