"""The members of a tar that may be damaged, sample by sample."""

import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from flm.data.tars import member_fault, split_member_name
from shards.verification.findings import Finding, Kind

MOST_MEMBER_BYTES = 256 * 2**20
"""A member that claims more is not read: no picture of a face has so many."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class ShardScan:
    """What can be read of a tar, and what is wrong with it."""

    samples: dict[str, dict[str, tarfile.TarInfo]] = field(default_factory=dict)
    """Members by key and extension, in the order of the tar; of a member that is there twice the first."""
    findings: list[Finding] = field(default_factory=list)


def scan_shard(file: BinaryIO, name: str) -> ShardScan:
    """Read the headers of a tar, those after a damage too.

    Args:
        file: the tar.
        name: of the shard, for the findings.
    """
    scan = ShardScan()
    num_bytes = os.fstat(file.fileno()).st_size
    members, fault = _whole_members(file)
    if fault is not None:
        scan.findings.append(Finding(Kind.BROKEN_TAR, name, None, fault))
        members = _readable_members(file)
    for member in members:
        finding = _take(scan.samples, member, name, num_bytes)
        if finding is not None:
            scan.findings.append(finding)
    return scan


def read_members(file: BinaryIO, members: Mapping[str, tarfile.TarInfo]) -> dict[str, bytes]:
    """The bytes of the members of one sample, by extension."""
    contents: dict[str, bytes] = {}
    for extension, member in members.items():
        file.seek(member.offset_data)
        contents[extension] = file.read(member.size)
    return contents


def _take(
    samples: dict[str, dict[str, tarfile.TarInfo]], member: tarfile.TarInfo, name: str, num_bytes: int
) -> Finding | None:
    """Put a member where it belongs, or say why it has no place."""
    fault = member_fault(member)
    if fault is not None:
        return Finding(Kind.UNSAFE_MEMBER, name, None, f"{member.name!r} {fault}")
    if member.isdir():
        return None
    key, extension = split_member_name(member.name)
    # Also of a sample whose members cannot be used, so that it is told.
    sample = samples.setdefault(key, {})
    if member.offset_data + member.size > num_bytes:
        return Finding(Kind.INCOMPLETE_SAMPLE, name, key, f".{extension} is cut short")
    if member.size > MOST_MEMBER_BYTES:
        return Finding(Kind.BAD_SAMPLE, name, key, f".{extension} claims {member.size:,} bytes")
    if extension in sample:
        return Finding(Kind.REPEATED_MEMBER, name, key, f".{extension} is there twice; the first one counts")
    sample[extension] = member
    return None


def _whole_members(file: BinaryIO) -> tuple[list[tarfile.TarInfo], str | None]:
    """The members of a tar, and what is wrong with it as a whole."""
    members: list[tarfile.TarInfo] = []
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            members.extend(tar)
            end = tar.offset
    except tarfile.TarError as error:
        return members, str(error)
    file.seek(end)
    rest = file.read(_CHUNK)
    if not rest:
        return members, "the marks of its end are missing; it may be cut short"
    # A tar ends in zeros; a reader takes any other block that is no header for the end, too.
    while rest:
        if rest.strip(b"\0"):
            return members, f"byte {end:,} begins neither a member nor the end"
        rest = file.read(_CHUNK)
    return members, None


def _readable_members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Every member whose header is whole; blocks that are no header are passed over."""
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:", ignore_zeros=True) as tar:
            yield from tar
    except tarfile.TarError:
        # The data of the last member ends early, or nothing is left.
        return
