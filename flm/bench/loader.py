"""The shard loader beside the usual loader of one file a sample, and beside bare JPEG decoding."""

import multiprocessing
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import simplejpeg
import torch
import torchvision.transforms as transforms
import torchvision.transforms.functional as TF
from jaxtyping import Float64
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from flm.augment import augment
from flm.bench.measure import Conditions, Row, medians, rate
from flm.data.batches import CropShape
from flm.data.loader import LoaderConfig, ProcessPlace, training_batches
from flm.data.samples import Batch, SampleRecord
from flm.data.store import open_store
from flm.errors import InputError
from flm.geometry import transform_points
from flm.recipes import recipe_named

WORKERS = 2
BATCH_SIZE = 64
SIZE_PX = 128
BATCHES = 300
WARM_UP = 12
"""Batches until both workers are at work and have written to each slot of their shared memory once."""
REPETITIONS = 5
LARGE_PICTURES = 200
LARGE_SCALE = 3.5


@dataclass(frozen=True, slots=True)
class _Face:
    path: Path
    box: tuple[float, float, float, float]
    """Left, top, right, bottom; px of the picture, as the landmarks."""
    landmarks: Float64[np.ndarray, "points 2"]


class PerFileFaces(Dataset):
    """The way of the reference project: open with PIL, cut the box out, jitter colours, turn, resize."""

    def __init__(self, faces: Sequence[_Face]) -> None:
        self.faces = faces
        self.jitter = transforms.ColorJitter(brightness=0.24, contrast=0.15, saturation=0.3, hue=0.14)

    def __len__(self) -> int:
        return BATCH_SIZE * BATCHES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        face = self.faces[index % len(self.faces)]
        with Image.open(face.path) as picture:
            left, top, right, bottom = face.box
            crop = picture.convert("RGB").crop((round(left), round(top), round(right), round(bottom)))
        angle_deg = float(torch.empty(1).uniform_(-14, 14))
        crop = cast(Image.Image, TF.rotate(self.jitter(crop), angle_deg))
        image = TF.to_tensor(crop.resize((SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR))
        unit = (face.landmarks - [left, top]) / [right - left, bottom - top] - 0.5
        turn = np.radians(angle_deg)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        return image, torch.from_numpy(unit @ rotation).float()


def bench_loader(data: Path, source: Path) -> list[Row]:
    """Measure on this machine.

    Args:
        data: folder of shards of an iBUG archive.
        source: the archive's folder, whose files the per-file loader reads.

    Raises:
        InputError: there are no shards, or a file that they were made of is missing.
    """
    faces, jpegs = training_faces(data, source), list(_members(data, ".jpg"))
    with tempfile.TemporaryDirectory() as folder:
        large = _scaled_up(faces[:LARGE_PICTURES], Path(folder))
        sides = (
            lambda: rate(_shard_batches(data), warm_up=WARM_UP),
            lambda: rate(_per_file_batches(faces), warm_up=WORKERS),
            lambda: rate(_per_file_batches(large, batches=6), warm_up=WORKERS),
            lambda: rate(_augmented_batches(data), warm_up=WARM_UP),
            lambda: _decode_ceiling(jpegs),
        )
        ours, per_file, per_large_file, augmented, ceiling = medians(sides, REPETITIONS)
    how = f"batches of {BATCH_SIZE}, {WORKERS} workers, median of {REPETITIONS} turns in one run"
    row = Conditions("faces/s", how).row
    large_files = f"the peer reads the same pictures at {LARGE_SCALE} times the size"
    augmentation = "augmentation of the recipe `reference` on the same processors"
    bare = f"peer: {WORKERS} processes that only decode the same bytes from memory"
    return [
        row("loader", ours, per_file, bar=5.0, how="decoded crops"),
        row("loader, large originals", ours, per_large_file, bar=30.0, how=large_files),
        row("loader and augmentation", augmented, per_file, bar=1.5, how=augmentation),
        row("share of the decode ceiling", ours, ceiling, bar=0.7, how=bare),
    ]


def training_faces(data: Path, source: Path) -> list[_Face]:
    """The training faces as files and boxes.

    Args:
        data: folder of shards of an iBUG archive.
        source: the archive's folder.

    Raises:
        InputError: there are no shards, or a file that they were made of is missing.
    """
    return [_face(SampleRecord.from_json(text), source) for text in _members(data, ".json")]


def _members(data: Path, suffix: str) -> Iterator[bytes]:
    """The contents of the training shards' files of a kind."""
    for entry in open_store(data).manifest.shards_of("train"):
        with tarfile.open(data / entry.name) as tar:
            for member in tar:
                if member.name.endswith(suffix):
                    file = tar.extractfile(member)
                    assert file is not None
                    yield file.read()


def _face(record: SampleRecord, source: Path) -> _Face:
    if not (source / record.source_file).is_file():
        raise InputError(
            f"--source {source}: has no {record.source_file}, which the shards were made of; give the "
            "archive's folder"
        )
    box = record.face_box_image
    return _Face(
        path=source / record.source_file,
        box=(box.left, box.top, box.left + box.width, box.top + box.height),
        landmarks=transform_points(record.landmarks_shard, np.linalg.inv(record.image_to_shard)),
    )


def _scaled_up(faces: Sequence[_Face], folder: Path) -> list[_Face]:
    large = []
    for number, face in enumerate(faces):
        with Image.open(face.path) as picture:
            size = (round(picture.width * LARGE_SCALE), round(picture.height * LARGE_SCALE))
            path = folder / f"{number}.jpg"
            picture.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(path, quality=92)
        left, top, right, bottom = (side * LARGE_SCALE for side in face.box)
        large.append(_Face(path, (left, top, right, bottom), face.landmarks * LARGE_SCALE))
    return large


def _shard_batches(data: Path) -> Iterator[int]:
    for batch in _training_batches(data):
        yield len(batch)


def _augmented_batches(data: Path) -> Iterator[int]:
    config = recipe_named("reference").augment
    for batch in _training_batches(data):
        augment(batch, config, size_px=SIZE_PX, seed=0)
        yield len(batch)


def _training_batches(data: Path) -> Iterator[Batch]:
    return training_batches(
        open_store(data),
        LoaderConfig(num_workers=WORKERS),
        CropShape(size_px=SIZE_PX, margin=0.125),
        steps=range(BATCHES),
        batch_size=BATCH_SIZE,
        seed=0,
        place=ProcessPlace(),
    )


def _per_file_batches(faces: Sequence[_Face], batches: int = 12) -> Iterator[int]:
    loader = DataLoader(PerFileFaces(faces), batch_size=BATCH_SIZE, shuffle=True, num_workers=WORKERS)
    for number, (images, _) in enumerate(loader):
        yield len(images)
        if number == batches:
            return


_jpegs_of_worker: list[bytes] = []


def _decode_ceiling(jpegs: Sequence[bytes]) -> float:
    # Spawned, since a fork of a process with threads may wait for a lock that none of its own will release.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, context, initializer=_keep, initargs=(jpegs,)) as pool:
        list(pool.map(_decode, [8] * WORKERS))
        started_s = time.perf_counter()
        counts = list(pool.map(_decode, [len(jpegs)] * WORKERS))
        return sum(counts) / (time.perf_counter() - started_s)


def _keep(jpegs: Sequence[bytes]) -> None:
    _jpegs_of_worker.extend(jpegs)


def _decode(count: int) -> int:
    for jpeg in _jpegs_of_worker[:count]:
        simplejpeg.decode_jpeg(jpeg)
    return count
