"""The `flm` command. Parsing only: each command imports what it needs, so that the help comes at once."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from flm.command_line import run_command
from flm.errors import USER_MISTAKE_EXIT_CODE, InputError, exits_on_input_error

if TYPE_CHECKING:
    from flm.geometry import FaceBox

PROGRAM = "flm"


def train() -> None:
    """Train a recipe in this process; `flm train` lists the recipes, `flm train RECIPE --help` its fields.

    Several processes: accelerate launch --config_file launch/X.yaml -m flm.train RECIPE [--field value …]
    """


def recipes() -> None:
    """The named configurations, each with its measured result."""
    from flm.recipes import recipes_text

    print(recipes_text())


def evaluate(
    checkpoint: tyro.conf.Positional[Path],
    *,
    data: Path,
    split: str = "test",
    boxes: Literal["truth", "annotation"] | None = None,
    json: Path | None = None,
    plot: Path | None = None,
    worst: Path | None = None,
    predictions: Path | None = None,
    batch_size: int = 64,
    num_workers: int = 1,
) -> None:
    """Measure a checkpoint on a split of shards.

    Such as:
      flm evaluate runs/quickstart --data data/synthetic --json report.json --plot ced.png --worst worst.png

    Args:
        checkpoint: Folder of a checkpoint, or of a run (its best).
        data: Folder of shards.
        split: Which split is measured.
        boxes: Face boxes to cut around: the landmarks' own or the annotation's; as in training by default.
        json: Where the numbers are written.
        plot: Where the cumulative error curve is drawn (.png).
        worst: Where the faces of the largest errors are drawn, prediction over truth (.png).
        predictions: Where faces from all over the split are drawn, prediction over truth (.png).
        batch_size: Faces at a time, over all processes.
        num_workers: Reading processes.
    """
    from flm.draw import write_png
    from flm.evaluate import evaluate_checkpoint
    from flm.report import ced_curve_picture, format_table, predictions_picture, worst_faces_picture

    report, is_first = evaluate_checkpoint(
        checkpoint, data, split=split, boxes=boxes, batch_size=batch_size, num_workers=num_workers
    )
    if not is_first:
        return
    print(format_table(report))
    if json is not None:
        report.write_json(json)
    for path, draw in (
        (plot, ced_curve_picture),
        (worst, worst_faces_picture),
        (predictions, predictions_picture),
    ):
        if path is not None:
            write_png(path, draw(report))


def predict(
    checkpoint: tyro.conf.Positional[Path],
    images: tyro.conf.Positional[tuple[Path, ...]],
    *,
    out: Path,
    box: Annotated[str | None, tyro.conf.arg(metavar="LEFT,TOP,WIDTH,HEIGHT")] = None,
) -> None:
    """Find the landmarks of a face in each picture; writes NAME.json and NAME.png.

    Such as:
      flm predict runs/quickstart me.jpg --box 120,80,200,200 --out predictions

    Args:
        checkpoint: Folder of a checkpoint, or of a run (its best).
        images: Picture files, one face each.
        out: Folder for the results.
        box: The face's box in px of the picture; the whole picture by default.
    """
    from flm.inference.predict import predict as predict_pictures

    if not images:
        raise InputError("no picture given; see `flm predict --help`")
    mistakes = predict_pictures(checkpoint, images, out=out, box=None if box is None else _box(box))
    print(f"{len(images) - len(mistakes)} of {len(images)} pictures done, in {out}")
    for mistake in mistakes:
        print(f"error: {mistake}", file=sys.stderr)
    if mistakes:
        sys.exit(USER_MISTAKE_EXIT_CODE)


def _box(text: str) -> "FaceBox":
    from flm.geometry import FaceBox

    try:
        left, top, width, height = (float(number) for number in text.split(","))
        return FaceBox(left=left, top=top, width=width, height=height)
    except ValueError as error:
        raise InputError(
            f"--box {text}: expected LEFT,TOP,WIDTH,HEIGHT in px with positive sides, such as 120,80,200,200"
        ) from error


COMMANDS = {"train": train, "evaluate": evaluate, "predict": predict, "recipes": recipes}


@exits_on_input_error
def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command line; that of this process if None."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["train"]:
        from flm.train import main as train_main

        train_main(arguments[1:])
    else:
        run_command(COMMANDS, arguments, program=PROGRAM)
