"""`python -m shards COMMAND`: make tar shards out of data sets. Parsing only.

What is heavy is imported inside the commands, so that the help comes at once.
"""

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from flm.command_line import run_command
from flm.errors import exits_on_input_error
from shards.annotation import DataSet
from shards.convert import ConvertOptions
from shards.sources.ibug import Mirrors, Protocol

PROGRAM = "python -m shards"

Options = Annotated[ConvertOptions, tyro.conf.arg(name="")]
"""Without a name, so that the flags have no prefix."""

DEFAULT_OPTIONS = ConvertOptions()


def ibug(
    *,
    source: Path,
    out: Path,
    protocol: Protocol = "300w",
    mirrors: Mirrors = "drop",
    allow_missing: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
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
    from shards.unpack import unpacked

    start_s = time.perf_counter()
    with unpacked(source, beside=out.parent) as folder:
        data_set = read_ibug(folder, protocol=protocol, mirrors=mirrors, allow_missing=allow_missing)
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


def _convert(data_set: DataSet, out: Path, options: ConvertOptions, start_s: float) -> None:
    from shards.convert import convert
    from shards.summary import print_summary

    manifest = convert(data_set, out, options)
    duration_s = time.perf_counter() - start_s
    print_summary(manifest, out, left_out=data_set.left_out, duration_s=duration_s)


SOURCES = {"ibug": ibug, "synthetic": synthetic}


def convert() -> None:
    """Make shards out of a data set; `python -m shards convert --help` names the sources."""


COMMANDS = {"convert": convert}


@exits_on_input_error
def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command line; that of this process if None."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["convert"]:
        run_command(SOURCES, arguments[1:], program=f"{PROGRAM} convert")
    else:
        run_command(COMMANDS, arguments, program=PROGRAM)


if __name__ == "__main__":
    # A job that is told to end leaves its folders as tidy as one that fails.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
