"""The parts of a data set that a face counts in, all in one string.

`common/helen` lies in `common`; `blur+occlusion` is in both.
"""

from collections import Counter
from collections.abc import Iterable

SEPARATOR = "+"


def join_subsets(names: Iterable[str]) -> str:
    """The string for a face that counts in several subsets, or in none."""
    return SEPARATOR.join(names)


def listed_subsets(subset: str) -> tuple[str, ...]:
    """The subsets that the string lists: `blur+occlusion` are two, `common/helen` is one, nothing is none."""
    return tuple(subset.split(SEPARATOR)) if subset else ()


def subset_names(subset: str) -> tuple[str, ...]:
    """As `listed_subsets`, and those around them, each once: `common/helen` is in `common` too."""
    names: dict[str, None] = {}
    for listed in listed_subsets(subset):
        steps = listed.split("/")
        names |= dict.fromkeys("/".join(steps[: i + 1]) for i in range(len(steps)))
    return tuple(names)


def innermost_subsets(names: Iterable[str]) -> list[str]:
    """Without those that others of them lie in: `common/helen` stands for `common` too."""
    listed = list(names)
    return [name for name in listed if not any(other.startswith(f"{name}/") for other in listed)]


def count_subsets(subsets: Iterable[str]) -> dict[str, int]:
    """How many faces each listed subset has, in the order of the names; a face may count in several."""
    return dict(sorted(Counter(name for subset in subsets for name in listed_subsets(subset)).items()))
