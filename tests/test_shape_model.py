"""What is usual is learnt from the faces themselves, and a planted mistake is found and put right."""

import numpy as np
import pytest
from conftest import MEAN_FACE_UNIT
from hypothesis import given, settings
from hypothesis import strategies as st

from flm.landmarks import IBUG_68
from shards.inspection.shape_model import MIN_FACES, ShapeModel
from shards.synthesis.pose import draw_head

NUM_FACES = 400
RENDERED = np.stack([draw_head(3, index, 256).landmarks_image for index in range(NUM_FACES)])
"""Landmarks of heads of random shape, expression and pose, px."""

MODEL = ShapeModel.fit(RENDERED, IBUG_68)


def eye_distance(landmarks: np.ndarray) -> np.ndarray:
    right, left = IBUG_68.outer_eye_corners
    return np.linalg.norm(landmarks[..., right, :] - landmarks[..., left, :], axis=-1)


def moved(landmarks: np.ndarray, *, turn_deg: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    angle = np.deg2rad(turn_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return landmarks @ (scale * turn).T + np.array(shift)


def test_the_mean_is_level_symmetric_and_of_unit_size():
    right, left = IBUG_68.outer_eye_corners
    np.testing.assert_allclose(MODEL.mean[left] - MODEL.mean[right], [1, 0], atol=1e-9)
    np.testing.assert_allclose(MODEL.mean.mean(axis=0), 0, atol=1e-9)
    mirrored = MODEL.mean[list(IBUG_68.mirror_permutation)] * [-1, 1]
    np.testing.assert_allclose(MODEL.mean, mirrored, atol=1e-6)


def test_the_mean_of_one_shape_is_that_shape():
    """Copies of a symmetric face, each elsewhere, of another size and tilt."""
    mirrored = MEAN_FACE_UNIT[list(IBUG_68.mirror_permutation)] * [-1, 1] + [1, 0]
    face = (MEAN_FACE_UNIT + mirrored) / 2
    random = np.random.default_rng(0)
    copies = np.stack(
        [
            moved(face, turn_deg=random.normal(0, 20), scale=random.uniform(20, 900), shift=(300.0, -50.0))
            for _ in range(MIN_FACES)
        ]
    )
    model = ShapeModel.fit(copies, IBUG_68)
    expected = (face - face.mean(axis=0)) / eye_distance(face)
    np.testing.assert_allclose(model.mean, expected, atol=1e-6)
    assert np.isfinite(model.deviations(copies).distance).all()


@settings(max_examples=20, deadline=None)
@given(
    turn_deg=st.floats(-40, 40),
    scale=st.floats(0.01, 100),
    shift=st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)),
)
def test_position_size_and_roll_do_not_matter(turn_deg, scale, shift):
    alike = moved(RENDERED, turn_deg=turn_deg, scale=scale, shift=shift)
    before, after = MODEL.deviations(RENDERED), MODEL.deviations(alike)
    np.testing.assert_allclose(after.distance, before.distance, rtol=1e-4)
    expected = MODEL.expected(RENDERED[0], IBUG_68.parts["mouth"])
    expected_alike = MODEL.expected(alike[0], IBUG_68.parts["mouth"])
    moved_alike = moved(expected, turn_deg=turn_deg, scale=scale, shift=shift)
    np.testing.assert_allclose(expected_alike, moved_alike, atol=1e-5 * scale * 256 + 1e-6)


def test_mirror_twins_are_as_unusual_as_each_other():
    twins = RENDERED[:, list(IBUG_68.mirror_permutation)] * [-1, 1] + [256, 0]
    distances = MODEL.deviations(np.concatenate([RENDERED, twins])).distance
    np.testing.assert_allclose(distances[:NUM_FACES], distances[NUM_FACES:], rtol=1e-6)


