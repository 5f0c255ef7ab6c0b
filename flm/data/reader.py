"""A sample at random out of tar shards.

Opening a shard scans its tar headers once; after that any sample is one read at a known offset. Reads give
their own offset to the system, so that a file handle is safe to share with forked workers.
"""

import os
import tarfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from flm.data.manifest import ShardEntry
from flm.data.samples import SampleFormatError, SampleRecord, decode_crop
from flm.errors import OneProcessInputError

REMEMBERED_SHARDS = 256
"""Header scans that a reader keeps: about 200 kB for a shard of 1,000 samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One sample, decoded."""

    key: str
    crop_shard: UInt8[Tensor, "3 height width"]
    """RGB."""
    record: SampleRecord


@dataclass(frozen=True, slots=True)
class _Member:
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class _ShardIndex:
    keys: tuple[str, ...]
    pictures: tuple[_Member, ...]
    records: tuple[_Member, ...]


class ShardReader:
    """Random access to the samples of local tar shards.

    Args:
        folder: where the tars lie.
        shards: their entries in the manifest; a shard is named by its place in this sequence.
        max_open_files: file handles that are kept open.

    Raises:
        OneProcessInputError: (any method) a shard is missing, is no tar, or does not hold what the manifest
            says; a sample is malformed. The message names shard and key.
    """

    def __init__(self, folder: Path, shards: tuple[ShardEntry, ...], *, max_open_files: int) -> None:
        self.folder = folder
        self.shards = shards
        self.max_open_files = max_open_files
        self._handles: OrderedDict[int, int] = OrderedDict()
        self._indexes: OrderedDict[int, _ShardIndex] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        """A spawned worker opens its own handles."""
        return {**self.__dict__, "_handles": OrderedDict(), "_indexes": OrderedDict()}

    def read(self, shard: int, place: int) -> Sample:
        """The sample at a place of a shard."""
        index = self._index(shard)
        key = index.keys[place]
        try:
            record = SampleRecord.from_json(self._bytes(shard, index.records[place]))
            crop = decode_crop(self._bytes(shard, index.pictures[place]))
        except SampleFormatError as error:
            raise OneProcessInputError(
                f"{self._path(shard)}: sample {key!r}: {error}; convert the data again"
            ) from error
        return Sample(key=key, crop_shard=crop, record=record)

    def close(self) -> None:
        """Close every file handle; the next read opens what it needs."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def _path(self, shard: int) -> Path:
        return self.folder / self.shards[shard].name

    def _bytes(self, shard: int, member: _Member) -> bytes:
        data = os.pread(self._handle(shard), member.num_bytes, member.offset)
        if len(data) != member.num_bytes:
            raise SampleFormatError("the shard is cut short")
        return data

    def _handle(self, shard: int) -> int:
        if shard not in self._handles:
            while len(self._handles) >= self.max_open_files:
                os.close(self._handles.popitem(last=False)[1])
            try:
                self._handles[shard] = os.open(self._path(shard), os.O_RDONLY)
            except OSError as error:
                raise OneProcessInputError(
                    f"{self._path(shard)}: the manifest names this shard, but it cannot be opened "
                    f"({error.strerror}); convert the data again"
                ) from error
        self._handles.move_to_end(shard)
        return self._handles[shard]

    def _index(self, shard: int) -> _ShardIndex:
        if shard not in self._indexes:
            index = self._scan(shard)
            expected = self.shards[shard].num_samples
            if len(index.keys) != expected:
                raise OneProcessInputError(
                    f"{self._path(shard)}: has {len(index.keys)} samples, the manifest says {expected}; "
                    "convert the data again"
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
            with (
                os.fdopen(os.dup(self._handle(shard)), "rb") as file,
                tarfile.open(fileobj=file, mode="r:") as tar,
            ):
                file.seek(0)
                for member in tar:
                    key, _, extension = member.name.partition(".")
                    place = _Member(offset=member.offset_data, num_bytes=member.size)
                    if samples.setdefault(key, {}).setdefault(extension, place) is not place:
                        raise OneProcessInputError(f"{self._path(shard)}: {member.name!r} is there twice")
        except tarfile.TarError as error:
            raise OneProcessInputError(
                f"{self._path(shard)}: not a whole tar ({error}); convert the data again"
            ) from error
        try:
            return _ShardIndex(
                keys=tuple(samples),
                pictures=tuple(members["jpg"] for members in samples.values()),
                records=tuple(members["json"] for members in samples.values()),
            )
        except KeyError as error:
            raise OneProcessInputError(
                f"{self._path(shard)}: a sample has no .{error.args[0]} member; convert the data again"
            ) from error
