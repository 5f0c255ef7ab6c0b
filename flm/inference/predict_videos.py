"""Any number of videos, one after the other; those that are finished are not done again.

OUT/NAME.jsonl, .csv, .mp4    of each video, see flm/inference/predict_video.py
OUT/videos.json               what was found, and what could not be done
OUT/.flm-predict-videos/      what is finished
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flm.errors import InputError, warn
from flm.fields import to_fields
from flm.files import write_json
from flm.inference.inputs import VideoInput, readable, videos_of
from flm.inference.predict import prepare_folder, replaces_since_s
from flm.inference.predict_video import VideoOutputs, VideoProgress, predict_video
from flm.inference.results.files import Format, check_replaceable
from flm.inference.share import Share
from flm.inference.tracking.tracker import FaceTracker
from flm.inference.video.input import is_live

STATE_FOLDER = ".flm-predict-videos"
REPORT_NAME = "videos.json"

_MISTAKE = "mistake"


@dataclass(frozen=True, kw_only=True, slots=True)
class VideosSummary:
    """What became of the videos."""

    num_videos: int
    num_frames: int
    num_faces: int
    """Over all frames."""
    num_bad_frames: int
    mistakes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFormats:
    """What is written of each video."""

    jsonl: bool = True
    csv: bool = False
    overlay: bool = False

    @classmethod
    def of(cls, formats: Sequence[Format], *, overlay: bool) -> "VideoFormats":
        """Those of pictures, as far as videos have them; lines stand for the files of each picture.

        Raises:
            InputError: none is left.
        """
        found = cls(jsonl="json" in formats or "jsonl" in formats, csv="csv" in formats, overlay=overlay)
        if not (found.jsonl or found.csv or found.overlay):
            names = ",".join(formats)
            raise InputError(f"--format {names}: landmarks of videos are written as jsonl or csv; name one")
        return found

    def files(self, out: Path, name: str) -> VideoOutputs:
        """Those of one video."""
        return VideoOutputs(
            jsonl=out / f"{name}.jsonl" if self.jsonl else None,
            csv=out / f"{name}.csv" if self.csv else None,
            overlay=out / f"{name}.mp4" if self.overlay else None,
        )


def predict_videos(
    inputs: Sequence[str],
    *,
    out: Path,
    tracker: FaceTracker,
    settings: Mapping[str, Any],
    formats: VideoFormats,
    most_seconds: float | None = None,
    overwrite: bool = False,
) -> VideosSummary | None:
    """Follow the faces of all videos among the inputs, and write them into a folder.

    A video that was finished by an earlier run of the same settings is kept, one that was not is done anew.
    Under a launcher, each process does its share. A video that cannot be read does not end the others.

    Args:
        inputs: see `inputs_of`.
        out: the folder, made if missing.
        tracker: follows the faces of one video after the other.
        settings: all that results depend on beside the videos.
        formats: what is written.
        most_seconds: of each video.
        overwrite: begin anew, whatever is in the folder.

    Returns:
        What became of the videos; None of a process that is not the first.

    Raises:
        InputError: the folder cannot be written, holds the results of other settings, or files that are not
            of this run and would be replaced.
    """
    share, state = Share.of_environment(), out / STATE_FOLDER
    if share.is_first:
        prepare_folder(state, {**settings, "most_seconds": most_seconds}, overwrite)
        check_replaceable(out / REPORT_NAME, None, since_s=replaces_since_s(state, overwrite))
    share.meet(state)
    since_s = replaces_since_s(state, overwrite)
    videos = list(videos_of(inputs, skip=out))
    with _progress(is_shown=share.is_first) as bar:
        for number, video in enumerate(videos):
            if share.is_mine(number) and (is_live(video.source) or not _is_finished(state, video)):
                files = formats.files(out, video.name)
                # What a camera showed before is not seen again.
                is_kept = is_live(video.source) and not overwrite
                _check_free(files, video.source, math.inf if is_kept else since_s)
                note = _followed(video, tracker, files, most_seconds, bar(video.name))
                write_json(_note_path(state, video), note)
    share.wait_for_all(state)
    return _write_report(out, state, videos) if share.is_first else None


def _followed(
    video: VideoInput,
    tracker: FaceTracker,
    files: VideoOutputs,
    most_seconds: float | None,
    on_progress: Callable[[VideoProgress], None],
) -> dict[str, Any]:
    """What is noted of a video once its files are there: what was found, or why nothing was."""
    about = {"name": video.name, "source": readable(video.source)}
    try:
        summary = predict_video(
            video.source,
            tracker,
            files,
            most_seconds=most_seconds,
            allow_private_urls=tracker.predictor.allow_private_urls,
            on_progress=on_progress,
        )
    except InputError as mistake:
        return {**about, _MISTAKE: readable(str(mistake))}
    if summary.num_bad_frames:
        warn(f"{video.source}: {summary.num_bad_frames} frames could not be read and were passed over")
    return {**about, **to_fields(summary)}


def _check_free(files: VideoOutputs, source: str, since_s: float) -> None:
    for path in (files.jsonl, files.csv, files.overlay):
        if path is not None:
            check_replaceable(path, source, since_s=since_s)


def _note_path(state: Path, video: VideoInput) -> Path:
    return state / "done" / f"{video.name}.json"


def _note(state: Path, video: VideoInput) -> dict[str, Any] | None:
    try:
        return json.loads(_note_path(state, video).read_text())
    except FileNotFoundError:
        return None


def _is_finished(state: Path, video: VideoInput) -> bool:
    note = _note(state, video)
    return note is not None and _MISTAKE not in note and note["source"] == readable(video.source)


def _write_report(out: Path, state: Path, videos: Sequence[VideoInput]) -> VideosSummary:
    notes = [note for note in (_note(state, video) for video in videos) if note is not None]
    done = [note for note in notes if _MISTAKE not in note]
    mistakes = [note for note in notes if _MISTAKE in note]
    write_json(out / REPORT_NAME, {"videos": done, "mistakes": mistakes})
    return VideosSummary(
        num_videos=len(videos),
        num_frames=sum(note["num_frames"] for note in done),
        num_faces=sum(note["num_faces"] for note in done),
        num_bad_frames=sum(note["num_bad_frames"] for note in done),
        mistakes=tuple(note[_MISTAKE] for note in mistakes),
    )


class _Bar(Protocol):
    def __call__(self, name: str) -> Callable[[VideoProgress], None]: ...


@contextlib.contextmanager
def _progress(*, is_shown: bool) -> Iterator[_Bar]:
    """A bar for each video, on a terminal, with the frames a second."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:.0f} frames/s"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    is_shown &= console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not is_shown) as progress:

        def bar(name: str) -> Callable[[VideoProgress], None]:
            task = progress.add_task(name, total=None, speed=0.0)

            def advance(done: VideoProgress) -> None:
                progress.update(
                    task, completed=done.num_frames, total=done.of_frames, speed=done.frames_per_s
                )

            return advance

        yield bar
