"""All commands of `flm bench`: those that measure, and two that gather what they found. Parsing only."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import tyro

from flm.bench.commands import MEASURED
from flm.inference.detector_config import ANY_DETECTOR, DetectorConfig


def bench_all(
    *,
    out: Path,
    data: str | None = None,
    source: Path | None = None,
    checkpoint: str | None = None,
    detector: DetectorConfig = ANY_DETECTOR,
    dlib_model: Path | None = None,
    only: tuple[str, ...] = (),
    skip: tuple[str, ...] = (),
    limit_min: float = 120.0,
) -> None:
    """Every benchmark, one after the other, as one page; when it was stopped, the same command goes on.

    What is measured already in --out is not measured again: delete its folder for that. A benchmark whose
    flags are missing is not run; one that fails ends no other, and the exit code is 1 then.

    Such as:
      flm bench all --data data/300w --source ARCHIVE --checkpoint runs/quick --out runs/bench
      flm bench all --only order demo --out runs/bench

    Args:
        out: Folder of index.html, and of a folder for each benchmark with its JSON, its output and run.json.
        data: Folder of shards of the archive.
        source: The archive's folder, whose files the peers read.
        checkpoint: Folder of a checkpoint or of a run (its best); without it the model that comes with flm is
            measured, and what needs a network for PyTorch is not.
        detector: Ours.
        dlib_model: File of dlib's 68-point predictor; it is left out without.
        only: These benchmarks and no others; `ablations`, which takes hours, is run only where it is named.
        skip: Not these.
        limit_min: A benchmark that takes longer has failed.
    """
    from flm.bench.summary.all import Given
    from flm.bench.summary.all import bench_all as measure
    from flm.bench.summary.runs import Run

    given = Given(data=data, source=source, checkpoint=checkpoint, detector=detector, dlib_model=dlib_model)
    outcomes = measure(out, given, only=only, skip=skip, limit_s=60 * limit_min)
    if any(isinstance(outcome, Run) and not outcome.is_done for outcome in outcomes.values()):
        sys.exit(1)


def bench_readme(
    folder: tyro.conf.Positional[Path | None] = None,
    *,
    evaluations: tuple[tuple[str, Path], ...] = (),
    check: bool = False,
) -> None:
    """Write the measured tables of README.md and flm/README.md out of flm/bench/summary/results.json.

    Such as:
      flm bench readme --check
      flm bench readme runs/bench --evaluations ibug68-compact truth.json ibug68-compact detector.json

    Args:
        folder: Of `flm bench all`, whose numbers take the place of those in results.json first.
        evaluations: Recipes, each with a file of `flm evaluate --json`; those of other weights go.
        check: Write nothing; print what differs, and exit with 1 if anything does.
    """
    from flm.bench.summary.readme import bench_readme as write

    difference = write(folder, evaluations, check=check)
    print(difference, end="")
    if check and difference:
        sys.exit(1)


BENCHMARKS: Mapping[str, Callable[..., object]] = {**MEASURED, "all": bench_all, "readme": bench_readme}
