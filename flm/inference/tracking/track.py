"""One face of a video: what is known of it, where it is expected, and whether it is still there."""

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, UInt8

from flm.faces.upright import FacePlace, place_of
from flm.geometry import MIN_FACE_PX, FaceBox
from flm.inference.predictor import Prediction
from flm.inference.tracking.appearance import Appearance, appearance_of, shape_distance, shape_of
from flm.inference.tracking.config import FilterConfig
from flm.inference.tracking.one_euro import LandmarkFilter
from flm.landmarks import LandmarkScheme

MOST_JUMP = 0.5
"""Of the face's size, between where it was expected and where it was found: further off is another face."""

MOST_GROWTH = 1.5
"""From one frame to the next."""

MOST_CHANGE_OF_SHAPE = 0.25
"""From one frame to the next, in inter-ocular distances: no face changes so fast, but what is none does."""

VELOCITY_OVER_S = 0.08
"""The velocity is a mean over about so long."""

COASTS_S = 0.8
"""How long a face that is not seen is taken to go on as it went."""

USUAL_SCORE_OVER = 30
"""Frames."""

LEARNS_EVERY_FRAMES = 5
"""It takes a look at the picture, and a face changes slowly."""

FIRST_LOOKS = 5
"""In frames one after the other."""

LEARNS = 0.1
"""How much of what is known of a face each look replaces, once there were many."""

SAME_PLACE = 0.3
"""Of the smaller face's size: two faces whose middles are nearer to each other are one."""

SAME_SIZE = 0.6
"""Of two faces in one place: the smaller over the larger one."""


@dataclass(slots=True, eq=False)
class Sighting:
    """A face in the frame at hand, which may be that of a track."""

    prediction: Prediction
    detected: bool = False
    _appearance: Appearance | None = None

    @property
    def box(self) -> FaceBox:
        """The landmarks' own."""
        return FaceBox.around(self.prediction.landmarks_image)

    def appearance(self, frame: UInt8[np.ndarray, "height width 3"]) -> Appearance:
        """What it looks like; looked up once."""
        if self._appearance is None:
            self._appearance = appearance_of(frame, self.prediction.landmarks_image, self.prediction.scheme)
        return self._appearance

    def detected_as(self, score: float) -> None:
        """Note that the detector found it too."""
        self.detected = True
        self.prediction = dataclasses.replace(self.prediction, detection_score=score)

    def is_sound(self, frame: UInt8[np.ndarray, "height width 3"]) -> bool:
        """Whether the landmarks are those of anything in the frame."""
        landmarks = self.prediction.landmarks_image
        if not np.isfinite(landmarks).all() or float(np.ptp(landmarks, axis=0).max()) <= MIN_FACE_PX:
            return False
        x, y = _middle(landmarks)
        return 0 <= x <= frame.shape[1] - 1 and 0 <= y <= frame.shape[0] - 1

    def shows_face_of(self, other: "Sighting") -> bool:
        """Whether two are one face, looked at from two boxes."""
        mine, its = self.box, other.box
        small, large = sorted((mine.long_side, its.long_side))
        apart = math.hypot(mine.center_x - its.center_x, mine.center_y - its.center_y)
        return apart < SAME_PLACE * small and small > SAME_SIZE * large


