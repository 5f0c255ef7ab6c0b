"""A conversion that is killed, damaged or shared by several processes ends with the same bytes."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import REPOSITORY

from flm.geometry import transform_points
from flm.pictures import read_picture, read_reduced
from shards.__main__ import main
from shards.annotation import PictureFile
from shards.output import UNFINISHED_NAME

FACES = ["convert", "synthetic", "--num-faces", "60", "--shard-size", "6", "--processes", "1"]


def run_here(out: Path, *options: str) -> None:
    main([*FACES, "--out", str(out), *options])


def contents(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.suffix in (".tar", ".json")
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    run_here(out)
    return out


@pytest.mark.multiprocess
@pytest.mark.slow
def test_killed_ten_times_and_gone_on_with(undisturbed, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "shards", *FACES, "--out", str(out), "--resume"]
    kills, chance = 0, random.Random(0)
    while kills < 10:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        # Early, in the middle, and sometimes after the end.
        deadline = time.monotonic() + chance.uniform(0.2, 2.5)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        for entry in (out / UNFINISHED_NAME).glob("*.tar.json"):
            # What has its entry is whole.
            assert entry.with_suffix("").exists()
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    assert contents(out) == contents(undisturbed)
    assert not (out / UNFINISHED_NAME).exists()


def test_only_damaged_and_missing_shards_are_made_anew(undisturbed, tmp_path):
    out = tmp_path / "out"
    run_here(out)
    damaged, missing = out / "train-000001.tar", out / "train-000003.tar"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    missing.unlink()
    before = {path.name: path.stat().st_ino for path in out.glob("*.tar")}
    run_here(out, "--resume")
    assert contents(out) == contents(undisturbed)
    after = {path.name: path.stat().st_ino for path in out.glob("*.tar")}
    made_anew = {name for name in after if before.get(name) != after[name]}
    assert made_anew == {damaged.name, missing.name}


def test_going_on_with_other_options_takes_nothing_over(undisturbed, tmp_path):
    out = tmp_path / "out"
    run_here(out, "--crop-margin", "0.4")
    run_here(out, "--resume")
    assert contents(out) == contents(undisturbed)


@pytest.mark.multiprocess
def test_processes_of_a_launcher_write_the_bytes_of_one(undisturbed, tmp_path):
    torchrun = Path(sys.executable).with_name("torchrun")
    command = [
        torchrun,
        "--standalone",
        "--nproc-per-node",
        "3",
        "-m",
        "shards",
        *FACES,
        "--out",
        tmp_path / "out",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("60 faces in") == 1
    assert contents(tmp_path / "out") == contents(undisturbed)


@pytest.mark.parametrize("most_reduction", [1.0, 1.9, 2.0, 5.0, 100.0])
def test_a_reduced_jpeg_shows_the_same_places(tmp_path, most_reduction):
    path = tmp_path / "large.jpg"
    picture = np.zeros((613, 1001, 3), np.uint8)
    place = np.array([[640.3, 255.8]])
    cv2.circle(picture, (round(640.3 * 16), round(255.8 * 16)), 30 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
    cv2.imwrite(str(path), picture)
    decoded = PictureFile(path).decode(most_reduction)
    assert (decoded.width, decoded.height) == (1001, 613)
    assert decoded.reduction == max(factor for factor in (1, 2, 4, 8) if factor <= most_reduction)
    assert decoded.pixels.shape[1] == -(-1001 // decoded.reduction)
    light = decoded.pixels[..., 0].astype(float)
    rows, columns = np.indices(light.shape)
    found = np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()
    expected = transform_points(place, decoded.image_to_pixels)[0]
    assert np.abs(found - expected).max() < 0.1


def test_a_format_that_is_not_reduced_comes_whole(tmp_path):
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), np.full((64, 96, 3), 77, np.uint8))
    assert PictureFile(path).decode(4.0).reduction == 1
    pixels, size = read_reduced(path, 4)
    assert size == (96, 64)
    assert np.array_equal(pixels, read_picture(path, upright=False))
