"""`python -m shards convert SOURCE`: one function per source. Parsing only.

What is heavy is imported inside the functions, so that the help comes at once.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro

from flm.landmarks import IBUG_68
from shards.annotation import DataSet
from shards.convert import ConvertOptions
from shards.sources.ibug import Mirrors, Protocol
from shards.sources.layout import NOT_STATED, Split
from shards.sources.points_csv import CsvOptions, Origin
from shards.sources.pts_file import PTS_ORIGIN

Options = Annotated[ConvertOptions, tyro.conf.arg(name="")]
"""Without a name, so that the flags have no prefix."""

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]

DEFAULT_OPTIONS = ConvertOptions()
DEFAULT_CSV_OPTIONS = CsvOptions()


def ibug(
    *,
    source: Path,
    out: Path,
    protocol: Protocol = "300w",
    mirrors: Mirrors = "drop",
    allow_missing: Flag = False,
    options: Options = DEFAULT_OPTIONS,
) -> None:
    """The iBUG 300-W archive of dlib: real faces with 68 points.

    Such as:
      python -m shards convert ibug --source ibug_300W_large_face_landmark_dataset.tar.gz --out data/ibug
      python -m shards convert ibug --source DIR --out data/ibug-dlib --protocol dlib --mirrors keep

    Args:
        source: The archive: its folder, the folder that holds it, or a tar of it.
        out: Folder for the shards; shards that are there already are replaced at the end.
        protocol: 300w: train and test as in the papers, by folder. dlib: as in dlib's two XML files.
        mirrors: Drop or keep the `_mirror` twins; training mirrors by itself.
        allow_missing: Convert the rest when listed pictures are missing.
        options: How faces become shards.
    """
    from shards.sources.ibug import read_ibug

    with _unpacked(source, out) as (folder, start_s):
        data_set = read_ibug(folder, protocol=protocol, mirrors=mirrors, allow_missing=allow_missing)
        _convert(data_set, out, options, start_s)


def wflw(*, source: Path, out: Path, allow_missing: Flag = False, options: Options = DEFAULT_OPTIONS) -> None:
    """WFLW: real faces with 98 points and six attributes, which become subsets.

    Such as:
      python -m shards convert wflw --source WFLW --out data/wflw
      accelerate launch -m flm.train RECIPE --data data/wflw --model.scheme wflw-98

    Args:
        source: The folder with `WFLW_images` and the lists `list_98pt_rect_attr_*.txt`, or a tar of it.
        out: Folder for the shards; shards that are there already are replaced at the end.
        allow_missing: Convert the rest when listed pictures are missing.
        options: How faces become shards.
    """
    from shards.sources.wflw import read_wflw

    with _unpacked(source, out) as (folder, start_s):
        _convert(read_wflw(folder, allow_missing=allow_missing), out, options, start_s)


def cofw68(*, source: Path, out: Path, options: Options = DEFAULT_OPTIONS) -> None:
    """COFW68: 507 occluded faces with 68 points, to test on.

    Args:
        source: The folder with the benchmark's `COFW68_Data` and COFW's `COFW_test_color.mat` or
            `COFW_test.mat`, or a tar of it.
        out: Folder for the shards; shards that are there already are replaced at the end.
        options: How faces become shards.
    """
    from shards.sources.cofw68 import read_cofw68

    with _unpacked(source, out) as (folder, start_s):
        _convert(read_cofw68(folder), out, options, start_s)


def aflw2000(*, source: Path, out: Path, options: Options = DEFAULT_OPTIONS) -> None:
    """AFLW2000-3D: 2,000 faces of every pose with 68 points, to test on; subsets by yaw.

    Args:
        source: The folder with the `.jpg` and `.mat` files, or a tar of it.
        out: Folder for the shards; shards that are there already are replaced at the end.
        options: How faces become shards.
    """
    from shards.sources.aflw2000 import read_aflw2000

    with _unpacked(source, out) as (folder, start_s):
        _convert(read_aflw2000(folder), out, options, start_s)


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

    with _unpacked(source, out) as (folder, start_s):
        data_set = read_pts(folder, split=split, scheme=scheme, origin=origin, licence=licence)
        _convert(data_set, out, options, start_s)


def points_csv(
    *,
    source: Path,
    out: Path,
    pictures: Path | None = None,
    split: Split | None = None,
    table: Annotated[CsvOptions, tyro.conf.arg(name="")] = DEFAULT_CSV_OPTIONS,
    licence: str = NOT_STATED,
    allow_missing: Flag = False,
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
        split: Where all faces go, whatever the names of the files.
        table: What the CSV does not tell.
        licence: Of the pictures; it is told wherever the shards are used.
        allow_missing: Convert the rest when listed pictures are missing.
        options: How faces become shards.
    """
    from shards.sources.points_csv import read_points_csv

    start_s = time.perf_counter()
    data_set = read_points_csv(
        source, pictures=pictures, split=split, options=table, licence=licence, allow_missing=allow_missing
    )
    _convert(data_set, out, options, start_s)


