"""Numbers that a benchmark found, each with the bar that it should reach, as a table and as JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from flm.files import write_json

OURS = "ours"
"""How a side of ours is called, or begins to be."""

NOT_MEASURED = "not measured"

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
    """How many times as good ours was as this side: the median over the turns where there were several."""
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


def publish_figures(
    figures: Sequence[Figure], path: Path | None, conditions: Mapping[str, object] | None = None
) -> None:
    """Print the table, and write all of it as JSON where a path is given.

    Args:
        figures: in the order of the table.
        path: the JSON file.
        conditions: what the figures share.
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
    shared = dict(conditions or {})
    if shared:
        print("; ".join(f"{name} {value}" for name, value in shared.items()))
    if path is not None:
        write_json(path, {"conditions": shared, "figures": [figure.to_json() for figure in figures]})


def digits(value: float) -> str:
    """A number with the digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _cells(figure: Figure) -> tuple[str, ...]:
    beside, bar, verdict = "", "", ""
    value = "" if figure.value is None else digits(figure.value)
    if figure.beside is not None:
        beside = f"{figure.beside:.2f} times"
    if figure.bar is not None:
        unit = "times" if figure.bar.is_of_ratio else figure.unit
        bar = f"{figure.bar.kind} {figure.bar.value:g} {unit}"
        verdict = {True: "yes", False: "no", None: NOT_MEASURED}[figure.holds]
    return figure.subject, figure.side, value, figure.unit, beside, bar, verdict
