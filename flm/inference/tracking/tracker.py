"""The faces of a video, each with an id that it keeps.

In each frame, a face is looked for where its landmarks of the last frame and its velocity let expect it. A
detector looks every few frames, and at once when a face is lost. A face that it finds, and that no track
leads to, may be one that was lost before: place, colours and shape of all faces in question are compared at
once, so that two that crossed get their own ids back even where each was taken for the other meanwhile.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, UInt8

from flm.inference.detector import DetectedFace
from flm.inference.predictor import Prediction, Predictor
from flm.inference.tracking.assignment import assign
from flm.inference.tracking.config import DEFAULT_TRACKING, TrackConfig
from flm.inference.tracking.ownership import (
    NEAR,
    SOON_S,
    Frame,
    Seen,
    is_to_wait,
    one_track_a_face,
    owners_of,
)
from flm.inference.tracking.track import Sighting, Track, distance_in_sizes

LEAST_OVERLAP = 0.25
"""Between a face and the box that a detector draws around it."""

FEWEST_FRAMES = 3
"""Of a track: one that was lost sooner was no face, and is not waited for."""

MOST_REMEMBERED = 2
"""Times the most faces at once: so many lost ones are waited for."""

MORE_OFTEN = 2
"""Times, so long as a face that was just lost may come back, does the detector look."""

LOOKS_AGAIN_AFTER = 3
"""Frames, where a face is half hidden and may be one that was lost: it has no id until it is seen."""

LOOKS_WITHOUT_FINDING = 3
"""Of the detector, one after the other, until a face that it does not find is taken for lost."""

SURE_SCORE = 0.7
"""A calibrated score above which a face is one, whether the detector finds it or not."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrackedFace:
    """One face in one frame."""

    track_id: int
    """From 0, in the order in which faces appear; never used for another face of the video."""
    prediction: Prediction
    """With the steadied landmarks."""
    raw_landmarks_image: Float64[np.ndarray, "points 2"]
    """As found in this frame alone, px of the picture."""
    detected: bool
    """Whether the detector found the face in this frame."""


