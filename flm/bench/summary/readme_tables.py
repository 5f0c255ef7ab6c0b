"""The measured tables of our pages."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from flm.bench.boxes_report import BoxReport, BoxRow, MovedBoxes
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

FRAME = f"1,280 {TIMES} 720"
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
    ("predict", "landmarks of one face, beside the reference project's network"): (
        "landmarks of one face, two threads, vs. the reference project's network"
    ),
    ("predict", "picture to landmarks, beside dlib"): (
        f"{FRAME} picture to landmarks, vs. dlib's detector alone"
    ),
    ("predict", "picture to landmarks, beside dlib, looking at half the size"): (
        "the same, vs. dlib's detector on half the size"
    ),
    ("predict", "picture to landmarks, beside the reference application's way"): (
        "the same, vs. the reference application"
    ),
    ("predict", "turned faces that are found right, beside looked at once, as they are"): (
        "faces on their side or head that are found right, vs. looked at once"
    ),
    ("predict", "video of one face"): f"{FRAME} video of one face, tracked",
    ("predict", "jitter of a still face, beside ours, frame by frame"): (
        "jitter of a still face, vs. frame by frame"
    ),
    ("predict", "ids of four faces"): "ids switched while four faces cross",
    ("predict", "cold start"): "cold start of `flm predict` on one picture",
    ("demo", "start of the page"): "web page: start to a page that answers",
    ("demo", "photo of 1280 x 720 to dots"): f"web page: {FRAME} photo to landmarks",
    ("demo", "landmarks of the camera"): "web page: camera",
    ("demo", "visitors at once, beside one alone"): "web page: 50 visitors at once, vs. one",
    ("demo", "growth of memory"): "web page: growth of its memory under 50 visitors",
}
"""What stands in the table for a benchmark's row, by benchmark and the row's own name."""

IF_MISSED = {
    ("loader", "loader, large originals"),
    ("loader", "loader and augmentation"),
    ("order", "starts of the order"),
    ("order", "places in a row"),
    ("train", "time not waiting for data"),
    ("train", "training"),
    ("predict", "landmarks of one face"),
    ("predict", "landmarks of 16 faces at once"),
    ("predict", "error on these pictures, beside dlib"),
    ("predict", "lag behind a moving face: ours, added by tracking"),
    ("demo", "answers that are the visitor's own"),
    ("demo", "growth of memory"),
}
"""Rows that say little beside the others: they stand in the table only where the bar is not reached."""

FOUND = "faces found on these pictures"
"""Those of `flm bench predict`; who misses some is told so where its speed stands."""

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
    runs = {name: run for name, run in results.runs.items() if name not in LEFT_OUT}
    remarks = [line for name, run in runs.items() for line in _remark(name, run)]
    commands: dict[str, list[str]] = {}
    for run in runs.values():
        commands.setdefault(_where(run), []).append(_command(run))
    bullets = [_bullet(f"{where}: {', '.join(those)}.") for where, those in commands.items()]
    machines = sorted({_machine(run) for run in runs.values()})
    summary = f"Commands, dates and conditions; machine: {', '.join(machines) or NOT_YET}"
    return "\n".join([*lines, "", *remarks, *([""] if remarks else []), _folded(summary, bullets)])


def _told(name: str, run: Run) -> Iterator[tuple[str, Comparison]]:
    """The rows of a benchmark that stand in the table, each with what it is called there."""
    rows = comparisons(run.result or {})
    found = {one.side: one for one in rows if one.subject == FOUND}
    for one in rows:
        key = (name, one.name)
        has_place = key not in IF_MISSED and (key in LABELS or one.holds is not None)
        if has_place or one.holds is False:
            label = LABELS.get(key, one.name)
            misses = one.side and one.side in found and found[one.side].peer != found[one.side].ours
            yield (f"{label}, which finds {found[one.side].peer}" if misses else label), one


def _speed_line(name: str, label: str, one: Comparison) -> str:
    bar = f"{one.bar}, **not reached**" if one.holds is False else one.bar
    return _cells(label, one.ours, one.peer, one.ratio.removesuffix(f" {TIMES}"), bar, f"`{name}`")


def _remark(name: str, run: Run) -> list[str]:
    """What its reader has to know, if anything."""
    return [_bullet(f"`{name}`: {run.conditions}.")] if run.conditions else []


def _where(run: Run) -> str:
    commit = "" if run.machine.commit is None else f"commit {run.machine.commit}"
    return ", ".join(word for word in (run.date, _machine(run), commit) if word)


def _machine(run: Run) -> str:
    return replace(run.machine, load=None).describe()


def _command(run: Run) -> str:
    """And what is of this run alone."""
    took = "" if run.seconds is None else duration(run.seconds)
    load = "" if run.machine.load is None else f"load before {run.machine.load:.1f}"
    told = ", ".join(word for word in (took, load) if word)
    return f"`{run.command}`{f' ({told})' if told else ''}"


def boxes(results: Results) -> str:
    """What the face box does to the error."""
    run = results.runs.get("boxes")
    if run is None or run.result is None:
        return f"What the face box changes: {NOT_YET} (`flm bench boxes`)."
    report = BoxReport.from_json(run.result)
    lines = ["| boxes | faces found | NME % | with a second pass |", "|---|---|---|---|"]
    for one in report.rows:
        found = f"{one.num_faces:,}, {one.found_pct:.2f} %"
        lines.append(_cells(report.name_of(one), found, *_box_errors(one)))
    for one in report.shifts:
        if one.amount in SHIFTS:
            name = f"truth, shifted by {100 * one.amount:g} % of its side"
            lines.append(_cells(name, "", *_box_errors(one)))
    return "\n".join([*lines, "", *_remark("boxes", run), _bullet(f"{_where(run)}: {_command(run)}.")])


def _box_errors(one: BoxRow | MovedBoxes) -> tuple[str, str]:
    return f"{one.nme_pct:.2f}", f"{one.second_pass_nme_pct:.2f}"


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
    by_faces: dict[tuple[str, str], list[Evaluation]] = {}
    for one in trained.evaluations:
        by_faces.setdefault((one.source, one.split), []).append(one)
    for evaluations in by_faces.values():
        first, *others = sorted(evaluations, key=lambda one: not one.is_plain)
        errors = [f"{first.nme_pct:.2f}{'' if first.is_plain else f' ({first.look})'}"]
        if others:
            told = "; ".join(f"{one.look or 'again'}: {one.nme_pct:.2f}" for one in others)
            errors.append(f"({told})")
        failed = "" if first.fr_08_pct is None else f"{first.fr_08_pct:.2f} %"
        yield _cells(recipe, " ".join(errors), failed, first.faces, trained.trained_on, trained.training)


def _how(name: str, trained: Trained) -> str:
    commands = [f"`{command}`" for command in trained.commands]
    for date, those in groupby(trained.evaluations, key=lambda one: one.date):
        *others, last = those
        commands += [*(f"`{one.command}`" for one in others), f"`{last.command}` ({date})"]
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
    return IBUG_300W.measured_whole(
        {name: (part["num_faces"], part["nme_pct"]) for name, part in one.subsets.items()}
    )


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
