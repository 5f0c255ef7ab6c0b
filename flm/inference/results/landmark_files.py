"""Files of landmarks in another scheme: what `flm predict` writes, and `.pts` and tables of others."""

import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flm.errors import InputError
from flm.faces.landmark_conversion import convert_landmarks, points_taken
from flm.faces.pts_file import pts_text, read_pts_file
from flm.fields import parse_json
from flm.files import write_whole
from flm.landmarks import SCHEMES, LandmarkScheme


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """From one scheme to another."""

    source: LandmarkScheme
    target: LandmarkScheme

    @classmethod
    def named(cls, name: str) -> "Conversion":
        """Out of a name such as 98-to-68, by the numbers of points.

        Raises:
            InputError: there is no such conversion.
        """
        by_number = {str(scheme.num_points): scheme for scheme in SCHEMES.values()}
        numbers = name.split("-to-")
        if len(numbers) != 2 or not set(numbers) <= by_number.keys():
            raise InputError(f"{name}: expected one of 98-to-68, 98-to-5 and 68-to-5")
        conversion = cls(source=by_number[numbers[0]], target=by_number[numbers[1]])
        points_taken(conversion.source, conversion.target)
        return conversion

    @property
    def points(self) -> tuple[int, ...]:
        """The points that are kept, by their numbers in the source scheme."""
        return points_taken(self.source, self.target)


def convert_files(files: Sequence[Path], out: Path, conversion: Conversion) -> list[InputError]:
    """Write each file into a folder with its landmarks in the other scheme; all else in it stays.

    Args:
        files: `.pts`, which count from 1; `.json` and `.jsonl` as `flm predict` writes them of pictures and
            of videos; `.csv` with columns x0, y0, x1, … and any others.
        out: the folder, made if missing.
        conversion: which one.

    Returns:
        What was wrong with files that were left out.

    Raises:
        InputError: the folder cannot be written, or two files would be one.
    """
    targets = [out / path.name for path in files]
    times = Counter(targets)
    for path, target in zip(files, targets, strict=True):
        if times[target] > 1 or target.resolve() == path.resolve():
            raise InputError(f"{path}: {target} would be replaced; choose another --out, or fewer files")
    mistakes = []
    for path, target in zip(files, targets, strict=True):
        try:
            converted = _converted(path, conversion)
        except InputError as mistake:
            mistakes.append(mistake)
        else:
            write_whole(target, converted.encode())
    return mistakes


def _converted(path: Path, conversion: Conversion) -> str:
    suffix = path.suffix.lower()
    if suffix == ".pts":
        landmarks = read_pts_file(path, conversion.source)
        return pts_text(convert_landmarks(landmarks, conversion.source, conversion.target))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    match suffix:
        case ".json":
            return _converted_record(text, f"{path}", conversion)
        case ".jsonl":
            # Not splitlines, to which names may hold ends of lines, such as U+2028.
            lines = enumerate(text.removesuffix("\n").split("\n"), 1) if text else ()
            return "".join(_converted_record(line, f"{path}:{row}", conversion) for row, line in lines)
        case ".csv":
            try:
                return _converted_table(text, path, conversion)
            except csv.Error as error:
                raise InputError(f"{path}: not a table ({error}); replace the file") from error
    raise InputError(f"{path}: expected a .pts, .json, .jsonl or .csv file")


def _converted_record(text: str, where: str, conversion: Conversion) -> str:
    try:
        record: dict[str, Any] = parse_json(text)
        # A line of a video is one face, and names no scheme.
        is_of_picture = "faces" in record
        for face in record["faces"] if is_of_picture else [record]:
            face["landmarks"] = _taken(face["landmarks"], where, conversion)
            if face.get("covariance") is not None:
                face["covariance"] = _taken(face["covariance"], where, conversion)
        if is_of_picture:
            record["scheme"] = conversion.target.name
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{where}: not a record of `flm predict` ({reason})") from error
    return json.dumps(record, ensure_ascii=False) + "\n"


def _taken(values: list[Any], where: str, conversion: Conversion) -> list[Any]:
    source = conversion.source
    if len(values) != source.num_points:
        raise InputError(f"{where}: {len(values)} points, expected {source.num_points} ({source.name})")
    return [values[point] for point in conversion.points]


def _converted_table(text: str, path: Path, conversion: Conversion) -> str:
    rows = csv.reader(io.StringIO(text))
    header = next(rows, [])
    of_points = [(f"x{point}", f"y{point}") for point in range(conversion.source.num_points)]
    known = set(itertools.chain.from_iterable(of_points))
    missing = sorted(known - set(header))
    if missing or f"x{conversion.source.num_points}" in header:
        wanted = f"x0, y0, … y{conversion.source.num_points - 1} ({conversion.source.name})"
        raise InputError(f"{path}:1: its columns are not those of {wanted}")
    others = [column for column, name in enumerate(header) if name not in known]
    places = [[header.index(name) for name in of_points[point]] for point in conversion.points]
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    numbered = [f"{axis}{point}" for point in range(conversion.target.num_points) for axis in "xy"]
    writer.writerow([header[column] for column in others] + numbered)
    for row in rows:
        if len(row) != len(header):
            raise InputError(f"{path}:{rows.line_num}: {len(row)} columns, expected {len(header)}; fix it")
        writer.writerow([row[column] for column in [*others, *itertools.chain.from_iterable(places)]])
    return written.getvalue()
