"""The scheme agrees with itself and with the shape of a face."""

import dataclasses
import pickle

import numpy as np
import pytest
from conftest import MEAN_FACE_UNIT

from flm.errors import InputError
from flm.landmarks import IBUG_68, SCHEMES, WFLW_98, scheme_named


def loop(center_x: float, center_y: float, width: float, height: float, num_points: int) -> np.ndarray:
    """From the left over the top, as eyes and lips are numbered."""
    angles = np.pi + 2 * np.pi * np.arange(num_points) / num_points
    return np.stack([center_x + width / 2 * np.cos(angles), center_y + height / 2 * np.sin(angles)], axis=1)


def row(first_x: float, last_x: float, y: float, num_points: int) -> np.ndarray:
    return np.stack([np.linspace(first_x, last_x, num_points), np.full(num_points, y)], axis=1)


MEAN_FACE_98_UNIT = np.concatenate(
    [
        [[0.08 + 0.02625 * i, 0.35 + 0.55 * np.sin(np.pi * i / 32)] for i in range(33)],
        *(row(0.15, 0.43, 0.22, 5), row(0.42, 0.21, 0.26, 4)),
        *(row(0.57, 0.85, 0.22, 5), row(0.79, 0.58, 0.26, 4)),
        [[0.5, 0.38 + 0.06 * i] for i in range(4)],
        row(0.42, 0.58, 0.62, 5),
        *(loop(0.3, 0.38, 0.14, 0.06, 8), loop(0.7, 0.38, 0.14, 0.06, 8)),
        *(loop(0.5, 0.75, 0.28, 0.12, 12), loop(0.5, 0.75, 0.18, 0.04, 8)),
        [[0.3, 0.38], [0.7, 0.38]],
    ]
)
"""A rough face of 98 points, in a square of side 1, from the figure of the points, not from the scheme."""

MEAN_FACE_5_UNIT = np.array([[0.77, 0.38], [0.63, 0.38], [0.23, 0.38], [0.37, 0.38], [0.5, 0.62]])

MEAN_FACES = {"ibug-68": MEAN_FACE_UNIT, "wflw-98": MEAN_FACE_98_UNIT, "dlib-5": MEAN_FACE_5_UNIT}

every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda scheme: scheme.name)


@every_scheme
def test_mirroring_a_symmetric_face_gives_it_back(scheme):
    face = MEAN_FACES[scheme.name] - [0.5, 0]
    mirrored = (face * [-1, 1])[list(scheme.mirror_permutation)]
    assert np.abs(mirrored - face).max() < 1e-9


@every_scheme
def test_a_mirrored_left_eye_is_the_right_eye(scheme):
    assert {scheme.mirror_permutation[i] for i in scheme.left_eye} == set(scheme.right_eye)
    right, left = scheme.outer_eye_corners
    assert scheme.mirror_permutation[right] == left
    assert {*scheme.right_eye, *scheme.left_eye, right, left} <= set(scheme.parts["eyes"])


@every_scheme
def test_the_right_eye_is_on_the_left_of_the_picture_with_its_corner_outside(scheme):
    face = MEAN_FACES[scheme.name]
    right, left = (face[list(eye)].mean(axis=0) for eye in (scheme.right_eye, scheme.left_eye))
    right_corner, left_corner = face[list(scheme.outer_eye_corners)]
    assert right_corner[0] < right[0] < 0.5 < left[0] < left_corner[0]


@every_scheme
def test_parts_mirror_onto_themselves_and_lines_stay_lines(scheme):
    for part in scheme.parts.values():
        assert {scheme.mirror_permutation[i] for i in part} == set(part)
    pieces = {frozenset(line.points) for line in scheme.lines}
    assert {frozenset(scheme.mirror_permutation[i] for i in piece) for piece in pieces} == pieces


@every_scheme
def test_every_point_is_drawn_once(scheme):
    assert sorted(i for line in scheme.lines for i in line.points) == list(range(scheme.num_points))


@every_scheme
def test_a_line_joins_neighbours(scheme):
    face = MEAN_FACES[scheme.name]
    for line in scheme.lines:
        steps = np.linalg.norm(np.diff(face[list(line.points)], axis=0), axis=1)
        assert (steps < 0.15).all()
    assert WFLW_98.lines[-1].closed, "one point alone is drawn as a dot"


def test_a_scheme_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="applied twice"):
        dataclasses.replace(IBUG_68, mirror_permutation=(*range(1, 68), 0))
    with pytest.raises(ValueError, match="do not cover"):
        dataclasses.replace(IBUG_68, parts={"jaw": tuple(range(17))})


def test_schemes_are_found_by_name():
    assert scheme_named("ibug-68") is IBUG_68
    with pytest.raises(InputError, match="'x' is unknown; known: ibug-68, wflw-98, dlib-5"):
        scheme_named("x")


@every_scheme
def test_a_scheme_travels_as_its_name(scheme):
    assert pickle.loads(pickle.dumps(scheme)) is scheme
