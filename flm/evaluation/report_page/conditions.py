"""Errors against what makes a face hard: the turn of the head, its size in the picture, what is hidden."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from flm.evaluation.evaluate import GOLDEN_RATIO
from flm.evaluation.report_page.measured import Measured
from flm.faces.pose import head_pose
from flm.faces.subsets import subset_names
from flm.page.html import card, grid, percent, section
from flm.page.plot import MOST_DOTS, Axis, Plot, evenly_chosen, linear_axis

YAW_EDGES_DEG = (0, 10, 20, 30, 45, 60, 90)
YAW_TICKS_DEG = (0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0)
TURNED_DEG = 30
FEWEST_IN_BIN = 3
"""Fewer have dots, but no mean."""

TOP_PERCENTILE = 99
"""Of the errors; what lies above stands at the top of a chart."""

OCCLUSION = "occlusion"
"""The subset of hidden faces, where a data set marks them."""

ABOUT = (
    "A dot is a face; those above the chart stand at its top. The large dots are means, the bars hold the "
    "middle half of the faces, and the numbers count them. The turn of a head is that of a mean head brought "
    "onto the true landmarks, to either side; its size is the longer side of the box around them, in px of "
    "the source picture."
)


def conditions_section(measured: Measured) -> str:
    """A chart for each condition that the data tell."""
    rows = measured.evenly_chosen()
    nme_pct = 100 * measured.report.errors.nme[rows]
    cards = [
        _yaw_card(measured, rows, nme_pct),
        _size_card(measured.face_sizes_px(rows), nme_pct),
        *_occlusion_card(measured),
    ]
    return section("What makes a face hard", ABOUT, grid("pair", cards))


def _yaw_card(measured: Measured, rows: Sequence[int], nme_pct: Float64[np.ndarray, " faces"]) -> str:
    truth = measured.points.truth
    poses = [head_pose(truth[row].astype(np.float64), measured.scheme) for row in rows]
    known = np.array([pose is not None for pose in poses])
    yaw_deg = np.array([abs(pose.yaw_deg) for pose in poses if pose is not None], dtype=np.float64)
    edges = np.array(YAW_EDGES_DEG, dtype=np.float64)
    axis = Axis(label="turn of the head, °", low=0.0, high=90.0, ticks=YAW_TICKS_DEG)
    if len(yaw_deg) and yaw_deg.max() < 60:
        axis, edges = Axis(label=axis.label, low=0.0, high=60.0, ticks=YAW_TICKS_DEG[:5]), edges[:-1]
    chart = binned_chart(yaw_deg, nme_pct[known], edges, axis, "Error against the turn of the head")
    turned = yaw_deg > TURNED_DEG
    caption = f"No face is turned by more than {TURNED_DEG}°."
    if turned.any():
        share, nme = percent(float(turned.mean())), nme_pct[known][turned].mean()
        caption = f"{share} of the faces are turned by more than {TURNED_DEG}°: NME {nme:.2f} %."
    return card("Turn of the head (yaw)", chart, caption)


def _size_card(sizes_px: Float64[np.ndarray, " faces"], nme_pct: Float64[np.ndarray, " faces"]) -> str:
    first, last = np.floor(np.log2(sizes_px.min())), np.ceil(np.log2(sizes_px.max()))
    edges = 2.0 ** np.arange(first, max(last, first + 1) + 1)
    axis = Axis(
        label="face size, px of the source picture",
        low=float(edges[0]),
        high=float(edges[-1]),
        ticks=edges.tolist(),
        logarithmic=True,
    )
    chart = binned_chart(sizes_px, nme_pct, edges, axis, "Error against the size of the face")
    return card("Face size", chart, f"Half of the faces are larger than {np.median(sizes_px):.0f} px.")


def _occlusion_card(measured: Measured) -> list[str]:
    """Hidden faces beside the others, where the data set says which are hidden."""
    errors = measured.report.errors
    hidden = np.array([OCCLUSION in subset_names(subset) for subset in errors.subsets], dtype=np.bool_)
    if not hidden.any() or hidden.all():
        return []
    axis = Axis(label="left: nothing hidden, right: partly hidden", low=-0.5, high=1.5, ticks=[])
    # Spread out, so that dots do not hide each other; by place, so that each page is the same.
    places = hidden + 0.6 * ((errors.positions * GOLDEN_RATIO) % 1 - 0.5)
    edges = np.array([-0.5, 0.5, 1.5])
    chart = binned_chart(places, 100 * errors.nme, edges, axis, "Error of hidden faces beside the others")
    return [card("Occlusion", chart, f"{percent(float(hidden.mean()))} of the faces are partly hidden.")]


def binned_chart(
    values: Float64[np.ndarray, " faces"],
    nme_pct: Float64[np.ndarray, " faces"],
    edges: Float64[np.ndarray, " edges"],
    axis: Axis,
    about: str,
) -> str:
    """Errors against a value, faces as dots, bins with their means, middle halves and counts.

    Args:
        values: of the faces.
        nme_pct: their errors, percent.
        edges: of the bins, in rising order; the last bin holds its upper edge too.
        axis: of the values.
        about: told to those who do not see it.
    """
    top = float(np.percentile(nme_pct, TOP_PERCENTILE)) if len(nme_pct) else 1.0
    plot = Plot(axis, linear_axis("", 0.0, 1.15 * top, "%"))
    shown = evenly_chosen(len(values), MOST_DOTS)
    plot.dots(values[shown], nme_pct[shown], "faint")
    bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    for place, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        inside = nme_pct[bins == place]
        middle = float(np.sqrt(low * high)) if axis.logarithmic else (low + high) / 2
        plot.note(middle, plot.y.high * 0.935, f"{len(inside):,}")
        if len(inside) < FEWEST_IN_BIN:
            continue
        mean, (first, last) = float(inside.mean()), np.percentile(inside, [25, 75]).tolist()
        told = f"{len(inside):,} faces: mean {mean:.2f} %, middle half {first:.2f} to {last:.2f} %"
        plot.span(middle, first, last, "second", told)
        plot.dots(np.array([middle]), np.array([mean]), "second", [told], radius=4.0)
    return plot.svg(about)
