"""Tables of landmarks become shards, their persons held out whole."""

from collections import Counter

import numpy as np
import pytest
from test_layout import assert_one_line_naming, converted, draw_dots, landmarks_image

from flm.data.manifest import Manifest
from flm.errors import InputError
from flm.geometry import FaceBox
from shards.sources.layout import Listing
from shards.sources.points_csv import CsvOptions, read_points_csv

TRAIN = [f"{person}_{number:02d}.png" for person in ("Ann", "Bob", "Cid", "Dee") for number in (0, 11)]
TEST = ["Ann_01.png", "Eve_00.png"]


def row(file: str, landmarks: np.ndarray) -> str:
    return ",".join([file, *(f"{value:.5f}" for value in landmarks.ravel())])


def draw_tables(folder, *, num_points=68, origin=0, header=True) -> dict[str, np.ndarray]:
    """As the YouTube Faces with key points are laid out."""
    drawn = {}
    for pictures, table, files in (
        ("training", "training_frames_keypoints.csv", TRAIN),
        ("test", "test_frames_keypoints.csv", TEST),
    ):
        rows = [",".join(["", *map(str, range(2 * num_points))])] if header else []
        for file in files:
            name = f"{pictures}/{file}"
            drawn[name] = draw_dots(folder / name, num_points, seed=len(drawn))
            rows.append(row(file, drawn[name] + origin))
        (folder / table).write_text("\r\n".join(rows) + "\r\n")
    return drawn


def test_a_folder_of_tables(tmp_path):
    drawn = draw_tables(tmp_path / "faces")
    flags = ("--source", tmp_path / "faces", "--validation-share", "0.25", "--licence", "research only")
    records = converted("points_csv", tmp_path / "out", *flags)
    assert {split: len(of_split) for split, of_split in records.items()} == {
        **{"train": 6, "validation": 2, "test": 2}
    }
    for of_split in records.values():
        for file, record in of_split.items():
            np.testing.assert_allclose(landmarks_image(record), drawn[file], atol=0.01)
            assert record.face_box_image.width == pytest.approx(FaceBox.around(drawn[file]).width, abs=1e-4)
            assert record.group == file.split("/")[1].split("_")[0]
    # The two pictures of one person.
    assert len({record.group for record in records["validation"].values()}) == 1
    manifest = Manifest.read(tmp_path / "out")
    assert manifest.licence == "research only"
    assert "1 photos or people have faces in both train and test" in manifest.split_rule


@pytest.mark.parametrize("header", [True, False])
def test_one_table_with_the_pictures_elsewhere(tmp_path, header):
    drawn = draw_tables(tmp_path, num_points=98, origin=1, header=header)
    (tmp_path / "training_frames_keypoints.csv").rename(tmp_path / "list.csv")
    flags = ("--source", tmp_path / "list.csv", "--pictures", tmp_path / "training", "--split", "test")
    options = ("--scheme", "wflw-98", "--origin", "1", "--subset", "videos", "--group-by", "picture")
    records = converted("points_csv", tmp_path / "out", *flags, *options)
    assert set(records["test"]) == {f"training/{file}" for file in TRAIN}
    for file, record in records["test"].items():
        np.testing.assert_allclose(landmarks_image(record), drawn[file], atol=0.01)
        assert (record.subset, record.group, record.scheme) == ("videos", file, "wflw-98")


def test_pictures_beside_the_table(tmp_path):
    landmarks = draw_dots(tmp_path / "A_1.png", 68, 0)
    (tmp_path / "train.csv").write_text(row("A_1.png", landmarks))
    (face,) = read_points_csv(tmp_path).faces
    assert (face.source_file, face.group, face.split) == ("A_1.png", "A", "train")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda rows: [*rows[:3], rows[3].rpartition(",")[0]], (":4: 136 cells, expected 137", "(ibug-68)")),
        (
            lambda rows: [rows[0], rows[1].replace(rows[1].split(",")[4], "x", 1)],
            (":2: y of point 1 is 'x'",),
        ),
        (lambda rows: [rows[0], rows[1].rpartition(",")[0] + ","], (":2: y of point 67 is ''",)),
        (lambda rows: [rows[0], rows[1].rpartition(",")[0] + ",nan"], (":2: y of point 67 is 'nan'",)),
        (lambda rows: [rows[0], rows[1].rpartition(",")[0] + ",-1e308"], (":2: y of point 67 is '-1e308'",)),
        (lambda rows: [*rows, rows[1].replace("Ann", "Zoe")], ("1 of 9 listed pictures are missing: Zoe",)),
        (lambda _: ["A_1.png,\0"], (":1",)),
    ],
)
def test_a_fault_names_file_and_line(tmp_path, change, parts):
    draw_tables(tmp_path)
    table = tmp_path / "training_frames_keypoints.csv"
    table.write_text("\n".join(change(table.read_text().splitlines())))
    with pytest.raises(InputError) as caught:
        read_points_csv(tmp_path)
    assert_one_line_naming(caught, "training", *parts)


def test_missing_pictures_are_counted_where_allowed(tmp_path):
    draw_tables(tmp_path)
    (tmp_path / "training" / "Ann_00.png").unlink()
    data_set = read_points_csv(tmp_path, listing=Listing(allow_missing=True))
    assert len(data_set.faces) == 9
    assert data_set.left_out == {"missing pictures": 1}


def test_pictures_that_are_only_numbered_are_asked_about(tmp_path):
    rows = [row(f"face_{i}.png", draw_dots(tmp_path / f"face_{i}.png", 68, i)) for i in range(3)]
    (tmp_path / "train.csv").write_text("\n".join(rows))
    with pytest.raises(InputError) as caught:
        read_points_csv(tmp_path)
    assert_one_line_naming(caught, "as if all showed 'face'", "--group-by picture")
    faces = read_points_csv(tmp_path, options=CsvOptions(group_by="picture")).faces
    assert len({face.group for face in faces}) == 3


def test_the_real_youtube_faces(shared_data):
    data_set = read_points_csv(shared_data / "youtube_faces_68")
    assert Counter(face.split for face in data_set.faces) == {"train": 3462, "test": 770}
    assert len({face.source_file for face in data_set.faces}) == 4232
    assert len({face.group for face in data_set.faces if face.split == "train"}) == 347
