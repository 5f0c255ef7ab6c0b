"""MATLAB's `.mat` files, of version 7.3 (HDF5) and before."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from flm.errors import InputError


def read_mat(path: Path, name: str) -> Shaped[np.ndarray, "..."]:
    """A variable of the file, its axes as MATLAB shows them; a cell array is an array of arrays.

    Raises:
        InputError: the file cannot be read, or has no such variable.
    """
    # Loads slowly.
    from scipy.io import loadmat

    try:
        try:
            variables = loadmat(path, variable_names=[name])
        except NotImplementedError:
            # scipy's word for version 7.3.
            variables = dict(_hdf5_variable(path, name))
    except Exception as error:  # scipy and h5py fail each in their own way
        raise InputError(f"{path}: cannot be read as .mat ({error}); fetch it again") from error
    if name not in variables:
        raise InputError(f"{path}: no variable {name!r}; is it another file of that name?")
    return np.asarray(variables[name])


def _hdf5_variable(path: Path, name: str) -> Iterator[tuple[str, Shaped[np.ndarray, "..."]]]:
    import h5py

    with h5py.File(path) as file:
        if name not in file:
            return
        # HDF5 stores the axes the other way round.
        values = np.asarray(file[name]).T
        if h5py.check_ref_dtype(values.dtype) is None:
            yield name, values
            return
        cells = np.empty(values.shape, dtype=object)
        for index, reference in np.ndenumerate(values):
            cells[index] = np.asarray(file[reference]).T
        yield name, cells


def numbers_of(path: Path, values: Shaped[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """A variable as real numbers.

    Raises:
        InputError: it is something else.
    """
    if values.dtype.kind not in "iufb":
        raise InputError(f"{path}: has {values.dtype} where numbers belong; fix or remove the file")
    return values.astype(np.float64)


def landmarks_of(
    path: Path, values: Shaped[np.ndarray, "..."], *, num_points: int, origin: int
) -> Float[np.ndarray, "points 2"]:
    """Landmarks (points, 2) out of a variable that has a point in each row, 0-based.

    Args:
        path: the file, for the message.
        values: the variable; columns after x and y are left out.
        num_points: how many are expected.
        origin: number of the first pixel; MATLAB counts from 1.

    Raises:
        InputError: another shape, or a number that is not finite.
    """
    if values.ndim != 2 or values.shape[0] != num_points or values.shape[1] < 2:
        raise InputError(
            f"{path}: landmarks of shape {values.shape}, expected {num_points} points; fix or remove the file"
        )
    landmarks = numbers_of(path, values[:, :2]) - origin
    if not np.isfinite(landmarks).all():
        raise InputError(f"{path}: a landmark is not a finite number; fix or remove the file")
    return landmarks
