"""Where the faces of a picture are.

Every detector draws its boxes in its own way. Networks are trained on the landmarks' own box, so what is
given here is an estimate of that box: the detector's, shifted and scaled by what training faces show.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from flm.errors import InputError
from flm.geometry import FaceBox
from flm.inference.detector_config import DetectorConfig
from flm.inference.hub_file import hub_file

YUNET_REPOSITORY = "opencv/face_detection_yunet"
"""On the Hugging Face Hub; MIT licence."""
YUNET_FILE = "face_detection_yunet_2023mar.onnx"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectedFace:
    """One face."""

    box_image: FaceBox
    """The landmarks' own box as far as the detector can tell, px of the picture."""
    score: float
    """How sure the detector is, between 0 and 1."""


@runtime_checkable
class FaceDetector(Protocol):
    """Finds faces; may be shared by threads."""

    name: str

    def detect(self, picture: UInt8[np.ndarray, "height width 3"]) -> list[DetectedFace]:
        """The faces of an RGB picture, the largest first."""
        ...


@dataclass(frozen=True, slots=True)
class BoxShape:
    """How a detector's boxes differ from the landmarks' own, in shares of its box's longer side.

    Source: means over 500 of 300-W's training faces (`_shape_of` in tests/test_detector.py measures them).
    """

    right: float
    down: float
    size: float

    def truth_box(self, box: FaceBox) -> FaceBox:
        """The square box that the landmarks are likely to have."""
        side = box.long_side * self.size
        return FaceBox.about(box.middle + np.array([self.right, self.down]) * box.long_side, side, side)


YUNET_SHAPE = BoxShape(right=0.004, down=0.130, size=0.798)
DLIB_SHAPE = BoxShape(right=0.001, down=0.098, size=0.993)

OTHER_SCALES = (2.0, 0.5, 4.0)
"""Of `side_px`: small faces in large pictures, then faces that fill a picture, then tiny ones."""

SAME_FACE_OVERLAP = 0.4
"""Boxes that share more of their union show one face."""


