"""Faces are found at any size and place, boxes are the landmarks' own, files are checked."""

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import REPOSITORY
from huggingface_hub import constants

from flm.bench.measure import free_port
from flm.errors import InputError
from flm.geometry import FaceBox
from flm.inference import detector as module
from flm.inference import hub_file
from flm.inference.detector import (
    DLIB_SHAPE,
    YUNET_FILE,
    YUNET_SHAPE,
    DetectorConfig,
    DlibDetector,
    YunetDetector,
    build_detector,
    yunet_file,
)
from flm.pictures import read_picture
from shards.sources.ibug import read_ibug


@pytest.fixture(scope="module")
def model() -> Path:
    path = REPOSITORY.parent / "shared" / "weights" / YUNET_FILE
    if not path.exists():
        pytest.skip("YuNet's file (../shared/weights) is not on this machine")
    return path


@pytest.fixture(scope="module")
def faces(shared_data):
    """Pictures of single faces of the training part, each with its landmarks' own box."""
    found = read_ibug(shared_data / "ibug_300W_large_face_landmark_dataset").faces
    chosen = [face for face in found if face.split != "test"][::60]
    return [
        (read_picture(face.picture.path, upright=False), FaceBox.around(face.landmarks_image))
        for face in chosen
    ]


def yunet(model: Path, **changes) -> YunetDetector:
    return YunetDetector(model, DetectorConfig(model=model, **changes))


def best_overlap(found, truth: FaceBox) -> float:
    return max((face.box_image.overlap(truth) for face in found), default=0.0)


def moved(box: FaceBox, scale: float, right: float = 0, down: float = 0) -> FaceBox:
    return box.mapped(
        np.array([[scale, 0, right + (scale - 1) / 2], [0, scale, down + (scale - 1) / 2], [0, 0, 1.0]])
    )


def resized(picture: np.ndarray, scale: float) -> np.ndarray:
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    return np.asarray(
        cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    )


def test_yunet_finds_the_box_of_the_landmarks(model, faces):
    detect = yunet(model).detect
    overlaps = [best_overlap(detect(picture), box) for picture, box in faces]
    assert len(faces) >= 30
    assert min(overlaps) > 0.4
    assert np.median(overlaps) > 0.78


def test_dlib_finds_most(faces):
    detect = DlibDetector(DetectorConfig(kind="dlib")).detect
    overlaps = np.array([best_overlap(detect(picture), box) for picture, box in faces[:20]])
    assert (overlaps > 0.4).mean() >= 0.75
    assert np.median(overlaps[overlaps > 0.4]) > 0.7


def _shape_of(detect, faces) -> np.ndarray:
    """Mean shift to the right and down, and size, of the landmarks' own box in shares of the detector's."""
    rows = []
    for picture, truth in faces:
        boxes = [face.box_image for face in detect(picture)]
        box = max(boxes, key=lambda box: box.overlap(truth), default=None)
        if box is not None and box.overlap(truth) > 0.3:
            side = box.long_side
            right, down = (truth.center_x - box.center_x) / side, (truth.center_y - box.center_y) / side
            rows.append((right, down, truth.long_side / side))
    return np.mean(rows, axis=0)


def test_the_mapping_of_boxes_is_what_training_faces_show(model, faces):
    """With the mapping, nothing is left to shift or scale on average."""
    right, down, size = _shape_of(yunet(model).detect, faces)
    assert abs(right) < 0.02
    assert abs(down) < 0.02
    assert abs(size - 1) < 0.04


@pytest.mark.parametrize("shape", [YUNET_SHAPE, DLIB_SHAPE])
def test_the_mapping_moves_with_the_picture(shape):
    box = FaceBox(left=10.0, top=20.0, width=30.0, height=44.0)
    one = moved(shape.truth_box(box), 3.0, 7.0, -4.0)
    other = shape.truth_box(moved(box, 3.0, 7.0, -4.0))
    assert one.left == pytest.approx(other.left)
    assert one.width == pytest.approx(other.width)
    assert one.center_y == pytest.approx(other.center_y)


@pytest.mark.parametrize("scale", [0.15, 0.5, 3.0, 6.0])
def test_boxes_follow_the_size_of_a_picture(model, faces, scale):
    detect = yunet(model).detect
    found = 0
    for picture, box in faces[:8]:
        found += best_overlap(detect(resized(picture, scale)), moved(box, scale)) > 0.5
    assert found == 8


def crowd(faces, columns: int, rows: int, tile: int) -> tuple[np.ndarray, list[FaceBox]]:
    canvas = np.full((rows * tile, columns * tile, 3), 90, np.uint8)
    boxes = []
    for place, (picture, box) in zip(range(rows * columns), faces, strict=False):
        top, left = place // columns * tile, place % columns * tile
        scale = tile / max(picture.shape[:2])
        small = resized(picture, scale)
        canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
        boxes.append(moved(box, scale, left, top))
    return canvas, boxes


