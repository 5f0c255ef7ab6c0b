"""Command lines out of typed functions and dataclasses, with a mistake told in one line."""

import contextlib
import functools
import io
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

import tyro

from flm.errors import InputError

T = TypeVar("T")

_RUNNING = ContextVar("command line", default="")

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_FRAME_TOP = re.compile(r"^╭.*$|^.*\n -+ *$", re.MULTILINE)
_SIDES = "│ "
_RULES = "─-╰╯"
"""Where stdout does not call itself utf-8, tyro draws its rules of hyphens, and no sides."""


def parse_config(default: T, arguments: Sequence[str], *, program: str) -> T:
    """Change the fields of a configuration by flags.

    Args:
        default: a dataclass; its fields become flags, their docstrings the help.
        arguments: the command line without the program's name.
        program: shown in the help.

    Raises:
        InputError: a flag is unknown or has a bad value.
    """
    with _mistakes_in_one_line(program):
        return tyro.cli(type(default), args=arguments, prog=program, default=default)


def run_command(
    commands: Mapping[str, Callable[..., object]], arguments: Sequence[str] | None = None, *, program: str
) -> object:
    """Run the function that a command line names; its parameters become flags, its docstring the help.

    Args:
        commands: by name.
        arguments: the command line without the program's name; that of this process if None.
        program: shown in the help.

    Raises:
        InputError: a command or flag is unknown or missing, or has a bad value.
    """
    words = sys.argv[1:] if arguments is None else arguments
    deferred = {name: _deferred(command) for name, command in commands.items()}
    helpful = f"{program} {words[0]}" if words and words[0] in commands else program
    with _mistakes_in_one_line(helpful):
        call = tyro.extras.subcommand_cli_from_dict(deferred, args=words, prog=program)
    before = _RUNNING.set(shlex.join([*program.split(), *words]))
    try:
        return call()
    finally:
        _RUNNING.reset(before)


def running_command() -> str:
    """The command line that is being run, as a shell takes it; empty where none is."""
    return _RUNNING.get()


def _deferred(command: Callable[..., T]) -> Callable[..., Callable[[], T]]:
    """The same signature, but the call is handed back, so that parsing ends before the work begins."""

    @functools.wraps(command)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], T]:
        return functools.partial(command, *args, **kwargs)

    return bind


@contextlib.contextmanager
def _mistakes_in_one_line(program: str) -> Iterator[None]:
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            yield
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        before, inside = _split_at_frame(captured.getvalue())
        captured = io.StringIO(before)
        raise InputError(f"{_message(inside)}; see `{program} --help`") from None
    except ValueError as error:
        # Of a dataclass whose flags have no prefix; tyro frames only those of the others.
        raise InputError(f"{error}; see `{program} --help`") from error
    finally:
        sys.stderr.write(captured.getvalue())


def _split_at_frame(text: str) -> tuple[str, str]:
    """What was told before the frame that tyro draws, such as a warning, and what is inside."""
    text = _COLOR.sub("", text)
    top = _FRAME_TOP.search(text)
    return (text[: top.start()], text[top.end() :]) if top else ("", text)


def _message(inside: str) -> str:
    """The message inside a frame, without the help text and the pointer to it."""
    message: list[str] = []
    for line in inside.splitlines():
        text = line.strip(_SIDES)
        if text.strip(_RULES):
            message.append(text)
        elif message:
            break
    text = " ".join(message).rstrip(".")
    # Messages of our own begin with their flag.
    return re.sub(r"^Error parsing \S+: (?=--)", "", text)
