"""What goes wrong because of what the user gave, told in one line."""

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")

USER_MISTAKE_EXIT_CODE = 2


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: where, what was found, what was expected, what to do.
    """


class OneProcessInputError(InputError):
    """An `InputError` that only the process that met it knows of, such as a bad sample among its own."""


def exits_on_input_error(command: Callable[P, object]) -> Callable[P, None]:
    """Wrap a command so that an `InputError` becomes one line on stderr and exit code 2.

    Of several processes that a launcher started with the same mistake, only the first prints it.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except InputError as error:
            is_first = os.environ.get("RANK", "0") == "0"
            if is_first or isinstance(error, OneProcessInputError):
                print(f"error: {error}", file=sys.stderr, flush=True)
            sys.exit(USER_MISTAKE_EXIT_CODE)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr, flush=True)
            sys.exit(130)

    return wrapped
