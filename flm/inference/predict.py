"""Landmarks of any number of pictures, written as files; gone on with where it was stopped.

OUT/NAME.json, .pts, .png    files of each picture
OUT/landmarks.*              files of all pictures, written at the end
OUT/report.json              what was done and what could not be
OUT/.flm-predict/            the lines of each process, from which a run goes on
"""

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flm.errors import InputError, some_of, warn
from flm.fields import to_fields
from flm.files import whole_file, write_json
from flm.inference.given_boxes import NO_BOXES, GivenBoxes
from flm.inference.inputs import PictureInput, count_inputs, pictures_of
from flm.inference.predictor import Predictor
from flm.inference.reading import PredictedPicture, predict_in_order
from flm.inference.results.files import (
    JSON_ONLY,
    RUN_FILES,
    OutputConfig,
    check_replaceable,
    picture_files,
    write_files,
    write_run_files,
)
from flm.inference.results.log import ResultIndex, ResultWriter
from flm.inference.results.records import Record, picture_record
from flm.inference.share import Share
from flm.landmarks import LandmarkScheme

STATE_FOLDER = ".flm-predict"
SETTINGS_NAME = "settings.json"
REPORT_NAME = "report.json"

MOST_NAMES = 3
"""Of pictures, in a warning."""
MISTAKES_KEPT = 20
"""In the summary; the report has them all."""

Listing = Callable[[], Iterator[PictureInput]]
"""Goes through all pictures from the start, each time that it is called."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictSummary:
    """What became of the pictures."""

    num_pictures: int
    num_without_faces: int
    num_faces: int
    num_mistakes: int
    mistakes: tuple[str, ...]
    """The first of them."""


def predict(
    inputs: Sequence[str],
    *,
    out: Path,
    predictor: Predictor,
    settings: Mapping[str, Any],
    num_pictures: int | None = None,
    outputs: OutputConfig = JSON_ONLY,
    boxes: GivenBoxes = NO_BOXES,
    workers: int = 2,
    overwrite: bool = False,
) -> PredictSummary | None:
    """Find the landmarks in all pictures, and write them into a folder.

    What an earlier run of the same settings has done there is kept. Under a launcher, each process does its
    share, and the first writes what is of all. Either may change the last digit that is told, where other
    faces share a forward pass.

    Args:
        inputs: see `inputs_of`.
        out: the folder, made if missing.
        predictor: finds faces where no boxes are given, and landmarks.
        settings: all that results depend on beside the pictures.
        num_pictures: as `count_inputs` gave it; counted here if None.
        outputs: what is written.
        boxes: of faces; those of the predictor's detector where there are none.
        workers: threads that read pictures and look for faces.
        overwrite: begin anew, whatever is in the folder.

    Returns:
        What became of the pictures; None of a process that is not the first.

    Raises:
        InputError: there is no picture; or the folder cannot be written, holds the results of other settings,
            or files that are not of this run and would be replaced.
    """
    share, state = Share.of_environment(), out / STATE_FOLDER

    def listing() -> Iterator[PictureInput]:
        return pictures_of(inputs, skip=out, allow_private_urls=predictor.allow_private_urls)

    num_pictures = count_inputs(inputs, skip=out).pictures if num_pictures is None else num_pictures
    if share.is_first:
        prepare_folder(state, settings, overwrite)
        for name in (REPORT_NAME, *(RUN_FILES[kind] for kind in outputs.formats if kind in RUN_FILES)):
            check_replaceable(out / name, None, since_s=replaces_since_s(state, overwrite))
        if unmatched := boxes.unmatched(listing()):
            called = "a picture goes by its path, the name of its results, or its file's name"
            warn(f"--boxes: no picture is called {some_of(unmatched, MOST_NAMES)}; {called}")
    share.meet(state)
    since_s = replaces_since_s(state, overwrite)
    index = ResultIndex(state)
    mine = (picture for number, picture in enumerate(listing()) if share.is_mine(number))
    with (
        contextlib.closing(ResultWriter(state, share.process)) as results,
        _progress(sum(map(share.is_mine, range(num_pictures))), is_shown=share.is_first) as advance,
    ):
        todo = (picture for picture in mine if not (index.is_done(picture.name) and advance()))
        for done in predict_in_order(todo, predictor, boxes, workers=workers):
            _keep(done, out, results, outputs, predictor.scheme, replaces_since_s=since_s)
            advance()
    share.wait_for_all(state)
    return _merge(out, listing, outputs, predictor.scheme) if share.is_first else None


def prepare_folder(state: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Make the folder in which a run notes what is done, or check that it is this run's.

    Args:
        state: the folder; its parent is named in messages.
        settings: all that results depend on beside the inputs.
        overwrite: begin anew.

    Raises:
        InputError: it is of other settings, or cannot be written.
    """
    path = state / SETTINGS_NAME
    is_resumed = path.exists() and not overwrite
    settings = json.loads(json.dumps(settings))
    earlier: dict[str, Any] = json.loads(path.read_text()) if is_resumed else {}
    if is_resumed:
        before = earlier["settings"]
        for name in sorted(before.keys() | settings.keys()):
            if before.get(name) != settings.get(name):
                raise InputError(
                    f"{state.parent}: holds results of another run ({name} was {before.get(name)}, is "
                    f"{settings.get(name)}); choose another --out or begin anew with --overwrite"
                )
    else:
        shutil.rmtree(state, ignore_errors=True)
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{state.parent}: cannot be written ({error.strerror}); choose another --out"
        ) from error
    # By the clock of the disk, which may be another machine's: the folder was made just now.
    began_s = 0.0 if overwrite else state.stat().st_mtime
    since_s = earlier.get("replaces_since_s", began_s)
    write_json(path, {"is_resumed": is_resumed, "replaces_since_s": since_s, "settings": settings})