def test_each_face_of_many_is_found_once(model, faces):
    picture, boxes = crowd(faces, 6, 4, 200)
    found = yunet(model).detect(picture)
    hits = [sum(face.box_image.overlap(box) > 0.4 for face in found) for box in boxes]
    assert hits.count(1) >= len(boxes) - 1
    assert max(hits) == 1
    sides = [face.box_image.long_side for face in found]
    assert sides == sorted(sides, reverse=True)


def test_small_faces_are_looked_for_where_none_is_found(model, faces):
    picture, boxes = crowd(faces, 1, 1, 80)
    far = np.full((3000, 4000, 3), 120, np.uint8)
    far[1500:1580, 2000:2080] = picture
    box = moved(boxes[0], 1.0, 2000, 1500)
    assert best_overlap(yunet(model).detect(far), box) > 0.4


def test_a_thorough_search_finds_small_faces_beside_a_large_one(model, faces):
    small, boxes = crowd(faces, 1, 1, 80)
    large = resized(faces[1][0], 3000 / max(faces[1][0].shape[:2]))
    picture = np.full((3000, 4000, 3), 120, np.uint8)
    picture[: large.shape[0], : large.shape[1]] = large[:3000]
    picture[2900:2980, 3900:3980] = small
    box = moved(boxes[0], 1.0, 3900, 2900)
    assert best_overlap(yunet(model).detect(picture), box) == 0
    found = yunet(model, search="thorough").detect(picture)
    assert best_overlap(found, box) > 0.4
    assert best_overlap(found, moved(faces[1][1], 3000 / max(faces[1][0].shape[:2]))) > 0.5


def test_threads_do_not_disturb_each_other(model, faces):
    shared = yunet(model)
    pictures = [resized(picture, 0.4 + 0.1 * (place % 7)) for place, (picture, _) in enumerate(faces[:24])]
    one_by_one = [shared.detect(picture) for picture in pictures]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(shared.detect, pictures)) == one_by_one


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (40, 7), (64, 64)])
def test_pictures_of_any_shape_without_a_face(model, size):
    picture = np.full((*size, 3), 128, np.uint8)
    assert yunet(model).detect(picture) == []
    assert DlibDetector(DetectorConfig(kind="dlib")).detect(picture) == []
    (whole,) = build_detector(DetectorConfig(kind="whole")).detect(picture)
    assert whole.box_image == FaceBox.of_picture(size[1], size[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"min_score": 1.0}, r"--detector\.min-score is 1"), ({"side_px": 3}, r"--detector\.side-px is 3")],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        DetectorConfig(**change)


def test_files_that_are_no_model_are_told(tmp_path):
    missing = DetectorConfig(kind="auto", model=tmp_path / "none.onnx")
    with pytest.raises(InputError, match=r"--detector\.model .*none\.onnx: there is no such file"):
        build_detector(missing)
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(InputError, match=r"bad\.onnx: not the ONNX file of YuNet"):
        build_detector(DetectorConfig(kind="yunet", model=tmp_path / "bad.onnx"))


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as one file takes."""

    content = b"an ONNX file"

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield server
    server.shutdown()
    server.server_close()


def test_the_hubs_file_is_compared_with_its_hash(hub, monkeypatch):
    with pytest.raises(
        InputError, match=f"its sha256 is {hashlib.sha256(Hub.content).hexdigest()}, expected"
    ):
        yunet_file(DetectorConfig())
    monkeypatch.setattr(module, "YUNET_SHA256", hashlib.sha256(Hub.content).hexdigest())
    assert yunet_file(DetectorConfig()).read_bytes() == Hub.content
    hub.server_close()  # what was fetched is not asked for again
    assert yunet_file(DetectorConfig()).read_bytes() == Hub.content


def test_a_hub_that_is_out_of_reach_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(hub_file, "_answering", set())
    start = time.monotonic()
    with pytest.raises(InputError, match="it does not answer"):
        yunet_file(DetectorConfig())
    assert time.monotonic() - start < 20  # by itself the library tries for 26 s


def test_dlib_stands_in_where_the_file_cannot_be_had(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    said: list[str] = []
    assert build_detector(DetectorConfig(), said.append).name == "dlib"
    (line,) = said
    assert "cannot be fetched from the Hugging Face Hub" in line
    assert "going on with dlib's detector" in line
    assert "\n" not in line
    with pytest.raises(InputError, match=r"--detector\.model"):
        build_detector(DetectorConfig(kind="yunet"))
