"""Recipes with one change each, in short runs with two seeds, judged on the validation split only.

Runs that are done are not done again, so that the list can grow and the command can be stopped.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

from flm.bench.ablations.report import SEEDS, Outcome, ablations_picture, ablations_text
from flm.bench.ablations.variations import BASE, EVALUATIONS, Budget, Variation, variations
from flm.draw import write_png
from flm.errors import InputError
from flm.files import write_json, write_whole
from flm.runlog.log import LOG_NAME, read_log

FACES = 48_000


def bench_ablations(
    data: Path,
    out: Path,
    *,
    recipe: str,
    weights: Path | None = None,
    init_from: Mapping[str, Path] | None = None,
    axes: Sequence[str] = (),
    faces: int = FACES,
) -> list[Outcome]:
    """Run what is not done yet and write `ablations.md`, `ablations.json` and `ablations.png` into a folder.

    Args:
        data: folder of shards with train and validation.
        out: folder of the runs and of the results.
        recipe: what is varied.
        weights: a file of ImageNet weights; the hub's if None.
        init_from: checkpoints to begin with, by what they were trained on.
        axes: which comparisons; all if empty.
        faces: that each run sees, about.

    Raises:
        InputError: a comparison is unknown, or a run failed; the message names its log.
    """
    budget = Budget.of(recipe, faces)
    all_of_them = variations(recipe, weights=weights, init_from=init_from)
    known = list(dict.fromkeys(variation.axis for variation in all_of_them))
    for axis in axes:
        if axis not in known:
            raise InputError(f"--axes {axis!r} is unknown; known: {', '.join(known)}")
    chosen = [one for one in all_of_them if not axes or one.axis in (*axes, BASE)]
    outcomes: list[Outcome] = []
    for one, seed in track([(one, seed) for one in chosen for seed in SEEDS], "runs"):
        _make(one, seed, data.resolve(), out, budget)
        outcomes = [found for each in chosen if (found := _outcome(each, out, budget)) is not None]
        _write(outcomes, out, budget)
    return outcomes


def _folder(variation: Variation, seed: int, out: Path, budget: Budget) -> Path:
    """Of the run that a variation is measured on."""
    if variation.evaluation:
        variation = Variation(axis=BASE, name=budget.recipe)
    words = f"{variation.axis}-{variation.name}".replace("`", "")
    return out / f"{'-'.join(words.replace(',', '').split())}-seed{seed}"


def _report(variation: Variation, run: Path) -> Path:
    """What an evaluation of a run found."""
    return run / f"{'-'.join(variation.name.split())}.json"


def _make(variation: Variation, seed: int, data: Path, out: Path, budget: Budget) -> None:
    """Train or evaluate, unless that is done."""
    run = _folder(variation, seed, out, budget)
    if _is_done(variation, run, budget):
        return
    run.mkdir(parents=True, exist_ok=True)
    if variation.evaluation:
        report = str(_report(variation, run))
        words = [
            *(sys.executable, "-m", "flm", "evaluate", str(run), "--data", str(data)),
            *("--split", "validation", "--json", report, *variation.evaluation),
        ]
    else:
        words = _command(variation, seed, data, run, budget)
    log = run / f"{'evaluation' if variation.evaluation else 'terminal'}.log"
    with log.open("w") as file:
        done = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, check=False, env=_environment())
    if done.returncode != 0 or not _is_done(variation, run, budget):
        raise InputError(f"{log}: the run ended with {done.returncode}; see there, and start again")


def _command(variation: Variation, seed: int, data: Path, run: Path, budget: Budget) -> list[str]:
    steps = budget.steps * variation.length
    return [
        *(sys.executable, "-m", "flm.train", budget.recipe, "--data", str(data), "--out", str(run)),
        *("--seed", str(seed), "--steps", str(steps), "--eval-every-steps", str(steps // EVALUATIONS)),
        *("--tracker", "none", "--checkpoint.keep", "1", *variation.flags),
    ]


def _environment() -> dict[str, str]:
    """As launch/cpu.yaml has it, but for one process, which has all cores."""
    return {**os.environ, "ACCELERATE_MIXED_PRECISION": "bf16"}


def _is_done(variation: Variation, run: Path, budget: Budget) -> bool:
    if variation.evaluation:
        return _report(variation, run).exists()
    path, last = run / LOG_NAME, budget.steps * variation.length
    return path.exists() and any(
        line["kind"] == "validation" and line["step"] == last for line in read_log(path)
    )


def _outcome(variation: Variation, out: Path, budget: Budget) -> Outcome | None:
    """What is known of a variation; None until all of its seeds are done."""
    runs = [_folder(variation, seed, out, budget) for seed in SEEDS]
    if not all(_is_done(variation, run, budget) for run in runs):
        return None
    logs = [read_log(run / LOG_NAME) for run in runs]
    minutes = tuple(_minutes(lines, budget.batch_size) for lines in logs)
    if variation.evaluation:
        reports = [json.loads(_report(variation, run).read_text()) for run in runs]
        found = tuple(report["nme_pct"] for report in reports)
        return Outcome(variation=variation, nme_pct=found, minutes=minutes, curves=())
    curves = tuple(
        tuple((line["step"], line["nme_pct"]) for line in lines if line["kind"] == "validation")
        for lines in logs
    )
    best = tuple(min(error for _, error in curve) for curve in curves)
    return Outcome(variation=variation, nme_pct=best, minutes=minutes, curves=curves)


def _minutes(lines: Sequence[Mapping[str, Any]], batch_size: int) -> float:
    """Of training, out of its rates: a run may have been stopped for a night and gone on with."""
    seconds, step = 0.0, 0
    for line in lines:
        if line["kind"] == "train":
            seconds += max(0, line["step"] - step) * batch_size / line["images_per_s"]
            step = line["step"]
    return seconds / 60


def _write(outcomes: Sequence[Outcome], out: Path, budget: Budget) -> None:
    rows = [dataclasses.asdict(outcome) for outcome in outcomes]
    write_json(out / "ablations.json", {**dataclasses.asdict(budget), "rows": rows})
    write_whole(out / "ablations.md", ablations_text(outcomes, budget).encode())
    if outcomes:
        write_png(out / "ablations.png", ablations_picture(outcomes))