def replaces_since_s(state: Path, overwrite: bool) -> float:
    """From when on files are this run's own, so that it may replace them; seconds since 1970.

    At its first try it has none yet; later on, those that were written after it began. A run that began with
    `overwrite` takes all files for its own.

    Args:
        state: a folder as `prepare_folder` leaves it.
        overwrite: as given to `prepare_folder`.
    """
    fields = json.loads((state / SETTINGS_NAME).read_text())
    return fields["replaces_since_s"] if fields["is_resumed"] or overwrite else math.inf


def _keep(
    done: PredictedPicture,
    out: Path,
    results: ResultWriter,
    outputs: OutputConfig,
    scheme: LandmarkScheme,
    *,
    replaces_since_s: float,
) -> None:
    """Write what is known of a picture: its files, and then its line, which so tells that they are there."""
    name, picture = done.source.name, done.picture
    if picture is None:
        results.add_mistake(name, done.mistake)
        return
    height, width = picture.shape[:2]
    try:
        record = picture_record(name, done.source.image, (width, height), done.faces, scheme)
    except InputError as mistake:
        results.add_mistake(name, str(mistake))
        return
    files = picture_files(record, picture, outputs)
    write_files(out, files, done.source.image, replaces_since_s=replaces_since_s)
    results.add_result(name, record)


def _merge(out: Path, listing: Listing, outputs: OutputConfig, scheme: LandmarkScheme) -> PredictSummary:
    """Write what is of all pictures: the formats, and the report."""
    index = ResultIndex(out / STATE_FOLDER)

    def found() -> Iterator[tuple[str, Record | str]]:
        for source in listing():
            what = index.found(source.name)
            if what is not None:
                yield source.name, what

    def records() -> Iterator[Record]:
        return (what for _, what in found() if not isinstance(what, str))

    with contextlib.closing(index):
        write_run_files(out, records, outputs.formats, scheme)
        return _write_report(out / REPORT_NAME, found())


def _write_report(path: Path, found: Iterator[tuple[str, Record | str]]) -> PredictSummary:
    num_pictures = num_faces = num_without_faces = num_mistakes = 0
    mistakes: list[str] = []
    with whole_file(path) as file:
        file.write(b'{\n  "mistakes": [')
        for name, what in found:
            num_pictures += 1
            if isinstance(what, str):
                file.write(b",\n    " if num_mistakes else b"\n    ")
                file.write(json.dumps({"name": name, "mistake": what}, ensure_ascii=False).encode())
                num_mistakes += 1
                mistakes += [what] if num_mistakes <= MISTAKES_KEPT else []
            else:
                num_faces += len(what["faces"])
                num_without_faces += not what["faces"]
        summary = PredictSummary(
            num_pictures=num_pictures,
            num_faces=num_faces,
            num_without_faces=num_without_faces,
            num_mistakes=num_mistakes,
            mistakes=tuple(mistakes),
        )
        counts = {name: value for name, value in to_fields(summary).items() if name != "mistakes"}
        file.write(b"\n  ]," + json.dumps(counts, indent=2).encode()[1:] + b"\n")
    return summary


@contextlib.contextmanager
def _progress(num_pictures: int, *, is_shown: bool) -> Iterator[Callable[[], bool]]:
    """A bar on a terminal; each call moves it by a picture, and is true."""
    columns = TextColumn("pictures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    is_shown &= console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not is_shown) as progress:
        task = progress.add_task("", total=num_pictures)

        def advance() -> bool:
            progress.advance(task)
            return True

        yield advance
