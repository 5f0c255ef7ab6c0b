"""flm bench demo: the web page as it starts, in a browser, and under many visitors."""

import math
from pathlib import Path

from flm.bench.demo.browser import why_no_browser
from flm.bench.demo.in_browser import BrowserLength, browser_figures, start_figure
from flm.bench.demo.page_server import served
from flm.bench.demo.visitors import visitor_figures
from flm.bench.figures import Figure
from flm.errors import InputError, warn


def bench_demo(
    checkpoint: str,
    *,
    detector: Path | None = None,
    num_visitors: int = 50,
    lasts_s: float = 60.0,
    length: BrowserLength | None = None,
) -> list[Figure]:
    """Start the page; one visitor with a browser, where there is one; then many at once.

    Args:
        checkpoint: as `python demo/app.py` takes it.
        detector: the same.
        num_visitors: who ask at once; none measures only start and browser.
        lasts_s: how long they do.
        length: of what is measured in the browser.

    Raises:
        InputError: there is no page beside this flm, or it does not start; a number makes no sense.
    """
    if num_visitors < 0:
        raise InputError(f"--visitors is {num_visitors}, must be at least 0")
    if not 0 < lasts_s < math.inf:
        raise InputError(f"--lasts-s is {lasts_s:g}, must be above 0")
    with served(checkpoint, detector) as page:
        figures = [start_figure(page.started_s)]
        if reason := why_no_browser():
            warn(f"{reason}; nothing is measured in a browser")
        else:
            figures += browser_figures(page, length or BrowserLength())
        return figures + (visitor_figures(page, num_visitors, lasts_s) if num_visitors else [])
