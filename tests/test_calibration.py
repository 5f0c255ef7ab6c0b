"""Uncertainty: what ellipses hold, a scale that makes them hold it, and a score that ranks the failures."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import MEAN_FACE_UNIT
from hypothesis import given
from hypothesis import strategies as st

from flm.errors import InputError
from flm.landmarks import IBUG_68
from flm.metrics.calibration import (
    CALIBRATION_NAME,
    FAILURE_NME,
    Calibration,
    expected_error,
    face_reliability,
    fit_calibration,
)
from flm.metrics.face_points import FacePoints
from flm.metrics.reliability import (
    area_under_risk,
    observed_shares,
    radius_squared,
    risk_coverage,
    squared_distances,
)

LEVELS = np.array([0.5, 0.9, 0.99])


def drawn_points(num_faces: int, *, stated: float = 1.0, seed: int = 0) -> FacePoints:
    """Faces whose errors are drawn from known covariances, which the network states too small or too large.

    Faces and points differ in how unsure they are, and the ellipses are slanted.

    Args:
        num_faces: how many.
        stated: factor of the true covariance that the network states.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    truth = np.repeat(MEAN_FACE_UNIT[None] * 100, num_faces, axis=0)
    spread = random.uniform(0.3, 3, (num_faces, 1)) * random.uniform(0.5, 2, (1, 68))
    skew = np.array([[1.0, 0.6], [0.0, 0.7]])
    roots = spread[..., None, None] * skew
    errors = (roots @ random.normal(size=(num_faces, 68, 2, 1)))[..., 0]
    covariance = stated * roots @ roots.swapaxes(-1, -2)
    return FacePoints.measure(truth + errors, truth, covariance, IBUG_68)


def nme_of(points: FacePoints) -> np.ndarray:
    return points.errors.mean(axis=1)


def fit(points: FacePoints, per_point: bool = False) -> Calibration:
    return fit_calibration(points, nme_of(points), per_point=per_point, split="validation", data_hash="abc")


def squared(points: FacePoints, calibration: Calibration | None = None) -> np.ndarray:
    assert points.covariance is not None
    covariance = points.covariance if calibration is None else calibration.apply(points.covariance)
    return squared_distances(points.predicted - points.truth, covariance)


def test_ellipses_of_drawn_errors_hold_what_they_should():
    shares = observed_shares(squared(drawn_points(400)), LEVELS)
    np.testing.assert_allclose(shares, LEVELS, atol=0.01)
    curve = np.arange(1, 100) / 100
    np.testing.assert_allclose(observed_shares(squared(drawn_points(400)), curve), curve, atol=0.01)


def test_the_radius_is_that_of_chi_square_with_two_degrees_of_freedom():
    # The table of every book on statistics.
    np.testing.assert_allclose(
        [radius_squared(level) for level in (0.5, 0.9, 0.95, 0.99)], [1.386, 4.605, 5.991, 9.210], atol=6e-4
    )


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_distances_do_not_depend_on_the_frame(seed, scale):
    points = drawn_points(3, seed=seed)
    assert points.covariance is not None
    turn = scale * np.array([[0.6, -0.8], [0.8, 0.6]])
    offsets = (points.predicted - points.truth).astype(np.float64)
    turned = squared_distances(offsets @ turn.T, turn @ points.covariance.astype(np.float64) @ turn.T)
    np.testing.assert_allclose(turned, squared(points), rtol=1e-4)


@pytest.mark.parametrize("stated", [0.02, 1.0, 30.0])
def test_a_wrong_scale_is_found(stated):
    points = drawn_points(300, stated=stated)
    calibration = fit(points)
    (scale,) = calibration.scales
    assert scale == pytest.approx(1 / stated, rel=0.03)
    # On other faces of the same network, too.
    others = drawn_points(300, stated=stated, seed=1)
    np.testing.assert_allclose(observed_shares(squared(others, calibration), LEVELS), LEVELS, atol=0.015)


