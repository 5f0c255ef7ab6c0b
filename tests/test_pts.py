"""Any folder of pictures with a `.pts` beside each becomes shards of one split."""

import tarfile

import numpy as np
import pytest
from test_layout import assert_one_line_naming, converted, draw_dots, landmarks_image
from test_pts_file import pts_text

from flm.errors import InputError
from flm.geometry import FaceBox
from shards.sources.pts import read_pts

FILES = ["helen/12_1.png", "helen/12_2.png", "helen/13_1.png", "deep/er/a.png", "top.png"]


def draw_tree(folder, *, num_points=68, origin=1) -> dict[str, np.ndarray]:
    landmarks = {}
    for seed, file in enumerate(FILES):
        landmarks[file] = draw_dots(folder / file, num_points, seed)
        (folder / file).with_suffix(".pts").write_text(pts_text(landmarks[file] + origin))
    return landmarks


@pytest.mark.parametrize("as_tar", [False, True])
def test_all_faces_are_in_the_split_that_was_asked_for(tmp_path, as_tar):
    source = tmp_path / "source"
    drawn = draw_tree(source)
    if as_tar:
        with tarfile.open(tmp_path / "source.tar.gz", "w:gz") as tar:
            tar.add(source, arcname=".")
        source = tmp_path / "source.tar.gz"
    records = converted("pts", tmp_path / "out", "--source", source, "--split", "test")
    assert not records["train"]
    assert not records["validation"]
    assert set(records["test"]) == set(FILES)
    for file, record in records["test"].items():
        np.testing.assert_allclose(landmarks_image(record), drawn[file], atol=0.01)
        box, expected = record.face_box_image, FaceBox.around(drawn[file])
        assert (box.left, box.width) == pytest.approx((expected.left, expected.width), abs=1e-4)
    assert {file: record.subset for file, record in records["test"].items()} == {
        **dict.fromkeys(FILES[:3], "helen"),
        "deep/er/a.png": "deep/er",
        "top.png": "",
    }


def test_another_scheme_and_origin(tmp_path):
    drawn = draw_tree(tmp_path / "source", num_points=98, origin=0)
    flags = ("--source", tmp_path / "source", "--scheme", "wflw-98", "--origin", "0")
    records = converted("pts", tmp_path / "out", *flags, "--validation-share", "0")
    assert {file: record.scheme for file, record in records["train"].items()} == dict.fromkeys(
        drawn, "wflw-98"
    )


def test_faces_of_one_photo_are_one_group(tmp_path):
    draw_tree(tmp_path)
    groups = {face.source_file: face.group for face in read_pts(tmp_path).faces}
    assert groups["helen/12_1.png"] == groups["helen/12_2.png"]
    assert len(set(groups.values())) == 4


@pytest.mark.parametrize(
    ("break_it", "parts"),
    [
        (lambda folder: (folder / "top.png").unlink(), ("top.pts", "no picture of that name beside it")),
        (lambda folder: (folder / "top.jpg").touch(), ("top.pts", "top.jpg and top.png beside it")),
        (
            lambda folder: (folder / "top.pts").write_text(pts_text(np.full((68, 2), np.nan))),
            ("top.pts", "not a finite number"),
        ),
        (
            lambda folder: (folder / "top.pts").write_text(pts_text(np.full((68, 2), 1e308))),
            ("top.pts", "not a finite number of px"),
        ),
        (
            lambda folder: (folder / "top.pts").write_text(pts_text(np.zeros((5, 2)))),
            ("top.pts", "5 points, expected 68"),
        ),
        (lambda folder: [path.unlink() for path in folder.rglob("*.pts")], ("no .pts file here",)),
    ],
)
def test_a_fault_is_one_line(tmp_path, break_it, parts):
    draw_tree(tmp_path)
    break_it(tmp_path)
    with pytest.raises(InputError) as caught:
        read_pts(tmp_path)
    assert_one_line_naming(caught, str(tmp_path), *parts)


def test_an_unknown_scheme_is_told(tmp_path):
    with pytest.raises(InputError, match="known: ibug-68, wflw-98"):
        read_pts(tmp_path, scheme="x")
