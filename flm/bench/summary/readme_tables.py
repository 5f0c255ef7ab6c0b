"""The README's measured tables."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from flm.bench.commands import MEASURED
from flm.bench.summary.comparisons import TIMES, Comparison, comparisons
from flm.bench.summary.results import Evaluation, Results, Trained
from flm.bench.summary.runs import Run, duration
from flm.evaluation.published import IBUG_300W, PUBLISHED_300W, PublishedResult
from flm.metrics.nme import WHOLE
from flm.recipes import RECIPES, recipe_named

WIDTH = 110
SOURCE_300W = "ibug protocol=300w"
"""How the source of shards begins that follow the protocol of published numbers."""
NOT_YET = "not yet measured"

LABELS = {
    ("loader", "loader"): "decoded crops, beside a loader of one file a sample",
    ("loader", "loader, large originals"): "the same with originals 3.5 times as large",
    ("loader", "loader and augmentation"): "with the augmentation of `reference` on the same cores",
    ("loader", "share of the decode ceiling"): "beside two processes that only decode the same bytes",
    ("order", "starts of the order"): "the order of 10⁹ faces: starts, beside one in 2 s",
    ("order", "places in a row"): "places of it in a row, beside 1 ms for each",
    ("order", "places anywhere"): "any place of it, beside 1 ms",
    ("convert", "conversion"): "converting 3,000 px photos, beside decoding every pixel",
    ("train", "time not waiting for data"): "training, time not waiting for data",
    ("train", "training"): "images trained on, beside one resident batch",
    ("train", "training, beside the usual way"): "beside the usual way: a file a sample, float32, contiguous",
    ("train", "two processes"): "two processes of one thread, beside one",
    ("train", "training with checkpoints"): "with a checkpoint every 50 steps, beside none",
}
"""What stands in the table for a benchmark's row; its own name where nothing does."""

FOUND = "faces found on these pictures"
FRAME = f"1,280 {TIMES} 720"
PREDICTION = {
    ("landmarks of one face", ""): "one face's landmarks, two threads",
    ("landmarks of one face", "the reference project's network"): "beside the reference project's network",
    ("landmarks of 16 faces at once", ""): "16 faces at once, a face",
    ("picture to landmarks", "dlib"): f"{FRAME} picture to landmarks, beside dlib's detector alone",
    ("picture to landmarks", "dlib, looking at half the size"): "beside dlib's detector on half the size",
    ("picture to landmarks", "the reference application's way"): "beside the reference application's way",
    ("video of one face", ""): f"{FRAME} video of one face, tracked",
    ("jitter of a still face", "ours, frame by frame"): "jitter of a still face, beside frame by frame",
    ("lag behind a moving face", "ours, added by tracking"): "lag behind a moving face that tracking adds",
    ("ids of four faces", ""): "ids switched, four faces crossing",
    ("cold start", ""): "cold start of `flm predict` on one picture",
}
"""Which of the many figures of `flm bench predict` stand in the table, and as what."""

LEFT_OUT = ("ablations", "boxes", "gpu")
"""Benchmarks without a bar or a peer."""

SHIFTS = (0.1, 0.2)
"""Of the boxes, that are told."""


def speed(results: Results) -> str:
    """Ours beside others, a row for each bar, and the commands."""
    lines = ["| measure | ours | peer | ours beside it | bar | `flm bench` |", "|---|---|---|---|---|---|"]
    for name in MEASURED:
        if name in results.runs:
            lines += [_speed_line(name, *pair) for pair in _told(name, results.runs[name])]
        elif name not in LEFT_OUT:
            lines.append(_cells(NOT_YET, "", "", "", "", f"`{name}`"))
    commands: dict[str, list[str]] = {}
    for name, run in results.runs.items():
        if name in LEFT_OUT:
            continue
        commands.setdefault(_circumstances(run), []).append(f"`{run.command}`")
    bullets = [_bullet(f"{', '.join(those)}: {told}.") for told, those in commands.items()]
    return "\n".join([*lines, "", *bullets])


def _told(name: str, run: Run) -> Iterator[tuple[str, Comparison]]:
    """The rows of a benchmark that stand in the table, each with what it is called there."""
    rows = comparisons(run.result or {})
    if name != "predict":
        yield from ((LABELS.get((name, one.subject), one.name), one) for one in rows)
        return
    found = {one.side: one for one in rows if one.subject == FOUND}
    for key, label in PREDICTION.items():
        one = next((row for row in rows if (row.subject, row.side) == key), None)
        if one is not None:
            misses = bool(one.side) and one.side in found and found[one.side].peer != found[""].ours
            yield (f"{label}, which finds {found[one.side].peer}" if misses else label), one


def _speed_line(name: str, label: str, one: Comparison) -> str:
    bar = f"{one.bar}, **not reached**" if one.holds is False else one.bar
    return _cells(label, one.ours, one.peer, one.ratio, bar, f"`{name}`")


