"""The landmarks of shards replaced by those that a network finds in the same pictures.

A small network learns from a large one this way, and faces that were labelled loosely get labels of one kind.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float64
from rich.progress import Progress
from torch import Tensor

from flm.checkpoint import MODEL_NAME, find_checkpoint, load_network, read_config
from flm.data.annotation_boxes import is_stand_in
from flm.data.batches import BatchReader, CropShape
from flm.data.manifest import Manifest, ShardEntry
from flm.data.output import add_shard, entry_of, is_done, replaced_when_done
from flm.data.reader import EncodedSample, ShardReader
from flm.data.samples import Batch, SampleRecord
from flm.data.store import LocalStore, ShardStore, open_store
from flm.errors import InputError
from flm.evaluation.passes import find_landmarks
from flm.faces.subsets import count_subsets
from flm.fields import to_fields
from flm.files import sha256_of
from flm.geometry import MIN_FACE_PX, FaceBox, boxes_around, transform_points
from flm.inference.pass_config import PassConfig
from flm.landmarks import LandmarkScheme, scheme_named
from flm.metrics.nme import measurable, nme
from flm.model.network import LandmarkNetwork
from flm.process.memory import keep_freed_memory

PASSES = PassConfig(second_pass=True, mirror_average=True)
"""Labels are worth four looks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RelabelOptions:
    """Which faces get new landmarks, and which do not stay."""

    splits: tuple[str, ...] = ()
    """Splits that get new landmarks, all by default; the others go along as they are, such as a validation
    split that people annotated. Where the network has another landmark scheme they are left out."""
    max_distance: float = 0.15
    """Faces are dropped whose new landmarks lie further from the old ones, on average, than this share of the
    inter-ocular distance; between two landmark schemes none is."""
    batch_size: int = 64
    """Faces at a time."""

    def __post_init__(self) -> None:
        if not 0 < self.max_distance < math.inf:
            raise InputError(f"--max-distance is {self.max_distance}, must be a number above 0")
        if self.batch_size < 1:
            raise InputError(f"--batch-size is {self.batch_size}, must be at least 1")


DEFAULT_OPTIONS = RelabelOptions()


