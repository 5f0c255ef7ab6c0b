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
    boxes: Literal["truth", "annotation"] | None = None,
    json: Path | None = None,
    plot: Path | None = None,
    worst: Path | None = None,
    predictions: Path | None = None,
    batch_size: int = 64,
    num_workers: int = 1,
    cache_dir: Path | None = None,
    cache_gib: float = 50.0,
) -> None:
    """Measure a checkpoint on a split of shards.

    Such as:
      flm evaluate runs/quickstart --data data/synthetic --json report.json --plot ced.png --worst worst.png

    Args:
        checkpoint: Folder of a checkpoint, or of a run (its best).
        data: Folder of shards, or its URL: https://…, s3://…, gs://… or hf://datasets/…
        split: Which split is measured.
        boxes: Face boxes to cut around: the landmarks' own or the annotation's; as in training by default.
        json: Where the numbers are written.
        plot: Where the cumulative error curve is drawn (.png).
        worst: Where the faces of the largest errors are drawn, prediction over truth (.png).
        predictions: Where faces from all over the split are drawn, prediction over truth (.png).
        batch_size: Faces at a time, over all processes.
        num_workers: Reading processes.
        cache_dir: Where shards of a remote --data are kept; ~/.cache/flm if not given.
        cache_gib: How much of them is kept; the least recently used go first.
    """
    from flm.draw import write_png
    from flm.evaluate import evaluate_checkpoint
    from flm.report import ced_curve_picture, format_table, predictions_picture, worst_faces_picture

    report, is_first = evaluate_checkpoint(
        checkpoint,
        data,
        split=split,
        boxes=boxes,
        batch_size=batch_size,
        num_workers=num_workers,
        cache_dir=cache_dir,
        cache_gib=cache_gib,
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


def bench_loader(*, data: Path, source: Path, json: Path | None = None) -> None:
    """The shard loader beside a loader of one file a sample, and beside bare JPEG decoding.

    Such as:
      flm bench loader --data data/300w --source ibug_300W_large_face_landmark_dataset --json loader.json

    Args:
        data: Folder of shards of the archive.
        source: The archive's folder, whose files the peer reads.
        json: Where the rows are written.
    """
    from flm.bench.loader import bench_loader as measure
    from flm.bench.measure import publish

    publish(measure(data, source), json)


def bench_order(*, json: Path | None = None) -> None:
    """The order of a run over 10⁹ faces beside the bars for its start and for any place of it.

    Such as:
      flm bench order --json order.json

    Args:
        json: Where the rows are written.
    """
    from flm.bench.measure import publish
    from flm.bench.order import bench_order as measure

    publish(measure(), json)


def bench_convert(*, data: Path, json: Path | None = None) -> None:
    """Conversion of large photos beside the same with every pixel decoded.

    Such as:
      flm bench convert --data data/300w --json convert.json

    Args:
        data: Folder of shards, whose faces are enlarged to photos.
        json: Where the rows are written.
    """
    from flm.bench.convert import bench_convert as measure
    from flm.bench.measure import publish

    publish(measure(data), json)


def bench_train(*, data: Path, source: Path, json: Path | None = None) -> None:
    """Training beside a resident batch, the usual way, one process, and no checkpoints; takes minutes.

    Such as:
      flm bench train --data data/300w --source ibug_300W_large_face_landmark_dataset --json train.json

    Args:
        data: Folder of shards of the archive.
        source: The archive's folder, whose files the usual way reads.
        json: Where the rows are written.
    """
    from flm.bench.measure import publish
    from flm.bench.train import bench_train as measure

    publish(measure(data, source), json)


def bench_faults(*, data: Path, kills: int = 50, seed: int = 0, json: Path | None = None) -> None:
    """A small run whose processes are killed again and again beside the same run left alone.

    Such as:
      flm bench faults --data data/synthetic --kills 50 --json faults.json

    Args:
        data: Folder of shards.
        kills: How many SIGKILLs, at random instants of steps, saving and evaluation.
        seed: Of the instants.
        json: Where the outcome is written.
    """
    from flm.bench.faults import bench_faults as measure

    faults = measure(data.resolve(), kills=kills, seed=seed)
    print(faults.describe())
    if json is not None:
        faults.write_json(json)
    if not faults.holds:
        sys.exit(1)


def bench_ablations(
    *,
    data: Path,
    out: Path = Path("runs/ablations"),
    weights: Path | None = None,
    axes: tuple[str, ...] = (),
) -> None:
    """Short runs with one change each, on the validation split; seven minutes a run on two cores, two seeds.

    Such as:
      flm bench ablations --data data/300w --axes head loss

    Args:
        data: Folder of shards with train and validation.
        out: Folder of the runs and of ablations.md, .json and .png; what is done there is not done again.
        weights: File of the backbone's ImageNet weights; timm's hub by default.
        axes: Which comparisons; all by default.
    """
    from flm.bench.ablations import bench_ablations as measure

    measure(data, out, weights=weights.resolve() if weights else None, axes=axes)
    print(f"{out}/ablations.md has the table, ablations.png the learning curves")


def bench() -> None:
    """Ours beside a peer, in one run on this machine; `flm bench --help` names the subjects."""


BENCHMARKS = {
    "loader": bench_loader,
    "order": bench_order,
    "convert": bench_convert,
    "train": bench_train,
    "faults": bench_faults,
    "ablations": bench_ablations,
}
COMMANDS = {
    "train": train,
    "plan": plan,
    "evaluate": evaluate,
    "predict": predict,
    "recipes": recipes,
    "bench": bench,
}


@exits_on_input_error
def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command line; that of this process if None."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["bench"]:
        run_command(BENCHMARKS, arguments[1:], program=f"{PROGRAM} bench")
    elif arguments[:1] == ["train"]:
        from flm.train import main as train_main

        train_main(arguments[1:])
    elif arguments[:1] == ["plan"]:
        from flm.plan_report import main as plan_main

        plan_main(arguments[1:])
    else:
        run_command(COMMANDS, arguments, program=PROGRAM)
