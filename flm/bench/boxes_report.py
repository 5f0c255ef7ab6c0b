"""What moved boxes and a detector's cost, as a table and a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from flm.fields import from_fields
from flm.inference.detector import BoxShape

ONE_PASS_COLOR, TWO_PASSES_COLOR = "#3b6fb6", "#c2477f"


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxRow:
    """The error with one kind of box."""

    boxes: str
    """truth, annotation or detector."""
    num_faces: int
    """That were found, and that the numbers are about."""
    found_pct: float
    """Share of all faces."""
    nme_pct: float
    """By inter-ocular distance, as all errors here."""
    second_pass_nme_pct: float
    truth_nme_pct: float
    """Of the same faces with the landmarks' own boxes, one pass."""

    @property
    def beside_truth_pct(self) -> float:
        """How much larger the error is than with the landmarks' own boxes, percent of that error."""
        return 100 * (self.nme_pct / self.truth_nme_pct - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class MovedBoxes:
    """The error with boxes that were all moved by as much; over the directions, where there are several."""

    amount: float
    """Shift as a share of the box's longer side, or factor of its size."""
    nme_pct: float
    """Mean."""
    worst_nme_pct: float
    """In the worst direction."""
    second_pass_nme_pct: float
    second_pass_worst_nme_pct: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedMapping:
    """How the landmarks' own boxes lie to a detector's: medians over faces."""

    split: str
    num_faces: int
    """That were found."""
    left_over: BoxShape
    """Beside the boxes that the detector gives now; right 0, down 0, size 1 if they are placed well."""
    mapping: BoxShape
    """Beside what the detector itself draws: what its constant should be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxReport:
    """What was measured; its fields are the keys of the JSON."""

    checkpoint: str
    data: str
    split: str
    detector: str
    rows: tuple[BoxRow, ...]
    shifts: tuple[MovedBoxes, ...]
    scales: tuple[MovedBoxes, ...]
    fitted: FittedMapping | None
    """None where there is no split to fit on."""

    @classmethod
    def from_json(cls, result: Mapping[str, Any], where: str = "boxes.json") -> "BoxReport":
        """What a benchmark wrote.

        Raises:
            InputError: it is of another version of flm.
        """
        return from_fields(cls, result, where)

    def name_of(self, row: BoxRow) -> str:
        """What its boxes are called in a table."""
        return f"detector ({self.detector})" if row.boxes == "detector" else row.boxes


def boxes_text(report: BoxReport) -> str:
    """The report in Markdown."""
    lines = [
        f"Split `{report.split}`; NME by inter-ocular distance, %. *Second pass*: looked at again, at the",
        "box of the landmarks that the first look found. *Beside truth*: against the landmarks' own boxes",
        "around the same faces, both with one pass.",
        "",
        "| boxes | faces | found, % | NME, % | second pass | beside truth |",
        "|---|---|---|---|---|---|",
    ]
    for row in report.rows:
        beside = "" if row.boxes == "truth" else f"{row.beside_truth_pct:+.1f} %"
        lines.append(
            f"| {report.name_of(row)} | {row.num_faces} | {row.found_pct:.2f} | {row.nme_pct:.3f} | "
            f"{row.second_pass_nme_pct:.3f} | {beside} |"
        )
    lines += [
        "",
        "| shifted by, share of the box | NME, % | second pass | worst of 8 directions | second pass |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.amount:.0%} | {one.nme_pct:.3f} | {one.second_pass_nme_pct:.3f} | "
        f"{one.worst_nme_pct:.3f} | {one.second_pass_worst_nme_pct:.3f} |"
        for one in report.shifts
    ]
    lines += ["", "| scaled by | NME, % | second pass |", "|---|---|---|"]
    lines += [
        f"| {one.amount:g} | {one.nme_pct:.3f} | {one.second_pass_nme_pct:.3f} |" for one in report.scales
    ]
    if report.fitted is not None:
        lines += ["", *_mapping_lines(report.detector, report.fitted)]
    return "\n".join(lines) + "\n"


def _mapping_lines(detector: str, fitted: FittedMapping) -> list[str]:
    return [
        f"Median over {fitted.num_faces} faces of split `{fitted.split}`: the landmarks' own box beside that",
        f"of `{detector}`, in shares of its longer side.",
        "",
        "| beside | right | down | size |",
        "|---|---|---|---|",
        *(
            f"| {name} | {shape.right:+.3f} | {shape.down:+.3f} | {shape.size:.3f} |"
            for name, shape in (
                ("the boxes it gives now", fitted.left_over),
                ("what it draws itself", fitted.mapping),
            )
        ),
    ]


def boxes_picture(report: BoxReport) -> UInt8[np.ndarray, "height width 3"]:
    """The error over the shift and over the scale, with one pass and with two."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), dpi=130, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, report.shifts, [100 * one.amount for one in report.shifts])
    _draw(right, report.scales, [one.amount for one in report.scales])
    left.set(xlabel="shift, % of the box's longer side", ylabel="NME, % of the inter-ocular distance")
    left.set_title("shifted; band: to the worst of eight directions", loc="left", fontsize=10)
    right.set(xlabel="factor of the box's size")
    right.set_title("scaled", loc="left", fontsize=10)
    styles = {"detector": "--", "annotation": ":"}
    for panel in (left, right):
        for row in report.rows:
            if row.boxes in styles:
                name = f"boxes of {report.detector}" if row.boxes == "detector" else "the annotation's boxes"
                panel.axhline(
                    row.nme_pct, color="0.35", linewidth=1, linestyle=styles[row.boxes],
                    label=f"{name}: {row.nme_pct:.2f} %",
                )  # fmt: skip
        panel.grid(color="0.9")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    left.set_ylim(bottom=0)
    left.legend(frameon=False, fontsize=9)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw(panel: Any, moved: Sequence[MovedBoxes], places: Sequence[float]) -> None:
    for label, color, means, worst in (
        ("one pass", ONE_PASS_COLOR, [m.nme_pct for m in moved], [m.worst_nme_pct for m in moved]),
        (
            "second pass on the first one's landmarks", TWO_PASSES_COLOR,
            [m.second_pass_nme_pct for m in moved], [m.second_pass_worst_nme_pct for m in moved],
        ),
    ):  # fmt: skip
        panel.fill_between(places, means, worst, color=color, alpha=0.15, linewidth=0)
        panel.plot(places, means, "o-", color=color, markersize=4, linewidth=2, label=label)
    panel.set_xticks(places)
