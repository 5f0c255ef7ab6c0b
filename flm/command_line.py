"""Command lines out of typed functions and dataclasses, with a mistake told in one line."""

import contextlib
import functools
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import tyro

from flm.errors import InputError

T = TypeVar("T")

_FRAME = "╭╮╰╯─│ "


def parse_config(default: T, arguments: Sequence[str], *, program: str, description: str | None = None) -> T:
    """Change the fields of a configuration by flags.

    Args:
        default: a dataclass; its fields become flags, their docstrings the help.
        arguments: the command line without the program's name.
        program: shown in the help.
        description: shown in the help instead of the dataclass's docstring.

    Raises:
        InputError: a flag is unknown or has a bad value.
    """
    with _mistakes_in_one_line(program):
        return tyro.cli(type(default), args=arguments, prog=program, description=description, default=default)


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
    deferred = {name: _deferred(command) for name, command in commands.items()}
    with _mistakes_in_one_line(program):
        call = tyro.extras.subcommand_cli_from_dict(deferred, args=arguments, prog=program)
    return call()


def _deferred(command: Callable[..., T]) -> Callable[..., Callable[[], T]]:
    """The same signature, but the call is handed back, so that parsing ends before the work begins."""

    @functools.wraps(command)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], T]:
        return functools.partial(command, *args, **kwargs)

    return bind


@contextlib.contextmanager
def _mistakes_in_one_line(program: str) -> Any:
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            yield
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise InputError(_one_line(captured.getvalue(), program)) from None
    except ValueError as error:
        # Of a dataclass whose flags have no prefix; tyro frames only those of the others.
        raise InputError(f"{error}; see `{program} --help`") from error
    sys.stderr.write(captured.getvalue())


def _one_line(frame: str, program: str) -> str:
    """The message inside the frame that tyro draws, without its title, the help text and its pointer."""
    message = []
    for line in frame.splitlines()[1:]:
        text = line.strip(_FRAME)
        if not text and message:
            break
        message.append(text)
    return f"{' '.join(message).strip().rstrip('.')}; see `{program} --help`"
