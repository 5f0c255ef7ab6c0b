"""`python -m shards convert SOURCE` for one's own data, in formats that many tools write. Parsing only.

What is heavy is imported inside the functions, so that the help comes at once.
"""

import time
from pathlib import Path
from typing import Annotated

import tyro

from flm.data.manifest import Split
from flm.faces.pts_file import PTS_ORIGIN
from flm.landmarks import IBUG_68
from shards.convert_commands import DEFAULT_OPTIONS, Flag, Options, convert_and_tell, unpacked_source
from shards.sources.layout import AS_FOUND, NOT_STATED, Listing
from shards.sources.points_csv import CsvOptions, Origin

Faces = Annotated[Listing, tyro.conf.arg(name=""), tyro.conf.FlagCreatePairsOff]
Table = Annotated[CsvOptions, tyro.conf.arg(name="")]

DEFAULT_TABLE = CsvOptions()


def pts(
    *,
    source: Path,
    out: Path,
    split: Split = "train",
    scheme: str = IBUG_68.name,
    origin: Origin = PTS_ORIGIN,
    licence: str = NOT_STATED,
    options: Options = DEFAULT_OPTIONS,
) -> None:
    """Any folder tree of pictures with a `.pts` beside each; the folders become subsets.

    Args:
        source: The folder, or a tar of it.
        out: Folder for the shards; shards that are there already are replaced at the end.
        split: Where all faces go; of train, a part is held out for validation.
        scheme: Landmark scheme.
        origin: Number of the first pixel in the files.
        licence: Of the pictures; it is told wherever the shards are used.
        options: How faces become shards.
    """
    from shards.sources.pts import read_pts

    with unpacked_source(source, out) as (folder, start_s):
        data_set = read_pts(folder, split=split, scheme=scheme, origin=origin, licence=licence)
        convert_and_tell(data_set, out, options, start_s)


def points_csv(
    *,
    source: Path,
    out: Path,
    pictures: Path | None = None,
    listing: Faces = AS_FOUND,
    table: Table = DEFAULT_TABLE,
    options: Options = DEFAULT_OPTIONS,
) -> None:
    """A folder of pictures and a CSV: a row a face, first the file, then x0, y0, x1, y1, …

    Such as:
      python -m shards convert points_csv --source youtube_faces_68 --out data/youtube
      python -m shards convert points_csv --source faces.csv --pictures DIR --split train --out data/faces

    Args:
        source: The CSV, or a folder with several, whose names say train, val or test.
        out: Folder for the shards; shards that are there already are replaced at the end.
        pictures: Folder of the pictures. Default: the one beside the CSV whose name is part of the CSV's, or
            the CSV's own.
        listing: What the files do not say.
        table: What the CSV does not tell.
        options: How faces become shards.
    """
    from shards.sources.points_csv import read_points_csv

    start_s = time.perf_counter()
    data_set = read_points_csv(source, pictures=pictures, listing=listing, options=table)
    convert_and_tell(data_set, out, options, start_s)


def coco(
    *,
    source: Path,
    out: Path,
    pictures: Path | None = None,
    listing: Faces = AS_FOUND,
    scheme: str | None = None,
    whole_body: Flag = False,
    options: Options = DEFAULT_OPTIONS,
) -> None:
    """COCO keypoint JSON whose keypoints are a face's, or COCO-WholeBody.

    Args:
        source: The JSON, or a folder with several, whose names say train, val or test.
        out: Folder for the shards; shards that are there already are replaced at the end.
        pictures: Folder of the pictures. Default: the one beside the JSON, or one level up, whose name is
            part of the JSON's, or the JSON's own.
        listing: What the files do not say.
        scheme: Landmark scheme. Default: by the number of a category's keypoints.
        whole_body: Take the 68 face points of COCO-WholeBody.
        options: How faces become shards.
    """
    from shards.sources.coco import read_coco

    start_s = time.perf_counter()
    data_set = read_coco(
        source,
        pictures=pictures,
        listing=listing,
        scheme=scheme,
        whole_body=whole_body,
    )
    convert_and_tell(data_set, out, options, start_s)


def dlib(
    *,
    source: Path,
    out: Path,
    listing: Faces = AS_FOUND,
    scheme: str = IBUG_68.name,
    options: Options = DEFAULT_OPTIONS,
) -> None:
    """Any XML of dlib's imglab; several faces a picture; the folders become subsets.

    Args:
        source: The XML, or a folder with several, whose names say train, val or test.
        out: Folder for the shards; shards that are there already are replaced at the end.
        listing: What the files do not say.
        scheme: Landmark scheme.
        options: How faces become shards.
    """
    from shards.sources.dlib import read_dlib

    start_s = time.perf_counter()
    data_set = read_dlib(source, listing=listing, scheme=scheme)
    convert_and_tell(data_set, out, options, start_s)


OWN_DATA = {"points_csv": points_csv, "pts": pts, "dlib": dlib, "coco": coco}
