"""From annotated faces to tar shards and their manifest.

Worker processes cut the faces out; this process writes the tars, in order, so that the bytes are the same
for any number of processes.
"""

import contextlib
import functools
import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from flm.data.manifest import Manifest, ShardEntry
from flm.errors import InputError
from flm.geometry import FaceBox, resample, square_crop, transform_points
from shards.annotation import DataSet, FaceAnnotation
from shards.output import replaced_when_done, shard_name, sync
from shards.plan import PlannedSample, num_straddling_groups, plan_splits
from shards.progress import progress
from shards.workers import map_in_order, prepare_workers, usable_cpus

EncodedSample = dict[str, str | bytes]

FACES_PER_TASK = 8
"""What a worker is handed at once: long against the hand-over, short against the wait of an orderly stop."""

MEMBER_MTIME_S = 946_684_800
"""Start of the year 2000, for every member of every tar, so that equal samples give equal bytes."""

MIN_FACE_PX = 4.0
"""A truth box with no longer side than this shows no face; its annotation is broken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertOptions:
    """How faces become shards, whatever they come from."""

    crop_size_px: int = 256
    """Side of the stored crops."""
    crop_margin: float = 0.5
    """Share of the landmarks' box that is added on each side, as room for augmentation."""
    shard_size: int = 1000
    """Most faces in one tar."""
    processes: int = field(default_factory=usable_cpus)
    """Worker processes; changes nothing in the output. Default: one for each processor."""
    seed: int = 0
    """Another seed holds out other photos for validation and mixes the faces otherwise."""
    validation_share: float = 0.1
    """Share of train that is held out, in whole photos; 0 for none."""

    def __post_init__(self) -> None:
        minimums = {"crop_size_px": 16, "shard_size": 1, "processes": 1}
        for name, minimum in minimums.items():
            if getattr(self, name) < minimum:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is {getattr(self, name)}, the least is {minimum}")
        if not (math.isfinite(self.crop_margin) and 0 <= self.crop_margin <= 5):
            raise ValueError(f"--crop-margin is {self.crop_margin}, expected 0 to 5")
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
    splits = plan_splits(data_set.faces, seed=options.seed, validation_share=options.validation_share)
    if not splits["train"]:
        raise InputError(f"{data_set.source}: no face to train on; check the source and --validation-share")
    schemes = sorted({face.scheme for face in data_set.faces})
    if len(schemes) > 1:
        raise InputError(
            f"{data_set.source}: faces of {' and '.join(schemes)}; convert each scheme by itself"
        )
    ordered = [sample for samples in splits.values() for sample in samples]
    with (
        replaced_when_done(out) as unfinished,
        progress("converting", len(ordered)) as advance,
        contextlib.closing(
            map_in_order(
                functools.partial(encode_faces, options=options),
                [ordered[i : i + FACES_PER_TASK] for i in range(0, len(ordered), FACES_PER_TASK)],
                processes=options.processes,
            )
        ) as encoded_tasks,
    ):
        encoded = itertools.chain.from_iterable(encoded_tasks)
        entries = {
            split: _write_split(encoded, split, len(samples), unfinished, options.shard_size, advance)
            for split, samples in splits.items()
        }
        manifest = _manifest(data_set, splits, entries, options)
        manifest.write(unfinished)
    return manifest


def encode_faces(samples: Sequence[PlannedSample], *, options: ConvertOptions) -> list[EncodedSample]:
    """What the tars hold of these samples.

    Raises:
        InputError: a picture cannot be read, or landmarks do not lie on it.
    """
    return [_encode_face(sample, options) for sample in samples]


def _encode_face(sample: PlannedSample, options: ConvertOptions) -> EncodedSample:
    # Loads torch, which a command line that only parses or refuses should not wait for.
    from flm.data.samples import SampleRecord, encode_sample

    face = sample.face
    picture = face.picture.read()
    _check_landmarks(face, picture)
    truth_box = FaceBox.around(face.landmarks_image)
    image_to_shard = square_crop(truth_box, options.crop_size_px, options.crop_margin)
    record = SampleRecord(
        scheme=face.scheme,
        landmarks_shard=transform_points(face.landmarks_image, image_to_shard),
        image_to_shard=image_to_shard,
        face_box_image=face.face_box_image,
        subset=face.subset,
        source_file=face.source_file,
        group=face.group,
        mirror_of=face.mirror_of,
    )
    return encode_sample(sample.key, resample(picture, image_to_shard, options.crop_size_px), record)


def _check_landmarks(face: FaceAnnotation, picture: UInt8[np.ndarray, "height width 3"]) -> None:
    landmarks = face.landmarks_image
    height, width = picture.shape[:2]
    if not np.isfinite(landmarks).all():
        raise InputError(f"{face.source_file}: a landmark is not a finite number; fix or remove the face")
    size = np.array([width, height])
    # A face may be cut by the picture's edge, but not be a whole picture away from it.
    outside = ((landmarks < -size) | (landmarks > 2 * size)).any(axis=1)
    if outside.any():
        index = int(outside.argmax())
        x, y = landmarks[index]
        raise InputError(
            f"{face.source_file}: landmark {index} at ({x:.0f}, {y:.0f}) is far outside the picture of "
            f"{width} by {height} px; fix or remove the face"
        )
    if FaceBox.around(landmarks).long_side <= MIN_FACE_PX:
        raise InputError(
            f"{face.source_file}: all landmarks lie within {MIN_FACE_PX:g} px; fix or remove the face"
        )


def _write_split(
    encoded: Iterator[EncodedSample],
    split: str,
    num_samples: int,
    folder: Path,
    shard_size: int,
    advance: Callable[[int], None],
) -> tuple[ShardEntry, ...]:
    entries: list[ShardEntry] = []
    for index in range(math.ceil(num_samples / shard_size)):
        num_here = min(shard_size, num_samples - index * shard_size)
        path = folder / shard_name(split, index)
        entries.append(_write_shard(path, itertools.islice(encoded, num_here), num_here, advance))
    return tuple(entries)


def _write_shard(
    path: Path, encoded: Iterator[EncodedSample], num_samples: int, advance: Callable[[int], None]
) -> ShardEntry:
    # Loads torch.
    from webdataset.writer import TarWriter

    with (
        path.open("wb") as file,
        TarWriter(file, encoder=False, mtime=MEMBER_MTIME_S, user="flm", group="flm", mode=0o644) as tar,
    ):
        for sample in encoded:
            tar.write(sample)
            advance(1)
    sync(path)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ShardEntry(name=path.name, num_samples=num_samples, num_bytes=path.stat().st_size, sha256=sha256)


def _manifest(
    data_set: DataSet,
    splits: Mapping[str, Sequence[PlannedSample]],
    entries: Mapping[str, tuple[ShardEntry, ...]],
    options: ConvertOptions,
) -> Manifest:
    straddling = num_straddling_groups(data_set.faces)
    rule = (
        f"{data_set.split_rule}; validation: {options.validation_share:g} of train in whole photos by seeded "
        f"hash, seed {options.seed}"
    )
    if straddling:
        rule += f"; {straddling} photos have faces in both train and test, as the source has them"
    return Manifest(
        scheme=data_set.faces[0].scheme,
        crop_size_px=options.crop_size_px,
        crop_margin=options.crop_margin,
        source=data_set.source,
        split_rule=rule,
        licence=data_set.licence,
        splits=entries,
        subsets={
            split: dict(sorted(Counter(sample.face.subset for sample in samples).items()))
            for split, samples in splits.items()
        },
    )
