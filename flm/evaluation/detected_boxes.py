"""Faces of shards cut out around the boxes of a face detector, as they are when a network is in use.

The detector looks at the stored crop, which shows one face and what is around it at a size that conversion
chose. So what is measured is how its boxes are placed, and how many faces it misses at that size; it is not
asked to find a small face in a large photo.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8

from flm.data.batches import CropShape
from flm.data.samples import Batch
from flm.evaluation.passes import cut_around
from flm.geometry import FaceBox, boxes_around
from flm.inference.detector import FaceDetector

LEAST_OVERLAP = 0.3
"""A box that shares less of its union with the landmarks' own box shows another face, or none."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DetectedBatch:
    """A batch as a detector sees it."""

    batch: Batch
    """Cut out around the detector's boxes; rows that are missed are not valid."""
    missed: tuple[str, ...]
    """Keys of the valid faces that were not detected."""


def cut_around_detected(batch: Batch, detector: FaceDetector, crop: CropShape) -> DetectedBatch:
    """Cut the faces out around the detector's boxes.

    Of several boxes the one of largest overlap with the landmarks' own box is taken. No other box stands in
    for a face that is missed: it is named and no longer valid. Rows that only pad are not looked at.

    Args:
        batch: with pixels, on the CPU.
        detector: finds faces in the stored crops.
        crop: the network's view of a face.
    """
    left_top, sides = (numbers.astype(np.float64) for numbers in boxes_around(batch.landmarks_shard.numpy()))
    found = np.zeros(len(batch), np.bool_)
    for row in batch.valid.nonzero().flatten().tolist():
        (left, top), (width, height) = left_top[row].tolist(), sides[row].tolist()
        picture = batch.crops_shard[row].permute(1, 2, 0).contiguous().numpy()
        box = box_of(picture, FaceBox(left=left, top=top, width=width, height=height), detector)
        if box is not None:
            found[row] = True
            left_top[row], sides[row] = (box.left, box.top), (box.width, box.height)
    missed = batch.valid.numpy() & ~found
    return DetectedBatch(
        batch=dataclasses.replace(
            cut_around(batch, left_top, sides, found, crop), valid=batch.valid & torch.from_numpy(found)
        ),
        missed=tuple(batch.keys[row] for row in missed.nonzero()[0].tolist()),
    )


def box_of(
    picture: UInt8[np.ndarray, "height width 3"], truth: FaceBox, detector: FaceDetector
) -> FaceBox | None:
    """The detector's box of a face, or None where it is missed.

    Args:
        picture: RGB.
        truth: the landmarks' own box, px of the picture.
        detector: finds faces in the picture.
    """
    boxes = [face.box_image for face in detector.detect(picture)]
    best = max(boxes, key=lambda box: box.overlap(truth), default=None)
    return best if best is not None and best.overlap(truth) >= LEAST_OVERLAP else None
