"""Those beside whom `flm bench predict` measures: dlib, and the reference project's network and detector."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float64, UInt8

from flm.errors import InputError
from flm.geometry import FaceBox
from flm.inference.detector import DetectedFace
from flm.inference.torch_network import TorchNetwork
from flm.model.network import build_network
from flm.recipes import recipe_named

CASCADE_FILE = "haarcascade_frontalface_default.xml"


def reference_network() -> TorchNetwork:
    """The reference project's, as it was used: PyTorch, float32. Its weights are random, which costs the same
    time.
    """
    torch.manual_seed(0)
    return TorchNetwork(build_network(recipe_named("reference").model))


class Dlib:
    """dlib's detector of frontal faces, as its own example calls it but without enlarging, and its predictor.

    Args:
        model: file of the 68-point predictor; None for the detector alone.

    Raises:
        InputError: dlib is not installed, or the file is none of dlib's.

    Source: King, "Dlib-ml", 2009; Kazemi and Sullivan, "One Millisecond Face Alignment", 2014.
    """

    def __init__(self, model: Path | None) -> None:
        try:
            import dlib
        except ImportError as error:
            raise InputError("dlib is not installed; pip install 'flm-landmarks[dlib]'") from error
        self._dlib: Any = dlib
        self._detector: Any = self._dlib.get_frontal_face_detector()
        try:
            self._predictor: Any = None if model is None else self._dlib.shape_predictor(str(model))
        except RuntimeError as error:
            raise InputError(f"--dlib-model {model}: dlib cannot read it ({error})") from error

    @property
    def has_predictor(self) -> bool:
        """Whether it finds landmarks."""
        return self._predictor is not None

    def rectangle(self, box: FaceBox) -> Any:
        """A box as dlib has it."""
        right, bottom = box.left + box.width - 1, box.top + box.height - 1
        return self._dlib.rectangle(*(round(edge) for edge in (box.left, box.top, right, bottom)))

    def landmarks(
        self, picture: UInt8[np.ndarray, "height width 3"], rectangle: Any
    ) -> Float64[np.ndarray, "68 2"]:
        """Of the face in a rectangle, px of the picture."""
        found = self._predictor(picture, rectangle)
        return np.array([(part.x, part.y) for part in found.parts()], dtype=np.float64)

    def faces(self, picture: UInt8[np.ndarray, "height width 3"]) -> list[Float64[np.ndarray, "points 2"]]:
        """The landmarks of each face of a picture; the corners of its box where there is no predictor."""
        rectangles = self._detector(picture, 0)
        if self.has_predictor:
            return [self.landmarks(picture, rectangle) for rectangle in rectangles]
        corners = ((one.left(), one.top(), one.right(), one.bottom()) for one in rectangles)
        return [np.array([(left, top), (right, bottom)], np.float64) for left, top, right, bottom in corners]


class Cascade:
    """OpenCV's cascade of frontal faces.

    Raises:
        InputError: this OpenCV has none.

    Source: Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features", 2001.
    """

    name = "cascade"

    def __init__(self) -> None:
        opencv: Any = cv2
        if not hasattr(opencv, "CascadeClassifier"):
            raise InputError(f"OpenCV {cv2.__version__} has no cascade detector any more")
        self._cascade = opencv.CascadeClassifier(str(Path(opencv.data.haarcascades) / CASCADE_FILE))
        if self._cascade.empty():
            raise InputError(f"OpenCV {cv2.__version__} comes without {CASCADE_FILE}")

    def detect(self, picture: UInt8[np.ndarray, "height width 3"]) -> list[DetectedFace]:
        """As of every detector."""
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        boxes = [
            FaceBox(left=float(left), top=float(top), width=float(width), height=float(height))
            for left, top, width, height in self._cascade.detectMultiScale(grey)
        ]
        return [
            DetectedFace(box_image=box, score=1.0) for box in sorted(boxes, key=lambda box: -box.long_side)
        ]
