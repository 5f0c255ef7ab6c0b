"""The web page under many visitors at once: whether each gets the own answer, and whether memory stays.

Each visitor has a picture of its own, the same face at another place, so that an answer that went to the
wrong one is seen. What is right is asked for once, before the others come.
"""

import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float64

from flm.bench.demo.page_server import FACE, ServedPage, ask, client_of
from flm.bench.figures import OURS, Bar, Figure
from flm.errors import InputError

TOGETHER = "visitors at once"

SIDE_PX = 480
SETTLED_AFTER_S = 10.0
OWN_ANSWERS_BAR = Bar("at least", 100.0)
TOGETHER_BAR = Bar("at least", 0.9, is_of_ratio=True)
GROWTH_BAR = Bar("at most", 50.0)
AGAIN_AFTER_S = 0.1
"""Who got no answer."""
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


def visitor_figures(page: ServedPage, num_visitors: int, lasts_s: float) -> list[Figure]:
    """Let visitors ask for landmarks all at once.

    Raises:
        InputError: no one was answered, or the page ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        visitors = [_visitor(page.url, Path(folder), number) for number in range(num_visitors)]
        alone_per_s = _alone(page.url, visitors[0])
        threads = [threading.Thread(target=_visit, args=(page.url, one, lasts_s)) for one in visitors]
        for thread in threads:
            thread.start()
        try:
            memory_mb = _watch(page.process.pid, lasts_s)
        finally:
            for thread in threads:
                thread.join()
    return figures_of(visitors, alone_per_s, memory_mb, lasts_s)


def figures_of(
    visitors: list[Visitor], alone_per_s: float, memory_mb: list[float], lasts_s: float
) -> list[Figure]:
    """What came of it.

    Raises:
        InputError: no one was answered.
    """
    waits_s = [wait_s for one in visitors for wait_s in one.waits_s]
    mistakes = [mistake for one in visitors for mistake in one.mistakes]
    if not waits_s:
        raise InputError(f"no visitor was answered: {mistakes[0] if mistakes else 'no reason was given'}")
    num_right = len(waits_s) - sum(one.num_wrong for one in visitors)
    num_asked = len(waits_s) + len(mistakes)
    settled = memory_mb[round(SETTLED_AFTER_S) :] or memory_mb[-1:]
    growth_mb = max(abs(value - settled[0]) for value in settled)
    together_per_s = len(waits_s) / lasts_s
    shared = f"{len(visitors)} visitors at once for {lasts_s:.0f} s"
    return [
        Figure(
            subject="answers that are the visitor's own", side=OURS, unit="%",
            value=100 * num_right / num_asked, bar=OWN_ANSWERS_BAR,
            how=f"{num_right} of {num_asked}; median wait {statistics.median(waits_s):.2f} s, longest "
            f"{max(waits_s):.2f} s; {len(mistakes)} errors"
            f"{f', the first: {mistakes[0]}' if mistakes else ''}; {shared}",
        ),
        Figure(subject=TOGETHER, side=OURS, unit="answers/s", value=together_per_s, how=shared),
        Figure(
            subject=TOGETHER, side="one alone", unit="answers/s", value=alone_per_s,
            beside=together_per_s / alone_per_s, bar=TOGETHER_BAR, how="before the others came",
        ),
        Figure(
            subject="growth of memory", side=OURS, unit="MB", value=growth_mb, bar=GROWTH_BAR,
            how=f"{settled[0]:.0f} MB after {SETTLED_AFTER_S:.0f} s, {memory_mb[-1]:.0f} MB at the end; "
            f"{shared}",
        ),
    ]  # fmt: skip


def _visitor(url: str, folder: Path, number: int) -> Visitor:
    """A visitor with a face at a place of its own, and what the page answers to it while nobody else asks."""
    face = cv2.imread(str(FACE))
    assert face is not None
    face = cv2.resize(face, (320, 320), interpolation=cv2.INTER_AREA)
    left, top = 3 * number % (SIDE_PX - 320), 20 * number % (SIDE_PX - 320)
    picture = np.full((SIDE_PX, SIDE_PX, 3), 110, np.uint8)
    picture[top : top + 320, left : left + 320] = face
    path = folder / f"{number}.jpg"
    cv2.imwrite(str(path), picture)
    return Visitor(picture=path, expected=ask(client_of(url), path))


def _alone(url: str, visitor: Visitor, count: int = 10) -> float:
    client = client_of(url)
    start_s = time.perf_counter()
    for _ in range(count):
        ask(client, visitor.picture)
    return count / (time.perf_counter() - start_s)


def _visit(url: str, visitor: Visitor, lasts_s: float) -> None:
    client: Any = None
    end_s = time.monotonic() + lasts_s
    while time.monotonic() < end_s:
        start_s = time.perf_counter()
        try:
            client = client or client_of(url)
            found = ask(client, visitor.picture)
        except Exception as error:  # whatever it is, it is counted
            visitor.mistakes.append(str(error))
            time.sleep(AGAIN_AFTER_S)
            continue
        visitor.waits_s.append(time.perf_counter() - start_s)
        visitor.num_wrong += not np.allclose(found, visitor.expected, atol=SAME_WITHIN_PX)


def _watch(process: int, lasts_s: float) -> list[float]:
    """The memory of a process each second, MB.

    Raises:
        InputError: it ended.
    """
    values = []
    for _ in range(max(1, round(lasts_s))):
        status = Path(f"/proc/{process}/status").read_text()
        kilobytes = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
        if not kilobytes:
            # Dead, and not yet taken notice of.
            raise InputError("the page ended while visitors asked; see what it said before this line")
        values.append(int(kilobytes[0]) / 1000)
        time.sleep(1)
    return values
