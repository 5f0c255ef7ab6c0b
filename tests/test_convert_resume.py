"""A conversion that is killed, damaged or shared by several processes ends with the same bytes."""

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import MEAN_FACE_UNIT, REPOSITORY, draw_face
from test_distributed import launch

from flm.bench.measure import free_port
from flm.data.manifest import MANIFEST_NAME, Manifest
from flm.data.output import UNFINISHED_NAME
from flm.data.writer import write_shard
from flm.errors import InputError
from flm.geometry import FaceBox, transform_points
from flm.pictures import read_part, read_picture
from shards.__main__ import main
from shards.annotation import PictureFile

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
    unfinished = out / UNFINISHED_NAME
    command = [sys.executable, "-m", "shards", *FACES, "--out", str(out), "--resume"]
    chance = random.Random(0)
    num_in_the_middle = 0
    for _ in range(10):
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        # At once, or a while after one more shard is done, which takes as long as it takes on a busy machine.
        num_done = len(list(unfinished.glob("*.tar.json")))
        if chance.random() < 0.8:
            wait_until(lambda done=num_done: len(list(unfinished.glob("*.tar.json"))) > done, process)
        wait_until(lambda: False, process, seconds=chance.expovariate(1 / 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        done = list(unfinished.glob("*.tar.json"))
        # What has its entry is whole, and a folder that is not finished counts as empty.
        assert all(entry.with_suffix("").exists() for entry in done)
        if not (out / MANIFEST_NAME).exists():
            num_in_the_middle += bool(done)
            with pytest.raises(InputError, match="there are no shards here"):
                Manifest.read(out)
    assert num_in_the_middle >= 3
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    assert contents(out) == contents(undisturbed)
    assert not unfinished.exists()


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen, seconds: float = 60.0) -> None:
    """Return when it is so, when the process has ended, or after a while."""
    deadline = time.monotonic() + seconds
    while not is_so() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


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


def test_what_a_start_with_other_options_left_is_not_published(undisturbed, tmp_path, monkeypatch):
    """That one was stopped before its end, with more shards than there are now."""
    out, num_left = tmp_path / "out", 3

    def stopping(*args, **kwargs):
        nonlocal num_left
        if not num_left:
            raise KeyboardInterrupt
        num_left -= 1
        return write_shard(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr("flm.data.output.write_shard", stopping)
        with pytest.raises(SystemExit):
            run_here(out, "--shard-size", "4", "--resume")
    assert len(list((out / UNFINISHED_NAME).glob("*.tar.json"))) == 3
    run_here(out, "--shard-size", "60", "--resume")
    assert {path.name for path in out.iterdir()} == {
        MANIFEST_NAME,
        *(f"{split}-000000.tar" for split in ("train", "validation", "test")),
    }


def test_shards_are_taken_over_where_a_file_has_one_name_only(undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run_here(out)
    (out / "train-000003.tar").unlink()

    def refused(path: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(target), None, str(path))

    monkeypatch.setattr(Path, "hardlink_to", refused)
    run_here(out, "--resume")
    assert contents(out) == contents(undisturbed)


@pytest.mark.multiprocess
def test_machines_write_the_bytes_of_one_process(undisturbed, tmp_path):
    """Two agents of a launcher, each with two processes, that meet at an address."""
    address = f"--master-addr 127.0.0.1 --master-port {free_port()}"
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    words = f"--nnodes 2 --nproc-per-node 2 {address} -m shards".split()
    machines = [
        subprocess.Popen(
            [torchrun, "--node-rank", str(machine), *words, *FACES, "--out", str(tmp_path / "out")],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for machine in range(2)
    ]
    told = [machine.communicate(timeout=300) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], "\n".join(error for _, error in told)
    assert [out.count("60 faces in") for out, _ in told] == [1, 0]
    assert contents(tmp_path / "out") == contents(undisturbed)


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
    assert not (tmp_path / "out" / UNFINISHED_NAME).exists()


@pytest.mark.multiprocess
def test_processes_that_look_for_copies_agree(tmp_path):
    out = tmp_path / "out"
    done = launch("-m", "shards", *FACES, "--group-copies", "--out", out, processes=2)
    assert done.returncode == 0, done.stderr
    run_here(tmp_path / "alone", "--group-copies")
    assert contents(out) == contents(tmp_path / "alone")


@pytest.mark.multiprocess
def test_one_bad_picture_ends_all_processes(tmp_path):
    """The process that meets it tells it; the others wait for that one, and leave with it."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(8):
        picture, landmarks = draw_face(number, 96)
        cv2.imwrite(str(photos / f"{number}.png"), picture)
        points = "\n".join(f"{x + 1:.3f} {y + 1:.3f}" for x, y in landmarks)
        (photos / f"{number}.pts").write_text(f"version: 1\nn_points:  68\n{{\n{points}\n}}\n")
    (photos / "3.png").write_bytes((photos / "3.png").read_bytes()[:900])
    out = tmp_path / "out"
    words = ["convert", "pts", "--source", photos, "--shard-size", "1", "--processes", "1", "--out", out]
    done = launch("-m", "shards", *words, processes=2)
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if "3.png: not a whole picture" in line]
    assert len(told) == 1
    assert not (out / MANIFEST_NAME).exists()


@pytest.mark.parametrize("most_reduction", [1.0, 1.9, 2.0, 5.0, 100.0])
def test_a_reduced_jpeg_shows_the_same_places(tmp_path, most_reduction):
    path = tmp_path / "large.jpg"
    picture = np.zeros((613, 1001, 3), np.uint8)
    place = np.array([[640.3, 255.8]])
    cv2.circle(picture, (round(640.3 * 16), round(255.8 * 16)), 30 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
    cv2.imwrite(str(path), picture)
    decoded = PictureFile(path).decode(FaceBox.of_picture(1001, 613), most_reduction)
    assert (decoded.width, decoded.height) == (1001, 613)
    assert decoded.reduction == max(factor for factor in (1, 2, 4, 8) if factor <= most_reduction)
    assert decoded.pixels.shape[1] == -(-1001 // decoded.reduction)
    light = decoded.pixels[..., 0].astype(float)
    rows, columns = np.indices(light.shape)
    found = np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()
    expected = transform_points(place, decoded.image_to_pixels)[0]
    assert np.abs(found - expected).max() < 0.1


def test_crops_of_large_photos_lose_nothing_and_do_not_alias(tmp_path):
    """Beside the same with every pixel decoded; the lower half has stripes finer than the crop can show."""
    random = np.random.default_rng(0)
    small = random.uniform(40, 215, (12, 12, 3)).astype(np.float32)
    picture = cv2.resize(small, (2400, 2400), interpolation=cv2.INTER_CUBIC)
    picture[1200:, ::2], picture[1200:, 1::2] = 30, 220
    cv2.imwrite(str(tmp_path / "a.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
    landmarks = MEAN_FACE_UNIT * 1000 + 700
    points = "\n".join(f"{x:.4f} {y:.4f}" for x, y in landmarks + 1)
    (tmp_path / "a.pts").write_text(f"version: 1\nn_points:  68\n{{\n{points}\n}}\n")
    crops = []
    for decode in ("full", "reduced"):
        out = tmp_path / decode
        words = ["convert", "pts", "--source", tmp_path, "--out", out, "--split", "test", "--processes", "1"]
        main([str(word) for word in (*words, "--decode", decode)])
        (entry,) = Manifest.read(out).splits["test"]
        with tarfile.open(out / entry.name) as tar:
            member = next(member for member in tar if member.name.endswith(".jpg"))
            content = np.frombuffer(tar.extractfile(member).read(), np.uint8)
        crops.append(cv2.imdecode(content, cv2.IMREAD_COLOR).astype(np.float64))
    full, reduced = crops
    assert np.abs(full - reduced).mean() < 1.0
    for crop in crops:
        # Between the rows that blend into the picture above and those below the photo.
        stripes = crop[150:180, 40:200]
        assert abs(stripes.mean() - 125) < 3
        assert stripes.std() < 3


def test_a_format_that_is_not_reduced_comes_whole(tmp_path):
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), np.full((64, 96, 3), 77, np.uint8))
    whole = FaceBox.of_picture(96, 64)
    assert PictureFile(path).decode(whole, 4.0).reduction == 1
    decoded = read_part(path, whole, 4)
    assert (decoded.width, decoded.height) == (96, 64)
    assert np.array_equal(decoded.pixels, read_picture(path, upright=False))
