"""The landmarks of faces in pictures, whatever runs the network."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from flm.errors import InputError, warn
from flm.faces.openness import Openness, openness
from flm.faces.pose import HeadPose, head_pose
from flm.geometry import MIN_FACE_PX, FaceBox, resample, square_crop, transform_points, unit_to_crop
from flm.inference.detector import DetectedFace, FaceDetector, build_detector
from flm.inference.detector_config import ANY_DETECTOR, DetectorConfig
from flm.inference.network import FaceNetwork
from flm.inference.pass_config import ONE_PASS, PassConfig
from flm.inference.picture_input import Picture, PictureSource, as_picture
from flm.landmarks import LandmarkScheme
from flm.metrics.calibration import FAILURE_NME, Calibration, expected_error

FACES_PER_FORWARD = 32
"""Enough to keep a processor busy, few enough to fit any memory."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prediction:
    """The landmarks of one face."""

    scheme: LandmarkScheme
    """Which point is which."""
    box_image: FaceBox
    """The box that the face was looked for in, px of the picture; of the last look."""
    landmarks_image: Float64[np.ndarray, "points 2"]
    """Px of the picture, 0-based, an integer is the centre of a pixel."""
    covariance_image: Float64[np.ndarray, "points 2 2"] | None
    """How unsure each landmark is, px²; None for networks without maps."""
    score: float | None
    """How likely the landmarks are right, between 0 and 1: calibrated, the probability that their error is at
    most 8 % of the inter-ocular distance. None for networks without maps."""
    detection_score: float | None
    """How sure the detector is of the face, between 0 and 1; None where the box was given."""

    @property
    def pose(self) -> HeadPose | None:
        """How the head is turned; see `head_pose`."""
        return head_pose(self.landmarks_image, self.scheme)

    @property
    def openness(self) -> Openness | None:
        """How far eyes and mouth are open; see `flm.faces.openness.openness`."""
        return openness(self.landmarks_image, self.scheme)