def coco(
    *,
    source: Path,
    out: Path,
    pictures: Path | None = None,
    split: Split | None = None,
    scheme: str | None = None,
    whole_body: Flag = False,
    licence: str = NOT_STATED,
    allow_missing: Flag = False,
    options: Options = DEFAULT_OPTIONS,
) -> None:
    """COCO keypoint JSON whose keypoints are a face's, or COCO-WholeBody.

    Args:
        source: The JSON, or a folder with several, whose names say train, val or test.
        out: Folder for the shards; shards that are there already are replaced at the end.
        pictures: Folder of the pictures. Default: the one beside the JSON, or one level up, whose name is
            part of the JSON's, or the JSON's own.
        split: Where all faces go, whatever the names of the files.
        scheme: Landmark scheme. Default: by the number of a category's keypoints.
        whole_body: Take the 68 face points of COCO-WholeBody.
        licence: Of the pictures; it is told wherever the shards are used.
        allow_missing: Convert the rest when listed pictures are missing.
        options: How faces become shards.
    """
    from shards.sources.coco import read_coco

    start_s = time.perf_counter()
    data_set = read_coco(
        source,
        pictures=pictures,
        split=split,
        scheme=scheme,
        whole_body=whole_body,
        licence=licence,
        allow_missing=allow_missing,
    )
    _convert(data_set, out, options, start_s)


def dlib(
    *,
    source: Path,
    out: Path,
    split: Split | None = None,
    scheme: str = IBUG_68.name,
    licence: str = NOT_STATED,
    allow_missing: Flag = False,
    options: Options = DEFAULT_OPTIONS,
) -> None:
    """Any XML of dlib's imglab; several faces a picture; the folders become subsets.

    Args:
        source: The XML, or a folder with several, whose names say train, val or test.
        out: Folder for the shards; shards that are there already are replaced at the end.
        split: Where all faces go, whatever the names of the files.
        scheme: Landmark scheme.
        licence: Of the pictures; it is told wherever the shards are used.
        allow_missing: Convert the rest when listed pictures are missing.
        options: How faces become shards.
    """
    from shards.sources.dlib import read_dlib

    start_s = time.perf_counter()
    data_set = read_dlib(source, split=split, scheme=scheme, licence=licence, allow_missing=allow_missing)
    _convert(data_set, out, options, start_s)


def synthetic(*, num_faces: int, out: Path, options: Options = DEFAULT_OPTIONS) -> None:
    """The embedded data set: rendered faces with exact landmarks; needs no download.

    Such as:
      python -m shards convert synthetic --num-faces 2000 --out data/synthetic

    Args:
        num_faces: How many to render; each tenth is test.
        out: Folder for the shards; shards that are there already are replaced at the end.
        options: How faces become shards.
    """
    from shards.sources.synthetic import annotations

    start_s = time.perf_counter()
    data_set = DataSet(
        faces=tuple(annotations(num_faces=num_faces, seed=options.seed)),
        source=f"synthetic num_faces={num_faces} seed={options.seed}",
        split_rule="each tenth face is test",
        licence="rendered by this project, MIT",
        left_out={},
    )
    _convert(data_set, out, options, start_s)


@contextlib.contextmanager
def _unpacked(source: Path, out: Path) -> Iterator[tuple[Path, float]]:
    """The folder of a source that may be a tar, and when it began to be unpacked."""
    from shards.unpack import unpacked

    start_s = time.perf_counter()
    with unpacked(source, beside=out.parent) as folder:
        yield folder, start_s


def _convert(data_set: DataSet, out: Path, options: ConvertOptions, start_s: float) -> None:
    from shards.convert import convert
    from shards.summary import print_summary

    manifest = convert(data_set, out, options)
    duration_s = time.perf_counter() - start_s
    print_summary(manifest, out, left_out=data_set.left_out, duration_s=duration_s)


SOURCES = {
    "ibug": ibug,
    "wflw": wflw,
    "cofw68": cofw68,
    "aflw2000": aflw2000,
    "points_csv": points_csv,
    "pts": pts,
    "dlib": dlib,
    "coco": coco,
    "synthetic": synthetic,
}
