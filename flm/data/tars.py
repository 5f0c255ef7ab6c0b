"""What may stand in the tar of a shard, and which sample a member belongs to."""

import tarfile
from pathlib import PurePosixPath

TarSample = dict[str, str | bytes]
"""A sample as `webdataset.TarWriter` takes it: its name under `__key__`, its members by their extension."""


def split_member_name(name: str) -> tuple[str, str]:
    """Key and extension of a member, as the WebDataset convention has them.

    The extension begins at the first dot of the last part of the path, and its case does not matter.
    """
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def leads_outside(name: str) -> bool:
    """Whether a path could name something outside the folder that it is meant to lie in."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def member_fault(member: tarfile.TarInfo) -> str | None:
    """Why a member has no place in a shard, or None; folders may stand there and mean nothing."""
    if leads_outside(member.name):
        return "its path leads outside the folder"
    if member.issym() or member.islnk():
        return "is a link"
    if not (member.isdir() or (member.isreg() and not member.issparse())):
        return "is no plain file"
    return None
