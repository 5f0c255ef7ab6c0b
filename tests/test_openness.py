"""Eyes and mouths that are drawn open so far."""

import numpy as np
import pytest

from flm.faces.landmark_conversion import points_taken
from flm.faces.openness import openness
from flm.faces.pose import mean_face
from flm.landmarks import DLIB_5, IBUG_68, WFLW_98

EYES = {"right_eye": range(36, 42), "left_eye": range(42, 48)}
INNER_LIPS = range(60, 68)


def face_with(ratios: dict[str, float]) -> np.ndarray:
    """A mean face whose eyes and lips have these heights, as shares of their widths, everywhere."""
    landmarks = mean_face()[:, :2] * 100
    for name, points in {**EYES, "mouth": INNER_LIPS}.items():
        width, count = 30.0, len(points)
        upper = count // 2 - 1  # points on each lid, without the corners
        middle = landmarks[list(points)].mean(axis=0)
        xs = np.concatenate([[-0.5], np.linspace(-0.3, 0.3, upper), [0.5], np.linspace(0.3, -0.3, upper)])
        ys = np.concatenate([[0], np.full(upper, -0.5), [0], np.full(upper, 0.5)]) * ratios[name]
        landmarks[list(points)] = middle + width * np.stack([xs, ys], axis=1)
    return landmarks


RATIOS = {"right_eye": 0.1, "left_eye": 0.35, "mouth": 0.6}


def test_ratios_are_those_that_were_drawn():
    found = openness(face_with(RATIOS), IBUG_68)
    assert found is not None
    assert (found.right_eye, found.left_eye, found.mouth) == pytest.approx((0.1, 0.35, 0.6))


def test_closed_is_zero():
    found = openness(face_with(dict.fromkeys(RATIOS, 0.0)), IBUG_68)
    assert found is not None
    assert (found.right_eye, found.left_eye, found.mouth) == pytest.approx((0, 0, 0))


def test_size_place_and_tilt_do_not_matter():
    turn = np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    found = openness(face_with(RATIOS) @ turn.T * 3 + [500, -70], IBUG_68)
    assert found is not None
    assert (found.right_eye, found.left_eye, found.mouth) == pytest.approx((0.1, 0.35, 0.6))


def test_a_mirrored_face_winks_with_the_other_eye():
    landmarks = face_with(RATIOS)[list(IBUG_68.mirror_permutation)] * [-1, 1]
    found = openness(landmarks, IBUG_68)
    assert found is not None
    assert (found.right_eye, found.left_eye) == pytest.approx((0.35, 0.1))


def test_98_points_are_as_open_as_their_68():
    wide = np.zeros((98, 2))
    wide[list(points_taken(WFLW_98, IBUG_68))] = face_with(RATIOS)
    found = openness(wide, WFLW_98)
    assert found is not None
    assert (found.right_eye, found.left_eye, found.mouth) == pytest.approx((0.1, 0.35, 0.6))


def test_five_points_have_no_lids_and_one_place_no_width():
    assert openness(np.zeros((5, 2)), DLIB_5) is None
    assert openness(np.full((68, 2), 3.0), IBUG_68) is None
