"""What a conversion tells at its end."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flm.data.manifest import SPLITS, Manifest
from shards.machines import Crew

BYTES_PER_MB = 1e6


def print_summary(manifest: Manifest, out: Path, *, left_out: Mapping[str, int], duration_s: float) -> None:
    """Counts of each split and subset, what was left out, and the command that comes next.

    Of several processes only the first tells it.

    Args:
        manifest: what was written.
        out: where.
        left_out: numbers of faces by reason.
        duration_s: of the whole command.
    """
    if not Crew.of_environment().is_first:
        return
    # Wide where the output is no terminal, so that no line is broken in a log.
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    console.print(_table(manifest))
    for reason, count in left_out.items():
        if count:
            console.print(f"left out: {count:,} {reason}")
    empty = [split for split in SPLITS if manifest.num_samples(split) == 0]
    if empty:
        console.print(f"[yellow]empty: {', '.join(empty)}[/]; what needs these splits will say so")
    shards = [shard for entries in manifest.splits.values() for shard in entries]
    num_faces = sum(shard.num_samples for shard in shards)
    num_mb = sum(shard.num_bytes for shard in shards) / BYTES_PER_MB
    console.print(
        f"{num_faces:,} faces in {len(shards)} shards, {num_mb:,.1f} MB, "
        f"{duration_s:.1f} s, {num_faces / duration_s:,.0f} faces/s",
        markup=False,
    )
    console.print(f"licence: {manifest.licence}", markup=False)
    console.print(
        f"next: accelerate launch --config_file launch/cpu.yaml -m flm.train RECIPE --data {out} "
        "(`flm recipes` lists the recipes)",
        markup=False,
        soft_wrap=True,
    )


def _table(manifest: Manifest) -> Table:
    table = Table(title=escape(manifest.source))
    table.add_column("subset")
    for split in SPLITS:
        table.add_column(split, justify="right")
    subsets = sorted({subset for counts in manifest.subsets.values() for subset in counts})
    for subset in subsets:
        counts = [manifest.subsets.get(split, {}).get(subset, 0) for split in SPLITS]
        table.add_row(escape(subset), *(f"{count:,}" if count else "" for count in counts))
    table.add_section()
    table.add_row("all", *(f"{manifest.num_samples(split):,}" for split in SPLITS))
    return table
