"""`flm bench all`: every benchmark is run, none ends the others, and what is done is not done again.

The benchmarks of these tests take no time, but their commands, processes and files are the real ones; see
tests/programs/quick_benchmarks.py.
"""

import functools
import inspect
import json
import math
import os
import re
import shlex
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY
from html_page import Page
from pages import block

from flm.bench.commands import MEASURED
from flm.bench.figures import OURS, Bar, Figure, missing
from flm.bench.machine import Machine
from flm.bench.measure import Row
from flm.bench.summary import all as bench_all
from flm.bench.summary import readme
from flm.bench.summary.all import Given, words_of
from flm.bench.summary.commands import BENCHMARKS
from flm.bench.summary.comparisons import TIMES, Comparison, amount, comparisons, times
from flm.bench.summary.runs import Run, describe, duration
from flm.bench.summary.sections import bars_chart, result_sections
from flm.cli import main
from flm.command_line import run_command
from flm.errors import InputError
from flm.inference.detector_config import DetectorConfig

PROGRAM = (sys.executable, str(REPOSITORY / "tests" / "programs" / "quick_benchmarks.py"))
GIVEN = Given(
    data="data/300w",
    source=Path("archive"),
    checkpoint="runs/quick",
    detector=DetectorConfig(kind="yunet", model=Path("yunet.onnx"), min_score=0.5),
    dlib_model=Path("dlib.dat"),
)


