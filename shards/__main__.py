"""`python -m shards COMMAND`: make tar shards out of data sets. Parsing only.

What is heavy is imported inside the commands, so that the help comes at once.
"""

import signal
import sys
from collections.abc import Sequence

from flm.command_line import run_command
from flm.errors import exits_on_input_error
from shards.check_commands import index, merge, verify
from shards.convert_commands import EMBEDDED, PUBLISHED
from shards.data_commands import ARCHIVES, inspect
from shards.own_data_commands import OWN_DATA

PROGRAM = "python -m shards"

FOUND_WRONG_EXIT_CODE = 1
"""What was asked for was done, and something is wrong with the shards; a command then returns False."""


def convert() -> None:
    """Make shards out of a data set; `python -m shards convert --help` names the sources."""


def download() -> None:
    """Fetch a public data set; `python -m shards download --help` names them."""


COMMANDS = {
    "download": download,
    "convert": convert,
    "verify": verify,
    "inspect": inspect,
    "index": index,
    "merge": merge,
}
SOURCES = {**PUBLISHED, **OWN_DATA, **EMBEDDED}
GROUPS = {"download": ARCHIVES, "convert": SOURCES}
"""What the first word of a command line may be followed by."""


@exits_on_input_error
def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command line; that of this process if None."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in GROUPS:
        run_command(GROUPS[arguments[0]], arguments[1:], program=f"{PROGRAM} {arguments[0]}")
    elif run_command(COMMANDS, arguments, program=PROGRAM) is False:
        sys.exit(FOUND_WRONG_EXIT_CODE)


if __name__ == "__main__":
    # A job that is told to end leaves its folders as tidy as one that fails.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
