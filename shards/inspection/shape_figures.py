"""The mean face and its modes of variation as inline SVG."""

import numpy as np
from jaxtyping import Float

from flm.landmarks import LandmarkScheme
from flm.page.plot import svg
from shards.inspection.shape_model import ShapeModel

UNITS = 100.0
"""Of the view box in an inter-ocular distance."""

MARGIN = 10.0
ELLIPSE_DEVIATIONS = 1.0
MODE_DEVIATIONS = 2.0


def mean_shape(model: ShapeModel) -> str:
    """The mean face, and around each point the ellipse of one standard deviation."""
    variances, directions = np.linalg.eigh(model.point_covariance())
    half_axes = ELLIPSE_DEVIATIONS * UNITS * np.sqrt(variances)
    angles_deg = np.rad2deg(np.arctan2(directions[:, 1, 1], directions[:, 0, 1]))
    places = UNITS * model.mean
    drawn = [_lines(places, model.scheme, "shape")]
    for point, ((x, y), (minor, major), angle) in enumerate(zip(places, half_axes, angles_deg, strict=True)):
        spread_pct = 100 * float(np.sqrt(variances[point].sum()))
        drawn.append(
            f'<g><ellipse class="spread" cx="{x:.2f}" cy="{y:.2f}" rx="{major:.2f}" ry="{minor:.2f}" '
            f'transform="rotate({angle:.1f} {x:.2f} {y:.2f})"/>'
            f'<circle class="point" cx="{x:.2f}" cy="{y:.2f}" r="1.1"/>'
            f'<text class="number" x="{x + 1.8:.2f}" y="{y - 1.4:.2f}">{point}</text>'
            f"<title>point {point}: varies by {spread_pct:.1f} % of the inter-ocular distance</title></g>"
        )
    about = f"The mean face: {len(places)} points, each with the ellipse of its standard deviation"
    spread = half_axes.max(axis=1, keepdims=True)
    return svg(drawn, _view_box(np.concatenate([places - spread, places + spread])), about)


def modes_of_variation(model: ShapeModel, number: int) -> list[str]:
    """The mean face and what each of the strongest modes makes of it, in either direction, in one scale."""
    reach = MODE_DEVIATIONS * model.modes(number)
    shapes = [UNITS * shape for shape in np.concatenate([model.mean - reach, model.mean + reach])]
    box = _view_box(np.concatenate(shapes))
    about = "The mean face and two standard deviations of mode {} to either side"
    return [
        svg(
            [
                _lines(UNITS * model.mean, model.scheme, "shape"),
                _lines(less, model.scheme, "shape less"),
                _lines(more, model.scheme, "shape more"),
            ],
            box,
            about.format(place),
        )
        for place, (less, more) in enumerate(zip(shapes[:number], shapes[number:], strict=True), 1)
    ]


def _lines(places: Float[np.ndarray, "points 2"], scheme: LandmarkScheme, kind: str) -> str:
    path = "".join(
        "M"
        + " ".join(f"{x:.1f},{y:.1f}" for x, y in places[list(line.points)])
        + ("z" if line.closed else "")
        for line in scheme.lines
    )
    return f'<path class="{kind}" d="{path}"/>'


def _view_box(places: Float[np.ndarray, "points 2"]) -> tuple[float, float, float, float]:
    low, high = places.min(axis=0) - MARGIN, places.max(axis=0) + MARGIN
    return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])
