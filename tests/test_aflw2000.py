"""AFLW2000-3D: points count from 1, subsets are the paper's ranges of yaw."""

import numpy as np
import pytest
from scipy.io import savemat
from test_layout import assert_one_line_naming, converted, draw_dots, landmarks_image

from flm.errors import InputError
from shards.sources.aflw2000 import read_aflw2000

YAWS_DEG = {"image00002": -12.0, "image00004": 45.0, "image00006": 60.0, "image00008": -97.0}


def write_face(folder, name: str, *, yaw_deg: float, num_points: int = 68) -> np.ndarray:
    landmarks = draw_dots(folder / f"{name}.jpg", num_points, seed=int(name[-1]))
    points = np.concatenate([landmarks.T + 1, np.full((1, num_points), 7.0)])
    pose = np.array([[0.1, np.radians(yaw_deg), 0.3, 1, 1, 1, 1]])
    savemat(folder / f"{name}.mat", {"pt3d_68": points, "Pose_Para": pose})
    return landmarks


@pytest.fixture
def archive(tmp_path):
    folder = tmp_path / "AFLW2000"
    drawn = {name: write_face(folder, name, yaw_deg=yaw) for name, yaw in YAWS_DEG.items()}
    # The archive brings code with models of its own, which are no faces.
    (folder / "Code").mkdir()
    savemat(folder / "Code" / "Model_Shape.mat", {"w": np.zeros(3)})
    return folder, drawn


def test_all_faces_are_test_faces(archive, tmp_path):
    folder, drawn = archive
    records = converted("aflw2000", tmp_path / "out", "--source", folder)
    assert not records["train"]
    assert {file: record.subset for file, record in records["test"].items()} == {
        "image00002.jpg": "yaw-00-30",
        "image00004.jpg": "yaw-30-60",
        "image00006.jpg": "yaw-30-60",
        "image00008.jpg": "yaw-60-90",
    }
    for file, record in records["test"].items():
        np.testing.assert_allclose(landmarks_image(record), drawn[file.removesuffix(".jpg")], atol=0.01)


@pytest.mark.parametrize(
    ("variables", "parts"),
    [
        (
            {"pt3d_68": np.zeros((3, 21)), "Pose_Para": np.zeros((1, 7))},
            ("shape (21, 3), expected 68 points",),
        ),
        ({"Pose_Para": np.zeros((1, 7))}, ("no variable 'pt3d_68'",)),
        ({"pt3d_68": np.zeros((3, 68))}, ("no variable 'Pose_Para'",)),
        ({"pt3d_68": np.zeros((3, 68)), "Pose_Para": np.zeros((1, 1))}, ("Pose_Para has no yaw",)),
    ],
)
def test_a_fault_names_the_file(archive, variables, parts):
    folder, _ = archive
    savemat(folder / "image00004.mat", variables)
    with pytest.raises(InputError) as caught:
        read_aflw2000(folder)
    assert_one_line_naming(caught, str(folder / "image00004.mat"), *parts)


def test_a_folder_without_pictures_is_told(archive):
    folder, _ = archive
    with pytest.raises(InputError) as caught:
        read_aflw2000(folder / "Code")
    assert_one_line_naming(caught, str(folder / "Code"), "no picture beside a .mat")
