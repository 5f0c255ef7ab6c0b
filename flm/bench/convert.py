"""Conversion of large photos, decoded at a reduced scale, beside the same with every pixel decoded."""

import functools
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from flm.bench.measure import Row, medians, process_s
from flm.data.split_samples import samples_at
from flm.data.store import ShardStore, open_store
from flm.faces.pts_file import pts_text
from flm.geometry import transform_points

PHOTOS = 120
PHOTO_SIDE_PX = 3000
PROCESSES = 2
REPETITIONS = 3
DECODE = ("reduced", "full")


def bench_convert(data: Path) -> list[Row]:
    """Measure on this machine.

    Args:
        data: folder of shards; its faces are enlarged to photos.

    Raises:
        InputError: there are no shards, or none to train on.
    """
    store = open_store(data)
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        _write_photos(store, photos)
        sides = [functools.partial(_conversion, photos, store.manifest.scheme, decode) for decode in DECODE]
        reduced, full = medians(sides, REPETITIONS)
    how = (
        f"python -m shards convert pts, {PHOTOS} JPEGs of {PHOTO_SIDE_PX} px, {PROCESSES} processes, the "
        f"command's start included; peer: --decode full; median of {REPETITIONS} turns in one run"
    )
    return [Row(measure="conversion", ours=reduced, peer=full, unit="photos/s", bar=1.5, how=how)]


def _write_photos(store: ShardStore, folder: Path) -> None:
    """The first faces; again from the first on where there are fewer."""
    folder.mkdir()
    places = np.arange(PHOTOS) % max(1, store.manifest.num_samples("train"))
    for number, sample in enumerate(samples_at(store, "train", places)):
        crop = cv2.cvtColor(sample.crop_shard, cv2.COLOR_RGB2BGR)
        scale = PHOTO_SIDE_PX / crop.shape[0]
        photo = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number}.jpg"), photo)
        shift = (scale - 1) / 2
        enlarge = np.array([[scale, 0, shift], [0, scale, shift], [0, 0, 1]])
        landmarks = transform_points(sample.record.landmarks_shard, enlarge)
        (folder / f"{number}.pts").write_text(pts_text(landmarks))


def _conversion(photos: Path, scheme: str, decode: str) -> float:
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "shards", "convert", "pts", "--source", str(photos), "--out", out]
        command += ["--scheme", scheme, "--processes", str(PROCESSES), "--decode", decode]
        return PHOTOS / process_s(command)
