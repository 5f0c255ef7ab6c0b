"""flm bench demo: the web page as it starts, in a browser, and under many visitors."""

from pathlib import Path

from flm.bench.demo.browser import why_no_browser
from flm.bench.demo.in_browser import BrowserLength, browser_rows, start_row
from flm.bench.demo.page_server import served
from flm.bench.demo.visitors import visitor_rows
from flm.bench.measure import Row
from flm.errors import warn


def bench_demo(
    checkpoint: str,
    *,
    detector: Path | None = None,
    num_visitors: int = 50,
    lasts_s: float = 60.0,
    length: BrowserLength | None = None,
) -> list[Row]:
    """Start the page; one visitor with a browser, where there is one; then many at once.

    Args:
        checkpoint: as `python demo/app.py` takes it.
        detector: the same.
        num_visitors: who ask at once; none measures only start and browser.
        lasts_s: how long they do.
        length: of what is measured in the browser.

    Raises:
        InputError: there is no page beside this flm, or it does not start.
    """
    with served(checkpoint, detector) as page:
        rows = [start_row(page.started_s)]
        if reason := why_no_browser():
            warn(f"{reason}; nothing is measured in a browser")
        else:
            rows += browser_rows(page, length or BrowserLength())
        return rows + (visitor_rows(page, num_visitors, lasts_s) if num_visitors else [])
