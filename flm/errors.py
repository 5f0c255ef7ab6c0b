"""What goes wrong because of what the user gave, told in one line."""

import errno
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import ParamSpec

P = ParamSpec("P")

USER_MISTAKE_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130
"""As shells have it: 128 and the number of SIGINT."""
PREEMPTED_EXIT_CODE = 75
"""The run stopped on purpose and is to be started again: EX_TEMPFAIL of sysexits.h, "try again later"."""
HANG_EXIT_CODE = 76
"""A process is missing, and the run goes on once it is started again: EX_PROTOCOL of sysexits.h."""

FIRST_SPEAKS_WITHIN_S = 30.0
LAUNCHER_SEES_WITHIN_S = 0.5
"""Of the end of one of its processes."""

LAUNCHER_VARIABLE = "FLM_LAUNCHER"
"""In the environment: the process id of a launcher that ends at `MISTAKE_SIGNAL`; `flm.process.launcher` sets
it."""
MISTAKE_SIGNAL = signal.SIGUSR2
"""Tells a launcher that another start would make the same mistake again."""

EXTRAS = {
    "av": "video",
    "dlib": "dlib",
    "gradio": "demo",
    "onnx": "export",
    "onnxscript": "export",
    "pyarrow": "tables",
}
"""Of flm-landmarks, by package; all other packages that prediction does without are in `train`."""

NEEDED = frozenset({"numpy", "cv2", "PIL", "jaxtyping", "onnxruntime", "rich", "tyro", "huggingface_hub"})
"""What flm-landmarks needs without extras."""


PATH_MISTAKES = {
    errno.ENAMETOOLONG: "give a shorter one",
    errno.EACCES: "give one that you may use",
    errno.ELOOP: "mend the links",
}
"""What the system refuses of a path itself, wherever it is met, and what to do."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: where, what was found, what was expected, what to do.
    """


class OneProcessInputError(InputError):
    """An `InputError` that only the process that met it knows of, such as a bad sample among its own."""


class PreemptedError(Exception):
    """A signal asked for the end of a run; what it reached is in a checkpoint."""


class ProcessLostError(Exception):
    """Another process of the run ended or cannot be reached; without a message where the launcher knows."""


def warn(line: str) -> None:
    """Tell on stderr what the user should know of, but what stops nothing."""
    print(f"warning: {line}", file=sys.stderr, flush=True)


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


def some_of(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def missing_package(error: ModuleNotFoundError) -> str | None:
    """Which package is not installed and how it is; None where it is a module of our own."""
    package = (error.name or "flm").partition(".")[0]
    if package in ("flm", "shards", "demo"):
        return None
    if package in NEEDED:
        return f"{package} is not installed; pip install flm-landmarks"
    return f"{package} is not installed; pip install 'flm-landmarks[{EXTRAS.get(package, 'train')}]'"


def _told(error: InputError | OSError) -> str | None:
    """The line for the user; None where it is not the user's mistake."""
    if isinstance(error, InputError):
        return str(error)
    if error.filename is None or error.errno not in PATH_MISTAKES:
        return None
    return f"{error.filename}: {error.strerror}; {PATH_MISTAKES[error.errno]}"


def exits_on_input_error(command: Callable[P, object]) -> Callable[P, None]:
    """Wrap a command: an `InputError`, or a path that the system refuses, is one line and exit code 2.

    A run that stopped on purpose, or that lost a process, has an exit code of its own.

    Of several processes that a launcher started with the same mistake, only the first prints it.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        is_first = os.environ.get("RANK", "0") == "0"
        try:
            command(*args, **kwargs)
        except (InputError, OSError) as error:
            if (told := _told(error)) is None:
                raise
            if is_first or isinstance(error, (OneProcessInputError, OSError)):
                print(f"error: {told}", file=sys.stderr, flush=True)
            else:
                # The launcher ends all when one has ended: not before the first one has spoken.
                time.sleep(FIRST_SPEAKS_WITHIN_S)
            if os.environ.get(LAUNCHER_VARIABLE) == str(os.getppid()):
                os.kill(os.getppid(), MISTAKE_SIGNAL)
            sys.exit(USER_MISTAKE_EXIT_CODE)
        except PreemptedError as stop:
            if is_first:
                print(f"stopped by {stop}", file=sys.stderr, flush=True)
            sys.exit(PREEMPTED_EXIT_CODE)
        except ProcessLostError as error:
            if str(error) and os.environ.get("LOCAL_RANK", "0") == "0":
                # A launcher that saw the other one end ends this one too, and what that one told is enough.
                time.sleep(LAUNCHER_SEES_WITHIN_S)
                print(f"error: {error}", file=sys.stderr, flush=True)
            sys.exit(HANG_EXIT_CODE)
        except ModuleNotFoundError as error:
            missing = missing_package(error)
            if missing is None:
                raise
            print(f"error: {missing}", file=sys.stderr, flush=True)
            sys.exit(USER_MISTAKE_EXIT_CODE)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr, flush=True)
            sys.exit(INTERRUPTED_EXIT_CODE)

    return wrapped
