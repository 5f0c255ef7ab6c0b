"""The model card: what a checkpoint is, what it was measured to reach, and what it is not for.

What was not measured is not in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from huggingface_hub import EvalResult, ModelCardData

from flm.metrics.nme import WHOLE, NmeSummary
from flm.publish.about import Checkpoint
from flm.publish.report_file import ReportFile, SpeedRow
from flm.publish.training_command import training_command

LICENCE_NAME = "of-the-training-data"
LICENCE_FILE = "LICENSE"
CARD_FILE = "README.md"
NAMED_LOOK = "truth"

PICTURES: Mapping[str, str] = {
    "predictions": "Landmarks found in faces of the test set: truth green, prediction magenta.",
    "plot": "Cumulative error curve: the share of faces with at most an error.",
    "worst": "The faces of the largest errors: truth green, prediction magenta.",
}
"""By the flag of `flm evaluate` that draws them, with what they show."""

ABOUT_ERROR = (
    "The error of a face (NME) is the mean distance of its points from the truth, in percent of the distance "
    "of the outer eye corners. A face has failed above 8 %. AUC is the area under the cumulative error curve "
    "up to 8 %, 1 at best."
)
BOXES = {
    "truth": "the box around the true landmarks",
    "annotation": "the box of the annotation",
    "detector": "a detector's box, as in use",
}

LIMITS = (
    "**Closed eyes.** Few faces of the usual training sets have closed eyes, and lids of closed eyes may be "
    "found apart. How far an eye is open is not to be trusted where that decides anything.",
    "**Profiles.** A face that is turned so far that one eye is hidden still gets all points; those of the "
    "hidden side are guesses.",
    "**Boxes.** It answers for any box, also where there is no face; the detector decides what is a face.",
    "**Not for** telling who somebody is, what somebody feels or any trait of a person.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CardOptions:
    """What the card has beside what the checkpoint tells."""

    model: str = ""
    """Its name for `--checkpoint`, such as hf://USER/NAME; empty for the model that comes with flm."""
    reports: Sequence[ReportFile] = ()
    speed: Sequence[SpeedRow] = ()
    pictures: Mapping[str, str] | None = None
    """File names beside the card, by the keys of `PICTURES`."""
    commands: Sequence[str] = ()
    """That made it; what its configuration tells if none are given."""


def model_card(checkpoint: Checkpoint, options: CardOptions) -> str:
    """The card, Markdown with front matter.

    Args:
        checkpoint: as `open_checkpoint` gives it.
        options: reports and what else there is.
    """
    parts = [
        f"---\n{_front_matter(checkpoint, options)}\n---",
        f"# {checkpoint.recipe}: {checkpoint.scheme.num_points} facial landmarks",
        _about(checkpoint),
        _picture(options, "predictions"),
        _use(checkpoint, options),
        _error(checkpoint, options),
        _picture(options, "plot"),
        _picture(options, "worst"),
        _uncertainty(checkpoint, options),
        _speed(options),
        _training(checkpoint, options),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in LIMITS),
        _licence(checkpoint),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(checkpoint: Checkpoint, options: CardOptions) -> str:
    is_free = checkpoint.is_free
    results = [
        EvalResult(
            task_type="keypoint-detection",
            dataset_type=checkpoint.scheme.name,
            dataset_name="faces" if report.measured_on is None else _data_name(report),
            metric_type="nme",
            metric_value=round(report.summary.nme_pct, 2),
            metric_name=f"NME, % of the inter-ocular distance, boxes: {report.look}",
        )
        for report in options.reports
    ]
    data = ModelCardData(
        license="mit" if is_free else "other",
        license_name=None if is_free else LICENCE_NAME,
        license_link=None if is_free else LICENCE_FILE,
        library_name="flm",
        pipeline_tag="keypoint-detection",
        tags=["facial-landmarks", "face-alignment", checkpoint.scheme.name, "onnx"],
        model_name=checkpoint.recipe,
        eval_results=results or None,
    )
    return data.to_yaml()


def _about(checkpoint: Checkpoint) -> str:
    config = checkpoint.network.config
    sure = "" if config.head == "regression" else " and how unsure it is of each"
    return (
        f"Finds the {checkpoint.scheme.num_points} landmarks (`{checkpoint.scheme.name}`) of a face{sure}. "
        f"`{config.backbone}` with a {config.head} head on crops of {config.input_size_px} px, "
        f"{checkpoint.num_weights / 1e6:.2f} M weights, trained with flm."
    )


