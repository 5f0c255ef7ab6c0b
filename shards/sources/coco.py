"""COCO's keypoint JSON, and the faces of COCO-WholeBody.

An annotation has `keypoints` [x, y, v] · K and mostly a `bbox` [x, y, width, height], its category the names
of the K keypoints; v is 0 where a point is not marked. COCO-WholeBody adds 68 face points as `face_kpts`,
`face_box` and `face_valid`. All coordinates are 0-based.

Source: cocodataset.org, "Data format"; Jin et al., "Whole-Body Human Pose Estimation in the Wild", 2020, and
the page on its data format.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from flm.data.manifest import Split
from flm.errors import InputError
from flm.fields import parse_json
from flm.geometry import FaceBox
from flm.landmarks import IBUG_68, SCHEMES, LandmarkScheme, scheme_named
from shards.annotation import FARTHEST_PX, DataSet, FaceAnnotation, PictureFile
from shards.sources.layout import (
    AS_FOUND,
    Listing,
    annotation_files,
    keep_present,
    pictures_folder,
    read_text,
)

LISTS = ("images", "annotations", "categories")

KINDS: Mapping[str, tuple[type, ...]] = {
    "id": (int, float, str),
    "image_id": (int, float, str),
    "category_id": (int, float, str),
    "file_name": (str,),
    "name": (str,),
}
"""What a field of an image, an annotation or a category is, where it is there."""

UNMARKED = "faces with points that are not marked"
OTHER_POINTS = "annotations with another number of points"
NOT_VALID = "people without a valid face"


@dataclass(frozen=True, slots=True)
class _Fields:
    """What the parts of a face are called in an annotation."""

    points: str
    box: str


KEYPOINTS = _Fields("keypoints", "bbox")
WHOLE_BODY = _Fields("face_kpts", "face_box")


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    split: Split
    pictures: Path
    lists: Mapping[str, list[dict[str, Any]]]

    def place(self, annotation: Mapping[str, Any]) -> str:
        return f"{self.path}: annotation {annotation.get('id')}"


def read_coco(
    source: Path,
    *,
    pictures: Path | None = None,
    listing: Listing = AS_FOUND,
    scheme: str | None = None,
    whole_body: bool = False,
) -> DataSet:
    """The faces of one JSON or several.

    Annotations with another number of points than the scheme's, or with points that are not marked, are left
    out and counted. The subset is the category's name.

    Args:
        source: a JSON, or the folder of several.
        pictures: folder of the pictures; if None, see `pictures_folder`.
        listing: what is to be known of them.
        scheme: name of the landmark scheme; the one that has as many points as a category if None.
        whole_body: take the faces of COCO-WholeBody, which have 68 points.

    Raises:
        InputError: a file is missing or malformed, which names file and annotation; or there is no face.
    """
    left_out = Counter[str]()
    faces: list[FaceAnnotation] = []
    for path, file_split in annotation_files(source, ".json", listing.split):
        file = _File(path, file_split, pictures or pictures_folder(path), _lists(path))
        found = list(_faces(file, _scheme(file, scheme, whole_body), whole_body, left_out))
        present = keep_present(
            found,
            lambda face, file=file: file.pictures / face.source_file,
            folder=file.pictures,
            allow_missing=listing.allow_missing,
        )
        left_out["missing pictures"] += len(found) - len(present)
        faces += present
    if not faces:
        told = (
            ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count) or "no annotation"
        )
        raise InputError(f"{source}: no face to take ({told}); check --source and --scheme")
    fields = WHOLE_BODY if whole_body else KEYPOINTS
    return DataSet(
        faces=faces,
        source=f"coco {source.resolve().name} {fields.points} scheme={faces[0].scheme}",
        split_rule=listing.split_rule,
        licence=listing.licence,
        left_out=left_out,
    )


def _lists(path: Path) -> Mapping[str, list[dict[str, Any]]]:
    try:
        content = parse_json(read_text(path))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); fetch it again") from error
    for name in LISTS:
        items: Any = content.get(name) if isinstance(content, dict) else None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise InputError(f"{path}: no list {name!r} of objects; expected COCO's {', '.join(LISTS)}")
        for number, item in enumerate(items):
            for field, kinds in KINDS.items():
                if not isinstance(item.get(field), (*kinds, type(None))):
                    told = " or ".join(kind.__name__ for kind in kinds)
                    raise InputError(
                        f"{path}: {field} of {name}[{number}] is {item[field]!r}, expected {told}; fix it"
                    )
    return content


def _scheme(file: _File, name: str | None, whole_body: bool) -> LandmarkScheme:
    if whole_body:
        if name not in (None, IBUG_68.name):
            raise InputError(
                f"--scheme is {name}, the faces of --whole-body are {IBUG_68.name}; leave out one of the two"
            )
        return IBUG_68
    if name is not None:
        return scheme_named(name)
    names = [category.get("keypoints") for category in file.lists["categories"]]
    numbers = {len(points) if isinstance(points, list) else 0 for points in names}
    fitting = [scheme for scheme in SCHEMES.values() if scheme.num_points in numbers]
    if len(fitting) != 1:
        known = ", ".join(f"{scheme.name} {scheme.num_points}" for scheme in SCHEMES.values())
        raise InputError(
            f"{file.path}: its categories have {', '.join(map(str, sorted(numbers)))} keypoints, expected "
            f"one scheme's ({known}); give --scheme, or --whole-body for the faces of COCO-WholeBody"
        )
    return fitting[0]


def _faces(
    file: _File, scheme: LandmarkScheme, whole_body: bool, left_out: Counter[str]
) -> Iterator[FaceAnnotation]:
    fields = WHOLE_BODY if whole_body else KEYPOINTS
    file_of_image = {image.get("id"): image.get("file_name") for image in file.lists["images"]}
    category_names = {category.get("id"): category.get("name", "") for category in file.lists["categories"]}
    for annotation in file.lists["annotations"]:
        if whole_body and not annotation.get("face_valid"):
            left_out[NOT_VALID] += 1
            continue
        points = annotation.get(fields.points)
        if not isinstance(points, list) or len(points) != 3 * scheme.num_points:
            left_out[OTHER_POINTS] += 1
            continue
        values = _numbers(file.place(annotation), fields.points, points).reshape(-1, 3)
        if (values[:, 2] <= 0).any():
            left_out[UNMARKED] += 1
            continue
        landmarks = values[:, :2]
        name = file_of_image.get(annotation.get("image_id"))
        if not isinstance(name, str) or not name:
            raise InputError(
                f"{file.place(annotation)}: image_id {annotation.get('image_id')} is no image with a "
                "file_name; fix or remove it"
            )
        yield FaceAnnotation(
            picture=PictureFile(file.pictures / name),
            landmarks_image=landmarks,
            scheme=scheme.name,
            face_box_image=_box(file.place(annotation), fields.box, annotation.get(fields.box), landmarks),
            split=file.split,
            subset="" if whole_body else category_names.get(annotation.get("category_id")) or "",
            source_file=name,
            group=name,
        )


def _numbers(place: str, field: str, values: list[Any]) -> Float[np.ndarray, " numbers"]:
    try:
        numbers = np.array(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        numbers = np.array([np.nan])
    if not (np.abs(numbers) <= FARTHEST_PX).all() or numbers.ndim != 1:
        raise InputError(f"{place}: {field} has something that is no number; fix or remove it")
    return numbers


def _box(place: str, field: str, values: Any, landmarks: Float[np.ndarray, "points 2"]) -> FaceBox:
    if values is None:
        return FaceBox.around(landmarks)
    told = f"{place}: {field} is {values}, expected x, y, width, height, the sides above 0; fix or remove it"
    if not isinstance(values, list) or len(values) != 4:
        raise InputError(told)
    left, top, width, height = _numbers(place, field, values).tolist()
    if min(width, height) <= 0:
        raise InputError(told)
    return FaceBox(left=left, top=top, width=width, height=height)
