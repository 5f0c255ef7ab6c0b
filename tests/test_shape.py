"""The shape of a face, whatever its place, size and turn."""

import numpy as np
import pytest

from flm.faces.pose import mean_face, rotation_matrix
from flm.faces.shape import as_complex, as_points, inter_ocular_px, turn_onto
from flm.landmarks import DLIB_5, IBUG_68, WFLW_98

FACE = mean_face()[:, :2] * 80 + [90, 60]


def centred(points: np.ndarray) -> np.ndarray:
    return as_complex(points - points.mean(axis=0))


def test_a_turn_is_found_again_and_is_the_best_there_is():
    noise = np.random.default_rng(0).normal(0, 5, FACE.shape)
    source, turn = centred(FACE), 1.5 * np.exp(0.7j)
    assert turn_onto(source, turn * source) == pytest.approx(turn)
    target = turn * centred(FACE + noise)
    found = turn_onto(source, target)

    def error(turn: complex) -> float:
        return float(np.linalg.norm(turn * source - target))

    assert all(error(found) < error(found * (1 + step)) for step in (0.01, -0.01, 0.01j, -0.01j))
    np.testing.assert_allclose(as_points(as_complex(FACE)), FACE)


def test_points_in_one_place_have_a_turn_that_can_be_divided_by():
    nothing = np.zeros(68, np.complex128)
    for source, target in ((nothing, centred(FACE)), (centred(FACE), nothing), (nothing, nothing)):
        assert 0 < abs(turn_onto(source, target)) < 1e-9


def test_every_scheme_has_an_inter_ocular_distance():
    assert inter_ocular_px(FACE, IBUG_68) == pytest.approx(80, rel=1e-9)
    # A profile's eye corners fall together, and its size does not.
    profile = (mean_face() @ rotation_matrix(80.0, 0.0, 0.0).T)[:, :2] * 80
    assert 0.6 * 80 < inter_ocular_px(profile, IBUG_68) < 1.2 * 80
    assert inter_ocular_px(np.random.default_rng(0).normal(size=(98, 2)), WFLW_98) > 0
    assert inter_ocular_px(np.random.default_rng(0).normal(size=(5, 2)), DLIB_5) > 0
