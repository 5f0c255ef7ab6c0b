"""A network whose answer is known: boxes and answers come back to px of the picture."""

import io
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
import torch
from conftest import draw_face
from fake_faces import plain_calibration
from PIL import Image

import flm
from flm.errors import InputError
from flm.faces.upright import place_of
from flm.geometry import FaceBox, square_crop, transform_points, unit_to_crop
from flm.inference.detector import DetectedFace
from flm.inference.looks import FACES_PER_FORWARD
from flm.inference.network import FaceNetwork, FoundLandmarks
from flm.inference.pass_config import PassConfig
from flm.inference.predictor import Prediction, Predictor
from flm.inference.torch_network import TorchNetwork
from flm.landmarks import IBUG_68
from flm.model.network import LandmarkNetwork, ModelConfig, build_network

SIZE_PX = 64
MARGIN = 0.25
ANSWER_UNIT = np.random.default_rng(0).uniform(-0.1, 1.1, (68, 2)).astype(np.float32)
COVARIANCE_UNIT = np.array([[4e-4, 1e-4], [1e-4, 2e-4]], np.float32)
COLORS = np.random.default_rng(1).integers(0, 256, (300, 400, 3)).astype(np.uint8)


class Oracle:
    """Answers the same for every face, with an uncertainty; keeps what it was shown."""

    scheme, input_size_px, crop_margin = IBUG_68, SIZE_PX, MARGIN

    def __init__(self, has_covariance: bool = True) -> None:
        self.seen: list[np.ndarray] = []
        self.has_covariance = has_covariance

    def find(self, crops: np.ndarray) -> FoundLandmarks:
        self.seen.append(crops)
        return FoundLandmarks(
            landmarks_unit=self.landmarks(crops),
            covariance_unit=np.tile(COVARIANCE_UNIT, (len(crops), 68, 1, 1)) if self.has_covariance else None,
        )

    def landmarks(self, crops: np.ndarray) -> np.ndarray:
        return np.tile(ANSWER_UNIT, (len(crops), 1, 1))


