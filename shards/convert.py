"""From annotated faces to tar shards and their manifest.

Worker processes cut the faces out; this process writes the tars, in order, so that the bytes are the same
for any number of processes. Under a launcher each process writes its own shards, and the first one the
manifest.

A worker holds one picture at a time, and with it less than 1 GB for the largest JPEG or PNG that is not
refused; this process holds the annotations, about 2.3 kB a face.
"""

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from flm.data.manifest import Manifest, ShardEntry
from flm.data.output import UNFINISHED_NAME, add_shard, entry_of, is_done, replaced_when_done
from flm.data.sample_format import check_stored_crop
from flm.data.tars import TarSample
from flm.errors import InputError
from flm.faces.subsets import count_subsets
from shards.annotation import DataSet
from shards.copies import groups_of_copies
from shards.encode import FACES_PER_TASK, Decoding, encode_faces
from shards.machines import Crew
from shards.plan import PlannedSample, PlannedShard, num_straddling_groups, plan_shards, plan_splits
from shards.progress import progress
from shards.workers import map_in_order, prepare_workers, usable_cpus


def cpus_of_this_process() -> int:
    """This process's share of the machine's processors, where a launcher started several."""
    return max(1, usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertOptions:
    """How faces become shards, whatever they come from."""

    crop_size_px: int = 256
    """Side of the stored crops."""
    crop_margin: float = 0.5
    """Share of the landmarks' box that is added on each side, as room for augmentation."""
    shard_size: int = 1000
    """Most faces in one tar."""
    processes: int = field(default_factory=cpus_of_this_process)
    """Worker processes of each process that a launcher started; changes nothing in the output. Default: one
    for each processor."""
    seed: int = 0
    """Another seed holds out other photos for validation and mixes the faces otherwise."""
    validation_share: float = 0.1
    """Share of train that is held out, in whole photos; 0 for none."""
    group_copies: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Hold out together what looks the same, such as one photo under two names. Each picture of train is
    decoded once more for it, and all pairs are compared: for some hundred thousand faces."""
    decode: Decoding = "reduced"
    """A JPEG that the crop shrinks is decoded at a reduced scale, which is quicker and shows the same; full
    decodes every pixel."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Keep the shards that are done when the conversion is stopped, and go on from those of an earlier one:
    only shards that are missing, damaged or made from something else are made anew."""

    def __post_init__(self) -> None:
        check_stored_crop(self.crop_size_px, self.crop_margin)
        for flag, value in (("--shard-size", self.shard_size), ("--processes", self.processes)):
            if value < 1:
                raise ValueError(f"{flag} is {value}, the least is 1")
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"--validation-share is {self.validation_share}, expected 0 up to below 1")


def convert(data_set: DataSet, out: Path, options: ConvertOptions) -> Manifest:
    """Write the shards of a data set and their manifest, whole or not at all.

    Args:
        data_set: its faces' pictures are read once each, by the workers.
        out: folder; shards that are there already are replaced at the end.
        options: equal faces and options give byte-identical tars.

    Raises:
        InputError: a picture cannot be read, landmarks do not lie on it, there is no face to train on, or
            `out` cannot be written; `out` then has what it had before.
    """
    if options.processes > 1:
        prepare_workers("flm.data.samples")
    crew = Crew.assembled()
    splits = _planned_splits(data_set, crew, options)
    shards = plan_shards(
        splits,
        shard_size=options.shard_size,
        options=f"{options.crop_size_px} {options.crop_margin} {options.decode} {data_set.source}",
    )
    with _folder_of_crew(out, crew, keep_unfinished=options.resume) as unfinished:
        with crew.own_share():
            _write_shards(shards[crew.process :: crew.num_processes], unfinished, out, options)
        crew.wait_for_all()
        manifest = _manifest(
            data_set, splits, [entry_of(unfinished, shard.name) for shard in shards], options
        )
        if crew.is_first:
            manifest.write(unfinished)
    crew.wait_for_all()
    return manifest


def _planned_splits(
    data_set: DataSet, crew: Crew, options: ConvertOptions
) -> Mapping[str, Sequence[PlannedSample]]:
    copies: Mapping[str, str] = {}
    if options.group_copies:
        copies = groups_of_copies(
            data_set.faces,
            crew,
            crop_size_px=options.crop_size_px,
            crop_margin=options.crop_margin,
            decode=options.decode,
            processes=options.processes,
        )
    splits = plan_splits(
        data_set.faces, seed=options.seed, validation_share=options.validation_share, copies=copies
    )
    if not data_set.faces:
        raise InputError(f"{data_set.source}: there is no face; check the source")
    schemes = sorted({face.scheme for face in data_set.faces})
    if len(schemes) > 1:
        raise InputError(
            f"{data_set.source}: faces of {' and '.join(schemes)}; convert each scheme by itself"
        )
    return splits


@contextlib.contextmanager
def _folder_of_crew(out: Path, crew: Crew, *, keep_unfinished: bool) -> Iterator[Path]:
    """The folder that all processes write into; the first one makes it and publishes it."""
    if not crew.is_first:
        crew.wait_for_all()
        yield out / UNFINISHED_NAME
        return
    with replaced_when_done(out, keep_unfinished=keep_unfinished) as unfinished:
        crew.wait_for_all()
        yield unfinished


def _write_shards(
    shards: Sequence[PlannedShard], unfinished: Path, out: Path, options: ConvertOptions
) -> None:
    """Write those of the shards that are not there yet, with an entry beside each."""
    missing = [
        shard
        for shard in shards
        if not (options.resume and is_done(shard.name, shard.made_from, unfinished, out))
    ]
    samples = [sample for shard in missing for sample in shard.samples]
    encode = functools.partial(
        encode_faces,
        crop_size_px=options.crop_size_px,
        crop_margin=options.crop_margin,
        decode=options.decode,
    )
    tasks = [samples[i : i + FACES_PER_TASK] for i in range(0, len(samples), FACES_PER_TASK)]
    with (
        progress("converting", len(samples)) as advance,
        contextlib.closing(map_in_order(encode, tasks, processes=options.processes)) as encoded_tasks,
    ):
        encoded = _counted(itertools.chain.from_iterable(encoded_tasks), advance)
        for shard in missing:
            part = itertools.islice(encoded, len(shard.samples))
            add_shard(unfinished, shard.name, part, made_from=shard.made_from)


def _counted(encoded: Iterable[TarSample], advance: Callable[[int], None]) -> Iterator[TarSample]:
    for sample in encoded:
        yield sample
        advance(1)


def _manifest(
    data_set: DataSet,
    splits: Mapping[str, Sequence[PlannedSample]],
    entries: Sequence[ShardEntry],
    options: ConvertOptions,
) -> Manifest:
    straddling = num_straddling_groups(data_set.faces)
    rule = (
        f"{data_set.split_rule}; validation: {options.validation_share:g} of train in whole photos by seeded "
        f"hash, seed {options.seed}"
    )
    if options.group_copies:
        rule += "; photos that look the same are held out together"
    if straddling:
        rule += f"; {straddling} photos or people have faces in both train and test, as the source has them"
    return Manifest(
        scheme=data_set.faces[0].scheme,
        crop_size_px=options.crop_size_px,
        crop_margin=options.crop_margin,
        source=data_set.source,
        split_rule=rule,
        licence=data_set.licence,
        splits={
            split: tuple(entry for entry in entries if entry.name.startswith(f"{split}-")) for split in splits
        },
        subsets={
            split: count_subsets(sample.face.subset for sample in samples)
            for split, samples in splits.items()
        },
    )
