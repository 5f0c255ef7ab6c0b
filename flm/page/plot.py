"""Charts as inline SVG, in the colours of the page's style sheet."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float, Int64

from flm.page.html import number

MOST_TICKS = 6
MOST_DOTS = 1500

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 42, 12, 12, 42
"""Room around the plot. The unit of the view box is about a pixel, on a telephone too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """What is drawn along a side."""

    label: str
    """With the unit."""
    low: float
    high: float
    ticks: Sequence[float]
    unit: str = ""
    """Put to the last tick."""
    logarithmic: bool = False

    def share(self, values: Float[np.ndarray, " values"]) -> Float[np.ndarray, " values"]:
        """Where values stand between both ends, 0 to 1; what lies outside stands at the end."""
        inside = np.clip(np.asarray(values, dtype=np.float64), self.low, self.high)
        if self.logarithmic:
            return np.log(inside / self.low) / np.log(self.high / self.low)
        return (inside - self.low) / (self.high - self.low)


def linear_axis(label: str, low: float, high: float, unit: str = "") -> Axis:
    """An axis from tick to tick around two values; one unit long where they are the same."""
    high = high if high > low else low + 1
    step = _nice_step(low, high)
    multiples = range(int(np.floor(low / step + 1e-9)), int(np.ceil(high / step - 1e-9)) + 1)
    ticks = [multiple * step for multiple in multiples]
    return Axis(label=label, low=ticks[0], high=ticks[-1], ticks=ticks, unit=unit)


def nice_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten, about `MOST_TICKS` of them."""
    step = _nice_step(low, high)
    multiples = range(int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9)) + 1)
    return [multiple * step for multiple in multiples]


def _nice_step(low: float, high: float) -> float:
    least = (high - low) / MOST_TICKS
    power = 10.0 ** np.floor(np.log10(least))
    return next(
        float(factor * power) for factor in (1, 2, 2.5, 5, 10) if factor * power >= least * (1 - 1e-9)
    )


def evenly_chosen(count: int, most: int) -> Int64[np.ndarray, " chosen"]:
    """Places among so many things, at most so many, spread evenly; a chart of more says no more."""
    return np.linspace(0, count, min(count, most), endpoint=False).astype(np.int64)


def svg(drawn: Sequence[str], view_box: tuple[float, float, float, float], about: str) -> str:
    """A picture of elements, with its description."""
    box = " ".join(f"{number:.6g}" for number in view_box)
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(about)}">{"".join(drawn)}</svg>'


class Plot:
    """Curves, bands and dots between two axes; what is added later lies above.

    Args:
        x: along the lower side.
        y: along the left side.
    """

    def __init__(self, x: Axis, y: Axis) -> None:
        self.x, self.y = x, y
        self._drawn = [*self._rows(), *self._columns()]

    def curve(
        self, xs: Float[np.ndarray, " points"], ys: Float[np.ndarray, " points"], kind: str, about: str
    ) -> "Plot":
        """A line through points.

        Args:
            xs: values along x.
            ys: values along y.
            kind: classes of the style sheet.
            about: shown where a pointer rests on it, plain text.
        """
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(*self._places(xs, ys), strict=True))
        return self._add(f'<polyline class="curve {kind}" points="{points}">{_title(about)}</polyline>')

    def dots(
        self,
        xs: Float[np.ndarray, " points"],
        ys: Float[np.ndarray, " points"],
        kind: str,
        about: Sequence[str] = (),
        radius: float = 1.6,
    ) -> "Plot":
        """A dot at each point; as `curve`, with what each one says."""
        told = [_title(one) for one in about] or [""] * len(xs)
        for x, y, title in zip(*self._places(xs, ys), told, strict=True):
            self._add(f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}">{title}</circle>')
        return self

    def span(self, x: float, low: float, high: float, kind: str, about: str) -> "Plot":
        """A bar that stands between two values of y, with what it says."""
        (at,), (top,) = self._places(np.array([x]), np.array([high]))
        _, (bottom,) = self._places(np.array([x]), np.array([low]))
        return self._add(
            f'<line class="span {kind}" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom:.1f}" y2="{top:.1f}">'
            f"{_title(about)}</line>"
        )

    def level(self, y: float, kind: str, about: str = "") -> "Plot":
        """A line from side to side, with a word above its right end."""
        _, (at,) = self._places(np.array([self.x.low]), np.array([y]))
        self._add(f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        return self._add(f'<text class="end" x="{WIDTH - RIGHT}" y="{at - 4:.1f}">{escape(about)}</text>')

    def note(self, x: float, y: float, text: str, kind: str = "middle") -> "Plot":
        """Words at a place."""
        (left,), (top,) = self._places(np.array([x]), np.array([y]))
        return self._add(f'<text class="{kind}" x="{left:.1f}" y="{top:.1f}">{escape(text)}</text>')

    def svg(self, about: str) -> str:
        """The chart, and what is told to those who do not see it."""
        return svg(self._drawn, (0.0, 0.0, float(WIDTH), float(HEIGHT)), about)

    def _add(self, element: str) -> "Plot":
        self._drawn.append(element)
        return self

    def _places(
        self, xs: Float[np.ndarray, " points"], ys: Float[np.ndarray, " points"]
    ) -> tuple[list[float], list[float]]:
        left = LEFT + self.x.share(xs) * (WIDTH - LEFT - RIGHT)
        top = HEIGHT - BOTTOM - self.y.share(ys) * (HEIGHT - BOTTOM - TOP)
        return left.tolist(), top.tolist()

    def _rows(self) -> list[str]:
        elements: list[str] = []
        lows = np.full(len(self.y.ticks), self.x.low)
        for tick, y in zip(self.y.ticks, self._places(lows, np.array(self.y.ticks))[1], strict=True):
            unit = f" {self.y.unit}" if self.y.unit and tick == self.y.ticks[-1] else ""
            elements.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            elements.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" class="end">{number(tick)}{unit}</text>')
        return elements

    def _columns(self) -> list[str]:
        base = HEIGHT - BOTTOM
        lows = np.full(len(self.x.ticks), self.y.low)
        places = self._places(np.array(self.x.ticks), lows)[0]
        elements = [
            f'<text x="{x:.1f}" y="{base + 15}" class="middle">{number(tick)}</text>'
            for tick, x in zip(self.x.ticks, places, strict=True)
        ]
        middle = (LEFT + WIDTH - RIGHT) / 2
        label = f'<text x="{middle:g}" y="{base + 34}" class="middle label">{escape(self.x.label)}</text>'
        return [*elements, label]


def _title(about: str) -> str:
    return f"<title>{escape(about)}</title>" if about else ""
