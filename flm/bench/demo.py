"""The web page under many visitors at once: whether each gets the own answer, and whether memory stays.

Each visitor has a picture of its own, the same face at another place, so that an answer that went to the
wrong one is seen. What is right is asked for once, before the others come.
"""

import contextlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float64

from flm.bench.measure import Conditions, Row, free_port
from flm.errors import InputError

APP = Path(__file__).parents[2] / "demo" / "app.py"

SIDE_PX = 480
STARTS_WITHIN_S = 120.0
SETTLED_AFTER_S = 10.0
MOST_GROWTH_MB = 50.0
SAME_WITHIN_PX = 0.05
"""Faces that share a forward pass with others may differ in the last digit."""


@dataclass(slots=True, eq=False)
class Visitor:
    """One of them."""

    picture: Path
    expected: Float64[np.ndarray, "points 2"]
    waits_s: list[float] = field(default_factory=list)
    num_wrong: int = 0
    mistakes: list[str] = field(default_factory=list)


def bench_demo(checkpoint: str, *, num_visitors: int = 50, lasts_s: float = 60.0) -> list[Row]:
    """Start the page, and let visitors ask for landmarks all at once.

    Raises:
        InputError: there is no page beside this flm, or it does not start.
    """
    if not APP.is_file():
        raise InputError(f"{APP}: there is no page beside this flm; run the command in a checkout")
    with tempfile.TemporaryDirectory() as folder, _served(checkpoint) as (url, process):
        visitors = [_visitor(url, Path(folder), number) for number in range(num_visitors)]
        alone_per_s = _alone(url, visitors[0])
        threads = [threading.Thread(target=_visit, args=(url, one, lasts_s)) for one in visitors]
        for thread in threads:
            thread.start()
        memory_mb = _watch(process.pid, lasts_s)
        for thread in threads:
            thread.join()
    return _rows(visitors, alone_per_s, memory_mb, lasts_s)


def _rows(visitors: list[Visitor], alone_per_s: float, memory_mb: list[float], lasts_s: float) -> list[Row]:
    waits_s = [wait_s for one in visitors for wait_s in one.waits_s]
    mistakes = [mistake for one in visitors for mistake in one.mistakes]
    if not waits_s:
        raise InputError(f"no visitor was answered: {mistakes[0] if mistakes else 'no reason was given'}")
    num_wrong = sum(one.num_wrong for one in visitors)
    asked = len(waits_s) + len(mistakes)
    settled = memory_mb[round(SETTLED_AFTER_S) :] or memory_mb[-1:]
    growth_mb = max(abs(value - settled[0]) for value in settled)
    how = f"{len(visitors)} visitors at once for {lasts_s:.0f} s"
    waiting = (
        f"median wait {statistics.median(waits_s):.2f} s, longest {max(waits_s):.2f} s; "
        f"{len(mistakes)} errors{f', the first: {mistakes[0]}' if mistakes else ''}"
    )
    conditions = Conditions(unit="answers", how=how)
    return [
        conditions.row("own answers", float(len(waits_s) - num_wrong), float(asked), bar=1.0, how=waiting),
        Conditions(unit="answers/s", how=how).row(
            "beside one visitor alone", len(waits_s) / lasts_s, alone_per_s, bar=0.9
        ),
        Conditions(unit="MB", how=how).row(
            "memory: what it may change by after 10 s, beside what it does",
            MOST_GROWTH_MB,
            max(growth_mb, 0.1),
            bar=1.0,
            how=f"{settled[0]:.0f} MB after {SETTLED_AFTER_S:.0f} s, {memory_mb[-1]:.0f} MB at the end",
        ),
    ]


@contextlib.contextmanager
def _served(checkpoint: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    words = ["--checkpoint", checkpoint] if checkpoint else []
    command = [sys.executable, str(APP), "--port", str(port), "--requests-per-minute", "0", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/"
    try:
        _wait_for(url, process)
        yield url, process
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < end_s:
        if process.poll() is not None:
            raise InputError("the page does not start; see the line before this")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise InputError(f"the page does not start within {STARTS_WITHIN_S:.0f} s")


def _visitor(url: str, folder: Path, number: int) -> Visitor:
    """A visitor with a face at a place of its own, and what the page answers to it while nobody else asks."""
    face = cv2.imread(str(APP.parent / "examples" / "smile.jpg"))
    assert face is not None
    face = cv2.resize(face, (320, 320), interpolation=cv2.INTER_AREA)
    left, top = 3 * number % (SIDE_PX - 320), 20 * number % (SIDE_PX - 320)
    picture = np.full((SIDE_PX, SIDE_PX, 3), 110, np.uint8)
    picture[top : top + 320, left : left + 320] = face
    path = folder / f"{number}.jpg"
    cv2.imwrite(str(path), picture)
    return Visitor(picture=path, expected=_ask(_client(url), path))


def _client(url: str) -> Any:
    from gradio_client import Client

    return Client(url, verbose=False)


def _ask(client: Any, picture: Path) -> Float64[np.ndarray, "points 2"]:
    from gradio_client import handle_file

    record = client.predict(handle_file(str(picture)), "", api_name="/find_landmarks")
    return np.array(record["faces"][0]["landmarks"], np.float64)


def _alone(url: str, visitor: Visitor, count: int = 10) -> float:
    client = _client(url)
    start_s = time.perf_counter()
    for _ in range(count):
        _ask(client, visitor.picture)
    return count / (time.perf_counter() - start_s)


def _visit(url: str, visitor: Visitor, lasts_s: float) -> None:
    client = _client(url)
    end_s = time.monotonic() + lasts_s
    while time.monotonic() < end_s:
        start_s = time.perf_counter()
        try:
            found = _ask(client, visitor.picture)
        except Exception as error:  # whatever it is, it is counted
            visitor.mistakes.append(str(error))
            continue
        visitor.waits_s.append(time.perf_counter() - start_s)
        visitor.num_wrong += not np.allclose(found, visitor.expected, atol=SAME_WITHIN_PX)


def _watch(process: int, lasts_s: float) -> list[float]:
    """The memory of a process each second, MB."""
    values = []
    for _ in range(max(1, round(lasts_s))):
        status = Path(f"/proc/{process}/status").read_text()
        kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        values.append(int(kilobytes) / 1000)
        time.sleep(1)
    return values
