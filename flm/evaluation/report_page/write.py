"""An evaluation on one page that needs nothing from outside."""

import datetime
from html import escape
from pathlib import Path

from flm.data.store import ShardStore
from flm.evaluation.report import EvalReport
from flm.evaluation.report_page.conditions import conditions_section
from flm.evaluation.report_page.faces import faces_section
from flm.evaluation.report_page.measured import Measured
from flm.evaluation.report_page.shape import cumulative_section
from flm.evaluation.report_page.summary import head, numbers_section, published_section
from flm.evaluation.report_page.trust import trust_section
from flm.files import write_whole
from flm.page.html import page


def write_report_page(
    path: Path,
    report: EvalReport,
    *,
    checkpoint: Path,
    store: ShardStore,
    split: str,
    command: str,
    date: datetime.date | None = None,
) -> None:
    """Write the page of an evaluation, whole or not at all.

    Args:
        path: the file; what it needs is all in it.
        report: as `evaluate` made it.
        checkpoint: a checkpoint's or a run's folder.
        store: of the shards that were measured.
        split: of them.
        command: that makes the page again.
        date: of the evaluation; today if None.

    Raises:
        InputError: checkpoint or shards cannot be read any more, or the page cannot be written.
    """
    measured = Measured(
        report=report,
        checkpoint=checkpoint,
        store=store,
        split=split,
        date=date or datetime.datetime.now(datetime.UTC).date(),
    )
    sections = [
        head(measured),
        numbers_section(measured),
        published_section(measured),
        cumulative_section(measured),
        conditions_section(measured),
        faces_section(measured),
        trust_section(measured),
        f"<footer><p>Made by</p><pre>{escape(command)}</pre></footer>",
    ]
    title = f"{report.summary.nme_pct:.2f} % on {report.summary.num_faces:,} faces of {split}"
    write_whole(path, page(title=title, sections=[one for one in sections if one]).encode())
