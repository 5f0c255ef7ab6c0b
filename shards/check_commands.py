"""`python -m shards verify`, `index` and `merge`. Parsing only.

What is heavy is imported inside the functions, so that the help comes at once.
"""

import time
from pathlib import Path
from typing import Annotated

import tyro

from flm.data.manifest import Split
from flm.data.sample_format import SampleFormat
from flm.errors import InputError
from shards.index import IndexOptions
from shards.workers import usable_cpus

Folder = Annotated[Path, tyro.conf.Positional]
Folders = Annotated[tuple[Path, ...], tyro.conf.Positional]
Data = Annotated[str, tyro.conf.Positional]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Format = Annotated[SampleFormat, tyro.conf.arg(name="")]
Options = Annotated[IndexOptions, tyro.conf.arg(name="")]
"""Without a name, so that the flags have no prefix."""

DEFAULT_FORMAT = SampleFormat()
DEFAULT_OPTIONS = IndexOptions()
FAULTS_TOLD = 3


def verify(data: Data, *, repair: Flag = False, processes: int | None = None) -> bool:
    """Check everything about shards: hashes, tars, each sample, leaks between splits.

    Errors give exit code 1. Warnings do not: they are for you to judge, such as pictures that look the same
    in two splits.

    Such as:
      python -m shards verify data/300w
      python -m shards verify data/300w --repair

    Args:
        data: Folder of shards, or where it was uploaded: https://…, s3://…, gs://… or hf://datasets/…
        repair: Drop what is bad and rewrite its shards; repair-report.json says what was dropped and why.
        processes: Worker processes. Default: one for each processor.

    Returns:
        Whether there is no error, after a repair.
    """
    from flm.data.store import open_store
    from shards.verification.repair import repair_shards
    from shards.verify import print_verification
    from shards.verify import verify as verify_store

    if processes is not None and processes < 1:
        raise InputError(f"--processes is {processes}, the least is 1")
    start_s = time.perf_counter()
    found = verify_store(open_store(data), processes=processes or usable_cpus())
    print_verification(found, duration_s=time.perf_counter() - start_s)
    if repair:
        print(repair_shards(found))
    return repair or not found.errors


def index(
    data: Folder,
    *,
    split: Split,
    shards: str = "*.tar",
    sample_format: Format = DEFAULT_FORMAT,
    options: Options = DEFAULT_OPTIONS,
) -> None:
    """Train on WebDataset tars that someone else made: write a manifest beside them.

    Each sample has a picture of any size and its landmarks. Faces are cut out while training reads.

    Such as:
      python -m shards index faces --split train --shards 'train-*.tar' --landmarks-key keypoints
      python -m shards index faces --split validation --shards 'val-*.tar' --landmarks-key keypoints

    Args:
        data: Folder with the tars, which stay as they are.
        split: What these tars are; others are added by another call. Training needs train and validation.
        shards: Which tars of the folder, as a glob.
        sample_format: How their samples say what ours say.
        options: What they do not say.
    """
    from shards.index import index as index_folder

    manifest, faults = index_folder(
        data, split=split, shards=shards, sample_format=sample_format, options=options
    )
    for fault in faults[:FAULTS_TOLD]:
        print(f"cannot be used: {fault}")
    if faults:
        print(f"{len(faults):,} samples cannot be used; `python -m shards verify {data} --repair` drops them")
    counts = ", ".join(f"{manifest.num_samples(name):,} {name}" for name in manifest.splits)
    print(f"{data}: {counts} faces in {len(manifest.splits[split]):,} shards of {split}")


def merge(folders: Folders, *, out: Path, only_train: tuple[Path, ...] = ()) -> None:
    """Put several folders of shards into one data set. No face is read, and tars take no room twice.

    Such as:
      python -m shards merge data/300w data/afw-more --out data/all
      python -m shards merge data/300w data/300w --only-train data/youtube-relabelled --out data/mixed

    Args:
        folders: Of shards; their splits are put together. One that is named twice comes twice an epoch.
        out: Folder of the new shards.
        only_train: Folders of which only the training split goes along, so that validation and test stay.
    """
    from shards.merge import merge as merge_folders

    manifest = merge_folders(folders, out, only_train=only_train)
    counts = ", ".join(f"{manifest.num_samples(name):,} {name}" for name in manifest.splits)
    print(f"{out}: {counts} faces")
    print(f"licence: {manifest.licence}")
