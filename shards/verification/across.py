"""What can only be seen of all shards together: leaks between splits, and copies."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from flm.data.manifest import SPLITS
from shards.likeness import alike_pairs
from shards.verification.checks import SampleFacts, ShardReport
from shards.verification.findings import Finding, Kind

MOST_DUPLICATES = 10_000
"""Near-duplicates of two splits that are told; who has more has not split yet."""


class _Split:
    """The samples of one split, shard after shard."""

    def __init__(self, name: str, reports: Sequence[ShardReport]) -> None:
        self.name = name
        self.reports = [report for report in reports if report.split == name and len(report.facts.keys)]
        facts = [report.facts for report in self.reports]
        self.facts = SampleFacts(
            keys=tuple(itertools.chain.from_iterable(one.keys for one in facts)),
            numbers=np.concatenate([SampleFacts().numbers, *(one.numbers for one in facts)]),
        )
        self.ends = np.cumsum([len(one.keys) for one in facts])

    def shard_of(self, place: int) -> str:
        entry = self.reports[int(np.searchsorted(self.ends, place, side="right"))].entry
        return entry.name if entry is not None else ""

    def name_of(self, place: int) -> str:
        return f"{self.shard_of(place)}: {self.facts.keys[place]}"

    def finding(self, kind: Kind, place: int, detail: str) -> Finding:
        return Finding(kind, self.shard_of(place), self.facts.keys[place], detail)


def check_across(reports: Sequence[ShardReport], *, keys_are_unique: bool) -> list[Finding]:
    """Compare the good samples of all shards.

    Of two samples that do not go together, the finding names the one that a repair drops: of two splits that
    of train before that of validation, of one split the later.

    Args:
        reports: of every shard.
        keys_are_unique: whether a key may be in one shard only, as in our own.
    """
    reports = _each_tar_once(reports)
    names = {report.split for report in reports}
    ranked = sorted(names, key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name))
    splits = [_Split(name, reports) for name in ranked]
    findings = list(_repeated_keys(splits)) if keys_are_unique else []
    findings += _same_annotations(splits)
    for earlier, later in itertools.combinations(splits, 2):
        findings += _straddling(earlier, later)
        findings += itertools.islice(_near_duplicates(earlier, later), MOST_DUPLICATES)
    return findings


def _each_tar_once(reports: Sequence[ShardReport]) -> list[ShardReport]:
    """Without the second of equal tars of a split: `merge` writes them for faces that come twice an epoch."""
    seen: set[tuple[str, str]] = set()
    once: list[ShardReport] = []
    for report in reports:
        if report.entry is not None:
            tar = report.split, report.entry.sha256
            if tar in seen:
                continue
            seen.add(tar)
        once.append(report)
    return once


def _repeated_keys(splits: Sequence[_Split]) -> Iterator[Finding]:
    first: dict[str, tuple[_Split, int]] = {}
    # From the last split, so that it is train that loses a sample.
    for split in reversed(splits):
        for place, key in enumerate(split.facts.keys):
            if key in first:
                other, where = first[key]
                yield split.finding(Kind.REPEATED_KEY, place, f"is in {other.shard_of(where)} too")
            else:
                first[key] = (split, place)


def _same_annotations(splits: Sequence[_Split]) -> Iterator[Finding]:
    annotations = np.concatenate(
        [np.empty(0, np.uint64), *(split.facts.annotations for split in reversed(splits))]
    )
    places = [(split, place) for split in reversed(splits) for place in range(len(split.facts.keys))]
    order = np.argsort(annotations, kind="stable")
    ordered = annotations[order]
    for copy in np.nonzero(ordered[1:] == ordered[:-1])[0]:
        other, where = places[order[copy]]
        split, place = places[order[copy + 1]]
        yield split.finding(Kind.SAME_ANNOTATION, place, f"has the landmarks of {other.name_of(where)}")


def _straddling(earlier: _Split, later: _Split) -> Iterator[Finding]:
    # Conversion holds out whole photos for validation; what is test is up to the source.
    as_source_has_it = "test" in (earlier.name, later.name)
    kind = Kind.PHOTO_IN_TEST if as_source_has_it else Kind.STRADDLING_PHOTO
    one, other = earlier.facts, later.facts
    told = np.zeros(len(one.keys), np.bool_)
    for what, mine, theirs in (
        ("shows the photo of", one.groups, other.groups),
        ("is a mirror twin of", one.mirrored_files, other.source_files),
        ("has a mirror twin in", one.source_files, other.mirrored_files),
    ):
        shared, where = _shared(mine, theirs)
        for place in np.nonzero(shared & ~told)[0].tolist():
            name = later.name_of(int(where[place]))
            yield earlier.finding(kind, place, f"of {earlier.name} {what} {name}, of {later.name}")
        told |= shared


def _shared(
    mine: UInt64[np.ndarray, " mine"], theirs: UInt64[np.ndarray, " theirs"]
) -> tuple[Bool[np.ndarray, " mine"], Int64[np.ndarray, " mine"]]:
    """Which numbers are among the others, and at which place there; 0 is no number."""
    if not len(theirs):
        return np.zeros(len(mine), np.bool_), np.zeros(len(mine), np.int64)
    order = np.argsort(theirs, kind="stable")
    found = np.minimum(np.searchsorted(theirs[order], mine), len(theirs) - 1)
    places = order[found]
    return (theirs[places] == mine) & (mine != 0), places


def _near_duplicates(earlier: _Split, later: _Split) -> Iterator[Finding]:
    one, other = earlier.facts, later.facts
    for mine, theirs, bits in alike_pairs(one.looks, other.looks):
        # Faces of one photo are told as such.
        if one.groups[mine] != other.groups[theirs]:
            told = (
                f"of {earlier.name} looks like {later.name_of(theirs)}, of {later.name} ({bits} of 64 bits)"
            )
            yield earlier.finding(Kind.NEAR_DUPLICATE, mine, told)
