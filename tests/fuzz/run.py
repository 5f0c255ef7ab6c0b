"""Look for contents that a reader fails on: `python tests/fuzz/run.py xml --minutes 30`.

Atheris (`pip install 'flm-landmarks[fuzz]'`) leads libFuzzer to contents that run new lines of the readers.
A find ends the run with an exit code that is not 0: any exception but `InputError`, a warning of numpy, more
than 5 seconds, or 1 GB of memory more than before the first content. Its content is then in OUT/TARGET-*,
and `python tests/fuzz/run.py xml --again FILE` reads it once more. What was learnt stays in OUT/TARGET.
"""

import argparse
import contextlib
import os
import sys
import warnings
from pathlib import Path
from random import Random

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from fuzz.alter import alter  # noqa: E402 - found only now
from fuzz.targets import TARGETS  # noqa: E402
from processes import resident_mib  # noqa: E402

from flm.errors import InputError  # noqa: E402

MOST_SECONDS = 5
MOST_MEMORY_MB = 1024
MOST_CONTENT_BYTES = 2**16

READERS = ["flm", "shards", "PIL", "tarfile"]
"""Whose lines lead the search; those written in C do not take part."""


def search(name: str, minutes: float, out: Path) -> None:
    """Never returns: libFuzzer ends the process, with an exit code that is not 0 after a find."""
    import atheris

    target, corpus = TARGETS[name], out / name
    corpus.mkdir(parents=True, exist_ok=True)
    words = out / f"{name}.dict"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))

    def read(content: bytes) -> None:
        with contextlib.suppress(InputError):
            target.read(content)

    warnings.simplefilter("error", RuntimeWarning)
    with atheris.instrument_imports(include=READERS):
        # What readers import when they are first called is then counted too.
        for number, content in enumerate(target.seeds()):
            read(content)
            (corpus / f"seed-{number}").write_bytes(content)

    def mutate(content: bytes, most_bytes: int, seed: int) -> bytes:
        if seed % 2:
            return atheris.Mutate(content, most_bytes)
        return alter(content, target.words, Random(seed))[:most_bytes]

    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={round(60 * minutes)}",
            f"-timeout={MOST_SECONDS}",
            f"-rss_limit_mb={round(resident_mib(os.getpid())) + MOST_MEMORY_MB}",
            f"-max_len={MOST_CONTENT_BYTES}",
            f"-dict={words}",
            f"-artifact_prefix={out}/{name}-",
            "-print_final_stats=1",
            str(corpus),
        ],
        read,
        custom_mutator=mutate,
    )
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--again", type=Path, metavar="FILE", help="only read this content")
    options = parser.parse_args()
    if options.again is not None:
        TARGETS[options.target].read(options.again.read_bytes())
    else:
        search(options.target, options.minutes, options.out)


if __name__ == "__main__":
    main()
