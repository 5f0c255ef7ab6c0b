"""How far a command is, on stderr."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from shards.machines import Crew

SECONDS_BETWEEN_LINES = 10.0
BYTES_PER_MB = 1e6


@contextlib.contextmanager
def progress(
    what: str, total: int | None, *, in_bytes: bool = False, done: int = 0
) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, elsewhere a line now and then; of several processes only the first shows it.

    Args:
        what: such as "converting".
        total: number of things, or of bytes; None if nobody knows.
        in_bytes: show megabytes, and how many a second.
        done: what was done before, and does not count for the speed.

    Yields:
        To be called with the number of things done since the last call.
    """
    if not Crew.of_environment().is_first:
        yield lambda _done: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console, what, total, done, in_bytes=in_bytes)
        return
    counts = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        *counts,
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda just_done: bar.advance(task, just_done)


def _lines(
    console: Console, what: str, total: int | None, done_so_far: int, *, in_bytes: bool
) -> Callable[[int], None]:
    last_line = time.monotonic()

    def advance(done: int) -> None:
        nonlocal done_so_far, last_line
        done_so_far += done
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            known = f"{done_so_far / max(total, 1):.0%}" if total is not None else None
            count = f"{done_so_far / BYTES_PER_MB:,.0f} MB" if in_bytes else f"{done_so_far:,}"
            console.print(f"{what}: {known or count}", highlight=False)

    return advance
