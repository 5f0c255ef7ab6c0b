"""A folder of shards named by their sha256, bounded in size, shared by all processes of a machine.

A download is written into `SHA256.unfinished`, which its process holds a lock on, and is renamed when it is
whole. So the lock goes with a process that is killed, and what it leaves is never taken for a shard. Handing
out open files, not paths, lets any process remove a shard at any time: who has it open reads on.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from flm.data.manifest import ShardEntry
from flm.errors import OneProcessInputError

Fill = Callable[[BinaryIO], None]
"""Writes all bytes of a shard, from the start of the file, and raises if they are not what they should be."""

ROOM_POLL_S = 0.1
"""How often is looked whether others are done with downloads that fill the whole cache."""


class ShardCache:
    """Downloaded shards, the least recently used of which make room for new ones.

    Args:
        folder: where they lie; made when it is first written.
        max_bytes: of shards that are there or being downloaded, by any process.

    Raises:
        OneProcessInputError: (any method) the folder cannot be written or the disk is full.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    def open(self, shard: ShardEntry, fill: Fill) -> int:
        """A file descriptor to read a shard from; it is fetched, or waited for if another process fetches it.

        Args:
            shard: no larger than the cache.
            fill: fetches it.

        Raises:
            Exception: what `fill` raised.
        """
        while True:
            with self._mistakes():
                handle = self._opened(shard)
            handle = self._fetched(shard, fill) if handle is None else handle
            if handle is not None:
                return handle

    def prefetch(self, shard: ShardEntry, fill: Fill, keep: Collection[str]) -> bool:
        """Fetch a shard unless it is there, another process fetches it, or there is no room.

        Args:
            shard: no larger than the cache.
            fill: fetches it.
            keep: sha256 of shards that do not make room for it.

        Returns:
            Whether there was room.
        """
        with self._mistakes():
            handle = self._opened(shard)
        if handle is None:
            with self._claimed(shard, wait=False) as file:
                if file is None:
                    return True
                if not self._reserve(file, shard.num_bytes, keep):
                    return False
                handle = self._filled(file, shard, fill)
        os.close(handle)
        return True

    def _fetched(self, shard: ShardEntry, fill: Fill) -> int | None:
        """The shard, freshly fetched; None if another process was quicker, or gave up."""
        with self._claimed(shard, wait=True) as file:
            if file is None:
                return None
            while not self._reserve(file, shard.num_bytes, keep=()):
                time.sleep(ROOM_POLL_S)
            return self._filled(file, shard, fill)

    def _filled(self, file: BinaryIO, shard: ShardEntry, fill: Fill) -> int:
        fill(file)
        with self._mistakes():
            file.flush()
            os.fsync(file.fileno())
            with self._locked():
                # Between two looks of one that adds up the files, it would be missed under both names.
                self._unfinished(shard).replace(self._path(shard))
            # Not opened by its path, which another process may already have removed.
            return os.dup(file.fileno())

    def _path(self, shard: ShardEntry) -> Path:
        return self.folder / shard.sha256[:2] / f"{shard.sha256}.tar"

    def _unfinished(self, shard: ShardEntry) -> Path:
        return self._path(shard).with_suffix(".unfinished")

    def _opened(self, shard: ShardEntry) -> int | None:
        """The shard if it is there, noted as just used."""
        path = self._path(shard)
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        if os.fstat(handle).st_size != shard.num_bytes:
            # Damaged from outside.
            os.close(handle)
            path.unlink(missing_ok=True)
            return None
        # Refused in the cache of another user.
        with contextlib.suppress(PermissionError):
            os.utime(handle)
        return handle

    @contextlib.contextmanager
    def _claimed(self, shard: ShardEntry, *, wait: bool) -> Iterator[BinaryIO | None]:
        """The unfinished file of a shard, for this thread alone; None if there is nothing to do now."""
        path = self._unfinished(shard)
        with contextlib.ExitStack() as stack:
            with self._mistakes():
                path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b"))
                is_locked = stack.enter_context(_flock(file, wait=wait))
            if not is_locked or not _is_at(path, file):
                yield None
                return
            try:
                yield None if self._path(shard).exists() else file
            finally:
                # It stands there no more if it was finished.
                if _is_at(path, file):
                    path.unlink()

    def _reserve(self, file: BinaryIO, num_bytes: int, keep: Collection[str]) -> bool:
        """Give an unfinished file its size, for which the least recently used shards make room."""
        with self._mistakes(), self._locked():
            removable, room = [], self.max_bytes - num_bytes
            for path in self.folder.glob("??/*"):
                with contextlib.suppress(FileNotFoundError):
                    if path.suffix == ".unfinished" and _remove_if_abandoned(path):
                        continue
                    status = path.stat()
                    room -= status.st_size
                    if path.suffix == ".tar" and path.stem not in keep:
                        removable.append((status.st_mtime_ns, status.st_size, path))
            if room + sum(size for _, size, _ in removable) < 0:
                return False
            for _, size, path in sorted(removable):
                if room >= 0:
                    break
                path.unlink(missing_ok=True)
                room += size
            os.truncate(file.fileno(), num_bytes)
            return True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """For a moment no other process makes room or has a shard finished."""
        with (self.folder / "lock").open("wb") as lock, _flock(lock, wait=True):
            yield

    @contextlib.contextmanager
    def _mistakes(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OneProcessInputError(
                f"{self.folder}: the cache cannot be used ({error.strerror}); make room, lower "
                "--loader.cache-gib, or choose another --loader.cache-dir"
            ) from error


@contextlib.contextmanager
def _flock(file: BinaryIO, *, wait: bool) -> Iterator[bool]:
    """Whether the file is locked, which it always is when it may be waited for."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        # Closing is not enough where a forked process has a copy.
        fcntl.flock(file, fcntl.LOCK_UN)


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _remove_if_abandoned(path: Path) -> bool:
    """Remove an unfinished file if the process that wrote it is gone."""
    with path.open("rb") as file, _flock(file, wait=False) as is_locked:
        if is_locked and _is_at(path, file):
            path.unlink()
        return is_locked
