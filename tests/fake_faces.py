"""A network and a detector that need no weights, and no PyTorch, which takes seconds to import."""

import numpy as np

from flm.faces.pose import mean_face
from flm.geometry import FaceBox
from flm.inference.detector import DetectedFace
from flm.inference.network import FoundLandmarks
from flm.inference.predictor import Predictor
from flm.landmarks import IBUG_68
from flm.metrics.calibration import Calibration


class Grower:
    """Landmarks that differ with the picture, so that no face passes for another; may end the world."""

    scheme, input_size_px, crop_margin = IBUG_68, 32, 0.1

    def __init__(self) -> None:
        self.num_faces = 0
        self.dies_after = 10**9

    def find(self, crops: np.ndarray) -> FoundLandmarks:
        self.num_faces += len(crops)
        if self.num_faces > self.dies_after:
            raise KeyboardInterrupt
        shift = crops.reshape(len(crops), -1).mean(axis=1)[:, None, None] / 2550
        landmarks = (mean_face()[:, :2] * 0.4 + [0.5, 0.3] + shift).astype(np.float32)
        covariance = np.tile(np.eye(2, dtype=np.float32) * 1e-4, (len(crops), 68, 1, 1))
        return FoundLandmarks(landmarks_unit=landmarks, covariance_unit=covariance)


class Steady:
    """The same landmarks in every crop, each as uncertain as the next."""

    scheme, input_size_px, crop_margin = IBUG_68, 32, 0.0

    def __init__(self, landmarks: np.ndarray, size_px: int, covariance_unit: np.ndarray) -> None:
        self._landmarks_unit = ((landmarks + 0.5) / size_px).astype(np.float32)
        self._covariance_unit = np.tile(covariance_unit.astype(np.float32), (68, 1, 1))

    def find(self, crops: np.ndarray) -> FoundLandmarks:
        return FoundLandmarks(
            landmarks_unit=np.tile(self._landmarks_unit, (len(crops), 1, 1)),
            covariance_unit=np.tile(self._covariance_unit, (len(crops), 1, 1, 1)),
        )


class Whole:
    """Every picture is a face, but for black ones, and red ones are two."""

    name = "whole"

    def detect(self, picture: np.ndarray) -> list[DetectedFace]:
        if not picture.any():
            return []
        face = DetectedFace(box_image=FaceBox.of_picture(picture.shape[1], picture.shape[0]), score=0.75)
        return [face, face] if (picture == [255, 0, 0]).all() else [face]


def plain_calibration(*, scale: float, error_spread: float) -> Calibration:
    """One that scales all covariances alike and takes the expected error as it is."""
    return Calibration(
        scheme="ibug-68",
        scales=(scale,),
        error_factor=1.0,
        error_power=1.0,
        error_spread=error_spread,
        num_faces=100,
        split="validation",
        data_hash="x",
    )


def fake_predictor() -> Predictor:
    return Predictor(Grower(), detector=Whole())
