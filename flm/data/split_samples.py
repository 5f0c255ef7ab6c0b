"""The samples of a split by their places in it, one at a time, whoever made the shards."""

import contextlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from flm.data.foreign import decoder_of
from flm.data.order import locate_in_split
from flm.data.reader import Sample, ShardReader
from flm.data.store import ShardStore

MAX_OPEN_FILES = 8


def samples_at(store: ShardStore, split: str, positions: Int64[np.ndarray, " samples"]) -> Iterator[Sample]:
    """Read samples, in the order of `positions`.

    Args:
        store: the shards.
        split: which one.
        positions: of the samples in the unshuffled split, from 0.

    Raises:
        InputError: there is no such split, or no face in it; a shard or a sample is not what the manifest
            says.
    """
    manifest = store.manifest
    shards = manifest.shards_of(split)
    sizes = np.array([shard.num_samples for shard in shards], dtype=np.int64)
    reader = ShardReader(store, shards, max_open_files=MAX_OPEN_FILES, decoder=decoder_of(manifest))
    with contextlib.closing(reader):
        for shard, place in locate_in_split(sizes, positions).tolist():
            yield reader.read(shard, place)
