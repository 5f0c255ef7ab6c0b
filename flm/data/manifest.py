"""What a folder of shards holds: counts, hashes, splits. `manifest.json` stands beside the tars.

Its size grows with the number of shards, never with the number of samples.
"""

import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from flm.data.sample_format import MOST_CROP_SIDE_PX, SampleFormat
from flm.errors import InputError
from flm.fields import from_fields, parse_json
from flm.files import write_json
from flm.landmarks import LandmarkScheme, scheme_named

MANIFEST_NAME = "manifest.json"
MANIFEST_SCHEMA_VERSION = 1

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
"""Those of conversion, in the order in which they are told."""

_PLAIN_NAME = re.compile(r"[^/\\:\x00-\x1f]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardEntry:
    """One tar."""

    name: str
    num_samples: int
    num_bytes: int
    sha256: str
    made_from: str = ""
    """Hash of the faces and options that it was made from; a conversion that is gone on with compares it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The contents of `manifest.json`.

    Raises:
        InputError: the scheme is unknown.
        ValueError: a field is out of range.
    """

    scheme: str
    crop_size_px: int
    """Side of the stored crops."""
    crop_margin: float
    """Share of the landmarks' box that the stored crop adds on each side."""
    source: str
    """What was converted, with the options that changed the samples."""
    split_rule: str
    """How the splits were made, in words."""
    licence: str
    splits: Mapping[str, tuple[ShardEntry, ...]]
    """Shards of each split, in the order of their names."""
    subsets: Mapping[str, Mapping[str, int]]
    """Number of faces of each subset, by split."""
    sample_format: SampleFormat | None = None
    """How the samples of shards are read that someone else made; None for our own."""
    labels: str = ""
    """What made the landmarks, where it was a network and not the annotators; the stored crops then were cut
    out around other landmarks."""

    def __post_init__(self) -> None:
        scheme_named(self.scheme)
        if not 0 < self.crop_size_px <= MOST_CROP_SIDE_PX:
            raise ValueError(f"crop_size_px is {self.crop_size_px}, expected 1 to {MOST_CROP_SIDE_PX}")
        if not 0 <= self.crop_margin < math.inf:
            raise ValueError(f"crop_margin is {self.crop_margin}, expected a number from 0")

    @property
    def landmark_scheme(self) -> LandmarkScheme:
        """The scheme of every sample."""
        return scheme_named(self.scheme)

    def shards_of(self, split: str) -> tuple[ShardEntry, ...]:
        """The shards of a split.

        Raises:
            InputError: the split does not exist or has no face.
        """
        if split not in self.splits:
            raise InputError(f"the shards have no split {split!r}; they have {', '.join(self.splits)}")
        if self.num_samples(split) == 0:
            raise InputError(f"the split {split!r} of the shards is empty; convert a source that fills it")
        return self.splits[split]

    def num_samples(self, split: str) -> int:
        """Number of faces of a split; 0 where there is none of that name."""
        return sum(shard.num_samples for shard in self.splits.get(split, ()))

    def content_hash(self) -> str:
        """Sha256 over the shards of all splits, the same wherever the folder lies."""
        lines = [
            f"{split} {shard.name} {shard.sha256}"
            for split, shards in sorted(self.splits.items())
            for shard in shards
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Put `manifest.json` into the folder, whole or not at all.

        Raises:
            InputError: it cannot be written.
        """
        fields = {"schema_version": MANIFEST_SCHEMA_VERSION, **dataclasses.asdict(self)}
        if self.sample_format is None:
            del fields["sample_format"]
        if not self.labels:
            del fields["labels"]
        write_json(folder / MANIFEST_NAME, fields)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the manifest of a folder of shards.

        Raises:
            InputError: there is none, it is malformed, or it was written by a newer version.
        """
        path = folder / MANIFEST_NAME
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(
                f"{path}: there are no shards here; make them with `python -m shards convert`"
            ) from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        return cls.from_json(text, str(path))

    @classmethod
    def of_training(cls, config: Mapping[str, Any], content_hash: str | None) -> "Manifest | None":
        """That of the shards that a checkpoint was trained on, if they still lie where they lay.

        Args:
            config: the fields of the training's configuration.
            content_hash: as the checkpoint's state has it.

        Raises:
            InputError: what lies there cannot be read.
        """
        folder = Path(str(config.get("data", "")))
        if not (folder / MANIFEST_NAME).is_file():
            return None
        manifest = cls.read(folder)
        return manifest if manifest.content_hash() == content_hash else None

    @classmethod
    def from_json(cls, text: bytes, where: str) -> "Manifest":
        """Read the bytes of a `manifest.json`.

        Args:
            text: the bytes.
            where: the file, for messages.

        Raises:
            InputError: it is malformed, was written by a newer version, or names a shard outside its folder.
        """
        try:
            fields = parse_json(text)
            version = fields.pop("schema_version")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{where}: not a manifest ({error!r}); convert the data again") from error
        if version != MANIFEST_SCHEMA_VERSION:
            raise InputError(
                f"{where}: schema version {version}, this flm reads {MANIFEST_SCHEMA_VERSION}; "
                "update flm or convert the data again"
            )
        manifest = from_fields(cls, fields, where)
        for shards in manifest.splits.values():
            for shard in shards:
                _check_entry(shard, where)
        return manifest


def _check_entry(shard: ShardEntry, where: str) -> None:
    """Refuse an entry that is not safe to make a path or an address of."""
    parts = shard.name.split("/")
    if not all(_PLAIN_NAME.fullmatch(part) and part not in (".", "..") for part in parts):
        raise InputError(
            f"{where}: the shard name {shard.name!r} leads out of the folder; convert the data again"
        )
    if not _SHA256.fullmatch(shard.sha256):
        raise InputError(
            f"{where}: {shard.name}: the sha256 is {shard.sha256!r}, expected 64 hexadecimal digits"
        )
    for name, value in (("num_samples", shard.num_samples), ("num_bytes", shard.num_bytes)):
        if value < 0:
            raise InputError(f"{where}: {shard.name}: {name} is {value!r}, expected a count")