@pytest.fixture
def quick(monkeypatch, tmp_path) -> Path:
    """A folder to work in, in which benchmarks take no time."""
    monkeypatch.setattr(bench_all, "PROGRAM", PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUICK_MISTAKES", raising=False)
    return tmp_path


def exit_code(words: list[str]) -> int:
    try:
        main(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize("name", MEASURED)
def test_each_benchmark_is_given_what_it_takes(name, tmp_path):
    benchmark = MEASURED[name]
    taken: dict[str, object] = {}

    @functools.wraps(benchmark)
    def take(*values, **named):
        taken.update(inspect.signature(benchmark).bind(*values, **named).arguments)

    outputs = {"json": tmp_path / "found.json", "out": tmp_path}
    assert not bench_all._what_it_needs(benchmark, GIVEN), "`flm bench all` has no flag for it"
    run_command({name: take}, [name, *words_of(benchmark, GIVEN, outputs)], program="flm bench")
    parameters = inspect.signature(benchmark).parameters
    assert {"json", "out"} & taken.keys(), "nobody would know what it measured"
    for parameter, value in {**outputs, "data": GIVEN.data, "source": GIVEN.source}.items():
        if parameter in parameters:
            assert str(taken[parameter]) == str(value)
    if "checkpoint" in parameters:
        assert str(taken["checkpoint"]) == GIVEN.checkpoint
    if "detector" in parameters:
        assert taken["detector"] in (GIVEN.detector, GIVEN.detector.model)


def test_what_is_not_given_is_left_to_the_benchmark():
    assert words_of(MEASURED["predict"], Given(data="d"), {"out": Path("o")}) == ["--data", "d", "--out", "o"]
    assert words_of(MEASURED["order"], GIVEN, {}) == []
    assert words_of(MEASURED["boxes"], Given(checkpoint="run"), {}) == ["run"]


@pytest.mark.multiprocess
def test_the_commands_of_the_readme(quick, monkeypatch, capsys):
    """The first with three that go wrong; the same again, which makes up for them and does nothing else."""
    all_of_them, tables = (shlex.split(line)[1:] for line in block("bench").splitlines())
    out = quick / all_of_them[all_of_them.index("--out") + 1]
    monkeypatch.setenv("QUICK_MISTAKES", "convert=mistake train=killed demo=mistake")
    assert exit_code(all_of_them) == 1
    told = capsys.readouterr().out.splitlines()
    lines = {name: line for name, line in zip(MEASURED, told, strict=False) if f" {name}: " in line}
    assert lines.keys() == MEASURED.keys(), "a line for each"
    assert re.search(r"loader: 2 of 3 bars reached after \d+ s$", lines["loader"])
    assert "convert: FAILED after" in lines["convert"]
    assert lines["convert"].endswith("data/<b>: no shards here (exit code 2)")
    assert "ended by SIGKILL" in lines["train"]
    assert lines["ablations"].endswith("not run: takes hours; ask for it with --only ablations")
    assert "measured after" in lines["boxes"]

    runs = {name: Run.read(out / name) for name in MEASURED}
    assert {name for name, run in runs.items() if run and not run.is_done} == {"convert", "train", "demo"}
    # Before the others it was the benchmark before that wanted the cores.
    assert {name for name, run in runs.items() if run and run.machine.load is not None} == {"loader"}
    assert runs["boxes"].command == "flm bench boxes runs/quick --data data/300w --out boxes"
    assert json.loads((out / "loader" / "loader.json").read_text()) == runs["loader"].result
    for where in ("data/300w", "--source"):
        assert where in runs["loader"].command
    page = Page((out / "index.html").read_text())
    for words in (
        "ended by SIGKILL",
        "data/<b>: no shards here",
        "takes hours",
        "6 of 10",
        "runs/quick",
        "no GPU",
    ):
        assert words in page.text, words

    monkeypatch.delenv("QUICK_MISTAKES")
    assert exit_code(all_of_them) == 0
    again = {name: Run.read(out / name) for name in MEASURED}
    assert {name for name in MEASURED if again[name] != runs[name]} == {"convert", "train", "demo"}
    assert all(run is None or run.is_done for run in again.values())
    assert f"on {runs['loader'].date} by `flm bench loader" in capsys.readouterr().out
    check_page(Page((out / "index.html").read_text()), again)

    for path in [*(readme.ROOT / name for name in readme.PAGES), readme.RESULTS]:
        copy = quick / (path.relative_to(readme.ROOT) if path.suffix == ".md" else path.name)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(readme, "ROOT", quick)
    monkeypatch.setattr(readme, "RESULTS", quick / "results.json")
    assert exit_code(tables) == 0
    text = (quick / "README.md").read_text()
    assert "| measure 2 | 270 faces/s | 100 faces/s |" in text
    assert "not yet measured" not in text[text.index("<!-- generated: boxes -->") :]


def check_page(page: Page, runs: dict[str, Run | None]) -> None:
    """It has a section for each, needs nothing from outside, and marks what was missed."""
    sections = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert sections == {name for name, run in runs.items() if run}
    assert {link["href"] for link in page.all("a")} == {f"#{name}" for name in sections}
    sources = [
        value for _, attributes in page.elements for name, value in attributes.items() if name == "src"
    ]
    assert not sources
    assert "default-src 'none'" in str(page.all("meta"))
    missed = sum(row.holds is False for run in runs.values() if run for row in comparisons(run.result))
    assert len(page.all("b", "missed")) >= missed > 0
    # Two charts of boxes, and one for each benchmark with several bars.
    assert len(page.all("svg")) >= 2 + 3
    for words in ("Processor", "PyTorch", "Load before", "in no time <b>", "Commit"):
        assert words in page.text, words


@pytest.mark.multiprocess
def test_what_is_asked_for_and_what_is_missing(quick, capsys):
    assert exit_code(["bench", "all", "--out", "o", "--only", "loader", "order"]) == 0
    told = capsys.readouterr().out
    assert "loader: not run: needs --data and --source" in told
    assert "bars reached after" in told
    assert told.count("not among --only") == len(MEASURED) - 2
    assert "not run: needs --data and --source" in Page((quick / "o" / "index.html").read_text()).text
    assert exit_code(["bench", "all", "--out", "o", "--skip", "order", *MEASURED]) == 0
    # What was measured before stays on the page.
    assert "order" in {link["href"][1:] for link in Page((quick / "o" / "index.html").read_text()).all("a")}


def test_names_that_are_unknown_are_told(tmp_path, capsys):
    assert exit_code(["bench", "all", "--out", str(tmp_path), "--only", "lader"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --only 'lader' is unknown; known: loader, order")
    assert error.count("\n") == 1
    assert "all" not in MEASURED
    assert {"all", "readme", *MEASURED} == BENCHMARKS.keys()


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_all, "_run", None)
    (tmp_path / "file").write_text("whole")
    assert exit_code(["bench", "all", "--out", str(tmp_path / "file" / "out"), "--only", "order"]) == 2
    error = capsys.readouterr().err
    assert "index.html: cannot be written" in error
    assert error.count("\n") == 1


def test_a_benchmark_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    log = tmp_path / "log.txt"
    why = bench_all._call([sys.executable, "-c", program], log, 5.0)
    assert why == f"it was not done after 5 s (--limit-min); see {log}"
    child = Path(f"/proc/{log.read_text().strip()}/stat")
    deadline_s = time.monotonic() + 30
    while is_running(child) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not is_running(child)


def is_running(stat: Path) -> bool:
    """Neither gone nor dead and not yet taken notice of."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_run_without_a_result_has_failed(quick, monkeypatch, capsys):
    monkeypatch.setattr(bench_all, "PROGRAM", (sys.executable, "-c", "print('nothing')"))
    assert exit_code(["bench", "all", "--out", "o", "--only", "order"]) == 1
    assert "order: FAILED after 0 s: it wrote no order.json" in capsys.readouterr().out
    (quick / "o" / "order" / "run.json").write_text("{")
    assert exit_code(["bench", "all", "--out", "o", "--only", "order"]) == 2
    assert "delete it, and it is measured again" in capsys.readouterr().err


def a_row(ratio: float, bar: float = 2.0) -> dict[str, object]:
    return Row(measure="m", ours=ratio, peer=1.0, unit="faces/s", bar=bar, how="so").to_json()


def test_rows_are_compared_with_their_bars():
    good, bad = comparisons({"rows": [a_row(3.0), a_row(1.99)]})
    assert (good.ours, good.peer, good.ratio, good.bar) == ("3 faces/s", "1 faces/s", f"3.00 {TIMES}", "≥ 2")
    assert (good.holds, good.margin) == (True, 1.5)
    assert (bad.holds, bad.ratio) == (False, f"1.990 {TIMES}"), "it must not look like the bar"


def test_figures_are_ours_or_a_peer_beside_ours():
    at_least = Bar("at least", 2.0, is_of_ratio=True)
    figures = [
        Figure(subject="s", side=OURS, unit="ms", value=2.5, bar=Bar("at most", 4.0), how="x"),
        Figure(subject="s", side="dlib", unit="ms", value=10.0, beside=4.0, bar=at_least),
        missing("s", "another", "no file", unit="ms", bar=at_least),
        Figure(subject="lag", side="ours, added", unit="frames", value=0.0, bar=Bar("at most", 1.0)),
        Figure(subject="lag", side="ours, ahead", unit="frames", value=-0.3, bar=Bar("at most", 1.0)),
    ]
    ours, dlib, another, lag, ahead = comparisons({"figures": [figure.to_json() for figure in figures]})
    assert (ours.name, ours.ours, ours.peer, ours.bar, ours.margin) == ("s", "2.5 ms", "", "≤ 4 ms", 1.6)
    assert (dlib.name, dlib.ours, dlib.peer, dlib.ratio) == (
        "s, beside dlib",
        "2.5 ms",
        "10 ms",
        f"4.00 {TIMES}",
    )
    assert (dlib.bar, dlib.margin, dlib.holds) == ("≥ 2", 2.0, True)
    assert (another.peer, another.holds, another.margin) == ("not measured", None, None)
    assert (lag.name, lag.ours, lag.margin) == ("lag: ours, added", "0 frames", math.inf)
    assert (ahead.margin, ahead.holds) == (math.inf, True), "what is below nothing is no bar that was missed"


@pytest.mark.parametrize("same_log", [True, False])
def test_kills_are_a_comparison(same_log):
    (one,) = comparisons(
        {
            "kills": 3,
            "moments": {"step": 3},
            "same_weights": True,
            "same_log": same_log,
            "seconds": 9.6,
            "how": "",
        }
    )
    assert one.holds is same_log
    assert one.ours.endswith("in 10 s")


def test_what_compares_nothing_has_no_comparisons():
    assert comparisons({"rows": [{"boxes": "truth"}], "shifts": []}) == []
    assert comparisons({}) == []


def test_numbers_have_digits_that_mean_something():
    assert amount(7182.5, "faces/s") == "7,182 faces/s"
    assert amount(42.46, "faces/s") == "42.5 faces/s"
    assert amount(8.2117, "1/s") == "8.21 a second"
    assert amount(0.0) == "0"
    assert [times(1.8031, 1.8), times(1.8031), times(3737.3, 1.0), times(169.15)] == [
        *(f"1.803 {TIMES}", f"1.80 {TIMES}", f"3,737 {TIMES}", f"169 {TIMES}"),
    ]
    assert (duration(59.6), duration(133.0), duration(7200.0)) == ("1 min 00 s", "2 min 13 s", "2 h 00 min")


def bars(svg: str) -> list[tuple[str, float, float]]:
    found = re.findall(r'<rect class="([\w ]+)" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', svg)
    return [(kind, float(left), float(width)) for kind, left, width in found]


def test_bars_begin_at_what_was_asked_for():
    def one(margin: float) -> Comparison:
        return Comparison(subject="s <b>", ours="o", bar="≥ 1", margin=margin)

    svg = bars_chart([one(2.0), one(0.5), one(4.0), one(math.inf), one(math.nan), one(1e9)])
    (two, half, four, all_of_it, none, most) = bars(svg)
    start = two[1]
    assert half[1] + half[2] == pytest.approx(start, abs=0.2), "what was missed ends where the others begin"
    assert four[2] == pytest.approx(2 * two[2], abs=0.2)
    assert half[2] == pytest.approx(two[2], abs=0.2)
    assert all_of_it[2] == most[2] > four[2]
    assert none[2] > half[2]
    assert [kind for kind, *_ in (two, half, four, none)] == ["bar", "bar under", "bar", "bar under"]
    Page(svg)
    assert "<b>" not in svg


def test_any_result_has_a_section():
    ablations = {
        "recipe": "r", "steps": 5,
        "rows": [{"variation": {"axis": "head", "name": "`x` <i>"}, "nme_pct": [3.0, 4.0], "minutes": [1.0]}],
    }  # fmt: skip
    text = Page("".join(result_sections(ablations))).text
    assert "3.50" in text
    assert "x <i>" in text
    assert "&lt;b&gt;" in "".join(result_sections({"new": "<b>"}))
    assert result_sections({}) == []


def test_the_machine_is_told():
    machine = Machine.here()
    assert machine.threads == len(os.sched_getaffinity(0))
    assert machine.cores >= 1
    assert machine.memory_gib > 0
    facts = machine.facts()
    assert facts.keys() >= {
        "Processor",
        "Cores",
        "Memory",
        "GPU",
        "System",
        "Python",
        "PyTorch",
        "Load before",
    }
    assert facts["Load before"] == f"{machine.load:.1f}"
    assert Machine(processor="P").facts() == {"Processor": "P"}
    assert Machine(processor="P", cores=2, accelerator="G", load=0.25).describe() == (
        "2 cores of P, G, load before 0.2"
    )


def test_a_run_is_read_as_it_was_written(tmp_path):
    run = Run(
        command="flm bench loader --data /data/x/300w --source=/a/b.tar",
        began="2026-11-23 02:00",
        seconds=1.5,
        machine=Machine(processor="P", load=0.5),
        result={
            "model": "/home/me/runs/k",
            "how": "1/s, faces/s of https://a.org/b/c and ./x/y, /tmp/q/z.pt.",
        },
    )
    assert Run.read(tmp_path) is None
    run.write(tmp_path)
    assert Run.read(tmp_path) == run
    portable = run.without_machine_paths()
    assert portable.command == "flm bench loader --data 300w --source=b.tar"
    assert portable.result == {"model": "k", "how": "1/s, faces/s of https://a.org/b/c and ./x/y, z.pt."}
    assert describe(run) == "measured after 2 s"
    (tmp_path / "run.json").write_text('{"command": 3}')
    with pytest.raises(InputError, match=r"run\.json: \w+ is missing"):
        Run.read(tmp_path)
