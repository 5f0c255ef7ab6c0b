"""One `.pts` file: the landmarks of the face in the picture of the same name."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from flm.errors import InputError
from flm.landmarks import LandmarkScheme

PTS_ORIGIN = 1
"""The `.pts` of the iBUG data sets count pixels from 1, everything here from 0."""


def read_pts_file(
    path: Path, scheme: LandmarkScheme, *, origin: int = PTS_ORIGIN
) -> Float[np.ndarray, "points 2"]:
    """Landmarks in px of the picture, 0-based.

    Args:
        path: the file.
        scheme: how many points there are.
        origin: the number of the first pixel.

    Raises:
        InputError: it is malformed or has another number of points; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); replace the file") from error
    stripped = [line.strip() for line in lines]
    if "{" not in stripped or "}" not in stripped:
        raise InputError(f"{path}: no points in braces; replace the file or remove it")
    points: list[list[float]] = []
    first, last = stripped.index("{") + 1, stripped.index("}")
    for number in range(first, last):
        try:
            x, y = (float(word) for word in stripped[number].split())
        except ValueError as error:
            raise InputError(
                f"{path}:{number + 1}: expected x and y, got {lines[number]!r}; fix it"
            ) from error
        points.append([x, y])
    if len(points) != scheme.num_points:
        raise InputError(
            f"{path}: {len(points)} points, expected {scheme.num_points} ({scheme.name}); "
            "fix or remove the file"
        )
    return np.array(points, dtype=np.float64) - origin


def pts_text(landmarks_image: Float[np.ndarray, "points 2"]) -> str:
    """What a `.pts` file of these landmarks holds, as those of iBUG do.

    Args:
        landmarks_image: px of the picture, 0-based; the file counts from 1.
    """
    lines = "\n".join(f"{x:.6f} {y:.6f}" for x, y in (landmarks_image + PTS_ORIGIN).tolist())
    return f"version: 1\nn_points:  {len(landmarks_image)}\n{{\n{lines}\n}}\n"
