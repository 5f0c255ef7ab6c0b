"""The results of a run as files: some for each picture, some for all of them."""

import contextlib
import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from jaxtyping import UInt8

from flm.draw import PREDICTION_COLOR, Canvas, encode_png
from flm.errors import InputError
from flm.faces.pts_file import pts_text
from flm.files import whole_file, write_whole
from flm.geometry import FaceBox
from flm.inference.aligned import aligned_crop
from flm.inference.picture_input import Picture
from flm.inference.results.records import Record, landmarks_of, table_columns, table_row
from flm.landmarks import LandmarkScheme, scheme_named

Format = Literal["json", "jsonl", "csv", "pts", "coco", "parquet"]
FORMATS: tuple[Format, ...] = ("json", "jsonl", "csv", "pts", "coco", "parquet")

RUN_FILES: Mapping[Format, str] = {
    "jsonl": "landmarks.jsonl",
    "csv": "landmarks.csv",
    "coco": "landmarks.coco.json",
    "parquet": "landmarks.parquet",
}
"""Of all pictures, by format; the other formats have a file for each picture."""

LEGIBLE_SIDE_PX = 480
"""Smaller pictures are enlarged for their overlay, so that 68 dots can be told apart."""

ROWS_PER_GROUP = 10_000
"""Of a parquet file, which are written at once."""

Records = Callable[[], Iterator[Record]]
"""Goes through the records of all pictures from the start, each time that it is called."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputConfig:
    """What is written."""

    formats: tuple[Format, ...] = ("json",)
    """`json` and `pts` are files for each picture, the others one file for all."""
    overlay: bool = False
    """A PNG of each picture with boxes and landmarks on it."""
    crops: bool = False
    """A PNG of each face, upright."""


JSON_ONLY = OutputConfig()


def parse_formats(text: str) -> tuple[Format, ...]:
    """Formats out of a list with commas.

    Raises:
        InputError: one is unknown, or needs what is not installed.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    formats: tuple[Format, ...] = tuple(known for known in FORMATS if known in words)
    if not formats or len(formats) < len(set(words)):
        raise InputError(f"--format {text}: expected some of {', '.join(FORMATS)}, with commas between them")
    if "parquet" in formats:
        try:
            import pyarrow.parquet  # noqa: F401 # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise InputError(
                "--format parquet: needs one more package; pip install 'flm-landmarks[tables]'"
            ) from error
    return formats


def picture_files(record: Record, picture: Picture, outputs: OutputConfig) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of one picture."""
    name, faces = record["name"], record["faces"]
    if "json" in outputs.formats:
        yield f"{name}.json", json.dumps(record, ensure_ascii=False).encode() + b"\n"
    if "pts" in outputs.formats:
        for number, face in enumerate(faces, 1):
            ending = "" if number == 1 else f"_face{number}"
            yield f"{name}{ending}.pts", pts_text(landmarks_of(face)).encode()
    scheme = scheme_named(record["scheme"])
    if outputs.overlay:
        yield f"{name}.png", encode_png(overlay(picture, faces, scheme))
    if outputs.crops:
        for number, face in enumerate(faces, 1):
            try:
                crop = aligned_crop(picture, landmarks_of(face), scheme)
            except ValueError:  # landmarks that are all in one place
                continue
            yield f"{name}_face{number}.png", encode_png(crop)


def overlay(
    picture: UInt8[np.ndarray, "height width 3"], faces: Iterable[Record], scheme: LandmarkScheme
) -> UInt8[np.ndarray, "drawn_height drawn_width 3"]:
    """The picture with boxes, lines and dots on it."""
    canvas = Canvas(picture, scale=max(1, round(LEGIBLE_SIDE_PX / max(picture.shape[:2]))))
    for face in faces:
        landmarks = landmarks_of(face)
        canvas.box(FaceBox(**{side: float(number) for side, number in face["box"].items()}))
        canvas.lines(landmarks, scheme, PREDICTION_COLOR)
        canvas.dots(landmarks, PREDICTION_COLOR)
    return canvas.picture


def write_run_files(out: Path, records: Records, formats: Sequence[Format], scheme: LandmarkScheme) -> None:
    """Write the files that hold all pictures.

    Args:
        out: the folder.
        records: of the pictures, in their order.
        formats: those for each picture are passed over.
        scheme: of all landmarks.

    Raises:
        InputError: a file cannot be written.
    """
    writers = {"jsonl": _write_jsonl, "csv": _write_csv, "coco": _write_coco, "parquet": _write_parquet}
    for name in formats:
        if name in RUN_FILES:
            with whole_file(out / RUN_FILES[name]) as file:
                writers[name](file, records, scheme)


def _write_jsonl(file: IO[bytes], records: Records, _: LandmarkScheme) -> None:
    for record in records():
        file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def _write_csv(file: IO[bytes], records: Records, scheme: LandmarkScheme) -> None:
    writer = csv.writer(EncodedFile(file), lineterminator="\n")
    writer.writerow(table_columns(scheme.num_points))
    for record in records():
        writer.writerows(table_row(record, number) for number in range(len(record["faces"])))


class EncodedFile:
    """Takes text for a file of bytes, and leaves it open."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, text: str) -> None:
        """As a file of text does."""
        self._file.write(text.encode())


