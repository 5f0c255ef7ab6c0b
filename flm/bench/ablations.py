"""One change at a time to a short run, each with two seeds, judged on the validation split only.

A variation is a list of flags of `flm train`. Every run sees the same number of faces and is evaluated at
the same steps; what differs is what the variation changes. Runs that are done are not done again, so that the
list can grow and the command can be stopped.
"""

import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from rich.progress import track

from flm.draw import write_png
from flm.errors import InputError
from flm.files import write_whole
from flm.runlog import LOG_NAME, read_log

RECIPE = "ibug68-quick"
STEPS = 375
BATCH_SIZE = 32
SEEDS = (0, 1)
BASE = "base"


@dataclass(frozen=True, kw_only=True, slots=True)
class Variation:
    """One change."""

    axis: str
    """What is compared."""
    name: str
    flags: tuple[str, ...] = ()
    """Beside the recipe's and the budget's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a variation reached, a number for each seed."""

    variation: Variation
    nme_pct: tuple[float, ...]
    """The best of the evaluations on the validation split."""
    minutes: tuple[float, ...]
    """From the first line of the log to the last."""
    curves: tuple[tuple[tuple[int, float], ...], ...]
    """Step and NME, of each evaluation."""

    @property
    def mean_pct(self) -> float:
        """Of the seeds."""
        return statistics.fmean(self.nme_pct)

    @property
    def spread_pct(self) -> float:
        """Half the range of the seeds."""
        return (max(self.nme_pct) - min(self.nme_pct)) / 2


def variations(weights: Path | None) -> tuple[Variation, ...]:
    """All that is compared.

    Args:
        weights: a file of ImageNet weights of the recipe's backbone; the hub's if None.
    """
    imagenet = ("--model.weights", str(weights)) if weights is not None else ()
    table: dict[str, dict[str, tuple[str, ...]]] = {
        "head": {
            "heatmap, stride 4": ("--model.heatmap-stride", "4"),
            "regression": ("--model.head", "regression"),
            "SimCC": ("--model.head", "simcc", "--loss.kind", "simcc"),
        },
        "loss": {
            kind.replace("_", " "): ("--loss.kind", kind)
            for kind in ("l1", "smooth_l1", "adaptive_wing", "star")
        },
        "input": {f"{side} px": ("--model.input-size-px", str(side)) for side in (96, 192, 256)},
        "pre-training": {"none": ("--model.no-pretrained",)},
        "augmentation": {
            "none": _augment(
                rotation_deg=0, scale=0, translation=0, mirror_probability=0,
                brightness=0, contrast=0, saturation=0, occlusion_probability=0,
            ),
            "strong": _augment(
                rotation_deg=25, scale=0.15, translation=0.05, hue_deg=20, grey_probability=0.1,
                gamma_probability=0.2, blur_probability=0.15, noise_probability=0.1, jpeg_probability=0.1,
            ),
            "no occlusion": _augment(occlusion_probability=0),
            "much occlusion": _augment(occlusion_probability=0.4, occlusion_side_max=0.4),
        },
        "moving average": {f"decay {decay}": ("--optimizer.ema-decay", decay) for decay in ("0", "0.999")},
        "backbone's learning rate": {
            f"x {factor}": ("--optimizer.backbone-factor", factor) for factor in ("0.1", "1.0")
        },
        "head's width": {f"{width}": ("--model.head-channels", str(width)) for width in (64, 128)},
    }  # fmt: skip
    changed = [
        Variation(axis=axis, name=name, flags=flags if axis == "pre-training" else (*imagenet, *flags))
        for axis, rows in table.items()
        for name, flags in rows.items()
    ]
    return (Variation(axis=BASE, name=f"`{RECIPE}`", flags=imagenet), *changed)


def _augment(**fields: int | float) -> tuple[str, ...]:
    words = ((f"--augment.{name.replace('_', '-')}", f"{value:g}") for name, value in fields.items())
    return tuple(itertools.chain.from_iterable(words))


def bench_ablations(
    data: Path, out: Path, *, weights: Path | None, axes: Sequence[str], steps: int = STEPS
) -> list[Outcome]:
    """Run what is not done yet and write `ablations.md`, `ablations.json` and `ablations.png` into a folder.

    Args:
        data: folder of shards with train and validation.
        out: folder of the runs and of the results.
        weights: a file of ImageNet weights; the hub's if None.
        axes: which comparisons; all if empty.
        steps: of each run.

    Raises:
        InputError: a comparison is unknown, or a run failed; the message names its log.
    """
    all_of_them = variations(weights)
    known = list(dict.fromkeys(variation.axis for variation in all_of_them))
    for axis in axes:
        if axis not in known:
            raise InputError(f"--axes {axis!r} is unknown; known: {', '.join(known)}")
    chosen = [one for one in all_of_them if not axes or one.axis in (*axes, BASE)]
    runs = [(one, seed) for one in chosen for seed in SEEDS]
    outcomes: list[Outcome] = []
    for one, seed in track(runs, "runs"):
        _train(one, seed, data.resolve(), out, steps)
        outcomes = [found for each in chosen if (found := _outcome(each, out, steps)) is not None]
        _write(outcomes, out, steps)
    return outcomes


def _folder(variation: Variation, seed: int, out: Path) -> Path:
    words = f"{variation.axis}-{variation.name}".replace("`", "")
    return out / f"{'-'.join(words.replace(',', '').split())}-seed{seed}"


