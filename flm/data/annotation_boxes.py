"""Whether faces came with boxes of their own."""

import itertools

import numpy as np

from flm.data.foreign import decoder_of
from flm.data.reader import ShardReader
from flm.data.samples import SampleRecord
from flm.data.store import ShardStore
from flm.errors import InputError
from flm.geometry import FaceBox, transform_points

FACES_ASKED = 16
"""A box that someone marked is not the landmarks' own in that many faces."""

SAME_BOX_PX = 0.01


def has_annotation_boxes(store: ShardStore, split: str) -> bool:
    """Whether the faces of a split have boxes that are not just the ones around their landmarks.

    Conversion puts those in where the annotation has none. The first faces are asked.

    Raises:
        InputError: the split is missing or empty; a shard or sample is bad.
    """
    shards = store.manifest.shards_of(split)
    reader = ShardReader(store, shards, max_open_files=1, decoder=decoder_of(store.manifest))
    places = ((shard, place) for shard, entry in enumerate(shards) for place in range(entry.num_samples))
    records = (reader.read(*place).record for place in itertools.islice(places, FACES_ASKED))
    return not all(map(is_stand_in, records))


def check_annotation_boxes(store: ShardStore, split: str) -> None:
    """Refuse a split whose annotation has no boxes.

    Raises:
        InputError: it has none; or as for `has_annotation_boxes`.
    """
    if not has_annotation_boxes(store, split):
        raise InputError(
            f"{store.place}: --boxes annotation: the faces of split {split!r} came without boxes, only those "
            "around their landmarks are there; take --boxes truth or --boxes detector"
        )


def is_stand_in(record: SampleRecord) -> bool:
    """Whether the box of a face is only the one around its landmarks."""
    landmarks_image = transform_points(record.landmarks_shard, np.linalg.inv(record.image_to_shard))
    own, given = FaceBox.around(landmarks_image), record.face_box_image
    differences = (
        own.left - given.left, own.top - given.top, own.width - given.width, own.height - given.height
    )  # fmt: skip
    return max(map(abs, differences)) < SAME_BOX_PX
