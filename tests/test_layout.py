"""Annotation files and pictures are found where data sets have them; what is missing is told in one line."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from test_convert import dotted_picture, find_dot, read_samples

from flm.data.samples import SampleRecord
from flm.errors import InputError
from flm.geometry import transform_points
from shards.__main__ import main
from shards.sources.layout import (
    annotation_files,
    files_below,
    folder_subset,
    keep_present,
    picture_beside,
    pictures_folder,
    read_text,
    the_one_below,
)

SPACING_PX = 14.0
SIZE_PX = 170


def draw_dots(path: Path, num_points: int, seed: int) -> np.ndarray:
    """A picture with a dot on each landmark, far enough from the next; px, 0-based, between the pixels."""
    random = np.random.default_rng(seed)
    grid = np.array([(x, y) for y in range(10) for x in range(10)][:num_points], dtype=np.float64)
    landmarks = (grid + random.uniform(1.0, 1.6, 2) + random.uniform(-0.1, 0.1, (num_points, 2))) * SPACING_PX
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = dotted_picture(landmarks, SIZE_PX, SIZE_PX, sigma_px=SPACING_PX / 9)
    assert cv2.imwrite(str(path), picture)
    return landmarks


def converted(source_name: str, out: Path, *flags: str | Path) -> dict[str, dict[str, SampleRecord]]:
    """Run `convert`, see that every dot lies where its record says, give the records by split and file."""
    main(["convert", source_name, "--out", str(out), "--processes", "1", *map(str, flags)])
    records: dict[str, dict[str, SampleRecord]] = {}
    for split in ("train", "validation", "test"):
        records[split] = {}
        for crop, record in read_samples(out, split).values():
            found = np.array([find_dot(crop, landmark) for landmark in record.landmarks_shard])
            error_px = np.linalg.norm(found - record.landmarks_shard, axis=1)
            # A picture that is counted from the wrong pixel is off by more than one pixel.
            assert error_px.mean() < 0.15
            assert error_px.max() < 0.5
            records[split][record.source_file] = record
    return records


def landmarks_image(record: SampleRecord) -> np.ndarray:
    return transform_points(record.landmarks_shard, np.linalg.inv(record.image_to_shard))


def assert_one_line_naming(caught: pytest.ExceptionInfo[InputError], *parts: str) -> None:
    told = str(caught.value)
    assert "\n" not in told
    for part in parts:
        assert part in told


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("training_frames_keypoints", "train"),
        ("test_frames_keypoints", "test"),
        ("person_keypoints_val2017", "validation"),
        ("labels_ibug_300W_train", "train"),
        ("Validation", "validation"),
    ],
)
def test_the_name_of_a_file_tells_the_split(tmp_path, name, split):
    file = tmp_path / f"{name}.csv"
    file.touch()
    (tmp_path / "notes.txt").touch()
    assert annotation_files(file, ".csv", None) == [(file, split)]
    assert annotation_files(tmp_path, ".csv", None) == [(file, split)]
    assert annotation_files(file, ".csv", "test") == [(file, "test")]


@pytest.mark.parametrize("name", ["faces", "contest", "train_and_test"])
def test_a_name_that_tells_no_split_asks_for_one(tmp_path, name):
    file = tmp_path / f"{name}.csv"
    file.touch()
    with pytest.raises(InputError) as caught:
        annotation_files(tmp_path, ".csv", None)
    assert_one_line_naming(caught, str(file), "give --split")


@pytest.mark.parametrize("source", ["", "missing.csv"])
def test_no_annotation_file_is_told(tmp_path, source):
    with pytest.raises(InputError) as caught:
        annotation_files(tmp_path / source, ".csv", "train")
    assert_one_line_naming(caught, str(tmp_path / source), "no .csv file here")


def test_pictures_are_in_the_folder_that_the_file_names(tmp_path):
    for name in ("train", "training", "annotations", "val2017", "train2017"):
        (tmp_path / name).mkdir()
    assert pictures_folder(tmp_path / "training_frames.csv") == (tmp_path / "training").resolve()
    assert pictures_folder(tmp_path / "annotations/people_val2017.json") == (tmp_path / "val2017").resolve()
    assert pictures_folder(tmp_path / "faces.csv") == tmp_path


def test_files_below_are_found_in_every_folder(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "2.PTS").touch()
    (tmp_path / "a" / "1.pts").touch()
    assert files_below(tmp_path, ".pts") == [tmp_path / "a" / "1.pts", tmp_path / "a" / "b" / "2.PTS"]
    with pytest.raises(InputError) as caught:
        files_below(tmp_path, ".mat")
    assert_one_line_naming(caught, str(tmp_path), "no .mat file")


def test_the_one_of_a_name_must_be_one(tmp_path):
    (tmp_path / "a" / "images").mkdir(parents=True)
    assert the_one_below(tmp_path, "images") == tmp_path / "a" / "images"
    assert the_one_below(tmp_path / "a" / "images", "images") == tmp_path / "a" / "images"
    with pytest.raises(InputError) as caught:
        the_one_below(tmp_path, "lists")
    assert_one_line_naming(caught, str(tmp_path), "expected one lists here or below, found none")
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"expected one images here or below, found .*a/images, .*images;"):
        the_one_below(tmp_path, "images")


def test_the_picture_beside_a_file(tmp_path):
    file = tmp_path / "face.1.pts"
    assert picture_beside(file) is None
    (tmp_path / "face.1.JPG").touch()
    assert picture_beside(file) == tmp_path / "face.1.JPG"
    (tmp_path / "face.1.png").touch()
    with pytest.raises(InputError) as caught:
        picture_beside(file)
    assert_one_line_naming(caught, str(file), "face.1.JPG and face.1.png")


@pytest.mark.parametrize(
    ("file", "subset"),
    [("1.jpg", ""), ("a/1.jpg", "a"), ("a/b/1.jpg", "a/b"), ("a+b/1.jpg", "a_b"), ("/a/1.jpg", "a")],
)
def test_a_folder_is_one_subset(file, subset):
    assert folder_subset(file) == subset


def test_missing_pictures_stop_the_run_unless_allowed(tmp_path):
    names = [f"{number}.jpg" for number in range(9)]
    (tmp_path / "3.jpg").touch()
    with pytest.raises(InputError) as caught:
        keep_present(names, lambda name: tmp_path / name, folder=tmp_path, allow_missing=False)
    assert_one_line_naming(caught, "8 of 9 listed pictures are missing: 0.jpg, 1.jpg,", "5.jpg and 3 more;")
    names.append("a" * 300 + ".jpg")  # found by the fuzzer: no file can have such a name
    kept = keep_present(names, lambda name: tmp_path / name, folder=tmp_path, allow_missing=True)
    assert kept == ["3.jpg"]


def test_text_that_is_none_is_told(tmp_path):
    path = tmp_path / "faces.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError) as caught:
        read_text(path)
    assert_one_line_naming(caught, str(path), "cannot be read as text")
    path.write_bytes(b"\xef\xbb\xbffile,0,1")
    assert read_text(path) == "file,0,1"
