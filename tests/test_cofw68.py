"""COFW68: pictures out of a `.mat`, points and boxes that count from 1."""

import pickle

import numpy as np
import pytest
from scipy.io import savemat
from test_convert import dotted_picture
from test_layout import SIZE_PX, SPACING_PX, assert_one_line_naming, converted, landmarks_image
from test_mat import save

from flm.errors import InputError
from flm.geometry import FaceBox
from shards.sources.cofw68 import CofwPicture, read_cofw68

NUM_FACES = 3
WHOLE = FaceBox.of_picture(10_000, 10_000)


def write_benchmark(folder, *, version: str = "7.3", grey: bool = False) -> list[np.ndarray]:
    annotations = folder / "COFW68_Data" / "test_annotations"
    annotations.mkdir(parents=True)
    pictures = np.empty((NUM_FACES, 1), dtype=object)
    drawn = []
    for index in range(NUM_FACES):
        grid = np.array([(x, y) for y in range(10) for x in range(10)][:68], dtype=np.float64)
        landmarks = (grid + np.random.default_rng(index).uniform(1, 1.6, 2)) * SPACING_PX
        # Wider than high, so that exchanged axes show.
        picture = dotted_picture(landmarks, SIZE_PX + 20, SIZE_PX, sigma_px=SPACING_PX / 9)
        pictures[index, 0] = picture[..., 0] if grey else picture
        savemat(annotations / f"{index + 1}_points.mat", {"Points": landmarks + 1, "Occ": np.zeros((1, 68))})
        drawn.append(landmarks)
    boxes = np.array([[11.0, 21.0, 100.0 + index, 120.0] for index in range(NUM_FACES)])
    savemat(folder / "COFW68_Data" / "cofw68_test_bboxes.mat", {"bboxes": boxes})
    save(folder / ("COFW_test.mat" if grey else "COFW_test_color.mat"), version, IsT=pictures)
    return drawn


@pytest.mark.parametrize(("version", "grey"), [("7.3", False), ("5", False), ("5", True)])
def test_all_faces_are_test_faces(tmp_path, version, grey):
    drawn = write_benchmark(tmp_path / "in", version=version, grey=grey)
    records = converted("cofw68", tmp_path / "out", "--source", tmp_path / "in")
    assert {split: len(of_split) for split, of_split in records.items()} == {
        **{"train": 0, "validation": 0, "test": NUM_FACES}
    }
    name = "COFW_test" if grey else "COFW_test_color"
    for index, landmarks in enumerate(drawn):
        record = records["test"][f"{name}/{index + 1}"]
        np.testing.assert_allclose(landmarks_image(record), landmarks, atol=0.01)
        box = record.face_box_image
        assert (box.left, box.top, box.width, box.height) == (10, 20, 100 + index, 120)


def test_colour_is_taken_where_both_are_there(tmp_path):
    write_benchmark(tmp_path)
    (tmp_path / "COFW_test.mat").touch()
    assert read_cofw68(tmp_path).source == "cofw68 COFW_test_color.mat"


def test_a_picture_travels_to_a_worker(tmp_path):
    write_benchmark(tmp_path)
    picture = CofwPicture(tmp_path / "COFW_test_color.mat", 1)
    decoded = pickle.loads(pickle.dumps(picture)).decode(WHOLE, 1.0)
    assert decoded.pixels.shape == (SIZE_PX, SIZE_PX + 20, 3)
    assert (decoded.width, decoded.height, decoded.reduction) == (SIZE_PX + 20, SIZE_PX, 1)


@pytest.mark.parametrize(
    ("break_it", "parts"),
    [
        (
            lambda data: (data / "test_annotations" / "2_points.mat").unlink(),
            ("2 files of points, 3 boxes, 3 pictures",),
        ),
        (
            lambda data: savemat(data / "cofw68_test_bboxes.mat", {"bboxes": np.zeros((3, 4))}),
            ("cofw68_test_bboxes.mat: row 1 is [0. 0. 0. 0.], expected x, y, width, height",),
        ),
        (
            lambda data: savemat(data / "cofw68_test_bboxes.mat", {"bboxes": np.ones((3, 5))}),
            ("cofw68_test_bboxes.mat: row 1",),
        ),
        (
            lambda data: savemat(data / "test_annotations" / "2_points.mat", {"Points": np.zeros((29, 2))}),
            ("2_points.mat: landmarks of shape (29, 2), expected 68 points",),
        ),
        (
            lambda data: (data / "test_annotations" / "2_points.mat").rename(
                data / "test_annotations" / "4_points.mat"
            ),
            ("2_points.mat: cannot be read",),
        ),
        (lambda data: (data / "cofw68_test_bboxes.mat").unlink(), ("expected one cofw68_test_bboxes.mat",)),
        (
            lambda data: (data.parent / "COFW_test_color.mat").unlink(),
            ("expected one COFW_test_color.mat here",),
        ),
    ],
)
def test_a_fault_is_one_line(tmp_path, break_it, parts):
    write_benchmark(tmp_path)
    break_it(tmp_path / "COFW68_Data")
    with pytest.raises(InputError) as caught:
        read_cofw68(tmp_path)
    assert_one_line_naming(caught, str(tmp_path), *parts)


def test_a_cell_that_is_no_picture_is_told(tmp_path):
    cells = np.empty((1, 1), dtype=object)
    cells[0, 0] = np.zeros((4, 4, 3))
    savemat(tmp_path / "COFW_test.mat", {"IsT": cells})
    with pytest.raises(InputError, match=r"picture 1 has shape \(4, 4, 3\) and type float64"):
        CofwPicture(tmp_path / "COFW_test.mat", 0).decode(WHOLE, 1.0)
