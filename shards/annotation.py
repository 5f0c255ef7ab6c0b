"""What every source yields: annotated faces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from flm.geometry import FaceBox
from flm.pictures import JPEG_REDUCTIONS, DecodedPicture, read_part

FARTHEST_PX = 1e6
"""From a picture's corner: no picture is so large, and a point beyond is a mistake of the file."""


@runtime_checkable
class Picture(Protocol):
    """Where the pixels of a face come from. Picklable, since a worker process reads it."""

    def decode(self, part: FaceBox, most_reduction: float) -> DecodedPicture:
        """The picture, or less of it.

        Args:
            part: px of the picture, which it must hold as far as there is any.
            most_reduction: by how much it may be reduced where its format makes that cheap.

        Raises:
            InputError: it cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture on disk."""

    path: Path

    def decode(self, part: FaceBox, most_reduction: float) -> DecodedPicture:
        """The pixels as they are stored, which is where the points of the data sets were marked.

        Raises:
            InputError: the file is missing, is no picture, is cut short, or claims to be absurdly large.
        """
        reduction = max((factor for factor in JPEG_REDUCTIONS if factor <= most_reduction), default=1)
        return read_part(self.path, part, reduction)


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
