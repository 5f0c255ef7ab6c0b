"""A sample at random out of tar shards.

Opening a shard scans its tar headers once; after that any sample is one read at a known offset. Reads give
their own offset to the system, so that a file handle is safe to share with forked workers.
"""

import os
import tarfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8

from flm.data.manifest import ShardEntry
from flm.data.samples import OWN_SAMPLES, SampleDecoder, SampleFormatError, SampleRecord, crop_shape
from flm.data.store import ShardStore
from flm.data.tars import member_fault, split_member_name
from flm.errors import OneProcessInputError

VERIFY = "`python -m shards verify` tells all that is wrong, and repairs it"

REMEMBERED_SHARDS = 256
"""Header scans that a reader keeps: about 200 kB for a shard of 1,000 samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One sample, decoded."""

    key: str
    crop_shard: UInt8[np.ndarray, "height width 3"]
    """RGB."""
    record: SampleRecord

    @property
    def crop_shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.crop_shard.shape[:2]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedSample:
    """One sample whose picture is left as it lies in the tar."""

    key: str
    jpeg: bytes
    record: SampleRecord
    crop_shape: tuple[int, int]
    """Height and width, as the picture's header claims."""


class BadSampleError(OneProcessInputError):
    """One sample cannot be used; the rest of its shard may be."""

    sample: str = ""
    """Shard and key."""


@dataclass(frozen=True, slots=True)
class _Member:
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class _ShardIndex:
    keys: tuple[str, ...]
    pictures: tuple[_Member, ...]
    annotations: tuple[_Member, ...]


class ShardReader:
    """Random access to the samples of tar shards.

    Args:
        store: where the tars lie.
        shards: their entries in the manifest; a shard is named by its place in this sequence.
        max_open_files: file handles that are kept open.
        decoder: makes samples out of members.

    Raises:
        OneProcessInputError: (any method) a shard is missing, is no tar, or does not hold what the manifest
            says. The message names it.
        BadSampleError: (from `read`) the sample is malformed. The message names shard and key.
    """

    def __init__(
        self,
        store: ShardStore,
        shards: tuple[ShardEntry, ...],
        *,
        max_open_files: int,
        decoder: SampleDecoder = OWN_SAMPLES,
    ) -> None:
        self.store = store
        self.shards = shards
        self.max_open_files = max_open_files
        self.decoder = decoder
        self._handles: OrderedDict[int, int] = OrderedDict()
        self._indexes: OrderedDict[int, _ShardIndex] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        """A spawned worker opens its own handles."""
        return {**self.__dict__, "_handles": OrderedDict(), "_indexes": OrderedDict()}

    def read(self, shard: int, place: int, out: UInt8[np.ndarray, "size size 3"] | None = None) -> Sample:
        """The sample at a place of a shard; its pixels go to `out` if they are of this size."""
        index = self._index(shard)
        key = index.keys[place]
        try:
            crop, record = self.decoder.decode(key, *self._members(shard, index, place), out)
        except SampleFormatError as error:
            raise self.bad_sample(shard, key, str(error)) from error
        return Sample(key=key, crop_shard=crop, record=record)

    def read_encoded(self, shard: int, place: int) -> EncodedSample:
        """The sample at a place of a shard of this project's own, its picture not decoded."""
        index = self._index(shard)
        key = index.keys[place]
        try:
            jpeg, annotation = self._members(shard, index, place)
            record = SampleRecord.from_json(annotation)
            return EncodedSample(key=key, jpeg=jpeg, record=record, crop_shape=crop_shape(jpeg))
        except SampleFormatError as error:
            raise self.bad_sample(shard, key, str(error)) from error

    def bad_sample(self, shard: int, key: str, fault: str) -> BadSampleError:
        """The error that says what is wrong with a sample."""
        error = BadSampleError(
            f"{self._path(shard)}: sample {key!r}: {fault}; `python -m shards verify --repair` drops such "
            "samples, --loader.max-bad-samples trains on without a few"
        )
        error.sample = f"{self.shards[shard].name}: {key}"
        return error

    def will_need(self, shards: Sequence[int]) -> None:
        """Take note of the shards that are read next, so that those far away are fetched in time."""
        for shard in self._handles.keys() - set(shards):
            # Removed from the cache, it takes up space for as long as it is open.
            if os.fstat(self._handles[shard]).st_nlink == 0:
                os.close(self._handles.pop(shard))
        self.store.will_need([self.shards[shard] for shard in shards])

    def close(self) -> None:
        """Close every file handle; the next read opens what it needs."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_handles"):
            self.close()

    def _members(self, shard: int, index: _ShardIndex, place: int) -> tuple[bytes, bytes]:
        """Picture and annotation."""
        return self._bytes(shard, index.pictures[place]), self._bytes(shard, index.annotations[place])

    def _path(self, shard: int) -> str:
        return f"{self.store.place}/{self.shards[shard].name}"

    def _bytes(self, shard: int, member: _Member) -> bytes:
        data = os.pread(self._handle(shard), member.num_bytes, member.offset)
        if len(data) != member.num_bytes:
            raise SampleFormatError("the shard is cut short")
        return data

    def _handle(self, shard: int) -> int:
        if shard not in self._handles:
            while len(self._handles) >= self.max_open_files:
                os.close(self._handles.popitem(last=False)[1])
            self._handles[shard] = self.store.open(self.shards[shard])
        self._handles.move_to_end(shard)
        return self._handles[shard]

    def _index(self, shard: int) -> _ShardIndex:
        if shard not in self._indexes:
            index = self._scan(shard)
            expected = self.shards[shard].num_samples
            if len(index.keys) != expected:
                raise OneProcessInputError(
                    f"{self._path(shard)}: has {len(index.keys)} samples, the manifest says {expected}; "
                    f"{VERIFY}"
                )
            self._indexes[shard] = index
            if len(self._indexes) > REMEMBERED_SHARDS:
                self._indexes.popitem(last=False)
        self._indexes.move_to_end(shard)
        return self._indexes[shard]

    def _scan(self, shard: int) -> _ShardIndex:
        """Where the members of each sample lie, samples in the order of the tar."""
        samples: dict[str, dict[str, _Member]] = {}
        try:
            with os.fdopen(os.dup(self._handle(shard)), "rb") as file:
                # The duplicate stands where an earlier scan ended.
                file.seek(0)
                self._scan_members(shard, file, samples)
        except tarfile.TarError as error:
            raise OneProcessInputError(f"{self._path(shard)}: not a whole tar ({error}); {VERIFY}") from error
        try:
            return _ShardIndex(
                keys=tuple(samples),
                pictures=tuple(members[self.decoder.picture] for members in samples.values()),
                annotations=tuple(members[self.decoder.annotation] for members in samples.values()),
            )
        except KeyError as error:
            raise OneProcessInputError(
                f"{self._path(shard)}: a sample has no .{error.args[0]} member; {VERIFY}"
            ) from error

    def _scan_members(self, shard: int, file: BinaryIO, samples: dict[str, dict[str, _Member]]) -> None:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if fault := member_fault(member):
                    raise OneProcessInputError(f"{self._path(shard)}: {member.name!r} {fault}; {VERIFY}")
                if member.isdir():
                    continue
                key, extension = split_member_name(member.name)
                place = _Member(offset=member.offset_data, num_bytes=member.size)
                if samples.setdefault(key, {}).setdefault(extension, place) is not place:
                    raise OneProcessInputError(
                        f"{self._path(shard)}: {member.name!r} is there twice; {VERIFY}"
                    )
