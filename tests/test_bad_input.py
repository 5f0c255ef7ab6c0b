"""Whatever is wrong with what a command is given, it is one line and an exit code; nothing half is left."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from accelerate.state import AcceleratorState
from conftest import REPOSITORY, draw_face
from test_pictures import claiming
from test_verify import SHARD, SPOILT, Sample, flip_byte, good_shards, place_of, spoil_sample, write_folder

from flm.data.output import LOCK_NAME, UNFINISHED_NAME
from flm.train import main as train_main
from shards.__main__ import main as shards_main


@pytest.fixture(scope="module")
def _good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    write_folder(folder, good_shards())
    return folder


@pytest.fixture
def folder(_good, tmp_path) -> Path:
    """A folder of good shards, to be spoilt."""
    return shutil.copytree(_good, tmp_path / "shards")


def train(folder: Path) -> int:
    """One step on all faces of train, and the evaluation of it; the exit code."""
    fields = {
        "--steps": 1,
        "--batch-size": 8,
        "--eval-batch-size": 3,
        "--model.input-size-px": 64,
        "--model.head-channels": 16,
        "--loader.num-workers": 0,
        "--tracking.tracker": "none",
    }
    words = [str(word) for field in fields.items() for word in field]
    try:
        train_main(["quickstart", "--data", str(folder), "--out", str(folder.parent / "run"), *words])
    except SystemExit as stop:
        return stop.code
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    return 0


def shards(*words: str | Path) -> int:
    try:
        shards_main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code
    return 0


def one_line(capfd) -> str:
    """The only line on stderr."""
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def spoil_record(folder: Path) -> None:
    flip_byte(folder / SHARD, place_of(folder / SHARD, "train_2.json")[1])


def spoil_start_of_picture(folder: Path) -> None:
    flip_byte(folder / SHARD, place_of(folder / SHARD, "train_2.jpg")[1])


def rename_point(sample: Sample) -> Sample:
    return {**sample, "json": sample["json"].replace(b"landmarks_shard", b"landmarks_shart")}


UNFIT = {
    "a changed byte in a record": spoil_record,
    "a changed byte in a picture": spoil_start_of_picture,
    "a field of another name": spoil_sample(rename_point),
    **{
        name: SPOILT[name][0]
        for name in (
            "a changed byte in a header",
            "cut short",
            "cut between members",
            "empty",
            "no tar",
            "missing",
            "a path that climbs",
            "a link",
            "a member twice",
            "a count",
            "an absurd picture",
            "no picture",
            "half a picture",
            "no annotation",
            "no JSON",
            "another size",
        )
    },
}


@pytest.mark.parametrize("what", UNFIT)
def test_a_shard_that_is_unfit_ends_training_with_one_line_and_verify_with_its_table(folder, what, capfd):
    UNFIT[what](folder)
    assert train(folder) == 2
    assert f"{folder / SHARD}: " in one_line(capfd)
    run = folder.parent / "run"
    assert not (run / "best").exists()
    assert not (run / "last").exists()
    assert shards("verify", folder, "--processes", "1") == 1
    told = capfd.readouterr()
    assert "findings" in told.out
    assert SHARD in told.out
    assert told.err == ""


def test_good_shards_train_and_are_clean(folder):
    assert train(folder) == 0
    assert shards("verify", folder, "--processes", "1") == 0


def test_a_manifest_of_a_newer_schema_is_one_line_everywhere(folder, capfd):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 2}))
    before = path.read_bytes()
    told = f"error: {path}: schema version 2, this flm reads 1; update flm or convert the data again"
    assert train(folder) == 2
    assert one_line(capfd) == told
    for words in (
        ("verify", folder),
        ("verify", folder, "--repair"),
        ("inspect", folder, "--out", folder.parent / "a.html"),
        ("index", folder, "--split", "train"),
    ):
        assert shards(*words) == 2
        assert one_line(capfd) == told
    # Nor is it overwritten.
    assert shards("convert", "synthetic", "--num-faces", "10", "--out", folder) == 2
    assert "is not one of shards, or of another version" in one_line(capfd)
    assert path.read_bytes() == before
    assert not (folder.parent / "a.html").exists()


def write_photos(folder: Path) -> None:
    folder.mkdir()
    for number in range(4):
        picture, landmarks = draw_face(number, 96)
        cv2.imwrite(str(folder / f"{number}.jpg"), np.ascontiguousarray(picture[..., ::-1]))
        points = "\n".join(f"{x + 1:.3f} {y + 1:.3f}" for x, y in landmarks)
        (folder / f"{number}.pts").write_text(f"version: 1\nn_points:  68\n{{\n{points}\n}}\n")


def test_an_absurd_picture_is_refused_in_conversion(tmp_path, capfd):
    write_photos(tmp_path / "photos")
    (tmp_path / "photos" / "2.jpg").write_bytes(claiming(20_000, 20_000, ".jpg"))
    out = tmp_path / "out"
    assert shards("convert", "pts", "--source", tmp_path / "photos", "--out", out, "--processes", "1") == 2
    assert "2.jpg: the picture claims more than 134 million pixels; shrink it" in one_line(capfd)
    assert not out.exists()


@pytest.mark.multiprocess
def test_of_two_conversions_into_one_folder_the_second_refuses(tmp_path, capfd):
    out = tmp_path / "out"
    words = ["convert", "synthetic", "--num-faces", "5000", "--out", str(out), "--processes", "1"]
    command = [sys.executable, "-m", "shards", *words]
    first = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while not (out / UNFINISHED_NAME).exists():
            assert first.poll() is None
            time.sleep(0.01)
        there = {path.name for path in out.iterdir()}
        assert shards("convert", "synthetic", "--num-faces", "10", "--out", out) == 2
        assert one_line(capfd) == (
            f"error: {out}: another conversion is writing here; wait for it or choose another --out"
        )
        assert {path.name for path in out.iterdir()} == there == {UNFINISHED_NAME, LOCK_NAME}
        # What is not finished is not taken for shards.
        assert shards("verify", out) == 2
        assert "there are no shards here" in one_line(capfd)
    finally:
        first.terminate()
        first.communicate(timeout=60)
    assert not out.exists()
