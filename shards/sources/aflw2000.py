"""AFLW2000-3D: a `NAME.jpg` and a `NAME.mat` a face, with the 68 points of a fitted 3-D model.

`pt3d_68` (3, 68) holds x and y in px of the picture, and a depth that is not used. MATLAB counts pixels from
1, and so does `pt3d_68`: the code that comes with the data set plots it on the picture as it is. `Pose_Para`
begins with pitch, yaw and roll in radians.

Source: Zhu et al., "Face Alignment Across Large Poses: A 3D Solution", 2016; the data set's code.
"""

from pathlib import Path

import numpy as np

from flm.errors import InputError
from flm.geometry import FaceBox
from flm.landmarks import IBUG_68
from shards.annotation import DataSet, FaceAnnotation, PictureFile
from shards.sources.layout import files_below, picture_beside
from shards.sources.mat import landmarks_of, numbers_of, read_mat

ORIGIN = 1

YAW = 1
"""Place in `Pose_Para`."""

YAW_SUBSETS = ((30.0, "yaw-00-30"), (60.0, "yaw-30-60"), (np.inf, "yaw-60-90"))
"""The paper's: up to that many degrees to either side; the last takes what is fitted beyond 90°."""

LICENCE = "AFLW is for research only"


def read_aflw2000(source: Path) -> DataSet:
    """The faces of AFLW2000-3D, all test; the subset is the paper's range of yaw.

    The face box is the tight one around the points.

    Args:
        source: the folder; `.mat` files without a picture, such as those of its code, are left out.

    Raises:
        InputError: there is no face, or a file is malformed.
    """
    pairs = [(file, picture) for file in files_below(source, ".mat") if (picture := picture_beside(file))]
    if not pairs:
        raise InputError(f"{source}: no picture beside a .mat here or in the folders below; check --source")
    return DataSet(
        faces=[_annotation(source, file, picture) for file, picture in pairs],
        source="aflw2000",
        split_rule="all test, as the data set is meant",
        licence=LICENCE,
        left_out={},
    )


def _annotation(source: Path, file: Path, picture: Path) -> FaceAnnotation:
    points = read_mat(file, "pt3d_68")
    landmarks = landmarks_of(file, points.T, num_points=IBUG_68.num_points, origin=ORIGIN)
    name = picture.relative_to(source).as_posix()
    return FaceAnnotation(
        picture=PictureFile(picture),
        landmarks_image=landmarks,
        scheme=IBUG_68.name,
        face_box_image=FaceBox.around(landmarks),
        split="test",
        subset=_subset(file),
        source_file=name,
        group=name,
    )


def _subset(file: Path) -> str:
    pose = numbers_of(file, read_mat(file, "Pose_Para")).ravel()
    if pose.size <= YAW or not np.isfinite(pose[YAW]):
        raise InputError(f"{file}: Pose_Para has no yaw; fix or remove the file")
    yaw_deg = abs(np.degrees(pose[YAW]))
    return next(name for up_to_deg, name in YAW_SUBSETS if yaw_deg <= up_to_deg)