class Predictor:
    """Finds faces and their landmarks. May be shared by threads.

    Args:
        network: finds the landmarks of a face that was cut out.
        detector: finds faces where no boxes are given; one of these is built when it is first needed.
        calibration: of the network's uncertainty; None takes it as it is.
        passes: how often the network looks at each face.
        faces_per_forward: how many faces the network sees at once, of one picture or several.
        allow_private_urls: see `fetch_url`.
    """

    def __init__(
        self,
        network: FaceNetwork,
        *,
        detector: FaceDetector | DetectorConfig = ANY_DETECTOR,
        calibration: Calibration | None = None,
        passes: PassConfig = ONE_PASS,
        faces_per_forward: int = FACES_PER_FORWARD,
        allow_private_urls: bool = False,
    ) -> None:
        if faces_per_forward < 1:
            raise InputError(f"{faces_per_forward} faces a forward pass, expected at least 1")
        self.network = network
        self.calibration = calibration
        self.passes = passes
        self.faces_per_forward = faces_per_forward
        self.allow_private_urls = allow_private_urls
        self._detector = detector
        self._building = threading.Lock()

    @property
    def scheme(self) -> LandmarkScheme:
        """Which point is which."""
        return self.network.scheme

    @property
    def detector(self) -> FaceDetector:
        """What finds faces where no boxes are given.

        Raises:
            InputError: its file or its library cannot be had.
        """
        with self._building:
            if isinstance(self._detector, DetectorConfig):
                self._detector = build_detector(self._detector, say=warn)
            return self._detector

    def predict(
        self, source: PictureSource, boxes: Sequence[FaceBox | DetectedFace] | None = None
    ) -> list[Prediction]:
        """The landmarks of each face of a picture.

        Args:
            source: see `as_picture`.
            boxes: around the faces, px of the picture; those that the detector finds if None.

        Returns:
            In the order of the boxes; of the detector's, the largest first. Empty where there is no face.

        Raises:
            InputError: the source is no picture, or the detector cannot be had.
        """
        return self.predict_many([source], [boxes])[0]

    def predict_many(
        self,
        sources: Sequence[PictureSource],
        boxes: Sequence[Sequence[FaceBox | DetectedFace] | None] | None = None,
    ) -> list[list[Prediction]]:
        """As `predict`, of several pictures, whose faces share forward passes. All pictures are held at once.

        Raises:
            InputError: as for `predict`; or there are not as many lists of boxes as pictures.
        """
        pictures = [as_picture(source, allow_private_urls=self.allow_private_urls) for source in sources]
        if boxes is None:
            boxes = [None] * len(pictures)
        if len(boxes) != len(pictures):
            raise InputError(f"{len(boxes)} lists of boxes for {len(pictures)} pictures; give one for each")
        faces = [
            _Face(number, picture, box, score)
            for number, (picture, given) in enumerate(zip(pictures, boxes, strict=True))
            for box, score in self._boxes_of(picture, given)
        ]
        found: list[list[Prediction]] = [[] for _ in pictures]
        for start in range(0, len(faces), self.faces_per_forward):
            some = faces[start : start + self.faces_per_forward]
            for face, prediction in zip(some, self._predict_some(some), strict=True):
                found[face.number].append(prediction)
        return found

    def _boxes_of(
        self, picture: Picture, given: Sequence[FaceBox | DetectedFace] | None
    ) -> list[tuple[FaceBox, float | None]]:
        return [
            (face, None) if isinstance(face, FaceBox) else (face.box_image, face.score)
            for face in (self.detector.detect(picture) if given is None else given)
        ]

    def _predict_some(self, faces: Sequence["_Face"]) -> list[Prediction]:
        boxes = [face.box for face in faces]
        landmarks, covariance = self._look(faces, boxes)
        if self.passes.second_pass:
            boxes = [
                _box_for_a_second_look(points, box) for points, box in zip(landmarks, boxes, strict=True)
            ]
            landmarks, covariance = self._look(faces, boxes)
        scores = _scores(landmarks, covariance, self.scheme, self.calibration)
        if covariance is not None and self.calibration is not None:
            covariance = self.calibration.apply(covariance)
        return [
            Prediction(
                scheme=self.scheme,
                box_image=box,
                landmarks_image=landmarks[row],
                covariance_image=None if covariance is None else covariance[row],
                score=scores[row],
                detection_score=face.detection_score,
            )
            for row, (face, box) in enumerate(zip(faces, boxes, strict=True))
        ]

    def _look(
        self, faces: Sequence["_Face"], boxes: Sequence[FaceBox]
    ) -> tuple[Float64[np.ndarray, "faces points 2"], Float64[np.ndarray, "faces points 2 2"] | None]:
        """Landmarks in px of each face's picture, and their covariance as the network gives it, px²."""
        size_px = self.network.input_size_px
        image_to_crop = np.stack([square_crop(box, size_px, self.network.crop_margin) for box in boxes])
        crops = np.stack(
            [
                resample(face.picture, matrix, size_px)
                for face, matrix in zip(faces, image_to_crop, strict=True)
            ]
        )
        found = self.network.find(crops)
        landmarks_unit = found.landmarks_unit.astype(np.float64)
        if self.passes.mirror_average:
            of_mirrored = self.network.find(np.ascontiguousarray(crops[:, :, ::-1]))
            landmarks_unit = (landmarks_unit + _mirrored(of_mirrored.landmarks_unit, self.scheme)) / 2
        crop_to_image = np.linalg.inv(image_to_crop)
        landmarks_image = transform_points(unit_to_crop(landmarks_unit, size_px), crop_to_image)
        if found.covariance_unit is None:
            return landmarks_image, None
        turn = crop_to_image[:, None, :2, :2] * size_px
        return landmarks_image, turn @ found.covariance_unit.astype(np.float64) @ turn.swapaxes(-1, -2)


@dataclass(frozen=True, slots=True, eq=False)
class _Face:
    """A face that is to be looked at."""

    number: int
    """Of its picture."""
    picture: Picture
    box: FaceBox
    detection_score: float | None


def _box_for_a_second_look(landmarks: Float64[np.ndarray, "points 2"], first: FaceBox) -> FaceBox:
    """The landmarks' own box; the first one where they show no face."""
    if not np.isfinite(landmarks).all():
        return first
    box = FaceBox.around(landmarks)
    return box if box.long_side > MIN_FACE_PX else first


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
