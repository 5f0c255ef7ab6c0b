"""How far stated uncertainty can be trusted: what its ellipses hold, and whether it ranks the failures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

INSIDE_LEVELS = (0.5, 0.9, 0.99)
"""Nominal shares of the ellipses that are reported."""

CURVE_LEVELS = np.arange(1, 100) / 100
"""Of a reliability curve."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reliability:
    """The numbers of a report; the fields are the keys of its JSON."""

    inside_50_pct: float
    """Share of true points inside the ellipse that should hold 50 % of them."""
    inside_90_pct: float
    inside_99_pct: float
    off_pct: float
    """Mean distance of the reliability curve from the diagonal."""
    aurc_pct: float
    """Area under the risk-coverage curve of the score, in NME."""
    aurc_random_pct: float
    """Of a score that knows nothing."""
    aurc_oracle_pct: float
    """Of a score that knows each face's error."""


def squared_distances(
    offsets: Float[np.ndarray, "faces points 2"], covariance: Float[np.ndarray, "faces points 2 2"]
) -> Float64[np.ndarray, "faces points"]:
    """Squared Mahalanobis distance of each point from the truth.

    Args:
        offsets: prediction minus truth, or the other way round.
        covariance: of the predictions, positive definite, in the same frame.
    """
    x, y = np.moveaxis(offsets.astype(np.float64), -1, 0)
    (xx, xy), (_, yy) = np.moveaxis(covariance.astype(np.float64), (-2, -1), (0, 1))
    return (yy * x**2 - 2 * xy * x * y + xx * y**2) / (xx * yy - xy**2)


def radius_squared(level: float) -> float:
    """Squared Mahalanobis radius of the ellipse that holds a share of a normal distribution in the plane.

    The square of the distance is chi-square distributed with two degrees of freedom, so it is -2 ln(1 - p).
    """
    return -2 * math.log1p(-level)


def observed_shares(
    squared: Float64[np.ndarray, "faces points"], levels: Sequence[float] | Float64[np.ndarray, " levels"]
) -> Float64[np.ndarray, " levels"]:
    """The share of true points inside the ellipse of each nominal level: the reliability curve.

    Args:
        squared: squared Mahalanobis distances.
        levels: nominal shares, in (0, 1).

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017; for regression Kuleshov et al.,
        "Accurate Uncertainties for Deep Learning Using Calibrated Regression", 2018.
    """
    ordered = np.sort(squared, axis=None)
    radii = [radius_squared(float(level)) for level in levels]
    return np.searchsorted(ordered, radii, side="right") / ordered.size


def risk_coverage(
    nme: Float[np.ndarray, " faces"], uncertainty: Float[np.ndarray, " faces"]
) -> Float64[np.ndarray, " faces"]:
    """Mean error of the k most certain faces, for k = 1 … all of them.

    Faces of equal uncertainty count with their mean error, as if in random order.

    Args:
        nme: error of each face.
        uncertainty: higher is less certain.

    Source: Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", 2017.
    """
    _, group, sizes = np.unique(uncertainty, return_inverse=True, return_counts=True)
    means = np.bincount(group, weights=nme) / sizes
    return np.cumsum(np.repeat(means, sizes)) / np.arange(1, len(nme) + 1)


def area_under_risk(nme: Float[np.ndarray, " faces"], uncertainty: Float[np.ndarray, " faces"]) -> float:
    """Area under the risk-coverage curve: the mean of `risk_coverage`.

    A score that knows nothing has the mean error, one that knows the errors themselves has the least area;
    what lies above that is the excess.

    Source: Geifman, Uziel and El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers",
        2019.
    """
    return float(risk_coverage(nme, uncertainty).mean())


def measure_reliability(
    squared: Float64[np.ndarray, "faces points"],
    nme: Float[np.ndarray, " faces"],
    uncertainty: Float[np.ndarray, " faces"],
) -> Reliability:
    """All numbers at once.

    Args:
        squared: squared Mahalanobis distances.
        nme: error of each face, a fraction.
        uncertainty: of each face; higher is less certain.
    """
    inside = 100 * observed_shares(squared, INSIDE_LEVELS)
    off = np.abs(observed_shares(squared, CURVE_LEVELS) - CURVE_LEVELS).mean()
    return Reliability(
        inside_50_pct=float(inside[0]),
        inside_90_pct=float(inside[1]),
        inside_99_pct=float(inside[2]),
        off_pct=float(100 * off),
        aurc_pct=100 * area_under_risk(nme, uncertainty),
        aurc_random_pct=float(100 * nme.mean()),
        aurc_oracle_pct=100 * area_under_risk(nme, nme),
    )
