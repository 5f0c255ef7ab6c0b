"""`python -m shards convert SOURCE` for published data sets and the rendered one. Parsing only.

What is heavy is imported inside the functions, so that the help comes at once.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro

from shards.annotation import DataSet
from shards.convert import ConvertOptions
from shards.sources.ibug import Mirrors, Protocol

Options = Annotated[ConvertOptions, tyro.conf.arg(name="")]
"""Without a name, so that the flags have no prefix."""

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]

DEFAULT_OPTIONS = ConvertOptions()


@contextlib.contextmanager
def unpacked_source(source: Path, out: Path) -> Iterator[tuple[Path, float]]:
    """The folder of a source that may be a tar, and when it began to be unpacked."""
    from shards.unpack import unpacked

    start_s = time.perf_counter()
    with unpacked(source, beside=out.parent) as folder:
        yield folder, start_s


def convert_and_tell(data_set: DataSet, out: Path, options: ConvertOptions, start_s: float) -> None:
    """Make the shards, and say what they hold and what comes next."""
    from shards.convert import convert
    from shards.summary import print_summary

    manifest = convert(data_set, out, options)
    duration_s = time.perf_counter() - start_s
    print_summary(manifest, out, left_out=data_set.left_out, duration_s=duration_s)


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

    with unpacked_source(source, out) as (folder, start_s):
        data_set = read_ibug(folder, protocol=protocol, mirrors=mirrors, allow_missing=allow_missing)
        convert_and_tell(data_set, out, options, start_s)


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

    with unpacked_source(source, out) as (folder, start_s):
        convert_and_tell(read_wflw(folder, allow_missing=allow_missing), out, options, start_s)


def cofw68(*, source: Path, out: Path, options: Options = DEFAULT_OPTIONS) -> None:
    """COFW68: 507 occluded faces with 68 points, to test on.

    Args:
        source: The folder with the benchmark's `COFW68_Data` and COFW's `COFW_test_color.mat` or
            `COFW_test.mat`, or a tar of it.
        out: Folder for the shards; shards that are there already are replaced at the end.
        options: How faces become shards.
    """
    from shards.sources.cofw68 import read_cofw68

    with unpacked_source(source, out) as (folder, start_s):
        convert_and_tell(read_cofw68(folder), out, options, start_s)


def aflw2000(*, source: Path, out: Path, options: Options = DEFAULT_OPTIONS) -> None:
    """AFLW2000-3D: 2,000 faces of every pose with 68 points, to test on; subsets by yaw.

    Args:
        source: The folder with the `.jpg` and `.mat` files, or a tar of it.
        out: Folder for the shards; shards that are there already are replaced at the end.
        options: How faces become shards.
    """
    from shards.sources.aflw2000 import read_aflw2000

    with unpacked_source(source, out) as (folder, start_s):
        convert_and_tell(read_aflw2000(folder), out, options, start_s)


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
    convert_and_tell(data_set, out, options, start_s)


PUBLISHED = {"ibug": ibug, "wflw": wflw, "cofw68": cofw68, "aflw2000": aflw2000}
EMBEDDED = {"synthetic": synthetic}
