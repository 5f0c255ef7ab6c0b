"""Where a data set has its annotation files and pictures."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from flm.data.manifest import Split
from flm.errors import InputError, some_of
from flm.faces.subsets import SEPARATOR

T = TypeVar("T")

SPLIT_OF_WORD: Mapping[str, Split] = {"train": "train", "val": "validation", "test": "test"}
"""How the names of annotation files begin a word: `training_frames`, `person_keypoints_val2017`."""

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

NOT_STATED = "not stated"
"""The licence of a source that does not tell it."""

NAMED_MISSING = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """What the lists of faces of any source do not say of themselves."""

    split: Split | None = None
    """Where all faces go, whatever the names of the files. Default: the names say train, val or test."""
    licence: str = NOT_STATED
    """Of the pictures; it is told wherever the shards are used."""
    allow_missing: bool = False
    """Convert the rest when listed pictures are missing."""

    @property
    def split_rule(self) -> str:
        """What decides between train and test, in words."""
        return f"all {self.split}, as asked" if self.split else "train and test by the names of the files"


AS_FOUND = Listing()


def annotation_files(source: Path, suffix: str, split: Split | None) -> list[tuple[Path, Split]]:
    """The annotation files of a source, each with the split that its faces are in.

    Args:
        source: one file, or the folder of several.
        suffix: of the files, such as `.csv`.
        split: of all of them; by their names if None.

    Raises:
        InputError: there is none, or the name of one tells no split.
    """
    if source.is_dir():
        files = sorted(path for path in source.iterdir() if path.suffix.lower() == suffix)
    else:
        files = [source] if source.is_file() else []
    if not files:
        raise InputError(f"{source}: no {suffix} file here; --source is one, or the folder that holds some")
    return [(file, split or _split_named(file)) for file in files]


def _split_named(file: Path) -> Split:
    words = {
        word
        for word in SPLIT_OF_WORD
        if re.search(rf"(?<![a-z]){word}", file.stem, re.IGNORECASE) is not None
    }
    if len(words) != 1:
        raise InputError(
            f"{file}: the name tells no split, expected one of {', '.join(SPLIT_OF_WORD)} in it; give --split"
        )
    return SPLIT_OF_WORD[words.pop()]


def pictures_folder(annotations: Path) -> Path:
    """The folder that an annotation file names the pictures in, where nobody says.

    It is the folder beside the file, or one level up, whose name is part of the file's: `training` for
    `training_frames_keypoints.csv`, `train2017` for `annotations/person_keypoints_train2017.json`. Else it is
    the file's own folder.
    """
    own = annotations.resolve().parent
    for parent in (own, own.parent):
        named = [path for path in sorted(parent.iterdir()) if path.is_dir() and path.name in annotations.stem]
        if named:
            return max(named, key=lambda path: len(path.name))
    return annotations.parent


def files_below(source: Path, suffix: str) -> list[Path]:
    """The files of that suffix in a folder and all folders in it, in the order of their paths.

    Raises:
        InputError: there is none.
    """
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() == suffix)
    if not files:
        raise InputError(f"{source}: no {suffix} file here or in the folders below; check --source")
    return files


def the_one_below(source: Path, name: str) -> Path:
    """The file or folder of that name, wherever in the folder it lies.

    Raises:
        InputError: there is none, or more than one.
    """
    found = [source] if source.name == name else sorted(source.rglob(name))
    if len(found) != 1:
        told = ", ".join(str(path) for path in found[:2]) or "none"
        raise InputError(f"{source}: expected one {name} here or below, found {told}; check --source")
    return found[0]


def picture_beside(annotations: Path) -> Path | None:
    """The picture that has the name of an annotation file, if there is one.

    Raises:
        InputError: there are several.
    """
    stem = annotations.with_suffix("")
    paths = {stem.with_name(stem.name + suffix) for suffix in PICTURE_SUFFIXES}
    paths |= {stem.with_name(stem.name + suffix.upper()) for suffix in PICTURE_SUFFIXES}
    found = sorted(path for path in paths if _is_file(path))
    if len(found) > 1:
        raise InputError(
            f"{annotations}: {found[0].name} and {found[1].name} beside it; remove one of the two"
        )
    return found[0] if found else None


def folder_subset(file: str) -> str:
    """The folder of a picture as the name of a subset; none for a picture that lies at the top.

    Args:
        file: path inside the data set.
    """
    folder = PurePosixPath(file).parent.as_posix()
    # One subset, whatever the folder is called.
    return "" if folder == "." else folder.strip("/").replace(SEPARATOR, "_")


def keep_present(
    entries: Sequence[T], picture_of: Callable[[T], Path], *, folder: Path, allow_missing: bool
) -> list[T]:
    """The entries whose picture is there.

    Args:
        entries: of an annotation file.
        picture_of: where the picture of an entry should be.
        folder: of the pictures, for the message.
        allow_missing: leave out the others.

    Raises:
        InputError: a picture is missing, unless that is allowed.
    """
    is_there = {path: _is_file(path) for path in map(picture_of, entries)}
    missing = [path for path in map(picture_of, entries) if not is_there[path]]
    if missing and not allow_missing:
        names = [str(path.relative_to(folder) if path.is_relative_to(folder) else path) for path in missing]
        raise InputError(
            f"{folder}: {len(missing)} of {len(entries)} listed pictures are missing: "
            f"{some_of(names, NAMED_MISSING)}; fetch them, or convert the rest with --allow-missing"
        )
    return [entry for entry in entries if is_there[picture_of(entry)]]


def _is_file(path: Path) -> bool:
    """Not, where `Path.is_file` raises an error: of a name too long for any file, for one."""
    return os.path.isfile(path)  # noqa: PTH113


def read_text(path: Path) -> str:
    """The text of an annotation file.

    Raises:
        InputError: it cannot be read or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error}); replace the file") from error
