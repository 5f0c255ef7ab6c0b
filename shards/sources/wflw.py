"""WFLW: 98 points, a detected box and six attributes a face, in two text lists.

A line holds 196 coordinates, the box as x_min y_min x_max y_max, the attributes pose, expression,
illumination, make-up, occlusion and blur as 0 or 1, and the picture's path in `WFLW_images`. Coordinates are
taken as 0-based, as the published code that trains on the lists uses them unchanged.

Source: Wu et al., "Look at Boundary: A Boundary-Aware Face Alignment Algorithm", 2018; the lists' README.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flm.data.manifest import Split
from flm.errors import InputError
from flm.faces.subsets import join_subsets
from flm.geometry import FaceBox
from flm.landmarks import WFLW_98
from shards.annotation import FARTHEST_PX, DataSet, FaceAnnotation, PictureFile
from shards.sources.layout import keep_present, read_text, the_one_below

LISTS: Mapping[Split, str] = {
    "train": "list_98pt_rect_attr_train.txt",
    "test": "list_98pt_rect_attr_test.txt",
}
PICTURES = "WFLW_images"

SUBSETS = ("largepose", "expression", "illumination", "makeup", "occlusion", "blur")
"""One for each attribute, in their order, called as the papers' tables call them."""

NUM_COORDINATES = 2 * WFLW_98.num_points
NUM_BOX_NUMBERS = 4
NUM_NUMBERS = NUM_COORDINATES + NUM_BOX_NUMBERS + len(SUBSETS)

LICENCE = "WFLW and the pictures of WIDER FACE are for research only"


@dataclass(frozen=True, slots=True)
class _Line:
    split: Split
    numbers: Float[np.ndarray, " numbers"]
    file: str
    box: FaceBox


def read_wflw(source: Path, *, allow_missing: bool = False) -> DataSet:
    """The faces of WFLW; the subset lists each attribute that a face has.

    Args:
        source: the folder that holds `WFLW_images` and the lists, at whatever depth.
        allow_missing: leave out lines whose picture is missing.

    Raises:
        InputError: a file is missing or malformed; names the line.
    """
    lists: dict[Split, Path] = {split: the_one_below(source, name) for split, name in LISTS.items()}
    pictures = the_one_below(source, PICTURES)
    lines = [line for split, path in lists.items() for line in _lines(path, split)]
    present = keep_present(
        lines, lambda line: pictures / line.file, folder=pictures, allow_missing=allow_missing
    )
    return DataSet(
        faces=[_annotation(line, pictures) for line in present],
        source="wflw",
        split_rule="train and test as WFLW's two lists have them",
        licence=LICENCE,
        left_out={"missing pictures": len(lines) - len(present)},
    )


def _lines(path: Path, split: Split) -> Iterator[_Line]:
    for index, line in enumerate(read_text(path).splitlines()):
        words = line.split()
        if not words:
            continue
        place = f"{path}:{index + 1}"
        if len(words) != NUM_NUMBERS + 1:
            raise InputError(
                f"{place}: {len(words)} words, expected {NUM_NUMBERS + 1}: {NUM_COORDINATES} coordinates, "
                f"{NUM_BOX_NUMBERS} of the box, {len(SUBSETS)} attributes, the picture; fix it"
            )
        numbers = np.array([_number(place, number, word) for number, word in enumerate(words[:-1])])
        yield _Line(split, numbers, words[-1], _box(place, numbers))


def _number(place: str, number: int, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = np.nan
    is_attribute = number >= NUM_COORDINATES + NUM_BOX_NUMBERS
    if not abs(value) <= FARTHEST_PX or (is_attribute and value not in (0, 1)):
        raise InputError(
            f"{place}: word {number + 1} is {word!r}, expected {'0 or 1' if is_attribute else 'a number'}; "
            "fix it"
        )
    return value


def _box(place: str, numbers: Float[np.ndarray, " numbers"]) -> FaceBox:
    left, top, right, bottom = numbers[NUM_COORDINATES:][:NUM_BOX_NUMBERS].tolist()
    if right < left or bottom < top:
        raise InputError(
            f"{place}: the box goes from ({left:g}, {top:g}) to ({right:g}, {bottom:g}), expected the upper "
            "left corner first; fix it"
        )
    return FaceBox(left=left, top=top, width=right - left + 1, height=bottom - top + 1)


def _annotation(line: _Line, pictures: Path) -> FaceAnnotation:
    attributes = line.numbers[-len(SUBSETS) :]
    return FaceAnnotation(
        picture=PictureFile(pictures / line.file),
        landmarks_image=line.numbers[:NUM_COORDINATES].reshape(-1, 2),
        scheme=WFLW_98.name,
        face_box_image=line.box,
        split=line.split,
        subset=join_subsets(compress(SUBSETS, attributes)),
        source_file=line.file,
        group=line.file,
    )
