"""Landmarks of faces in a picture, from a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from flm.checkpoint import load_network
from flm.geometry import FaceBox, resample, square_crop, transform_points, unit_to_crop
from flm.landmarks import LandmarkScheme, scheme_named
from flm.model.heads import NetworkOutput
from flm.model.network import LandmarkNetwork

FACES_PER_FORWARD = 32
"""Enough to keep a processor busy, few enough to fit any memory."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prediction:
    """The landmarks of one face."""

    box_image: FaceBox
    """The box that the face was looked for in."""
    landmarks_image: Float[np.ndarray, "points 2"]
    """Px of the picture."""
    covariance_image: Float[np.ndarray, "points 2 2"] | None
    """How unsure each landmark is, px²; None for networks without maps."""


class Predictor:
    """Finds the landmarks of faces whose boxes are known.

    Args:
        network: with its weights.
        device: where it runs.
    """

    def __init__(self, network: LandmarkNetwork, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.network = network.eval().to(self.device)
        self.config = network.config

    @classmethod
    def load(cls, checkpoint: Path | str, device: str | torch.device = "cpu") -> "Predictor":
        """A predictor out of a checkpoint's folder, or a run's folder (its best).

        Raises:
            InputError: there is no checkpoint, or it is damaged.
        """
        return cls(load_network(Path(checkpoint)), device)

    @property
    def scheme(self) -> LandmarkScheme:
        """Which point is which."""
        return scheme_named(self.config.scheme)

    def predict(
        self, picture: UInt8[np.ndarray, "height width 3"], boxes: Sequence[FaceBox] | None = None
    ) -> list[Prediction]:
        """The landmarks of each face.

        Args:
            picture: RGB.
            boxes: around the faces, px of the picture; the whole picture as one face if None.
        """
        if boxes is None:
            boxes = [FaceBox.of_picture(picture.shape[1], picture.shape[0])]
        predictions: list[Prediction] = []
        for start in range(0, len(boxes), FACES_PER_FORWARD):
            predictions += self._predict_some(picture, boxes[start : start + FACES_PER_FORWARD])
        return predictions

    def _predict_some(
        self, picture: UInt8[np.ndarray, "height width 3"], boxes: Sequence[FaceBox]
    ) -> list[Prediction]:
        size_px = self.config.input_size_px
        image_to_crop = [square_crop(box, size_px, self.config.crop_margin) for box in boxes]
        crops = np.stack([resample(picture, matrix, size_px) for matrix in image_to_crop])
        images = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            output = self.network(images)
        return [
            _prediction(output, face, box, np.linalg.inv(matrix), size_px)
            for face, (box, matrix) in enumerate(zip(boxes, image_to_crop, strict=True))
        ]


def _prediction(
    output: NetworkOutput, face: int, box: FaceBox, crop_to_image: Float[np.ndarray, "3 3"], size_px: int
) -> Prediction:
    landmarks_unit = output.landmarks_unit[face].cpu().double().numpy()
    covariance = None
    if output.covariance_unit is not None:
        turn = crop_to_image[:2, :2] * size_px
        covariance = turn @ output.covariance_unit[face].cpu().double().numpy() @ turn.T
    return Prediction(
        box_image=box,
        landmarks_image=transform_points(unit_to_crop(landmarks_unit, size_px), crop_to_image),
        covariance_image=covariance,
    )