def _picture(options: CardOptions, kind: str) -> str:
    file = (options.pictures or {}).get(kind)
    return "" if file is None else f"![{PICTURES[kind]}]({file})\n\n*{PICTURES[kind]}*"


def _use(checkpoint: Checkpoint, options: CardOptions) -> str:
    flag = f" --checkpoint {options.model}" if options.model else ""
    name = f'"{options.model}"' if options.model else ""
    text = (
        "## Use\n\n```bash\npip install flm-landmarks\n"
        f"flm predict photo.jpg{flag} --out predictions --overlay\n```\n\n"
        f'```python\nimport flm\n\nfaces = flm.load({name}).predict("photo.jpg")\n'
        f"faces[0].landmarks_image  # ({checkpoint.scheme.num_points}, 2), px of the picture\n```"
    )
    if not options.model.startswith("hf://"):
        return text
    repository = options.model.removeprefix("hf://")
    return text + (
        "\n\nThat runs `model.onnx` and needs no PyTorch. The network itself, to train on or to change "
        "(`pip install 'flm-landmarks[train]'`; `--init-from` of `flm train` takes it too):\n\n"
        "```python\nfrom flm.publish.pretrained import PretrainedNetwork\n\n"
        f'network = PretrainedNetwork.from_pretrained("{repository}")\n```'
    )


def _error(checkpoint: Checkpoint, options: CardOptions) -> str:
    if not options.reports:
        return "## Error\n\nNot yet measured."
    head = "| faces | boxes | number | NME % | half below % | 95 % below % | failed % | AUC |"
    rows = [
        _row(_subset_name(report, name), report.look, numbers)
        for report in options.reports
        for name, numbers in _subsets(report)
    ]
    table = "\n".join([head, "|---|---|---:|---:|---:|---:|---:|---:|", *rows])
    notes = [_protocol(checkpoint, options.reports), *_missed(options.reports), *_parts(options.reports)]
    return "\n\n".join(["## Error", ABOUT_ERROR, table, *notes])


def _row(name: str, look: str, numbers: NmeSummary) -> str:
    errors = (numbers.nme_pct, numbers.p50_pct, numbers.p95_pct, numbers.fr_08_pct)
    cells = [f"{numbers.num_faces:,}", *(f"{value:.2f}" for value in errors), f"{numbers.auc_08:.3f}"]
    return f"| {' | '.join([name, look, *cells])} |"


def _subsets(report: ReportFile) -> list[tuple[str, NmeSummary]]:
    """Those of a report, the whole first; a subset that is the whole gives its name to it."""
    parts = [(name, part) for name, part in report.subsets.items() if name != WHOLE]
    if parts and all(part.num_faces == report.summary.num_faces for _, part in parts):
        return [(parts[-1][0], report.summary)]
    return [(WHOLE, report.summary), *parts]


def _subset_name(report: ReportFile, name: str) -> str:
    shown = "all" if name == WHOLE else name
    return shown if report.measured_on is None else f"{report.measured_on.split}: {shown}"


def _protocol(checkpoint: Checkpoint, reports: Sequence[ReportFile]) -> str:
    boxes = "; ".join(f"*{name}*: {BOXES[name]}" for name in dict.fromkeys(one.boxes for one in reports))
    trained_on = checkpoint.state.get("manifest_hash")
    measured = dict.fromkeys(
        f"{on.split} of the data below"
        if checkpoint.data is not None and on.data_hash == trained_on
        else f"{_data_name(report)}, {on.split_rule}"
        for report in reports
        if (on := report.measured_on) is not None
    )
    told = f" Measured on {'; and on '.join(measured)}." if measured else ""
    return f"Boxes that faces were cut out around: {boxes}.{told}"


def _data_name(report: ReportFile) -> str:
    assert report.measured_on is not None
    return f"{report.measured_on.split} of {report.measured_on.source}"


