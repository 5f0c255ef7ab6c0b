"""What the user names, as pictures one after the other: files, folders, globs, URLs, shards.

The order is the same each time, so that several processes can share it and a run can be gone on with. In
memory are the names of one folder, one glob or one shard at a time.
"""

import functools
import glob
import itertools
import os
import re
import tarfile
import urllib.parse
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from flm.errors import InputError
from flm.inference.fetch import is_url
from flm.inference.picture_input import Picture, as_picture
from flm.inference.video.input import is_live, is_video
from flm.pictures import decode_picture

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pnm",
     ".jp2", ".avif", ".heic", ".heif"}
)  # fmt: skip
"""Of the files that are taken out of folders and shards. A file that is named itself may have any."""

SHARD_SUFFIX = ".tar"

RESERVED_NAMES = frozenset({"report", "videos", "landmarks"})
"""Of the files of all pictures and videos, which those of one never replace."""

Found = TypeVar("Found")

_UNSAFE = re.compile(r"[^\w.@+=,~ -]")


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInput:
    """A video, a stream or a camera that has not been opened yet."""

    name: str
    """Of its results, as that of a `PictureInput`; no other video's."""
    source: str
    """A path, a URL or a camera."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureInput:
    """A picture that has not been read yet."""

    name: str
    """Of its results: a relative path without a suffix, and no other picture's."""
    image: str
    """What it is: a path, a URL, or SHARD/MEMBER."""
    read: Callable[[], Picture]
    """Raises an `InputError` if that is no picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InputCounts:
    """How much there is to do."""

    pictures: int
    videos: int


def inputs_of(
    inputs: Sequence[str], *, skip: Path | None = None, allow_private_urls: bool = False
) -> Iterator[PictureInput | VideoInput]:
    """All pictures and videos, in the order of the inputs; inside a folder its pictures, then its videos.

    What a single folder, glob or shard holds is named by its place in there; one of several has its own name
    before it. The second of the same name gets a number.

    Args:
        inputs: as the user gave them.
        skip: a folder that is left out of the folders and globs around it, such as that of the results.
        allow_private_urls: see `fetch_url`.

    Raises:
        InputError: a folder or a shard holds neither, or a glob fits nothing.
    """
    is_alone = len(inputs) == 1
    bases = _numbered([_base(text) for text in inputs], RESERVED_NAMES)
    for text, base in zip(inputs, bases, strict=True):
        inside = "" if is_alone else base
        if _is_one_video(text):
            yield VideoInput(name=base, source=text)
        elif is_url(text):
            yield _of_url(text, base, allow_private_urls)
        elif Path(text).is_dir():
            yield from _in_folder(Path(text), inside, skip)
        elif text.endswith(SHARD_SUFFIX):
            yield from _in_shard(Path(text), inside)
        elif _is_glob(text):
            yield from _of_glob(text, inside, skip)
        else:
            yield _of_file(Path(text), base)


def pictures_of(
    inputs: Sequence[str], *, skip: Path | None = None, allow_private_urls: bool = False
) -> Iterator[PictureInput]:
    """The pictures among all inputs; as `inputs_of`."""
    found = inputs_of(inputs, skip=skip, allow_private_urls=allow_private_urls)
    return (one for one in found if isinstance(one, PictureInput))


def videos_of(inputs: Sequence[str], *, skip: Path | None = None) -> Iterator[VideoInput]:
    """The videos among all inputs: named ones, those in folders and of globs, streams, cameras."""
    return (one for one in inputs_of(inputs, skip=skip) if isinstance(one, VideoInput))


def count_inputs(inputs: Sequence[str], *, skip: Path | None = None) -> InputCounts:
    """Go through all inputs once, opening none but shards; as `inputs_of`."""
    kinds = Counter(type(one) for one in inputs_of(inputs, skip=skip))
    return InputCounts(pictures=kinds[PictureInput], videos=kinds[VideoInput])


def _is_one_video(text: str) -> bool:
    return is_video(text) and not _is_glob(text) and not Path(text).is_dir()


def _is_glob(text: str) -> bool:
    return not is_live(text) and not is_url(text) and glob.has_magic(text) and not Path(text).exists()


def _base(text: str) -> str:
    """The name of an input by itself."""
    if is_live(text):
        # Without what may be secret in it.
        return _safe((text.partition("://")[2] or text).rpartition("@")[2])
    if is_url(text):
        parts = urllib.parse.urlsplit(text)
        return _safe(PurePosixPath(urllib.parse.unquote(parts.path)).stem or parts.hostname or "url")
    if _is_glob(text):
        return _safe(_fixed_part(text).name or "pictures")
    path = Path(text)
    return readable(path.resolve().name if path.is_dir() else path.stem) or "pictures"


def readable(text: str) -> str:
    """A text with names of files in it, as one that can be written: � for bytes that are no UTF-8."""
    # Python has such bytes as surrogates, of which UTF-16 is made.
    return text.encode("utf-16-le", errors="surrogatepass").decode("utf-16-le", errors="replace")


def _safe(name: str) -> str:
    """A name that a stranger gave, as a file's name."""
    return _UNSAFE.sub("_", name).strip(". ")[:100] or "picture"


