"""What a benchmark wrote, as tables and charts of the page."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from flm.bench.boxes_report import BoxReport, BoxRow, MovedBoxes
from flm.bench.summary.comparisons import TIMES, Comparison, comparisons, times
from flm.page.html import card, grid, row, table
from flm.page.plot import Axis, Plot, linear_axis, svg

WIDTH, ROW_HEIGHT, RIGHT, BOTTOM = 360, 34, 52, 30
"""Of the chart of bars; its unit is about a pixel on a telephone."""
LEAST, MOST = 0.25, 1000.0
"""Times the bar; what is beyond stands at the end of the axis."""
ROOM = 44
"""That a word on the axis takes."""
LONGEST_NAME = 58
NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"


def result_sections(result: Mapping[str, Any]) -> list[str]:
    """Charts and tables, HTML; the JSON itself where it is of a kind that is not known here."""
    if not result:
        return []
    if rows := comparisons(result):
        summary = f"<p><b>{escape(result['summary'])}</b></p>" if "summary" in result else ""
        return [summary, *_compared(rows)]
    if "shifts" in result:
        return _boxes(BoxReport.from_json(result))
    if "recipe" in result and "rows" in result:
        return _ablations(result)
    return [f"<pre>{escape(json.dumps(result, indent=2, ensure_ascii=False))}</pre>"]


def _compared(rows: Sequence[Comparison]) -> list[str]:
    with_bars = [one for one in rows if one.margin is not None]
    head = ("", "Ours", "Peer", "Times", "Bar")
    lines = [row(escape(one.name), _cells(one)) for one in rows]
    hows = "".join(f"<dt>{escape(one.name)}</dt><dd>{escape(one.how)}</dd>" for one in rows if one.how)
    about = "How many times each bar was reached. Right of the line it was; left of it, it was missed."
    return [
        *(
            [grid("alone", [card("Beside the bars", bars_chart(with_bars), about)])]
            if len(with_bars) > 1
            else []
        ),
        table("compared plain", head, lines),
        f"<details><summary>How each was measured</summary><dl>{hows}</dl></details>" if hows else "",
    ]


def _cells(one: Comparison) -> list[str]:
    missed = ' <b class="missed">missed</b>' if one.holds is False else ""
    # No line begins with a sign or ends with one.
    bar = escape(one.bar.replace(" ", NO_BREAK_SPACE, 1))
    ratio = one.ratio.replace(" ", NO_BREAK_SPACE)
    return [escape(one.ours), escape(one.peer), ratio, f"{bar}{missed}"]


def bars_chart(rows: Sequence[Comparison]) -> str:
    """A bar for each comparison, from its own bar to what was reached, SVG.

    Args:
        rows: with margins.
    """
    margins = np.clip([_margin(one) for one in rows], LEAST, MOST)
    high = 10.0 ** math.ceil(math.log10(max(10.0, float(margins.max()))) - 1e-9)
    low = LEAST if float(margins.min()) < 0.5 else 0.5
    ticks = [
        tick for tick in (low, 1.0, 3.0, 10.0, 100.0, 1000.0) if tick <= high and (tick != 3 or high <= 10)
    ]
    axis = Axis(label="times the bar", low=low, high=high, ticks=ticks, logarithmic=True)
    height = ROW_HEIGHT * len(rows) + BOTTOM
    places = 2 + axis.share(margins) * (WIDTH - RIGHT - 2)
    start = 2 + float(axis.share(np.array([1.0]))[0]) * (WIDTH - RIGHT - 2)
    drawn: list[str] = []
    for tick, at in zip(ticks, 2 + axis.share(np.array(ticks)) * (WIDTH - RIGHT - 2), strict=True):
        if 0 < start - at < ROOM:
            continue
        word = "the bar" if tick == 1 else f"{tick:g} {TIMES}"
        kind = "middle" if at > ROOM / 2 else "start"
        drawn.append(f'<text class="{kind}" x="{at:.1f}" y="{height - 8}">{word}</text>')
    for number, (one, end) in enumerate(zip(rows, places.tolist(), strict=True)):
        drawn.append(_bar(one, start, end, ROW_HEIGHT * number))
    reached = sum(one.margin is not None and one.margin >= 1 for one in rows)
    return svg(drawn, (0.0, 0.0, float(WIDTH), float(height)), f"{reached} of {len(rows)} bars were reached")


def _margin(one: Comparison) -> float:
    """A number that is none was not reached."""
    return one.margin if one.margin is not None and not math.isnan(one.margin) else LEAST


def _bar(one: Comparison, start: float, end: float, top: int) -> str:
    name = one.name if len(one.name) <= LONGEST_NAME else f"{one.name[:LONGEST_NAME]}…"
    margin = _margin(one)
    told = "all" if math.isinf(margin) else times(margin, 1.0)
    left, width = min(start, end), max(1.5, abs(end - start))
    kind = "bar" if margin >= 1 else "bar under"
    return (
        f"<g><title>{escape(f'{one.name}: {one.ours}, bar {one.bar}')}</title>"
        f'<text class="note" x="2" y="{top + 13}">{escape(name)}</text>'
        f'<rect class="{kind}" x="{left:.1f}" y="{top + 18}" width="{width:.1f}" height="10" rx="2"/>'
        f'<line class="mark" x1="{start:.1f}" x2="{start:.1f}" y1="{top + 16}" y2="{top + 30}"/>'
        f'<text class="end" x="{WIDTH - 2}" y="{top + 27}">{told}</text></g>'
    )


def _boxes(report: BoxReport) -> list[str]:
    def cells(one: BoxRow) -> list[str]:
        numbers = [f"{number:.2f}" for number in (one.found_pct, one.nme_pct, one.second_pass_nme_pct)]
        beside = "" if one.boxes == "truth" else f"{one.beside_truth_pct:+.1f} %"
        return [f"{one.num_faces:,}", *numbers, beside]

    rows = [row(escape(report.name_of(one)), cells(one)) for one in report.rows]
    head = ("Boxes", "Faces", "Found %", "NME %", "Second pass", "Beside truth")
    top = 1.1 * max(one.nme_pct for one in (*report.shifts, *report.scales))
    legend = (
        '<p class="legend"><span><i class="key first"></i>one pass</span>'
        '<span><i class="key second"></i>second pass, at the box of the landmarks found first</span></p>'
    )
    shifts = _moved(report.shifts, "shift, % of the box's side", 100.0, top)
    scales = _moved(report.scales, "factor of the box's size", 1.0, top)
    charts = [
        card("Shifted", shifts, "The mean of eight directions."),
        card("Scaled", scales, "About its centre."),
    ]
    return [table("compared plain", head, rows), legend, grid("pair", charts)]


def _moved(moved: Sequence[MovedBoxes], label: str, factor: float, top: float) -> str:
    amounts = factor * np.array([one.amount for one in moved])
    x = linear_axis(label, float(amounts.min()), float(amounts.max()))
    plot = Plot(x, linear_axis("NME", 0.0, top, "%"))
    for kind, about, errors in (
        ("second", "second pass", np.array([one.second_pass_nme_pct for one in moved])),
        ("first", "one pass", np.array([one.nme_pct for one in moved])),
    ):
        plot.curve(amounts, errors, kind, about)
        plot.dots(amounts, errors, kind, [f"{about}: {error:.2f} %" for error in errors], radius=2.4)
    return plot.svg(f"Error over the {label}")


def _ablations(result: Mapping[str, Any]) -> list[str]:
    rows = sorted(
        result["rows"], key=lambda one: (one["variation"]["axis"], statistics.fmean(one["nme_pct"]))
    )
    head = ("Compared", "Variation", "NME %, mean of seeds", "Minutes")
    lines = [
        row(
            escape(one["variation"]["axis"]),
            [
                escape(one["variation"]["name"].replace("`", "")),
                f"{statistics.fmean(one['nme_pct']):.2f}",
                f"{statistics.fmean(one['minutes']):.1f}",
            ],
        )
        for one in rows
    ]
    return [table("plain", head, lines)]
