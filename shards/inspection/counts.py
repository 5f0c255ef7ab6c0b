"""What the manifest says: where the faces come from and how many there are."""

from html import escape

from flm.data.manifest import SPLITS, Manifest
from flm.page.html import facts, percent

COLORS = ("first", "second", "third")
"""Classes of the style sheet, one for each of `SPLITS` in the order train, test, validation."""

BYTES_PER_MB = 1e6


def split_names(manifest: Manifest) -> list[str]:
    """Those with faces; the usual ones in their usual order, then the others."""
    known = [split for split in SPLITS if split in manifest.splits]
    names = [*known, *(split for split in manifest.splits if split not in SPLITS)]
    return [split for split in names if manifest.num_samples(split)]


def num_faces(manifest: Manifest) -> int:
    """Of all splits."""
    return sum(manifest.num_samples(split) for split in manifest.splits)


def header(manifest: Manifest, place: str) -> str:
    """The top of the page.

    Args:
        manifest: of the shards.
        place: where they lie.
    """
    shards = [shard for entries in manifest.splits.values() for shard in entries]
    num_mb = sum(shard.num_bytes for shard in shards) / BYTES_PER_MB
    values = {
        "Source": manifest.source,
        "Licence": manifest.licence,
        "Splits": manifest.split_rule,
        "Landmarks": f"{manifest.scheme}, {manifest.landmark_scheme.num_points} points"
        + (f"; {manifest.labels}" if manifest.labels else ""),
        "Stored crops": f"{manifest.crop_size_px} by {manifest.crop_size_px} px; "
        f"{percent(manifest.crop_margin)} of the landmarks' box is added on each side",
        "Shards": f"{len(shards):,} in {place}, {num_mb:,.1f} MB",
        "Content": f"sha256 {manifest.content_hash()}",
    }
    splits = " · ".join(f"{manifest.num_samples(split):,} {split}" for split in split_names(manifest))
    heading = f"<h1>{num_faces(manifest):,} faces</h1>\n<p>{escape(splits)}</p>"
    return f"<header>{heading}{facts(values)}</header>"


def counts_table(manifest: Manifest) -> str:
    """Faces of each subset and split."""
    splits = split_names(manifest)
    subsets = sorted({subset for counts in manifest.subsets.values() for subset in counts})
    rows = [
        _row(subset, [manifest.subsets.get(split, {}).get(subset, 0) for split in splits], manifest)
        for subset in subsets
    ]
    rows.append(_row("all", [manifest.num_samples(split) for split in splits], manifest))
    heads = "".join(
        f'<th scope="col"><i class="key {color}"></i>{escape(split)}</th>'
        for split, color in zip(splits, _colors(splits), strict=True)
    )
    return (
        '<div class="scroll"><table><thead><tr><th scope="col">subset</th>'
        f'{heads}<th scope="col">all</th><th class="share"></th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _colors(splits: list[str]) -> list[str]:
    fixed = {"train": COLORS[0], "test": COLORS[1]}
    return [fixed.get(split, COLORS[2]) for split in splits]


def _row(name: str, counts: list[int], manifest: Manifest) -> str:
    splits = split_names(manifest)
    whole = num_faces(manifest)
    cells = "".join(f"<td>{count:,}</td>" if count else "<td></td>" for count in counts)
    bars = "".join(
        f'<i class="{color}" style="width:{100 * count / whole:.2f}%"></i>'
        for count, color in zip(counts, _colors(splits), strict=True)
        if count
    )
    share = f'<td class="share"><div class="stack" aria-hidden="true">{bars}</div></td>'
    return f'<tr><th scope="row">{escape(name)}</th>{cells}<td>{sum(counts):,}</td>{share}</tr>'
