"""Files that are there whole or not at all, and files of whole lines."""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from flm.errors import InputError, warn

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a machine that dies, meets the old content or the new one.

    Folders that are missing are made.

    Raises:
        InputError: the file cannot be written, as on a full disk; what was there before is still there.
    """
    with whole_file(path) as file:
        file.write(content)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that is written piece by piece, and is there whole or not at all, as by `write_whole`.

    Raises:
        InputError: it cannot be written.
    """
    # The name of this process, since two of them may write the same file.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); make room or choose another place"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write JSON that a person can read, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    write_whole(path, json_bytes(fields))


def json_bytes(fields: Mapping[str, Any]) -> bytes:
    """JSON that a person can read."""
    return (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode()


def sha256_of(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Return when the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LineFile:
    """A file that lines are added to. On a full disk they wait in memory until there is room.

    Args:
        path: the file, in a folder that exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting = b""

    def add(self, line: str) -> None:
        """Add a line, and those that wait; the first that has to is told by a warning.

        Raises:
            InputError: the file cannot be written for another reason than a full disk.
        """
        is_first = not self._waiting
        self._waiting += line.encode() + b"\n"
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("ab") as file:
                file.write(self._waiting)
        except OSError as error:
            # No half line stays in the middle.
            with contextlib.suppress(OSError):
                os.truncate(self.path, size)
            if error.errno not in DISK_FULL:
                raise InputError(
                    f"{self.path}: cannot be written ({error.strerror}); make room and go on with --resume "
                    "auto"
                ) from error
            if is_first:
                warn(f"{self.path}: cannot be written ({error.strerror}); its lines wait until there is room")
        else:
            self._waiting = b""
