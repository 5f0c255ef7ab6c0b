"""A face is like itself, however it is turned, and unlike others."""

import cv2
import numpy as np
from simulated_faces import drawn_faces, rendered_faces

from flm.bench.moving_faces import MovingFaces, Placement
from flm.faces.pose import mean_face
from flm.inference.tracking.appearance import Appearance, appearance_of, shape_distance, shape_of
from flm.landmarks import IBUG_68


def looks(face: int, placement: Placement) -> Appearance:
    """What a rendered face looks like in a video, to a network that errs a little."""
    faces = [rendered_faces(4)[face]]
    frame = MovingFaces(faces, [lambda _: placement], width=400, height=400, num_frames=1).frame(0)
    noise = np.random.default_rng(face).normal(0, 0.005 * placement.size_px, (68, 2))
    return appearance_of(frame.pixels, frame.landmarks[0] + noise, IBUG_68)


HERE = Placement(center_x=200.0, center_y=200.0, size_px=120.0)
TURNED = Placement(center_x=170.0, center_y=230.0, size_px=80.0, roll_deg=25.0)


def test_a_face_is_like_itself_and_unlike_others():
    first = [looks(face, HERE) for face in range(4)]
    second = [looks(face, TURNED) for face in range(4)]
    distances = np.array([[one.distance(other) for other in second] for one in first])
    assert (distances.argmin(axis=1) == np.arange(4)).all()
    assert distances.diagonal().max() < 1
    assert first[0].distance(first[0]) == 0


def test_looks_are_learned_slowly():
    one, other = looks(0, HERE), looks(1, HERE)
    learned = one.learned(other, 0.1)
    assert 0 < one.distance(learned) < 0.3 * one.distance(other)
    for _ in range(60):
        learned = learned.learned(other, 0.1)
    assert learned.distance(other) < 0.05


def test_shape_does_not_know_place_size_and_turn():
    face = mean_face()[:, :2] * 50
    turn = 3 * np.array([[0.6, -0.8], [0.8, 0.6]])
    moved = face @ turn.T + [100, 20]
    assert shape_distance(shape_of(face, IBUG_68), shape_of(moved, IBUG_68)) < 1e-9
    open_mouth = face.copy()
    open_mouth[55:60] += [0, 10]
    assert shape_distance(shape_of(face, IBUG_68), shape_of(open_mouth, IBUG_68)) > 0.02


def test_a_dimmer_face_is_nearer_than_another_one():
    face = drawn_faces(2)[0]
    other = drawn_faces(2)[1]
    dim = cv2.convertScaleAbs(face.picture, alpha=0.9)
    one = appearance_of(face.picture, face.landmarks, IBUG_68)
    assert one.distance(appearance_of(dim, face.landmarks, IBUG_68)) < 1
    assert one.distance(appearance_of(other.picture, other.landmarks, IBUG_68)) > 1.3
