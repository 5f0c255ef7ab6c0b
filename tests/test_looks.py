"""A face that is not surely found is looked at turned, and the surest look is taken."""

import cv2
import numpy as np
import pytest
from fake_faces import plain_calibration
from simulated_faces import error_of, rendered_faces, turned_face

import flm
from flm.faces.pose import mean_face
from flm.faces.upright import FacePlace
from flm.geometry import FaceBox
from flm.inference.detector import DetectedFace
from flm.inference.looks import LOOKS_AT_A_TURN, TURNS_DEG, LandmarkFinder
from flm.inference.network import FoundLandmarks
from flm.inference.pass_config import PassConfig
from flm.inference.predictor import Predictor
from flm.landmarks import IBUG_68

SIZE_PX, MARGIN = 64, 0.25
BOX = FaceBox(left=100.0, top=80.0, width=60.0, height=60.0)
UPRIGHT_UNIT = ((mean_face()[:, :2] - [0, 0.55]) * 0.35 + 0.5).astype(np.float32)
CALIBRATION = plain_calibration(scale=1.0, error_spread=0.5)


class Compass:
    """Is sure of what is red above and blue below, and takes a face to be upright all the same.

    Args:
        spread: variance of the landmarks that it is sure of; of the others ten thousand times that.
    """

    scheme, input_size_px, crop_margin = IBUG_68, SIZE_PX, MARGIN

    def __init__(self, spread: float = 1e-6) -> None:
        self.spread = spread
        self.num_seen: list[int] = []

    def find(self, crops: np.ndarray) -> FoundLandmarks:
        self.num_seen.append(len(crops))
        half = SIZE_PX // 2
        red = crops[..., 0].astype(float)
        up = red[:, :half].mean((1, 2)) - red[:, half:].mean((1, 2))
        variance = np.where(up > 80, self.spread, 1e4 * self.spread)
        return FoundLandmarks(
            landmarks_unit=np.tile(UPRIGHT_UNIT, (len(crops), 1, 1)),
            covariance_unit=(variance[:, None, None, None] * np.eye(2)).repeat(68, 1).astype(np.float32),
        )


def two_colors(turn_deg: float) -> np.ndarray:
    """A picture that is red above the middle of the box and blue below, turned clockwise."""
    picture = np.zeros((220, 260, 3), np.uint8)
    picture[:110, :, 0] = picture[110:, :, 2] = 255
    matrix = cv2.getRotationMatrix2D((129.5, 109.5), -turn_deg, 1.0)
    return np.asarray(cv2.warpAffine(picture, matrix, (260, 220)), np.uint8)


def roll_found(landmarks: np.ndarray) -> float:
    right, left = landmarks[list(IBUG_68.outer_eye_corners)]
    return float(np.degrees(np.arctan2(*(left - right)[::-1])))


def predictor_with(network: Compass, *, calibrated: bool = True, **passes: bool) -> Predictor:
    calibration = CALIBRATION if calibrated else None
    return Predictor(network, calibration=calibration, passes=PassConfig(**passes), faces_per_forward=5)


@pytest.mark.parametrize("turn_deg", [0.0, 90.0, 180.0, -90.0, 70.0, -160.0])
@pytest.mark.parametrize("second_pass", [False, True])
def test_the_landmarks_are_turned_as_the_face_is(turn_deg, second_pass):
    (found,) = predictor_with(Compass(), second_pass=second_pass).predict(two_colors(turn_deg), [BOX])
    assert found.score is not None
    assert found.score > 0.9
    nearest = min(TURNS_DEG, key=lambda turn: abs((turn - turn_deg + 180) % 360 - 180))
    assert abs((roll_found(found.landmarks_image) - nearest + 180) % 360 - 180) < 1e-3
    # What is in the middle of the crop is in the middle of the box, however it is turned.
    np.testing.assert_allclose(found.landmarks_image[33], BOX.middle, atol=4)


def test_a_sure_face_is_looked_at_once():
    network = Compass()
    predictor_with(network).predict(two_colors(0.0), [BOX] * 3)
    assert network.num_seen == [3]


def test_only_the_doubtful_faces_are_looked_at_again_in_parts_and_in_order():
    network = Compass()
    predictor = predictor_with(network)
    pictures = [two_colors(turn) for turn in (0.0, 180.0, 90.0, 0.0)]
    found = predictor.predict_many(pictures, [[BOX]] * 4)
    rolls = [roll_found(face.landmarks_image) for (face,) in found]
    np.testing.assert_allclose(np.abs(rolls), [0, 180, 90, 0], atol=1e-3)
    assert sum(network.num_seen) == 4 + 2 * len(TURNS_DEG) * LOOKS_AT_A_TURN
    assert max(network.num_seen) <= 5


def test_what_is_sure_in_no_turn_stays_as_it_was_found_first():
    grey = np.full((220, 260, 3), 128, np.uint8)
    (found,) = predictor_with(Compass()).predict(grey, [BOX])
    (first,) = predictor_with(Compass(), calibrated=False).predict(grey, [BOX])
    np.testing.assert_array_equal(found.landmarks_image, first.landmarks_image)
    assert found.box_image == BOX


def test_a_look_that_is_not_a_number_is_not_the_surest():
    class Failing(Compass):
        """Fails at what it is not sure of."""

        def find(self, crops: np.ndarray) -> FoundLandmarks:
            found = super().find(crops)
            found.landmarks_unit[found.covariance_unit[:, 0, 0, 0] > 1e-4] = np.nan
            return found

    (found,) = predictor_with(Failing()).predict(two_colors(90.0), [BOX])
    assert abs(roll_found(found.landmarks_image) - 90) < 1e-3


@pytest.mark.parametrize("turn_deg", [0.0, 90.0])
def test_a_face_whose_turn_is_known_is_taken_at_its_word(turn_deg):
    network = Compass()
    place = FacePlace(box_image=BOX, turn_deg=turn_deg)
    (found,) = predictor_with(network).predict(two_colors(180.0), [place])
    assert network.num_seen == [1]
    assert abs(roll_found(found.landmarks_image) - turn_deg) < 1e-3


def test_without_calibration_no_face_is_turned():
    network = Compass()
    predictor_with(network, calibrated=False).predict(two_colors(180.0), [BOX])
    assert network.num_seen == [1]


def test_a_detected_face_keeps_its_score_when_it_is_turned():
    (found,) = predictor_with(Compass()).predict(two_colors(180.0), [DetectedFace(box_image=BOX, score=0.7)])
    assert found.detection_score == 0.7
    assert abs(roll_found(found.landmarks_image)) > 179


def test_no_faces_are_no_looks():
    network = Compass()
    assert LandmarkFinder(network, CALIBRATION, PassConfig(), 5).look_at([], []) == []
    assert network.num_seen == []


@pytest.mark.parametrize("turn_deg", [90.0, 180.0, -90.0, 120.0])
def test_the_model_that_comes_with_flm_finds_faces_on_their_side_and_on_their_head(turn_deg):
    predictor = flm.load(threads=1)
    errors = []
    for face in rendered_faces(8):
        picture, truth = turned_face(face, turn_deg)
        (found,) = predictor.predict(picture, [FaceBox.around(truth)])
        errors.append(error_of(found.landmarks_image, truth))
    assert np.median(errors) < 0.08
