"""The measured tables of README.md, made of what was measured, so that they cannot say anything else."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flm.bench.summary.readme_tables import accuracy, boxes, published, speed
from flm.bench.summary.results import RESULTS, Results
from flm.errors import InputError
from flm.files import write_whole

README = Path(__file__).parents[3] / "README.md"

BLOCKS: Mapping[str, Callable[[Results], str]] = {
    "accuracy": accuracy,
    "published": published,
    "boxes": boxes,
    "speed": speed,
}
"""What stands between the marks of each name."""


def bench_readme(
    folder: Path | None,
    evaluations: Sequence[tuple[str, Path]] = (),
    *,
    check: bool,
    readme: Path | None = None,
    results: Path | None = None,
) -> str:
    """Make the tables again.

    Args:
        folder: of `flm bench all`, whose runs go into the results first.
        evaluations: recipes with reports of `flm evaluate`, that do too.
        check: write nothing.
        readme: whose tables they are; this project's if None.
        results: what was measured; this project's if None.

    Returns:
        How the README differs from what it was, as `diff -u` tells it; nothing if it does not.

    Raises:
        InputError: a file is missing or damaged, or a mark is missing.
    """
    readme, results = readme or README, results or RESULTS
    measured = Results.read(results)
    if folder is not None:
        measured = measured.with_runs(folder)
    measured = measured.with_evaluations(evaluations)
    try:
        before = readme.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{readme}: cannot be read; run the command in a checkout") from error
    after = with_tables(before, measured, str(readme))
    if not check:
        if folder is not None or evaluations:
            measured.write(results)
        if after != before:
            write_whole(readme, after.encode())
    return "".join(
        difflib.unified_diff(
            before.splitlines(keepends=True),
            after.splitlines(keepends=True),
            readme.name,
            f"{readme.name} by {results.name}",
        )
    )


def with_tables(text: str, results: Results, where: str = README.name) -> str:
    """A text with its tables made anew.

    Args:
        text: Markdown in which every block of `BLOCKS` has its two marks.
        results: what the tables are made of.
        where: the file, for messages.

    Raises:
        InputError: a mark is missing.
    """
    for name, block in BLOCKS.items():
        first, last = f"<!-- generated: {name} -->", f"<!-- end of {name} -->"
        found = re.compile(f"(?<={re.escape(first)}\n).*?(?={re.escape(last)})", re.DOTALL)
        if len(found.findall(text)) != 1:
            raise InputError(f"{where}: expected one `{first}` with one `{last}` behind it; put them back")
        # By a function, since in a replacement text a backslash means something.
        table = f"\n{block(results)}\n\n"
        text = found.sub(lambda _, table=table: table, text)
    return text
