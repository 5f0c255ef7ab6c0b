"""The course of a training on one picture, for people without a tracker at hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from flm.errors import InputError

LOSS_COLOR = "#3b6fb6"
VALIDATION_COLOR = "#c2477f"
RATE_COLOR = "0.35"
LOG_SCALE_FROM = 3.0
"""A curve whose largest value is as many times its smallest is drawn on a logarithmic scale."""
SMOOTHED_SHARE = 0.03
"""Share of the curve of losses over which its heavy line is a mean."""


def curves_picture(lines: Sequence[Mapping[str, Any]]) -> UInt8[np.ndarray, "height width 3"]:
    """Training loss, error on the validation split and learning rate, each over the steps.

    Args:
        lines: of log.jsonl, by increasing step; others than of training and validation are left out.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "the curves need matplotlib; install it with `pip install flm-landmarks[train]`"
        ) from error
    steps, losses = _curve(lines, "train", "loss")
    figure = Figure(figsize=(8, 7.5), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    above, middle, below = figure.subplots(3, sharex=True, height_ratios=(3, 3, 1.3))

    above.plot(steps, losses, color=LOSS_COLOR, alpha=0.35, linewidth=0.8)
    above.plot(steps, _smoothed(losses), color=LOSS_COLOR, linewidth=2)
    _scale(above, losses, "training loss")

    evaluated, errors = _curve(lines, "validation", "nme_pct")
    middle.plot(evaluated, errors, "o-", color=VALIDATION_COLOR, markersize=3.5, linewidth=2)
    _scale(middle, errors, "validation NME, %")
    if np.isfinite(errors).any():
        best = np.nanargmin(errors)
        middle.axhline(errors[best], color=VALIDATION_COLOR, linewidth=0.8, linestyle=":", zorder=0)
        middle.set_title(
            f"best {errors[best]:.2f} % at step {evaluated[best]:.0f}, last {errors[-1]:.2f} %",
            loc="right",
            fontsize=10,
            color=VALIDATION_COLOR,
        )

    at, rates = _curve(lines, "train", "learning_rate")
    below.plot(at, rates, color=RATE_COLOR, linewidth=1.5)
    below.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    below.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    for axes in (above, middle, below):
        axes.grid(color="0.9", which="both")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _curve(
    lines: Sequence[Mapping[str, Any]], kind: str, name: str
) -> tuple[Float64[np.ndarray, " points"], Float64[np.ndarray, " points"]]:
    points = [(line["step"], line.get(name, np.nan)) for line in lines if line["kind"] == kind]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    # An axis has no place for infinity.
    return steps, np.where(np.isfinite(values), values, np.nan)


def _smoothed(values: Float64[np.ndarray, " points"]) -> Float64[np.ndarray, " points"]:
    """The mean over a window around each point, which is smaller at the ends."""
    if not len(values):
        return values
    width = max(1, round(SMOOTHED_SHARE * len(values)))
    known = np.isfinite(values)
    window = np.ones(2 * (width // 2) + 1)
    sums = np.convolve(np.where(known, values, 0.0), window)
    counts = np.convolve(known.astype(np.float64), window)
    inner = slice(width // 2, len(sums) - width // 2)
    return sums[inner] / np.where(counts[inner] > 0, counts[inner], np.nan)


def _scale(axes: Any, values: Float64[np.ndarray, " points"], label: str) -> None:
    """Logarithmic where the values go over a wide range above 0, with plain numbers at the axis."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    axes.set_ylabel(label)
    known = values[np.isfinite(values)]
    if len(known) and known.min() > 0 and known.max() >= LOG_SCALE_FROM * known.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.minorticks_off()
