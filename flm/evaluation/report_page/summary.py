"""The head of the page: what was measured, the numbers, and those of others."""

from collections.abc import Mapping
from html import escape

from flm.evaluation.published import PUBLISHED, Protocol, PublishedResult
from flm.evaluation.report_page.measured import Measured
from flm.faces.subsets import innermost_subsets
from flm.metrics.nme import WHOLE, NmeSummary
from flm.page.html import header, number, row, section, table

ABOUT_NUMBERS = (
    "The error of a face is the mean distance of its points from the truth, in percent of its inter-ocular "
    "distance, that of the outer eye corners. A face has failed above 8 %. AUC is the area under the "
    "cumulative error curve up to 8 %, 1 at best."
)
MISSING = "\N{EN DASH}"


def head(measured: Measured) -> str:
    """Title, the four numbers that matter, and what they are of."""
    summary = measured.report.summary
    tiles = {
        "mean error (NME)": f"{summary.nme_pct:.2f} %",
        "half of the faces below": f"{summary.p50_pct:.2f} %",
        "95 % of the faces below": f"{summary.p95_pct:.2f} %",
        "failed, above 8 %": f"{summary.fr_08_pct:.2f} %",
    }
    recipe = str(measured.config.get("recipe", "a checkpoint"))
    told = (
        f"measured on <b>{summary.num_faces:,} faces</b> of <b>{escape(measured.split)}</b>, "
        f"{measured.date.day} {measured.date:%B %Y}"
    )
    return header(recipe, told, tiles, _circumstances(measured))


def _circumstances(measured: Measured) -> dict[str, str]:
    model, training = measured.config["model"], measured.training
    manifest = measured.store.manifest
    size = model.get("input_size_px", "?")
    trained = [f"step {training['step']:,}"] if "step" in training else []
    if (faces := measured.num_training_faces) is not None:
        trained.append(f"{faces:,} faces of the same shards")
    return {
        "Checkpoint": str(measured.checkpoint),
        "Network": f"{model.get('backbone')}, {model.get('head')} head, {size} px",
        "Trained": ", ".join(trained) or "not told by the checkpoint",
        "Data": f"{measured.store.place}: {manifest.source}",
        "Split": f"{measured.split}, {manifest.split_rule}",
        "Measured": measured.report.describe_look(),
        "Licence": manifest.licence,
    }


def numbers_section(measured: Measured) -> str:
    """The table of subsets."""
    head = ("Subset", "Faces", "NME %", "by pupils %", "by box %", "AUC", "failed %", "p95 %")
    rows = [_subset_row(name, line) for name, line in measured.report.subsets.items()]
    return section("Numbers", ABOUT_NUMBERS, table("", head, rows))


def _subset_row(name: str, line: NmeSummary) -> str:
    cells = (
        f"{line.num_faces:,}",
        *(f"{value:.2f}" for value in (line.nme_pct, line.nme_inter_pupil_pct, line.nme_box_pct)),
        f"{line.auc_08:.3f}",
        *(f"{value:.2f}" for value in (line.fr_08_pct, line.p95_pct)),
    )
    return row("all faces" if name == WHOLE else escape(name), cells)


def published_section(measured: Measured) -> str:
    """Ours beside the numbers of others, each with what it was measured on; nothing where none are known."""
    if measured.scheme.name not in PUBLISHED:
        return ""
    protocol, results = PUBLISHED[measured.scheme.name]
    complete = complete_subsets(measured, protocol)
    columns = [f"{name}<br>{faces} faces" for name, faces in protocol.subsets.items()]
    head = ("Method", *columns, "Trained on", "Input px", "Measured on")
    ranked = sorted(results, key=lambda result: result.nme_pct[WHOLE])
    rows = [_our_row(measured, protocol, complete), *(_row(protocol, result) for result in ranked)]
    about = _about_published(measured, protocol, complete)
    return section("Beside published numbers", about, table("published", head, rows))


def complete_subsets(measured: Measured, protocol: Protocol) -> Mapping[str, float]:
    """Our error on those subsets of the published test set that were measured whole, and on no others."""
    if measured.split != "test":
        return {}
    return protocol.measured_whole(
        {name: (part.num_faces, part.nme_pct) for name, part in measured.report.subsets.items()}
    )


def _about_published(measured: Measured, protocol: Protocol, complete: Mapping[str, float]) -> str:
    about = (
        f"NME in percent of the {escape(protocol.normalization)}, {escape(protocol.name)}: "
        f"{escape(protocol.about)}. As their authors published them, mostly the best of many evaluations on "
        "the test set itself, which an honest choice falls short of by 0.02 to 0.05. "
    )
    if WHOLE in complete:
        return about + "Ours was measured on the same faces."
    faces = measured.report.summary.num_faces
    return about + (
        f"<b>Ours was measured on {faces:,} faces of {escape(measured.split)}, not on that test set</b>, so "
        + (
            "only the columns that were measured whole compare."
            if complete
            else "no column compares; its number stands below its name."
        )
    )


def _our_row(measured: Measured, protocol: Protocol, complete: Mapping[str, float]) -> str:
    model, summary = measured.config["model"], measured.report.summary
    trained = measured.num_training_faces
    cells = [
        *(f"<b>{complete[name]:.2f}</b>" if name in complete else MISSING for name in protocol.subsets),
        MISSING if trained is None else f"{trained:,}",
        str(model.get("input_size_px", MISSING)),
        "the same faces" if WHOLE in complete else escape(_what(measured)),
    ]
    number_of = f"{summary.nme_pct:.2f} % on {summary.num_faces:,} faces of {measured.split}"
    about = escape(f"{number_of}; {measured.report.describe_look()}")
    return row(f"this checkpoint<br><small>{about}</small>", cells, "ours")


def _what(measured: Measured) -> str:
    inner = innermost_subsets(name for name in measured.report.subsets if name != WHOLE)
    faces = f"{measured.split}, {measured.report.summary.num_faces:,} faces"
    return f"{faces}: {' + '.join(inner)}" if inner else faces


def _row(protocol: Protocol, result: PublishedResult) -> str:
    size = result.num_parameters
    about = result.source if size is None else f"{result.source}, {number(size / 1e6)} M parameters"
    cells = [
        *(f"{result.nme_pct[name]:.2f}" if name in result.nme_pct else MISSING for name in protocol.subsets),
        f"{protocol.training_faces:,}",
        MISSING if result.input_size_px is None else str(result.input_size_px),
        f"{protocol.name} test",
    ]
    return row(f"{escape(result.method)}<br><small>{escape(about)}</small>", cells)
