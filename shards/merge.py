"""Several folders of shards as one data set, without reading a face: tars stay as they are, byte for byte."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from flm.data.manifest import SPLITS, Manifest, ShardEntry
from flm.data.output import link_or_copy, replaced_when_done
from flm.errors import InputError

ALIKE = ("scheme", "crop_size_px", "crop_margin", "sample_format")
"""What all samples of a data set share."""


def merge(folders: Sequence[Path], out: Path, *, only_train: Sequence[Path] = ()) -> Manifest:
    """Put the shards of several folders into one.

    A folder that is named twice is read twice in every epoch. Tars get new numbers, in the order of the
    folders, and are second names of the same bytes where the disk can do that.

    Args:
        folders: of shards; all their splits go along.
        out: folder; shards that are there already are replaced at the end.
        only_train: folders of which only the training split goes along, after the others.

    Returns:
        What was written.

    Raises:
        InputError: a folder has no shards, they differ in landmark scheme or stored crop, or `out` is one of
            them or cannot be written.
    """
    manifests = [Manifest.read(folder) for folder in (*folders, *only_train)]
    _check(folders, only_train, manifests, out)
    splits: dict[str, tuple[ShardEntry, ...]] = {}
    with replaced_when_done(out) as unfinished:
        for split in dict.fromkeys((*SPLITS, *(name for one in manifests for name in one.splits))):
            places = (*folders, *only_train) if split == "train" else folders
            found = [
                (folder / entry.name, entry)
                for folder, one in zip(places, manifests, strict=False)  # of the others only train
                for entry in one.splits.get(split, ())
            ]
            splits[split] = tuple(
                _put(path, entry, unfinished / f"{split}-{number:06d}.tar")
                for number, (path, entry) in enumerate(found)
            )
        manifest = _manifest(manifests, splits, num_whole=len(folders))
        manifest.write(unfinished)
    return manifest


def _check(
    folders: Sequence[Path], only_train: Sequence[Path], manifests: Sequence[Manifest], out: Path
) -> None:
    places = (*folders, *only_train)
    if len(places) < 2:
        raise InputError("one folder of shards is nothing to merge; name at least two")
    for folder, one in zip(places, manifests, strict=True):
        if folder.resolve() == out.resolve():
            raise InputError(f"--out {out}: is one of the folders that are read; choose another")
        for name in ALIKE:
            theirs, ours = getattr(one, name), getattr(manifests[0], name)
            if theirs != ours:
                raise InputError(
                    f"{folder}: its {name} is {theirs}, that of {places[0]} is {ours}; convert them alike"
                )


def _put(source: Path, entry: ShardEntry, path: Path) -> ShardEntry:
    try:
        link_or_copy(source, path)
    except FileNotFoundError as error:
        raise InputError(f"{source}: is in the manifest there and not in the folder; fetch it") from error
    return dataclasses.replace(entry, name=path.name)


def _manifest(
    manifests: Sequence[Manifest], splits: dict[str, tuple[ShardEntry, ...]], *, num_whole: int
) -> Manifest:
    subsets: dict[str, Counter[str]] = {split: Counter() for split in splits}
    for number, one in enumerate(manifests):
        for split, counts in one.subsets.items():
            if number < num_whole or split == "train":
                subsets[split].update(counts)
    return dataclasses.replace(
        manifests[0],
        source=" + ".join(one.source for one in manifests),
        split_rule=_each(one.split_rule for one in manifests),
        licence=_each(one.licence for one in manifests),
        labels=_each(one.labels for one in manifests),
        splits=splits,
        subsets={split: dict(sorted(counts.items())) for split, counts in subsets.items()},
    )


def _each(texts: Iterable[str]) -> str:
    """Every text once."""
    return "; ".join(dict.fromkeys(filter(None, texts)))
