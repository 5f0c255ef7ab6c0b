"""COFW68: the test pictures of COFW with 68 points instead of 29.

`test_annotations/N_points.mat` has `Points` (68, 2), `cofw68_test_bboxes.mat` has `bboxes` (faces, 4) as x,
y, width, height. The pictures are the cells of `IsT` in `COFW_test_color.mat`, or, grey, in `COFW_test.mat`.
MATLAB counts pixels from 1, and so do points and boxes: the code that comes with them plots them as they are.

Source: Ghiasi and Fowlkes, "Occlusion Coherence: Detecting and Localizing Occluded Faces", 2015, and the code
of its benchmark; Burgos-Artizzu et al., "Robust Face Landmark Estimation under Occlusion", 2013 (COFW).
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from flm.errors import InputError
from flm.geometry import FaceBox
from flm.landmarks import IBUG_68
from flm.pictures import DecodedPicture
from shards.annotation import DataSet, FaceAnnotation
from shards.sources.layout import files_below, the_one_below
from shards.sources.mat import landmarks_of, read_mat

ORIGIN = 1
BOXES = "cofw68_test_bboxes.mat"
PICTURES = ("COFW_test_color.mat", "COFW_test.mat")
"""The first that is there is taken."""

LICENCE = "not stated; COFW's pictures were collected from the web"


@functools.lru_cache(maxsize=1)
def _pictures(path: Path) -> Shaped[np.ndarray, " pictures"]:
    """All pictures at once, some 150 MB: a `.mat` before 7.3 cannot be read in parts."""
    return read_mat(path, "IsT").ravel()


@dataclass(frozen=True, slots=True)
class CofwPicture:
    """A picture in a `.mat`."""

    path: Path
    index: int
    """Counted from 0."""

    def decode(self, part: FaceBox, most_reduction: float) -> DecodedPicture:  # noqa: ARG002
        """The picture, RGB; it is not encoded, so nothing would be won by less of it.

        Raises:
            InputError: the file cannot be read, or what it has there is no picture.
        """
        picture = np.asarray(_pictures(self.path)[self.index])
        if picture.ndim == 2:
            picture = np.repeat(picture[:, :, None], 3, axis=2)
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise InputError(
                f"{self.path}: picture {self.index + 1} has shape {picture.shape} and type {picture.dtype}, "
                "expected bytes, grey or RGB; fetch it again"
            )
        height, width = picture.shape[:2]
        return DecodedPicture(pixels=picture, width=width, height=height)


def read_cofw68(source: Path) -> DataSet:
    """The faces of COFW68, all test, as the benchmark has no other.

    Args:
        source: the folder that holds the annotations, the boxes and the pictures, at whatever depth.

    Raises:
        InputError: a file is missing or malformed, or they do not belong together.
    """
    annotations = the_one_below(source, "test_annotations")
    names = [name for name in PICTURES if any(source.rglob(name))]
    pictures = the_one_below(source, names[0] if names else PICTURES[0])
    boxes_file = the_one_below(source, BOXES)
    boxes = read_mat(boxes_file, "bboxes")
    files = files_below(annotations, ".mat")
    num_pictures = len(_pictures(pictures))
    if not num_pictures == len(boxes) == len(files):
        raise InputError(
            f"{source}: {len(files)} files of points, {len(boxes)} boxes, {num_pictures} pictures, "
            "expected as many of each; fetch what is missing"
        )
    return DataSet(
        faces=[
            _annotation(
                annotations / f"{index + 1}_points.mat", boxes_file, boxes, CofwPicture(pictures, index)
            )
            for index in range(len(files))
        ],
        source=f"cofw68 {pictures.name}",
        split_rule="all test, as the data set is meant",
        licence=LICENCE,
        left_out={},
    )


def _annotation(
    file: Path, boxes_file: Path, boxes: Shaped[np.ndarray, "faces numbers"], picture: CofwPicture
) -> FaceAnnotation:
    try:
        left, top, width, height = (float(value) for value in boxes[picture.index])
        box = FaceBox(left=left - ORIGIN, top=top - ORIGIN, width=width, height=height)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{boxes_file}: row {picture.index + 1} is {boxes[picture.index]}, expected x, y, width, height; "
            "fetch it again"
        ) from error
    name = f"{picture.path.stem}/{picture.index + 1}"
    return FaceAnnotation(
        picture=picture,
        landmarks_image=landmarks_of(
            file, read_mat(file, "Points"), num_points=IBUG_68.num_points, origin=ORIGIN
        ),
        scheme=IBUG_68.name,
        face_box_image=box,
        split="test",
        subset="",
        source_file=name,
        group=name,
    )
