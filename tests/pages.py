"""The pages that people read, and the blocks in them that tests run."""

import re

from conftest import REPOSITORY

PAGES = {
    name: (REPOSITORY / name).read_text(encoding="utf-8")
    for name in (
        "README.md",
        "shards/README.md",
        "flm/README.md",
        "launch/README.md",
        "demo/README.md",
        "CONTRIBUTING.md",
    )
}

BLOCK = re.compile(r"<!-- tested: ([\w-]+) -->\n```\w*\n(.*?)```", re.DOTALL)


def block(name: str) -> str:
    """The fenced block after the mark of that name, in whichever page has it."""
    (found,) = (text for page in PAGES.values() for mark, text in BLOCK.findall(page) if mark == name)
    return found
