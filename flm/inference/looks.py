"""How a network looks at faces: cut out of their pictures, once or again, upright or turned."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64

from flm.faces.upright import FacePlace, place_of
from flm.geometry import resample, transform_points, unit_to_crop
from flm.inference.network import FaceNetwork
from flm.inference.pass_config import PassConfig
from flm.landmarks import LandmarkScheme
from flm.metrics.calibration import FAILURE_NME, Calibration, expected_error

FACES_PER_FORWARD = 32
"""Enough to keep a processor busy, few enough to fit any memory."""

SURE_SCORE = 0.9
"""A calibrated score below which a face may stand on its head: some of those are found with 0.8."""

LEAST_SCORE = 0.5
"""Of landmarks that are more likely right than wrong."""

TURNS_DEG = (0.0, 90.0, 180.0, -90.0)
"""In which a face is looked for."""

LOOKS_AT_A_TURN = 3
"""Each at the landmarks of the one before: the box of a detector that took a chin for a brow is far off."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What the network found at one place."""

    place: FacePlace
    landmarks: Float64[np.ndarray, "points 2"]
    """Px of the picture."""
    covariance: Float64[np.ndarray, "points 2 2"] | None
    """As the network gives it, px²; None for networks without maps."""
    score: float | None
    """See `Prediction`."""

    @property
    def sureness(self) -> float:
        """The score; 1 where there is none, 0 where it is not a number."""
        if self.score is None:
            return 1.0
        return 0.0 if math.isnan(self.score) else self.score


@dataclass(frozen=True, slots=True)
class LandmarkFinder:
    """Finds the landmarks of faces whose place is known. May be shared by threads.

    A network is unsure of a face that lies on its side or stands on its head, and wrong about it. So where a
    calibrated score is low, the face is looked at in other turns too, and the surest look is taken.
    """

    network: FaceNetwork
    """Finds the landmarks of a face that was cut out."""
    calibration: Calibration | None
    """Of its uncertainty; without one no face is turned."""
    passes: PassConfig
    """How often it looks at each face."""
    faces_per_forward: int
    """How many it sees at once."""

    def look_at(self, pictures: Sequence[np.ndarray], places: Sequence[FacePlace]) -> list[Look]:
        """The last look at each face.

        Args:
            pictures: of each face, RGB, uint8, (height, width, 3).
            places: where it is there. Only a face whose turn is not known is looked at in several.
        """
        looks = self._look(pictures, places)
        unsure = [row for row, look in enumerate(looks) if self._may_be_turned(look)]
        if self.passes.second_pass:
            looks = self._look_again(pictures, looks)
        turned = self._look_turned([pictures[row] for row in unsure], [places[row] for row in unsure])
        for row, look in zip(unsure, turned, strict=True):
            if look.sureness > max(looks[row].sureness, LEAST_SCORE):
                looks[row] = look
        return looks

    def _may_be_turned(self, look: Look) -> bool:
        return self.calibration is not None and look.place.turn_deg is None and look.sureness < SURE_SCORE

    def _look_turned(self, pictures: Sequence[np.ndarray], places: Sequence[FacePlace]) -> list[Look]:
        """The surest look at each face, which is taken to be tilted by each of the turns."""
        turns = len(TURNS_DEG)
        each = [picture for picture in pictures for _ in TURNS_DEG]
        looks = self._look(each, [replace(place, turn_deg=turn) for place in places for turn in TURNS_DEG])
        for _ in range(LOOKS_AT_A_TURN - 1):
            looks = self._look_again(each, looks)
        starts = range(0, len(looks), turns)
        return [max(looks[start : start + turns], key=lambda look: look.sureness) for start in starts]

    def _look_again(self, pictures: Sequence[np.ndarray], looks: Sequence[Look]) -> list[Look]:
        """At the landmarks' own places; at the same ones where they show no face."""
        scheme = self.network.scheme
        return self._look(pictures, [place_of(look.landmarks, scheme) or look.place for look in looks])

    def _look(self, pictures: Sequence[np.ndarray], places: Sequence[FacePlace]) -> list[Look]:
        looks: list[Look] = []
        for start in range(0, len(places), self.faces_per_forward):
            some = slice(start, start + self.faces_per_forward)
            landmarks, covariance = self._find(pictures[some], places[some])
            scores = _scores(landmarks, covariance, self.network.scheme, self.calibration)
            spreads = [None] * len(landmarks) if covariance is None else covariance
            looks += map(Look, places[some], landmarks, spreads, scores)
        return looks

    def _find(
        self, pictures: Sequence[np.ndarray], places: Sequence[FacePlace]
    ) -> tuple[Float64[np.ndarray, "faces points 2"], Float64[np.ndarray, "faces points 2 2"] | None]:
        """Landmarks in px of each face's picture, and their covariance as the network gives it, px²."""
        size_px = self.network.input_size_px
        image_to_crop = np.stack([place.crop(size_px, self.network.crop_margin) for place in places])
        crops = np.stack(
            [
                resample(picture, matrix, size_px)
                for picture, matrix in zip(pictures, image_to_crop, strict=True)
            ]
        )
        found = self.network.find(crops)
        landmarks_unit = found.landmarks_unit.astype(np.float64)
        if self.passes.mirror_average:
            of_mirrored = self.network.find(np.ascontiguousarray(crops[:, :, ::-1]))
            landmarks_unit = (landmarks_unit + _mirrored(of_mirrored.landmarks_unit, self.network.scheme)) / 2
        crop_to_image = np.linalg.inv(image_to_crop)
        landmarks_image = transform_points(unit_to_crop(landmarks_unit, size_px), crop_to_image)
        if found.covariance_unit is None:
            return landmarks_image, None
        turn = crop_to_image[:, None, :2, :2] * size_px
        return landmarks_image, turn @ found.covariance_unit.astype(np.float64) @ turn.swapaxes(-1, -2)


def _mirrored(
    landmarks_unit: Float32[np.ndarray, "faces points 2"], scheme: LandmarkScheme
) -> Float64[np.ndarray, "faces points 2"]:
    """Landmarks of a mirrored crop, in the crop as it was."""
    return landmarks_unit[:, list(scheme.mirror_permutation)].astype(np.float64) * [-1, 1] + [1, 0]


def _scores(
    landmarks: Float64[np.ndarray, "faces points 2"],
    covariance: Float64[np.ndarray, "faces points 2 2"] | None,
    scheme: LandmarkScheme,
    calibration: Calibration | None,
) -> list[float] | list[None]:
    """How likely the landmarks of each face are right.

    Without a calibration it only ranks: a half where the covariance lets expect an error that just fails.
    """
    if covariance is None:
        return [None] * len(landmarks)
    if calibration is not None:
        return calibration.score(landmarks, covariance).tolist()
    return (1 / (1 + (expected_error(landmarks, covariance, scheme) / FAILURE_NME) ** 2)).tolist()