def _circumstances(run: Run) -> str:
    took = "" if run.seconds is None else f"in {duration(run.seconds)}"
    commit = "" if run.machine.commit is None else f"commit {run.machine.commit}"
    words = (run.date, run.machine.describe(), took, commit, run.conditions)
    return ", ".join(word for word in words if word)


def boxes(results: Results) -> str:
    """What the face box does to the error."""
    run = results.runs.get("boxes")
    if run is None or run.result is None:
        return f"`flm bench boxes`: {NOT_YET}."
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
    """Recipes and what they reached, and the commands."""
    lines = [
        "| recipe | trained on | measured on | NME %, inter-ocular | failed, 8 % | training |",
        "|---|---|---|---|---|---|",
    ]
    bullets: list[str] = []
    for name in RECIPES:
        trained = results.accuracy.get(name)
        if trained is None or not trained.evaluations:
            lines.append(_cells(f"`{name}`", "", "", NOT_YET, "", ""))
        else:
            lines += _accuracy_lines(name, trained)
            bullets.append(_bullet(_how(name, trained)))
    return "\n".join([*lines, "", *bullets])


def _accuracy_lines(name: str, trained: Trained) -> Iterator[str]:
    """A row for each set of faces; the plain look first, others in brackets."""
    recipe = f"`{name}` ({trained.note})" if trained.note else f"`{name}`"
    for _, group in groupby(trained.evaluations, lambda one: (one.source, one.split)):
        first, *others = sorted(group, key=lambda one: not one.is_plain)
        errors = [f"{first.nme_pct:.2f}{'' if first.is_plain else f' ({first.look})'}"]
        errors += [f"({one.look or 'again'}: {one.nme_pct:.2f})" for one in others]
        failed = "" if first.fr_08_pct is None else f"{first.fr_08_pct:.2f} %"
        yield _cells(recipe, trained.trained_on, first.faces, " ".join(errors), failed, trained.training)


def _how(name: str, trained: Trained) -> str:
    commands = [f"`{command}`" for command in trained.commands]
    commands += [f"`{one.command}` ({one.date})" for one in trained.evaluations]
    return f"`{name}`: {trained.conditions}{'; ' if trained.conditions else ''}{', then '.join(commands)}."


def published(results: Results) -> str:
    """Ours beside the numbers of others on 300-W."""
    columns = [f"{subset}, {faces}" for subset, faces in IBUG_300W.subsets.items()]
    head = ("method", *columns, "trained on", "input, px", "measured on")
    ours = [
        _our_line(name, trained, one)
        for name, trained in results.accuracy.items()
        if (one := _to_compare(trained.evaluations)) is not None
    ]
    ranked = sorted(PUBLISHED_300W, key=lambda result: result.nme_pct[WHOLE])
    return "\n".join([_cells(*head), "|" + "---|" * len(head), *ours, *map(_published_line, ranked)])


def _to_compare(evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """On 300-W, of test if there is one, by a plain look if there is one."""
    on_300w = [one for one in evaluations if one.source.startswith(SOURCE_300W)]
    return min(on_300w, key=lambda one: (one.split != "test", not one.is_plain), default=None)


def _our_line(name: str, trained: Trained, one: Evaluation) -> str:
    complete = _complete(one)
    errors = [f"**{complete[subset]:.2f}**" if subset in complete else "" for subset in IBUG_300W.subsets]
    measured_on = "300-W test" if WHOLE in complete else f"{one.faces}: {one.nme_pct:.2f}"
    size = str(recipe_named(name).model.input_size_px)
    return _cells(f"**`{name}`**", *errors, trained.trained_on, size, measured_on)


def _complete(one: Evaluation) -> Mapping[str, float]:
    """Errors on the subsets of the published test set that were measured whole."""
    if one.split != "test":
        return {}
    faces = IBUG_300W.subsets
    whole = {
        name: part["nme_pct"] for name, part in one.subsets.items() if part["num_faces"] == faces.get(name)
    }
    # As many faces in all are the same faces only if each part has as many.
    return {name: error for name, error in whole.items() if name != WHOLE or faces.keys() == whole.keys()}


def _published_line(result: PublishedResult) -> str:
    size = "" if result.num_parameters is None else f", {result.num_parameters / 1e6:.3g} M parameters"
    errors = [f"{result.nme_pct[name]:.2f}" if name in result.nme_pct else "" for name in IBUG_300W.subsets]
    side = "" if result.input_size_px is None else str(result.input_size_px)
    about = f"{result.method} ({result.source}{size})"
    return _cells(about, *errors, f"{IBUG_300W.training_faces:,}", side, "300-W test")


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _bullet(text: str) -> str:
    """As wide as the rest of the README; commands are broken between words only."""
    return textwrap.fill(
        f"- {text}", WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
