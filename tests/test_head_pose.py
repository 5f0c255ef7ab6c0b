"""Poses of rendered heads, whose true turn is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flm.landmarks import IBUG_68
from shards.inspection.head_pose import head_pose
from shards.synthesis.pose import draw_head, rotation_angles_deg, rotation_matrix
from shards.synthesis.shape import mean_controls


def photographed(yaw_deg: float, pitch_deg: float, roll_deg: float) -> np.ndarray:
    """The mean head from far away, px."""
    rotation = rotation_matrix(float(yaw_deg), float(pitch_deg), float(roll_deg))
    return mean_controls()[:68] @ rotation.T[:, :2] * 90 + 128


@settings(max_examples=50, deadline=None)
@given(yaw=st.floats(-170, 170), pitch=st.floats(-85, 85), roll=st.floats(-170, 170))
def test_angles_are_those_that_the_rotation_was_made_of(yaw, pitch, roll):
    assert rotation_angles_deg(rotation_matrix(yaw, pitch, roll)) == pytest.approx(
        (yaw, pitch, roll), abs=1e-6
    )


@pytest.mark.parametrize(
    "angles", [(0, 0, 0), (30, 0, 0), (-30, 0, 0), (0, 20, 0), (0, -20, 0), (10, -10, 35)]
)
def test_the_mean_head_is_seen_as_it_is_turned(angles):
    pose = head_pose(photographed(*angles))
    assert pose is not None
    assert (pose.yaw_deg, pose.pitch_deg, pose.roll_deg) == pytest.approx(angles, abs=3)


def test_signs_are_what_the_words_say():
    """Without any matrix: where the nose goes when a head turns, nods and tilts."""
    front = photographed(0, 0, 0)
    right, down, tilted = photographed(25, 0, 0), photographed(0, 15, 0), photographed(0, 0, 20)
    assert right[30, 0] > front[30, 0]
    assert down[30, 1] - down[[36, 45], 1].mean() > front[30, 1] - front[[36, 45], 1].mean()
    assert tilted[45, 1] > tilted[36, 1]
    poses = [head_pose(landmarks) for landmarks in (right, down, tilted)]
    assert poses[0] is not None
    assert poses[0].yaw_deg > 15
    assert poses[1] is not None
    assert poses[1].pitch_deg > 8
    assert poses[2] is not None
    assert poses[2].roll_deg > 15


def test_heads_of_any_shape_and_expression_are_near_their_true_pose():
    heads = [draw_head(5, index, 256) for index in range(200)]
    true = np.array([rotation_angles_deg(head.view.rotation) for head in heads])
    poses = [head_pose(head.landmarks_image) for head in heads]
    seen = np.array([(pose.yaw_deg, pose.pitch_deg, pose.roll_deg) for pose in poses if pose])
    errors = np.abs(seen - true)
    assert (errors.mean(axis=0) < [2.5, 2.5, 1.0]).all()
    assert (errors.max(axis=0) < [15, 15, 5]).all()


def test_a_mirror_twin_looks_the_other_way():
    for index in range(20):
        landmarks = draw_head(6, index, 256).landmarks_image
        twin = landmarks[list(IBUG_68.mirror_permutation)] * [-1, 1] + [255, 0]
        pose, mirrored = head_pose(landmarks), head_pose(twin)
        assert pose is not None
        assert mirrored is not None
        assert mirrored.yaw_deg == pytest.approx(-pose.yaw_deg, abs=0.05)
        assert mirrored.pitch_deg == pytest.approx(pose.pitch_deg, abs=0.05)
        assert mirrored.roll_deg == pytest.approx(-pose.roll_deg, abs=0.05)


def test_size_and_place_do_not_matter():
    landmarks = draw_head(7, 0, 256).landmarks_image
    pose, far = head_pose(landmarks), head_pose(landmarks * 0.05 + [1e4, -1e4])
    assert pose is not None
    assert far is not None
    assert far.yaw_deg == pytest.approx(pose.yaw_deg, abs=0.05)


def test_no_face_has_no_pose():
    assert head_pose(np.full((68, 2), 7.0)) is None
