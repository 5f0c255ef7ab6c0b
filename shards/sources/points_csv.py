"""A folder of pictures and a table of landmarks: a row a face, first the file, then x0, y0, x1, y1, …"""

import csv
import dataclasses
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from jaxtyping import Float

from flm.data.manifest import Split
from flm.errors import InputError
from flm.geometry import FaceBox
from flm.landmarks import IBUG_68, LandmarkScheme, scheme_named
from shards.annotation import FARTHEST_PX, DataSet, FaceAnnotation, PictureFile
from shards.sources.layout import (
    AS_FOUND,
    PICTURE_SUFFIXES,
    Listing,
    annotation_files,
    keep_present,
    pictures_folder,
    read_text,
)

Origin = Literal[0, 1]
GroupBy = Literal["name", "picture"]


@dataclass(frozen=True, slots=True)
class _Row:
    table: Path
    file: str
    landmarks_image: Float[np.ndarray, "points 2"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CsvOptions:
    """What a table of landmarks does not tell."""

    scheme: str = IBUG_68.name
    """The landmark scheme, which says how many columns there are."""
    origin: Origin = 0
    """Number of the first pixel in the table."""
    subset: str = ""
    """Name for these faces in reports; none by default."""
    group_by: GroupBy = "name"
    """name: pictures that differ only in the number at their end (`NAME_12.jpg`) show one person or video
    and are held out for validation together. picture: each by itself."""


def read_points_csv(
    source: Path,
    *,
    pictures: Path | None = None,
    listing: Listing = AS_FOUND,
    options: CsvOptions | None = None,
) -> DataSet:
    """The faces of one table or several; the face box is the tight one around the points.

    Args:
        source: a CSV, or the folder of several.
        pictures: folder of the pictures; if None, see `pictures_folder`.
        listing: what is to be known of them.
        options: what the table does not tell; the defaults if None.

    Raises:
        InputError: a file is missing or malformed, which names the line; or all pictures differ only in their
            number, so that no part can be held out.
    """
    options = options or CsvOptions()
    scheme = scheme_named(options.scheme)
    faces: list[FaceAnnotation] = []
    num_rows = 0
    for table, table_split in annotation_files(source, ".csv", listing.split):
        folder = pictures or pictures_folder(table)
        rows = list(_rows(table, scheme, options.origin))
        present = keep_present(
            rows,
            lambda row, folder=folder: folder / row.file,
            folder=folder,
            allow_missing=listing.allow_missing,
        )
        faces += [_annotation(row, folder, table_split, options) for row in present]
        num_rows += len(rows)
    _refuse_one_group(source, faces)
    told = " ".join(f"{name}={value}" for name, value in dataclasses.asdict(options).items() if value != "")
    return DataSet(
        faces=faces,
        source=f"points_csv {source.resolve().name} {told}",
        split_rule=listing.split_rule,
        licence=listing.licence,
        left_out={"missing pictures": num_rows - len(faces)},
    )


def _rows(table: Path, scheme: LandmarkScheme, origin: Origin) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(read_text(table), newline=""))
    num_cells = 1 + 2 * scheme.num_points
    try:
        for row in reader:
            line = f"{table}:{reader.line_num}"
            if not row or (reader.line_num == 1 and not row[0].lower().endswith(PICTURE_SUFFIXES)):
                continue  # empty, or the header
            if len(row) != num_cells:
                raise InputError(
                    f"{line}: {len(row)} cells, expected {num_cells}: the file, then x and y of "
                    f"{scheme.num_points} points ({scheme.name}); fix it or give another --scheme"
                )
            file, *cells = row
            yield _Row(table, file, _landmarks(line, cells) - origin)
    except csv.Error as error:
        raise InputError(f"{table}:{reader.line_num}: not a row of a CSV ({error}); fix it") from error


def _landmarks(line: str, cells: list[str]) -> Float[np.ndarray, "points 2"]:
    values = np.empty(len(cells))
    for column, cell in enumerate(cells):
        try:
            values[column] = float(cell)
        except ValueError:
            values[column] = np.nan
        if not abs(values[column]) <= FARTHEST_PX:  # nan neither
            raise InputError(
                f"{line}: {'xy'[column % 2]} of point {column // 2} is {cell!r}, expected px; fix it"
            )
    return values.reshape(-1, 2)


def _annotation(row: _Row, folder: Path, split: Split, options: CsvOptions) -> FaceAnnotation:
    beside = folder.resolve() == row.table.resolve().parent
    source_file = PurePosixPath(row.file) if beside else PurePosixPath(folder.resolve().name) / row.file
    by_name = re.sub(r"[_-]\d+$", "", str(PurePosixPath(row.file).with_suffix("")))
    return FaceAnnotation(
        picture=PictureFile(folder / row.file),
        landmarks_image=row.landmarks_image,
        scheme=options.scheme,
        face_box_image=FaceBox.around(row.landmarks_image),
        split=split,
        subset=options.subset,
        source_file=str(source_file),
        group=by_name if options.group_by == "name" else str(source_file),
    )


def _refuse_one_group(source: Path, faces: list[FaceAnnotation]) -> None:
    train = [face for face in faces if face.split == "train"]
    if len(train) > 1 and len({face.group for face in train}) == 1:
        raise InputError(
            f"{source}: the pictures of train differ only in the number at the end of their names, as if all "
            f"showed {train[0].group!r}; give --group-by picture if they do not"
        )