def relabel(
    data: str,
    checkpoint: Path,
    out: Path,
    options: RelabelOptions = DEFAULT_OPTIONS,
    *,
    cache_dir: Path | None = None,
    cache_gib: float = 50.0,
) -> Manifest:
    """Write the shards of a data set anew, with the landmarks that a network finds.

    Each face is looked for around its old landmarks, then around those found there, both times in the picture
    and in its mirror image. Pictures stay the same, byte for byte. A face box that was only put around the
    landmarks follows them.

    When it was stopped, the same call goes on: shards that are done are not made again.

    Args:
        data: folder of shards, or its URL.
        checkpoint: a checkpoint's or a run's folder.
        out: folder; shards that are there already are replaced at the end.
        options: which faces.
        cache_dir: where remote shards are kept; `default_cache_dir()` if None.
        cache_gib: how much of them at most.

    Returns:
        What was written; its `labels` tell what made them, and how many faces were dropped.

    Raises:
        InputError: checkpoint or shards are missing, damaged or somebody else's, nothing is left of a split,
            or `out` cannot be written.
    """
    folder = find_checkpoint(checkpoint)
    teacher = _Teacher.load(folder, options)
    store = open_store(data, cache_dir=cache_dir, cache_gib=cache_gib)
    _check(store, out)
    splits = _splits_written(store.manifest, teacher)
    with replaced_when_done(out, keep_unfinished=True) as unfinished:
        with Progress(transient=True) as bar:
            task = bar.add_task("relabelling", total=sum(map(store.manifest.num_samples, splits)))
            for split, relabels in splits.items():
                made_by = teacher if relabels else None
                for num_samples in _write_shards(store, split, made_by, unfinished, out):
                    bar.advance(task, num_samples)
        manifest = _manifest(store.manifest, splits, teacher, unfinished)
        manifest.write(unfinished)
    return manifest


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Teacher:
    """What finds the new landmarks, and which of them stay."""

    network: LandmarkNetwork
    device: torch.device
    name: str
    """For people."""
    identity: str
    """All that decides what it finds and what stays."""
    options: RelabelOptions

    @classmethod
    def load(cls, checkpoint: Path, options: RelabelOptions) -> "_Teacher":
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        if device is None:
            keep_freed_memory()
        network = load_network(checkpoint)
        weights = sha256_of(checkpoint / MODEL_NAME)
        recipe = read_config(checkpoint).get("recipe", "a network")
        return cls(
            network=network.to(device or "cpu"),
            device=device or torch.device("cpu"),
            name=f"{recipe} ({network.config.backbone}, weights {weights[:12]})",
            identity=f"{weights} {to_fields(network.config)} {PASSES} {options.max_distance}",
            options=options,
        )

    @property
    def scheme(self) -> LandmarkScheme:
        return scheme_named(self.network.config.scheme)

    @property
    def crop(self) -> CropShape:
        config = self.network.config
        return CropShape(size_px=config.input_size_px, margin=config.crop_margin)

    @torch.inference_mode()
    def find(self, batch: Batch) -> Float64[Tensor, "batch points 2"]:
        """Px of the stored crops."""
        # The old landmarks, maybe of another scheme, are nothing to it.
        none = torch.zeros(len(batch), self.scheme.num_points, 2)
        shown = dataclasses.replace(batch, landmarks_shard=none, scheme=self.scheme).to(self.device)
        found = find_landmarks(self.network, shown, crop=self.crop, passes=PASSES).landmarks_shard
        if not found.isfinite().all():
            key = batch.keys[int((~found.isfinite()).flatten(1).any(1).nonzero()[0])]
            raise InputError(f"{key}: the network finds no finite landmarks in it; take another --checkpoint")
        return found

    def believed(self, found: Float64[Tensor, "batch points 2"], batch: Batch) -> Bool[np.ndarray, " batch"]:
        """Which of the landmarks that it found are a face, and the one of the old landmarks."""
        _, sides = boxes_around(found.numpy())
        stay = sides.max(1) > MIN_FACE_PX
        if batch.scheme == self.scheme:
            before = batch.landmarks_shard.double()
            comparable = measurable(before, batch.scheme).numpy()
            stay &= comparable
            distance = nme(found[comparable], before[comparable], batch.scheme).numpy()
            stay[comparable] &= distance <= self.options.max_distance
        return stay


def _check(store: ShardStore, out: Path) -> None:
    if store.manifest.sample_format is not None:
        raise InputError(
            f"{store.place}: these shards are somebody else's; relabel those that `python -m shards convert` "
            "made"
        )
    if isinstance(store, LocalStore) and store.folder.resolve() == out.resolve():
        raise InputError(f"--out {out}: is the folder that is read; choose another")


def _splits_written(manifest: Manifest, teacher: _Teacher) -> Mapping[str, bool]:
    """The splits of the new shards, and whether each gets new landmarks."""
    chosen = teacher.options.splits or tuple(name for name in manifest.splits if manifest.num_samples(name))
    for name in chosen:
        manifest.shards_of(name)
    fits = manifest.scheme == teacher.scheme.name
    return {
        name: name in chosen
        for name in manifest.splits
        if name in chosen or (fits and manifest.num_samples(name))
    }


def _write_shards(
    store: ShardStore, split: str, teacher: _Teacher | None, unfinished: Path, out: Path
) -> Iterator[int]:
    """Write the shards of a split that are not there yet; yields the faces of each that is done."""
    shards = store.manifest.shards_of(split)
    reader = ShardReader(store, shards, max_open_files=1)
    for shard, entry in enumerate(shards):
        made_from = hashlib.sha256(f"{entry.sha256} {teacher and teacher.identity}".encode()).hexdigest()
        if not is_done(entry.name, made_from, unfinished, out):
            samples = _unchanged(reader, shard)
            if teacher is not None:
                samples = _relabelled(reader, shard, teacher, store.manifest)
            add_shard(unfinished, entry.name, map(_encoded, samples), made_from=made_from)
        yield entry.num_samples


