"""Where each point of faces was found beside where it is, for what is told point by point."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from flm.landmarks import LandmarkScheme


@dataclass(frozen=True, kw_only=True, slots=True)
class FacePoints:
    """The points of faces, each face in a frame of its own.

    Its origin is midway between the true outer eye corners, its unit their distance; it is not rotated.
    """

    scheme: LandmarkScheme
    truth: Float32[np.ndarray, "faces points 2"]
    predicted: Float32[np.ndarray, "faces points 2"]
    covariance: Float32[np.ndarray, "faces points 2 2"] | None
    """As the network gives it, not calibrated; None for networks without maps."""

    @classmethod
    def measure(
        cls,
        predicted: Float64[np.ndarray, "faces points 2"],
        truth: Float64[np.ndarray, "faces points 2"],
        covariance: Float64[np.ndarray, "faces points 2 2"] | None,
        scheme: LandmarkScheme,
    ) -> "FacePoints":
        """Points in any frame with equal x and y scale, brought into that of each face."""
        right, left = (truth[:, corner] for corner in scheme.outer_eye_corners)
        origin = ((right + left) / 2)[:, None]
        size = np.linalg.norm(left - right, axis=1)[:, None, None]
        return cls(
            scheme=scheme,
            truth=((truth - origin) / size).astype(np.float32),
            predicted=((predicted - origin) / size).astype(np.float32),
            covariance=None if covariance is None else (covariance / size[..., None] ** 2).astype(np.float32),
        )

    @property
    def errors(self) -> Float64[np.ndarray, "faces points"]:
        """Distance of each point from the truth, a fraction of the inter-ocular distance."""
        return np.linalg.norm(self.predicted.astype(np.float64) - self.truth, axis=2)

    def predicted_in(
        self, face: int, truth: Float[np.ndarray, "points 2"]
    ) -> Float64[np.ndarray, "points 2"]:
        """The prediction of one face in the frame that its true landmarks are given in."""
        right, left = (truth[corner] for corner in self.scheme.outer_eye_corners)
        size = float(np.linalg.norm(left - right))
        return self.predicted[face].astype(np.float64) * size + (right + left) / 2

    def at(self, rows: Int64[np.ndarray, " rows"]) -> "FacePoints":
        """Some of the faces."""
        return FacePoints(
            scheme=self.scheme,
            truth=self.truth[rows],
            predicted=self.predicted[rows],
            covariance=None if self.covariance is None else self.covariance[rows],
        )

    @classmethod
    def concatenate(cls, pieces: Sequence["FacePoints"]) -> "FacePoints":
        """The faces of all pieces, which are of one network.

        Raises:
            ValueError: there is no piece.
        """
        if not pieces:
            raise ValueError("there are no points to concatenate")
        covariances = [piece.covariance for piece in pieces if piece.covariance is not None]
        return cls(
            scheme=pieces[0].scheme,
            truth=np.concatenate([piece.truth for piece in pieces]),
            predicted=np.concatenate([piece.predicted for piece in pieces]),
            covariance=np.concatenate(covariances) if len(covariances) == len(pieces) else None,
        )
