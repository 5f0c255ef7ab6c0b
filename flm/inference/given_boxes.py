"""Face boxes that the user gives."""

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from flm.errors import InputError
from flm.fields import parse_json
from flm.geometry import FaceBox
from flm.inference.inputs import PictureInput

FARTHEST_PX = 1e5
"""No picture that is read has a longer side of any use, and a crop of a much larger box needs gigabytes."""

BOX_COLUMNS = ("file", "left", "top", "width", "height")


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenBoxes:
    """Boxes for each picture, or for those that are named."""

    everywhere: tuple[FaceBox, ...] | None = None
    """In each picture that is not named."""
    by_name: Mapping[str, tuple[FaceBox, ...]] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """What tells these boxes from others."""
        return hashlib.sha256(repr((self.everywhere, sorted(self.by_name.items()))).encode()).hexdigest()[:16]

    def of(self, picture: PictureInput) -> Sequence[FaceBox] | None:
        """The boxes of a picture; None where a detector is to find them."""
        return next((self.by_name[name] for name in _names(picture) if name in self.by_name), self.everywhere)

    def unmatched(self, pictures: Iterable[PictureInput]) -> list[str]:
        """The names that no picture has."""
        names = dict.fromkeys(self.by_name)
        for picture in pictures if names else ():
            for name in _names(picture):
                names.pop(name, None)
        return list(names)


def _names(picture: PictureInput) -> tuple[str, ...]:
    """What a picture may be called in a file of boxes."""
    return picture.image, picture.name, PurePath(picture.image).name


NO_BOXES = GivenBoxes()


def parse_box(text: str) -> FaceBox:
    """A box out of LEFT,TOP,WIDTH,HEIGHT.

    Raises:
        InputError: it is none.
    """
    try:
        return _box(text.split(","))
    except ValueError as error:
        raise InputError(
            f"--box {text}: expected LEFT,TOP,WIDTH,HEIGHT in px with positive sides, such as 120,80,200,200"
        ) from error


def read_boxes(path: Path) -> dict[str, tuple[FaceBox, ...]]:
    """Boxes of many pictures: a table of file, left, top, width and height, or JSON of lists of four numbers.

    Args:
        path: `.csv` with a row a face, or `.json` such as {"a.jpg": [[120, 80, 200, 200]]}. A picture goes by
            its path, the name of its results, or its file's name.

    Raises:
        InputError: it cannot be read, or a box is none; names the place.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--boxes {path}: cannot be read ({error})") from error
    rows = _json_rows(path, text) if path.suffix.lower() == ".json" else _table_rows(path, text)
    boxes: dict[str, list[FaceBox]] = {}
    for where, name, numbers in rows:
        faces = boxes.setdefault(name, [])
        if numbers is None:
            continue
        try:
            faces.append(_box(numbers))
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(
                f"{path}:{where}: expected left, top, width and height in px with positive sides, got "
                f"{numbers}"
            ) from error
    return {name: tuple(faces) for name, faces in boxes.items()}


def _box(numbers: Sequence[Any]) -> FaceBox:
    left, top, width, height = (float(number) for number in numbers)
    if max(map(abs, (left, top, width, height))) > FARTHEST_PX:
        raise ValueError("too far")
    return FaceBox(left=left, top=top, width=width, height=height)


def _table_rows(path: Path, text: str) -> list[tuple[str, str, Any]]:
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in BOX_COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{path}:1: the column {missing[0]} is missing; expected {', '.join(BOX_COLUMNS)}")
    try:
        return [
            (str(reader.line_num), row["file"] or "", [row[name] for name in BOX_COLUMNS[1:]])
            for row in reader
        ]
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: not a row of a table ({error}); fix it") from error


def _json_rows(path: Path, text: str) -> list[tuple[str, str, Any]]:
    try:
        fields = parse_json(text)
    except ValueError as error:
        raise InputError(f"--boxes {path}: not JSON ({error})") from error
    if not isinstance(fields, dict) or not all(isinstance(faces, list) for faces in fields.values()):
        raise InputError(
            f'--boxes {path}: expected lists of boxes by picture, such as {{"a.jpg": [[0, 0, 9, 9]]}}'
        )
    # A picture without a face has a row of its own, since no detector is to look there either.
    return [(name, name, box) for name, faces in fields.items() for box in (faces or [None])]
