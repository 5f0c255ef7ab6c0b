"""The network of an .onnx file that `flm export` wrote, run by onnxruntime; PyTorch is not needed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from jaxtyping import UInt8

from flm.errors import InputError, first_line
from flm.fields import from_fields, parse_json, to_fields
from flm.geometry import MOST_INPUT_SIZE_PX
from flm.inference.network import FoundLandmarks
from flm.landmarks import LandmarkScheme, scheme_named

PIXELS, LANDMARKS, COVARIANCE = "pixels", "landmarks_unit", "covariance_unit"
"""What the file takes and gives: uint8 (faces, size, size, 3), RGB; float32 in the unit frame."""

ABOUT_PREFIX = "flm."
ABOUT_VERSION = 1

FACES_PER_RUN = 4
"""On a processor: the largest tensors of so many faces stay in a core's cache, and every face is quicker."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True, kw_only=True, slots=True)
class AboutNetwork:
    """What stands in an exported file beside the network, so that the file alone is enough to predict."""

    scheme: str
    """The landmark scheme."""
    input_size_px: int
    """Side of the crops."""
    crop_margin: float
    """Share of the longer side of the face box that a crop adds on each side."""
    precision: Literal["fp32", "half", "int8"] = "fp32"
    """Of the weights; landmarks and their covariance are computed in fp32 in any case."""
    recipe: str = ""
    """That it was trained with."""
    step: int | None = None
    """Of the checkpoint."""
    manifest_hash: str = ""
    """Of the shards that it was trained on."""
    licence: str = ""
    """One line."""
    run_url: str = ""
    """Where its training can be looked at, if anywhere."""
    calibration: dict[str, Any] | None = None
    """How sure the network is in truth: what stands in the checkpoint's calibration.json."""
    version: int = ABOUT_VERSION
    """Of these fields."""

    def __post_init__(self) -> None:
        if not 0 < self.input_size_px <= MOST_INPUT_SIZE_PX:
            raise ValueError(f"input_size_px is {self.input_size_px}, expected 1 to {MOST_INPUT_SIZE_PX}")
        if not 0 <= self.crop_margin <= 1:
            raise ValueError(f"crop_margin is {self.crop_margin}, expected 0 to 1")

    def to_texts(self) -> dict[str, str]:
        """As the file has them: JSON under `flm.` names."""
        return {
            ABOUT_PREFIX + name: json.dumps(value, ensure_ascii=False)
            for name, value in to_fields(self).items()
        }

    @classmethod
    def from_texts(cls, texts: Mapping[str, str], where: str) -> "AboutNetwork":
        """Read them back.

        Args:
            texts: of a file; those of others are left alone.
            where: the file, for messages.

        Raises:
            InputError: they are missing, malformed, or of another version of flm.
        """
        try:
            fields = {
                name.removeprefix(ABOUT_PREFIX): parse_json(text)
                for name, text in texts.items()
                if name.startswith(ABOUT_PREFIX)
            }
        except ValueError as error:
            raise InputError(f"{where}: damaged ({error}); export it again") from error
        if "version" not in fields:
            raise InputError(f"{where}: not written by flm; give a file that `flm export` wrote")
        if fields["version"] != ABOUT_VERSION:
            raise InputError(
                f"{where}: of version {fields['version']}, this flm reads {ABOUT_VERSION}; update flm or "
                "export again"
            )
        return from_fields(cls, fields, where)


class OnnxNetwork:
    """A `FaceNetwork` out of a file that `flm export` wrote.

    Args:
        path: the file.
        threads: of one run; as many as there are cores if None.
        device: where it runs; `cuda` needs the package onnxruntime-gpu in the place of onnxruntime.

    Raises:
        InputError: the file is missing, damaged or no network of ours, or onnxruntime or the device is.
    """

    def __init__(
        self, path: Path, *, threads: int | None = None, device: Literal["cpu", "cuda"] = "cpu"
    ) -> None:
        if not path.is_file():
            raise InputError(
                f"{path}: there is no such file; `flm export CHECKPOINT --onnx {path}` makes one"
            )
        self._session = _session(path, threads, device)
        try:
            self.about = AboutNetwork.from_texts(self._session.get_modelmeta().custom_metadata_map, str(path))
            self._outputs = [output.name for output in self._session.get_outputs()]
            nodes = (*self._session.get_inputs(), *self._session.get_outputs())
            shapes = {node.name: tuple(node.shape[1:]) for node in nodes}
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: damaged ({error}); export it again") from error
        self.scheme: LandmarkScheme = scheme_named(self.about.scheme)
        self.input_size_px: int = self.about.input_size_px
        self.crop_margin: float = self.about.crop_margin
        self._faces_per_run = FACES_PER_RUN if device == "cpu" else None
        self._check_shapes(shapes, path)
        self._check_runs(path)

    def find(self, crops: UInt8[np.ndarray, "faces size size 3"]) -> FoundLandmarks:
        """As `FaceNetwork.find`."""
        step = self._faces_per_run or len(crops)
        parts = [
            self._session.run(self._outputs, {PIXELS: np.ascontiguousarray(crops[start : start + step])})
            for start in range(0, len(crops), step)
        ]
        arrays = [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
        found = dict(zip(self._outputs, arrays, strict=True))
        return FoundLandmarks(landmarks_unit=found[LANDMARKS], covariance_unit=found.get(COVARIANCE))

    def _check_shapes(self, shapes: Mapping[str, tuple[Any, ...]], path: Path) -> None:
        side, num_points = self.input_size_px, self.scheme.num_points
        expected = {PIXELS: (side, side, 3), LANDMARKS: (num_points, 2), COVARIANCE: (num_points, 2, 2)}
        if not {PIXELS, LANDMARKS} <= shapes.keys() <= expected.keys() or any(
            shape != expected[name] for name, shape in shapes.items()
        ):
            raise InputError(f"{path}: has {shapes}, expected {expected}; export it again")

    def _check_runs(self, path: Path) -> None:
        """Damage that the shapes do not show ends here, and not at the first face."""
        try:
            self.find(np.zeros((1, self.input_size_px, self.input_size_px, 3), np.uint8))
        except Exception as error:  # as in `_session`
            raise _not_run(path, error) from error


def _not_run(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path}: onnxruntime cannot run it ({first_line(error)}); give a file that `flm export` wrote"
    )


def _session(path: Path, threads: int | None, device: Literal["cpu", "cuda"]) -> Any:
    provider = PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise InputError(
            f"device {device}: this onnxruntime has no {provider}; install onnxruntime-gpu in its place, or "
            "take the device cpu"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 4  # what goes wrong is raised; its log beside it would be many lines
    try:
        # Its fallback prints, and tries the same again.
        session = onnxruntime.InferenceSession(path, options, providers=[provider], enable_fallback=0)
    except Exception as error:  # every kind of damage has a class of its own
        raise _not_run(path, error) from error
    if provider not in session.get_providers():  # it falls back to the processor without a word
        raise InputError(f"device {device}: cannot be used by onnxruntime; see its requirements of CUDA")
    return session
