"""What the page is about: an evaluation, what was measured and how, and the samples behind it."""

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from flm.checkpoint import STATE_NAME, find_checkpoint, read_config, read_json
from flm.data.reader import Sample
from flm.data.split_samples import samples_at
from flm.data.store import ShardStore
from flm.evaluation.report import EvalReport
from flm.geometry import FaceBox, transform_points
from flm.landmarks import LandmarkScheme, scheme_named
from flm.metrics.face_points import FacePoints
from flm.page.plot import evenly_chosen

MOST_LOOKED_AT = 5000
"""Faces whose pose and size are measured, spread evenly over the split; more say no more on a chart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """An evaluation and its circumstances."""

    report: EvalReport
    checkpoint: Path
    store: ShardStore
    split: str
    date: datetime.date

    @property
    def points(self) -> FacePoints:
        """Of all faces."""
        assert self.report.errors.points is not None
        return self.report.errors.points

    @property
    def scheme(self) -> LandmarkScheme:
        """Of the landmarks."""
        return scheme_named(self.store.manifest.scheme)

    @property
    def config(self) -> dict[str, Any]:
        """Of the run that the checkpoint is of."""
        return read_config(find_checkpoint(self.checkpoint))

    @property
    def training(self) -> dict[str, Any]:
        """Where the training stood; nothing where only the weights were passed on."""
        path = find_checkpoint(self.checkpoint) / STATE_NAME
        return read_json(path) if path.is_file() else {}

    @property
    def num_training_faces(self) -> int | None:
        """None where it was trained on other shards than these."""
        manifest = self.store.manifest
        same = self.training.get("manifest_hash") == manifest.content_hash()
        return manifest.num_samples("train") if same else None

    def evenly_chosen(self) -> list[int]:
        """Rows of the errors, as many as are looked at one by one."""
        return evenly_chosen(len(self.report.errors), MOST_LOOKED_AT).tolist()

    def samples(self, rows: Sequence[int]) -> Iterator[Sample]:
        """The samples of some faces, by their rows in the errors.

        Raises:
            InputError: a shard or a sample is not what the manifest says.
        """
        chosen = np.array(rows, dtype=np.int64)
        return samples_at(self.store, self.split, self.report.errors.positions[chosen])

    def face_sizes_px(self, rows: Sequence[int]) -> Float64[np.ndarray, " rows"]:
        """Longer side of the box around each face's landmarks, px of its source picture."""
        sizes: list[float] = []
        for sample in self.samples(rows):
            shard_to_image = np.linalg.inv(sample.record.image_to_shard)
            landmarks_image = transform_points(sample.record.landmarks_shard, shard_to_image)
            sizes.append(FaceBox.around(landmarks_image).long_side)
        return np.array(sizes, dtype=np.float64)

    def fitted_here(self) -> bool:
        """Whether the calibration was fitted to the very faces that it is measured on."""
        calibration = self.report.calibration
        return (
            calibration is not None
            and calibration.split == self.split
            and calibration.data_hash == self.store.manifest.content_hash()
        )
