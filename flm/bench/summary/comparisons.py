"""What benchmarks wrote, as rows of one kind: ours, a peer's, how many times as good, and the bar."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flm.bench.figures import NOT_MEASURED, OURS, digits

TIMES = "\N{MULTIPLICATION SIGN}"

CLOSE_TO_BAR = 0.02
"""Nearer to it, ratios are told with a digit more."""

UNITS = {"1/s": "a second", "NME, %": "% NME"}
"""That read badly behind a number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One row, in words, with the numbers that charts need."""

    subject: str
    side: str = ""
    """The peer, where one subject has several."""
    ours: str
    peer: str = ""
    ratio: str = ""
    """How many times as good as the peer's, with its sign."""
    bar: str = ""
    holds: bool | None = None
    """Whether the bar is reached; None without a bar or a number."""
    margin: float | None = None
    """How many times the bar was reached; infinite where a number that should be small is 0 or less."""
    how: str = ""

    @property
    def name(self) -> str:
        """What is compared."""
        if not self.side:
            return self.subject
        return f"{self.subject}, beside {self.side}" if self.peer else f"{self.subject}: {self.side}"


def comparisons(result: Mapping[str, Any]) -> list[Comparison]:
    """The rows of what a benchmark wrote as JSON; none where it compares nothing with a peer or a bar."""
    if "figures" in result:
        return list(_of_figures(result["figures"]))
    if "kills" in result:
        return [_of_kills(result)]
    return [_of_row(row) for row in result.get("rows", ()) if "ratio" in row]


def amount(value: float, unit: str = "") -> str:
    """A number with digits that mean something, and its unit."""
    return f"{digits(value)} {UNITS.get(unit, unit)}".rstrip()


def times(ratio: float, bar: float | None = None) -> str:
    """Such as 17.0 ×: three digits; four close to the bar, so that it does not seem to be on it."""
    if ratio >= 1000:
        return f"{ratio:,.0f} {TIMES}"
    is_close = bar is not None and abs(ratio / bar - 1) < CLOSE_TO_BAR
    # Zeros at the end say how exact it is.
    return f"{f'{ratio:#.{4 if is_close else 3}g}'.rstrip('.')} {TIMES}"


def _of_row(row: Mapping[str, Any]) -> Comparison:
    return Comparison(
        subject=row["measure"],
        ours=amount(row["ours"], row["unit"]),
        peer=amount(row["peer"], row["unit"]),
        ratio=times(row["ratio"], row["bar"]),
        bar=f"≥ {row['bar']:g}",
        holds=row["holds"],
        margin=row["ratio"] / row["bar"],
        how=row["how"],
    )


def _of_kills(result: Mapping[str, Any]) -> Comparison:
    when = ", ".join(f"{count} in {moment}" for moment, count in sorted(result["moments"].items()))
    holds = result["same_weights"] and result["same_log"]
    end = "the same weights and log" if holds else "other weights or another log"
    return Comparison(
        subject=f"training killed {result['kills']} times, vs. the same left alone",
        ours=f"{end}, in {result['seconds']:.0f} s",
        bar="the same bits",
        holds=holds,
        how=f"{when}; {result['how']}",
    )


def _of_figures(figures: Sequence[Mapping[str, Any]]) -> Iterator[Comparison]:
    ours = {figure["subject"]: figure for figure in figures if figure["side"] == OURS}
    for figure in figures:
        is_peer = figure.get("beside") is not None or not figure["side"].startswith(OURS)
        yield _of_figure(figure, ours.get(figure["subject"]) if is_peer else None)


def _of_figure(figure: Mapping[str, Any], ours: Mapping[str, Any] | None) -> Comparison:
    """A figure of ours, or of a peer beside ours."""
    value = figure["value"]
    told = NOT_MEASURED if value is None else amount(value, figure["unit"])
    bar, beside = figure.get("bar"), figure.get("beside")
    ratio_bar = bar["value"] if bar and bar["is_of_ratio"] else None
    number = value if ratio_bar is None else beside
    if ours is None:
        of_ours, of_peer = told, ""
    else:
        of_ours = NOT_MEASURED if ours["value"] is None else amount(ours["value"], ours["unit"])
        of_peer = told
    return Comparison(
        subject=figure["subject"],
        side="" if figure["side"] == OURS else figure["side"],
        ours=of_ours,
        peer=of_peer,
        ratio="" if beside is None else times(beside, ratio_bar),
        bar=_bar_text(bar, figure["unit"]),
        holds=figure.get("holds"),
        margin=None if bar is None or number is None else _margin(bar, number),
        how=figure["how"],
    )


def _bar_text(bar: Mapping[str, Any] | None, unit: str) -> str:
    if bar is None:
        return ""
    sign = "≥" if bar["kind"] == "at least" else "≤"
    return f"{sign} {bar['value']:g}" if bar["is_of_ratio"] else f"{sign} {amount(bar['value'], unit)}"


def _margin(bar: Mapping[str, Any], number: float) -> float:
    if bar["kind"] == "at least":
        return number / bar["value"]
    # Nothing, where little is asked for, is all that there can be; less than that is no ratio.
    return math.inf if number <= 0 else bar["value"] / number