def test_each_point_may_have_a_scale_of_its_own():
    points = drawn_points(400)
    factors = np.linspace(0.1, 8, 68)
    assert points.covariance is not None
    stated = (points.covariance * factors[:, None, None]).astype(np.float32)
    wrong = dataclasses.replace(points, covariance=stated)
    calibration = fit(wrong, per_point=True)
    np.testing.assert_allclose(calibration.scales * factors, 1, atol=0.35)
    np.testing.assert_allclose(observed_shares(squared(wrong, calibration), LEVELS), LEVELS, atol=0.015)
    assert len(fit(wrong.at(np.arange(50)), per_point=True).scales) == 1


def test_a_few_broken_annotations_move_nothing():
    points = drawn_points(300, stated=4.0)
    predicted = points.predicted.copy()
    predicted[:6] += 5.0
    (scale,) = fit(dataclasses.replace(points, predicted=predicted)).scales
    assert scale == pytest.approx(1 / 4, rel=0.15)
    # Of maximum likelihood, the mean square:
    assert squared(dataclasses.replace(points, predicted=predicted)).mean() / 2 > 10 / 4


def test_the_expected_error_is_the_mean_error_of_round_distributions():
    random = np.random.default_rng(0)
    truth = np.repeat(MEAN_FACE_UNIT[None] * 100, 2000, axis=0)
    covariance = np.broadcast_to(4 * np.eye(2), (2000, 68, 2, 2))
    points = FacePoints.measure(truth + random.normal(0, 2, truth.shape), truth, covariance.copy(), IBUG_68)
    assert points.covariance is not None
    expected = expected_error(points.truth, points.covariance, IBUG_68)
    assert nme_of(points).mean() == pytest.approx(expected.mean(), rel=0.005)


def test_the_score_falls_with_the_error_and_tells_its_probability():
    calibration = fit(drawn_points(400, stated=9.0))
    others = drawn_points(600, stated=9.0, seed=1)
    assert others.covariance is not None
    score = calibration.score(others.predicted, others.covariance)
    expected = calibration.expected_nme(others.predicted, others.covariance)
    nme = nme_of(others)
    assert ((score >= 0) & (score <= 1)).all()
    np.testing.assert_array_equal(
        np.argsort(-score, kind="stable")[-50:], np.argsort(expected, kind="stable")[-50:]
    )
    assert np.corrcoef(np.log(expected), np.log(nme))[0, 1] > 0.9
    assert (nme <= FAILURE_NME).mean() == pytest.approx(score.mean(), abs=0.03)
    assert np.median(nme / expected) == pytest.approx(1, abs=0.05)


def test_score_and_covariance_are_the_same_in_every_frame():
    points = drawn_points(40)
    calibration = fit(points)
    assert points.covariance is not None
    score = calibration.score(points.predicted, points.covariance)
    assert score.std() > 0.01
    moved = calibration.score(7 * points.predicted + 30, 49 * points.covariance)
    np.testing.assert_allclose(moved, score, atol=1e-4)


def test_a_collapsed_or_spread_out_prediction_is_no_certain_face():
    points = drawn_points(200)
    calibration = fit(points)
    assert points.covariance is not None
    one = np.zeros((1, 68, 2))
    assert calibration.score(one, points.covariance[:1].astype(np.float64))[0] < 1e-6
    wide = points.covariance[:1] * 1e6
    assert calibration.score(points.predicted[:1], wide)[0] < 0.01


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=60), st.integers(0, 100))
def test_no_ranking_is_below_the_oracles(errors, seed):
    nme = np.array(errors)
    ranking = np.random.default_rng(seed).permutation(len(nme)).astype(np.float64)
    oracle = area_under_risk(nme, nme)
    assert oracle <= area_under_risk(nme, ranking) + 1e-12
    assert area_under_risk(nme, ranking) <= area_under_risk(nme, -nme) + 1e-12
    # A score that is the same for all faces knows nothing.
    assert area_under_risk(nme, np.zeros(len(nme))) == pytest.approx(nme.mean())


