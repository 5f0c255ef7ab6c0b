"""The filter: still where the face is, along where it moves, the same in every turned and scaled video."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flm.faces.pose import mean_face, rotation_matrix
from flm.inference.tracking.config import DEFAULT_FILTER, FilterConfig
from flm.inference.tracking.one_euro import LandmarkFilter
from flm.landmarks import IBUG_68

UNIT_PX = 80.0
FRAMES_PER_S = 30.0
FACE = mean_face()[:, :2] * UNIT_PX + [600, 300]
NOISE = 0.01
"""Of each coordinate and frame, in inter-ocular distances."""


def noisy(truth: np.ndarray, noise: float = NOISE, seed: int = 0) -> np.ndarray:
    return truth + np.random.default_rng(seed).normal(0, noise * UNIT_PX, truth.shape)


def still(num_frames: int = 150) -> np.ndarray:
    return np.tile(FACE, (num_frames, 1, 1))


def swaying(num_frames: int = 150, hz: float = 0.5, reach: float = 2.0) -> np.ndarray:
    """A head that goes to and fro, rolls and comes nearer."""
    angle = 2 * np.pi * hz * np.arange(num_frames) / FRAMES_PER_S
    roll, scale = np.radians(12 * np.sin(1.3 * angle)), 1 + 0.1 * np.sin(0.6 * angle)
    turn = np.stack([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]]).transpose(2, 0, 1)
    middle = np.stack([reach * np.sin(angle), 0.3 * reach * np.sin(1.7 * angle)], axis=1) * UNIT_PX
    shape = np.einsum("fij,pj->fpi", turn * scale[:, None, None], mean_face()[:, :2] * UNIT_PX)
    return shape + middle[:, None] + [600, 300]


def nodding(num_frames: int = 150) -> np.ndarray:
    """A head that shakes and nods in its place."""
    angles = 2 * np.pi * 0.5 * np.arange(num_frames) / FRAMES_PER_S
    turns = [rotation_matrix(25 * math.sin(a), 10 * math.sin(0.7 * a), 5 * math.sin(0.4 * a)) for a in angles]
    return np.stack([(mean_face() @ turn.T)[:, :2] * UNIT_PX + [600, 300] for turn in turns])


def steadied(
    seen: np.ndarray, config: FilterConfig = DEFAULT_FILTER, covariance: np.ndarray | None = None
) -> np.ndarray:
    steady = LandmarkFilter(IBUG_68, config)
    return np.stack(
        [steady.filter(points, covariance, row / FRAMES_PER_S) for row, points in enumerate(seen)]
    )


def jitter(landmarks: np.ndarray) -> float:
    return float(np.sqrt((np.diff(landmarks, 2, axis=0) ** 2).sum(axis=-1).mean()))


def lag_frames(found: np.ndarray, truth: np.ndarray) -> float:
    """The shift in time that explains most of the error."""
    velocity = np.gradient(truth, axis=0)
    return float(-((found - truth) * velocity).sum() / (velocity**2).sum())


def test_a_still_face_stays_as_it_is():
    found = steadied(still(20))
    np.testing.assert_allclose(found, still(20), atol=1e-9)
    found = steadied(still(20), covariance=np.tile(np.eye(2), (68, 1, 1)))
    np.testing.assert_allclose(found, still(20), atol=1e-9)


def test_the_first_frame_passes_as_it_is():
    seen = noisy(still(3))
    np.testing.assert_array_equal(steadied(seen)[0], seen[0])
    steady = LandmarkFilter(IBUG_68)
    steady.filter(seen[0], None, 5.0)
    assert not np.array_equal(steady.filter(seen[1], None, 5.1), seen[1])
    # Back in time is another video; so is what comes after a reset.
    np.testing.assert_array_equal(steady.filter(seen[2], None, 1.0), seen[2])
    steady.reset()
    np.testing.assert_array_equal(steady.filter(seen[1], None, 2.0), seen[1])


def test_noise_on_a_still_face_is_cut_to_a_fifth():
    seen = noisy(still())
    ratio = jitter(steadied(seen)[30:]) / jitter(seen[30:])
    assert 0.02 < ratio < 0.2
    # And nothing is off on the whole.
    assert np.abs(steadied(seen)[30:].mean(axis=0) - FACE).max() < 0.01 * UNIT_PX


@pytest.mark.parametrize(
    ("make", "most"), [(swaying, 0.1), (nodding, 0.6), (lambda: swaying(hz=0.1, reach=0.5), 0.6)]
)
def test_a_moving_face_is_followed_within_a_frame(make, most):
    truth = make()
    found = steadied(noisy(truth))
    assert -0.1 < lag_frames(found[30:], truth[30:]) < most
    clean = steadied(truth)
    assert -0.1 < lag_frames(clean[30:], truth[30:]) < most


def test_a_steady_motion_is_trailed_by_no_more_than_is_said():
    # Twice an inter-ocular distance a second: beyond 1 / (2π · beta) of one, nothing is trailed.
    steps = np.arange(90)[:, None, None] / FRAMES_PER_S * 2 * UNIT_PX
    truth = FACE + steps * [1.0, 0.0]
    behind = np.abs(steadied(truth) - truth)[45:].max()
    assert behind < UNIT_PX / (2 * math.pi * DEFAULT_FILTER.head_beta) + 1e-6
    assert behind < 2 * UNIT_PX / FRAMES_PER_S


def test_uncertain_points_and_directions_are_smoothed_more():
    seen = noisy(still())
    covariance = np.tile(np.eye(2), (68, 1, 1))
    covariance[:17] = np.diag([16.0, 1.0])
    alike, weighted = steadied(seen), steadied(seen, covariance=covariance)
    bends = [np.sqrt((np.diff(found[30:], 2, axis=0) ** 2).mean(axis=0)) for found in (alike, weighted)]
    assert bends[1][:17, 0].mean() < 0.6 * bends[0][:17, 0].mean()
    assert bends[1][:17, 0].mean() < 0.6 * bends[1][:17, 1].mean()
    # Without weight the covariance is not looked at.
    careless = FilterConfig(covariance_weight=0.0)
    np.testing.assert_array_equal(steadied(seen, careless, covariance), steadied(seen, careless))
    # Only ratios count: an uncalibrated network is filtered as a calibrated one is.
    np.testing.assert_allclose(steadied(seen, covariance=40 * covariance), weighted, atol=1e-9)


@given(
    angle=st.floats(-math.pi, math.pi),
    scale=st.floats(0.2, 5),
    right=st.floats(-500, 500),
    has_covariance=st.booleans(),
)
def test_a_video_turned_scaled_and_shifted_is_filtered_alike(angle, scale, right, has_covariance):
    seen = noisy(swaying(25))
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shift = np.array([right, -2 * right])
    random = np.random.default_rng(3).normal(size=(68, 2, 2))
    covariance = random @ random.swapaxes(1, 2) if has_covariance else None
    turned = turn @ covariance @ turn.T if covariance is not None else None
    expected = steadied(seen, covariance=covariance) @ turn.T + shift
    found = steadied(seen @ turn.T + shift, covariance=turned)
    np.testing.assert_allclose(found, expected, atol=1e-6 * scale * UNIT_PX)


def test_parameters_do_what_their_help_says():
    seen, truth = noisy(still()), nodding()
    calm = steadied(seen, FilterConfig(min_cutoff_hz=0.3, head_min_cutoff_hz=0.3))
    assert jitter(calm) < 0.7 * jitter(steadied(seen))
    slow = steadied(truth, FilterConfig(beta=1.0, head_beta=1.0))
    assert lag_frames(slow, truth) > 2 * lag_frames(steadied(truth), truth)
    all_motion = steadied(seen, FilterConfig(noise_rejection=0.0))
    assert jitter(all_motion) > 1.3 * jitter(steadied(seen))


def test_uneven_times_and_equal_ones_do_no_harm():
    seen = noisy(still(60))
    steady = LandmarkFilter(IBUG_68)
    times = np.cumsum(np.random.default_rng(0).choice([0.0, 0.01, 0.2], 60))
    found = np.stack(
        [steady.filter(points, None, float(time)) for points, time in zip(seen, times, strict=True)]
    )
    assert np.isfinite(found).all()
    assert np.abs(found - FACE).max() < 0.05 * UNIT_PX


def test_landmarks_in_one_place_do_no_harm():
    steady = LandmarkFilter(IBUG_68)
    for time in range(4):
        assert np.isfinite(steady.filter(np.full((68, 2), 7.0), None, float(time))).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_cutoff_hz": 0.0}, r"--track\.filter\.min-cutoff-hz is 0\.0, must be positive"),
        ({"beta": -1.0}, r"--track\.filter\.beta is -1\.0, must be at least 0"),
        ({"covariance_weight": 1.5}, r"--track\.filter\.covariance-weight is 1\.5, must be from 0 to 1"),
    ],
)
def test_what_makes_no_filter_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        FilterConfig(**fields)
