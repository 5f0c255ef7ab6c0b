"""A predictor out of the name of a model: a path, one of the Hub, or the model that comes with flm."""

import importlib.util
import json
from pathlib import Path

from flm.errors import InputError, missing_package
from flm.files import sha256_of
from flm.inference.detector import FaceDetector
from flm.inference.detector_config import ANY_DETECTOR, DetectorConfig
from flm.inference.hub_file import HUB_PREFIX, WEIGHTS_NAME, hub_model
from flm.inference.looks import FACES_PER_FORWARD
from flm.inference.network import FaceNetwork, Precision
from flm.inference.pass_config import ONE_PASS, PassConfig
from flm.inference.predictor import Predictor
from flm.metrics.calibration import CALIBRATION_NAME, Calibration

DEFAULT_MODEL = "default"
ONNX_SUFFIX = ".onnx"
ONNX_NAME = "model.onnx"
"""Beside the weights of a model that is passed on: the same network for onnxruntime."""

SHIPPED = (Path(__file__).parents[1] / "shipped_model", Path(__file__).parents[2] / "demo" / "model")
"""Where the model that comes with flm lies: in an installed package, and in a checkout."""


def load(
    model: str | Path = DEFAULT_MODEL,
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    detector: FaceDetector | DetectorConfig = ANY_DETECTOR,
    passes: PassConfig = ONE_PASS,
    faces_per_forward: int = FACES_PER_FORWARD,
    threads: int | None = None,
    allow_private_urls: bool = False,
) -> Predictor:
    """A predictor.

    Args:
        model: the folder of a checkpoint or of a run (its best); an .onnx file of `flm export`, which needs
            no PyTorch; `hf://USER/NAME` or `hf://USER/NAME@REVISION` of the Hugging Face Hub; or `default`,
            the model that comes with flm.
        device: `cpu`, or `cuda` with a GPU.
        precision: of a checkpoint's arithmetic; an .onnx file has its own.
        detector: what finds faces where no boxes are given.
        passes: how often the network looks at each face.
        faces_per_forward: how many faces the network sees at once.
        threads: of an .onnx file's network on a processor; as many as there are cores if None. PyTorch has a
            setting of its own.
        allow_private_urls: see `flm.inference.fetch.fetch_url`.

    Raises:
        InputError: there is no such model, it is damaged or cannot be fetched, or the device cannot be used.
    """
    path = find_model(model, precision)
    network, calibration = _network_of(path, device, precision, threads)
    return Predictor(
        network,
        detector=detector,
        calibration=calibration,
        passes=passes,
        faces_per_forward=faces_per_forward,
        allow_private_urls=allow_private_urls,
    )


def find_model(model: str | Path, precision: Precision = "fp32") -> Path:
    """Where a model lies, fetched if need be: a folder, or an .onnx file.

    Of a model that is passed on with both, the .onnx file is taken where onnxruntime is installed.

    Args:
        model: as for `load`.
        precision: an .onnx file is passed over for another than its own.

    Raises:
        InputError: it cannot be fetched, or no model comes with this flm.
    """
    name = str(model)
    prefers_onnx = precision == "fp32" and importlib.util.find_spec("onnxruntime") is not None
    if name == DEFAULT_MODEL:
        folder = next((folder for folder in SHIPPED if folder.is_dir()), None)
        if folder is None:
            raise InputError("no model comes with this flm; name one, such as runs/NAME or hf://USER/NAME")
    elif name.startswith(HUB_PREFIX):
        # The weights for PyTorch are several times as large, and mostly not needed.
        folder = hub_model(name, [ONNX_NAME]) if prefers_onnx else Path()
        if not (folder / ONNX_NAME).is_file():
            folder = hub_model(name)
            if not any((folder / file).is_file() for file in (ONNX_NAME, WEIGHTS_NAME)):
                raise InputError(f"{name}: has neither {ONNX_NAME} nor {WEIGHTS_NAME}; check the name")
    else:
        return Path(model)
    onnx = folder / ONNX_NAME
    return onnx if prefers_onnx and onnx.is_file() else folder


def identity(path: Path) -> str:
    """What tells a model from others: a hash of its weights, and of its calibration.

    Args:
        path: as `find_model` gives it.

    Raises:
        InputError: there is no model.
    """
    if path.suffix == ONNX_SUFFIX:
        files = [path]
    else:
        from flm.checkpoint import MODEL_NAME, find_checkpoint

        folder = find_checkpoint(path)
        files = [folder / MODEL_NAME, folder / CALIBRATION_NAME]
    try:
        hashes = [sha256_of(file) for file in files if file.exists()]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return "-".join(hashed[:16] for hashed in hashes)


def _network_of(
    path: Path, device: str, precision: Precision, threads: int | None
) -> tuple[FaceNetwork, Calibration | None]:
    if path.suffix == ONNX_SUFFIX:
        from flm.inference.onnx_network import OnnxNetwork

        if device not in ("cpu", "cuda"):
            raise InputError(
                f"device {device}: an {ONNX_SUFFIX} file runs on cpu or cuda; CUDA_VISIBLE_DEVICES says on "
                "which GPU"
            )
        network = OnnxNetwork(path, threads=threads, device=device)
        fields = network.about.calibration
        calibration = None if fields is None else Calibration.from_json(json.dumps(fields), str(path))
        return network, calibration
    try:
        from flm.checkpoint import find_checkpoint
        from flm.inference.torch_network import TorchNetwork
    except ModuleNotFoundError as error:
        if (missing := missing_package(error)) is None:
            raise
        raise InputError(f"{path}: PyTorch runs it, but {missing}, or give an {ONNX_SUFFIX} file") from error

    checkpoint = find_checkpoint(path)
    return TorchNetwork.load(checkpoint, device, precision), Calibration.load(checkpoint)
