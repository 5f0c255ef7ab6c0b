"""A file with a known answer, made by hand: what comes out, what is refused, and that PyTorch stays out."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime
import pytest

from flm.errors import InputError
from flm.inference.load import load
from flm.inference.network import FaceNetwork
from flm.inference.onnx_network import FACES_PER_RUN, AboutNetwork, OnnxNetwork
from flm.landmarks import IBUG_68

SIDE = 32
ABOUT = AboutNetwork(scheme="ibug-68", input_size_px=SIDE, crop_margin=0.25)
SPREAD = np.array([[4e-4, 1e-4], [1e-4, 2e-4]], np.float32)


def model_bytes(
    texts: dict[str, str], *, has_covariance: bool = True, points: int = 68, side: int = SIDE
) -> bytes:
    """Every landmark of a face is at (mean / 255, mean / 255) of its red pixels."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    constants = {
        "red": np.array([0], np.int64),
        "rows and columns": np.array([1, 2], np.int64),
        "white": np.array(255, np.float32),
        "an axis": np.array([2], np.int64),
        "another": np.array([3], np.int64),
        "points": np.ones((1, points, 2), np.float32),
        "spread": np.tile(SPREAD, (1, points, 1, 1)),
    }
    nodes = [
        helper.make_node("Gather", ["pixels", "red"], ["reds"], axis=3),
        helper.make_node("Cast", ["reds"], ["numbers"], to=floats),
        helper.make_node("ReduceMean", ["numbers", "rows and columns"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["share"]),
        helper.make_node("Unsqueeze", ["share", "an axis"], ["shares"]),
        helper.make_node("Mul", ["shares", "points"], ["landmarks_unit"]),
    ]
    outputs = [helper.make_tensor_value_info("landmarks_unit", floats, ["faces", points, 2])]
    if has_covariance:
        nodes += [
            helper.make_node("Unsqueeze", ["shares", "another"], ["shares of matrices"]),
            helper.make_node("Mul", ["shares of matrices", "spread"], ["covariance_unit"]),
        ]
        outputs.append(helper.make_tensor_value_info("covariance_unit", floats, ["faces", points, 2, 2]))
    pixels = helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, ["faces", side, side, 3])
    weights = [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "means", [pixels], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.helper.set_model_props(model, texts)
    return model.SerializeToString()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "means.onnx"
    path.write_bytes(model_bytes(ABOUT.to_texts()))
    return path


def crops(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.uint8)


@pytest.mark.parametrize("count", [1, 2, FACES_PER_RUN, FACES_PER_RUN + 1, 3 * FACES_PER_RUN + 2])
def test_any_number_of_faces_in_their_order(file, count):
    pixels = crops(count)
    found = OnnxNetwork(file, threads=1).find(pixels)
    share = pixels[..., 0].mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(found.landmarks_unit, np.tile(share[:, None, None], (1, 68, 2)), rtol=1e-5)
    assert found.covariance_unit is not None
    expected = np.tile(share[:, None, None, None] * SPREAD, (1, 68, 1, 1))
    np.testing.assert_allclose(found.covariance_unit, expected, rtol=1e-5)
    assert found.landmarks_unit.dtype == found.covariance_unit.dtype == np.float32


def test_crops_may_be_a_view(file):
    turned = crops(3)[:, ::-1, :, :]
    network = OnnxNetwork(file)
    np.testing.assert_array_equal(
        network.find(turned).landmarks_unit, network.find(turned.copy()).landmarks_unit
    )


def test_it_is_a_network_for_a_predictor(file):
    network = OnnxNetwork(file)
    assert isinstance(network, FaceNetwork)
    assert (network.scheme, network.input_size_px, network.crop_margin) == (IBUG_68, SIDE, 0.25)


def test_without_maps_there_is_no_covariance(tmp_path):
    path = tmp_path / "plain.onnx"
    path.write_bytes(model_bytes(ABOUT.to_texts(), has_covariance=False))
    assert OnnxNetwork(path).find(crops(2)).covariance_unit is None


def test_threads_are_those_that_are_asked_for(file, monkeypatch):
    asked = []
    start = onnxruntime.InferenceSession

    def session(path, options, **named):
        asked.append(options.intra_op_num_threads)
        return start(path, options, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    OnnxNetwork(file, threads=2)
    OnnxNetwork(file)
    assert asked == [2, 0]  # 0 is onnxruntime's word for all


def test_what_a_file_says_of_itself_comes_back():
    about = AboutNetwork(
        scheme="wflw-98",
        input_size_px=256,
        crop_margin=0.125,
        precision="int8",
        recipe="tiny",
        step=1200,
        manifest_hash="ab" * 32,
        licence="for research only, é",
        calibration={"schema_version": 1, "scales": [1.5, 2.0]},
    )
    texts = about.to_texts()
    assert all(isinstance(text, str) for text in texts.values())
    assert AboutNetwork.from_texts({**texts, "of another": "{"}, "x.onnx") == about


def refused(path: Path, **how) -> str:
    with pytest.raises(InputError) as caught:
        OnnxNetwork(path, **how)
    message = str(caught.value)
    assert "\n" not in message
    return message


def damaged_files() -> dict[str, tuple[bytes, str]]:
    good, texts = model_bytes(ABOUT.to_texts()), ABOUT.to_texts()
    return {
        "empty": (b"", "cannot run it"),
        "cut": (good[: len(good) // 2], "cannot run it"),
        "noise": (bytes(crops(1)), "cannot run it"),
        "text": (b"<html>not found</html>", "cannot run it"),
        "foreign": (model_bytes({}), "not written by flm"),
        "newer": (model_bytes({**texts, "flm.version": "99"}), "of version 99"),
        "unknown": (model_bytes({**texts, "flm.scheme": '"moon-3"'}), "'moon-3' is unknown"),
        "malformed": (model_bytes({**texts, "flm.step": "{"}), "damaged"),
        "odd": (model_bytes({**texts, "flm.crop_margin": '"wide"'}), "crop_margin is 'wide'"),
        "points": (model_bytes(texts, points=98), "landmarks_unit"),
        "side": (model_bytes(texts, side=64), "pixels"),
        "large": (model_bytes({**texts, "flm.input_size_px": "1000000"}), "expected 1 to 1024"),
        "wide": (model_bytes({**texts, "flm.crop_margin": "NaN"}), "crop_margin is nan, expected 0 to 1"),
        "deep": (model_bytes({**texts, "flm.calibration": "[" * 100_000}), "damaged (nested too deeply)"),
        "letters": (good.replace(b"ibug-68", b"ibug\xff68"), "damaged ('utf-8' codec"),
        "axes": (good.replace(b"faces", b"f\xffces"), "'utf-8' codec"),
        "graph": (with_red_at(good, 7), "cannot run it"),
    }


def with_red_at(content: bytes, channel: int) -> bytes:
    """A network that is sound until it meets a picture."""
    model = onnx.load_from_string(content)
    (red,) = (values for values in model.graph.initializer if values.name == "red")
    red.raw_data = np.array([channel], np.int64).tobytes()
    return model.SerializeToString()


@pytest.mark.parametrize("kind", damaged_files())
def test_a_damaged_or_foreign_file_is_refused_in_one_line(tmp_path, kind, capfd):
    content, expected = damaged_files()[kind]
    path = tmp_path / f"{kind}.onnx"
    path.write_bytes(content)
    message = refused(path)
    assert expected in message
    assert str(path) in message or "moon" in message
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_not_there_or_is_a_folder(tmp_path):
    assert "no such file" in refused(tmp_path / "none.onnx")
    assert "no such file" in refused(tmp_path)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA"
)
def test_a_gpu_that_onnxruntime_cannot_use(file):
    assert "onnxruntime-gpu" in refused(file, device="cuda")


def test_a_gpu_by_number_is_not_taken_for_the_first_one(file):
    with pytest.raises(InputError, match=r"device cuda:1: an \.onnx file runs on cpu or cuda; CUDA_VISIBLE"):
        load(file, device="cuda:1")


WITHOUT = """
import json, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""
NEEDED = {"numpy", "cv2", "PIL", "jaxtyping", "onnxruntime", "rich", "tyro", "huggingface_hub"}
"""What the wheel depends on, beside the standard library."""
TRAINING = {
    *("torch", "timm", "torchvision", "accelerate", "kornia", "webdataset", "wandb", "matplotlib", "scipy"),
    *("safetensors", "simplejpeg", "orjson", "h5py", "onnx", "onnxscript", "beartype", "gradio", "pandas"),
}


def run_without_training(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=TRAINING) + program, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_predicting_imports_no_pytorch(file):
    program = """
import numpy as np
from pathlib import Path
from flm.inference.predictor import Predictor
from flm.inference.onnx_network import OnnxNetwork
from flm.geometry import FaceBox
predictor = Predictor(OnnxNetwork(Path(sys.argv[1]), threads=1))
picture = np.full((60, 80, 3), 51, np.uint8)
(face,) = predictor.predict(picture, [FaceBox(left=30.0, top=20.0, width=20.0, height=20.0)])
modules = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([face.landmarks_image[0].tolist(), sorted(modules)]))
"""
    done = run_without_training(program, str(file))
    assert done.returncode == 0, done.stderr
    landmark, modules = json.loads(done.stdout)
    # A fifth of the way along a crop of 30 px about (39.5, 29.5).
    np.testing.assert_allclose(landmark, [39.5 - 15 + 6, 29.5 - 15 + 6], atol=0.1)
    assert not TRAINING & set(modules)


def test_the_command_predicts_with_what_the_wheel_depends_on(file, tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "face.png"), np.full((60, 80, 3), 51, np.uint8))
    program = "from flm.cli import main; main(sys.argv[1:])"
    words = ["predict", str(tmp_path / "face.png"), "--checkpoint", str(file), "--out", str(tmp_path / "out")]
    done = run_without_training(program, *words, "--box", "30,20,20,20", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "face.json").is_file()


def test_training_without_its_packages_is_told_in_one_line(file, tmp_path):
    done = run_without_training(
        "from flm.cli import main; main(sys.argv[1:])", "export", str(tmp_path), "--onnx", str(tmp_path / "a")
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "pip install 'flm-landmarks[" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_wheel_depends_on_what_these_tests_leave():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    distributions = {"cv2": "opencv-python", "PIL": "pillow"}
    named = {entry.partition(">")[0] for entry in project["dependencies"]}
    assert named == {distributions.get(name, name) for name in NEEDED}
