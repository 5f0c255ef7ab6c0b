"""A page that answers with a network of known answers, and pictures for it."""

import contextlib
import importlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
from conftest import REPOSITORY

from flm.bench.measure import free_port
from flm.faces.pose import mean_face
from flm.inference.onnx_network import AboutNetwork

DEMO = REPOSITORY / "demo"
SIDE = 32
"""Of the network's crops."""

STARTS_WITHIN_S = 120.0


def write_network(path: Path, *, moved: float = 0.0, run_url: str = "") -> None:
    """A network whose face stands where the crop's red light does.

    Every landmark is at (mean / 255, mean / 255) of the red pixels, moved by its place on a mean face.

    Args:
        path: the file.
        moved: by how much more to the right and down, as a share of the crop.
        run_url: as of a training that was logged online.
    """
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    constants = {
        "red": np.array([0], np.int64),
        "rows and columns": np.array([1, 2], np.int64),
        "white": np.array(255, np.float32),
        "axes": np.array([2], np.int64),
        "another": np.array([3], np.int64),
        "moved": (face_shape() + moved)[None].astype(np.float32),
        "spread": np.tile(np.array([[4e-4, 1e-4], [1e-4, 2e-4]], np.float32), (1, 68, 1, 1)),
    }
    nodes = [
        helper.make_node("Gather", ["pixels", "red"], ["reds"], axis=3),
        helper.make_node("Cast", ["reds"], ["numbers"], to=floats),
        helper.make_node("ReduceMean", ["numbers", "rows and columns"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["share"]),
        helper.make_node("Unsqueeze", ["share", "axes"], ["shares"]),
        helper.make_node("Add", ["shares", "moved"], ["landmarks_unit"]),
        helper.make_node("Unsqueeze", ["shares", "another"], ["deep"]),
        helper.make_node("Mul", ["deep", "spread"], ["covariance_unit"]),
    ]
    outputs = [
        helper.make_tensor_value_info("landmarks_unit", floats, ["faces", 68, 2]),
        helper.make_tensor_value_info("covariance_unit", floats, ["faces", 68, 2, 2]),
    ]
    pixels = helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, ["faces", SIDE, SIDE, 3])
    weights = [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "means", [pixels], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    about = AboutNetwork(
        scheme="ibug-68", input_size_px=SIDE, crop_margin=0.0, recipe="made by hand", run_url=run_url
    )
    onnx.helper.set_model_props(model, about.to_texts())
    path.write_bytes(model.SerializeToString())


def face_shape() -> np.ndarray:
    """68 points about the middle, a fifth of a crop wide."""
    flat = mean_face()[:, :2]
    return 0.1 * (flat - flat.mean(axis=0))


def expected_landmarks(red: int, side_px: int = 160) -> np.ndarray:
    """Where the landmarks are in an evenly red square that is one face as a whole, px."""
    return (red / 255 + face_shape()) * side_px - 0.5


def red_picture(red: int, side_px: int = 160) -> bytes:
    """A PNG, evenly red."""
    picture = np.zeros((side_px, side_px, 3), np.uint8)
    picture[..., 2] = red
    return cv2.imencode(".png", picture)[1].tobytes()


def demo_module(name: str) -> ModuleType:
    """A module of the demo, which lies beside its siblings and in no package."""
    if str(DEMO) not in sys.path:
        sys.path.insert(0, str(DEMO))
    return importlib.import_module(name)


@dataclass(frozen=True)
class Page:
    """A page that is being served."""

    url: str
    process: subprocess.Popen[str]
    log: Path
    uploads: Path


@contextlib.contextmanager
def serving(folder: Path, words: Sequence[str] = (), *, run_url: str = "") -> Iterator[Page]:
    """`python demo/app.py` on loopback; the whole picture is the one face of it, or none if it is black."""
    network, log, uploads = folder / "network.onnx", folder / "log.txt", folder / "uploads"
    write_network(network, run_url=run_url)
    uploads.mkdir(exist_ok=True)
    port = free_port()
    program = str(REPOSITORY / "tests" / "programs" / "red_page.py")
    command = [sys.executable, program, "--checkpoint", str(network), "--port", str(port), *words]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(uploads), "HF_HUB_OFFLINE": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=file, stderr=subprocess.STDOUT, text=True
        )
    url = f"http://127.0.0.1:{port}/"
    try:
        wait_for_page(process, url, log)
        yield Page(url, process, log, uploads)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_page(process: subprocess.Popen, url: str, log: Path) -> None:
    """Until it is there; fails with the log where that does not come to be."""
    end = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())
