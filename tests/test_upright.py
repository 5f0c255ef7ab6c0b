"""A tilted face is cut out as an upright one is, and one that is hardly tilted as it is."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flm.faces.landmark_conversion import convert_landmarks
from flm.faces.pose import mean_face, rotation_matrix
from flm.faces.upright import (
    AS_IT_IS_DEG,
    UPRIGHT_FROM_DEG,
    FacePlace,
    place_of,
    roll_deg_of,
    turn_for,
)
from flm.geometry import FaceBox, resample, square_crop, transform_points
from flm.landmarks import DLIB_5, IBUG_68

rolls = st.floats(-180, 180)


def face(roll: float = 0.0, yaw: float = 0.0, scale: float = 90.0) -> np.ndarray:
    return (mean_face() @ rotation_matrix(yaw, 0.0, roll).T)[:, :2] * scale + [200, 150]


def in_crop(landmarks: np.ndarray, size_px: int = 128, margin: float = 0.2) -> np.ndarray:
    place = place_of(landmarks, IBUG_68)
    assert place is not None
    return transform_points(landmarks, place.crop(size_px, margin))


@given(rolls)
def test_a_face_is_not_turned_at_all_or_all_the_way_or_between(roll):
    turn = turn_for(roll)
    assert turn == -turn_for(-roll)
    assert 0 <= turn * np.sign(roll) <= abs(roll)
    if abs(roll) <= AS_IT_IS_DEG:
        assert turn == 0
    if abs(roll) >= UPRIGHT_FROM_DEG:
        assert turn == roll


@given(st.floats(-179, 179), st.floats(0, 1))
def test_what_turns_a_little_is_turned_a_little(roll, step):
    assert abs(turn_for(roll + step) - turn_for(roll)) <= 2 * step + 1e-9


@given(rolls, st.floats(2, 500))
def test_the_roll_of_a_face_is_told(roll, scale):
    landmarks = face(roll, scale=scale)
    for points, scheme in ((landmarks, IBUG_68), (convert_landmarks(landmarks, IBUG_68, DLIB_5), DLIB_5)):
        off = roll_deg_of(points, scheme) - roll
        assert abs((off + 180) % 360 - 180) < 1e-6


@given(st.one_of(st.floats(-180, -UPRIGHT_FROM_DEG), st.floats(UPRIGHT_FROM_DEG, 180)))
def test_a_face_looks_in_its_crop_as_if_it_were_upright(roll):
    expected = transform_points(face(), square_crop(FaceBox.around(face()), 128, 0.2))
    # One that stands on its edge between being turned in full and not may be told as just below.
    np.testing.assert_allclose(in_crop(face(roll * (1 + 1e-9))), expected, atol=1e-4)


@given(rolls, st.floats(-60, 60))
def test_in_its_crop_no_face_is_tilted_far(roll, yaw):
    """Also the roll of a head that looks to a side is told, to some degrees."""
    upright = in_crop(face(0.0, yaw))
    tilt = roll_deg_of(in_crop(face(roll, yaw)), IBUG_68) - roll_deg_of(upright, IBUG_68)
    assert abs((tilt + 180) % 360 - 180) <= AS_IT_IS_DEG + 20


@pytest.mark.parametrize("roll", [0.0, 20.0, -29.9])
def test_a_face_that_is_hardly_tilted_is_cut_out_as_it_is(roll):
    landmarks = face(roll)
    assert place_of(landmarks, IBUG_68) == FacePlace(box_image=FaceBox.around(landmarks), turn_deg=0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, 5.0])
def test_no_face_has_no_place(value):
    landmarks = face()
    landmarks[3 if value != 5.0 else slice(None)] = value
    assert place_of(landmarks, IBUG_68) is None


@pytest.mark.parametrize("turn_deg", [-170.0, -90.0, 45.0, 90.0, 180.0])
def test_a_turned_picture_is_turned_back(turn_deg):
    """A picture and the same one turned have the same crop, where the turn is told."""
    picture = np.zeros((300, 300, 3), np.uint8)
    for number, (x, y) in enumerate(((150, 100), (120, 150), (180, 150), (150, 190))):
        cv2.circle(picture, (x, y), 12, ((255, 80, 0), (0, 255, 80), (80, 0, 255), (255, 255, 0))[number], -1)
    picture = cv2.GaussianBlur(picture, (0, 0), 3)
    middle = (149.5, 149.5)
    turned = cv2.warpAffine(picture, cv2.getRotationMatrix2D(middle, -turn_deg, 1.0), (300, 300))
    box = FaceBox(left=100.0, top=100.0, width=100.0, height=100.0)
    plain = resample(picture, FacePlace(box_image=box).crop(96, 0.25), 96).astype(int)
    told = resample(turned, FacePlace(box_image=box, turn_deg=turn_deg).crop(96, 0.25), 96).astype(int)
    not_told = resample(turned, FacePlace(box_image=box).crop(96, 0.25), 96).astype(int)
    assert np.abs(told - plain).max() < 25
    assert np.abs(not_told - plain).max() > 150