class YunetDetector:
    """OpenCV's YuNet.

    Args:
        model: its ONNX file.
        config: how faces are looked for.

    Raises:
        InputError: the file cannot be used.

    Source: Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023.
    """

    name = "yunet"

    def __init__(self, model: Path, config: DetectorConfig) -> None:
        self.model = model
        self.config = config
        # It keeps the size of the last picture, so that two threads must not share one; and one for each
        # thread that ever was would fill the memory of a server.
        self._idle: deque[Any] = deque()
        with self._network():
            pass

    def detect(self, picture: UInt8[np.ndarray, "height width 3"]) -> list[DetectedFace]:
        """As `FaceDetector.detect`."""
        return _search(picture, self.config, self._faces_at)

    def _faces_at(self, picture: UInt8[np.ndarray, "height width 3"], scale: float) -> list[DetectedFace]:
        with self._network() as network:
            network.setInputSize((picture.shape[1], picture.shape[0]))
            _, rows = network.detect(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        if rows is None:
            return []
        found: Float32[np.ndarray, "faces 15"] = rows
        faces = []
        for left, top, width, height, *_, score in found.tolist():
            if width > 0 and height > 0:
                box = YUNET_SHAPE.truth_box(_box(left, top, width, height, scale))
                faces.append(DetectedFace(box_image=box, score=min(1.0, score)))
        return faces

    @contextlib.contextmanager
    def _network(self) -> Iterator[Any]:
        """One that no other thread has meanwhile."""
        try:
            network = self._idle.pop()
        except IndexError:
            network = self._load()
        try:
            yield network
        finally:
            self._idle.append(network)

    def _load(self) -> Any:
        level = cv2.utils.logging.getLogLevel()
        # It complains of a setting that it has by default.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        try:
            return cv2.FaceDetectorYN.create(
                str(self.model), "", (320, 320), self.config.min_score, 0.3, 5000
            )
        except cv2.error as error:
            raise InputError(
                f"{self.model}: not the ONNX file of YuNet; give {YUNET_FILE} of {YUNET_REPOSITORY}"
            ) from error
        finally:
            cv2.utils.logging.setLogLevel(level)


class DlibDetector:
    """dlib's frontal faces by gradients; needs no file, misses profiles and small faces.

    Raises:
        InputError: dlib is not installed.

    Source: King, "Max-Margin Object Detection", 2015; `dlib.get_frontal_face_detector`.
    """

    name = "dlib"

    def __init__(self, config: DetectorConfig) -> None:
        try:
            import dlib
        except ImportError as error:
            raise InputError(
                "--detector.kind dlib: dlib is not installed; pip install 'flm-landmarks[dlib]'"
            ) from error
        self.config = config
        self._detector: Any = dlib.get_frontal_face_detector()  # pyright: ignore[reportAttributeAccessIssue]
        # It says nothing of threads.
        self._lock = threading.Lock()

    def detect(self, picture: UInt8[np.ndarray, "height width 3"]) -> list[DetectedFace]:
        """As `FaceDetector.detect`."""
        return _search(picture, self.config, self._faces_at)

    def _faces_at(self, picture: UInt8[np.ndarray, "height width 3"], scale: float) -> list[DetectedFace]:
        with self._lock:
            rectangles, margins, _ = self._detector.run(np.ascontiguousarray(picture), 0, -0.5)
        faces = []
        for rectangle, margin in zip(rectangles, margins, strict=True):
            # A margin of 0 is dlib's own threshold; it has no scale of its own.
            score = 1 / (1 + np.exp(-(4 * margin + np.log(1.5))))
            if score >= self.config.min_score:
                left, top = float(rectangle.left()), float(rectangle.top())
                width, height = float(rectangle.width()), float(rectangle.height())
                box = DLIB_SHAPE.truth_box(_box(left, top, width, height, scale))
                faces.append(DetectedFace(box_image=box, score=float(score)))
        return faces


class WholePicture:
    """Takes the picture as one face."""

    name = "whole"

    def detect(self, picture: UInt8[np.ndarray, "height width 3"]) -> list[DetectedFace]:
        """As `FaceDetector.detect`."""
        return [DetectedFace(box_image=FaceBox.of_picture(picture.shape[1], picture.shape[0]), score=1.0)]


def build_detector(config: DetectorConfig, say: Callable[[str], None] = print) -> FaceDetector:
    """The detector that a configuration names.

    Args:
        config: which one.
        say: takes a line where `auto` has to do with dlib.

    Raises:
        InputError: its file or its library cannot be had.
    """
    match config.kind:
        case "whole":
            return WholePicture()
        case "dlib":
            return DlibDetector(config)
        case "yunet":
            return YunetDetector(yunet_file(config), config)
        case "auto":
            try:
                return YunetDetector(yunet_file(config), config)
            except InputError as mistake:
                if config.model is not None:
                    raise
                try:
                    detector = DlibDetector(config)
                except InputError:
                    raise InputError(f"{mistake}, or pip install 'flm-landmarks[dlib]'") from None
                say(f"{mistake}; going on with dlib's detector, which misses more faces")
                return detector


def yunet_file(config: DetectorConfig) -> Path:
    """YuNet's file: the one that is given, or the Hub's.

    Raises:
        InputError: it cannot be had, or is another file.
    """
    if config.model is None:
        return hub_file(YUNET_REPOSITORY, YUNET_FILE, YUNET_SHA256, instead="--detector.model")
    if not config.model.is_file():
        raise InputError(f"--detector.model {config.model}: there is no such file")
    return config.model


def _search(
    picture: UInt8[np.ndarray, "height width 3"],
    config: DetectorConfig,
    faces_at: Callable[[UInt8[np.ndarray, "height width 3"], float], list[DetectedFace]],
) -> list[DetectedFace]:
    """The faces at the first scale that has some, or at all scales."""
    faces: list[DetectedFace] = []
    for scale in _scales(max(picture.shape[:2]), config.side_px):
        faces += faces_at(_scaled(picture, scale), scale)
        if faces and config.search == "quick":
            break
    return sorted(_apart(faces), key=lambda face: -face.box_image.long_side)


def _scales(longer_side_px: int, side_px: int) -> list[float]:
    """By how much the picture is scaled, in the order that is tried."""
    sides = [side_px, *(round(side_px * factor) for factor in OTHER_SCALES)]
    scales = [min(2.0, side / longer_side_px) for side in sides]
    # A picture is enlarged at most to twice its size, and not looked at twice.
    return list(dict.fromkeys(scales))


def _scaled(picture: UInt8[np.ndarray, "height width 3"], scale: float) -> UInt8[np.ndarray, "h w 3"]:
    if scale == 1:
        return picture
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)


def _box(left: float, top: float, width: float, height: float, scale: float) -> FaceBox:
    """A box of a scaled picture, whose edges are at left - 0.5 as everywhere, in px of the picture."""
    return FaceBox(
        left=(left + 0.5) / scale - 0.5,
        top=(top + 0.5) / scale - 0.5,
        width=width / scale,
        height=height / scale,
    )


def _apart(faces: Sequence[DetectedFace]) -> list[DetectedFace]:
    """One box a face: the surest of those that overlap."""
    kept: list[DetectedFace] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(face.box_image.overlap(other.box_image) < SAME_FACE_OVERLAP for other in kept):
            kept.append(face)
    return kept
