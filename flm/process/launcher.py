"""In the launcher's own process: it ends with the exit code of its processes, and adds no page to their line.

torchrun's agent, which `accelerate launch` uses too for several processes, answers each end of one but 0 with
a page of traceback and exit code 1, and tries a mistake again as often as `--max-restarts` says (torch 2.14,
accelerate 1.15). Before it starts any it loads the entry points of the group `torchrun.handlers`, meant for
ways to meet; by pyproject.toml `register` is one. Launchers of other programs than flm's stay as they are.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from types import TracebackType
from typing import Any, NoReturn

from flm.errors import (
    HANG_EXIT_CODE,
    INTERRUPTED_EXIT_CODE,
    LAUNCHER_VARIABLE,
    MISTAKE_SIGNAL,
    PREEMPTED_EXIT_CODE,
    USER_MISTAKE_EXIT_CODE,
)

MODULES = ("flm.train", "flm", "shards")
TOLD = (USER_MISTAKE_EXIT_CODE, PREEMPTED_EXIT_CODE, HANG_EXIT_CODE, INTERRUPTED_EXIT_CODE)
"""Exit codes of processes that said in one line why they end."""
LOGGERS = ("torch.distributed.elastic.multiprocessing.api", "torch.distributed.elastic.agent.server.api")


def register() -> Callable[..., NoReturn]:
    """Called by torch in every launcher; gives what it takes for a way to meet."""
    if any(option in ("-m", "--module") and word in MODULES for option, word in pairwise(sys.argv)):
        os.environ[LAUNCHER_VARIABLE] = str(os.getpid())
        # Raised where the agent is, it has the agent end the other processes on its way out.
        signal.signal(MISTAKE_SIGNAL, lambda *_: sys.exit(USER_MISTAKE_EXIT_CODE))
        sys.excepthook = _tell
        for name in LOGGERS:
            logging.getLogger(name).addFilter(_is_news)
    return _meet


def _meet(*_: object) -> NoReturn:
    raise ValueError("--rdzv-backend flm: flm has no rendezvous of its own; give c10d or static")


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The hook for what ends the launcher; an exit code out of here is the launcher's."""
    code = exit_code_of(error)
    if code is not None:
        sys.exit(code)
    sys.__excepthook__(kind, error, trace)


def exit_code_of(error: BaseException) -> int | None:
    """The launcher's exit code, where its processes have told all.

    Args:
        error: that ends the launcher.

    Returns:
        The code; None if the error is to be shown.
    """
    # Imported here: torch is in the middle of importing both when it calls `register`.
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if isinstance(error, SignalException):
        is_second = isinstance(error.__context__, SignalException)
        return INTERRUPTED_EXIT_CODE if is_second and error.sigval == signal.SIGINT else PREEMPTED_EXIT_CODE
    return _code_of_failures(error.failures) if isinstance(error, ChildFailedError) else None


def _code_of_failures(failures: Mapping[int, Any]) -> int | None:
    codes = {failure.exitcode for failure in failures.values()}
    if USER_MISTAKE_EXIT_CODE in codes:
        return USER_MISTAKE_EXIT_CODE
    # The agent ends by SIGTERM those that are left.
    codes.discard(-signal.SIGTERM)
    return max(codes) if codes and codes.issubset(TOLD) else None


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of the agent tells more than its processes did."""
    if record.levelno == logging.WARNING:
        return not record.msg.startswith(("Sending process", "Received %s death signal"))
    words = record.args if isinstance(record.args, tuple) else ()
    return not (record.msg.startswith("failed (exitcode: ") and words and words[0] in TOLD)
