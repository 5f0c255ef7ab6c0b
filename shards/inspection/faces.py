"""Faces of shards, read on several processes; their pictures stay where they are."""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from flm.data.foreign import decoder_of
from flm.data.manifest import Manifest, ShardEntry
from flm.data.reader import Sample, ShardReader
from flm.data.samples import SampleDecoder
from flm.data.store import ShardStore
from flm.faces.pose import HeadPose, head_pose
from flm.geometry import FaceBox, transform_points
from flm.landmarks import scheme_named
from shards.workers import collect, prepare_workers

FACES_PER_TASK = 200
"""What a worker is handed at once: long against the scan of a shard's headers, short against the whole."""

MAX_OPEN_FILES = 8

BLACK_LEVEL = 24
"""Of 255. What lies outside a picture was stored as 0; JPEG lifts some pixels near the edge."""

BLACK_SHARE = 0.95
"""Of the pixels of a row or column that lies outside the picture; the rest is what JPEG spreads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FacePlace:
    """Where a face lies in the shards."""

    split: str
    shard: ShardEntry
    place: int


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectedFace:
    """What is kept of a face: all but its picture."""

    where: FacePlace
    key: str
    subset: str
    source_file: str
    landmarks_shard: Float[np.ndarray, "points 2"]
    """Px of the stored crop."""
    face_size_px: float
    """Longer side of the landmarks' box, px of the source picture."""
    outside_share: float
    """Of the stored crop, black since the source picture ends."""
    pose: HeadPose | None
    """Where the scheme has a mean head."""


def places_of(manifest: Manifest, max_faces: int) -> list[FacePlace]:
    """Faces spread evenly over all shards, the same each time; all faces where they are few enough."""
    shards = [(split, shard) for split, shards in manifest.splits.items() for shard in shards]
    ends = np.cumsum([shard.num_samples for _, shard in shards])
    num_faces = int(ends[-1]) if len(ends) else 0
    chosen = np.linspace(0, num_faces, min(num_faces, max_faces), endpoint=False).astype(np.int64)
    which = np.searchsorted(ends, chosen, side="right")
    return [
        FacePlace(
            split=shards[index][0],
            shard=shards[index][1],
            place=int(number - ends[index]) + shards[index][1].num_samples,
        )
        for number, index in zip(chosen, which, strict=True)
    ]


def read_faces(store: ShardStore, places: Sequence[FacePlace], *, processes: int) -> list[InspectedFace]:
    """The faces at these places, in order.

    Args:
        store: of the shards.
        places: neighbours should lie in one shard, since its headers are scanned for each run of them.
        processes: that read.

    Raises:
        InputError: a shard or a sample is not what the manifest says; names both.
    """
    if processes > 1:
        prepare_workers("flm.data.reader")
    decoder = decoder_of(store.manifest)
    tasks = [places[start : start + FACES_PER_TASK] for start in range(0, len(places), FACES_PER_TASK)]
    work = functools.partial(_inspect, store, decoder)
    faces = collect("reading", work, tasks, processes=processes, size_of=len)
    return list(itertools.chain.from_iterable(faces))


def read_samples(store: ShardStore, places: Sequence[FacePlace], decoder: SampleDecoder) -> Iterator[Sample]:
    """The samples at these places, pictures included, one at a time.

    Raises:
        InputError: as for `read_faces`.
    """
    shards = tuple(dict.fromkeys(where.shard for where in places))
    numbers = {shard: number for number, shard in enumerate(shards)}
    reader = ShardReader(store, shards, max_open_files=MAX_OPEN_FILES, decoder=decoder)
    with contextlib.closing(reader):
        for where in places:
            yield reader.read(numbers[where.shard], where.place)


def _inspect(store: ShardStore, decoder: SampleDecoder, places: Sequence[FacePlace]) -> list[InspectedFace]:
    samples = read_samples(store, places, decoder)
    return [_inspect_one(where, sample) for where, sample in zip(places, samples, strict=True)]


def _inspect_one(where: FacePlace, sample: Sample) -> InspectedFace:
    record = sample.record
    landmarks_image = transform_points(record.landmarks_shard, np.linalg.inv(record.image_to_shard))
    return InspectedFace(
        where=where,
        key=sample.key,
        subset=record.subset,
        source_file=record.source_file,
        landmarks_shard=record.landmarks_shard,
        face_size_px=FaceBox.around(landmarks_image).long_side,
        outside_share=outside_share(sample.crop_shard),
        pose=head_pose(record.landmarks_shard, scheme_named(record.scheme)),
    )


def outside_share(crop: UInt8[np.ndarray, "height width 3"]) -> float:
    """The share of a crop that is a black border: whole rows and columns, counted from the edges inwards.

    A picture that is itself black at its edge looks the same.
    """
    black = crop.max(axis=2) < BLACK_LEVEL
    height, width = black.shape
    top, bottom = _border(black)
    if top == height:
        return 1.0
    left, right = _border(black[top : height - bottom].T)
    return 1 - (height - top - bottom) * (width - left - right) / (height * width)


def _border(black: Bool[np.ndarray, "rows columns"]) -> tuple[int, int]:
    """How many rows at the start and at the end are black."""
    inside = np.flatnonzero(black.mean(axis=1) < BLACK_SHARE)
    return (int(inside[0]), len(black) - 1 - int(inside[-1])) if len(inside) else (len(black), 0)
