"""A data set in a folder, wherever it came from."""

import contextlib
import lzma
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from flm.data.tars import member_fault
from flm.errors import InputError
from shards.progress import progress

_CHUNK_BYTES = 1 << 20


class BrokenArchiveError(InputError):
    """What is in the file is no tar, not all of one, or one that reaches outside its folder."""


@contextlib.contextmanager
def unpacked(source: Path, *, beside: Path) -> Iterator[Path]:
    """The folder of a data set.

    Args:
        source: the folder, or a tar of it, which is unpacked for as long as the block runs.
        beside: folder that takes the temporary folder.

    Raises:
        InputError: there is nothing, it is no whole tar, it reaches outside its folder, or the disk is full.
    """
    if source.is_dir():
        yield source
        return
    if not source.exists():
        raise InputError(f"{source}: not found; --source is the folder of a data set or a .tar.gz of it")
    try:
        beside.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".unpacked-", dir=beside))
    except OSError as error:
        raise InputError(
            f"{beside}: {source.name} cannot be unpacked here ({error}); choose another --out"
        ) from error
    try:
        _extract(source, folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _extract(source: Path, folder: Path) -> None:
    try:
        with (
            source.open("rb") as file,
            progress("unpacking", source.stat().st_size, in_bytes=True) as advance,
        ):
            position = 0
            with tarfile.open(fileobj=file, mode="r:*") as tar:
                for member in tar:
                    if fault := member_fault(member):
                        raise tarfile.TarError(f"{member.name!r} {fault}")
                    tar.extract(member, folder, filter="data")
                    advance(file.tell() - position)
                    position = file.tell()
                _check_end(tar)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        # Without a number it is a decompressor's and not the system's.
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(
                f"{source}: cannot be unpacked into {folder.parent} ({error.strerror}); "
                "free space there or choose another --out"
            ) from error
        told = " ".join(str(error).split())
        raise BrokenArchiveError(f"{source}: not a whole, safe tar ({told}); fetch it again") from error


def _check_end(tar: tarfile.TarFile) -> None:
    """Read on behind the last member: a block that is no header passes for the end, and checksums come last.

    Raises:
        tarfile.TarError: what follows is not the end of a tar.
    """
    file = tar.fileobj
    assert file is not None
    if file.tell() < tar.offset + tarfile.BLOCKSIZE:
        raise tarfile.ReadError("the marks of its end are missing")
    while rest := file.read(_CHUNK_BYTES):
        if rest.strip(b"\0"):
            raise tarfile.ReadError(f"byte {tar.offset:,} begins neither a member nor the end")
