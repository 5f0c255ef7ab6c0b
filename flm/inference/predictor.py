"""The landmarks of faces in pictures, whatever runs the network."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64

from flm.errors import InputError, warn
from flm.faces.openness import Openness, openness
from flm.faces.pose import HeadPose, head_pose
from flm.faces.upright import FacePlace
from flm.geometry import FaceBox
from flm.inference.detector import DetectedFace, FaceDetector, build_detector
from flm.inference.detector_config import ANY_DETECTOR, DetectorConfig
from flm.inference.looks import FACES_PER_FORWARD, LandmarkFinder, Look
from flm.inference.network import FaceNetwork
from flm.inference.pass_config import ONE_PASS, PassConfig
from flm.inference.picture_input import Picture, PictureSource, as_picture
from flm.landmarks import LandmarkScheme
from flm.metrics.calibration import Calibration

GivenFace: TypeAlias = FaceBox | FacePlace | DetectedFace
"""Where a face is said to be; its turn is known only of a `FacePlace`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prediction:
    """The landmarks of one face."""

    scheme: LandmarkScheme
    """Which point is which."""
    box_image: FaceBox
    """The box that the face was looked for in, px of the picture; of the last look. Of a tilted face: see
    `FacePlace`."""
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

    def predict(self, source: PictureSource, boxes: Sequence[GivenFace] | None = None) -> list[Prediction]:
        """The landmarks of each face of a picture.

        Args:
            source: see `as_picture`.
            boxes: around the faces, px of the picture; those that the detector finds if None. A face that
                is not surely found upright is looked at in other turns too, where its turn is not known.

        Returns:
            In the order of the boxes; of the detector's, the largest first. Empty where there is no face.

        Raises:
            InputError: the source is no picture, or the detector cannot be had.
        """
        return self.predict_many([source], [boxes])[0]

    def predict_many(
        self,
        sources: Sequence[PictureSource],
        boxes: Sequence[Sequence[GivenFace] | None] | None = None,
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
            (number, place, score)
            for number, given in enumerate(boxes)
            for place, score in self._places_in(pictures[number], given)
        ]
        finder = LandmarkFinder(self.network, self.calibration, self.passes, self.faces_per_forward)
        looks = finder.look_at([pictures[number] for number, _, _ in faces], [place for _, place, _ in faces])
        found: list[list[Prediction]] = [[] for _ in pictures]
        for (number, _, score), look in zip(faces, looks, strict=True):
            found[number].append(self._told(look, score))
        return found

    def _places_in(
        self, picture: Picture, given: Sequence[GivenFace] | None
    ) -> Iterator[tuple[FacePlace, float | None]]:
        """Where to look for faces, and how sure the detector is of each."""
        for face in self.detector.detect(picture) if given is None else given:
            match face:
                case FaceBox():
                    yield FacePlace(box_image=face), None
                case FacePlace():
                    yield face, None
                case DetectedFace():
                    yield FacePlace(box_image=face.box_image), face.score

    def _told(self, look: Look, detection_score: float | None) -> Prediction:
        covariance = look.covariance
        if covariance is not None and self.calibration is not None:
            covariance = self.calibration.apply(covariance)
        return Prediction(
            scheme=self.scheme,
            box_image=look.place.box_image,
            landmarks_image=look.landmarks,
            covariance_image=covariance,
            score=look.score,
            detection_score=detection_score,
        )