def _train(variation: Variation, seed: int, data: Path, out: Path, steps: int) -> None:
    run = _folder(variation, seed, out)
    if _is_done(run, steps):
        return
    words = [*_command(variation, seed, data, run, steps)]
    run.mkdir(parents=True, exist_ok=True)
    log = run / "terminal.log"
    with log.open("w") as file:
        done = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, check=False, env=_environment())
    if done.returncode != 0 or not _is_done(run, steps):
        raise InputError(f"{log}: the run ended with {done.returncode}; see there, and start again")


def _command(variation: Variation, seed: int, data: Path, run: Path, steps: int) -> list[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    budget = ["--steps", str(steps), "--batch-size", str(BATCH_SIZE), "--eval-every-steps", str(steps // 5)]
    return [
        *launch, "-m", "flm.train", RECIPE, "--data", str(data), "--out", str(run), "--seed", str(seed),
        *budget, "--tracker", "none", "--checkpoint.keep", "1", *variation.flags,
    ]  # fmt: skip


def _environment() -> dict[str, str]:
    """As launch/cpu.yaml has it."""
    return {**os.environ, "ACCELERATE_MIXED_PRECISION": "bf16", "OMP_NUM_THREADS": "1"}


def _is_done(run: Path, steps: int) -> bool:
    path = run / LOG_NAME
    return path.exists() and any(
        line["kind"] == "validation" and line["step"] == steps for line in read_log(path)
    )


def _outcome(variation: Variation, out: Path, steps: int) -> Outcome | None:
    """What is known of a variation; None until all of its seeds are done."""
    runs = [_folder(variation, seed, out) for seed in SEEDS]
    if not all(_is_done(run, steps) for run in runs):
        return None
    logs = [read_log(run / LOG_NAME) for run in runs]
    curves = tuple(
        tuple((line["step"], line["nme_pct"]) for line in lines if line["kind"] == "validation")
        for lines in logs
    )
    return Outcome(
        variation=variation,
        nme_pct=tuple(min(error for _, error in curve) for curve in curves),
        minutes=tuple((lines[-1]["time"] - lines[0]["time"]) / 60 for lines in logs),
        curves=curves,
    )


def _write(outcomes: Sequence[Outcome], out: Path, steps: int) -> None:
    rows = [dataclasses.asdict(outcome) for outcome in outcomes]
    text = json.dumps({"steps": steps, "rows": rows}, indent=1) + "\n"
    write_whole(out / "ablations.json", text.encode())
    write_whole(out / "ablations.md", ablations_text(outcomes, steps).encode())
    if outcomes:
        write_png(out / "ablations.png", ablations_picture(outcomes))


def ablations_text(outcomes: Sequence[Outcome], steps: int) -> str:
    """The outcomes as a table, each axis from the best to the worst beside the base."""
    lines = [
        f"Runs of {steps} steps of {BATCH_SIZE} faces, recipe `{RECIPE}` with one change each; NME on the",
        f"validation split, %, mean of seeds {' and '.join(map(str, SEEDS))} ± half their difference;",
        "minutes of training with evaluations. The flags go behind the command of the recipe.",
        "",
        "| compared | variation | NME, % | beside the base | minutes | flags |",
        "|---|---|---|---|---|---|",
    ]
    base = next((outcome for outcome in outcomes if outcome.variation.axis == BASE), None)
    axes = list(dict.fromkeys(outcome.variation.axis for outcome in outcomes))
    for outcome in sorted(outcomes, key=lambda one: (axes.index(one.variation.axis), one.mean_pct)):
        variation = outcome.variation
        beside = "" if base in (None, outcome) else f"{outcome.mean_pct - base.mean_pct:+.2f}"
        flags = " ".join(_without_paths(variation.flags))
        lines.append(
            f"| {variation.axis} | {variation.name} | {outcome.mean_pct:.2f} ± {outcome.spread_pct:.2f} | "
            f"{beside} | {statistics.fmean(outcome.minutes):.1f} | {f'`{flags}`' if flags else ''} |"
        )
    return "\n".join(lines) + "\n"


def _without_paths(flags: Sequence[str]) -> list[str]:
    """The flags but for `--model.weights PATH`, which says where a machine has its files."""
    words = list(flags)
    if "--model.weights" in words:
        place = words.index("--model.weights")
        del words[place : place + 2]
    return words


def ablations_picture(outcomes: Sequence[Outcome]) -> UInt8[np.ndarray, "height width 3"]:
    """The learning curves, a panel for each comparison with the base in each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    base = [outcome for outcome in outcomes if outcome.variation.axis == BASE]
    axes = [axis for axis in dict.fromkeys(one.variation.axis for one in outcomes) if axis != BASE] or [BASE]
    columns = min(3, len(axes))
    rows = -(-len(axes) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.4 * rows), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=True).flat)
    for panel, axis in zip(panels, axes, strict=False):
        shown = [one for one in outcomes if one.variation.axis == axis and axis != BASE]
        for outcome, color in zip([*base, *shown], ["0.25", *(f"C{i}" for i in range(9))], strict=False):
            steps = [step for step, _ in outcome.curves[0]]
            curves = np.array([[error for _, error in curve] for curve in outcome.curves])
            panel.fill_between(steps, curves.min(0), curves.max(0), color=color, alpha=0.2, linewidth=0)
            panel.plot(steps, curves.mean(0), color=color, label=outcome.variation.name.replace("`", ""))
        panel.set_yscale("log")
        panel.set_title(axis, loc="left", fontsize=10)
        panel.grid(color="0.9", which="both")
        panel.legend(fontsize=8, frameon=False)
        panel.set_xlabel("step")
        panel.set_ylabel("validation NME, %")
    for panel in panels[len(axes) :]:
        panel.set_visible(False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
