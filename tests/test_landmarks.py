"""The scheme agrees with itself and with the shape of a face."""

import dataclasses
import pickle

import numpy as np
import pytest
from conftest import MEAN_FACE_UNIT

from flm.errors import InputError
from flm.landmarks import IBUG_68, scheme_named


def test_mirroring_a_symmetric_face_gives_it_back():
    face = MEAN_FACE_UNIT - [0.5, 0]
    mirrored = (face * [-1, 1])[list(IBUG_68.mirror_permutation)]
    assert np.abs(mirrored - face).max() < 1e-9


def test_a_mirrored_left_eye_is_the_right_eye():
    assert {IBUG_68.mirror_permutation[i] for i in IBUG_68.left_eye} == set(IBUG_68.right_eye)
    right, left = IBUG_68.outer_eye_corners
    assert IBUG_68.mirror_permutation[right] == left


def test_parts_mirror_onto_themselves_and_lines_stay_lines():
    for part in IBUG_68.parts.values():
        assert {IBUG_68.mirror_permutation[i] for i in part} == set(part)
    pieces = {frozenset(line.points) for line in IBUG_68.lines}
    assert {frozenset(IBUG_68.mirror_permutation[i] for i in piece) for piece in pieces} == pieces


def test_every_point_is_drawn_once():
    assert sorted(i for line in IBUG_68.lines for i in line.points) == list(range(68))


def test_a_scheme_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="applied twice"):
        dataclasses.replace(IBUG_68, mirror_permutation=(*range(1, 68), 0))
    with pytest.raises(ValueError, match="do not cover"):
        dataclasses.replace(IBUG_68, parts={"jaw": tuple(range(17))})


def test_schemes_are_found_by_name():
    assert scheme_named("ibug-68") is IBUG_68
    with pytest.raises(InputError, match="'x' is unknown; known: ibug-68"):
        scheme_named("x")


def test_a_scheme_travels_as_its_name():
    assert pickle.loads(pickle.dumps(IBUG_68)) is IBUG_68