def _encoded(sample: EncodedSample) -> dict[str, str | bytes]:
    return {"__key__": sample.key, "jpg": sample.jpeg, "json": sample.record.to_json()}


def _unchanged(reader: ShardReader, shard: int) -> Iterator[EncodedSample]:
    return (reader.read_encoded(shard, place) for place in range(reader.shards[shard].num_samples))


def _relabelled(
    reader: ShardReader, shard: int, teacher: _Teacher, manifest: Manifest
) -> Iterator[EncodedSample]:
    """The samples of a shard that stay, with new landmarks."""
    room = functools.partial(np.empty, dtype=np.uint8)
    batches = BatchReader(reader, manifest, teacher.crop, boxes="truth", most_bad=0, make_room=room)
    size, batch_size = reader.shards[shard].num_samples, teacher.options.batch_size
    for start in range(0, size, batch_size):
        positions = np.arange(start, min(size, start + batch_size))
        places = np.stack([np.full_like(positions, shard), positions], 1)
        valid = [True] * len(positions)
        batch = batches.read(places, positions=positions, valid=valid, first_row=0, step=0)
        if isinstance(batch, InputError):
            raise batch
        found = teacher.find(batch)
        for row in teacher.believed(found, batch).nonzero()[0].tolist():
            sample = reader.read_encoded(shard, start + row)
            yield dataclasses.replace(
                sample, record=_with_landmarks(sample.record, found[row].numpy(), teacher.scheme)
            )


def _with_landmarks(
    record: SampleRecord, landmarks_shard: Float64[np.ndarray, "points 2"], scheme: LandmarkScheme
) -> SampleRecord:
    """The record with other landmarks, and the box around them where it had no other."""
    box = record.face_box_image
    if is_stand_in(record):
        box = FaceBox.around(transform_points(landmarks_shard, np.linalg.inv(record.image_to_shard)))
    return dataclasses.replace(
        record, scheme=scheme.name, landmarks_shard=landmarks_shard, face_box_image=box
    )


def _manifest(before: Manifest, splits: Mapping[str, bool], teacher: _Teacher, unfinished: Path) -> Manifest:
    """What was written; a shard of which nothing is left goes."""
    written: dict[str, tuple[ShardEntry, ...]] = {}
    for split in splits:
        entries = [entry_of(unfinished, shard.name) for shard in before.shards_of(split)]
        for entry in entries:
            if not entry.num_samples:
                (unfinished / entry.name).unlink()
        written[split] = tuple(entry for entry in entries if entry.num_samples)
        if not written[split]:
            raise InputError(
                f"split {split!r}: none of its faces is left, as what the network finds is no face or lies "
                f"further than --max-distance {teacher.options.max_distance:g} from before; take another "
                "--checkpoint"
            )
    after = dataclasses.replace(
        before,
        scheme=teacher.scheme.name,
        splits=written,
        subsets={split: _subsets(unfinished, entries) for split, entries in written.items()},
    )
    return dataclasses.replace(after, labels=_labels(before, after, splits, teacher))


def _subsets(folder: Path, entries: tuple[ShardEntry, ...]) -> Mapping[str, int]:
    reader = ShardReader(LocalStore(folder), entries, max_open_files=1)
    samples = (sample for shard in range(len(entries)) for sample in _unchanged(reader, shard))
    return count_subsets(sample.record.subset for sample in samples)


def _labels(before: Manifest, after: Manifest, splits: Mapping[str, bool], teacher: _Teacher) -> str:
    relabelled = [split for split, relabels in splits.items() if relabels]
    num_before, num_after = (sum(map(one.num_samples, relabelled)) for one in (before, after))
    text = (
        f"{' and '.join(relabelled)}: found by {teacher.name}, averaged with the mirror image, on the box of "
        f"a first look; {num_before - num_after:,} of {num_before:,} faces dropped"
    )
    if before.scheme == after.scheme:
        text += f", further than {teacher.options.max_distance:g} of the inter-ocular distance from before"
    return f"{before.labels}; then {text}" if before.labels else text
