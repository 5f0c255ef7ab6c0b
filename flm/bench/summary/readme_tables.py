"""The measured tables of our pages."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from flm.bench.commands import MEASURED
from flm.bench.summary.comparisons import TIMES, Comparison, comparisons
from flm.bench.summary.results import Evaluation, Results, Trained
from flm.bench.summary.runs import Run, duration
from flm.evaluation.published import IBUG_300W, PUBLISHED_300W, PublishedResult
from flm.metrics.nme import WHOLE
from flm.recipes import RECIPES, recipe_named

WIDTH = 118
SOURCE_300W = "ibug protocol=300w"
"""How the source of shards begins that follow the protocol of published numbers."""
PUBLISHED_ON = f"300-W test, {IBUG_300W.subsets[WHOLE]} faces"
BESIDE = ("D-ViT", "STAR", "SPIGA", "HRNetV2-W18", "PIPNet, ResNet-18")
"""Published methods that stand beside ours in the first table: the best, and what many use."""
AGAIN = ("measured again by others", "trained again in mmpose")
"""Of these, sources that are not the authors."""
NOT_YET = "not yet measured"

LABELS = {
    ("loader", "loader"): "loading crops, vs. one file a sample",
    ("loader", "loader, large originals"): "the same with originals 3.5 times as large",
    ("loader", "loader and augmentation"): "loading and augmenting crops, vs. loading one file a sample",
    ("loader", "share of the decode ceiling"): "loading crops, vs. only decoding the same bytes",
    ("order", "starts of the order"): "starts of the order of 10⁹ faces",
    ("order", "places in a row"): "places in a row in the order of 10⁹ faces",
    ("order", "places anywhere"): "places anywhere in the order of 10⁹ faces",
    ("convert", "conversion"): "converting 3,000 px photos, vs. decoding every pixel",
    ("train", "training"): "training, vs. one batch that stays in memory",
    ("train", "training, beside the usual way"): "training, vs. one file a sample, float32, contiguous",
    ("train", "two processes"): "training in two processes of one thread, vs. one",
    ("train", "training with checkpoints"): "training with a checkpoint every 50 steps, vs. none",
    ("demo", "start: what it may take, beside what it takes"): "web page: start to a page that answers",
    (
        "demo",
        "photo of 1280 x 720 to dots: what it may take, beside what it takes",
    ): f"web page: 1,280 {TIMES} 720 photo to landmarks",
    ("demo", "camera: landmarks in the page, beside the fewest that will do"): "web page: camera",
    ("demo", "beside one visitor alone"): "web page: 50 visitors at once, vs. one",
    (
        "demo",
        "memory: what it may change by after 10 s, beside what it does",
    ): "web page: growth of its memory under 50 visitors",
}
"""What stands in the table for a benchmark's row; its own name where nothing does."""

LIMIT_IS_OURS = re.compile("what it may .*, beside what it ")
"""In the name of a row in which the peer is what was measured, and ours is the most that it may be."""
LIMIT_IS_PEER = (
    *(("order", name) for name in ("starts of the order", "places in a row", "places anywhere")),
    ("demo", "camera: landmarks in the page, beside the fewest that will do"),
)
"""Rows in which the peer is the least that ours may be."""

IF_MISSED = {
    ("loader", "loader, large originals"),
    ("loader", "loader and augmentation"),
    ("order", "starts of the order"),
    ("order", "places in a row"),
    ("train", "time not waiting for data"),
    ("train", "training"),
    ("demo", "own answers"),
    ("demo", "memory: what it may change by after 10 s, beside what it does"),
}
"""Rows that say little beside the others: they stand in the table only where the bar is not reached."""

FOUND = "faces found on these pictures"
FRAME = f"1,280 {TIMES} 720"
PREDICTION = {
    ("landmarks of one face", "the reference project's network"): (
        "landmarks of one face, two threads, vs. the reference project's network"
    ),
    ("picture to landmarks", "dlib"): f"{FRAME} picture to landmarks, vs. dlib's detector alone",
    (
        "picture to landmarks",
        "dlib, looking at half the size",
    ): "the same, vs. dlib's detector on half the size",
    ("picture to landmarks", "the reference application's way"): "the same, vs. the reference application",
    ("video of one face", ""): f"{FRAME} video of one face, tracked",
    ("jitter of a still face", "ours, frame by frame"): "jitter of a still face, vs. frame by frame",
    ("ids of four faces", ""): "ids switched while four faces cross",
    ("cold start", ""): "cold start of `flm predict` on one picture",
}
"""Figures of `flm bench predict` that stand in the table, and as what; those that miss a bar do too."""

