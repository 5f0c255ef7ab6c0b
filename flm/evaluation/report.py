"""What an evaluation found: numbers, a table, curves and pictures."""

import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
from rich.console import Console
from rich.table import Table

from flm.draw import PREDICTION_COLOR, TEXT_COLOR, TRUTH_COLOR, compare, contact_sheet
from flm.errors import InputError
from flm.files import write_whole
from flm.inference.pass_config import ONE_PASS, PassConfig
from flm.landmarks import scheme_named
from flm.metrics.calibration import Calibration, face_reliability
from flm.metrics.nme import WHOLE, FaceErrors, NmeSummary, area_under_curve, cumulative_error_curve
from flm.metrics.reliability import Reliability

REPORT_DECIMALS = 4
"""Finer digits change with the size of a network's batches, and so with the number of processes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceExample:
    """A face to look at."""

    key: str
    position: int
    """Place in the split."""
    scheme: str
    picture_shard: UInt8[np.ndarray, "height width 3"]
    """RGB, the stored crop."""
    truth_shard: Float64[np.ndarray, "points 2"]
    """Px of the stored crop."""
    prediction_shard: Float64[np.ndarray, "points 2"]
    """Px of the stored crop."""
    nme: float
    """A fraction of the inter-ocular distance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredOn:
    """Which weights and faces an evaluation is about, so that its numbers are told of no others."""

    weights_sha256: str
    """Of the checkpoint's file."""
    source: str
    """What the shards were made of."""
    split: str
    split_rule: str
    licence: str
    data_hash: str
    """Of the manifest of the shards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalReport:
    """What an evaluation found; the same on every process."""

    summary: NmeSummary
    """Over all faces."""
    subsets: dict[str, NmeSummary]
    """Over the faces of each subset; the last is `full`."""
    parts: dict[str, float]
    """Mean error of each facial part, percent of the inter-ocular distance."""
    loss: float | None
    """Mean over the faces, where it was asked for."""
    errors: FaceErrors
    worst: tuple[FaceExample, ...]
    """The faces of the largest errors, the worst first."""
    examples: tuple[FaceExample, ...]
    """Faces spread evenly over the split, whatever their errors; the same in each evaluation of a split."""
    boxes: str = "truth"
    """What the faces were cut out around: truth, annotation or detector."""
    detector: str | None = None
    """Name of the detector whose boxes they were."""
    not_detected: tuple[str, ...] = ()
    """Keys of the faces that it missed; no number is about them."""
    passes: PassConfig = ONE_PASS
    calibration: Calibration | None = None
    """Of the network's covariances, where it has one."""
    measured_on: MeasuredOn | None = None
    """Where the report is of a checkpoint and shards."""

    @property
    def reliability(self) -> Reliability | None:
        """What the covariances are worth, as `calibration` has them; None where there are none."""
        points = self.errors.points
        return None if points is None else face_reliability(points, self.errors.nme, self.calibration)

    @property
    def curve_subsets(self) -> list[str]:
        """Those with a curve of their own beside that of all faces: no parts of others, and not all faces."""
        num_faces = self.summary.num_faces
        return [name for name, part in self.subsets.items() if "/" not in name and part.num_faces < num_faces]

    @property
    def num_not_detected(self) -> int:
        """How many faces the detector missed; 0 without one."""
        return len(self.not_detected)

    @property
    def detection_rate_pct(self) -> float:
        """Share of the faces that were found."""
        return 100 * len(self.errors) / (len(self.errors) + self.num_not_detected)

    def to_json(self) -> dict[str, Any]:
        """The keys of `NmeSummary`, how the faces were looked at, `subsets`, `parts`, and more.

        `calibration` is of networks with covariances only, `measured_on` of checkpoints.
        """
        return {
            **_rounded(dataclasses.asdict(self.summary)),
            "boxes": self.boxes,
            **dataclasses.asdict(self.passes),
            **self._detection(),
            "subsets": {name: _rounded(dataclasses.asdict(part)) for name, part in self.subsets.items()},
            "parts": _rounded(self.parts),
            **self._uncertainty(),
            **({} if self.measured_on is None else {"measured_on": dataclasses.asdict(self.measured_on)}),
        }

    def _uncertainty(self) -> dict[str, Any]:
        reliability = self.reliability
        if reliability is None:
            return {}
        numbers = _rounded(dataclasses.asdict(reliability))
        return {"calibration": {"calibrated": self.calibration is not None, **numbers}}

    def _detection(self) -> dict[str, Any]:
        if self.detector is None:
            return {}
        return {
            "detector": self.detector,
            "detection_rate_pct": round(self.detection_rate_pct, REPORT_DECIMALS),
            "num_not_detected": self.num_not_detected,
            "not_detected": list(self.not_detected),
        }

    def describe_look(self) -> str:
        """How the faces were looked at, in a line."""
        words = [f"boxes: {self.boxes}"]
        if self.detector is not None:
            found = len(self.errors)
            words[0] += (
                f" ({self.detector}), {found} of {found + self.num_not_detected} faces found "
                f"({self.detection_rate_pct:.2f} %), the others are in no number"
            )
        names = {"second pass": self.passes.second_pass, "mirror average": self.passes.mirror_average}
        return ", ".join(words + [name for name, wanted in names.items() if wanted])

    def to_flat(self) -> dict[str, float]:
        """Numbers for a log: the summary, the loss, and the error of each subset and part, all unrounded."""
        numbers = {name: float(value) for name, value in dataclasses.asdict(self.summary).items()}
        if self.loss is not None:
            numbers["loss"] = self.loss
        for name, summary in self.subsets.items():
            if name != WHOLE:
                numbers[f"subsets/{name}/nme_pct"] = summary.nme_pct
        return numbers | {f"parts/{name}/nme_pct": number for name, number in self.parts.items()}

    def write_json(self, path: Path) -> None:
        """Write `to_json`, whole or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_whole(path, text.encode())


def _rounded(numbers: dict[str, Any]) -> dict[str, Any]:
    return {name: round(number, REPORT_DECIMALS) for name, number in numbers.items()}


def format_table(report: EvalReport) -> str:
    """The report as text: a line for each subset, and one for the facial parts."""
    table = Table()
    table.add_column("subset")
    for heading in ("faces", "NME %", "by pupils %", "by box %", "AUC 8 %", "failed 8 %", "p95 %"):
        table.add_column(heading, justify="right")
    for name, line in report.subsets.items():
        errors_pct = (line.nme_pct, line.nme_inter_pupil_pct, line.nme_box_pct)
        rest = (f"{line.auc_08:.3f}", f"{line.fr_08_pct:.2f}", f"{line.p95_pct:.2f}")
        table.add_row(name, str(line.num_faces), *(f"{number:.2f}" for number in errors_pct), *rest)
    text = io.StringIO()
    console = Console(file=text, width=110, color_system=None)
    console.print(table)
    parts = " · ".join(f"{name} {number:.2f}" for name, number in report.parts.items())
    console.print(report.describe_look(), highlight=False)
    console.print(f"NME % by part: {parts}", highlight=False)
    if (reliability := report.reliability) is not None:
        kind = "" if report.calibration else ", not calibrated (`flm calibrate`)"
        console.print(f"{describe_reliability(reliability)}{kind}", highlight=False)
    return text.getvalue()


def describe_reliability(reliability: Reliability) -> str:
    """What covariances are worth, in a line."""
    inside = (reliability.inside_50_pct, reliability.inside_90_pct, reliability.inside_99_pct)
    shares = ", ".join(f"{share:.1f}" for share in inside)
    return (
        f"inside the 50, 90 and 99 % ellipses: {shares} %; area under the risk-coverage curve "
        f"{reliability.aurc_pct:.2f} % (random {reliability.aurc_random_pct:.2f}, oracle "
        f"{reliability.aurc_oracle_pct:.2f})"
    )


def worst_faces_picture(report: EvalReport, columns: int = 4) -> UInt8[np.ndarray, "height width 3"]:
    """The faces of the largest errors, prediction over truth, the worst first."""
    return _faces_picture(report.worst, f"worst {len(report.worst)} of {len(report.errors)} faces", columns)


def predictions_picture(report: EvalReport, columns: int = 4) -> UInt8[np.ndarray, "height width 3"]:
    """Faces chosen without regard to their errors, prediction over truth."""
    return _faces_picture(
        report.examples, f"{len(report.examples)} of {len(report.errors)} faces, evenly chosen", columns
    )


def _faces_picture(
    faces: Sequence[FaceExample], title: str, columns: int
) -> UInt8[np.ndarray, "height width 3"]:
    tiles = [
        compare(
            face.picture_shard,
            truth=face.truth_shard,
            prediction=face.prediction_shard,
            scheme=scheme_named(face.scheme),
            caption=f"{100 * face.nme:.2f} %   {face.key}",
        )
        for face in faces
    ]
    legend = {title: TEXT_COLOR, "truth": TRUTH_COLOR, "prediction": PREDICTION_COLOR}
    return contact_sheet(tiles, columns, legend)


def ced_curve_picture(report: EvalReport, up_to: float = 0.10) -> UInt8[np.ndarray, "height width 3"]:
    """The cumulative error curves of all faces and of `curve_subsets`: which share has at most an error.

    Args:
        report: of one evaluation.
        up_to: right end of the curves, a fraction of the inter-ocular distance.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "the curve needs matplotlib; install it with `pip install flm-landmarks[train]`"
        ) from error
    figure = Figure(figsize=(7, 5), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    by_subset = report.errors.by_subset()
    for name in (*report.curve_subsets, WHOLE):
        faces = by_subset[name]
        errors, shares = cumulative_error_curve(faces.nme, up_to)
        label = (
            f"{name}: NME {100 * faces.nme.mean():.2f} %, AUC {area_under_curve(faces.nme, up_to):.3f}"
            f" ({len(faces)} faces)"
        )
        (line,) = axes.plot(100 * errors, 100 * shares, drawstyle="steps-post", label=label)
        if name == WHOLE:
            line.set(linewidth=2.4, color="0.15")
    axes.set(
        xlim=(0, 100 * up_to),
        ylim=(0, 100),
        xlabel="error, % of the inter-ocular distance",
        ylabel="faces with at most this error, %",
    )
    axes.grid(color="0.88")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, title=f"AUC: area up to {100 * up_to:g} %")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
