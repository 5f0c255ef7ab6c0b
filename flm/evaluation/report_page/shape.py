"""Errors over all faces: their cumulative curve, and where on the face they are."""

from html import escape

import numpy as np
from jaxtyping import Float64

from flm.evaluation.report_page.measured import Measured
from flm.landmarks import LandmarkScheme
from flm.metrics.face_points import FacePoints
from flm.metrics.nme import WHOLE, cumulative_error_curve
from flm.page.html import card, grid, section
from flm.page.plot import Plot, linear_axis, svg

CURVE_UP_TO = 0.10
CURVE_KINDS = ("first", "second", "third")
"""Classes of the style sheet; further subsets are left to the table."""

UNITS = 100.0
"""Of the view box in an inter-ocular distance."""

MARGIN = 16.0
LEGEND_ERRORS_PCT = (1, 2, 4, 8)
WORST_PCT = 6.0
"""A point with this error or more has the full colour."""

ABOUT_SHAPE = (
    "The mean of the true faces, brought upright and made symmetric. The radius of a circle is the mean "
    "error of its point, to scale; pointing at one shows its number."
)


def cumulative_section(measured: Measured) -> str:
    """The curve of each subset, beside the errors on the face."""
    points = measured.points
    percentage = 100 * points.errors.mean(axis=0)
    face = card(
        "Where on the face",
        mean_face_figure(mean_shape(points), percentage, points.scheme),
        "Mean error of each point, percent of the inter-ocular distance.",
    )
    curves = card("How many faces", _curves(measured), _curve_caption(measured))
    parts = card("By facial part", _parts(measured), "Mean error of the points of each part.")
    return section("Errors", ABOUT_SHAPE, grid("pair", [face, grid("stacked", [curves, parts])]))


def _top_subsets(measured: Measured) -> list[str]:
    return measured.report.curve_subsets[: len(CURVE_KINDS)]


def _curves(measured: Measured) -> str:
    faces = measured.report.errors.by_subset()
    plot = Plot(
        linear_axis("error of a face, % of the inter-ocular distance", 0.0, 100 * CURVE_UP_TO),
        linear_axis("", 0.0, 100.0, "%"),
    )
    kinds = {**dict(zip(_top_subsets(measured), CURVE_KINDS, strict=False)), WHOLE: "whole"}
    for name, kind in kinds.items():
        errors, shares = cumulative_error_curve(faces[name].nme, CURVE_UP_TO)
        # A step function: each share holds up to the next error.
        xs, ys = np.repeat(100 * errors, 2)[1:], np.repeat(100 * shares, 2)[:-1]
        shown = "all faces" if name == WHOLE else name
        plot.curve(xs, ys, kind, f"{shown}: {len(faces[name])} faces")
    return plot.svg("Cumulative error curve: the share of faces with at most an error")


def _curve_caption(measured: Measured) -> str:
    keys = [f"{name} {measured.report.subsets[name].nme_pct:.2f} %" for name in _top_subsets(measured)]
    colors = ("blue", "orange", "grey")
    told = ", ".join(f"{key} ({color})" for key, color in zip(keys, colors, strict=False))
    return "Share of the faces with at most an error" + (f"; NME of {told}." if told else ".")


def _parts(measured: Measured) -> str:
    parts = measured.report.parts
    most = max(parts.values()) or 1.0
    rows = "".join(
        f'<div><dt>{escape(name)}</dt><dd><i style="width:{80 * value / most:.1f}%"></i>'
        f"<b>{value:.2f} %</b></dd></div>"
        for name, value in sorted(parts.items(), key=lambda part: part[1])
    )
    return f'<dl class="bars">{rows}</dl>'


def mean_shape(points: FacePoints) -> Float64[np.ndarray, "points 2"]:
    """The mean of the true faces, each turned until its outer eye corners are level, and made symmetric.

    In inter-ocular distances from the middle of the outer eye corners.
    """
    truth = points.truth.astype(np.float64)
    right, left = (truth[:, corner] for corner in points.scheme.outer_eye_corners)
    cos, sin = (left - right).T
    turn = np.stack([np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)], axis=1)
    upright = (turn @ truth.transpose(0, 2, 1)).transpose(0, 2, 1).mean(axis=0)
    mirrored = upright[list(points.scheme.mirror_permutation)] * [-1, 1]
    return (upright + mirrored) / 2


def mean_face_figure(
    shape: Float64[np.ndarray, "points 2"], error_pct: Float64[np.ndarray, " points"], scheme: LandmarkScheme
) -> str:
    """Circles of the size of the errors on a face, with a scale below.

    Args:
        shape: of the face, in inter-ocular distances.
        error_pct: of each point, percent of the inter-ocular distance.
        scheme: of the points.
    """
    places = shape * UNITS
    elements = []
    for line in scheme.lines:
        corners = [places[point] for point in (*line.points, *(line.points[:1] if line.closed else ()))]
        path = " ".join(f"{x:.2f},{y:.2f}" for x, y in corners)
        elements.append(f'<polyline class="shape" points="{path}"/>')
    for point, ((x, y), error) in enumerate(zip(places.tolist(), error_pct.tolist(), strict=True)):
        elements.append(_circle(x, y, error, f"point {point}: {error:.2f} %"))
    low, high = places.min(axis=0) - MARGIN, places.max(axis=0) + MARGIN
    y = float(high[1]) + 4
    steps = np.linspace(-36, 36, len(LEGEND_ERRORS_PCT)).tolist()
    for x, error in zip(steps, LEGEND_ERRORS_PCT, strict=True):
        elements.append(_circle(x, y, float(error), f"{error} %"))
        elements.append(f'<text class="middle tiny" x="{x:.1f}" y="{y + 16:.1f}">{error} %</text>')
    width, height = float(high[0] - low[0]), y + 22 - float(low[1])
    return svg(
        elements, (float(low[0]), float(low[1]), width, height), "Mean error of each point on the face"
    )


def _circle(x: float, y: float, error_pct: float, about: str) -> str:
    radius, heat = error_pct / 100 * UNITS, min(1.0, error_pct / WORST_PCT)
    return (
        f'<circle class="error" style="--heat:{100 * heat:.0f}%" cx="{x:.2f}" cy="{y:.2f}" r="{radius:.2f}">'
        f"<title>{escape(about)}</title></circle>"
    )