LEFT_OUT = ("ablations", "boxes", "gpu")
"""Benchmarks without a bar or a peer."""

SHIFTS = (0.1, 0.2)
"""Of the boxes, that are told."""


def speed(results: Results) -> str:
    """Ours beside others, a row for each bar that matters, and the commands."""
    lines = ["| measure | ours | peer | ratio | bar | `flm bench` |", "|---|---|---|---|---|---|"]
    for name in MEASURED:
        if name in results.runs:
            lines += [_speed_line(name, *pair) for pair in _told(name, results.runs[name])]
        elif name not in LEFT_OUT:
            lines.append(_cells(NOT_YET, "", "", "", "", f"`{name}`"))
    runs = [run for name, run in results.runs.items() if name not in LEFT_OUT]
    commands: dict[str, list[str]] = {}
    for run in runs:
        commands.setdefault(_circumstances(run), []).append(f"`{run.command}`")
    bullets = [_bullet(f"{', '.join(those)}: {told}.") for told, those in commands.items()]
    machines = sorted({replace(run.machine, load=None).describe() for run in runs})
    summary = f"Commands, dates and conditions; machine: {', '.join(machines) or NOT_YET}"
    return "\n".join([*lines, "", _folded(summary, bullets)])


def _told(name: str, run: Run) -> Iterator[tuple[str, Comparison]]:
    """The rows of a benchmark that stand in the table, each with what it is called there."""
    rows = comparisons(run.result or {})
    if name == "predict":
        yield from _told_of_prediction(rows)
        return
    for one in rows:
        key = (name, one.subject)
        if key not in IF_MISSED or one.holds is False:
            yield LABELS.get(key, one.name), _within_limit(key, one)


def _within_limit(key: tuple[str, str], one: Comparison) -> Comparison:
    """What was measured and its bar, where one of two sides is no more than the bar."""
    if LIMIT_IS_OURS.search(one.subject):
        return replace(one, ours=one.peer, peer="", ratio="", bar=f"≤ {one.ours}")
    if key in LIMIT_IS_PEER:
        return replace(one, peer="", ratio="", bar=f"≥ {one.peer}")
    return one


def _told_of_prediction(rows: Sequence[Comparison]) -> Iterator[tuple[str, Comparison]]:
    found = {one.side: one for one in rows if one.subject == FOUND}
    by_key = {(row.subject, row.side): row for row in reversed(rows)}
    for key, label in PREDICTION.items():
        one = by_key.get(key)
        if one is not None:
            misses = bool(one.side) and one.side in found and found[one.side].peer != found[""].ours
            yield (f"{label}, which finds {found[one.side].peer}" if misses else label), one
    yield from (
        (row.name, row) for key, row in by_key.items() if key not in PREDICTION and row.holds is False
    )


def _speed_line(name: str, label: str, one: Comparison) -> str:
    bar = f"{one.bar}, **not reached**" if one.holds is False else one.bar
    return _cells(label, one.ours, one.peer, one.ratio.removesuffix(f" {TIMES}"), bar, f"`{name}`")


def _circumstances(run: Run) -> str:
    took = "" if run.seconds is None else f"in {duration(run.seconds)}"
    commit = "" if run.machine.commit is None else f"commit {run.machine.commit}"
    words = (run.date, run.machine.describe(), took, commit, run.conditions)
    return ", ".join(word for word in words if word)


def boxes(results: Results) -> str:
    """What the face box does to the error."""
    run = results.runs.get("boxes")
    if run is None or run.result is None:
        return f"What the face box changes: {NOT_YET} (`flm bench boxes`)."
    lines = ["| boxes | faces found | NME % | with a second pass |", "|---|---|---|---|"]
    for one in run.result["rows"]:
        name = f"detector ({run.result['detector']})" if one["boxes"] == "detector" else one["boxes"]
        errors = (f"{one[key]:.2f}" for key in ("nme_pct", "second_pass_nme_pct"))
        lines.append(_cells(name, f"{one['num_faces']:,}, {one['found_pct']:.2f} %", *errors))
    for one in run.result["shifts"]:
        if one["amount"] in SHIFTS:
            errors = (f"{one[key]:.2f}" for key in ("nme_pct", "second_pass_nme_pct"))
            lines.append(_cells(f"truth, shifted by {100 * one['amount']:g} % of its side", "", *errors))
    return "\n".join([*lines, "", _bullet(f"`{run.command}`: {_circumstances(run)}.")])