@dataclass(slots=True, eq=False)
class Track:
    """A face with its id."""

    track_id: int
    scheme: LandmarkScheme
    filter: LandmarkFilter | None
    landmarks: Float64[np.ndarray, "points 2"]
    """Steadied, px of the last frame in which it was seen."""
    raw: Float64[np.ndarray, "points 2"]
    appearance: Appearance
    seen_s: float
    """When that was."""
    usual_score: float | None
    velocity: Float64[np.ndarray, "2"] = field(default_factory=lambda: np.zeros(2))
    """Px a second."""
    num_frames: int = 1
    num_looks: int = 1
    """At its appearance."""
    num_missed: int = 0
    """Looks of the detector in a row that did not find it."""

    @classmethod
    def of(
        cls,
        track_id: int,
        sighting: Sighting,
        frame: UInt8[np.ndarray, "height width 3"],
        time_s: float,
        config: FilterConfig | None,
    ) -> "Track":
        """A new face."""
        prediction = sighting.prediction
        steady = None if config is None else LandmarkFilter(prediction.scheme, config)
        landmarks = prediction.landmarks_image
        if steady is not None:
            landmarks = steady.filter(landmarks, prediction.covariance_image, time_s)
        return cls(
            track_id=track_id,
            scheme=prediction.scheme,
            filter=steady,
            landmarks=landmarks,
            raw=prediction.landmarks_image,
            appearance=sighting.appearance(frame),
            seen_s=time_s,
            usual_score=prediction.score,
        )

    @property
    def box(self) -> FaceBox:
        """The landmarks' own, where the face was seen last."""
        return FaceBox.around(self.landmarks)

    def expected_box(self, time_s: float) -> FaceBox:
        """The landmarks' own, where the face is expected."""
        return FaceBox.around(self._expected_landmarks(time_s))

    def expected_place(self, time_s: float) -> FacePlace:
        """Where to look for the face: there, upright."""
        landmarks = self._expected_landmarks(time_s)
        return place_of(landmarks, self.scheme) or FacePlace(
            box_image=FaceBox.around(landmarks), turn_deg=0.0
        )

    def _expected_landmarks(self, time_s: float) -> Float64[np.ndarray, "points 2"]:
        return self.landmarks + self.velocity * min(time_s - self.seen_s, COASTS_S)

    def goes_on_in(
        self, sighting: Sighting, time_s: float, lost_score: float, *, is_calibrated: bool
    ) -> bool:
        """Whether what was found where the face was expected is a face, and may be the same one.

        Args:
            sighting: sound landmarks.
            time_s: of the frame.
            lost_score: see `TrackConfig`.
            is_calibrated: whether scores are probabilities, or only rank.
        """
        prediction = sighting.prediction
        if prediction.score is not None and self.usual_score is not None:
            least = lost_score if is_calibrated else lost_score * self.usual_score
            if prediction.score < least:
                return False
        expected, found = self.expected_box(time_s), sighting.box
        growth = found.long_side / expected.long_side
        if not 1 / MOST_GROWTH < growth < MOST_GROWTH or distance_in_sizes(expected, found) > MOST_JUMP:
            return False
        before = shape_of(self.raw, prediction.scheme)
        now = shape_of(prediction.landmarks_image, prediction.scheme)
        return shape_distance(now, before) <= MOST_CHANGE_OF_SHAPE

    def take(self, sighting: Sighting, time_s: float) -> None:
        """Go on with what was seen in this frame."""
        prediction = sighting.prediction
        landmarks = prediction.landmarks_image
        step_s = max(time_s - self.seen_s, 1e-3)
        share = step_s / (step_s + VELOCITY_OVER_S)
        moved = (np.array(_middle(landmarks)) - _middle(self.raw)) / step_s
        self.velocity = self.velocity + share * (moved - self.velocity)
        self.raw = landmarks
        self.landmarks = landmarks
        if self.filter is not None:
            self.landmarks = self.filter.filter(landmarks, prediction.covariance_image, time_s)
        if prediction.score is not None and self.usual_score is not None:
            self.usual_score += (prediction.score - self.usual_score) / USUAL_SCORE_OVER
        self.seen_s = time_s
        self.num_frames += 1

    def is_to_look(self) -> bool:
        """Whether its appearance is to be looked at in this frame."""
        return self.num_looks < FIRST_LOOKS or self.num_frames % LEARNS_EVERY_FRAMES == 0

    def learn(self, seen: Appearance) -> None:
        """Take in how it looks now; the first look, at a face that just came in, soon counts for little."""
        self.num_looks += 1
        self.appearance = self.appearance.learned(seen, max(LEARNS, 1 / self.num_looks))

    def come_back(self, sighting: Sighting, time_s: float) -> None:
        """Go on after the face was lost, or was taken for another."""
        self.velocity = np.zeros(2)
        self.raw = sighting.prediction.landmarks_image
        self.seen_s = time_s
        self.num_missed = 0
        if self.filter is not None:
            self.filter.reset()
        self.take(sighting, time_s)


def distance_in_sizes(first: FaceBox, second: FaceBox) -> float:
    """Between the middles of two faces, in sizes of the smaller one."""
    apart = math.hypot(first.center_x - second.center_x, first.center_y - second.center_y)
    return apart / min(first.long_side, second.long_side)


def _middle(landmarks: Float64[np.ndarray, "points 2"]) -> tuple[float, float]:
    x, y = landmarks.mean(axis=0).tolist()
    return x, y
