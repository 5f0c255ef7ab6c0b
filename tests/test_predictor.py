"""A network whose answer is known: boxes and answers come back to px of the picture."""

from typing import cast

import cv2
import numpy as np
import pytest
import torch
from conftest import draw_face
from torch import Tensor

from flm.geometry import FaceBox, square_crop, transform_points, unit_to_crop
from flm.inference.predictor import FACES_PER_FORWARD, Prediction, Predictor
from flm.landmarks import IBUG_68
from flm.model.heads import NetworkOutput
from flm.model.network import LandmarkNetwork, ModelConfig, build_network

SIZE_PX = 64
ANSWER_UNIT = np.random.default_rng(0).uniform(-0.1, 1.1, (68, 2)).astype(np.float32)
COVARIANCE_UNIT = np.array([[4e-4, 1e-4], [1e-4, 2e-4]], np.float32)
COLORS = np.random.default_rng(1).integers(0, 256, (300, 400, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def network() -> LandmarkNetwork:
    config = ModelConfig(backbone="xception_compact_slim", input_size_px=SIZE_PX, crop_margin=0.25)
    torch.manual_seed(0)
    return build_network(config)


class Seen:
    """The pictures that the network was shown."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def predictor(network, seen, monkeypatch) -> Predictor:
    """Answers the same for every face, with an uncertainty."""

    def answer(images: Tensor) -> NetworkOutput:
        seen.images.append(images.clone())
        return NetworkOutput(
            landmarks_unit=torch.from_numpy(ANSWER_UNIT).expand(len(images), 68, 2),
            covariance_unit=torch.from_numpy(COVARIANCE_UNIT).expand(len(images), 68, 2, 2),
        )

    monkeypatch.setattr(network, "forward", answer)
    return Predictor(network)


def predict_one(predictor: Predictor, picture: np.ndarray, box: FaceBox | None = None) -> Prediction:
    (face,) = predictor.predict(picture, None if box is None else [box])
    return face


def covariance_of(face: Prediction) -> np.ndarray:
    assert face.covariance_image is not None
    return face.covariance_image


def box_at(left: float, top: float, width: float, height: float) -> FaceBox:
    return FaceBox(left=float(left), top=float(top), width=float(width), height=float(height))


BOXES = [
    box_at(100, 50, 80, 80),
    box_at(10.5, 200.25, 30, 50),
    box_at(-200, -100, 900, 300),
    box_at(390, 290, 4, 4),
]


@pytest.mark.parametrize("box", BOXES)
def test_an_answer_lies_where_the_box_says(predictor, box):
    face = predict_one(predictor, COLORS, box)
    assert face.box_image == box
    # The crop is the box's longer side and a quarter more on each side, about its centre.
    side = 1.5 * max(box.width, box.height)
    center = np.array([box.left + box.width / 2 - 0.5, box.top + box.height / 2 - 0.5])
    expected = center + (ANSWER_UNIT.astype(float) - 0.5) * side
    np.testing.assert_allclose(face.landmarks_image, expected, atol=1e-9 * side)
    np.testing.assert_allclose(covariance_of(face), np.tile(COVARIANCE_UNIT * side**2, (68, 1, 1)), rtol=1e-6)


def test_moving_picture_and_box_moves_the_landmarks(network):
    predictor = Predictor(network)
    picture, landmarks = draw_face(3, 120)
    moved = np.zeros((200, 220, 3), np.uint8)
    moved[37:157, 51:171] = picture
    box = FaceBox.around(landmarks)
    shifted = box_at(box.left + 51, box.top + 37, box.width, box.height)
    first, second = predict_one(predictor, picture, box), predict_one(predictor, moved, shifted)
    np.testing.assert_allclose(second.landmarks_image, first.landmarks_image + np.array([51, 37]), atol=2e-3)
    np.testing.assert_allclose(covariance_of(second), covariance_of(first), rtol=1e-3)


def test_a_picture_twice_as_large_has_landmarks_twice_as_far(network):
    predictor = Predictor(network)
    picture, landmarks = draw_face(3, 120)
    smooth = cv2.GaussianBlur(picture, (0, 0), 3)
    large = cv2.resize(smooth, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    box = FaceBox.around(landmarks)
    double = box_at(2 * box.left, 2 * box.top, 2 * box.width, 2 * box.height)
    first, second = predict_one(predictor, smooth, box), predict_one(predictor, large, double)
    np.testing.assert_allclose(second.landmarks_image, 2 * first.landmarks_image + 0.5, atol=0.1)
    np.testing.assert_allclose(covariance_of(second), 4 * covariance_of(first), rtol=1e-3, atol=0.01)


def test_a_dot_is_found_where_it_was_drawn(network, monkeypatch):
    def brightest(images: Tensor) -> NetworkOutput:
        flat = images.mean(1).flatten(1).argmax(1)
        cell = torch.stack([flat % SIZE_PX, flat // SIZE_PX], dim=1)
        return NetworkOutput(landmarks_unit=((cell + 0.5) / SIZE_PX)[:, None].repeat(1, 68, 1))

    monkeypatch.setattr(network, "forward", brightest)
    picture = np.zeros((300, 400, 3), np.uint8)
    cv2.circle(picture, (131, 77), 6, (255, 255, 255), -1)
    picture = cv2.GaussianBlur(picture, (0, 0), 3)
    face = predict_one(Predictor(network), picture, BOXES[0])
    assert face.covariance_image is None
    # Half a cell of the crop, in px of the picture.
    half_cell = 0.5 * 1.5 * 80 / SIZE_PX
    np.testing.assert_allclose(face.landmarks_image, [[131, 77]] * 68, atol=half_cell + 1e-6)


def test_without_a_box_it_is_the_whole_picture(predictor, seen):
    alone = predict_one(predictor, COLORS)
    assert alone.box_image == box_at(0, 0, 400, 300)
    told = predict_one(predictor, COLORS, alone.box_image)
    np.testing.assert_array_equal(alone.landmarks_image, told.landmarks_image)
    assert torch.equal(*seen.images)


def test_the_network_sees_rgb_from_zero_to_one(predictor, seen):
    red = np.zeros((90, 90, 3), np.uint8)
    red[..., 0] = 255
    predict_one(predictor, red, box_at(20, 20, 40, 40))
    (images,) = seen.images
    assert images.shape == (1, 3, SIZE_PX, SIZE_PX)
    assert images.dtype == torch.float32
    assert images[0].amin((1, 2)).tolist() == images[0].amax((1, 2)).tolist() == [1, 0, 0]


def test_no_box_is_no_face(predictor, seen):
    assert predictor.predict(COLORS, []) == []
    assert seen.images == []


@pytest.mark.parametrize("num_boxes", [FACES_PER_FORWARD, FACES_PER_FORWARD + 1, 2 * FACES_PER_FORWARD + 5])
def test_many_faces_go_through_in_parts_and_in_order(predictor, seen, num_boxes):
    boxes = [box_at(3.0 * i, 2.0 * i, 20 + i, 30) for i in range(num_boxes)]
    faces = predictor.predict(COLORS, boxes)
    assert [face.box_image for face in faces] == boxes
    assert sum(len(images) for images in seen.images) == num_boxes
    assert max(len(images) for images in seen.images) <= FACES_PER_FORWARD
    for face, box in zip(faces, boxes, strict=True):
        inverse = np.linalg.inv(square_crop(box, SIZE_PX, 0.25))
        expected = transform_points(unit_to_crop(ANSWER_UNIT.astype(float), SIZE_PX), inverse)
        np.testing.assert_allclose(face.landmarks_image, expected, atol=1e-6)


def test_together_is_as_alone(network):
    predictor = Predictor(network)
    picture, _ = draw_face(1, 150)
    boxes = [box_at(10.0 + i, 10, 90, 90) for i in range(3)]
    together = predictor.predict(picture, boxes)
    for face, box in zip(together, boxes, strict=True):
        alone = predict_one(predictor, picture, box)
        np.testing.assert_allclose(face.landmarks_image, alone.landmarks_image, atol=1e-3)


def test_a_predictor_evaluates_keeps_no_gradients_and_leaves_the_picture(network):
    network.train()
    predictor = Predictor(network)
    assert not any(module.training for module in network.modules())
    picture = COLORS.copy()
    face = predict_one(predictor, picture)
    np.testing.assert_array_equal(picture, COLORS)
    assert face.landmarks_image.dtype == covariance_of(face).dtype == np.float64
    assert (np.linalg.eigvalsh(covariance_of(face)) > 0).all()
    assert all(cast(torch.nn.Parameter, p).grad is None for p in network.parameters())
    assert predictor.scheme is IBUG_68
