"""Drop bad samples from a folder of shards, and make its manifest say what is left.

Whenever it is stopped, each sample that was good is still there, and to repair again finishes the work: new
shards are written aside and checked, then take the old ones' places one by one, and the manifest comes last.
"""

import contextlib
import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from flm.data.manifest import Manifest, ShardEntry
from flm.data.output import locked
from flm.data.store import LocalStore
from flm.data.tars import TarSample
from flm.data.writer import write_shard
from flm.errors import InputError
from flm.files import sync, write_json
from shards.verification.checks import ShardReport, ShardTask, check_shard
from shards.verification.findings import Finding, Kind
from shards.verification.scan import read_members, scan_shard
from shards.verify import Verification

REPORT_NAME = "repair-report.json"
UNFINISHED_NAME = ".repair"

SET_ASIDE = ".unlisted"
"""What the name of a tar gets that no manifest names; no reader and no glob takes it for a shard then."""

_OF_THE_MANIFEST = (Kind.WRONG_SIZE, Kind.WRONG_HASH, Kind.WRONG_COUNT, Kind.WRONG_SUBSETS)
"""Errors that a new manifest mends."""


def repair_shards(found: Verification) -> str:
    """Drop the bad samples of a folder, which then verifies without errors.

    What was dropped is added to `repair-report.json`: shard, key, reason. Pictures that were changed and
    still decode cannot be told from good ones; where a shard's hash is wrong, the report says so.

    Args:
        found: what is wrong; a folder without errors is left as it is.

    Returns:
        What was done, in one line.

    Raises:
        InputError: nothing good would be left of a split, somebody else writes there, or it cannot be
            written.
    """
    errors = found.errors
    if not errors:
        return f"{found.store.place}: nothing to repair"
    folder = _folder_of(found)
    dropped = _dropped_across(errors, found.reports)
    unfinished = folder / UNFINISHED_NAME
    try:
        with locked(folder):
            shutil.rmtree(unfinished, ignore_errors=True)  # of a repair that was killed
            unfinished.mkdir()
            try:
                repaired = [
                    _repaired(found, report, entry, dropped.get(entry.name, frozenset()), number)
                    for number, (entry, report) in enumerate(_with_entries(found))
                ]
                manifest = _new_manifest(found.manifest, repaired)
                _write_report(folder, errors)
                _publish(found, repaired, manifest)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{folder}: cannot be repaired ({error}); every good sample is still there"
        ) from error
    before, after = (_num_samples(manifest) for manifest in (found.manifest, manifest))
    return (
        f"{folder}: repaired; {before:,} faces before, {after:,} now; {folder / REPORT_NAME} says which went"
    )


def _folder_of(found: Verification) -> Path:
    if not isinstance(found.store, LocalStore):
        raise InputError(f"{found.store.place}: only a folder can be repaired; fetch the shards into one")
    return found.store.folder


def _num_samples(manifest: Manifest) -> int:
    return sum(manifest.num_samples(split) for split in manifest.splits)


def _with_entries(found: Verification) -> Iterator[tuple[ShardEntry, ShardReport]]:
    entries = [entry for shards in found.manifest.splits.values() for entry in shards]
    return zip(entries, found.reports, strict=True)


def _dropped_across(
    errors: Sequence[Finding], reports: Sequence[ShardReport]
) -> Mapping[str, frozenset[str]]:
    """Samples that are good by themselves, by shard; of tars that come twice an epoch, the same of each."""
    good = {report.entry.name: set(report.facts.keys) for report in reports if report.entry is not None}
    dropped: dict[str, set[str]] = {}
    for finding in errors:
        kinds = (Kind.STRADDLING_PHOTO, Kind.REPEATED_KEY)
        if finding.kind in kinds and finding.key is not None and finding.key in good[finding.shard]:
            dropped.setdefault(finding.shard, set()).add(finding.key)
    # The findings name the first of equal tars only, see `check_across`.
    first_of: dict[tuple[str, str], str] = {}
    for report in reports:
        if report.entry is not None:
            first = first_of.setdefault((report.split, report.entry.sha256), report.entry.name)
            if first in dropped:
                dropped[report.entry.name] = dropped[first]
    return {shard: frozenset(keys) for shard, keys in dropped.items()}


