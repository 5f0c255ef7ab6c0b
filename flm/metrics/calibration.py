"""Uncertainty that means something: covariances that hold what they promise, and a score for each face.

Needs numpy alone, so that prediction can use it wherever it runs.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64

from flm.errors import InputError
from flm.fields import from_fields, parse_json, to_fields
from flm.files import write_whole
from flm.landmarks import LandmarkScheme, scheme_named
from flm.metrics.face_points import FacePoints
from flm.metrics.reliability import Reliability, measure_reliability, radius_squared, squared_distances

CALIBRATION_NAME = "calibration.json"
CALIBRATION_SCHEMA_VERSION = 1

FAILURE_NME = 0.08
"""A face whose error lies above has failed, by inter-ocular distance; as the papers on 300-W count it."""

FEWEST_FACES = 20
"""Fewer say nothing about the share of rare errors."""

FEWEST_FACES_PER_POINT = 100
"""With fewer, all points share one scale."""

FITTED_LEVEL = 0.9
"""The ellipse that is made to hold what it should."""

SMALLEST_SHARE_OF_BOX = 0.1
"""The eye corners of a prediction that went wrong may fall together; its face is taken as no smaller than
this share of the side of its box."""

SMALLEST_SPREAD = 0.05
"""Of the logarithm of errors; below it, the score would be 0 or 1 and nothing between."""

_TINY = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What was fitted on the validation split: `calibration.json` beside a checkpoint's weights.

    Everything is the same in every frame that is a similarity of the picture, and so in the crop too.

    Raises:
        ValueError: a field is out of range.
    """

    scheme: str
    """The landmark scheme."""
    scales: tuple[float, ...]
    """Factor of each point's covariance; one for all points, or one for each."""
    error_factor: float
    """The typical error of a face is `error_factor · e ** error_power`, as a fraction of the inter-ocular
    distance, where e is the error that its covariances let expect."""
    error_power: float
    error_spread: float
    """Standard deviation of the natural logarithm of a face's error about that of its typical error."""
    num_faces: int
    """That it was fitted on."""
    split: str
    data_hash: str
    """Of the manifest of the shards."""

    def __post_init__(self) -> None:
        num_points = scheme_named(self.scheme).num_points
        if len(self.scales) not in (1, num_points):
            raise ValueError(f"scales has {len(self.scales)} numbers, expected 1 or {num_points}")
        for name, values in (
            ("scales", self.scales),
            ("error_factor", (self.error_factor,)),
            ("error_spread", (self.error_spread,)),
        ):
            if not all(0 < value < math.inf for value in values):
                raise ValueError(f"{name} has a number that is not positive")
        if not 0 <= self.error_power < math.inf:
            raise ValueError(f"error_power is {self.error_power}, expected at least 0")

    @classmethod
    def load(cls, folder: Path) -> "Calibration | None":
        """The calibration of a checkpoint's folder; None where it has none.

        Raises:
            InputError: it is malformed, or of another version of flm.
        """
        path = folder / CALIBRATION_NAME
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        return cls.from_json(text, str(path))

    @classmethod
    def from_json(cls, text: bytes | str, where: str) -> "Calibration":
        """Read the bytes of a `calibration.json`, or what another file took over from it.

        Args:
            text: the JSON.
            where: the file, for messages.

        Raises:
            InputError: it is malformed, or of another version of flm.
        """
        try:
            fields = parse_json(text)
            version = fields.pop("schema_version")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{where}: not a calibration; make it again with `flm calibrate`") from error
        if version != CALIBRATION_SCHEMA_VERSION:
            raise InputError(
                f"{where}: calibration of version {version}, this flm reads {CALIBRATION_SCHEMA_VERSION}; "
                "update flm or make it again with `flm calibrate`"
            )
        return from_fields(cls, fields, where)

    def to_json(self) -> str:
        """What `from_json` reads."""
        fields = {"schema_version": CALIBRATION_SCHEMA_VERSION, **to_fields(self)}
        return json.dumps(fields, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, folder: Path) -> Path:
        """Put it beside the weights of a checkpoint, whole or not at all.

        Raises:
            InputError: it cannot be written.
        """
        path = folder / CALIBRATION_NAME
        write_whole(path, self.to_json().encode())
        return path

    def apply(
        self, covariance: Float[np.ndarray, "*faces points 2 2"]
    ) -> Float[np.ndarray, "*faces points 2 2"]:
        """Covariances whose ellipses hold the true points as often as they say.

        Args:
            covariance: as the network gives them, in any frame.
        """
        return covariance * np.asarray(self.scales, dtype=covariance.dtype)[:, None, None]

    def expected_nme(
        self,
        landmarks: Float[np.ndarray, "faces points 2"],
        covariance: Float[np.ndarray, "faces points 2 2"],
    ) -> Float64[np.ndarray, " faces"]:
        """The typical error of faces of which the network is as unsure, over the inter-ocular distance.

        Args:
            landmarks: as predicted, in a frame with equal x and y scale.
            covariance: as the network gives them, in the same frame; not yet calibrated.
        """
        expected = expected_error(landmarks, self.apply(covariance), scheme_named(self.scheme))
        return self.error_factor * expected**self.error_power

    def score(
        self,
        landmarks: Float[np.ndarray, "faces points 2"],
        covariance: Float[np.ndarray, "faces points 2 2"],
    ) -> Float64[np.ndarray, " faces"]:
        """The probability that the error of a face is at most `FAILURE_NME`: 1 is certain, 0 is hopeless.

        Errors are taken as log-normal about `expected_nme`, since failures are too rare to be counted.

        Args:
            landmarks: as for `expected_nme`.
            covariance: as for `expected_nme`.
        """
        typical = np.maximum(self.expected_nme(landmarks, covariance), _TINY)
        deviations = np.log(FAILURE_NME / typical) / (self.error_spread * math.sqrt(2))
        return np.array([0.5 * math.erfc(-deviation) for deviation in deviations.tolist()])


