"""The benchmarks of `flm bench`. Parsing only: each imports what it needs."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import tyro

from flm.inference.detector_config import ANY_DETECTOR, DetectorConfig


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
    """The order of a run over 10⁹ faces: how soon it is there, and how soon any place of it.

    Such as:
      flm bench order --json order.json

    Args:
        json: Where the figures are written.
    """
    from flm.bench.figures import publish_figures
    from flm.bench.order import bench_order as measure

    publish_figures(measure(), json)


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
    recipe: str = "ibug68-compact",
    faces: int = 48_000,
    axes: tuple[str, ...] = (),
    weights: Path | None = None,
    init_from: dict[str, Path] | None = None,
) -> None:
    """A recipe with one change each, in short runs with two seeds, on the validation split; takes hours.

    Such as:
      flm bench ablations --data data/300w --axes head loss --init-from "YouTube faces" runs/youtube

    Args:
        data: Folder of shards with train and validation.
        out: Folder of the runs and of ablations.md, .json and .png; what is done there is not done again.
        recipe: What is varied.
        faces: How many each run sees, about.
        axes: Which comparisons; all by default.
        weights: File of the backbone's ImageNet weights; timm's hub by default.
        init_from: Checkpoints to begin with, each after what it was trained on.
    """
    from flm.bench.ablations.ablations import bench_ablations as measure

    starts = {name: path.resolve() for name, path in (init_from or {}).items()}
    weights = weights.resolve() if weights else None
    measure(data, out, recipe=recipe, weights=weights, init_from=starts, axes=axes, faces=faces)
    print(f"{out}/ablations.md has the table, ablations.png the learning curves")


def bench_boxes(
    checkpoint: tyro.conf.Positional[Path],
    *,
    data: str,
    out: Path,
    split: str = "validation",
    detector: DetectorConfig = ANY_DETECTOR,
    num_faces: int | None = None,
    fitted_faces: int = 500,
) -> None:
    """The error with boxes that are shifted and scaled, and with a detector's; with one pass, and with two.

    Such as:
      flm bench boxes runs/quick --data data/300w --out runs/quick/boxes

    Args:
        checkpoint: Folder of a checkpoint, or of a run (its best).
        data: Folder of shards, or its URL.
        out: Folder of boxes.json, boxes.md and boxes.png.
        split: Which split is measured.
        detector: Whose boxes are compared.
        num_faces: The first so many faces of the split; all by default. Each is looked at 78 times and more.
        fitted_faces: Faces of the train split that the detector's mapping is fitted on.
    """
    from flm.bench.boxes import bench_boxes as measure
    from flm.bench.boxes_report import boxes_text
    from flm.inference.detector import build_detector

    report = measure(
        checkpoint,
        data,
        build_detector(detector),
        split=split,
        out=out,
        num_faces=num_faces,
        fitted_faces=fitted_faces,
    )
    print(boxes_text(report))


def bench_predict(
    *,
    checkpoint: str = "default",
    data: str,
    out: Path,
    split: str = "validation",
    detector: DetectorConfig = ANY_DETECTOR,
    dlib_model: Path | None = None,
    threads: int = 2,
    quick: bool = False,
) -> None:
    """Landmarks, pictures, videos, ids and the start, beside dlib and the reference project; takes minutes.

    Such as:
      flm bench predict --checkpoint runs/quick --data data/300w --out runs/quick/bench

    Args:
        checkpoint: Folder of a checkpoint or of a run (its best), an .onnx file, hf://USER/NAME, or the model
            that comes with flm.
        data: Folder of shards, or its URL.
        out: Folder of predict.json, steadiness.png and ids.png.
        split: Whose faces are measured on.
        detector: Ours.
        dlib_model: File of dlib's 68-point predictor; it is left out without.
        threads: Of every side that takes several.
        quick: Only see that all runs; the numbers say little.
    """
    from flm.bench.predict.predict import bench_predict as measure
    from flm.bench.predict.setting import PredictLength

    measure(
        checkpoint,
        data,
        out,
        split=split,
        detector=detector,
        dlib_model=dlib_model,
        length=PredictLength.quick() if quick else None,
        threads=threads,
    )


def bench_demo(
    *,
    checkpoint: str = "",
    detector: Path | None = None,
    visitors: int = 50,
    lasts_s: float = 60.0,
    json: Path | None = None,
) -> None:
    """The web page: its start, a photo and the camera in Chromium if that is there, many visitors at once.

    Such as:
      flm bench demo --checkpoint quick.onnx --json demo.json

    Args:
        checkpoint: As `python demo/app.py` takes it; the model that comes with the page if not given.
        detector: YuNet's file; fetched once if not given.
        visitors: How many ask at once; 0 leaves them out.
        lasts_s: How long they do.
        json: Where the figures are written.
    """
    from flm.bench.demo.demo import bench_demo as measure
    from flm.bench.figures import publish_figures

    publish_figures(measure(checkpoint, detector=detector, num_visitors=visitors, lasts_s=lasts_s), json)


def bench_gpu(
    *,
    data: Path,
    json: Path = Path("gpu_check.json"),
    recipe: str | None = None,
    tests: Path | None = None,
    limit_s: float = 300.0,
    quick: bool = False,
) -> None:
    """What a GPU reaches in augmentation, training and prediction, and whether the loader can feed it.

    Without a GPU it is the processor, and that is said. Exit code 1 where something failed. Such as:
      flm bench gpu --data data/300w

    `bash launch/gpu_check.sh` runs the tests that need a GPU too.

    Args:
        data: Folder of shards.
        json: Where device, versions, checks and figures are written.
        recipe: Whose network and augmentation are measured; without a GPU it is a small one if not given.
        tests: Results of tests to be told too, as `pytest --junit-xml` writes them.
        limit_s: Nothing is begun later.
        quick: Only see that all runs; the numbers say nothing.
    """
    from flm.bench.gpu.check import bench_gpu as measure
    from flm.bench.gpu.measures import GpuLength

    length = GpuLength.quick() if quick else None
    report = measure(data, json, recipe=recipe, tests=tests, limit_s=limit_s, length=length)
    print(report.text())
    print(f"{json} has all of it")
    if report.has_failed:
        sys.exit(1)


MEASURED: Mapping[str, Callable[..., object]] = {
    "loader": bench_loader,
    "order": bench_order,
    "convert": bench_convert,
    "train": bench_train,
    "faults": bench_faults,
    "ablations": bench_ablations,
    "boxes": bench_boxes,
    "predict": bench_predict,
    "demo": bench_demo,
    "gpu": bench_gpu,
}
"""By name; `flm bench all` runs them in this order, and knows from the parameters what each needs."""
