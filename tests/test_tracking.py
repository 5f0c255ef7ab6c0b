"""Faces keep their ids: through crossings, behind each other, out of the picture and back."""

import collections
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from simulated_faces import (
    SimulatedPredictor,
    drawn_faces,
    error_of,
    owner_of,
    rendered_faces,
    turned_face,
)

import flm
from flm.bench.face_paths import crossing, still, swaying
from flm.bench.moving_faces import FacePath, FacePicture, MovingFaces, MovingFrame, Placement
from flm.geometry import FaceBox
from flm.inference.detector import DetectedFace
from flm.inference.tracking.config import FilterConfig
from flm.inference.tracking.tracker import FaceTracker, TrackConfig, TrackedFace

SIZE = {"width": 640, "height": 360}
RAW = TrackConfig(filter=None)


def video_of(paths: Sequence[FacePath], num_frames: int = 60, **options) -> MovingFaces:
    return MovingFaces(drawn_faces(len(paths)), paths, num_frames=num_frames, **{**SIZE, **options})


def tracked(
    video: MovingFaces, predictor: SimulatedPredictor | None = None, config: TrackConfig | None = None
) -> list[tuple[MovingFrame, list[TrackedFace]]]:
    predictor = predictor or SimulatedPredictor()
    tracker = FaceTracker(predictor, config or TrackConfig())
    return [(frame, tracker.update(predictor.show(frame), frame.time_s)) for frame in video]


def owners(found: list[tuple[MovingFrame, list[TrackedFace]]]) -> dict[int, collections.Counter]:
    """Of each id, on whose face it was in how many frames."""
    counts: dict[int, collections.Counter] = collections.defaultdict(collections.Counter)
    for frame, faces in found:
        for face in faces:
            counts[face.track_id][owner_of(face.raw_landmarks_image, frame)] += 1
    return counts


def seen_share(found: list[tuple[MovingFrame, list[TrackedFace]]], face: int) -> float:
    """Of the frames in which a face can be seen, those in which it was found."""
    visible = [
        any(owner_of(one.raw_landmarks_image, frame) == face for one in faces)
        for frame, faces in found
        if frame.visible.get(face, 0) > 0.9
    ]
    return float(np.mean(visible))


@pytest.mark.parametrize(
    ("faces", "has_score"),
    [(drawn_faces, True), (rendered_faces, True), (rendered_faces, False)],
    ids=["drawn", "rendered", "rendered without scores"],
)
def test_four_faces_that_cross_and_leave_keep_their_ids(faces, has_score):
    pictures: list[FacePicture] = faces(4)
    paths = crossing(640, 360, size_px=75.0, duration_s=6.0)
    video = MovingFaces(pictures, paths, num_frames=180, **SIZE)
    found = tracked(video, SimulatedPredictor(has_score=has_score), RAW)
    ids = owners(found)
    assert sorted(ids) == [0, 1, 2, 3]
    assert sorted(max(count, key=count.__getitem__) for count in ids.values()) == [0, 1, 2, 3]
    assert all(len(count) == 1 for count in ids.values()), ids
    assert all(seen_share(found, face) > 0.8 for face in range(4))


def test_the_detector_looks_only_now_and_then():
    predictor = SimulatedPredictor()
    found = tracked(
        video_of([swaying(320.0, 180.0, 80.0)], 61), predictor, TrackConfig(detect_every_frames=15)
    )
    assert predictor.num_detections == 5
    assert [face.detected for _, (face,) in found[:4]] == [True, False, False, False]
    assert sum(face.detected for _, (face,) in found) == 5
    # One look of the network a frame.
    assert predictor.num_looks == 61
    scores = [face.prediction.detection_score for _, (face,) in found[:2]]
    assert scores == [0.9, None]


def test_it_looks_at_once_when_a_face_is_lost():
    jump = lambda time: Placement(  # noqa: E731
        center_x=150.0 if time < 0.5 else 480.0, center_y=180.0, size_px=80.0
    )
    found = tracked(video_of([jump]), config=TrackConfig(detect_every_frames=100))
    # It is somewhere else from one frame to the next, and is known again by its looks.
    assert all([face.track_id for face in faces] == [0] for _, faces in found)
    assert [number for number, (_, (face,)) in enumerate(found) if face.detected] == [0, 15]


def test_a_face_that_comes_back_late_is_a_new_one():
    away = lambda time: None if 0.5 < time < 1.2 else still(320.0, 180.0, 80.0)(time)  # noqa: E731
    for remember_s, ids in ((5.0, {0}), (0.2, {0, 1})):
        found = tracked(video_of([away]), config=TrackConfig(remember_s=remember_s))
        assert {face.track_id for _, faces in found for face in faces} == ids
        assert found[-1][1][0].track_id == max(ids)


def test_another_face_in_its_place_is_a_new_one():
    first = lambda time: still(320.0, 180.0, 80.0)(time) if time < 0.7 else None  # noqa: E731
    second = lambda time: still(320.0, 180.0, 80.0)(time) if time > 1.0 else None  # noqa: E731
    ids = owners(tracked(MovingFaces(rendered_faces(2), [first, second], num_frames=60, **SIZE)))
    assert ids == {0: collections.Counter({0: 21}), 1: collections.Counter({1: ids[1][1]})}


