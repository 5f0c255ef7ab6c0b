"""Every benchmark on one page that needs nothing from outside."""

import datetime
import inspect
import math
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path

from flm.bench.machine import Machine
from flm.bench.summary.runs import LOG_NAME, NotRun, Outcome, Run, bars_of, duration
from flm.bench.summary.sections import result_sections
from flm.files import write_whole
from flm.page.html import facts, header, page, row, section, table

PAGE_NAME = "index.html"
LOG_LINES = 20

ABOUT_ALL = (
    "Each ran alone, in a process of its own. A bar is what a number should reach; those that were missed "
    "are marked. What failed or was not run has no numbers here, and the reason instead."
)


def write_page(
    out: Path, benchmarks: Mapping[str, Callable[..., object]], outcomes: Mapping[str, Outcome]
) -> None:
    """Write the page of what came out so far.

    Args:
        out: folder of the page, and of the benchmarks' folders.
        benchmarks: all that there are.
        outcomes: of those that were looked at.

    Raises:
        InputError: it cannot be written.
    """
    waiting = NotRun("its turn has not come")
    all_of_them = {name: outcomes.get(name, waiting) for name in benchmarks}
    runs = {name: outcome for name, outcome in all_of_them.items() if isinstance(outcome, Run)}
    sections = [
        _head(all_of_them, runs),
        section("All benchmarks", ABOUT_ALL, _overview(all_of_them)),
        *(_run_section(name, _about(benchmarks[name]), run, out / name) for name, run in runs.items()),
    ]
    write_whole(out / PAGE_NAME, page(title="flm: benchmarks", sections=sections).encode())


def _about(benchmark: Callable[..., object]) -> str:
    return (inspect.getdoc(benchmark) or "").partition("\n")[0]


def _head(outcomes: Mapping[str, Outcome], runs: Mapping[str, Run]) -> str:
    done = [run for run in runs.values() if run.is_done]
    bars = [bars_of(run) for run in done]
    failed = len(runs) - len(done)
    tiles = {
        "bars reached": f"{sum(held for held, _ in bars)} of {sum(asked for _, asked in bars)}",
        "benchmarks measured": f"{len(done)} of {len(outcomes)}",
        "failed": f"{failed}",
        "measuring took": duration(math.fsum(run.seconds or 0.0 for run in runs.values())),
    }
    last = max(runs.values(), key=lambda run: run.began, default=None)
    machine = Machine.here() if last is None else last.machine
    date = datetime.date.today() if last is None else datetime.date.fromisoformat(last.date)
    where = f"flm on <b>{escape(machine.processor)}</b>, {date.day} {date:%B %Y}"
    return header("Benchmarks", where, tiles, machine.facts())


def _overview(outcomes: Mapping[str, Outcome]) -> str:
    return table("runs plain", ("Benchmark", "Bars", "Took", ""), [_line(*pair) for pair in outcomes.items()])


def _line(name: str, outcome: Outcome) -> str:
    if isinstance(outcome, NotRun):
        return row(escape(name), ("", "", f"not run: {escape(outcome.why)}"), "absent")
    took = "" if outcome.seconds is None else duration(outcome.seconds)
    link = f'<a href="#{escape(name)}">{escape(name)}</a>'
    if not outcome.is_done:
        return row(link, ("", took, f'<b class="missed">failed</b>: {escape(outcome.why)}'))
    reached, bars = bars_of(outcome)
    told = f"{reached} of {bars}" if bars else ""
    missed = f'<b class="missed">{bars - reached} missed</b>' if reached < bars else "measured"
    return row(link, (told, took, missed))


def _run_section(name: str, about: str, run: Run, folder: Path) -> str:
    content = [*result_sections(run.result or {}), _circumstances(run)]
    if not run.is_done:
        content = [f'<p><b class="missed">Failed</b>: {escape(run.why)}</p>', _end_of_log(folder), *content]
    return f'<div id="{escape(name)}">{section(name, escape(about), *content)}</div>'


def _circumstances(run: Run) -> str:
    took = "" if run.seconds is None else f", took {duration(run.seconds)}"
    told = facts({"Measured": f"{run.began} UTC{took}", "Conditions": run.conditions, **run.machine.facts()})
    return f"<details><summary>Command and machine</summary><pre>{escape(run.command)}</pre>{told}</details>"


def _end_of_log(folder: Path) -> str:
    try:
        lines = (folder / LOG_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return f"<pre>{escape(chr(10).join(lines[-LOG_LINES:]))}</pre>" if lines else ""
