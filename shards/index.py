"""A manifest for shards that someone else made: counts, hashes, and how their samples are read."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from flm.data.manifest import MANIFEST_NAME, Manifest, ShardEntry, Split
from flm.data.output import locked
from flm.data.sample_format import SampleFormat, check_stored_crop
from flm.errors import InputError
from flm.faces.subsets import count_subsets
from flm.files import sha256_of
from flm.landmarks import scheme_named
from shards.verification.scan import ShardScan, read_members, scan_shard
from shards.workers import collect, prepare_workers, usable_cpus


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexOptions:
    """What the shards do not say of themselves."""

    scheme: str = "ibug-68"
    """Which point is which."""
    crop_size_px: int = 256
    """Side of the crops that are cut out while training reads."""
    crop_margin: float = 0.5
    """Share of the landmarks' box that they add on each side, as room for augmentation."""
    licence: str = "not stated"
    """Of the pictures; goes into the manifest."""
    processes: int = field(default_factory=usable_cpus)
    """Worker processes."""

    def __post_init__(self) -> None:
        check_stored_crop(self.crop_size_px, self.crop_margin)
        if self.processes < 1:
            raise ValueError(f"--processes is {self.processes}, the least is 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexedShard:
    """What a worker found in a shard."""

    entry: ShardEntry
    subsets: Counter[str]
    faults: tuple[str, ...]
    """Of samples that cannot be used."""


def index(
    folder: Path, *, split: Split, shards: str, sample_format: SampleFormat, options: IndexOptions
) -> tuple[Manifest, tuple[str, ...]]:
    """Write the manifest of a folder of tars, or add a split to it. The tars stay as they are.

    Args:
        folder: with the tars.
        split: what they are; one of that name is replaced.
        shards: which tars, a glob.
        sample_format: where in their samples everything is.
        options: what they do not say.

    Returns:
        The manifest, and what is wrong with samples that cannot be used.

    Raises:
        InputError: there is no such tar, it is damaged, none of its samples can be used, it is in another
            split already, or the folder has a manifest that does not go with this.
    """
    scheme_named(options.scheme)
    paths = _paths(folder, shards)
    if options.processes > 1:
        prepare_workers("shards.index")
    with locked(folder):
        manifest = _manifest_to_fill(folder, split, sample_format, options)
        _refuse_repeated(paths, folder, manifest)
        work = functools.partial(index_shard, folder=folder, manifest=manifest)
        found = collect("indexing", work, paths, processes=options.processes)
        subsets = count_subsets(sum((shard.subsets for shard in found), Counter[str]()).elements())
        manifest = dataclasses.replace(
            manifest,
            splits={**manifest.splits, split: tuple(shard.entry for shard in found)},
            subsets={**manifest.subsets, split: subsets},
        )
        manifest.write(folder)
    return manifest, tuple(fault for shard in found for fault in shard.faults)


def _paths(folder: Path, shards: str) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder; give the one that holds the tars")
    try:
        paths = sorted(path for path in folder.glob(shards) if path.is_file())
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"--shards {shards!r} is no glob inside the folder ({error})") from error
    if not paths:
        raise InputError(f"{folder}: nothing here is called {shards}; choose the tars with --shards")
    return paths


def _manifest_to_fill(
    folder: Path, split: Split, sample_format: SampleFormat, options: IndexOptions
) -> Manifest:
    """The manifest of the folder without this split, or an empty one."""
    empty = Manifest(
        scheme=options.scheme,
        crop_size_px=options.crop_size_px,
        crop_margin=float(options.crop_margin),
        source="shards of someone else",
        split_rule="as the names of the shards say",
        licence=options.licence,
        splits={},
        subsets={},
        sample_format=sample_format,
    )
    if not (folder / MANIFEST_NAME).exists():
        return empty
    there = Manifest.read(folder)
    for name in ("sample_format", "scheme", "crop_size_px", "crop_margin", "licence"):
        before, now = getattr(there, name), getattr(empty, name)
        if before != now:
            what = "is of converted shards" if before is None else f"has {name} {before}, now it is {now}"
            raise InputError(f"{folder / MANIFEST_NAME}: {what}; give the same options, or move it away")
    return dataclasses.replace(
        there,
        splits={name: entries for name, entries in there.splits.items() if name != split},
        subsets={name: counts for name, counts in there.subsets.items() if name != split},
    )


def _refuse_repeated(paths: Sequence[Path], folder: Path, manifest: Manifest) -> None:
    split_of = {entry.name: split for split, entries in manifest.splits.items() for entry in entries}
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if name in split_of:
            raise InputError(
                f"{folder}: {name} is in the split {split_of[name]} already; choose others with --shards"
            )


def index_shard(path: Path, *, folder: Path, manifest: Manifest) -> IndexedShard:
    """Count and hash a shard, and read each annotation; of pictures the headers, and the first one whole.

    Raises:
        InputError: the tar is damaged, or none of its samples can be used.
    """
    name = path.relative_to(folder).as_posix()
    with path.open("rb") as file:
        scan = scan_shard(file, name)
    damage = [str(finding) for finding in scan.findings if finding.key is None]
    if damage:
        raise InputError(f"{folder}: {damage[0]}; fetch it again, or leave it out with --shards")
    subsets, faults = _read_annotations(path, scan, manifest)
    told = tuple(f"{name}: sample {fault}" for fault in faults)
    if not subsets:
        fault = told[0] if told else f"{name}: has no sample"
        raise InputError(f"{folder}: {fault}; `python -m shards index --help` names other formats")
    entry = ShardEntry(
        name=name, num_samples=len(scan.samples), num_bytes=path.stat().st_size, sha256=sha256_of(path)
    )
    return IndexedShard(entry=entry, subsets=subsets, faults=told)


def _read_annotations(path: Path, scan: ShardScan, manifest: Manifest) -> tuple[Counter[str], list[str]]:
    """Usable samples of each subset, and what is wrong with the others."""
    # Loads torch.
    from flm.data.foreign import ForeignSamples, decoder_of
    from flm.data.samples import SampleFormatError

    decoder = cast(ForeignSamples, decoder_of(manifest))
    wanted = (decoder.picture, decoder.annotation)
    subsets: Counter[str] = Counter()
    faults = [f"{one.key!r}: {one.detail}" for one in scan.findings]
    with path.open("rb") as file:
        for key, members in scan.samples.items():
            try:
                if not members.keys() >= {*wanted}:
                    has = ", ".join(f".{extension}" for extension in members)
                    raise SampleFormatError(f"has {has}, expected .{' and .'.join(wanted)}")
                contents = read_members(file, {extension: members[extension] for extension in wanted})
                picture, annotation = (contents[extension] for extension in wanted)
                if subsets:
                    record = decoder.record(key, picture, annotation)
                else:
                    _, record = decoder.decode(key, picture, annotation)
                subsets[record.subset] += 1
            except SampleFormatError as error:
                faults.append(f"{key!r}: {error}")
    return subsets, faults
