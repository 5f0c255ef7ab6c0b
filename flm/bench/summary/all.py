"""Every benchmark, one after the other, each in a process of its own; what is done is not done again."""

import contextlib
import datetime
import inspect
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flm.bench.commands import MEASURED
from flm.bench.machine import Machine, load_average
from flm.bench.summary.page import PAGE_NAME, write_page
from flm.bench.summary.runs import LOG_NAME, NotRun, Outcome, Run, describe, duration
from flm.errors import InputError
from flm.inference.detector_config import ANY_DETECTOR, DetectorConfig

PROGRAM = (sys.executable, "-m", "flm")

ASKED_FOR = {"ablations": "takes hours"}
"""Run only where --only names them, and why."""

ENDS_WITHIN_S = 10.0
"""After it was asked to."""

Benchmark = Callable[..., object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What benchmarks are given; each takes what it has a parameter for."""

    data: str | None = None
    source: Path | None = None
    checkpoint: str | None = None
    detector: DetectorConfig = ANY_DETECTOR
    dlib_model: Path | None = None


def bench_all(
    out: Path, given: Given, *, only: Sequence[str] = (), skip: Sequence[str] = (), limit_s: float = 7200.0
) -> dict[str, Outcome]:
    """Run what is not done yet, write `index.html` into a folder and, for each benchmark, a folder in it.

    Args:
        out: folder, made if missing; it says what is done.
        given: what the benchmarks need.
        only: names; all but those that take hours if empty.
        skip: names.
        limit_s: a benchmark that takes longer has failed.

    Returns:
        What came out of each, those of earlier calls among them.

    Raises:
        InputError: a name is unknown, a run in the folder is damaged, or nothing can be written there.
    """
    for flag, names in (("--only", only), ("--skip", skip)):
        for name in names:
            if name not in MEASURED:
                raise InputError(f"{flag} {name!r} is unknown; known: {', '.join(MEASURED)}")
    found = {name: Run.read(out / name) for name in MEASURED}
    outcomes: dict[str, Outcome] = {name: run for name, run in found.items() if run and run.is_done}
    # Told before anything is measured if it cannot be written.
    write_page(out, MEASURED, outcomes)
    load = load_average()
    for number, (name, benchmark) in enumerate(MEASURED.items(), 1):
        print(f"[{number}/{len(MEASURED)}] {name}: ", end="", flush=True)
        before = found[name]
        why = _why_not(name, only, skip)
        if before is not None and (before.is_done or why):
            outcomes[name] = before
            print(f"{describe(before)}, on {before.date} by `{before.command}`", flush=True)
        elif why or (why := _what_it_needs(benchmark, given)):
            outcomes[name] = NotRun(why)
            print(f"not run: {why}", flush=True)
        else:
            outcomes[name] = run = _run(name, benchmark, given, out / name, limit_s, load)
            load = None  # from now on, what wanted the cores just before was a benchmark
            run.write(out / name)
            print(describe(run), flush=True)
        write_page(out, MEASURED, outcomes)
    print(f"{out / PAGE_NAME} has all of it")
    return outcomes


def _why_not(name: str, only: Sequence[str], skip: Sequence[str]) -> str:
    if name in skip:
        return "left out by --skip"
    if only:
        return "" if name in only else "not among --only"
    return f"{ASKED_FOR[name]}; ask for it with --only {name}" if name in ASKED_FOR else ""


def _what_it_needs(benchmark: Benchmark, given: Given) -> str:
    """Flags that are missing."""
    needed = [
        f"--{name.replace('_', '-')}"
        for name, parameter in inspect.signature(benchmark).parameters.items()
        if parameter.default is parameter.empty and name != "out" and getattr(given, name, None) is None
    ]
    return f"needs {' and '.join(needed)}" if needed else ""


def words_of(benchmark: Benchmark, given: Given, outputs: Mapping[str, Path]) -> list[str]:
    """The command line of a benchmark behind its name: each parameter that something is there for.

    Args:
        benchmark: as `flm bench` calls it; its signature says what it takes, and what comes without a flag.
        given: by the user.
        outputs: where it writes, by parameter.
    """
    words: list[str] = []
    for name, parameter in inspect.signature(benchmark).parameters.items():
        value = outputs.get(name, getattr(given, name, None))
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, DetectorConfig):
            takes_all = isinstance(parameter.default, DetectorConfig)
            words += value.flags() if takes_all else [flag, str(value.model)] * bool(value.model)
        elif value is not None and parameter.kind is parameter.KEYWORD_ONLY:
            words += [flag, str(value)]
        elif value is not None:
            words.insert(0, str(value))
    return words


def _run(
    name: str, benchmark: Benchmark, given: Given, folder: Path, limit_s: float, load: float | None
) -> Run:
    result, log = folder / f"{name}.json", folder / LOG_NAME
    folder.mkdir(parents=True, exist_ok=True)
    # What a run before left is not this one's; runs of ablations are gone on with.
    result.unlink(missing_ok=True)
    machine, began = replace(Machine.here(), load=load), datetime.datetime.now(datetime.UTC)
    words = words_of(benchmark, given, {"json": result, "out": folder})
    started_s = time.perf_counter()
    why = _call([*PROGRAM, "bench", name, *words], log, limit_s)
    seconds = time.perf_counter() - started_s
    written = _written(result)
    return Run(
        command=shlex.join(["flm", "bench", name, *words_of(benchmark, given, {"out": Path(name)})]),
        began=began.strftime("%Y-%m-%d %H:%M"),
        seconds=round(seconds, 1),
        machine=machine,
        why=why or ("" if written is not None else f"it wrote no {result.name}; see {log}"),
        result=written,
    )


def _call(words: Sequence[str], log: Path, limit_s: float) -> str:
    """Run a program to its end; why that is none, or nothing."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return f"it was not done after {duration(limit_s)} (--limit-min); see {log}"
        finally:
            _end(process)
    if code < 0:
        return f"ended by {signal.Signals(-code).name}; see {log}"
    return f"{_last_words(log)} (exit code {code})" if code else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing that it started runs on beside the next benchmark."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ENDS_WITHIN_S)


def _last_words(log: Path) -> str:
    """The mistake, or else the last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    lines = [line for line in lines if line]
    mistakes = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (mistakes or lines or ["it said nothing"])[-1]


def _written(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
