"""Poses of heads whose true turn is known, up to profiles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flm.faces.landmark_conversion import convert_landmarks, points_taken
from flm.faces.pose import (
    CAMERA_DISTANCE,
    SIDES_OF_THE_JAW,
    HeadPose,
    head_pose,
    mean_face,
    rotation_angles_deg,
    rotation_matrix,
)
from flm.landmarks import DLIB_5, IBUG_68, WFLW_98, LandmarkScheme
from shards.synthesis import pose as synthesis
from shards.synthesis.pose import draw_head

YAWS, PITCHES, ROLLS = st.floats(-95, 95), st.floats(-50, 50), st.floats(-180, 180)


def photographed(
    yaw_deg: float, pitch_deg: float, roll_deg: float, distance: float = CAMERA_DISTANCE
) -> np.ndarray:
    """The mean head before a camera that looks at its middle, px."""
    middle = np.delete(mean_face(), list(SIDES_OF_THE_JAW), axis=0).mean(axis=0)
    turned = (mean_face() - middle) @ rotation_matrix(float(yaw_deg), float(pitch_deg), float(roll_deg)).T
    return turned[:, :2] * (distance / (distance - turned[:, 2:])) * 90 + 128


def pose_of(landmarks: np.ndarray, scheme: LandmarkScheme = IBUG_68) -> HeadPose:
    pose = head_pose(landmarks, scheme)
    assert pose is not None
    return pose


def angles(pose: HeadPose) -> np.ndarray:
    return np.array([pose.yaw_deg, pose.pitch_deg, pose.roll_deg])


def angle_between_deg(pose: HeadPose, truth: tuple[float, float, float]) -> float:
    turn = rotation_matrix(*angles(pose).tolist()) @ rotation_matrix(*truth).T
    return float(np.rad2deg(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))


def as_wflw(landmarks: np.ndarray) -> np.ndarray:
    """98 points of which 68 are the given ones; the others are anywhere."""
    wide = np.random.default_rng(0).uniform(0, 256, (98, 2))
    wide[list(points_taken(WFLW_98, IBUG_68))] = landmarks
    return wide


def test_the_mean_face_is_that_of_the_file(shared_data):
    rows = np.loadtxt(shared_data / "mean_face_68_3d.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(mean_face(), rows[:, 1:])


def test_the_mean_face_is_symmetric_and_a_unit_wide():
    mirrored = mean_face()[list(IBUG_68.mirror_permutation)] * [-1, 1, 1]
    np.testing.assert_array_equal(mirrored, mean_face())
    right, left = IBUG_68.outer_eye_corners
    np.testing.assert_array_equal(mean_face()[left] - mean_face()[right], [1, 0, 0])


@settings(max_examples=50)
@given(yaw=st.floats(-170, 170), pitch=st.floats(-85, 85), roll=st.floats(-170, 170))
def test_angles_are_those_that_the_rotation_was_made_of(yaw, pitch, roll):
    assert rotation_angles_deg(rotation_matrix(yaw, pitch, roll)) == pytest.approx(
        (yaw, pitch, roll), abs=1e-6
    )


@settings(max_examples=100)
@given(yaw=YAWS, pitch=PITCHES, roll=ROLLS, distance=st.floats(6, 24))
def test_the_mean_head_is_seen_as_it_is_turned(yaw, pitch, roll, distance):
    pose = pose_of(photographed(yaw, pitch, roll, distance))
    assert angle_between_deg(pose, (yaw, pitch, roll)) < 3


@settings(max_examples=50)
@given(yaw=YAWS, pitch=PITCHES, roll=ROLLS)
def test_at_the_assumed_distance_it_is_exact(yaw, pitch, roll):
    assert angle_between_deg(pose_of(photographed(yaw, pitch, roll)), (yaw, pitch, roll)) < 0.3


def test_signs_are_what_the_words_say():
    """Without any matrix: where the nose goes when a head turns, nods and tilts."""
    front = photographed(0, 0, 0)
    right, down, tilted = photographed(25, 0, 0), photographed(0, 15, 0), photographed(0, 0, 20)
    assert right[30, 0] > front[30, 0]
    assert down[30, 1] - down[[36, 45], 1].mean() > front[30, 1] - front[[36, 45], 1].mean()
    assert tilted[45, 1] > tilted[36, 1]
    assert pose_of(right).yaw_deg > 15
    assert pose_of(down).pitch_deg > 8
    assert pose_of(tilted).roll_deg > 15


@pytest.mark.parametrize("yaw_limit_deg", [45.0, 90.0])
def test_heads_of_any_shape_and_expression_are_near_their_true_pose(monkeypatch, yaw_limit_deg):
    monkeypatch.setattr(synthesis, "YAW_LIMIT_DEG", yaw_limit_deg)
    heads = [draw_head(5, index, 256) for index in range(200)]
    true = np.array([rotation_angles_deg(head.view.rotation) for head in heads])
    assert np.abs(true[:, 0]).max() > 0.9 * yaw_limit_deg
    seen = np.array([angles(pose_of(head.landmarks_image)) for head in heads])
    errors = np.abs(seen - true)
    assert (errors.mean(axis=0) < [2.5, 2.5, 1.0]).all()
    assert (errors.max(axis=0) < [15, 15, 6]).all()


def test_a_mirror_twin_looks_the_other_way():
    for index in range(20):
        landmarks = draw_head(6, index, 256).landmarks_image
        twin = landmarks[list(IBUG_68.mirror_permutation)] * [-1, 1] + [255, 0]
        expected = angles(pose_of(landmarks)) * [-1, 1, -1]
        np.testing.assert_allclose(angles(pose_of(twin)), expected, atol=0.05)


def test_size_and_place_do_not_matter():
    landmarks = draw_head(7, 0, 256).landmarks_image
    far = pose_of(landmarks * 0.05 + [1e4, -1e4])
    np.testing.assert_allclose(angles(far), angles(pose_of(landmarks)), atol=0.05)


def test_the_sides_of_the_jaw_do_not_matter():
    landmarks = draw_head(7, 1, 256).landmarks_image
    moved = landmarks.copy()
    moved[list(SIDES_OF_THE_JAW)] += [10, -5]
    np.testing.assert_array_equal(angles(pose_of(moved)), angles(pose_of(landmarks)))


def test_98_points_turn_as_their_68():
    landmarks = photographed(40, 10, -15)
    np.testing.assert_allclose(
        angles(pose_of(as_wflw(landmarks), WFLW_98)), angles(pose_of(landmarks)), atol=1e-9
    )


def test_five_points_are_enough():
    for truth in ((0.0, 0.0, 0.0), (35.0, 0.0, 0.0), (-60.0, 10.0, 30.0), (0.0, -20.0, 0.0)):
        five = convert_landmarks(photographed(*truth), IBUG_68, DLIB_5)
        assert angle_between_deg(pose_of(five, DLIB_5), truth) < 3


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [7.0, 1.23456, np.nan, np.inf])
def test_no_face_has_no_pose(value):
    assert head_pose(np.full((68, 2), value), IBUG_68) is None


def test_points_on_a_line_or_anywhere_do_no_harm():
    random = np.random.default_rng(0)
    clouds = [random.uniform(0, 100, (68, 2)) for _ in range(20)]
    for landmarks in [np.outer(np.arange(68), [1.0, 0.5]), *clouds]:
        pose = head_pose(landmarks, IBUG_68)
        assert pose is None or np.isfinite(angles(pose)).all()
