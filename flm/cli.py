"""The `flm` command. Parsing only: each command imports what it needs, so that the help comes at once."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from flm.bench.summary.commands import BENCHMARKS
from flm.command_line import run_command, running_command
from flm.commands.export import export
from flm.commands.predict import convert_landmarks, predict
from flm.errors import exits_on_input_error
from flm.inference.detector_config import ANY_DETECTOR, DetectorConfig
from flm.publish.commands import PUBLICATIONS

PROGRAM = "flm"


def train() -> None:
    """Train a recipe in this process; `flm train` lists the recipes, `flm train RECIPE --help` its fields.

    Several processes: accelerate launch --config_file launch/X.yaml -m flm.train RECIPE [--field value …]
    """


def plan() -> None:
    """What a run will need before it is started: time, reads, cache, network, memory; `flm plan --help`."""


def recipes() -> None:
    """The named configurations, each with its measured result."""
    from flm.recipes import recipes_text

    print(recipes_text())


def evaluate(
    checkpoint: tyro.conf.Positional[Path],
    *,
    data: str,
    split: str = "test",
    boxes: Literal["truth", "annotation", "detector"] | None = None,
    detector: DetectorConfig = ANY_DETECTOR,
    second_pass: bool = False,
    mirror_average: bool = False,
    json: Path | None = None,
    plot: Path | None = None,
    worst: Path | None = None,
    predictions: Path | None = None,
    report: Path | None = None,
    batch_size: int = 64,
    num_workers: int = 1,
    cache_dir: Path | None = None,
    cache_gib: float = 50.0,
) -> None:
    """Measure a checkpoint on a split of shards.

    Such as:
      flm evaluate runs/quickstart --data data/synthetic --report report.html --json report.json

    Args:
        checkpoint: Folder of a checkpoint, or of a run (its best).
        data: Folder of shards, or its URL: https://…, s3://…, gs://… or hf://datasets/…
        split: Which split is measured.
        boxes: Face boxes to cut around: the landmarks' own, the annotation's, or a detector's, which tells
            how many faces it misses and leaves them out; as in training by default.
        detector: Which one, for --boxes detector; it looks at the stored crops.
        second_pass: Look again, at the box of the landmarks that the first look found.
        mirror_average: Average with what is found in the mirrored picture.
        json: Where the numbers are written.
        plot: Where the cumulative error curve is drawn (.png).
        worst: Where the faces of the largest errors are drawn, prediction over truth (.png).
        predictions: Where faces from all over the split are drawn, prediction over truth (.png).
        report: Where all of it is written as one page, with published numbers and calibration (.html).
        batch_size: Faces at a time, over all processes.
        num_workers: Reading processes.
        cache_dir: Where shards of a remote --data are kept; ~/.cache/flm if not given.
        cache_gib: How much of them is kept; the least recently used go first.
    """
    from flm.draw import write_png
    from flm.evaluation.evaluate_checkpoint import evaluate_checkpoint
    from flm.evaluation.report import (
        ced_curve_picture,
        format_table,
        predictions_picture,
        worst_faces_picture,
    )
    from flm.inference.pass_config import PassConfig

    found, is_first = evaluate_checkpoint(
        checkpoint,
        data,
        split=split,
        boxes=boxes,
        detector=detector,
        passes=PassConfig(second_pass=second_pass, mirror_average=mirror_average),
        batch_size=batch_size,
        num_workers=num_workers,
        cache_dir=cache_dir,
        cache_gib=cache_gib,
    )
    if not is_first:
        return
    print(format_table(found))
    if json is not None:
        found.write_json(json)
    for path, draw in (
        (plot, ced_curve_picture),
        (worst, worst_faces_picture),
        (predictions, predictions_picture),
    ):
        if path is not None:
            write_png(path, draw(found))
    if report is not None:
        from flm.data.store import open_store
        from flm.evaluation.report_page.write import write_report_page

        store = open_store(data, cache_dir=cache_dir, cache_gib=cache_gib)
        command = running_command() or "flm.cli.evaluate, called from Python"
        write_report_page(report, found, checkpoint=checkpoint, store=store, split=split, command=command)


def calibrate(
    checkpoint: tyro.conf.Positional[Path],
    *,
    data: str,
    split: str = "validation",
    per_point: bool = True,
    batch_size: int = 64,
    num_workers: int = 1,
    cache_dir: Path | None = None,
    cache_gib: float = 50.0,
) -> None:
    """Fit the uncertainty of a checkpoint's landmarks, and a score for each face, to a split of shards.

    Writes calibration.json beside the weights; predict and evaluate apply it from then on. Such as:
      flm calibrate runs/quickstart --data data/synthetic

    Args:
        checkpoint: Folder of a checkpoint, or of a run (its best).
        data: Folder of shards, or its URL: https://…, s3://…, gs://… or hf://datasets/…
        split: What it is fitted to; not the split that numbers are told of.
        per_point: A scale for each point, or one for all.
        batch_size: Faces at a time, over all processes.
        num_workers: Reading processes.
        cache_dir: Where shards of a remote --data are kept; ~/.cache/flm if not given.
        cache_gib: How much of them is kept; the least recently used go first.
    """
    from flm.evaluation.calibrate import calibrate as fit

    fit(
        checkpoint,
        data,
        split=split,
        per_point=per_point,
        batch_size=batch_size,
        num_workers=num_workers,
        cache_dir=cache_dir,
        cache_gib=cache_gib,
    )


def relabel(
    data: tyro.conf.Positional[str],
    *,
    checkpoint: Path,
    out: Path,
    splits: tuple[str, ...] = (),
    max_distance: float = 0.15,
    batch_size: int = 64,
    cache_dir: Path | None = None,
    cache_gib: float = 50.0,
) -> None:
    """Write shards anew with the landmarks that a network finds, for a smaller network to learn from.

    Pictures stay the same. When it was stopped, the same command goes on.

    Such as:
      flm relabel data/youtube --checkpoint runs/large --out data/youtube-relabelled
      flm relabel data/300w --checkpoint runs/large --out data/300w-taught --splits train

    Args:
        data: Folder of shards, or its URL: https://…, s3://…, gs://… or hf://datasets/…
        checkpoint: Folder of a checkpoint, or of a run (its best).
        out: Folder for the new shards.
        splits: Splits that get new landmarks, all by default; the others go along as they are.
        max_distance: Faces are dropped whose new landmarks lie further from the old ones, on average, than
            this share of the inter-ocular distance; between two landmark schemes none is.
        batch_size: Faces at a time.
        cache_dir: Where shards of a remote data set are kept; ~/.cache/flm if not given.
        cache_gib: How much of them is kept; the least recently used go first.
    """
    from flm.evaluation.relabel import RelabelOptions
    from flm.evaluation.relabel import relabel as write_relabelled

    options = RelabelOptions(splits=splits, max_distance=max_distance, batch_size=batch_size)
    manifest = write_relabelled(data, checkpoint, out, options, cache_dir=cache_dir, cache_gib=cache_gib)
    counts = ", ".join(f"{manifest.num_samples(name):,} {name}" for name in manifest.splits)
    print(f"{out}: {counts} faces; {manifest.labels}")


def publish() -> None:
    """A checkpoint, its card or the demo on the Hugging Face Hub; `flm publish --help`."""


def bench() -> None:
    """Ours beside a peer, in one run on this machine; `flm bench --help` names the subjects."""


COMMANDS = {
    "train": train,
    "plan": plan,
    "evaluate": evaluate,
    "calibrate": calibrate,
    "predict": predict,
    "convert-landmarks": convert_landmarks,
    "export": export,
    "relabel": relabel,
    "recipes": recipes,
    "publish": publish,
    "bench": bench,
}
GROUPS = {"bench": BENCHMARKS, "publish": PUBLICATIONS}
"""What the first word of a command line may be followed by."""


@exits_on_input_error
def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command line; that of this process if None."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in GROUPS:
        run_command(GROUPS[arguments[0]], arguments[1:], program=f"{PROGRAM} {arguments[0]}")
    elif arguments[:1] == ["train"]:
        from flm.train import main as train_main

        train_main(arguments[1:])
    elif arguments[:1] == ["plan"]:
        from flm.commands.plan import main as plan_main

        plan_main(arguments[1:])
    else:
        run_command(COMMANDS, arguments, program=PROGRAM)