def test_a_head_that_turns_all_the_way_round_is_followed():
    (face,) = rendered_faces(1)
    _, first = turned_face(face, 0.0)

    class Once:
        name = "once"

        def detect(self, picture: np.ndarray) -> list[DetectedFace]:
            return [DetectedFace(box_image=FaceBox.around(first), score=0.9)]

    tracker = FaceTracker(flm.load(detector=Once(), threads=1), TrackConfig(detect_every_frames=1000))
    errors = []
    for number in range(46):
        frame, truth = turned_face(face, 8.0 * number)
        (found,) = tracker.update(frame, number / 30)
        errors.append(error_of(found.raw_landmarks_image, truth))
        assert found.track_id == 0
    assert max(errors) < 0.08


def test_two_tracks_never_stay_on_one_face():
    # The second walks behind the first and stays there.
    front = still(320.0, 180.0, 80.0)
    behind = lambda time: Placement(  # noqa: E731
        center_x=max(320.0, 560.0 - 240 * time), center_y=180.0, size_px=70.0
    )
    found = tracked(video_of([behind, front]))
    assert len(found[0][1]) == 2
    ids = owners(found)
    front_id = next(number for number, count in ids.items() if count[1] > 40)
    for frame, faces in found[40:]:
        assert [owner_of(face.raw_landmarks_image, frame) for face in faces] == [1]
        assert [face.track_id for face in faces] == [front_id]


def test_landmarks_are_steadied_and_raw_ones_told():
    predictor = SimulatedPredictor(noise=0.02)
    found = tracked(video_of([still(320.0, 180.0, 120.0)]), predictor)
    raw = np.stack([face.raw_landmarks_image for _, (face,) in found])[20:]
    steady = np.stack([face.prediction.landmarks_image for _, (face,) in found])[20:]

    def jitter(landmarks: np.ndarray) -> float:
        return float(np.diff(landmarks, 2, axis=0).std())

    assert jitter(steady) < jitter(raw) / 3
    without = tracked(video_of([still(320.0, 180.0, 120.0)]), config=RAW)
    for _, (face,) in without:
        np.testing.assert_array_equal(face.prediction.landmarks_image, face.raw_landmarks_image)
    assert found[0][1][0].prediction.pose is not None


def test_faces_at_the_rim_and_no_face_at_all():
    leaves = lambda time: Placement(center_x=500.0 + 200 * time, center_y=180.0, size_px=80.0)  # noqa: E731
    found = tracked(video_of([leaves]))
    assert found[0][1]
    assert not found[-1][1]
    assert all(not faces for _, faces in tracked(video_of([lambda _: None], 5)))


def test_only_so_many_faces_are_followed():
    paths = [still(80.0 + 120 * number, 180.0, 40.0 + 5 * number) for number in range(4)]
    found = tracked(video_of(paths, 25), config=TrackConfig(max_faces=2))
    # The largest come first.
    assert all(set(owners([one])) == {0, 1} for one in found)
    assert {next(iter(count)) for count in owners(found).values()} == {2, 3}


def test_a_video_is_told_alike_whichever_came_before():
    predictor = SimulatedPredictor()
    tracker = FaceTracker(predictor)
    frames = list(video_of([still(320.0, 180.0, 80.0)], 4))
    assert [face.track_id for face in tracker.update(predictor.show(frames[0]), 0.0)] == [0]
    tracker.reset()
    (face,) = tracker.update(predictor.show(frames[1]), 0.0)
    assert (face.track_id, face.detected) == (0, True)


def test_nothing_grows_with_the_video():
    # A face that comes and goes, each time as another track.
    blinking = lambda time: still(320.0, 180.0, 80.0)(time) if time % 1 < 0.5 else None  # noqa: E731
    predictor = SimulatedPredictor()
    tracker = FaceTracker(predictor, TrackConfig(remember_s=0.1))
    sizes = []
    for frame in video_of([blinking], 300):
        tracker.update(predictor.show(frame), frame.time_s)
        sizes.append(sum(sys.getsizeof(value) for value in vars(tracker).values()) + len(tracker._lost))
    assert tracker._next_id > 5
    assert max(sizes[150:]) <= max(sizes[:150])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"detect_every_frames": 0}, r"--track\.detect-every-frames is 0, must be at least 1"),
        ({"remember_s": -1.0}, r"--track\.remember-s is -1\.0, must be at least 0"),
        ({"lost_score": 2.0}, r"--track\.lost-score is 2\.0, must be from 0 to 1"),
    ],
)
def test_what_follows_nothing_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TrackConfig(**fields)


def test_the_filter_is_the_one_that_is_asked_for():
    calm = TrackConfig(
        filter=FilterConfig(min_cutoff_hz=0.1, head_min_cutoff_hz=0.1, beta=0.0, head_beta=0.0)
    )
    truth = video_of([swaying(320.0, 180.0, 80.0)])
    behind = [
        float(np.abs(face.prediction.landmarks_image - face.raw_landmarks_image).mean())
        for config in (calm, TrackConfig())
        for _, (face,) in tracked(truth, config=config)[30:31]
    ]
    assert behind[0] > 5 * behind[1]
