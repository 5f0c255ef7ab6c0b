"""No process of a conversion needs more than 1 GB, however large its pictures and however many its faces."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import MEAN_FACE_UNIT, REPOSITORY
from processes import family_of, peaks_of, resident_mib

from flm.data.manifest import Manifest
from flm.pictures import MOST_PICTURE_PIXELS

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

BOUND_MIB = 1e9 / 2**20
MOST_KIB_PER_FACE = 4.0
"""Of the process that plans: a face's landmarks alone are 1.1 KiB."""

MOST_GROWTH_MIB = 10.0
"""Of the others, whatever the number of faces."""


def write_data_set(
    folder: Path, *, pictures: int, size: tuple[int, int], faces_per_picture: int, face_px: int, suffix: str
) -> None:
    """Equal pictures, which are one file on disk, with other faces marked in each."""
    width, height = size
    random = np.random.default_rng(0)
    small = random.integers(0, 255, (30, 40, 3)).astype(np.uint8)
    folder.mkdir()
    first = folder / f"0{suffix}"
    quick = [cv2.IMWRITE_PNG_COMPRESSION, 1] if suffix == ".png" else []
    cv2.imwrite(str(first), cv2.resize(small, size, interpolation=cv2.INTER_NEAREST), quick)
    images = []
    for number in range(pictures):
        name = f"{number}{suffix}"
        if number:
            os.link(first, folder / name)
        boxes = []
        for left, top in random.uniform(0.05, 0.6, (faces_per_picture, 2)) * [width, height]:
            parts = "".join(
                f"<part name='{point:02d}' x='{left + face_px * x:.0f}' y='{top + face_px * y:.0f}'/>"
                for point, (x, y) in enumerate(MEAN_FACE_UNIT)
            )
            boxes.append(
                f"<box top='{top:.0f}' left='{left:.0f}' width='{face_px}' height='{face_px}'>{parts}</box>"
            )
        images.append(f"<image file='{name}'>{''.join(boxes)}</image>")
    (folder / "labels.xml").write_text(f"<dataset><images>{''.join(images)}</images></dataset>")


def peaks_of_conversion(source: Path, out: Path) -> list[float]:
    """MiB that each process needed at most: first the one that plans and writes, then the others by need."""
    command = [sys.executable, "-m", "shards", "convert", "dlib", "--source", source / "labels.xml"]
    command += ["--split", "train", "--out", out, "--processes", "2"]
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    peaks = peaks_of(process)
    assert process.returncode == 0
    main = peaks.pop(process.pid)
    # The server that the workers are forked from, one or two of them, and a tracker of 12 MiB.
    assert len(peaks) >= 3
    return [main, *sorted(peaks.values(), reverse=True)]


@pytest.mark.parametrize(
    ("pictures", "size", "faces", "suffix"),
    [
        (20, (6000, 4000), 3, ".jpg"),
        (1, (11_586, 11_584), 9, ".jpg"),
        (1, (11_586, 11_584), 1, ".png"),
    ],
)
def test_large_pictures_fit_into_a_gigabyte(tmp_path, pictures, size, faces, suffix):
    assert 0.999 * MOST_PICTURE_PIXELS < size[0] * size[1] <= MOST_PICTURE_PIXELS or pictures > 1
    data = tmp_path / "data"
    write_data_set(data, pictures=pictures, size=size, faces_per_picture=faces, face_px=200, suffix=suffix)
    peaks = peaks_of_conversion(data, tmp_path / "out")
    assert sum(map(Manifest.read(tmp_path / "out").num_samples, ("train", "validation"))) == faces * pictures
    assert max(peaks) < BOUND_MIB, peaks


def test_many_more_faces_need_hardly_more(tmp_path):
    peaks = {}
    for number in (500, 4000):
        data = tmp_path / str(number)
        write_data_set(data, pictures=number, size=(80, 80), faces_per_picture=1, face_px=40, suffix=".jpg")
        peaks[number] = peaks_of_conversion(data, tmp_path / f"out-{number}")
    (few, *few_others), (many, *many_others) = peaks.values()
    assert (many - few) * 1024 / 3500 < MOST_KIB_PER_FACE, peaks
    assert max(b - a for a, b in zip(few_others, many_others, strict=False)) < MOST_GROWTH_MIB, peaks


def test_the_measurement_sees_what_a_process_takes():
    script = "import time; block = bytearray(200 << 20); del block; time.sleep(1)"
    process = subprocess.Popen([sys.executable, "-c", script])
    assert process.pid in family_of(os.getpid())
    (peak,) = peaks_of(process).values()
    assert peak > 200
    assert resident_mib(process.pid) == 0
