"""What a predictor asks of a network, whatever runs it."""

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from flm.landmarks import LandmarkScheme

Precision: TypeAlias = Literal["fp32", "bf16"]
"""Of the arithmetic of a checkpoint's network."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FoundLandmarks:
    """The landmarks of a batch of crops."""

    landmarks_unit: Float32[np.ndarray, "faces points 2"]
    """Unit frame: 0 and 1 are the edges of the crop; may lie a little outside."""
    covariance_unit: Float32[np.ndarray, "faces points 2 2"] | None
    """Of each landmark's distribution about the landmark, unit²; None for networks without maps."""


@runtime_checkable
class FaceNetwork(Protocol):
    """Finds the landmarks of faces that were cut out; may be shared by threads."""

    @property
    def scheme(self) -> LandmarkScheme:
        """Which point is which."""
        ...

    @property
    def input_size_px(self) -> int:
        """Side of the crops."""
        ...

    @property
    def crop_margin(self) -> float:
        """Share of the longer side of the face box that a crop adds on each side."""
        ...

    def find(self, crops: UInt8[np.ndarray, "faces size size 3"]) -> FoundLandmarks:
        """The landmarks of each crop; RGB, at least one, `input_size_px` wide and high."""
        ...
