"""The measured tables of our pages, made of what was measured, so that they cannot say anything else."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flm.bench.summary.readme_tables import accuracy, boxes, published, speed
from flm.bench.summary.results import RESULTS, Results
from flm.errors import InputError
from flm.files import write_whole

ROOT = Path(__file__).parents[3]

Blocks = Mapping[str, Callable[[Results], str]]
"""What stands between the marks of each name."""

PAGES: Mapping[str, Blocks] = {
    "README.md": {"accuracy": accuracy, "boxes": boxes, "speed": speed},
    "flm/README.md": {"published": published},
}


def bench_readme(
    folder: Path | None,
    evaluations: Sequence[tuple[str, Path]] = (),
    *,
    check: bool,
    root: Path | None = None,
    results: Path | None = None,
) -> str:
    """Make the tables again.

    Args:
        folder: of `flm bench all`, whose runs go into the results first.
        evaluations: recipes with reports of `flm evaluate`, that do too.
        check: write nothing.
        root: folder of the pages; this project's if None.
        results: what was measured; this project's if None.

    Returns:
        How the pages differ from what they were, as `diff -u` tells it; nothing if they do not.

    Raises:
        InputError: a file is missing or damaged, or a mark is missing.
    """
    root, results = root or ROOT, results or RESULTS
    measured = Results.read(results)
    if folder is not None:
        measured = measured.with_runs(folder)
    measured = measured.with_evaluations(evaluations)
    texts = {name: _read(root / name) for name in PAGES}
    made = {name: with_tables(texts[name], blocks, measured, name) for name, blocks in PAGES.items()}
    if not check:
        if folder is not None or evaluations:
            measured.write(results)
        for name, text in made.items():
            if text != texts[name]:
                write_whole(root / name, text.encode())
    differences = (
        difflib.unified_diff(
            texts[name].splitlines(keepends=True),
            text.splitlines(keepends=True),
            name,
            f"{name} by {results.name}",
        )
        for name, text in made.items()
    )
    return "".join(line for difference in differences for line in difference)


def _read(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{page}: cannot be read; run the command in a checkout") from error


def with_tables(text: str, blocks: Blocks, results: Results, where: str) -> str:
    """A text with its tables made anew.

    Args:
        text: Markdown in which every block has its two marks.
        blocks: what is made.
        results: what the tables are made of.
        where: the file, for messages.

    Raises:
        InputError: a mark is missing.
    """
    for name, block in blocks.items():
        first, last = f"<!-- generated: {name} -->", f"<!-- end of {name} -->"
        found = re.compile(f"(?<={re.escape(first)}\n).*?(?={re.escape(last)})", re.DOTALL)
        if len(found.findall(text)) != 1:
            raise InputError(f"{where}: expected one `{first}` with one `{last}` behind it; put them back")
        # By a function, since in a replacement text a backslash means something.
        table = f"\n{block(results)}\n\n"
        text = found.sub(lambda _, table=table: table, text)
    return text
