"""A `Batch` out of places in shards, with the network's view of each face."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8

from flm.data.manifest import Manifest
from flm.data.reader import BadSampleError, EncodedSample, Sample, ShardReader
from flm.data.samples import Batch
from flm.errors import InputError, OneProcessInputError
from flm.geometry import boxes_around, square_crops

Boxes = Literal["truth", "annotation"]
"""The landmarks' own box, or the one that came with the annotation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CropShape:
    """The network's view of a face: what `Batch.shard_to_crop` leads to."""

    size_px: int
    margin: float
    """Share of the box's longer side that is added on each side."""


class BatchReader:
    """Makes a `Batch` out of positions of a split.

    Args:
        reader: of the split's shards.
        manifest: what they hold.
        crop: the network's view of a face.
        boxes: which face box the crop is cut around.
        most_bad: how many bad samples may be passed over until a good one is found; 0 stops at the first.
        make_room: gives uninitialised uint8 memory of a shape, for the pictures of a batch.
        decodes: whether the pictures are decoded; else the batch has its `jpegs`.
    """

    def __init__(
        self,
        reader: ShardReader,
        manifest: Manifest,
        crop: CropShape,
        *,
        boxes: Boxes,
        most_bad: int,
        make_room: Callable[[tuple[int, ...]], np.ndarray],
        decodes: bool = True,
    ) -> None:
        self.reader = reader
        self.manifest = manifest
        self.crop = crop
        self.boxes: Boxes = boxes
        self.most_bad = most_bad
        self.make_room = make_room
        self.decodes = decodes

    def read(
        self,
        places: Int64[np.ndarray, "batch 2"],
        *,
        positions: Int64[np.ndarray, " batch"],
        valid: Sequence[bool],
        first_row: int,
        step: int,
    ) -> Batch | InputError:
        """The batch, or why there is none: raised inside a worker, it would come out as a page of traceback.

        Args:
            places: shard and place in it, of each row.
            positions: goes into the batch, as do the others.
            valid: false for rows that only pad.
            first_row: place of the first row in the global batch.
            step: of the global batch.
        """
        try:
            bad: list[str] = []
            size = self.manifest.crop_size_px if self.decodes else 0
            pictures = self.make_room((len(places), size, size, 3))
            samples = [
                self._read_good(shard, place, picture, bad)
                for (shard, place), picture in zip(places.tolist(), pictures, strict=True)
            ]
            batch = self._assemble(pictures, samples, positions, valid, first_row, step)
            return replace(batch, bad_samples=tuple(bad)) if bad else batch
        except OneProcessInputError as error:
            return error

    def _assemble(
        self,
        pictures: UInt8[np.ndarray, "batch size size 3"],
        samples: Sequence[Sample | EncodedSample],
        positions: Int64[np.ndarray, " batch"],
        valid: Sequence[bool],
        first_row: int,
        step: int,
    ) -> Batch:
        landmarks = np.stack([sample.record.landmarks_shard for sample in samples])
        shard_to_crop = self._shard_to_crop(samples, landmarks)
        return Batch(
            crops_shard=torch.from_numpy(pictures).permute(0, 3, 1, 2),
            landmarks_shard=torch.from_numpy(landmarks.astype(np.float32)),
            shard_to_crop=torch.from_numpy(shard_to_crop.astype(np.float32)),
            valid=torch.tensor(valid, dtype=torch.bool),
            positions=torch.from_numpy(positions),
            first_row=first_row,
            step=step,
            keys=tuple(sample.key for sample in samples),
            subsets=tuple(sample.record.subset for sample in samples),
            scheme=self.manifest.landmark_scheme,
            jpegs=tuple(sample.jpeg for sample in samples if isinstance(sample, EncodedSample)),
        )

    def _read_good(
        self, shard: int, place: int, picture: UInt8[np.ndarray, "size size 3"], bad: list[str]
    ) -> Sample | EncodedSample:
        """The sample at a place, or in place of a bad one the next good one of its shard.

        Which one that is depends on the shard alone, so that it is the same for any number of processes.
        """
        num_bad = 0
        while True:
            try:
                return self._read_checked(shard, place, picture)
            except BadSampleError as error:
                num_bad += 1
                if num_bad > self.most_bad or num_bad == self.reader.shards[shard].num_samples:
                    raise
                bad.append(error.sample)
                place = (place + 1) % self.reader.shards[shard].num_samples

    def _read_checked(
        self, shard: int, place: int, picture: UInt8[np.ndarray, "size size 3"]
    ) -> Sample | EncodedSample:
        """The sample, compared with what the manifest says of all of them."""
        reader = self.reader
        sample = reader.read(shard, place, picture) if self.decodes else reader.read_encoded(shard, place)
        size, scheme = self.manifest.crop_size_px, self.manifest.scheme
        height, width = sample.crop_shape
        if sample.record.scheme != scheme or (height, width) != (size, size):
            fault = (
                f"is {sample.record.scheme} at {width}x{height} px, the manifest says {scheme} at "
                f"{size}x{size} px"
            )
            raise reader.bad_sample(shard, sample.key, fault)
        return sample

    def _shard_to_crop(
        self, samples: Sequence[Sample | EncodedSample], landmarks: Float[np.ndarray, "batch points 2"]
    ) -> Float[np.ndarray, "batch 3 3"]:
        if self.boxes == "truth":
            left_top, sides = boxes_around(landmarks)
        else:
            records = [sample.record for sample in samples]
            boxes = [record.face_box_image.mapped(record.image_to_shard) for record in records]
            left_top = np.array([(box.left, box.top) for box in boxes])
            sides = np.array([(box.width, box.height) for box in boxes])
        return square_crops(left_top, sides, self.crop.size_px, self.crop.margin)
