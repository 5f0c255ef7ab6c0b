"""Tars as this project writes them: equal samples give equal bytes."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from flm.data.manifest import ShardEntry
from flm.data.tars import TarSample
from flm.files import sha256_of, sync

MEMBER_MTIME_S = 946_684_800
"""Start of the year 2000, for every member of every tar."""


def write_shard(path: Path, samples: Iterable[TarSample], *, made_from: str = "") -> ShardEntry:
    """Write samples, as `flm.data.samples.encode_sample` makes them, and wait until they are on the disk.

    Args:
        path: of the tar; written directly, so it belongs in a folder that no reader looks into yet.
        samples: in the order of the tar.
        made_from: goes into the entry.

    Returns:
        The tar's entry in a manifest.
    """
    num_samples = 0
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            _add(tar, sample)
            num_samples += 1
    sync(path)
    return ShardEntry(
        name=path.name,
        num_samples=num_samples,
        num_bytes=path.stat().st_size,
        sha256=sha256_of(path),
        made_from=made_from,
    )


def _add(tar: tarfile.TarFile, sample: TarSample) -> None:
    """As webdataset's TarWriter does it, which loads torch, more memory than all else here takes."""
    for extension in sorted(sample.keys() - {"__key__"}):
        content = sample[extension]
        content = content.encode() if isinstance(content, str) else content
        member = tarfile.TarInfo(f"{sample['__key__']}.{extension}")
        member.size, member.mtime, member.mode = len(content), MEMBER_MTIME_S, 0o644
        member.uname = member.gname = "flm"
        tar.addfile(member, io.BytesIO(content))
