"""Conversion of large photos, decoded at a reduced scale, beside the same with every pixel decoded."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from flm.bench.measure import Row, medians
from flm.data.reader import ShardReader
from flm.data.store import open_store
from flm.geometry import transform_points

PHOTOS = 120
PHOTO_SIDE_PX = 3000
PROCESSES = 2
REPETITIONS = 3


def bench_convert(data: Path) -> list[Row]:
    """Measure on this machine.

    Args:
        data: folder of shards; its faces are enlarged to photos.
    """
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        _write_photos(data, photos)
        reduced, full = medians(
            [lambda: _conversion(photos, "reduced"), lambda: _conversion(photos, "full")], REPETITIONS
        )
    how = (
        f"python -m shards convert pts, {PHOTOS} JPEGs of {PHOTO_SIDE_PX} px, {PROCESSES} processes, the "
        f"command's start included; peer: --decode full; median of {REPETITIONS} turns in one run"
    )
    return [Row(measure="conversion", ours=reduced, peer=full, unit="photos/s", bar=1.5, how=how)]


def _write_photos(data: Path, folder: Path) -> None:
    store = open_store(data)
    reader = ShardReader(store, store.manifest.shards_of("train"), max_open_files=8)
    folder.mkdir()
    for place in range(PHOTOS):
        sample = reader.read(0, place)
        crop = cv2.cvtColor(sample.crop_shard, cv2.COLOR_RGB2BGR)
        scale = PHOTO_SIDE_PX / crop.shape[0]
        photo = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{place}.jpg"), photo)
        shift = (scale - 1) / 2
        enlarge = np.array([[scale, 0, shift], [0, scale, shift], [0, 0, 1]])
        landmarks = transform_points(sample.record.landmarks_shard, enlarge) + 1
        points = "\n".join(f"{x:.4f} {y:.4f}" for x, y in landmarks)
        (folder / f"{place}.pts").write_text(f"version: 1\nn_points:  {len(landmarks)}\n{{\n{points}\n}}\n")


def _conversion(photos: Path, decode: str) -> float:
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "shards", "convert", "pts", "--source", str(photos), "--out", out]
        command += ["--processes", str(PROCESSES), "--decode", decode]
        started_s = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return PHOTOS / (time.perf_counter() - started_s)