def plant(kind: str, face: np.ndarray, random: np.random.Generator) -> tuple[int, ...]:
    """Make a mistake, in place; the points that it is about."""
    if kind == "a stray point":
        point = int(random.integers(17, 68))
        angle = random.uniform(0, 2 * np.pi)
        face[point] += 0.2 * eye_distance(face) * np.array([np.cos(angle), np.sin(angle)])
        return (point,)
    if kind == "two points swapped":
        point = int(random.choice([18, 25, 38, 43, 50, 57]))
        face[[point, point + 1]] = face[[point + 1, point]]
        return (point, point + 1)
    points = {"a brow backwards": np.arange(17, 22), "a mouth that slipped": np.arange(48, 68)}[kind]
    if kind == "a brow backwards":
        face[points] = face[points[::-1]]
    else:
        face[points] += 0.35 * eye_distance(face) * np.array([1.0, 0.0])
    return tuple(points.tolist())


@pytest.mark.parametrize(
    "kind", ["a stray point", "two points swapped", "a brow backwards", "a mouth that slipped"]
)
def test_planted_mistakes_are_the_most_unusual_faces(kind):
    random = np.random.default_rng(1)
    faces = RENDERED.copy()
    wrong = random.choice(NUM_FACES, 10, replace=False)
    about = {int(index): plant(kind, faces[index], random) for index in wrong}
    model = ShapeModel.fit(faces, IBUG_68)
    found = model.deviations(faces)
    ranked = np.argsort(-found.distance)
    # Fitted to the mistakes too, and winks and grimaces are among the others.
    assert len(set(ranked[:24].tolist()) & set(about)) >= 9
    assert np.median(found.distance) == pytest.approx(1, abs=0.15)
    for index in set(ranked[:10].tolist()) & set(about):
        part = next(name for name, points in IBUG_68.parts.items() if about[index][0] in points)
        assert found.worst_part[index] == part


def test_the_rest_of_the_face_puts_a_mistake_right():
    errors_before, errors_after = [], []
    for index in range(40):
        face = RENDERED[index].copy()
        face[48:68] += 0.35 * eye_distance(face) * np.array([1.0, 0.3])
        expected = MODEL.expected(face, IBUG_68.parts["mouth"])
        np.testing.assert_allclose(expected[:48], face[:48], atol=1e-9)
        true = RENDERED[index, 48:]
        errors_before.append(np.linalg.norm(face[48:] - true, axis=1).mean() / eye_distance(face))
        errors_after.append(np.linalg.norm(expected[48:] - true, axis=1).mean() / eye_distance(face))
    assert np.median(errors_before) > 0.3
    assert np.median(errors_after) < 0.15


def test_modes_and_ellipses_are_those_of_the_covariance():
    modes, shares = MODEL.modes(136), MODEL.explained_shares(136)
    flat = modes.reshape(136, -1)
    np.testing.assert_allclose(flat.T @ flat, MODEL.covariance, atol=1e-9)
    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares) <= 1e-12).all()
    ellipses = MODEL.point_covariance()
    np.testing.assert_allclose(ellipses[5], MODEL.covariance[10:12, 10:12])
    # Turning the head moves the jaw far more than the eyes.
    assert np.trace(ellipses[4]) > 2 * np.trace(ellipses[39])


@pytest.mark.parametrize("num_faces", [MIN_FACES, 60])
def test_few_faces_are_enough_for_an_honest_answer(num_faces):
    faces = RENDERED[:num_faces].copy()
    faces[7, 62] += 0.6 * eye_distance(faces[7])
    found = ShapeModel.fit(faces, IBUG_68).deviations(faces)
    assert found.distance.argmax() == 7
    assert found.worst_point[7] == 62


def test_too_few_faces_are_refused():
    with pytest.raises(ValueError, match=f"expected at least {MIN_FACES}"):
        ShapeModel.fit(RENDERED[: MIN_FACES - 1], IBUG_68)


def test_a_face_that_is_a_single_point_breaks_nothing():
    faces = RENDERED[:100].copy()
    faces[3] = 17.0
    found = ShapeModel.fit(faces, IBUG_68).deviations(faces)
    assert np.isfinite(found.distance).all()
