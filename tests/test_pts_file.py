"""A `.pts` file gives its points from 0; a fault names the line."""

import numpy as np
import pytest

from flm.errors import InputError
from flm.faces.pts_file import read_pts_file
from flm.landmarks import IBUG_68, WFLW_98


def pts_text(points: np.ndarray) -> str:
    lines = "\n".join(f"{x:.6f} {y:.6f}" for x, y in points)
    return f"version: 1\nn_points:  {len(points)}\n{{\n{lines}\n}}\n"


@pytest.mark.parametrize("scheme", [IBUG_68, WFLW_98], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("origin", [0, 1])
def test_points_come_from_zero(tmp_path, scheme, origin):
    path = tmp_path / "face.pts"
    points = np.random.default_rng(0).uniform(-5, 900, (scheme.num_points, 2))
    path.write_text(pts_text(points))
    read = read_pts_file(path, scheme, origin=origin)
    np.testing.assert_allclose(read, points - origin, atol=1e-6)
    if origin == 1:
        assert (read == read_pts_file(path, scheme)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines[:5], *lines[6:]], "face.pts: 67 points, expected 68 (ibug-68)"),
        (lambda lines: [*lines[:5], "12.0", *lines[6:]], "face.pts:6: expected x and y, got '12.0'"),
        (lambda lines: [*lines[:5], "12 13 14", *lines[6:]], "face.pts:6: expected x and y"),
        (lambda lines: lines[4:], "face.pts: no points in braces"),
        (lambda _: [], "face.pts: no points in braces"),
    ],
)
def test_a_fault_names_the_line(tmp_path, change, message):
    path = tmp_path / "face.pts"
    path.write_text("\n".join(change(pts_text(np.zeros((68, 2))).splitlines())))
    with pytest.raises(InputError) as caught:
        read_pts_file(path, IBUG_68)
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(InputError, match=r"face\.pts: cannot be read"):
        read_pts_file(tmp_path / "face.pts", IBUG_68)
