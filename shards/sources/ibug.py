"""dlib's archive of iBUG 300-W: two XML files, pictures, and a `.pts` beside each original picture.

Source: Sagonas et al., "300 Faces in-the-Wild Challenge", 2013; the archive is
`ibug_300W_large_face_landmark_dataset` of dlib.net.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from jaxtyping import Float

from flm.errors import InputError
from flm.faces.pts_file import read_pts_file
from flm.geometry import FaceBox
from flm.landmarks import IBUG_68
from shards.annotation import DataSet, FaceAnnotation, PictureFile
from shards.sources.imglab import MIRROR_SUFFIX, LabelledFace, read_labels
from shards.sources.layout import keep_present

Protocol = Literal["300w", "dlib"]
Mirrors = Literal["drop", "keep"]

LABELS = {"train": "labels_ibug_300W_train.xml", "test": "labels_ibug_300W_test.xml"}

PARTS_OF_300W: Mapping[str, tuple[str, str]] = {
    "afw": ("train", "afw"),
    "helen/trainset": ("train", "helen"),
    "lfpw/trainset": ("train", "lfpw"),
    "helen/testset": ("test", "common/helen"),
    "lfpw/testset": ("test", "common/lfpw"),
    "ibug": ("test", "challenging/ibug"),
}
"""Folder → split and subset, as the papers take them ("full" is common and challenging together)."""

SPLIT_RULES: Mapping[Protocol, str] = {
    "300w": "300w: by folder, train = afw + helen/trainset + lfpw/trainset, "
    "test = common (helen/testset, lfpw/testset) + challenging (ibug)",
    "dlib": "dlib: train and test as the archive's two XML files have them (not the split of the papers)",
}

LICENCE = (
    "300-W, AFW, HELEN and LFPW are for research only; "
    "300-W excludes commercial use, of models trained on it too"
)

MAX_OUTSIDE_BOX = 1.0
"""How far a landmark may lie outside its face box, in its longer sides. The farthest of the archive: 0.4."""


def read_ibug(
    source: Path, *, protocol: Protocol = "300w", mirrors: Mirrors = "drop", allow_missing: bool = False
) -> DataSet:
    """The faces of the archive.

    Args:
        source: the archive's folder, or the folder that holds it.
        protocol: `300w`, train and test as in the papers; `dlib`, as in the two XML files.
        mirrors: what to do with the `_mirror` twins.
        allow_missing: leave out entries whose picture is missing.

    Raises:
        InputError: a file is missing or malformed, or a face cannot be true; names the line.
    """
    archive = _find_archive(source)
    labelled = {split: read_labels(archive / name, IBUG_68) for split, name in LABELS.items()}
    entries = [(split, face) for split, faces in labelled.items() for face in faces]
    _refuse_repeated(entries)
    originals = {face.stem: face.file for _, face in entries if not face.is_mirror}
    wanted = [(split, face) for split, face in entries if mirrors == "keep" or not face.is_mirror]
    present = keep_present(
        wanted, lambda entry: archive / entry[1].file, folder=archive, allow_missing=allow_missing
    )
    return DataSet(
        faces=[_annotation(archive, split, face, protocol, originals) for split, face in present],
        source=f"ibug protocol={protocol} mirrors={mirrors}",
        split_rule=SPLIT_RULES[protocol],
        licence=LICENCE,
        left_out={"mirror twins": len(entries) - len(wanted), "missing pictures": len(wanted) - len(present)},
    )


def _find_archive(source: Path) -> Path:
    candidates = [source, *sorted(path for path in source.iterdir() if path.is_dir())]
    num_labels = {folder: sum((folder / name).is_file() for name in LABELS.values()) for folder in candidates}
    folder = max(candidates, key=lambda folder: num_labels[folder])
    if num_labels[folder] == 0:
        raise InputError(
            f"{source}: no {LABELS['train']} here or one folder below; --source is the iBUG archive or the "
            "folder that holds it"
        )
    return folder


def _refuse_repeated(entries: Sequence[tuple[str, LabelledFace]]) -> None:
    first_of: dict[str, LabelledFace] = {}
    for _, face in entries:
        first = first_of.setdefault(face.file, face)
        if first is not face and not (first.shares_picture and face.shares_picture):
            raise InputError(
                f"{face.location}: {face.file} is listed already at {first.location}; remove one of the two"
            )


def _annotation(
    archive: Path, file_split: str, face: LabelledFace, protocol: Protocol, originals: Mapping[str, str]
) -> FaceAnnotation:
    folder = str(PurePosixPath(face.file).parent)
    folder_split, subset = PARTS_OF_300W.get(folder, ("", folder))
    if protocol == "300w" and not folder_split:
        raise InputError(
            f"{face.location}: the folder of {face.file} is not a part of 300-W, which are "
            f"{', '.join(PARTS_OF_300W)}; remove the entry or use --protocol dlib"
        )
    picture = archive / face.file
    points_file = picture.with_suffix(".pts")
    has_points_file = points_file.is_file() and not face.shares_picture
    landmarks = read_pts_file(points_file, IBUG_68) if has_points_file else face.landmarks_image
    fault = _fault_of(landmarks, face.box)
    if fault is not None:
        location = points_file if has_points_file else face.location
        raise InputError(f"{location}: {fault}; fix or remove the face {face.file}")
    return FaceAnnotation(
        picture=PictureFile(picture),
        landmarks_image=landmarks,
        scheme=IBUG_68.name,
        face_box_image=face.box,
        split=folder_split if protocol == "300w" else file_split,
        subset=subset,
        source_file=face.file,
        group=photo_of(face.file),
        mirror_of=originals.get(face.original_stem, face.original_stem) if face.is_mirror else None,
    )


def photo_of(file: str) -> str:
    """The photo that a picture of the archive was cut from.

    AFW and HELEN name the faces of a photo `PHOTO_1`, `PHOTO_2`; HELEN has one photo both in its train and in
    its test folder. iBUG has `image_105_01`. LFPW's `image_0457` is one face and counts anew in each folder.
    """
    path = PurePosixPath(file)
    stem = path.stem.removesuffix(MIRROR_SUFFIX)
    numbered = re.fullmatch(r"((?:image_)?\d+)_\d+", stem)
    if numbered:
        return f"{path.parts[0]}/{numbered[1]}"
    return str(path.parent / stem)


def _fault_of(landmarks: Float[np.ndarray, "68 2"], box: FaceBox) -> str | None:
    """Why these landmarks cannot be of the face in this box."""
    if not np.isfinite(landmarks).all():
        return "a landmark is not a finite number"
    low = np.array([box.left, box.top])
    high = low + np.array([box.width, box.height]) - 1
    outside_px = np.maximum(low - landmarks, landmarks - high).max(axis=1)
    index = int(outside_px.argmax())
    if outside_px[index] <= MAX_OUTSIDE_BOX * box.long_side:
        return None
    x, y = landmarks[index]
    return (
        f"landmark {index} at ({x:.0f}, {y:.0f}) is {outside_px[index]:.0f} px outside its face box "
        f"of {box.width:g} by {box.height:g} px"
    )
