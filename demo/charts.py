"""Small line charts as SVG, in the colours of the page."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 520, 190
LEFT, RIGHT, TOP, BOTTOM = 38, 8, 8, 22
COLORS = ("var(--accent)", "#d4551e", "#12924a")

MOST_POINTS = 600
"""Of a line; more are finer than the chart."""

TICKS = 4

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """A line of a chart; None is a gap."""

    label: str
    values: Sequence[float | None]


def line_chart(title: str, times_s: Sequence[float], series: Sequence[Series], *, unit: str = "") -> str:
    """A chart over time.

    Args:
        title: stands above it.
        times_s: of the values.
        series: at most as many as there are colours.
        unit: of the values.
    """
    values = [value for line in series for value in line.values if value is not None]
    low, high, step = _scale(values)
    last_s = max(times_s[-1] if times_s else 0, 1e-3)

    def place(time_s: float, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * time_s / last_s
        return x, TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    rules = "".join(
        f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place(0, value)[1]:.1f}" '
        f'y2="{place(0, value)[1]:.1f}"/><text x="{LEFT - 6}" y="{place(0, value)[1] + 4:.1f}" '
        f'text-anchor="end">{_shown(value)}{unit}</text>'
        for value in _steps(low, high, step)
    )
    seconds = "".join(
        f'<text x="{place(time_s, low)[0]:.1f}" y="{HEIGHT - 5}" text-anchor="{anchor}">'
        f"{_shown(time_s)} s</text>"
        for time_s, anchor in ((0.0, "start"), (round(last_s / 2, 1), "middle"), (round(last_s, 1), "end"))
    )
    lines = "".join(
        f'<path stroke="{color}" d="{_path(times_s, line.values, place)}"/>'
        for line, color in zip(series, COLORS, strict=False)
    )
    keys = "".join(
        f'<span><i style="background:{color}"></i>{html.escape(line.label)}</span>'
        for line, color in zip(series, COLORS, strict=False)
    )
    return (
        f'<figure class="chart"><figcaption>{html.escape(title)}{keys}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(_spoken(title, series, unit))}">'
        f"{rules}{seconds}{lines}</svg></figure>"
    )


def _spoken(title: str, series: Sequence[Series], unit: str) -> str:
    """The chart in words."""
    parts = []
    for line in series:
        values = [value for value in line.values if value is not None]
        if values:
            parts.append(f"{line.label} from {_shown(min(values))}{unit} to {_shown(max(values))}{unit}")
    return f"{title}: {', '.join(parts) or 'nothing'}"


def _path(
    times_s: Sequence[float],
    values: Sequence[float | None],
    place: Callable[[float, float], tuple[float, float]],
) -> str:
    every = max(1, math.ceil(len(values) / MOST_POINTS))
    path, pen = [], "M"
    for time_s, value in list(zip(times_s, values, strict=True))[::every]:
        if value is None:
            pen = "M"
            continue
        x, y = place(time_s, value)
        path.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    return "".join(path)


def _scale(values: Sequence[float]) -> tuple[float, float, float]:
    """Least, most and step of an axis, in round numbers."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    raw = max(high - low, 1e-2) / TICKS
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return low, high if high > low else low + step, step


def _steps(low: float, high: float, step: float) -> list[float]:
    return [low + number * step for number in range(round((high - low) / step) + 1)]


def _shown(value: float) -> str:
    return f"{round(value, 2):g}".replace("-", MINUS)
