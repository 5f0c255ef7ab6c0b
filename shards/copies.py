"""Photos of train that a data set has more than once, under several names, found by their looks.

LFPW has posters and portraits as they were collected from the web, some of them three times, cut and coloured
otherwise. One in train and one in validation would make the validation better than it is.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt64

from shards.annotation import FaceAnnotation
from shards.encode import FACES_PER_TASK, Decoding, cut_out, shard_crop_of
from shards.likeness import alike_pairs, perceptual_hash
from shards.machines import Crew
from shards.workers import collect


def groups_of_copies(
    faces: Sequence[FaceAnnotation],
    crew: Crew,
    *,
    crop_size_px: int,
    crop_margin: float,
    decode: Decoding,
    processes: int,
) -> Mapping[str, str]:
    """Groups whose pictures look the same, each with the one that stands for all of them.

    Every picture is decoded once, by the processes together, so that all of them have the same answer; then
    all pairs are compared, see `alike_pairs`.

    Args:
        faces: those of train are looked at.
        crew: all processes that convert.
        crop_size_px: side of the crops that are compared.
        crop_margin: share of the landmarks' box that they have on each side.
        decode: whether large JPEGs are decoded at a reduced scale.
        processes: worker processes.

    Raises:
        InputError: a picture cannot be read, or landmarks do not lie on it.
    """
    train = [face for face in faces if face.split == "train"]
    tasks = [train[i : i + FACES_PER_TASK] for i in range(0, len(train), FACES_PER_TASK)]
    look = functools.partial(looks_of, crop_size_px=crop_size_px, crop_margin=crop_margin, decode=decode)
    with crew.own_share():
        mine = collect(
            "comparing", look, tasks[crew.process :: crew.num_processes], processes=processes, size_of=len
        )
    shares = crew.gathered(mine)
    in_order = [shares[i % crew.num_processes][i // crew.num_processes] for i in range(len(tasks))]
    looks = np.array(list(itertools.chain.from_iterable(in_order)), np.uint64)
    return merged([face.group for face in train], looks)


def looks_of(
    faces: Sequence[FaceAnnotation], *, crop_size_px: int, crop_margin: float, decode: Decoding
) -> list[int]:
    """The perceptual hash of each face's crop."""
    return [
        perceptual_hash(cut_out(face, shard_crop_of(face, crop_size_px, crop_margin), crop_size_px, decode))
        for face in faces
    ]


def merged(groups: Sequence[str], looks: UInt64[np.ndarray, " faces"]) -> dict[str, str]:
    """From each group that looks like another one to the first by name of all that do, or do by way of one.

    Args:
        groups: of each face.
        looks: hash of each face.
    """
    leaders: dict[str, str] = {}

    def leader(group: str) -> str:
        while leaders.get(group, group) != group:
            group = leaders[group]
        return group

    for one, other, _ in alike_pairs(looks, looks):
        first, second = sorted((leader(groups[one]), leader(groups[other])))
        if first != second:
            leaders[second] = leaders[first] = first
    return {group: leader(group) for group in leaders}