def accuracy(results: Results) -> str:
    """Recipes and what they reached, some of what others have published, and the commands."""
    head = ("network", "NME %", "failures", "measured on", "trained on", "training")
    lines = [_cells(*head), "|" + "---|" * len(head)]
    bullets: list[str] = []
    missing: list[str] = []
    for name in RECIPES:
        trained = results.accuracy.get(name)
        if trained is None or not trained.evaluations:
            missing.append(f"`{name}`")
        else:
            lines += _accuracy_lines(name, trained)
            bullets.append(_bullet(_how(name, trained)))
    for result in _ranked():
        if result.method in BESIDE and WHOLE in result.nme_pct and result.source not in AGAIN:
            lines.append(_short_line(result))
    told = [f"Not yet measured: {', '.join(missing)}.", ""] if missing else []
    return "\n".join([*lines, "", *told, _folded("Commands and conditions of our rows", bullets)])


def _accuracy_lines(name: str, trained: Trained) -> Iterator[str]:
    """A row for each set of faces; the plain look first, others in brackets."""
    recipe = f"`{name}` ({trained.note})" if trained.note else f"`{name}`"
    for _, group in groupby(trained.evaluations, lambda one: (one.source, one.split)):
        first, *others = sorted(group, key=lambda one: not one.is_plain)
        errors = [f"{first.nme_pct:.2f}{'' if first.is_plain else f' ({first.look})'}"]
        if others:
            told = "; ".join(f"{one.look or 'again'}: {one.nme_pct:.2f}" for one in others)
            errors.append(f"({told})")
        failed = "" if first.fr_08_pct is None else f"{first.fr_08_pct:.2f} %"
        yield _cells(recipe, " ".join(errors), failed, first.faces, trained.trained_on, trained.training)


def _how(name: str, trained: Trained) -> str:
    commands = [f"`{command}`" for command in trained.commands]
    commands += [f"`{one.command}` ({one.date})" for one in trained.evaluations]
    return f"`{name}`: {trained.conditions}{'; ' if trained.conditions else ''}{', then '.join(commands)}."


def published(results: Results) -> str:
    """Ours beside the numbers of others, on the whole subsets of 300-W's test set."""
    columns = [f"{subset}, {faces}" for subset, faces in IBUG_300W.subsets.items()]
    head = ("method", *columns, "input, px")
    ours = [
        _subset_line(f"**`{name}`**", complete, recipe_named(name).model.input_size_px)
        for name, trained in results.accuracy.items()
        if (complete := _complete(trained.evaluations))
    ]
    theirs = [_published_line(result) for result in _ranked()]
    return "\n".join([_cells(*head), "|" + "---|" * len(head), *ours, *theirs])


def _short_line(result: PublishedResult) -> str:
    """Without the authors, on the whole test set."""
    where = re.search(r"[A-Z]* ?\d{4}", result.source)
    name = f"{result.method}, {where[0].strip()}" if where else result.method
    faces = f"{IBUG_300W.training_faces:,} faces"
    return _cells(name, f"{result.nme_pct[WHOLE]:.2f}", "", PUBLISHED_ON, faces, "")


def _ranked() -> list[PublishedResult]:
    return sorted(PUBLISHED_300W, key=lambda result: result.nme_pct[WHOLE])


def _complete(evaluations: Sequence[Evaluation]) -> Mapping[str, float]:
    """Errors on the whole subsets of the published test set; of a plain look if there is one."""
    tests = [one for one in evaluations if one.source.startswith(SOURCE_300W) and one.split == "test"]
    one = min(tests, key=lambda one: not one.is_plain, default=None)
    if one is None:
        return {}
    faces = IBUG_300W.subsets
    whole = {
        name: part["nme_pct"] for name, part in one.subsets.items() if part["num_faces"] == faces.get(name)
    }
    # As many faces in all are the same faces only if each part has as many.
    return {name: error for name, error in whole.items() if name != WHOLE or faces.keys() == whole.keys()}


def _published_line(result: PublishedResult) -> str:
    size = "" if result.num_parameters is None else f", {result.num_parameters / 1e6:.3g} M parameters"
    return _subset_line(f"{result.method} ({result.source}{size})", result.nme_pct, result.input_size_px)


def _subset_line(method: str, nme_pct: Mapping[str, float], input_size_px: int | None) -> str:
    errors = [f"{nme_pct[name]:.2f}" if name in nme_pct else "" for name in IBUG_300W.subsets]
    return _cells(method, *errors, "" if input_size_px is None else str(input_size_px))


def _folded(summary: str, lines: Sequence[str]) -> str:
    """Shown by a click."""
    return "\n".join([f"<details><summary>{summary}</summary>", "", *lines, "", "</details>"])


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _bullet(text: str) -> str:
    """As wide as the rest of the README; commands are broken between words only."""
    return textwrap.fill(
        f"- {text}", WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