class Spot(Oracle):
    """All landmarks are on the brightest pixel."""

    def landmarks(self, crops: np.ndarray) -> np.ndarray:
        flat = crops.mean(axis=3).reshape(len(crops), -1).argmax(axis=1)
        cell = np.stack([flat % SIZE_PX, flat // SIZE_PX], axis=1)
        return np.repeat(((cell + 0.5) / SIZE_PX)[:, None], 68, axis=1).astype(np.float32)


class Dots:
    """Finds faces whose boxes are given beforehand."""

    name = "dots"

    def __init__(self, boxes: list[FaceBox]) -> None:
        self.boxes = boxes

    def detect(self, picture: np.ndarray) -> list[DetectedFace]:
        return [DetectedFace(box_image=box, score=0.9 - 0.1 * row) for row, box in enumerate(self.boxes)]


@pytest.fixture(scope="module")
def network() -> LandmarkNetwork:
    config = ModelConfig(backbone="xception_compact_slim", input_size_px=SIZE_PX, crop_margin=MARGIN)
    torch.manual_seed(0)
    return build_network(config)


@pytest.fixture
def oracle() -> Oracle:
    return Oracle()


@pytest.fixture
def predictor(oracle) -> Predictor:
    return Predictor(oracle)


def predict_one(predictor: Predictor, picture: object, box: FaceBox) -> Prediction:
    (face,) = predictor.predict(picture, [box])
    return face


def covariance_of(face: Prediction) -> np.ndarray:
    assert face.covariance_image is not None
    return face.covariance_image


def box_at(left: float, top: float, width: float, height: float) -> FaceBox:
    return FaceBox(left=float(left), top=float(top), width=float(width), height=float(height))


def expected_landmarks(box: FaceBox, answer: np.ndarray = ANSWER_UNIT) -> np.ndarray:
    inverse = np.linalg.inv(square_crop(box, SIZE_PX, MARGIN))
    return transform_points(unit_to_crop(answer.astype(float), SIZE_PX), inverse)


BOXES = [
    box_at(100, 50, 80, 80),
    box_at(10.5, 200.25, 30, 50),
    box_at(-200, -100, 900, 300),
    box_at(390, 290, 4, 4),
]


@pytest.mark.parametrize("box", BOXES)
def test_an_answer_lies_where_the_box_says(predictor, box):
    face = predict_one(predictor, COLORS, box)
    assert (face.box_image, face.detection_score, face.scheme) == (box, None, IBUG_68)
    # The crop is the box's longer side and a quarter more on each side, about its centre.
    side = 1.5 * max(box.width, box.height)
    center = np.array([box.left + box.width / 2 - 0.5, box.top + box.height / 2 - 0.5])
    expected = center + (ANSWER_UNIT.astype(float) - 0.5) * side
    np.testing.assert_allclose(face.landmarks_image, expected, atol=1e-9 * side)
    np.testing.assert_allclose(covariance_of(face), np.tile(COVARIANCE_UNIT * side**2, (68, 1, 1)), rtol=1e-6)


def test_moving_picture_and_box_moves_the_landmarks(network):
    predictor = Predictor(TorchNetwork(network))
    picture, landmarks = draw_face(3, 120)
    moved = np.zeros((200, 220, 3), np.uint8)
    moved[37:157, 51:171] = picture
    box = FaceBox.around(landmarks)
    shifted = box_at(box.left + 51, box.top + 37, box.width, box.height)
    first, second = predict_one(predictor, picture, box), predict_one(predictor, moved, shifted)
    np.testing.assert_allclose(second.landmarks_image, first.landmarks_image + np.array([51, 37]), atol=2e-3)
    np.testing.assert_allclose(covariance_of(second), covariance_of(first), rtol=1e-3)


def test_a_picture_twice_as_large_has_landmarks_twice_as_far(network):
    predictor = Predictor(TorchNetwork(network))
    picture, landmarks = draw_face(3, 120)
    smooth = cv2.GaussianBlur(picture, (0, 0), 3)
    large = cv2.resize(smooth, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    box = FaceBox.around(landmarks)
    double = box_at(2 * box.left, 2 * box.top, 2 * box.width, 2 * box.height)
    first, second = predict_one(predictor, smooth, box), predict_one(predictor, large, double)
    np.testing.assert_allclose(second.landmarks_image, 2 * first.landmarks_image + 0.5, atol=0.1)
    np.testing.assert_allclose(covariance_of(second), 4 * covariance_of(first), rtol=1e-3, atol=0.01)


def spotted(x: int, y: int) -> np.ndarray:
    picture = np.zeros((300, 400, 3), np.uint8)
    cv2.circle(picture, (x, y), 6, (255, 255, 255), -1)
    return cv2.GaussianBlur(picture, (0, 0), 3)


@pytest.mark.parametrize("passes", [PassConfig(), PassConfig(mirror_average=True)])
def test_a_dot_is_found_where_it_was_drawn(passes):
    face = predict_one(Predictor(Spot(has_covariance=False), passes=passes), spotted(131, 77), BOXES[0])
    assert (face.covariance_image, face.score) == (None, None)
    # Half a cell of the crop, in px of the picture.
    half_cell = 0.5 * 1.5 * 80 / SIZE_PX
    np.testing.assert_allclose(face.landmarks_image, [[131, 77]] * 68, atol=half_cell + 1e-6)


def test_mirror_averaging_takes_the_other_side_for_the_other_eye(oracle):
    face = predict_one(Predictor(oracle, passes=PassConfig(mirror_average=True)), COLORS, BOXES[0])
    mirrored = ANSWER_UNIT[list(IBUG_68.mirror_permutation)] * [-1, 1] + [1, 0]
    np.testing.assert_allclose(
        face.landmarks_image, expected_landmarks(BOXES[0], (ANSWER_UNIT + mirrored) / 2), atol=1e-5
    )
    straight, flipped = oracle.seen
    np.testing.assert_array_equal(flipped, straight[:, :, ::-1])


def test_a_second_pass_looks_at_the_box_of_the_first_landmarks(oracle):
    face = predict_one(Predictor(oracle, passes=PassConfig(second_pass=True)), COLORS, BOXES[0])
    first = place_of(expected_landmarks(BOXES[0]), IBUG_68)
    assert first is not None
    inverse = np.linalg.inv(first.crop(SIZE_PX, MARGIN))
    expected = transform_points(unit_to_crop(ANSWER_UNIT.astype(float), SIZE_PX), inverse)
    np.testing.assert_allclose(face.landmarks_image, expected, atol=1e-6)
    assert face.box_image == first.box_image
    assert len(oracle.seen) == 2
    # Landmarks in one place show no face to look at again.
    alone = predict_one(Predictor(Spot(), passes=PassConfig(second_pass=True)), spotted(131, 77), BOXES[0])
    assert alone.box_image == BOXES[0]


def test_without_boxes_a_detector_looks(oracle):
    predictor = Predictor(oracle, detector=Dots(BOXES[:2]))
    faces = predictor.predict(COLORS)
    assert [face.box_image for face in faces] == BOXES[:2]
    assert [face.detection_score for face in faces] == [0.9, 0.8]
    assert Predictor(oracle, detector=Dots([])).predict(COLORS) == []


def test_the_network_sees_rgb_from_zero_to_one(network, monkeypatch):
    seen = []
    answer = network.forward
    monkeypatch.setattr(network, "forward", lambda images: seen.append(images.clone()) or answer(images))
    red = np.zeros((90, 90, 3), np.uint8)
    red[..., 0] = 255
    predict_one(Predictor(TorchNetwork(network)), red, box_at(30, 30, 20, 20))
    (images,) = seen
    assert images.shape == (1, 3, SIZE_PX, SIZE_PX)
    assert images.dtype == torch.float32
    assert images[0].amin((1, 2)).tolist() == images[0].amax((1, 2)).tolist() == [1, 0, 0]


def test_no_box_is_no_face(predictor, oracle):
    assert predictor.predict(COLORS, []) == []
    assert predictor.predict_many([]) == []
    assert oracle.seen == []


@pytest.mark.parametrize("num_boxes", [FACES_PER_FORWARD, FACES_PER_FORWARD + 1, 60])
def test_many_faces_go_through_in_parts_and_in_order(predictor, oracle, num_boxes):
    boxes = [box_at(3.0 * i, 2.0 * i, 20 + i, 30) for i in range(num_boxes)]
    faces = predictor.predict(COLORS, boxes)
    assert [face.box_image for face in faces] == boxes
    assert sum(map(len, oracle.seen)) == num_boxes
    assert max(map(len, oracle.seen)) <= FACES_PER_FORWARD
    for face, box in zip(faces, boxes, strict=True):
        np.testing.assert_allclose(face.landmarks_image, expected_landmarks(box), atol=1e-6)


def test_faces_of_several_pictures_share_a_forward_pass(network):
    predictor, oracle = Predictor(TorchNetwork(network)), Oracle()
    pictures = [draw_face(seed, 100 + 20 * seed)[0] for seed in range(4)]
    boxes = [[box_at(5.0 * i, 4, 70, 70) for i in range(count)] for count in (2, 0, 1, 3)]
    together = predictor.predict_many(pictures, boxes)
    assert [len(faces) for faces in together] == [2, 0, 1, 3]
    Predictor(oracle).predict_many(pictures, boxes)
    assert [len(crops) for crops in oracle.seen] == [6]
    for picture, given, faces in zip(pictures, boxes, together, strict=True):
        for box, face in zip(given, faces, strict=True):
            alone = predict_one(predictor, picture, box)
            np.testing.assert_allclose(face.landmarks_image, alone.landmarks_image, atol=1e-3)
    with pytest.raises(InputError, match="1 lists of boxes for 4 pictures"):
        predictor.predict_many(pictures, boxes[:1])


def test_a_predictor_evaluates_keeps_no_gradients_and_leaves_the_picture(network):
    network.train()
    predictor = Predictor(TorchNetwork(network))
    assert not any(module.training for module in network.modules())
    picture = COLORS.copy()
    face = predict_one(predictor, picture, box_at(0, 0, 400, 300))
    np.testing.assert_array_equal(picture, COLORS)
    assert face.landmarks_image.dtype == covariance_of(face).dtype == np.float64
    assert (np.linalg.eigvalsh(covariance_of(face)) > 0).all()
    assert all(parameter.grad is None for parameter in network.parameters())
    assert isinstance(predictor.network, FaceNetwork)


def test_half_precision_is_near(network):
    full, half = TorchNetwork(network), TorchNetwork(network, precision="bf16")
    crops = np.stack([draw_face(seed, SIZE_PX)[0] for seed in range(3)])
    np.testing.assert_allclose(
        half.find(crops).landmarks_unit, full.find(crops).landmarks_unit, atol=1 / SIZE_PX
    )
    assert half.find(crops).landmarks_unit.dtype == np.float32


def test_a_device_that_is_not_there_is_told(network):
    for device in ("cuda:77", "x"):
        with pytest.raises(InputError, match=f"device {device}: cannot be used"):
            TorchNetwork(network, device)


def test_one_predictor_serves_many_threads(network):
    predictor = Predictor(TorchNetwork(network))
    pictures = [draw_face(seed, 100)[0] for seed in range(6)]
    alone = [predict_one(predictor, picture, box_at(10, 10, 80, 80)).landmarks_image for picture in pictures]
    found: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        box = box_at(10, 10, 80, 80)
        found[number] = predict_one(predictor, pictures[number], box).landmarks_image

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, expected in enumerate(alone):
        np.testing.assert_allclose(found[number], expected, atol=1e-4)


class Unsure(Oracle):
    """A face whose landmarks lie where they should, `deviation` of the crop off."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def find(self, crops: np.ndarray) -> FoundLandmarks:
        landmarks = np.tile(draw_face(0, 1)[1].astype(np.float32), (len(crops), 1, 1))
        covariance = np.tile(np.eye(2, dtype=np.float32) * self.deviation**2, (len(crops), 68, 1, 1))
        return FoundLandmarks(landmarks_unit=landmarks, covariance_unit=covariance)


def test_a_score_falls_as_the_network_is_less_sure():
    scores = [predict_one(Predictor(Unsure(d)), COLORS, BOXES[0]).score for d in (1e-4, 0.01, 0.05, 0.5)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.99
    assert 0 <= scores[-1] < 0.05


def test_a_calibration_scales_the_covariance_and_gives_the_score():
    calibration = plain_calibration(scale=0.25, error_spread=0.3)
    plain = predict_one(Predictor(Unsure(0.02)), COLORS, BOXES[0])
    face = predict_one(Predictor(Unsure(0.02), calibration=calibration), COLORS, BOXES[0])
    np.testing.assert_allclose(covariance_of(face), covariance_of(plain) / 4)
    expected = calibration.score(plain.landmarks_image[None], covariance_of(plain)[None])[0]
    assert face.score == pytest.approx(expected)


def test_any_kind_of_picture_is_taken(predictor, tmp_path):
    box = box_at(20, 20, 50, 50)
    picture = draw_face(0, 90)[0]
    Image.fromarray(picture).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    sources = [
        picture, np.dstack([picture, picture[..., :1]]), picture / np.float32(255),
        picture.astype(np.uint16) * 257, tmp_path / "a.png", str(tmp_path / "a.png"), content,
        bytearray(content), memoryview(content), Image.fromarray(picture), Image.open(io.BytesIO(content)),
        tensor, tensor / 255, (tensor / 255).double().requires_grad_(),
    ]  # fmt: skip
    network = Oracle()
    faces = Predictor(network).predict_many(sources, [[box]] * len(sources))
    assert [len(some) for some in faces] == [1] * len(sources)
    (crops,) = network.seen
    for crop in crops:
        np.testing.assert_array_equal(crop, crops[0])
    grey = picture.mean(axis=2).astype(np.uint8)
    Predictor(network).predict_many([grey, grey[..., None], torch.from_numpy(grey)[None]], [[box]] * 3)
    for crop in network.seen[1]:
        np.testing.assert_array_equal(crop, network.seen[1][0])
        np.testing.assert_array_equal(crop[..., 0], crop[..., 2])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (7, "a picture cannot be a int; give a path"),
        (None, "a picture cannot be a NoneType"),
        (np.zeros((5, 5, 2), np.uint8), r"shape \(5, 5, 2\) is no picture"),
        (np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\) is no picture"),
        (np.zeros((5, 5, 3), np.int32), "an array of int32; expected uint8, uint16, or floats"),
        (np.full((5, 5, 3), 200.0), "floats from 200 to 200; expected 0 to 1"),
        (np.full((5, 5, 3), np.nan), "floats from nan to nan"),
        (torch.zeros(5, 5, 3), r"a tensor of shape \(5, 5, 3\) is no picture; expected \(3, height, width\)"),
        (np.broadcast_to(np.uint8(0), (12_000, 12_000, 3)), "larger than 134 million pixels"),
        (b"no picture", "the given bytes: not a whole picture"),
        ("none.png", "none.png: the picture is missing"),
        ("http://127.0.0.1:9/a.png", "is at 127.0.0.1, which is not of the public internet"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_picture_is_told_in_one_line(predictor, source, message):
    with pytest.raises(InputError, match=message) as caught:
        predictor.predict(source, [])
    assert "\n" not in str(caught.value)


def test_a_prediction_knows_pose_and_openness():
    from flm.faces.openness import openness
    from flm.faces.pose import head_pose

    face = predict_one(Predictor(Unsure(0.01)), COLORS, BOXES[0])
    assert face.pose == head_pose(face.landmarks_image, IBUG_68)
    assert face.openness == openness(face.landmarks_image, IBUG_68)
    assert face.pose is not None
    assert face.openness is not None


def test_inference_needs_neither_torch_nor_the_training_stack():
    code = (
        "import sys, flm.inference.predictor, flm.inference.load, flm.inference.predict, flm.draw\n"
        "never = {'torch', 'webdataset', 'kornia', 'accelerate', 'wandb', 'tyro', 'timm'}\n"
        "heavy = never & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_load_is_at_hand():
    assert callable(flm.load)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = flm.lode  # pyright: ignore[reportAttributeAccessIssue]