def test_risk_and_coverage_by_hand():
    nme, uncertainty = np.array([0.04, 0.01, 0.10]), np.array([2.0, 1.0, 3.0])
    np.testing.assert_allclose(risk_coverage(nme, uncertainty), [0.01, 0.025, 0.05])
    assert (
        area_under_risk(nme, nme)
        == area_under_risk(nme, uncertainty)
        == pytest.approx((0.01 + 0.025 + 0.05) / 3)
    )
    # Two faces of equal uncertainty come in either order.
    np.testing.assert_allclose(risk_coverage(nme, np.array([1.0, 1.0, 3.0])), [0.025, 0.025, 0.05])


def test_the_numbers_of_a_report():
    points = drawn_points(300, stated=4.0)
    before, after = (face_reliability(points, nme_of(points), one) for one in (None, fit(points)))
    assert before is not None
    assert after is not None
    assert before.inside_90_pct > 99
    assert after.inside_90_pct == pytest.approx(90, abs=0.1)
    assert after.inside_50_pct == pytest.approx(50, abs=1.5)
    assert after.off_pct < 1 < before.off_pct
    # One factor for all leaves the ranking as it is.
    assert before.aurc_pct == pytest.approx(after.aurc_pct)
    assert after.aurc_oracle_pct < after.aurc_pct < after.aurc_random_pct
    nothing = dataclasses.replace(points, covariance=None)
    assert face_reliability(nothing, nme_of(points), None) is None


def test_a_ranking_that_is_upside_down_is_not_used():
    points = drawn_points(100)
    assert points.covariance is not None
    nme = 1 / expected_error(points.predicted, points.covariance, IBUG_68)
    calibration = fit_calibration(points, nme, per_point=False, split="validation", data_hash="abc")
    assert calibration.error_power == 0
    expected = calibration.expected_nme(points.predicted, points.covariance)
    np.testing.assert_allclose(expected, expected[0])


def test_it_is_read_as_it_was_written(tmp_path):
    calibration = fit(drawn_points(120), per_point=True)
    assert Calibration.load(tmp_path) is None
    path = calibration.write(tmp_path)
    assert path == tmp_path / CALIBRATION_NAME
    assert Calibration.load(tmp_path) == calibration
    assert Calibration.from_json(calibration.to_json(), "memory") == calibration


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 9}, "calibration of version 9, this flm reads 1"),
        ({"scales": [1.0, 2.0]}, "scales has 2 numbers, expected 1 or 68"),
        ({"scales": [-1.0]}, "scales has a number that is not positive"),
        ({"error_power": -1.0}, "error_power is -1.0"),
        ({"scheme": "mine-3"}, "landmark scheme 'mine-3' is unknown"),
        ({"extra": 1}, "extra is unknown"),
    ],
)
def test_a_bad_file_is_told_in_one_line(tmp_path, change, said):
    fit(drawn_points(40)).write(tmp_path)
    path = tmp_path / CALIBRATION_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError) as error:
        Calibration.load(tmp_path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    path.write_text("{")
    with pytest.raises(InputError, match="not a calibration; make it again with `flm calibrate`"):
        Calibration.load(tmp_path)


def test_too_few_faces_and_no_covariance_are_refused():
    points = drawn_points(12)
    with pytest.raises(InputError, match="has 12 faces, a calibration takes 20"):
        fit(points)
    with pytest.raises(InputError, match="this network gives no covariance"):
        fit(dataclasses.replace(drawn_points(40), covariance=None))


def test_points_come_back_to_the_frame_of_their_face():
    random = np.random.default_rng(3)
    truth = np.stack([MEAN_FACE_UNIT * size + random.uniform(0, 50, 2) for size in (40, 90)])
    predicted = truth + random.normal(0, 2, truth.shape)
    points = FacePoints.measure(predicted, truth, None, IBUG_68)
    for face in range(2):
        np.testing.assert_allclose(points.predicted_in(face, truth[face]), predicted[face], atol=1e-4)
    together = FacePoints.concatenate([points.at(np.array([1])), points.at(np.array([0]))])
    np.testing.assert_array_equal(together.truth, points.truth[::-1])
    size = np.linalg.norm(truth[:, 36] - truth[:, 45], axis=1)[:, None]
    np.testing.assert_allclose(points.errors, np.linalg.norm(predicted - truth, axis=2) / size, atol=1e-6)


def test_it_needs_no_torch():
    code = "import sys, flm.metrics.calibration; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0