def _repaired(
    found: Verification, report: ShardReport, entry: ShardEntry, dropped: frozenset[str], number: int
) -> ShardReport:
    """The report of a shard as it will be; one that has to be rewritten is then in the unfinished folder.

    Args:
        found: all that is wrong.
        report: on this shard.
        entry: of the old manifest.
        dropped: keys of samples that are good by themselves.
        number: names the unfinished file.
    """
    keys = [key for key in report.facts.keys if key not in dropped]
    needs_rewriting = bool(dropped) or any(
        one.kind.is_error and one.kind not in _OF_THE_MANIFEST for one in report.findings
    )
    if report.entry is None or not keys or not needs_rewriting:
        return report if keys else dataclasses.replace(report, entry=None)
    path = _folder_of(found) / UNFINISHED_NAME / f"{number:06d}.tar"
    written = write_shard(path, _samples_of(_folder_of(found) / entry.name, entry.name, keys))
    task = ShardTask(
        store=LocalStore(path.parent),
        manifest=dataclasses.replace(found.manifest, splits={}, subsets={}),
        split=report.split,
        entry=written,
    )
    checked = check_shard(task)
    if checked.findings:
        raise OSError(f"what was written is not what was read: {checked.findings[0]}")
    # Without `made_from`: a conversion that is gone on with makes the shard anew.
    return dataclasses.replace(checked, entry=dataclasses.replace(written, name=entry.name))


def _samples_of(path: Path, name: str, keys: Sequence[str]) -> Iterator[TarSample]:
    with path.open("rb") as file:
        scan = scan_shard(file, name)
        for key in keys:
            yield {"__key__": key, **read_members(file, scan.samples[key])}


def _new_manifest(manifest: Manifest, repaired: Sequence[ShardReport]) -> Manifest:
    splits: dict[str, tuple[ShardEntry, ...]] = {}
    subsets: dict[str, dict[str, int]] = {}
    for split in manifest.splits:
        ours = [report for report in repaired if report.split == split and report.entry is not None]
        splits[split] = tuple(report.entry for report in ours if report.entry is not None)
        counted = sum((report.subsets for report in ours), Counter[str]())
        subsets[split] = dict(sorted(counted.items()))
        if manifest.num_samples(split) and not splits[split]:
            raise InputError(
                f"nothing of the split {split!r} can be read; fetch the shards or convert the data again"
            )
    return dataclasses.replace(manifest, splits=splits, subsets=subsets)


def _publish(found: Verification, repaired: Sequence[ShardReport], manifest: Manifest) -> None:
    """Put everything in its place; each step leaves a folder that can be repaired to the same end."""
    folder = _folder_of(found)
    for number, ((entry, _), report) in enumerate(zip(_with_entries(found), repaired, strict=True)):
        written = folder / UNFINISHED_NAME / f"{number:06d}.tar"
        if written.exists():
            written.replace(folder / entry.name)
        elif report.entry is None:
            # Without a single good sample, or missing.
            with contextlib.suppress(FileNotFoundError):
                (folder / entry.name).rename(folder / (entry.name + SET_ASIDE))
    sync(folder)
    manifest.write(folder)
    for finding in found.errors:
        if finding.kind is Kind.UNLISTED_SHARD:
            (folder / finding.shard).rename(folder / (finding.shard + SET_ASIDE))


def _write_report(folder: Path, errors: Sequence[Finding]) -> None:
    """Add to the report what an earlier repair did not say already."""
    path = folder / REPORT_NAME
    told: list[dict[str, str | None]] = []
    if path.exists():
        try:
            told = json.loads(path.read_text(encoding="utf-8"))["findings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a report of a repair ({error}); move it away") from error
    for finding in errors:
        line = {
            "shard": finding.shard,
            "key": finding.key,
            "reason": f"{finding.kind.name.lower()}: {finding.detail}",
        }
        if line not in told:
            told.append(line)
    write_json(path, {"findings": told})
