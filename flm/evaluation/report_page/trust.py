"""What the network knows of its own errors: ellipses, and the ranking of faces."""

import dataclasses
from html import escape

import numpy as np

from flm.evaluation.report_page.measured import Measured
from flm.metrics.calibration import expected_error
from flm.metrics.reliability import (
    CURVE_LEVELS,
    Reliability,
    observed_shares,
    risk_coverage,
    squared_distances,
)
from flm.page.html import card, grid, row, section, table
from flm.page.plot import MOST_DOTS, Plot, evenly_chosen, linear_axis

CURVE_POINTS = 400

ABOUT = (
    "Each point comes with a covariance. If it means what it says, its 90 % ellipse holds the truth in 90 % "
    "of the cases. Errors have heavier tails than a normal distribution, so not every level can be met at "
    "once; the calibration meets the one of 90 %. The score of a face is what these covariances let expect "
    "of it: leaving the least certain faces out should lower the error of the others."
)


def trust_section(measured: Measured) -> str:
    """Reliability, ranking, and the numbers of both."""
    report = measured.report
    after, before = report.reliability, dataclasses.replace(report, calibration=None).reliability
    if after is None or before is None:
        about = (
            "This network gives landmarks without covariances, so nothing is said about how sure it is. "
            "Those with maps (--model.head heatmap) or bins (simcc) tell."
        )
        return section("Calibration", about)
    cards = [
        _reliability_card(measured),
        card("Does the score find the failures?", _risk_chart(measured), _risk_caption(after)),
        *_expected_card(measured),
        _numbers_card(measured, before, after),
    ]
    about = ABOUT + f" {_fitted(measured)}"
    return section("Calibration", about, grid("pair", cards))


def _fitted(measured: Measured) -> str:
    calibration = measured.report.calibration
    if calibration is None:
        return "<b>This checkpoint is not calibrated</b>; <code>flm calibrate</code> does it."
    fitted = f"Fitted to {calibration.num_faces:,} faces of {escape(calibration.split)}"
    if measured.fitted_here():
        return f"<b>{fitted}, the very faces that are measured here</b>, so these numbers flatter it."
    same_data = calibration.data_hash == measured.store.manifest.content_hash()
    return f"{fitted}, none of which is measured here." if same_data else f"{fitted} of other shards."


def _reliability_card(measured: Measured) -> str:
    points, calibration = measured.points, measured.report.calibration
    assert points.covariance is not None
    squared = squared_distances(points.predicted - points.truth, points.covariance)
    plot = Plot(
        linear_axis("nominal share, %", 0.0, 100.0),
        linear_axis("", 0.0, 100.0, "%"),
    )
    levels = np.concatenate([[0.0], CURVE_LEVELS, [1.0]])
    ends = np.array([0.0, 100.0])
    plot.curve(ends, ends, "ideal", "as it should be")
    raw = 100 * np.concatenate([[0.0], observed_shares(squared, CURVE_LEVELS), [1.0]])
    plot.curve(100 * levels, raw, "third", "as the network gives it")
    if calibration is not None:
        scaled = squared / np.asarray(calibration.scales)
        shares = np.concatenate([[0.0], observed_shares(scaled, CURVE_LEVELS), [1.0]])
        plot.curve(100 * levels, 100 * shares, "first", "calibrated")
    chart = plot.svg("Reliability: the share of points inside the ellipse of each nominal level")
    colors = "grey" if calibration is None else "calibrated blue, as the network gives it grey"
    caption = f"Share of the points inside the ellipse of each level: {colors}; dashed as it should be."
    return card("Do the ellipses hold what they say?", chart, caption)


def _risk_chart(measured: Measured) -> str:
    errors, points, calibration = measured.report.errors, measured.points, measured.report.calibration
    assert points.covariance is not None
    covariance = points.covariance if calibration is None else calibration.apply(points.covariance)
    expected = expected_error(points.predicted, covariance, points.scheme)
    nme_pct = 100 * errors.nme
    chosen = np.unique(np.linspace(0, len(nme_pct) - 1, CURVE_POINTS).astype(int))
    coverage = 100 * (chosen + 1) / len(nme_pct)
    curves = {
        "third": ("a score that knows the errors", risk_coverage(nme_pct, nme_pct)[chosen]),
        "first": ("the score", risk_coverage(nme_pct, expected)[chosen]),
    }
    most = max(float(risk[coverage > 2].max(initial=0.0)) for _, risk in curves.values())
    top = max(float(nme_pct.mean()), most)
    kept = linear_axis("faces kept, the most certain first, %", 0.0, 100.0)
    plot = Plot(kept, linear_axis("", 0.0, 1.1 * top, "%"))
    plot.level(float(nme_pct.mean()), "ideal", "at random")
    for kind, (name, risk) in curves.items():
        plot.curve(coverage, risk, kind, name)
    return plot.svg("Risk and coverage: the error of the faces that are kept")


def _risk_caption(reliability: Reliability) -> str:
    possible = reliability.aurc_random_pct - reliability.aurc_oracle_pct
    reached = (reliability.aurc_random_pct - reliability.aurc_pct) / possible if possible > 0 else 0.0
    return (
        f"NME of the faces kept: by the score (blue), by the errors themselves (grey). The score reaches "
        f"{100 * reached:.0f} % of what is possible."
    )


def _expected_card(measured: Measured) -> list[str]:
    points, calibration = measured.points, measured.report.calibration
    if calibration is None or points.covariance is None:
        return []
    nme_pct = 100 * measured.report.errors.nme
    expected_pct = 100 * calibration.expected_nme(points.predicted, points.covariance)
    top = float(np.percentile(np.concatenate([nme_pct, expected_pct]), 99.5))
    plot = Plot(linear_axis("expected error, %", 0.0, top), linear_axis("", 0.0, top, "%"))
    ends = np.array([0.0, min(plot.x.high, plot.y.high)])
    plot.curve(ends, ends, "ideal", "as expected")
    shown = evenly_chosen(len(nme_pct), MOST_DOTS)
    plot.dots(expected_pct[shown], nme_pct[shown], "first", radius=2.0)
    factor = np.exp(calibration.error_spread)
    told = f"A dot is a face; a true error is typically the expected one times or over {factor:.2f}."
    return [card("Expected and true error", plot.svg("Expected against true error of each face"), told)]


def _numbers_card(measured: Measured, before: Reliability, after: Reliability) -> str:
    calibrated = measured.report.calibration is not None
    columns = {"network": before, **({"calibrated": after} if calibrated else {})}
    lines = {
        "inside 50 %": [f"{one.inside_50_pct:.1f} %" for one in columns.values()],
        "inside 90 %": [f"{one.inside_90_pct:.1f} %" for one in columns.values()],
        "inside 99 %": [f"{one.inside_99_pct:.1f} %" for one in columns.values()],
        "off the diagonal": [f"{one.off_pct:.1f} %" for one in columns.values()],
        "AURC": [f"{one.aurc_pct:.3f} %" for one in columns.values()],
        "AURC at random": [f"{one.aurc_random_pct:.3f} %" for one in columns.values()],
        "AURC of the oracle": [f"{one.aurc_oracle_pct:.3f} %" for one in columns.values()],
    }
    drawn = table("plain", ("", *columns), [row(name, cells) for name, cells in lines.items()])
    caption = (
        "The shares of points inside their ellipses, the mean distance of the curve from the diagonal, and "
        "the area under the risk-coverage curve in NME: of the score, and of one that knows the errors."
    )
    return card("In numbers", drawn, caption)
