"""A face comes out upright and of one size, however it stood in the picture."""

import cv2
import numpy as np
import pytest

from flm.faces.landmark_conversion import convert_landmarks
from flm.faces.pose import mean_face, rotation_matrix
from flm.geometry import transform_points
from flm.inference.aligned import ALIGNED_SIZE_PX, MEAN_FACE_SHARE, aligned_crop, image_to_aligned
from flm.landmarks import DLIB_5, IBUG_68


def face(yaw: float = 0.0, roll: float = 0.0, scale: float = 90.0) -> np.ndarray:
    return (mean_face() @ rotation_matrix(yaw, 0.0, roll).T)[:, :2] * scale + [200, 150]


@pytest.mark.parametrize("roll", [0.0, 30.0, -90.0, 180.0])
@pytest.mark.parametrize("scale", [20.0, 300.0])
def test_a_mean_face_has_its_eyes_level_and_as_far_apart_as_said(roll, scale):
    landmarks = face(roll=roll, scale=scale)
    aligned = transform_points(landmarks, image_to_aligned(landmarks, IBUG_68))
    right, left = aligned[list(IBUG_68.outer_eye_corners)]
    np.testing.assert_allclose(left - right, [MEAN_FACE_SHARE * ALIGNED_SIZE_PX, 0], atol=1e-6)
    assert (aligned > 0).all()
    assert (aligned < ALIGNED_SIZE_PX - 1).all()
    np.testing.assert_allclose((right + left)[0] / 2, (ALIGNED_SIZE_PX - 1) / 2, atol=1e-6)


@pytest.mark.parametrize("yaw", [45.0, -80.0])
def test_a_turned_face_keeps_its_size_and_stays_inside(yaw):
    landmarks = face(yaw=yaw, roll=25.0)
    aligned = transform_points(landmarks, image_to_aligned(landmarks, IBUG_68))
    assert (aligned > -0.1 * ALIGNED_SIZE_PX).all()
    assert (aligned < 1.1 * ALIGNED_SIZE_PX).all()
    # The eyes stay above the mouth.
    assert aligned[36:48, 1].max() < aligned[48:, 1].min()


def test_five_points_align_as_all_of_a_mean_face():
    landmarks = face(roll=40.0)
    five = convert_landmarks(landmarks, IBUG_68, DLIB_5)
    np.testing.assert_allclose(
        image_to_aligned(five, DLIB_5), image_to_aligned(landmarks, IBUG_68), atol=1e-6
    )


def test_pixels_go_where_points_go():
    landmarks = face(roll=-35.0)
    picture = np.zeros((320, 400, 3), np.uint8)
    for x, y in landmarks[36:48]:
        cv2.circle(picture, (round(x * 16), round(y * 16)), 40, (255, 255, 255), -1, cv2.LINE_AA, 4)
    crop = aligned_crop(picture, landmarks, IBUG_68, 128)
    assert crop.shape == (128, 128, 3)
    places = np.round(transform_points(landmarks, image_to_aligned(landmarks, IBUG_68, 128))).astype(int)
    assert crop[places[36:48, 1], places[36:48, 0]].min() > 120
    assert crop.mean() < 60


@pytest.mark.parametrize("value", [5.0, 1.23456, np.nan])
def test_no_face_cannot_be_aligned(value):
    with pytest.raises(ValueError, match="the landmarks show no face"):
        image_to_aligned(np.full((68, 2), value), IBUG_68)
