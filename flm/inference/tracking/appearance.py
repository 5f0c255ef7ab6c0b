"""What a face looks like, in few numbers: enough to know it again in the same video."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float64, UInt8

from flm.faces.shape import Points, as_complex, inter_ocular_px, turn_onto
from flm.geometry import resample
from flm.inference.aligned import image_to_aligned
from flm.landmarks import LandmarkScheme

CROP_PX = 32
RIM_PX = 4
"""Of the aligned crop: what is outside of it belongs to the background."""
CELLS = 8
"""To each side; the mean colour of each is kept."""

ALIKE_SHARE = 0.6
"""Of the cells: those that differ least are compared, as the others may show what stands before the face."""

COLOR_DISTANCE = 0.032
SHAPE_DISTANCE = 0.08
"""Faces of one video that differ by so much may be the same: of 250 clips of YouTube Faces, 90 % differ less
between two of their frames, and 95 % of pairs of clips by 0.046 and more in colour."""

SHAPE_WEIGHT = 0.5
"""Shape tells less than colour, as turning the head changes it (area under the curve: 0.87 beside 0.99)."""


@dataclass(frozen=True, slots=True, eq=False)
class Appearance:
    """A face, as compared with others."""

    colors: Float64[np.ndarray, "cells cells 3"]
    """CIELAB, from 0 to 1, of the face turned upright."""
    shape: Points
    """Landmarks about their middle, x + iy, in inter-ocular distances."""

    def distance(self, other: "Appearance") -> float:
        """How unlike two faces are: below 1 they are likely one, above 2 hardly."""
        cells = np.sort(((self.colors - other.colors) ** 2).mean(axis=-1), axis=None)
        colors = float(np.sqrt(cells[: round(ALIKE_SHARE * cells.size)].mean()))
        return (
            colors / COLOR_DISTANCE + SHAPE_WEIGHT * shape_distance(self.shape, other.shape) / SHAPE_DISTANCE
        )

    def learned(self, other: "Appearance", share: float) -> "Appearance":
        """What is known after another look at the face, which replaces so much of what was known."""
        turned = _turned_to(other.shape, self.shape)
        return Appearance(
            self.colors + share * (other.colors - self.colors), self.shape + share * (turned - self.shape)
        )


def appearance_of(
    picture: UInt8[np.ndarray, "height width 3"],
    landmarks_image: Float[np.ndarray, "points 2"],
    scheme: LandmarkScheme,
) -> Appearance:
    """Look at a face.

    Args:
        picture: RGB.
        landmarks_image: px of the picture, not all in one place.
        scheme: of the landmarks.
    """
    matrix = image_to_aligned(landmarks_image, scheme, CROP_PX)
    crop = resample(picture, matrix, CROP_PX)[RIM_PX:-RIM_PX, RIM_PX:-RIM_PX]
    lab = cv2.cvtColor(crop, cv2.COLOR_RGB2LAB)
    cells = cv2.resize(lab, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    return Appearance(np.asarray(cells, np.float64) / 255, shape_of(landmarks_image, scheme))


def shape_of(landmarks_image: Float[np.ndarray, "points 2"], scheme: LandmarkScheme) -> Points:
    """Landmarks about their middle, x + iy, in inter-ocular distances."""
    points = as_complex(landmarks_image)
    return (points - points.mean()) / inter_ocular_px(landmarks_image, scheme)


def shape_distance(first: Points, second: Points) -> float:
    """How far points lie apart, as a root of the mean square, where one shape is turned onto the other."""
    return float(np.sqrt((np.abs(_turned_to(first, second) - second) ** 2).mean()))


def _turned_to(shape: Points, other: Points) -> Points:
    """A shape turned and scaled onto another."""
    return shape * turn_onto(shape, other)
