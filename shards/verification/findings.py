"""What is wrong with a folder of shards: every kind of finding, and the table of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from rich.console import Console
from rich.markup import escape
from rich.table import Table

EXAMPLES = 3
"""How many findings of a kind the table names."""


class Kind(Enum):
    """A named check, and what its finding means."""

    MISSING_SHARD = "the manifest names a shard that is not there"
    UNLISTED_SHARD = "a tar that the manifest does not name"
    WRONG_SIZE = "a shard has other bytes than the manifest says"
    WRONG_HASH = "a shard has another sha256 than the manifest says"
    WRONG_COUNT = "a shard has another number of samples than the manifest says"
    WRONG_SUBSETS = "the faces of a split lie in other subsets than the manifest says"
    BROKEN_TAR = "a tar that is empty, cut short or damaged"
    UNSAFE_MEMBER = "a member whose path leads outside, or that is a link or no plain file"
    REPEATED_MEMBER = "a member that is in its tar twice"
    INCOMPLETE_SAMPLE = "a sample without its picture or its annotation"
    BAD_SAMPLE = "a sample whose annotation or picture cannot be read, or is absurdly large"
    OTHER_THAN_MANIFEST = "a sample of another scheme or size than the manifest says"
    MISPLACED_FACE = "landmarks that do not fill the crop as the manifest's margin says"
    REPEATED_KEY = "a key that several shards have"
    STRADDLING_PHOTO = "a photo, or a mirror twin, in train and in validation"
    PHOTO_IN_TEST = "a photo, or a mirror twin, in test and in another split, as the source has them"
    NEAR_DUPLICATE = "pictures that look the same, or mirrored, in two splits; convert has --group-copies"
    SAME_ANNOTATION = "samples with the same landmarks to the last digit"

    @property
    def is_error(self) -> bool:
        """Whether the shards are not as they should be; the others are for a person to judge."""
        return self not in (Kind.PHOTO_IN_TEST, Kind.NEAR_DUPLICATE, Kind.SAME_ANNOTATION)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, and where."""

    kind: Kind
    shard: str
    key: str | None
    """The sample; None where it is the shard, or a member that is part of no sample."""
    detail: str

    def __str__(self) -> str:
        """Where and what, in one line."""
        where = self.shard if self.key is None else f"{self.shard}: {self.key}"
        return f"{where}: {self.detail}"


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """A row a kind: how many, and the first of them."""
    table = Table(title="findings", show_lines=True)
    table.add_column("kind")
    table.add_column("count", justify="right")
    table.add_column("first ones", overflow="fold")
    for kind in Kind:
        found = [finding for finding in findings if finding.kind is kind]
        if not found:
            continue
        examples = "\n".join(escape(str(finding)) for finding in found[:EXAMPLES])
        more = f"\n… and {len(found) - EXAMPLES:,} more" if len(found) > EXAMPLES else ""
        level = "[red]error[/]" if kind.is_error else "[yellow]warning[/]"
        name = kind.name.lower().replace("_", " ")
        table.add_row(f"{level} {name}\n{kind.value}", f"{len(found):,}", examples + more)
    console.print(table)
