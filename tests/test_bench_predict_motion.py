"""Jitter, lag and ids, first on motion that is written down, then on generated videos."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from colored_faces import DiscDetector, disc_predictor, write_disc_shards

from flm.bench.figures import OURS
from flm.bench.moving_faces import MovingFrame
from flm.bench.predict import ids as predict_ids
from flm.bench.predict import steadiness as predict_steadiness
from flm.bench.predict.ids import Identities, match, measure_ids
from flm.bench.predict.setting import PredictLength, Setting
from flm.bench.predict.steadiness import (
    Watched,
    jitter_px,
    lag_frames,
    measure_steadiness,
    misfits_px,
    steadiness_picture,
)
from flm.errors import InputError
from flm.faces.pose import mean_face
from flm.geometry import FaceBox
from flm.inference.detector import DetectedFace
from flm.inference.predictor import Prediction, Predictor
from flm.inference.tracking.tracker import TrackedFace
from flm.landmarks import IBUG_68
from flm.pictures import read_picture

FRAMES = 120
SHAPE = mean_face()[:, :2] * 100


def sway(delay_frames: float = 0.0) -> np.ndarray:
    """Landmarks that go to and fro, as they were so many frames ago."""
    times = (np.arange(FRAMES) - delay_frames) / 30
    shift = np.stack([100 * np.sin(math.pi * times), 30 * np.sin(1.7 * math.pi * times)], 1)
    return SHAPE + shift[:, None]


def test_steady_motion_has_no_jitter():
    times = np.arange(FRAMES)[:, None, None]
    assert jitter_px(SHAPE + times * [3.0, -1.0]) == pytest.approx(0, abs=1e-9)


def test_jitter_of_noise_is_that_of_its_second_differences():
    noise = np.random.default_rng(0).normal(0, 2.0, (2000, 68, 2))
    # Variance of x(t+1) - 2 x(t) + x(t-1) is 6 sigma squared, along both axes.
    assert jitter_px(SHAPE + noise) == pytest.approx(2 * math.sqrt(12), rel=0.01)
    gaps = SHAPE + noise
    gaps[100:110] = np.nan
    assert jitter_px(gaps) == pytest.approx(2 * math.sqrt(12), rel=0.01)


@pytest.mark.parametrize("delay", [-1.0, 0.0, 0.35, 1.0, 2.5])
def test_a_known_delay_is_found_whatever_is_wrong_with_each_point(delay):
    random = np.random.default_rng(1)
    own_errors = random.normal(0, 5, (68, 2))
    found = sway(delay) + own_errors + random.normal(0, 0.5, (FRAMES, 68, 2))
    found[7] = np.nan
    assert lag_frames(found, sway()) == pytest.approx(delay, abs=0.051)


def test_misfits_are_least_where_the_delay_is():
    delays = np.array([-1.0, 0.0, 1.0])
    misfits = misfits_px(sway(), sway(), delays)
    assert misfits[1] == pytest.approx(0, abs=1e-9)
    assert misfits[0] > 1
    assert misfits[2] > 1
    assert np.isnan(misfits_px(np.full((FRAMES, 68, 2), np.nan), sway(), delays)).all()


def watched(tracked_delay: float, noise_px: float) -> Watched:
    random = np.random.default_rng(2)
    single = sway() + random.normal(0, noise_px, (FRAMES, 68, 2))
    return Watched(truth=sway(), tracked=sway(tracked_delay), single=single)


def test_the_added_lag_is_over_that_of_frame_by_frame():
    (figure,) = predict_steadiness._lag_figures(watched(0.8, 0.5))
    assert (figure.value, figure.unit, figure.holds) == (pytest.approx(0.8, abs=0.06), "frames", True)
    (figure,) = predict_steadiness._lag_figures(watched(1.6, 0.5))
    assert figure.holds is False
    (figure,) = predict_steadiness._lag_figures(watched(0.8, 0.0001))
    assert figure.value == pytest.approx(0.8, abs=0.051)


def test_landmarks_that_do_not_follow_have_no_lag_to_tell():
    moved = watched(0.0, 0.1)
    frozen = dataclasses.replace(moved, single=np.tile(SHAPE, (FRAMES, 1, 1)) + sway(30) * 0.01)
    (figure,) = predict_steadiness._lag_figures(frozen)
    assert (figure.value, figure.holds) == (None, None)
    assert "is the network trained?" in figure.how


def test_a_face_that_tracking_loses_has_no_lag_to_tell():
    lost = dataclasses.replace(watched(0.0, 0.1), tracked=np.full((FRAMES, 68, 2), np.nan))
    assert math.isnan(lag_frames(lost.tracked, lost.truth))
    (figure,) = predict_steadiness._lag_figures(lost)
    assert (figure.value, figure.holds) == (None, None)
    assert "tracking finds the face in no frame" in figure.how


def test_the_jitter_bar_is_a_third():
    still = np.tile(SHAPE, (FRAMES, 1, 1))
    noise = np.random.default_rng(3).normal(0, 1, (FRAMES, 68, 2))
    for share, holds in ((0.3, True), (0.4, False)):
        unmoved = Watched(truth=still, single=still + noise, tracked=still + share * noise)
        tracked, single = predict_steadiness._jitter_figures(unmoved)
        assert single.beside == pytest.approx(1 / share)
        assert single.holds is holds
        assert tracked.value == pytest.approx(share * single.value)


def test_the_picture_shows_three_plots():
    still = np.tile(SHAPE, (FRAMES, 1, 1)) + np.random.default_rng(4).normal(0, 0.4, (FRAMES, 68, 2))
    unmoved = Watched(truth=np.tile(SHAPE, (FRAMES, 1, 1)), tracked=still * 0.2 + SHAPE * 0.8, single=still)
    picture = steadiness_picture(unmoved, watched(0.6, 0.5), IBUG_68, 30.0)
    height, width = picture.shape[:2]
    for panel in np.array_split(picture, 3, axis=1):
        blue = (panel[..., 2].astype(int) - panel[..., 0]) > 60
        assert blue.sum() > 200, "the tracked line is in each"
    assert width > 2 * height


def frame_with(landmarks: dict[int, np.ndarray], visible: dict[int, float] | None = None) -> MovingFrame:
    shares = visible or dict.fromkeys(landmarks, 1.0)
    black = np.zeros((9, 9, 3), np.uint8)
    return MovingFrame(number=0, time_s=0.0, pixels=black, landmarks=landmarks, visible=shares)


def track_at(track_id: int, landmarks: np.ndarray) -> TrackedFace:
    prediction = Prediction(
        scheme=IBUG_68, box_image=FaceBox.around(landmarks), landmarks_image=landmarks,
        covariance_image=None, score=None, detection_score=None,
    )  # fmt: skip
    return TrackedFace(
        track_id=track_id, prediction=prediction, raw_landmarks_image=landmarks, detected=False
    )


def test_the_pairs_that_overlap_most_are_matched_first_and_each_once():
    frame = frame_with({0: SHAPE, 1: SHAPE + 60})
    assert match(frame, [track_at(7, SHAPE + 55), track_at(8, SHAPE + 3)]) == {0: 8, 1: 7}
    assert match(frame, [track_at(7, SHAPE + 58), track_at(8, SHAPE + 61)]) == {1: 8}
    assert match(frame, [track_at(7, SHAPE * 0.4)]) == {}, "another, smaller face"
    assert match(frame, []) == {}


def test_a_switch_is_another_id_than_the_last_one_however_long_ago():
    faces = {0: SHAPE, 1: SHAPE + 500}
    identities = Identities()
    for ids in ({0: 0, 1: 1}, {0: 0}, {}, {0: 0, 1: 1}):
        identities.add(frame_with(faces), ids)
    assert identities.switches == 0
    identities.add(frame_with(faces), {0: 1, 1: 0})
    assert identities.switches == 2
    identities.add(frame_with(faces), {0: 1, 1: 5})
    assert (identities.switches, identities.history) == (3, {0: [0, 1], 1: [1, 0, 5]})
    assert (identities.num_seen, identities.num_found) == (12, 9)


def test_hidden_faces_need_not_be_found():
    frame, identities = frame_with({0: SHAPE, 1: SHAPE + 9}, {0: 0.3, 1: 1.0}), Identities()
    ids = match(frame, [track_at(7, SHAPE)])
    assert ids == {1: 7}, "the one behind is not looked for"
    identities.add(frame, ids)
    assert (identities.num_seen, identities.num_found) == (1, 1)


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    folder = tmp_path_factory.mktemp("motion")
    return Setting(
        predictor=disc_predictor(), onnx=folder / "none.onnx", checkpoint=None,
        data=str(write_disc_shards(folder / "discs")), split="validation", out=folder / "out",
        length=PredictLength(turns=1, video_frames=36, frames_per_s=15.0), threads=1, dlib_model=None,
    )  # fmt: skip


def test_the_subject_of_steadiness(setting):
    figures = measure_steadiness(setting)
    assert [(figure.subject, figure.unit) for figure in figures] == [
        (predict_steadiness.JITTER, "px"),
        (predict_steadiness.JITTER, "px"),
        (predict_steadiness.LAG, "frames"),
    ]
    tracked, single, lag = figures
    assert tracked.value < single.value
    assert single.beside == pytest.approx(single.value / tracked.value)
    assert abs(lag.value) < 2
    assert read_picture(setting.out / predict_steadiness.PICTURE_NAME, upright=True).shape[2] == 3


def test_a_face_that_is_not_found_is_told(setting):
    class Blind(DiscDetector):
        """Finds faces in shards, but none in videos."""

        def detect(self, picture: np.ndarray) -> list[DetectedFace]:
            return super().detect(picture) if picture.shape[0] < 720 else []

    blind = dataclasses.replace(setting, predictor=Predictor(setting.predictor.network, detector=Blind()))
    with pytest.raises(InputError, match="not found by tracking in 36 of 36 frames"):
        measure_steadiness(blind)


def test_the_subject_of_ids(setting, monkeypatch):
    monkeypatch.setattr(predict_ids, "DURATION_S", 6.0)
    figures = measure_ids(setting)
    switches, found = figures
    assert (switches.side, switches.unit, switches.holds) == (OURS, "switches", switches.value == 0)
    assert found.unit == "%"
    assert found.value > 80
    strip = read_picture(Path(setting.out) / predict_ids.PICTURE_NAME, upright=True)
    assert strip.shape[1] >= predict_ids.TILE_COLUMNS * predict_ids.TILE_WIDTH_PX