def _numbered(names: Sequence[str], taken: Collection[str]) -> list[str]:
    """The names; one that is taken, or the second of the same name, gets a number."""
    given, taken, numbered = set(names), set(taken), []
    for name in names:
        numbered.append(_unused(name, taken, given) if name in taken else name)
        taken.add(numbered[-1])
    return numbered


def _unused(name: str, *taken: Collection[str]) -> str:
    """The name with the first number that makes it one of its own."""
    others = (f"{name}-{number}" for number in itertools.count(2))
    return next(other for other in others if not any(other in names for names in taken))


def _of_url(url: str, name: str, allow_private: bool) -> PictureInput:
    return PictureInput(name=name, image=url, read=lambda: as_picture(url, allow_private_urls=allow_private))


def _of_file(path: Path, name: str) -> PictureInput:
    return PictureInput(name=name, image=readable(str(path)), read=lambda: as_picture(path))


def _of_video(path: Path, name: str) -> VideoInput:
    return VideoInput(name=name, source=str(path))


def _in_folder(folder: Path, base: str, skip: Path | None) -> Iterator[PictureInput | VideoInput]:
    is_empty = True
    for here, files in _walked(folder, skip):
        pictures = [here / name for name in files if _is_picture(name)]
        videos = [here / name for name in files if is_video(name) and not name.startswith(".")]
        is_empty &= not pictures and not videos
        yield from _named(pictures, folder, base, _of_file)
        yield from _named(videos, folder, base, _of_video)
    if is_empty:
        raise InputError(f"{folder}: no pictures in this folder (.jpg, .png, …); name one that has some")


def _walked(folder: Path, skip: Path | None) -> Iterator[tuple[Path, list[str]]]:
    """Each folder with the names of its files, in order."""
    skipped = None if skip is None else skip.resolve()
    for here, folders, files in os.walk(folder):
        # In place, as os.walk asks for.
        folders[:] = sorted(name for name in folders if (Path(here) / name).resolve() != skipped)
        yield Path(here), sorted(files)


def _of_glob(pattern: str, base: str, skip: Path | None) -> Iterator[PictureInput | VideoInput]:
    start = _fixed_part(pattern)

    @functools.cache
    def is_skipped(folder: Path) -> bool:
        return skip is not None and folder.resolve().is_relative_to(skip.resolve())

    is_inside = is_skipped(start)
    # Path.glob takes no pattern that begins at the root.
    found = glob.iglob(pattern, recursive=True)  # noqa: PTH207
    paths = sorted(
        path for path in map(Path, found) if path.is_file() and (is_inside or not is_skipped(path.parent))
    )
    if not paths:
        raise InputError(f"{pattern}: no file has such a name")
    yield from _named([path for path in paths if not is_video(path.name)], start, base, _of_file)
    yield from _named([path for path in paths if is_video(path.name)], start, base, _of_video)


def _named(
    paths: Sequence[Path], start: Path, base: str, make: Callable[[Path, str], Found]
) -> Iterator[Found]:
    """Each file under the name of its place."""
    places = [
        readable(str(PurePosixPath(base, path.relative_to(start).with_suffix("").as_posix())))
        for path in paths
    ]
    for path, name in zip(paths, _numbered(places, RESERVED_NAMES), strict=True):
        yield make(path, name)


def _fixed_part(pattern: str) -> Path:
    """The folder before the first part of a pattern that may fit several names."""
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts[:-1])
    return Path(*fixed)


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES


def _in_shard(path: Path, base: str) -> Iterator[PictureInput]:
    """The pictures of a tar in WebDataset's form; of a damaged one, its mistake in the place of the rest."""
    is_empty, taken = True, set(RESERVED_NAMES)

    def own(name: str) -> str:
        place = str(PurePosixPath(base, name))
        if place in taken:
            place = _unused(place, taken)
        taken.add(place)
        return place

    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined] # it would keep them all
                if not member.isfile() or not _is_picture(PurePosixPath(member.name).name):
                    continue
                is_empty = False
                key = "/".join(_safe(part) for part in PurePosixPath(member.name).with_suffix("").parts)
                yield _member(path, member, own(key))
    except (OSError, tarfile.TarError) as error:
        mistake = InputError(f"{path}: cannot be read to its end ({error}); make it again")
        yield PictureInput(name=own(_base(str(path))), image=readable(str(path)), read=_raising(mistake))
        return
    if is_empty:
        raise InputError(f"{path}: no pictures in this shard")


def _raising(mistake: InputError) -> Callable[[], Picture]:
    def read() -> Picture:
        raise mistake

    return read


def _member(path: Path, member: tarfile.TarInfo, name: str) -> PictureInput:
    image, offset, size = readable(f"{path}/{member.name}"), member.offset_data, member.size

    def read() -> Picture:
        with path.open("rb") as file:
            file.seek(offset)
            return decode_picture(file.read(size), image, upright=True)

    return PictureInput(name=name, image=image, read=read)
