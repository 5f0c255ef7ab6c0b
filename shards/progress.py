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
)

SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def progress(what: str, total: int, *, in_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, elsewhere a line now and then.

    Args:
        what: such as "converting".
        total: number of things, or of bytes.
        in_bytes: show megabytes.

    Yields:
        To be called with the number of things done since the last call.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console, what, total)
        return
    count = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        count,
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def _lines(console: Console, what: str, total: int) -> Callable[[int], None]:
    done_so_far = 0
    last_line = time.monotonic()

    def advance(done: int) -> None:
        nonlocal done_so_far, last_line
        done_so_far += done
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            console.print(f"{what}: {done_so_far / max(total, 1):.0%}", highlight=False)

    return advance
