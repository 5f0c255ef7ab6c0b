"""All that can be checked of one shard by itself. Runs in worker processes."""

import hashlib
import os
import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt64

from flm.data.foreign import decoder_of
from flm.data.manifest import Manifest, ShardEntry
from flm.data.samples import OWN_SAMPLES, SampleDecoder, SampleFormatError, SampleRecord
from flm.data.store import ShardStore
from flm.errors import OneProcessInputError
from flm.faces.subsets import listed_subsets
from flm.geometry import FaceBox, square_crop, transform_points
from shards.likeness import perceptual_hash
from shards.verification.findings import Finding, Kind
from shards.verification.scan import read_members, scan_shard

MOST_OFF_PX = 0.5
"""How far the crop of a face may lie from where its landmarks put it; rounding gives a thousandth."""

MOST_OFF_SHARE = 0.25
"""The same as a share of the crop, where a network found the landmarks after the crop was cut out."""

MOST_FROM_BOX = 1.0
"""How far the landmarks' centre may lie from the face box's, in longer sides of the larger of the two."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard of a manifest, for a worker."""

    store: ShardStore
    manifest: Manifest
    """Without its splits, which are the large part of it."""
    split: str
    entry: ShardEntry


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleFacts:
    """What is compared across shards: about 150 bytes a sample, most of it the key."""

    keys: tuple[str, ...] = ()
    numbers: UInt64[np.ndarray, "samples 5"] = field(default_factory=lambda: np.empty((0, 5), np.uint64))
    """Hashes, see the properties; 0 stands for nothing."""

    @property
    def groups(self) -> UInt64[np.ndarray, " samples"]:
        """Of the photo that a sample shows."""
        return self.numbers[:, 0]

    @property
    def source_files(self) -> UInt64[np.ndarray, " samples"]:
        """Of the picture's path in its data set."""
        return self.numbers[:, 1]

    @property
    def mirrored_files(self) -> UInt64[np.ndarray, " samples"]:
        """Of the original's path, where the sample is a mirror twin."""
        return self.numbers[:, 2]

    @property
    def annotations(self) -> UInt64[np.ndarray, " samples"]:
        """Of the landmarks."""
        return self.numbers[:, 3]

    @property
    def looks(self) -> UInt64[np.ndarray, " samples"]:
        """Perceptual, of the crop."""
        return self.numbers[:, 4]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardReport:
    """What a worker found."""

    split: str
    entry: ShardEntry | None
    """As the file is: its good samples, bytes and sha256; None where there is no file."""
    findings: tuple[Finding, ...]
    facts: SampleFacts = field(default_factory=SampleFacts)
    """Of the good samples, in the order of the tar."""
    subsets: Counter[str] = field(default_factory=Counter)


