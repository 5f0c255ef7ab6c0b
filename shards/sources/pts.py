"""Any folder of pictures with a `.pts` beside each, such as the parts of 300-W as they are published."""

from pathlib import Path

import numpy as np

from flm.data.manifest import Split
from flm.errors import InputError
from flm.faces.pts_file import PTS_ORIGIN, read_pts_file
from flm.geometry import FaceBox
from flm.landmarks import IBUG_68, LandmarkScheme, scheme_named
from shards.annotation import FARTHEST_PX, DataSet, FaceAnnotation, PictureFile
from shards.sources.ibug import photo_of
from shards.sources.layout import NOT_STATED, files_below, folder_subset, picture_beside


def read_pts(
    source: Path,
    *,
    split: Split = "train",
    scheme: str = IBUG_68.name,
    origin: int = PTS_ORIGIN,
    licence: str = NOT_STATED,
) -> DataSet:
    """The faces of a folder, each in a picture with a `.pts` of the same name beside it.

    The face box is the tight one around the points; the subset is the folder; several faces of a photo are
    known as such where they are named as in the iBUG data sets.

    Args:
        source: the folder; all folders in it are read too.
        split: that all faces are in.
        scheme: name of the landmark scheme.
        origin: number of the first pixel in the files.
        licence: of the pictures.

    Raises:
        InputError: there is no face, a picture is missing, or a file is malformed.
    """
    landmark_scheme = scheme_named(scheme)
    return DataSet(
        faces=[
            _annotation(source, file, landmark_scheme, split, origin) for file in files_below(source, ".pts")
        ],
        source=f"pts {source.resolve().name} split={split} scheme={scheme} origin={origin}",
        split_rule=f"all {split}, as asked",
        licence=licence,
        left_out={},
    )


def _annotation(
    source: Path, file: Path, scheme: LandmarkScheme, split: Split, origin: int
) -> FaceAnnotation:
    picture = picture_beside(file)
    if picture is None:
        raise InputError(f"{file}: no picture of that name beside it; fetch it, or remove the .pts")
    landmarks = read_pts_file(file, scheme, origin=origin)
    if not (np.abs(landmarks) <= FARTHEST_PX).all():  # nan neither
        raise InputError(f"{file}: a landmark is not a finite number of px; fix or remove the face")
    name = picture.relative_to(source)
    return FaceAnnotation(
        picture=PictureFile(picture),
        landmarks_image=landmarks,
        scheme=scheme.name,
        face_box_image=FaceBox.around(landmarks),
        split=split,
        subset=folder_subset(name.as_posix()),
        source_file=name.as_posix(),
        group=photo_of(name.as_posix()),
    )
