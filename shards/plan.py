"""Which face goes into which split, under which key and in which order: pure functions of faces and seed.

Everything is decided by hashes of names, never by the order in which faces were found, so that every machine
that plans the same faces has the same plan.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType

from flm.data.manifest import SPLITS
from shards.annotation import FaceAnnotation

MAX_KEY_LENGTH = 80
"""With room for a number and `.json`, below the 100 bytes that a tar header has for a name."""


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """A face and the key that it will have in the tar."""

    key: str
    face: FaceAnnotation


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedShard:
    """A tar that is to be written."""

    split: str
    index: int
    samples: Sequence[PlannedSample]
    made_from: str
    """Hash of all that decides its bytes, but for the pictures' own."""

    @property
    def name(self) -> str:
        """Of the tar."""
        return f"{self.split}-{self.index:06d}.tar"


def plan_shards(
    splits: Mapping[str, Sequence[PlannedSample]], *, shard_size: int, options: str
) -> list[PlannedShard]:
    """The tars of all splits, each of at most that many samples.

    Args:
        splits: as `plan_splits` gives them.
        shard_size: samples of a shard.
        options: what else decides the bytes, as text.
    """
    shards = []
    for split, samples in splits.items():
        for index, start in enumerate(range(0, len(samples), shard_size)):
            part = samples[start : start + shard_size]
            shards.append(
                PlannedShard(split=split, index=index, samples=part, made_from=_hash_of(part, options))
            )
    return shards


def _hash_of(samples: Sequence[PlannedSample], options: str) -> str:
    digest = hashlib.sha256(options.encode())
    for sample in samples:
        face = sample.face
        facts = (sample.key, face.source_file, face.scheme, face.face_box_image, face.subset, face.group)
        digest.update(repr((*facts, face.mirror_of)).encode())
        digest.update(face.landmarks_image.tobytes())
    return digest.hexdigest()


def plan_splits(
    faces: Iterable[FaceAnnotation],
    *,
    seed: int,
    validation_share: float,
    copies: Mapping[str, str] = MappingProxyType({}),
) -> Mapping[str, Sequence[PlannedSample]]:
    """The samples of each of `SPLITS`, mixed, so that a shard shows a bit of everything.

    Args:
        faces: of the splits `train`, `test` and perhaps `validation`.
        seed: another seed holds out other photos and mixes otherwise.
        validation_share: of train, see `hold_out`; unused where the faces name their validation split.
        copies: from a group to the one that it is held out with, see `shards.copies`.
    """
    samples = _with_keys(faces)
    splits = {split: [sample for sample in samples if sample.face.split == split] for split in SPLITS}
    if not splits["validation"]:
        groups = [copies.get(sample.face.group, sample.face.group) for sample in splits["train"]]
        held_out = hold_out(Counter(groups), share=validation_share, seed=seed)
        of_train = list(zip(splits["train"], groups, strict=True))
        splits["validation"] = [sample for sample, group in of_train if group in held_out]
        splits["train"] = [sample for sample, group in of_train if group not in held_out]
    return {
        split: sorted(samples, key=lambda sample: _rank(seed, sample.key))
        for split, samples in splits.items()
    }


def hold_out(group_sizes: Mapping[str, int], *, share: float, seed: int) -> frozenset[str]:
    """Whole groups that together have as many faces as the share says, rounded down.

    Groups are taken in the order of a seeded hash; one that would overshoot is passed over, so the number is
    met exactly wherever small groups are left.
    """
    # The tiny addend keeps 0.29 × 100 = 28.999… from losing a face.
    wanted = int(share * sum(group_sizes.values()) + 1e-9)
    chosen = set[str]()
    for group in sorted(group_sizes, key=lambda group: _rank(seed, group)):
        if group_sizes[group] <= wanted:
            chosen.add(group)
            wanted -= group_sizes[group]
    return frozenset(chosen)


def num_straddling_groups(faces: Iterable[FaceAnnotation]) -> int:
    """Photos that the source itself has in both train and test."""
    splits_of_group: dict[str, set[str]] = {}
    for face in faces:
        splits_of_group.setdefault(face.group, set()).add(face.split)
    return sum({"train", "test"} <= splits for splits in splits_of_group.values())


def _with_keys(faces: Iterable[FaceAnnotation]) -> list[PlannedSample]:
    """Keys are the path inside the data set, without what a tar member's key cannot have."""
    taken = set[str]()
    # As where every name is of letters that a key cannot have: not all of them are tried again for each.
    last_number: dict[str, int] = {}
    samples: list[PlannedSample] = []
    for face in faces:
        path = str(PurePosixPath(face.source_file).with_suffix(""))
        name = re.sub(r"[^A-Za-z0-9_-]", "_", path.replace("/", "-"))[-MAX_KEY_LENGTH:]
        number = last_number.get(name, 0) + 1
        key = name if number == 1 else f"{name}-{number}"
        while key in taken:
            number += 1
            key = f"{name}-{number}"
        taken.add(key)
        last_number[name] = number
        samples.append(PlannedSample(key, face))
    return samples


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
