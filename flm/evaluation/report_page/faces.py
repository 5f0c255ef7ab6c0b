"""The best, the median and the worst faces, prediction over truth."""

from html import escape

import numpy as np
from jaxtyping import Float

from flm.data.reader import Sample
from flm.draw import PREDICTION_COLOR, TRUTH_COLOR, Canvas, jpeg_uri
from flm.evaluation.report_page.measured import Measured
from flm.geometry import FaceBox, resample, square_crop, transform_points
from flm.landmarks import LandmarkScheme
from flm.page.html import figure, grid, image, section

FACES_IN_ROW = 6
TILE_PX = 320
MARGIN = 0.3
"""Around the true landmarks, of their longer side."""

ABOUT = (
    '<b class="truth">Green</b> is the truth, <b class="expected">magenta</b> the prediction. Below each '
    "face stand its error, what a calibrated network expects it to be, and its name."
)


def faces_section(measured: Measured) -> str:
    """Six faces of each kind."""
    order = np.argsort(measured.report.errors.nme, kind="stable")
    number = min(FACES_IN_ROW, len(order))
    middle = (len(order) - number) // 2
    kinds = {
        "Best": order[:number],
        "Median": order[middle : middle + number],
        "Worst": order[::-1][:number],
    }
    expected = _expected_nme(measured)
    drawn: list[str] = []
    for name, rows in kinds.items():
        chosen = rows.tolist()
        tiles = [
            _tile(measured, row, sample, None if expected is None else float(expected[row]))
            for row, sample in zip(chosen, measured.samples(chosen), strict=True)
        ]
        drawn.append(f"<h3>{name}</h3>" + grid("six", tiles))
    return section("Faces", ABOUT, *drawn)


def _expected_nme(measured: Measured) -> Float[np.ndarray, " faces"] | None:
    points, calibration = measured.points, measured.report.calibration
    if points.covariance is None or calibration is None:
        return None
    return calibration.expected_nme(points.predicted, points.covariance)


def _tile(measured: Measured, row: int, sample: Sample, expected: float | None) -> str:
    truth = sample.record.landmarks_shard
    prediction = measured.points.predicted_in(row, truth)
    error = f"{100 * float(measured.report.errors.nme[row]):.2f} %"
    told = "" if expected is None else f", expected {100 * expected:.1f} %"
    about = f"{sample.key}: error {error}{told}, prediction over truth"
    picture = face_picture(sample, prediction, measured.scheme)
    caption = f"<b>{error}</b>{told}<br><code>{escape(sample.key)}</code>"
    return figure(image(jpeg_uri(picture), size_px=TILE_PX, about=about), caption)


def face_picture(
    sample: Sample, prediction_shard: Float[np.ndarray, "points 2"], scheme: LandmarkScheme
) -> np.ndarray:
    """A face cut out closely, with its truth and the prediction."""
    truth_shard = sample.record.landmarks_shard
    shard_to_tile = square_crop(FaceBox.around(truth_shard), TILE_PX, MARGIN)
    truth, prediction = (transform_points(one, shard_to_tile) for one in (truth_shard, prediction_shard))
    canvas = Canvas(resample(sample.crop_shard, shard_to_tile, TILE_PX))
    canvas.lines(truth, scheme, TRUTH_COLOR).lines(prediction, scheme, PREDICTION_COLOR)
    return canvas.dots(truth, TRUTH_COLOR, 1.6).dots(prediction, PREDICTION_COLOR, 1.6).picture
