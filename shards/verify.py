"""Whether a folder of shards is as its manifest says, and fit to train on."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from flm.data.manifest import Manifest
from flm.data.store import LocalStore, ShardStore
from flm.errors import InputError
from shards.verification.across import check_across
from shards.verification.checks import ShardReport, ShardTask, check_shard
from shards.verification.findings import Finding, Kind, print_findings
from shards.workers import collect, prepare_workers


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """A folder of shards, checked."""

    store: ShardStore
    """Where the shards are."""
    reports: tuple[ShardReport, ...]
    """Of every shard that the manifest names, in its order."""
    findings: tuple[Finding, ...]
    """Of all of them, and of the folder."""

    @property
    def manifest(self) -> Manifest:
        """What the shards should be."""
        return self.store.manifest

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Those that make the shards unfit to train on."""
        return tuple(finding for finding in self.findings if finding.kind.is_error)


def verify(store: ShardStore, *, processes: int) -> Verification:
    """Check every shard of a manifest, and all of them together.

    A worker reads one shard at a time, sample by sample. What is kept of each sample is some 150 bytes, so
    ten million faces fit into memory; from about a million on, comparing all pictures of two splits takes
    longer than reading them.

    Args:
        store: of the shards; from far away each is fetched once, into the cache.
        processes: worker processes.

    Raises:
        InputError: there is no manifest, or it is malformed or of another version.
    """
    manifest = store.manifest
    tasks = _tasks(store)
    if processes > 1:
        prepare_workers("shards.verification.checks")
    reports = collect(
        "verifying", check_shard, tasks, processes=processes, size_of=lambda task: task.entry.num_samples
    )
    findings = [finding for report in reports for finding in report.findings]
    if isinstance(store, LocalStore):
        findings += _unlisted(store.folder, manifest)
    findings += _wrong_subsets(manifest, reports)
    findings += check_across(reports, keys_are_unique=manifest.sample_format is None)
    return Verification(store=store, reports=tuple(reports), findings=tuple(findings))


def _tasks(store: ShardStore) -> list[ShardTask]:
    manifest = store.manifest
    without_splits = dataclasses.replace(manifest, splits={}, subsets={})
    entries: dict[str, str] = {}
    tasks: list[ShardTask] = []
    for split, shards in manifest.splits.items():
        for entry in shards:
            if entries.setdefault(entry.name, split) is not split:
                raise InputError(
                    f"{store.place}: the manifest has {entry.name} in {entries[entry.name]} and in {split}; "
                    "convert or index the data again"
                )
            tasks.append(ShardTask(store=store, manifest=without_splits, split=split, entry=entry))
    return tasks


def _unlisted(folder: Path, manifest: Manifest) -> list[Finding]:
    """Tars beside those of the manifest; a glob would read them, too."""
    listed = {entry.name for shards in manifest.splits.values() for entry in shards}
    places = sorted({"", *(name.rpartition("/")[0] for name in listed)})
    present = sorted(
        path.relative_to(folder).as_posix() for at in places for path in (folder / at).glob("*.tar")
    )
    told = "is not in the manifest"
    return [Finding(Kind.UNLISTED_SHARD, name, None, told) for name in present if name not in listed]


def _wrong_subsets(manifest: Manifest, reports: Sequence[ShardReport]) -> list[Finding]:
    """Only where every sample counts; else the subsets follow from what is bad."""
    findings: list[Finding] = []
    for split, subsets in manifest.subsets.items():
        ours = [report for report in reports if report.split == split]
        counted = sum((report.subsets for report in ours), Counter[str]())
        names = sorted(counted.keys() | subsets.keys())
        wrong = [name for name in names if counted[name] != subsets.get(name, 0)]
        if not wrong or any(report.findings for report in ours):
            continue
        name = wrong[0]
        told = f"{split} has {counted[name]:,} faces of {name}, the manifest says {subsets.get(name, 0):,}"
        findings.append(Finding(Kind.WRONG_SUBSETS, "manifest.json", None, told))
    return findings


def print_verification(found: Verification, *, duration_s: float) -> None:
    """The table of findings, where there are any, and a line that sums up."""
    # Wide where the output is no terminal, so that no line is broken in a log.
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    if found.findings:
        print_findings(found.findings, console)
    num_errors, num_warnings = len(found.errors), len(found.findings) - len(found.errors)
    state = _counted(num_errors, "error") if num_errors else "clean"
    entries = [report.entry for report in found.reports if report.entry is not None]
    num_faces = sum(entry.num_samples for entry in entries)
    console.print(
        f"{found.store.place}: {state}, {_counted(num_warnings, 'warning')}; {num_faces:,} good faces in "
        f"{len(entries):,} shards, {duration_s:.1f} s",
        markup=False,
        soft_wrap=True,
    )


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" + "s" * (number != 1)
