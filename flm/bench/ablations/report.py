"""What comparisons found, as a table and as learning curves."""

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from flm.bench.ablations.variations import BASE, Budget, Variation
from flm.bench.machine import Machine

SEEDS = (0, 1)

TICKS_PCT = (2, 2.5, 3, 3.5, 4, 5, 6, 8, 10, 15, 20, 30, 50)
"""Of the learning curves: the few numbers that a logarithmic axis of errors has room for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a variation reached, a number for each seed."""

    variation: Variation
    nme_pct: tuple[float, ...]
    """Of the best checkpoint, on the validation split."""
    minutes: tuple[float, ...]
    """Of training, without evaluations."""
    curves: tuple[tuple[tuple[int, float], ...], ...]
    """Step and NME, of each evaluation in training; none where only the evaluation changes."""

    @property
    def mean_pct(self) -> float:
        """Of the seeds."""
        return statistics.fmean(self.nme_pct)

    @property
    def spread_pct(self) -> float:
        """Half the range of the seeds."""
        return (max(self.nme_pct) - min(self.nme_pct)) / 2


def ablations_text(outcomes: Sequence[Outcome], budget: Budget) -> str:
    """The outcomes as a table, each axis from the best to the worst beside the base."""
    machine = dataclasses.replace(Machine.here(), load=None)
    faces = budget.steps * budget.batch_size
    lines = [
        f"`flm bench ablations --recipe {budget.recipe} --faces {faces}` ran the recipe",
        f"with one change each, {budget.steps} steps of {budget.batch_size} faces:",
        f"`python -m flm.train {budget.recipe} --steps {budget.steps}` with the flags of a row.",
        f"NME on the validation split, %: mean of seeds {' and '.join(map(str, SEEDS))} ± half their",
        f"difference. Minutes of training, on {machine.describe()}.",
        "",
        "![Learning curves](ablations.png)",
        "",
        "| compared | variation | NME, % | beside the base | minutes | flags |",
        "|---|---|---|---|---|---|",
    ]
    base = next((outcome for outcome in outcomes if outcome.variation.axis == BASE), None)
    axes = list(dict.fromkeys(outcome.variation.axis for outcome in outcomes))
    for outcome in sorted(outcomes, key=lambda one: (axes.index(one.variation.axis), one.mean_pct)):
        variation = outcome.variation
        beside = "" if base in (None, outcome) else f"{outcome.mean_pct - base.mean_pct:+.2f}"
        flags = " ".join(_without_paths([*variation.flags, *variation.evaluation]))
        lines.append(
            f"| {variation.axis} | {variation.name} | {outcome.mean_pct:.2f} ± {outcome.spread_pct:.2f} | "
            f"{beside} | {statistics.fmean(outcome.minutes):.1f} | {f'`{flags}`' if flags else ''} |"
        )
    return "\n".join(lines) + "\n"


def _without_paths(flags: Sequence[str]) -> list[str]:
    """The flags but for where a machine has its files."""
    words = list(flags)
    if "--model.weights" in words:
        place = words.index("--model.weights")
        del words[place : place + 2]
    if "--init-from" in words:
        words[words.index("--init-from") + 1] = "CHECKPOINT"
    return words


def ablations_picture(outcomes: Sequence[Outcome]) -> UInt8[np.ndarray, "height width 3"]:
    """The learning curves, a panel for each comparison with the base in each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    base = [outcome for outcome in outcomes if outcome.variation.axis == BASE]
    with_curves = [one.variation.axis for one in outcomes if one.curves]
    axes = [axis for axis in dict.fromkeys(with_curves) if axis != BASE] or [BASE]
    columns = min(3, len(axes))
    rows = -(-len(axes) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.4 * rows), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, axis in zip(panels, axes, strict=False):
        shown = [one for one in outcomes if one.variation.axis == axis and axis != BASE]
        for outcome, color in zip([*base, *shown], ["0.25", *(f"C{i}" for i in range(9))], strict=False):
            steps = [step for step, _ in outcome.curves[0]]
            curves = np.array([[error for _, error in curve] for curve in outcome.curves])
            panel.fill_between(steps, curves.min(0), curves.max(0), color=color, alpha=0.2, linewidth=0)
            panel.plot(steps, curves.mean(0), color=color, label=outcome.variation.name.replace("`", ""))
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(FixedLocator(TICKS_PCT))
        panel.yaxis.set_major_formatter(ScalarFormatter())
        panel.yaxis.set_minor_locator(NullLocator())
        panel.set_title(axis, loc="left", fontsize=10)
        panel.grid(color="0.9", which="both")
        panel.legend(fontsize=8, frameon=False)
        panel.set_xlabel("step")
        panel.set_ylabel("validation NME, %")
    for panel in panels[len(axes) :]:
        panel.set_visible(False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