class FaceTracker:
    """Finds and follows the faces of a video, frame by frame. Not to be shared by threads.

    What it keeps does not grow with the video: the faces of the last frame, and those lost of late.

    Args:
        predictor: with the detector that looks for new faces.
        config: how faces are followed.
    """

    def __init__(self, predictor: Predictor, config: TrackConfig = DEFAULT_TRACKING) -> None:
        self.predictor = predictor
        self.config = config
        self.reset()

    def reset(self) -> None:
        """Forget all faces and their ids, as before another video."""
        self._next_id = 0
        self._tracks: list[Track] = []
        self._lost: list[Track] = []
        self._until_detection = 0

    def update(self, frame: UInt8[np.ndarray, "height width 3"], time_s: float) -> list[TrackedFace]:
        """The faces of the next frame, by id.

        Args:
            frame: RGB, of any size.
            time_s: of the frame; rises from frame to frame.

        Raises:
            InputError: the detector cannot be had, or the frame is no picture.
        """
        led = self._follow(frame, time_s)
        new: list[Sighting] = []
        if self._until_detection <= 0 or len(led) < len(self._tracks):
            self._until_detection = self.config.detect_every_frames
            led, new = self._detect(frame, led)
        self._until_detection -= 1
        seen = self._settle(frame, time_s, led, new)
        still_there = {track.track_id for track, _ in seen}
        gone = [track for track in (*self._lost, *self._tracks) if track.track_id not in still_there]
        self._lost = self._remembered(gone, time_s)
        if any(time_s - track.seen_s < SOON_S for track in self._lost):
            often = max(1, self.config.detect_every_frames // MORE_OFTEN)
            self._until_detection = min(self._until_detection, often)
        self._tracks = [track for track, _ in seen]
        self._learn(frame, time_s, seen)
        return [_told(track, sighting) for track, sighting in seen]

    def _remembered(self, gone: Sequence[Track], time_s: float) -> list[Track]:
        """Of the tracks that are lost, those that may come back: the latest ones, which were no flicker."""
        kept = [
            track
            for track in gone
            if time_s - track.seen_s <= self.config.remember_s and track.num_frames >= FEWEST_FRAMES
        ]
        return sorted(kept, key=lambda track: track.seen_s)[-MOST_REMEMBERED * self.config.max_faces :]

    def _follow(self, frame: Frame, time_s: float) -> list[Seen]:
        """The tracks that go on, each with what was found where it was expected."""
        places = [track.expected_place(time_s) for track in self._tracks]
        found = self.predictor.predict(frame, places) if places else []
        pairs = [
            (track, sighting)
            for track, sighting in zip(self._tracks, map(Sighting, found), strict=True)
            if sighting.is_sound(frame)
            and track.goes_on_in(
                sighting, time_s, self.config.lost_score, is_calibrated=self.predictor.calibration is not None
            )
        ]
        return one_track_a_face(pairs, frame)

    def _detect(self, frame: Frame, led: Sequence[Seen]) -> tuple[list[Seen], list[Sighting]]:
        """Of the tracks that go on, those that do so after a look of the detector; and what is new."""
        detected = self.predictor.detector.detect(frame)
        overlaps = np.array(
            [[face.box_image.overlap(sighting.box) for face in detected] for _, sighting in led]
        ).reshape(len(led), len(detected))
        matches = dict(assign(1 - overlaps, most=1 - LEAST_OVERLAP))
        kept: list[Seen] = []
        for row, (track, sighting) in enumerate(led):
            if row in matches:
                track.num_missed = 0
                sighting.detected_as(detected[matches[row]].score)
            else:
                track.num_missed += 1
            if track.num_missed < LOOKS_WITHOUT_FINDING or self._is_sure(sighting):
                kept.append((track, sighting))
        taken = set(matches.values())
        unknown = [face for number, face in enumerate(detected) if number not in taken]
        return kept, self._look_at(frame, unknown[: max(0, self.config.max_faces - len(kept))], kept)

    def _look_at(self, frame: Frame, faces: Sequence[DetectedFace], led: Sequence[Seen]) -> list[Sighting]:
        """What the network finds where the detector saw faces that no track leads to."""
        new: list[Sighting] = []
        for found in self.predictor.predict(frame, faces) if faces else []:
            sighting = Sighting(found, detected=True)
            others = [*(other for _, other in led), *new]
            if (
                sighting.is_sound(frame)
                and not self._is_doubtful(sighting)
                and not any(sighting.shows_face_of(other) for other in others)
            ):
                new.append(sighting)
        return new

    def _is_sure(self, sighting: Sighting) -> bool:
        score = sighting.prediction.score
        return self.predictor.calibration is not None and score is not None and score >= SURE_SCORE

    def _is_doubtful(self, sighting: Sighting) -> bool:
        score = sighting.prediction.score
        return self.predictor.calibration is not None and score is not None and score < self.config.lost_score

    def _settle(
        self, frame: Frame, time_s: float, led: Sequence[Seen], new: Sequence[Sighting]
    ) -> list[Seen]:
        """Which face is whose, by id."""
        here = {track.track_id for track, _ in led}
        lost = [track for track in (*self._tracks, *self._lost) if track.track_id not in here]
        owners = owners_of(frame, time_s, led, lost, new)
        sightings = [*(sighting for _, sighting in led), *new]
        seen: list[Seen] = []
        for number, sighting in enumerate(sightings):
            track = owners.get(number)
            if track is None and is_to_wait(frame, time_s, sighting, sightings, lost):
                self._until_detection = min(self._until_detection, LOOKS_AGAIN_AFTER)
                continue
            if track is None:
                track = Track.of(self._next_id, sighting, frame, time_s, self.config.filter)
                self._next_id += 1
            elif number < len(led) and track is led[number][0]:
                track.take(sighting, time_s)
            else:
                track.come_back(sighting, time_s)
            seen.append((track, sighting))
        return sorted(seen, key=lambda pair: pair[0].track_id)

    def _learn(self, frame: Frame, time_s: float, seen: Sequence[Seen]) -> None:
        """Look again at faces that nothing hides."""
        expected = [*(track.box for track in self._tracks), *(one.expected_box(time_s) for one in self._lost)]
        for row, (track, sighting) in enumerate(seen):
            if track.is_to_look():
                others = (box for number, box in enumerate(expected) if number != row)
                if all(distance_in_sizes(track.box, box) > NEAR for box in others):
                    track.learn(sighting.appearance(frame))


def _told(track: Track, sighting: Sighting) -> TrackedFace:
    return TrackedFace(
        track_id=track.track_id,
        prediction=dataclasses.replace(sighting.prediction, landmarks_image=track.landmarks),
        raw_landmarks_image=sighting.prediction.landmarks_image,
        detected=sighting.detected,
    )
