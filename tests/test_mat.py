"""`.mat` files of every version give their variables with the axes that MATLAB shows."""

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from flm.errors import InputError
from shards.sources.mat import landmarks_of, read_mat


def save_v73(path, **variables) -> None:
    """As MATLAB writes version 7.3: HDF5 with the axes the other way round, cells as references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            if value.dtype == object:
                references = np.empty(value.shape, dtype=h5py.ref_dtype)
                for index, cell in np.ndenumerate(value):
                    number = "_".join(map(str, index))
                    references[index] = file.create_dataset(f"#refs#/{name}{number}", data=cell.T).ref
                file.create_dataset(name, data=references.T, dtype=h5py.ref_dtype)
            else:
                file.create_dataset(name, data=value.T)
    with path.open("r+b") as raw:
        header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
        raw.write(header)


def save(path, version: str, **variables) -> None:
    if version == "7.3":
        save_v73(path, **variables)
    else:
        savemat(path, variables, format=version)


@pytest.mark.parametrize("version", ["4", "5", "7.3"])
def test_numbers_keep_their_axes(tmp_path, version):
    path = tmp_path / "a.mat"
    points = np.arange(12.0).reshape(3, 4)
    save(path, version, points=points)
    np.testing.assert_array_equal(read_mat(path, "points"), points)
    with pytest.raises(InputError, match=r"a\.mat: no variable 'boxes'"):
        read_mat(path, "boxes")


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_cells_hold_pictures(tmp_path, version):
    path = tmp_path / "a.mat"
    pictures = np.empty((2, 1), dtype=object)
    random = np.random.default_rng(0)
    pictures[0, 0] = random.integers(0, 255, (5, 7, 3), np.uint8)
    pictures[1, 0] = random.integers(0, 255, (4, 9), np.uint8)
    save(path, version, pictures=pictures)
    read = read_mat(path, "pictures")
    assert read.shape == (2, 1)
    for index in ((0, 0), (1, 0)):
        np.testing.assert_array_equal(read[index], pictures[index])


@pytest.mark.parametrize("content", [b"", b"no such thing" * 50, None])
def test_what_is_no_mat_is_told(tmp_path, content):
    path = tmp_path / "a.mat"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_mat(path, "points")
    assert str(caught.value).startswith(f"{path}: cannot be read as .mat (")
    assert "\n" not in str(caught.value)


def test_landmarks_come_from_zero(tmp_path):
    values = np.arange(15).reshape(5, 3)
    landmarks = landmarks_of(tmp_path, values, num_points=5, origin=1)
    np.testing.assert_array_equal(landmarks, values[:, :2] - 1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, 2)), r"shape \(4, 2\), expected 5 points"),
        (np.zeros((5, 1)), r"shape \(5, 1\), expected 5 points"),
        (np.zeros(10), r"shape \(10,\), expected 5 points"),
        (np.full((5, 2), np.inf), "not a finite number"),
        (np.full((5, 2), "x"), "has <U1 where numbers belong"),
        (np.full((5, 2), 1j), "has complex128 where numbers belong"),
        (np.array([[np.zeros(3), 1.0]] * 5, dtype=object), "has object where numbers belong"),
    ],
)
def test_landmarks_that_are_none_are_told(tmp_path, values, message):
    with pytest.raises(InputError, match=message):
        landmarks_of(tmp_path, values, num_points=5, origin=1)
