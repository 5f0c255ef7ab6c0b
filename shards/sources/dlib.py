"""Any XML of dlib's imglab whose boxes have all the points of a scheme; several faces a picture."""

from pathlib import Path

from flm.data.manifest import Split
from flm.landmarks import IBUG_68, scheme_named
from shards.annotation import DataSet, FaceAnnotation, PictureFile
from shards.sources.imglab import LabelledFace, read_labels
from shards.sources.layout import AS_FOUND, Listing, annotation_files, folder_subset, keep_present


def read_dlib(source: Path, *, listing: Listing = AS_FOUND, scheme: str = IBUG_68.name) -> DataSet:
    """The faces of one XML or several; points and boxes count pixels from 0.

    All faces of a picture, and of its `_mirror` twin, are one group. The subset is the picture's folder.

    Args:
        source: an XML, or the folder of several; the pictures' paths are relative to it.
        listing: what is to be known of them.
        scheme: name of the landmark scheme.

    Raises:
        InputError: a file is missing or malformed; names the line.
    """
    landmark_scheme = scheme_named(scheme)
    labelled: list[tuple[LabelledFace, Split]] = [
        (face, file_split)
        for file, file_split in annotation_files(source, ".xml", listing.split)
        for face in read_labels(file, landmark_scheme)
    ]
    folder = source if source.is_dir() else source.parent
    present = keep_present(
        labelled, lambda entry: folder / entry[0].file, folder=folder, allow_missing=listing.allow_missing
    )
    originals = {face.stem: face.file for face, _ in labelled if not face.is_mirror}
    return DataSet(
        faces=[
            _annotation(folder, face, file_split, scheme, originals.get(face.original_stem))
            for face, file_split in present
        ],
        source=f"dlib {source.resolve().name} scheme={scheme}",
        split_rule=listing.split_rule,
        licence=listing.licence,
        left_out={"missing pictures": len(labelled) - len(present)},
    )


def _annotation(
    folder: Path, face: LabelledFace, split: Split, scheme: str, original: str | None
) -> FaceAnnotation:
    return FaceAnnotation(
        picture=PictureFile(folder / face.file),
        landmarks_image=face.landmarks_image,
        scheme=scheme,
        face_box_image=face.box,
        split=split,
        subset=folder_subset(face.file),
        source_file=face.file,
        group=face.original_stem,
        mirror_of=original if face.is_mirror else None,
    )
