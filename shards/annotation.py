"""What every source yields: annotated faces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from flm.geometry import FaceBox
from flm.pictures import JPEG_REDUCTIONS, read_reduced


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedPicture:
    """A picture, perhaps at a reduced scale."""

    pixels: UInt8[np.ndarray, "height width 3"]
    """RGB."""
    width: int
    """Of the picture itself, px."""
    height: int
    reduction: int
    """Each pixel stands for a block of as many by as many pixels of the picture."""

    @property
    def image_to_pixels(self) -> Float[np.ndarray, "3 3"]:
        """From px of the picture to px of `pixels`; a block's pixel lies at its centre."""
        shift = (1 / self.reduction - 1) / 2
        return np.array([[1 / self.reduction, 0, shift], [0, 1 / self.reduction, shift], [0, 0, 1]])


@runtime_checkable
class Picture(Protocol):
    """Where the pixels of a face come from. Picklable, since a worker process reads it."""

    def decode(self, most_reduction: float) -> DecodedPicture:
        """The picture, reduced by at most that factor where its format makes that cheap.

        Raises:
            InputError: it cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture on disk."""

    path: Path

    def decode(self, most_reduction: float) -> DecodedPicture:
        """The pixels as they are stored, which is where the points of the data sets were marked.

        A JPEG is reduced while it is decoded, from fewer coefficients of its cosine transform.

        Raises:
            InputError: the file is missing, is no picture or is cut short.
        """
        reduction = max((factor for factor in JPEG_REDUCTIONS if factor <= most_reduction), default=1)
        pixels, (width, height) = read_reduced(self.path, reduction)
        # A format that cannot be reduced while it is decoded comes whole.
        came_reduced = pixels.shape[1] < width
        return DecodedPicture(
            pixels=pixels, width=width, height=height, reduction=reduction if came_reduced else 1
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceAnnotation:
    """One face of a data set, before it is cut out."""

    picture: Picture
    landmarks_image: Float[np.ndarray, "points 2"]
    """Px of the picture, 0-based, an integer is the centre of a pixel."""
    scheme: str
    face_box_image: FaceBox
    """As the annotation has it; `FaceBox.around(landmarks)` where it has none."""
    split: str
    """`train` or `test`; conversion takes a validation part out of train unless the source names one."""
    subset: str
    """The part of the data set that reports name."""
    source_file: str
    """Path of the picture inside its data set; with the face's number it is unique."""
    group: str
    """Same photo, or person or video where the source tells, same group; it does not straddle validation."""
    mirror_of: str | None = None
    """For a `_mirror` twin: the source file of the original."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """The faces of a source, and what has to be told about them."""

    faces: Sequence[FaceAnnotation]
    source: str
    """Name and the options that change the faces, such as `ibug protocol=300w mirrors=drop`."""
    split_rule: str
    """What decides between train and test, in words."""
    licence: str
    left_out: Mapping[str, int]
    """How many faces of the source are not among these, by reason."""
