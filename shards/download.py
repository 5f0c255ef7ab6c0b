"""Fetch a public data set: its licence first, then its archive, checked, then its folder."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from flm.data.remote import Patience
from flm.errors import InputError
from shards.fetch import fetch
from shards.sources.ibug import LICENCE
from shards.unpack import BrokenArchiveError, unpacked

GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A data set as it is published, a gzipped tar of one folder."""

    title: str
    url: str
    size: str
    """Roughly, in words."""
    sha256: str | None
    """None where the publisher tells none; then size and checksums of the archive itself are all there is."""
    licence: str
    next_command: str
    """With `{folder}` where the data set is then."""


IBUG = Archive(
    title="iBUG 300-W as dlib publishes it: 68 points on faces of 300-W, AFW, HELEN and LFPW",
    url="http://dlib.net/files/data/ibug_300W_large_face_landmark_dataset.tar.gz",
    size="about 1.8 GB, and as much again unpacked",
    sha256=None,
    licence=LICENCE,
    next_command="python -m shards convert ibug --source {folder} --out data/300w",
)


def download(
    archive: Archive,
    out: Path,
    *,
    url: str | None = None,
    sha256: str | None = None,
    agreed: bool = False,
    unpack: bool = True,
    patience: Patience | None = None,
) -> Path:
    """Fetch and unpack an archive; what is there already is not fetched again.

    Args:
        archive: what to fetch.
        out: folder that gets the archive and, beside it, what is in it.
        url: of a copy that lies elsewhere.
        sha256: that the archive must have.
        agreed: to the licence; otherwise the terminal is asked.
        unpack: or leave the archive as it is.
        patience: with the server.

    Returns:
        The folder of the data set, or the archive where it is not unpacked.

    Raises:
        InputError: the licence is not agreed to, or the archive cannot be fetched, is not what it should be,
            or cannot be unpacked.
    """
    sha256 = _checked_sha256(sha256) or archive.sha256
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"{archive.title}\nlicence: {archive.licence}\nsize: {archive.size}", markup=False)
    if not agreed:
        _ask()
    address = url or archive.url
    path = out / Path(archive.url).name
    digest = fetch(address, path, sha256=sha256, begins=GZIP_MAGIC, patience=patience)
    console.print(f"{path}: {path.stat().st_size:,} bytes, sha256 {digest}", markup=False)
    if not unpack:
        return path
    folder = out / path.name.removesuffix(".tar.gz")
    if folder.exists():
        console.print(f"{folder}: is there already and was left as it is", markup=False)
    else:
        _unpack(path, folder)
    console.print(f"next: {archive.next_command.format(folder=folder)}", markup=False)
    return folder


def _checked_sha256(sha256: str | None) -> str | None:
    if sha256 is None or re.fullmatch("[0-9a-fA-F]{64}", sha256):
        return sha256 and sha256.lower()
    raise InputError(f"--sha256 is {sha256!r}, expected 64 hexadecimal digits")


def _ask() -> None:
    if not sys.stdin.isatty():
        raise InputError("nobody is here to agree to the licence; add --yes if you do")
    print("Do you agree to this licence? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("the licence was not agreed to; nothing was fetched")


def _unpack(path: Path, folder: Path) -> None:
    """Put what the archive holds into a folder, whole or not at all."""
    try:
        with unpacked(path, beside=folder.parent) as unpacked_folder:
            inner = [*unpacked_folder.iterdir()]
            # An archive without a folder of its own gets this one.
            whole = inner[0] if len(inner) == 1 and inner[0].is_dir() else unpacked_folder
            whole.chmod(0o755)  # a temporary folder is closed to others
            whole.replace(folder)
    except BrokenArchiveError as error:
        path.unlink(missing_ok=True)
        raise InputError(f"{error}; it was removed") from error
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from error
