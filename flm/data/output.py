"""A folder of shards that appears whole or not at all, and that is gone on with where it was left."""

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import shutil
import signal
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from flm.data.manifest import MANIFEST_NAME, SPLITS, Manifest, ShardEntry
from flm.data.tars import TarSample
from flm.data.writer import write_shard
from flm.errors import InputError
from flm.files import DISK_FULL, sha256_of, sync, write_whole
from flm.process.interruption import signals_deferred

LOCK_NAME = ".convert.lock"
UNFINISHED_NAME = ".unfinished"

SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})-\d{{6}}\.tar")


@contextlib.contextmanager
def replaced_when_done(out: Path, *, keep_unfinished: bool = False) -> Iterator[Path]:
    """A folder to fill with tars and a manifest, which become those of `out` when the block is through.

    It lies inside `out`, which may be a mount point, so that the last step needs no space and no copy.
    When the block fails, it is removed, and `out` has what it had before.

    Args:
        out: the folder that readers look into.
        keep_unfinished: whether the folder stays when the block fails, and is found as it was the next time.

    Raises:
        InputError: `out` cannot be written, is full, is being written by someone else, or has shards that no
            manifest there lists.
    """
    existed = out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with locked(out):
            stale = _shards_to_replace(out)
            unfinished = out / UNFINISHED_NAME
            if not keep_unfinished:
                shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
            unfinished.mkdir(exist_ok=True)
            published = False
            try:
                yield unfinished
                with signals_deferred(signal.SIGINT, signal.SIGTERM):
                    _publish(unfinished, out, stale)
                published = True
            finally:
                if published or not keep_unfinished:
                    shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{out}: {_what_to_do(error)}; nothing there was changed") from error
    finally:
        if not existed:
            # Fails, as it should, where the folder was filled.
            with contextlib.suppress(OSError):
                out.rmdir()


def add_shard(unfinished: Path, name: str, samples: Iterable[TarSample], *, made_from: str) -> None:
    """Write a tar into an unfinished folder, and then its entry beside it.

    Args:
        unfinished: of `replaced_when_done`.
        name: of the tar.
        samples: in its order.
        made_from: what `is_done` compares.
    """
    _write_entry(unfinished, write_shard(unfinished / name, samples, made_from=made_from))


def entry_of(unfinished: Path, name: str) -> ShardEntry:
    """The entry of a tar that is done."""
    return ShardEntry(**json.loads(_entry_path(unfinished, name).read_bytes()))


def is_done(name: str, made_from: str, unfinished: Path, out: Path) -> bool:
    """Whether a shard of an earlier start, stopped or complete, is the one wanted; takes it over.

    Args:
        name: of the tar.
        made_from: the hash of all that it is made from.
        unfinished: of `replaced_when_done`.
        out: the folder itself.
    """
    if _entry_path(unfinished, name).exists():
        return _is_whole(entry_of(unfinished, name), made_from, unfinished / name)
    listed = _entries_of_manifest(out).get(name)
    if listed is None or not _is_whole(listed, made_from, out / name):
        return False
    # `out` keeps its own until the new folder is published.
    (unfinished / name).unlink(missing_ok=True)
    link_or_copy(out / name, unfinished / name)
    _write_entry(unfinished, listed)
    return True


def link_or_copy(source: Path, path: Path) -> None:
    """Give a tar a second name, or copy it where the disk has no such names.

    Raises:
        OSError: it is not there, or there is no room.
    """
    try:
        path.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, path)


def _is_whole(entry: ShardEntry, made_from: str, path: Path) -> bool:
    return entry.made_from == made_from and path.exists() and sha256_of(path) == entry.sha256


def _entry_path(unfinished: Path, name: str) -> Path:
    return unfinished / f"{name}.json"


def _write_entry(unfinished: Path, entry: ShardEntry) -> None:
    write_whole(_entry_path(unfinished, entry.name), json.dumps(dataclasses.asdict(entry)).encode())


def _entries_of_manifest(out: Path) -> Mapping[str, ShardEntry]:
    if not (out / MANIFEST_NAME).exists():
        return {}
    splits = Manifest.read(out).splits
    return {entry.name: entry for entries in splits.values() for entry in entries}


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Nobody else writes into the folder while the block runs.

    Raises:
        InputError: somebody does already, or it cannot be written.
    """
    path = out / LOCK_NAME
    try:
        lock = path.open("w")
    except OSError as error:
        raise _not_writable(out, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who held it a moment ago may have removed the file, and a third one made a new one.
            if not os.path.samestat(path.stat(), os.fstat(lock.fileno())):
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError) as error:
            raise InputError(
                f"{out}: another conversion is writing here; wait for it or choose another --out"
            ) from error
        except OSError as error:  # as on a disk that knows no locks
            raise _not_writable(out, error) from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _not_writable(out: Path, error: OSError) -> InputError:
    return InputError(f"{out}: cannot be written ({error.strerror}); make room, or take a folder that can")


def _shards_to_replace(out: Path) -> frozenset[str]:
    """Names of the shards that the manifest of the folder lists."""
    listed = frozenset[str]()
    if (out / MANIFEST_NAME).exists():
        try:
            manifest = Manifest.read(out)
        except InputError as error:
            raise InputError(
                f"{out}: its {MANIFEST_NAME} is not one of shards, or of another version; "
                "move it away or choose another --out"
            ) from error
        listed = frozenset(shard.name for shards in manifest.splits.values() for shard in shards)
    present = frozenset(path.name for path in out.iterdir() if SHARD_NAME.fullmatch(path.name))
    if present - listed:
        raise InputError(
            f"{out}: {min(present - listed)} is in no manifest there and might be overwritten; "
            "move it away or choose another --out"
        )
    return present


def _publish(unfinished: Path, out: Path, stale: frozenset[str]) -> None:
    """Put the new shards in place of the old ones.

    The manifest goes first and comes last: a folder without one counts as empty, so no reader ever takes a
    mixture of old and new for whole. Tars that it does not list were left by a start with other options.
    """
    names = [shard.name for shards in Manifest.read(unfinished).splits.values() for shard in shards]
    sync(unfinished)
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    for name in stale:
        (out / name).unlink(missing_ok=True)
    for name in names:
        (unfinished / name).replace(out / name)
    sync(out)
    (unfinished / MANIFEST_NAME).replace(out / MANIFEST_NAME)
    sync(out)


def _what_to_do(error: OSError) -> str:
    if error.errno in DISK_FULL:
        return "the disk is full; free space or choose another --out"
    return f"cannot be written ({error.strerror}); choose another --out"