def check_shard(task: ShardTask) -> ShardReport:
    """Check a shard's file, its tar and each of its samples; reads it in bounded memory."""
    entry = task.entry
    samples = _Samples(task)
    try:
        with os.fdopen(task.store.open(entry), "rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            file.seek(0)  # just fetched, it stands at its end
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            scan = scan_shard(file, entry.name)
            unusable = {one.key for one in scan.findings if one.kind is not Kind.REPEATED_MEMBER}
            for key, members in scan.samples.items():
                if key not in unusable:
                    samples.check(key, members, file)
    except (OneProcessInputError, OSError) as error:
        missing = Finding(Kind.MISSING_SHARD, entry.name, None, str(error))
        return ShardReport(split=task.split, entry=None, findings=(missing,))
    findings = [*scan.findings, *samples.findings]
    if num_bytes != entry.num_bytes:
        told = f"{num_bytes:,} bytes, the manifest says {entry.num_bytes:,}"
        findings.append(Finding(Kind.WRONG_SIZE, entry.name, None, told))
    if sha256 != entry.sha256:
        told = f"{sha256[:12]}…, the manifest says {entry.sha256[:12]}…"
        findings.append(Finding(Kind.WRONG_HASH, entry.name, None, told))
    if len(scan.samples) != entry.num_samples:
        told = f"{len(scan.samples):,} samples, the manifest says {entry.num_samples:,}"
        findings.append(Finding(Kind.WRONG_COUNT, entry.name, None, told))
    return ShardReport(
        split=task.split,
        entry=ShardEntry(
            name=entry.name,
            num_samples=len(samples.keys),
            num_bytes=num_bytes,
            sha256=sha256,
            made_from=entry.made_from,
        ),
        findings=tuple(findings),
        facts=SampleFacts(
            keys=tuple(samples.keys), numbers=np.array(samples.numbers, np.uint64).reshape(-1, 5)
        ),
        subsets=samples.subsets,
    )


class _Samples:
    """Checks sample after sample and remembers what it found."""

    def __init__(self, task: ShardTask) -> None:
        self.manifest = task.manifest
        self.shard = task.entry.name
        self.decoder: SampleDecoder = decoder_of(task.manifest)
        self.is_own = self.decoder == OWN_SAMPLES
        self.findings: list[Finding] = []
        self.keys: list[str] = []
        self.numbers: list[tuple[int, ...]] = []
        self.subsets: Counter[str] = Counter()

    def check(self, key: str, members: Mapping[str, tarfile.TarInfo], file: BinaryIO) -> None:
        """Check one sample; a good one is remembered, of another the first fault."""
        for extension in (self.decoder.picture, self.decoder.annotation):
            if extension not in members:
                self._tell(Kind.INCOMPLETE_SAMPLE, key, f"has no .{extension}")
                return
        wanted = {name: members[name] for name in (self.decoder.picture, self.decoder.annotation)}
        contents = read_members(file, wanted)
        try:
            crop, record = self.decoder.decode(
                key, contents[self.decoder.picture], contents[self.decoder.annotation]
            )
        except SampleFormatError as error:
            self._tell(Kind.BAD_SAMPLE, key, str(error))
            return
        fault = self._fault(crop, record) if self.is_own else None
        if fault is not None:
            self._tell(fault[0], key, fault[1])
            return
        self.keys.append(key)
        self.numbers.append(_numbers_of(crop, record))
        self.subsets.update(listed_subsets(record.subset))

    def _tell(self, kind: Kind, key: str, detail: str) -> None:
        self.findings.append(Finding(kind, self.shard, key, detail))

    def _fault(self, crop: np.ndarray, record: SampleRecord) -> tuple[Kind, str] | None:
        size, scheme = self.manifest.crop_size_px, self.manifest.scheme
        height, width = crop.shape[:2]
        if record.scheme != scheme or (height, width) != (size, size):
            return Kind.OTHER_THAN_MANIFEST, (
                f"{record.scheme} at {width}x{height} px, the manifest says {scheme} at {size}x{size} px"
            )
        most_off_px = MOST_OFF_SHARE * size if self.manifest.labels else MOST_OFF_PX
        fault = _misplaced(record, size, self.manifest.crop_margin, most_off_px)
        return (Kind.MISPLACED_FACE, fault) if fault is not None else None


def _misplaced(record: SampleRecord, size_px: int, margin: float, most_off_px: float) -> str | None:
    """Why landmarks, matrix and face box cannot be of one face, cut out as conversion does it."""
    landmarks_image = transform_points(record.landmarks_shard, np.linalg.inv(record.image_to_shard))
    truth_box = FaceBox.around(landmarks_image)
    expected = square_crop(truth_box, size_px, margin)
    edge = size_px - 1.0
    corners = np.array([[0.0, 0.0], [edge, 0.0], [edge, edge], [0.0, edge]])
    corners_image = transform_points(corners, np.linalg.inv(expected))
    off_px = float(np.abs(transform_points(corners_image, record.image_to_shard) - corners).max())
    if not off_px <= most_off_px:
        return f"its crop lies {off_px:.1f} px from where the landmarks and the margin {margin:g} put it"
    box = record.face_box_image
    away = max(abs(truth_box.center_x - box.center_x), abs(truth_box.center_y - box.center_y))
    if away > MOST_FROM_BOX * max(box.long_side, truth_box.long_side):
        return f"the landmarks lie {away:.0f} px of the source picture away from the face box"
    return None


def _numbers_of(crop: np.ndarray, record: SampleRecord) -> tuple[int, ...]:
    landmarks = np.round(record.landmarks_shard, 3).tobytes()
    return (
        _number(record.group.encode()),
        _number(record.source_file.encode()),
        _number(record.mirror_of.encode()) if record.mirror_of else 0,
        _number(landmarks),
        perceptual_hash(crop),
    )


def _number(content: bytes) -> int:
    """64 bits; among ten million, two different contents have the same number once in 370,000 data sets."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