def _missed(reports: Sequence[ReportFile]) -> list[str]:
    """What detectors did not find."""
    lines = []
    for report in reports:
        if report.detector is not None:
            found = report.summary.num_faces
            everyone = found + report.num_not_detected
            lines.append(
                f"{report.detector} found {found:,} of {everyone:,} faces ({100 * found / everyone:.2f} %); "
                "the others are in no number of its rows."
            )
    return list(dict.fromkeys(lines))


def _parts(reports: Sequence[ReportFile]) -> list[str]:
    report = next((one for one in reports if one.boxes == NAMED_LOOK), reports[0])
    parts = " · ".join(f"{name} {error:.2f}" for name, error in report.parts.items())
    return [f"By facial part, boxes {report.look}: {parts} %."] if parts else []


def _uncertainty(checkpoint: Checkpoint, options: CardOptions) -> str:
    rows = [
        f"| {report.look} | {found.inside_50_pct:.1f} | {found.inside_90_pct:.1f} "
        f"| {found.inside_99_pct:.1f} | {found.aurc_pct:.2f} | {found.aurc_random_pct:.2f} "
        f"| {found.aurc_oracle_pct:.2f} |"
        for report in options.reports
        if (found := report.reliability) is not None and report.is_calibrated
    ]
    calibration = checkpoint.calibration
    if not rows or calibration is None:
        return ""
    head = "| boxes | in 50 % | in 90 % | in 99 % | risk-coverage % | by chance | oracle |"
    about = (
        "Each point comes with a covariance, and each face with a score, the probability that its error is "
        f"at most 8 %; fitted to {calibration.num_faces:,} faces of {calibration.split}. The table has the "
        "share of true points inside the ellipses that should hold 50, 90 and 99 % of them, and the area "
        "under the risk-coverage curve of the score, beside that of chance and of a score that knows the "
        "errors."
    )
    return "\n".join(["## How sure it is", "", about, "", head, "|---|---:|---:|---:|---:|---:|---:|", *rows])


def _speed(options: CardOptions) -> str:
    if not options.speed:
        return ""
    rows = [f"| {row.measure} | {row.value:,.1f} {row.unit} | {row.how} |" for row in options.speed]
    return "\n".join(["## Speed", "", "| what | measured | conditions |", "|---|---:|---|", *rows])


def _training(checkpoint: Checkpoint, options: CardOptions) -> str:
    paragraphs = ["## How it was made"]
    data = checkpoint.data
    if data is not None:
        faces = "" if data.num_faces is None else f"{data.num_faces:,} faces of train: "
        labels = f" The landmarks: {data.labels}." if data.labels else ""
        paragraphs.append(f"Trained on {faces}{data.source}, {data.split_rule}.{labels}")
    commands = options.commands or [command for command in [training_command(checkpoint.fields)] if command]
    if commands:
        paragraphs.append("\n".join(["```bash", *commands, "```"]))
    if chosen := _chosen(checkpoint):
        paragraphs.append(chosen)
    if run_url := checkpoint.state.get("run_url"):
        paragraphs.append(f"[The curves of its training]({run_url}) are in Weights & Biases.")
    return "\n\n".join(paragraphs) if paragraphs[1:] else ""


def _chosen(checkpoint: Checkpoint) -> str:
    state = checkpoint.state
    validation = state.get("validation") or {}
    if "step" not in state or "nme_pct" not in validation:
        return ""
    faces = f" on {int(validation['num_faces']):,} faces" if "num_faces" in validation else ""
    how = ", chosen on validation alone" if state.get("best_step") == state["step"] else ""
    return (
        f"The weights are those after step {state['step']:,}{how}. Their error on the validation part is "
        f"{validation['nme_pct']:.2f} %{faces}."
    )


def _licence(checkpoint: Checkpoint) -> str:
    code = "The code, flm, is MIT."
    if checkpoint.is_free:
        return f"## Licence\n\n{checkpoint.licence}. {code}"
    return f"## Licence\n\nThe weights: {checkpoint.licence}. See [{LICENCE_FILE}]({LICENCE_FILE}). {code}"


def licence_text(checkpoint: Checkpoint) -> str:
    """What stands in the file that the card names, for weights that are not under the licence of the code."""
    return (
        f"The weights of {checkpoint.recipe} are under the terms of the data they were trained on:\n\n"
        f"    {checkpoint.licence}\n\n"
        "Whoever passes them on passes on these terms. The code that made them, flm, is under the MIT "
        "licence.\n"
    )
