"""Histograms as inline SVG, in the colours of the page's style sheet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float

from flm.page.html import number
from flm.page.plot import MOST_TICKS, nice_ticks, svg

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 38, 10, 14, 40
"""Room around the plot. The unit of the view box is about a pixel, on a telephone too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """What a histogram counts on."""

    label: str
    """With the unit."""
    edges: Float[np.ndarray, " edges"]
    """Of the bins; what lies outside counts in the first or the last."""
    ticks: Sequence[float]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value stands, in units of the view box."""
        at = np.clip(value, self.edges[0], self.edges[-1])
        low, at, high = np.array([self.edges[0], at, self.edges[-1]], dtype=np.float64)
        if self.logarithmic:
            low, at, high = np.log([low, at, high])
        return LEFT + float((at - low) / (high - low)) * (WIDTH - LEFT - RIGHT)


def linear_axis(label: str, low: float, high: float, bin_width: float) -> Axis:
    """An axis of whole bins around two values."""
    first = np.floor(low / bin_width)
    last = max(np.ceil(high / bin_width), first + 1)
    edges = np.arange(first, last + 1) * bin_width
    return Axis(label=label, edges=edges, ticks=nice_ticks(float(edges[0]), float(edges[-1])))


def logarithmic_axis(label: str, low: float, high: float, bins_per_octave: int) -> Axis:
    """An axis of whole bins around two positive values, each bin as much wider as its values are larger."""
    first = np.floor(np.log2(low) * bins_per_octave)
    last = max(np.ceil(np.log2(high) * bins_per_octave), first + 1)
    edges = 2.0 ** (np.arange(first, last + 1) / bins_per_octave)
    decades = 10.0 ** np.arange(np.floor(np.log10(edges[0])), np.ceil(np.log10(edges[-1])) + 1)
    for factors in ([1, 1.5, 2, 3, 4, 5, 7], [1, 2, 3, 5], [1, 2, 5], [1]):
        ticks = np.outer(decades, factors).ravel()
        ticks = ticks[(ticks >= edges[0]) & (ticks <= edges[-1])]
        if len(ticks) <= MOST_TICKS + 1:
            break
    return Axis(label=label, edges=edges, ticks=ticks.tolist(), logarithmic=True)


def histogram(
    groups: Mapping[str, Float[np.ndarray, " faces"]],
    axis: Axis,
    *,
    about: str,
    mark: tuple[float, str] | None = None,
) -> str:
    """Shares of faces: of the first group as bars, of the others as outlines.

    Args:
        groups: values by the name of their group; those without any are left out.
        axis: what they are counted on.
        about: told to those who do not see it.
        mark: a value to point out, and what it means.
    """
    shares_pct = {name: _shares_pct(values, axis) for name, values in groups.items() if len(values)}
    most = max((float(shares.max()) for shares in shares_pct.values()), default=1.0)
    scale = _Scale(ticks=nice_ticks(0.0, most))
    scale = _Scale(ticks=[*scale.ticks, scale.ticks[-1] + scale.ticks[1]])
    drawn = [*scale.drawn(), *_ticks(axis)]
    for place, (name, shares) in enumerate(shares_pct.items()):
        drawn.extend(_outline(shares, axis, scale) if place else _bars(name, shares, axis, scale))
    if mark:
        x = axis.place(mark[0])
        drawn.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        drawn.append(f'<text class="note" x="{x + 4:.1f}" y="{TOP + 8}">{escape(mark[1])}</text>')
    return svg(drawn, (0.0, 0.0, float(WIDTH), float(HEIGHT)), about)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scale:
    """The vertical axis."""

    ticks: Sequence[float]

    def place(self, share_pct: float) -> float:
        return HEIGHT - BOTTOM - share_pct / self.ticks[-1] * (HEIGHT - BOTTOM - TOP)

    def drawn(self) -> list[str]:
        elements: list[str] = []
        for tick in self.ticks:
            y = self.place(tick)
            unit = " %" if tick == self.ticks[-1] else ""
            elements.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            elements.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" class="end">{tick:g}{unit}</text>')
        return elements


def _shares_pct(values: Float[np.ndarray, " faces"], axis: Axis) -> Float[np.ndarray, " bins"]:
    inside = np.clip(values, axis.edges[0], axis.edges[-1])
    return 100 * np.histogram(inside, axis.edges)[0] / len(values)


def _ticks(axis: Axis) -> list[str]:
    base = HEIGHT - BOTTOM
    elements = [
        f'<text x="{axis.place(tick):.1f}" y="{base + 15}" class="middle">{number(tick)}</text>'
        for tick in axis.ticks
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [
        *elements,
        f'<text x="{middle:g}" y="{base + 33}" class="middle label">{escape(axis.label)}</text>',
    ]


def _bars(name: str, shares_pct: Float[np.ndarray, " bins"], axis: Axis, scale: _Scale) -> list[str]:
    elements: list[str] = []
    for low, high, share in zip(
        axis.edges[:-1].tolist(), axis.edges[1:].tolist(), shares_pct.tolist(), strict=True
    ):
        if share == 0:
            continue
        left, right, top = axis.place(low), axis.place(high), scale.place(share)
        told = escape(f"{name}: {number(low)} to {number(high)}, {share:.1f} % of the faces")
        elements.append(
            f'<rect class="bar" x="{left + 0.5:.1f}" y="{top:.1f}" width="{max(0.5, right - left - 1):.1f}" '
            f'height="{HEIGHT - BOTTOM - top:.1f}"><title>{told}</title></rect>'
        )
    return elements


def _outline(shares_pct: Float[np.ndarray, " bins"], axis: Axis, scale: _Scale) -> list[str]:
    heights = np.repeat([0, *shares_pct.tolist(), 0], 2)[1:-1]
    corners = zip(np.repeat(axis.edges, 2).tolist(), heights.tolist(), strict=True)
    points = " ".join(f"{axis.place(x):.1f},{scale.place(y):.1f}" for x, y in corners)
    return [f'<polyline class="outline" points="{points}"/>']