def expected_error(
    landmarks: Float[np.ndarray, "faces points 2"],
    covariance: Float[np.ndarray, "faces points 2 2"],
    scheme: LandmarkScheme,
) -> Float64[np.ndarray, " faces"]:
    """The error that covariances let expect of a face, as a fraction of its inter-ocular distance.

    The mean over the points of √(π tr Σ / 4), which is the mean distance from the centre of a round normal
    distribution of the same total variance.

    Args:
        landmarks: as predicted, in a frame with equal x and y scale.
        covariance: in the same frame.
        scheme: names the eye corners.
    """
    right, left = (landmarks[:, corner].astype(np.float64) for corner in scheme.outer_eye_corners)
    box_side = np.sqrt(np.ptp(landmarks.astype(np.float64), axis=1).prod(axis=-1))
    size = np.maximum(np.linalg.norm(right - left, axis=-1), SMALLEST_SHARE_OF_BOX * box_side)
    trace = covariance[..., 0, 0].astype(np.float64) + covariance[..., 1, 1]
    distance = np.sqrt(np.pi * trace / 4).mean(axis=1)
    return distance / np.maximum(size, _TINY)


def fit_calibration(
    points: FacePoints, nme: Float[np.ndarray, " faces"], *, per_point: bool, split: str, data_hash: str
) -> Calibration:
    """Fit to the faces of a split that nothing else is measured on.

    A scale makes the ellipse of `FITTED_LEVEL` hold that share of the points. The maximum-likelihood scale,
    mean d² / 2, is the same where errors are normal; they have heavier tails, and a few broken annotations
    would widen every ellipse, but move a quantile hardly at all.

    The typical error of a face is a power of the error that its covariances let expect, by least squares of
    the logarithms; a power below 0 would rank upside down and becomes 0.

    Args:
        points: of the faces, with their covariances.
        nme: error of each face, a fraction of the inter-ocular distance.
        per_point: a scale for each point, if there are `FEWEST_FACES_PER_POINT`; or one for all.
        split: that the faces are of.
        data_hash: of the manifest of the shards.

    Raises:
        InputError: there is no covariance, or there are too few faces.

    Source: one factor fitted on validation: Guo et al., "On Calibration of Modern Neural Networks", 2017;
        covariances of landmarks: Kumar et al., "LUVLi Face Alignment", 2020.
    """
    if points.covariance is None:
        raise InputError(
            "this network gives no covariance, so there is none to calibrate; take one with --model.head "
            "heatmap or simcc"
        )
    if len(nme) < FEWEST_FACES:
        raise InputError(
            f"the split {split!r} has {len(nme)} faces, a calibration takes {FEWEST_FACES}; give more data"
        )
    squared = squared_distances(points.predicted - points.truth, points.covariance)
    if not per_point or len(nme) < FEWEST_FACES_PER_POINT:
        squared = squared.reshape(-1, 1)
    quantiles = np.quantile(squared, FITTED_LEVEL, axis=0)
    scales = np.maximum(quantiles / radius_squared(FITTED_LEVEL), _TINY)
    scaled = points.covariance * scales[:, None, None]
    expected = np.log(expected_error(points.predicted, scaled, points.scheme))
    errors = np.log(np.maximum(nme, _TINY))
    from_mean = expected - expected.mean()
    power = max(0.0, float(from_mean @ errors / max(from_mean @ from_mean, _TINY)))
    left_over = errors - errors.mean() - power * from_mean
    return Calibration(
        scheme=points.scheme.name,
        scales=tuple(scales.tolist()),
        error_factor=float(np.exp(errors.mean() - power * expected.mean())),
        error_power=power,
        error_spread=max(float(left_over.std()), SMALLEST_SPREAD),
        num_faces=len(nme),
        split=split,
        data_hash=data_hash,
    )


def face_reliability(
    points: FacePoints, nme: Float[np.ndarray, " faces"], calibration: Calibration | None
) -> Reliability | None:
    """What covariances are worth, calibrated or as they are; None where there are none.

    Faces are ranked by the error that their covariances let expect, as the score ranks them.

    Args:
        points: of the faces.
        nme: error of each face, a fraction of the inter-ocular distance.
        calibration: of the network, if it has one.
    """
    if points.covariance is None:
        return None
    covariance = points.covariance if calibration is None else calibration.apply(points.covariance)
    squared = squared_distances(points.predicted - points.truth, covariance)
    return measure_reliability(squared, nme, expected_error(points.predicted, covariance, points.scheme))
