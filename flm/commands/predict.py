"""The commands of `flm` from pictures to landmarks. Parsing only: each imports what it needs."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from flm.errors import USER_MISTAKE_EXIT_CODE, InputError
from flm.inference.detector_config import ANY_DETECTOR, DetectorConfig
from flm.inference.tracking.config import DEFAULT_TRACKING, TrackConfig

if TYPE_CHECKING:
    from flm.inference.given_boxes import GivenBoxes
    from flm.inference.inputs import InputCounts
    from flm.inference.predict import PredictSummary
    from flm.inference.predict_videos import VideosSummary
    from flm.inference.predictor import Predictor
    from flm.inference.results.files import OutputConfig


def predict(
    inputs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT…")],
    *,
    out: Path,
    checkpoint: str = "default",
    format: str = "json",
    overlay: bool = False,
    crops: bool = False,
    box: Annotated[str | None, tyro.conf.arg(metavar="LEFT,TOP,WIDTH,HEIGHT")] = None,
    boxes: Path | None = None,
    detector: DetectorConfig = ANY_DETECTOR,
    second_pass: bool = False,
    mirror_average: bool = False,
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
    batch_size: int = 32,
    workers: int = 2,
    track: Annotated[TrackConfig, tyro.conf.AvoidSubcommands] = DEFAULT_TRACKING,
    steady: bool = True,
    seconds: float | None = None,
    overwrite: bool = False,
    allow_private_urls: bool = False,
) -> None:
    """Find faces and their landmarks in pictures and videos; when it was stopped, the same command goes on.

    Such as:
      flm predict me.jpg --checkpoint runs/quick --out predictions --overlay
      flm predict photos 'more/**/*.png' faces-000000.tar --out found --format jsonl,csv
      accelerate launch -m flm predict photos --out found --format parquet
      flm predict clip.mp4 --out found --overlay
      flm predict camera:0 --out found --seconds 60

    Writes NAME.json for each picture, and report.json of all; NAME.jsonl for each video, with the faces of
    each frame and an id for each face, and videos.json of all. What cannot be read is told there, and the
    exit code is 2 then.

    Args:
        inputs: Pictures, videos, folders, globs, URLs, WebDataset shards (.tar), rtsp:// streams, camera:0.
        out: Folder for the results.
        checkpoint: Folder of a checkpoint or of a run (its best), an .onnx file, hf://USER/NAME, or the model
            that comes with flm.
        format: Some of json and pts (files for each picture), jsonl, csv, coco and parquet (one file of all),
            with commas.
        overlay: Also draw NAME.png, and NAME.mp4 with the sound of the video.
        crops: Also cut out each face upright, NAME_face1.png.
        box: The face's box in px, in every picture; no detector looks then.
        boxes: File of boxes: .csv with file, left, top, width, height, or .json of lists by picture.
        detector: What finds the faces.
        second_pass: Look again, at the box of the landmarks that the first look found.
        mirror_average: Average with what is found in the mirrored picture.
        device: Where the network runs: cpu, or cuda with a GPU.
        precision: Of the network's arithmetic.
        batch_size: Faces that the network sees at once.
        workers: Threads that read pictures and look for faces.
        track: How faces are followed through a video, and how their landmarks are steadied.
        steady: Steady landmarks of videos; or leave them as found in each frame.
        seconds: How much of each video, or how long from a camera, which else ends at Ctrl-C.
        overwrite: Begin anew, whatever is in the folder.
        allow_private_urls: Also fetch from addresses that are not of the public internet.
    """
    from flm.fields import to_fields
    from flm.inference.load import find_model, identity, load
    from flm.inference.pass_config import PassConfig
    from flm.inference.results.files import OutputConfig, parse_formats
    from flm.process.memory import keep_freed_memory

    _check_numbers(inputs, batch_size, workers, seconds)
    outputs = OutputConfig(formats=parse_formats(format), overlay=overlay, crops=crops)
    given = _given_boxes(box, boxes)
    passes = PassConfig(second_pass=second_pass, mirror_average=mirror_average)
    counts = _count(inputs, out, outputs, has_boxes=bool(box or boxes))
    model = find_model(checkpoint, precision)
    settings = {
        "checkpoint": identity(model),
        "boxes": given.identity,
        "detector": to_fields(detector),
        "passes": to_fields(passes),
        "outputs": to_fields(outputs),
    }
    if device == "cpu":
        keep_freed_memory()
    predictor = load(
        model,
        device=device,
        precision=precision,
        detector=detector,
        passes=passes,
        faces_per_forward=batch_size,
        allow_private_urls=allow_private_urls,
    )
    is_whole = True
    if counts.pictures:
        is_whole &= _predict_pictures(
            inputs, out, predictor, settings, counts.pictures, outputs, given, workers, overwrite
        )
    if counts.videos:
        track = track if steady else dataclasses.replace(track, filter=None)
        is_whole &= _predict_videos(inputs, out, predictor, settings, outputs, track, seconds, overwrite)
    if not is_whole:
        sys.exit(USER_MISTAKE_EXIT_CODE)


def _count(inputs: tuple[str, ...], out: Path, outputs: "OutputConfig", *, has_boxes: bool) -> "InputCounts":
    """How many pictures and videos there are; refuses what videos cannot have."""
    from flm.inference.inputs import count_inputs
    from flm.inference.predict_videos import VideoFormats

    counts = count_inputs(inputs, skip=out)
    if counts.videos and has_boxes:
        raise InputError("--box and --boxes are for pictures; leave out the videos, or let the detector look")
    if counts.videos:
        VideoFormats.of(outputs.formats, overlay=outputs.overlay)
    return counts


def _predict_pictures(
    inputs: tuple[str, ...],
    out: Path,
    predictor: "Predictor",
    settings: dict[str, Any],
    num_pictures: int,
    outputs: "OutputConfig",
    boxes: "GivenBoxes",
    workers: int,
    overwrite: bool,
) -> bool:
    """Whether there was no mistake."""
    from flm.inference.predict import predict as predict_pictures

    summary = predict_pictures(
        inputs,
        out=out,
        predictor=predictor,
        settings=settings,
        num_pictures=num_pictures,
        outputs=outputs,
        boxes=boxes,
        workers=workers,
        overwrite=overwrite,
    )
    return summary is None or _tell(summary, out)


def _predict_videos(
    inputs: tuple[str, ...],
    out: Path,
    predictor: "Predictor",
    settings: dict[str, Any],
    outputs: "OutputConfig",
    track: TrackConfig,
    seconds: float | None,
    overwrite: bool,
) -> bool:
    """Whether there was no mistake."""
    from flm.fields import to_fields
    from flm.inference.predict_videos import VideoFormats, predict_videos
    from flm.inference.tracking.tracker import FaceTracker

    summary = predict_videos(
        inputs,
        out=out,
        tracker=FaceTracker(predictor, track),
        settings={**settings, "track": to_fields(track)},
        formats=VideoFormats.of(outputs.formats, overlay=outputs.overlay),
        most_seconds=seconds,
        overwrite=overwrite,
    )
    return summary is None or _tell_of_videos(summary, out)


def _check_numbers(inputs: tuple[str, ...], batch_size: int, workers: int, seconds: float | None) -> None:
    if not inputs:
        raise InputError("no picture given; see `flm predict --help`")
    if seconds is not None and not seconds > 0:
        raise InputError(f"--seconds is {seconds:g}, expected more than 0")
    for flag, value in (("--batch-size", batch_size), ("--workers", workers)):
        if value < 1:
            raise InputError(f"{flag} is {value}, expected at least 1")


def _given_boxes(box: str | None, boxes: Path | None) -> "GivenBoxes":
    from flm.inference.given_boxes import GivenBoxes, parse_box, read_boxes

    return GivenBoxes(
        everywhere=None if box is None else (parse_box(box),),
        by_name={} if boxes is None else read_boxes(boxes),
    )


def _tell(summary: "PredictSummary", out: Path) -> bool:
    """Say what became of the pictures; whether there was no mistake."""
    done = summary.num_pictures - summary.num_mistakes
    without = f", {summary.num_without_faces:,} of them without a face" if summary.num_without_faces else ""
    counts = f"{done:,} of {summary.num_pictures:,} pictures done{without}, {summary.num_faces:,} faces"
    print(f"{counts}; in {out}")
    for mistake in summary.mistakes:
        print(f"error: {mistake}", file=sys.stderr)
    if summary.num_mistakes > len(summary.mistakes):
        print(f"error: {summary.num_mistakes:,} in all; {out}/report.json has the others", file=sys.stderr)
    return summary.num_mistakes == 0


def _tell_of_videos(summary: "VideosSummary", out: Path) -> bool:
    """Say what became of the videos; whether there was no mistake."""
    done = summary.num_videos - len(summary.mistakes)
    counts = f"{done:,} of {summary.num_videos:,} videos done, {summary.num_frames:,} frames"
    print(f"{counts}, {summary.num_faces:,} faces in them; in {out}")
    for mistake in summary.mistakes:
        print(f"error: {mistake}", file=sys.stderr)
    return not summary.mistakes


def convert_landmarks(
    conversion: tyro.conf.Positional[str],
    files: tyro.conf.Positional[tuple[Path, ...]],
    *,
    out: Path,
) -> None:
    """Convert files of landmarks to a scheme of fewer points.

    Such as:
      flm convert-landmarks 98-to-68 predictions/*.json --out predictions-68

    Args:
        conversion: 98-to-68 (WFLW to iBUG), 98-to-5 or 68-to-5 (dlib's five points).
        files: .pts, which count from 1; .json, .jsonl and .csv of `flm predict`; .csv with columns x0, y0, …
        out: Folder for the files, under the same names.
    """
    from flm.inference.results.landmark_files import Conversion, convert_files

    if not files:
        raise InputError("no file given; see `flm convert-landmarks --help`")
    mistakes = convert_files(files, out, Conversion.named(conversion))
    print(f"{len(files) - len(mistakes)} of {len(files)} files converted, in {out}")
    for mistake in mistakes:
        print(f"error: {mistake}", file=sys.stderr)
    if mistakes:
        sys.exit(USER_MISTAKE_EXIT_CODE)