def _write_coco(file: IO[bytes], records: Records, scheme: LandmarkScheme) -> None:
    """Keypoint JSON; points count from 0, as the rest of COCO does."""
    keypoints = [f"point_{point}" for point in range(scheme.num_points)]
    skeleton = [
        [first + 1, second + 1] for line in scheme.lines for first, second in itertools.pairwise(line.points)
    ]
    category = {
        "id": 1, "name": "face", "supercategory": "person", "keypoints": keypoints, "skeleton": skeleton
    }  # fmt: skip
    file.write(b'{"categories": [' + json.dumps(category).encode() + b'],\n"images": [')
    images = (
        {"id": number, "file_name": record["image"], "width": record["width"], "height": record["height"]}
        for number, record in enumerate(records(), 1)
    )
    _write_items(file, images)
    file.write(b'],\n"annotations": [')
    faces = ((number, face) for number, record in enumerate(records(), 1) for face in record["faces"])
    _write_items(file, (_coco_face(count, *numbered) for count, numbered in enumerate(faces, 1)))
    file.write(b"]}\n")


def _write_items(file: IO[bytes], items: Iterable[Any]) -> None:
    for count, item in enumerate(items):
        file.write(b",\n" if count else b"\n")
        file.write(json.dumps(item, ensure_ascii=False).encode())


def _coco_face(number: int, image: int, face: Record) -> Record:
    box, points = face["box"], face["landmarks"]
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        # Its edges run around the pixels that the box covers.
        "bbox": [box["left"], box["top"], box["width"], box["height"]],
        "area": box["width"] * box["height"],
        "iscrowd": 0,
        "num_keypoints": len(points),
        "keypoints": [number for x, y in points for number in (x, y, 2)],
        "score": face["score"],
    }


def _write_parquet(file: IO[bytes], records: Records, scheme: LandmarkScheme) -> None:
    import pyarrow  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet  # pyright: ignore[reportMissingImports]

    names = table_columns(scheme.num_points)
    types = [pyarrow.string(), pyarrow.int64(), *[pyarrow.float64()] * (len(names) - 2)]
    schema = pyarrow.schema(list(zip(names, types, strict=True)))
    rows = (table_row(record, number) for record in records() for number in range(len(record["faces"])))
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        while group := list(itertools.islice(rows, ROWS_PER_GROUP)):
            columns = [
                pyarrow.array(column, kind)
                for column, kind in zip(zip(*group, strict=True), types, strict=True)
            ]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))


def write_files(
    out: Path, files: Iterable[tuple[str, bytes]], source: str, *, replaces_since_s: float
) -> None:
    """Write the files of one picture.

    Args:
        out: the folder.
        files: names and contents.
        source: the picture.
        replaces_since_s: see `check_replaceable`.

    Raises:
        InputError: a file cannot be written, or would replace another.
    """
    for name, content in files:
        path = out / name
        check_replaceable(path, source, since_s=replaces_since_s)
        write_whole(path, content)


def check_replaceable(path: Path, source: str | None, *, since_s: float) -> None:
    """Refuse to write where a file is that is not of this run.

    Args:
        path: what would be written.
        source: the picture or video that it tells of, which is never replaced.
        since_s: seconds since 1970; a file that was written before is somebody else's.

    Raises:
        InputError: there is such a file.
    """
    if not path.exists():
        return
    is_source = False
    with contextlib.suppress(OSError, ValueError):  # it may be a URL, or gone
        is_source = source is not None and path.samefile(source)
    if is_source:
        raise InputError(f"{path}: is the input itself, and would be replaced; choose another --out")
    if path.stat().st_mtime < since_s:
        raise InputError(
            f"{path}: is there already, and would be replaced; choose another --out, or --overwrite"
        )
