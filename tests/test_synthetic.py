import dataclasses
import hashlib
import os
import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest

from flm.errors import InputError
from flm.faces.pose import rotation_matrix
from flm.geometry import FaceBox
from flm.landmarks import IBUG_68
from shards.sources.synthetic import RenderedFace, annotations, subset_of
from shards.synthesis.hair import draw_hair
from shards.synthesis.portrait import paint_head, render
from shards.synthesis.pose import YAW_LIMIT_DEG, PosedHead, draw_head
from shards.synthesis.shape import close_eyes, close_mouth, draw_shape, mean_controls
from shards.synthesis.skin import draw_complexion, draw_light
from shards.synthesis.surface import landmark_texels, mean_surface, smooth_curve

SEED = 5
WHOLE = FaceBox.of_picture(10_000, 10_000)


@pytest.fixture(scope="module")
def faces():
    """60 faces with their pictures, 256 px."""
    return [
        (face.landmarks_image, face.picture.decode(WHOLE, 1.0).pixels)
        for face in annotations(num_faces=60, seed=SEED)
    ]


@pytest.fixture(scope="module")
def plain_heads():
    """20 heads in front of grey: the surface alone, without hair, glasses, occluders or a camera's faults."""
    return [(draw_head(SEED, index, 256), index) for index in range(20)]


def paint_plain(head: PosedHead, index: int) -> np.ndarray:
    rng = np.random.default_rng(index)
    light = dataclasses.replace(draw_light(rng), ambient=np.full(3, 0.5, np.float32))
    complexion = draw_complexion(rng, smile=0.0, raised_brows=0.0)
    complexion = dataclasses.replace(complexion, tone=np.array([0.85, 0.66, 0.55], np.float32))
    bare = np.zeros((256, 256), np.float32)
    style = dataclasses.replace(draw_hair(rng, complexion), alpha=bare, beard=None, volume=0.0)
    picture = np.full((256, 256, 3), 20, np.uint8)
    paint_head(picture, head, complexion, style, light, rng)
    return picture


def inside(polygon: np.ndarray, size: int = 256) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.round(polygon * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    return mask > 0


def across_contour(picture: np.ndarray, contour: np.ndarray, closed: bool, offset_px: float) -> float:
    """Mean change of brightness across a contour that is moved along its normals."""
    grey = cv2.GaussianBlur(picture.astype(np.float32).mean(2), (0, 0), 0.7)
    curve = smooth_curve(contour, closed=closed, steps=4)
    along = np.gradient(curve, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], 1) / np.maximum(np.hypot(*along.T), 1e-6)[:, None]
    sides = [(curve + normal * (offset_px + step)).astype(np.float32) for step in (-1.0, 1.0)]
    values = [
        cv2.remap(grey, side[:, :1].copy(), side[:, 1:].copy(), cv2.INTER_LINEAR)[:, 0] for side in sides
    ]
    return float(np.abs(values[0] - values[1]).mean())


def test_a_face_depends_on_its_seed_and_number_only():
    backwards = {index: render(SEED, index, 128) for index in (7, 3, 0)}
    few = list(annotations(num_faces=10, seed=SEED, picture_size_px=128))
    many = list(annotations(num_faces=40, seed=SEED, picture_size_px=128))
    for index, picture in backwards.items():
        assert np.array_equal(few[index].picture.decode(WHOLE, 1.0).pixels, picture)
        assert np.array_equal(few[index].landmarks_image, many[index].landmarks_image)
        assert few[index].face_box_image == many[index].face_box_image
    assert not np.array_equal(backwards[7], backwards[3])
    assert not np.array_equal(backwards[7], render(SEED + 1, 7, 128))


@pytest.mark.multiprocess
def test_another_process_with_other_threads_renders_the_same_bytes():
    program = (
        "import cv2, hashlib; cv2.setNumThreads(1); from shards.synthesis.portrait import render;"
        f"print([hashlib.sha256(render({SEED}, i, 256).tobytes()).hexdigest() for i in range(12)])"
    )
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    other = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **threads},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == str(
        [hashlib.sha256(render(SEED, i, 256).tobytes()).hexdigest() for i in range(12)]
    )


def test_pictures_survive_pickling():
    face = RenderedFace(SEED, 4, 96)
    again = pickle.loads(pickle.dumps(face))
    assert again == face
    picture = again.decode(WHOLE, 1.0).pixels
    assert picture.shape == (96, 96, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, face.decode(WHOLE, 1.0).pixels)


def test_landmarks_are_finite_and_mostly_inside_at_any_size():
    for size in (64, 256, 300):
        points = np.stack(
            [a.landmarks_image for a in annotations(num_faces=200, seed=1, picture_size_px=size)]
        )
        assert np.isfinite(points).all()
        assert ((points > -0.5) & (points < size - 0.5)).all(-1).mean() > 0.97
        sides = (points.max(1) - points.min(1)).max(1) / size
        assert 0.349 < sides.min() < 0.4
        assert 0.6 < sides.max() < 0.651


def test_a_larger_picture_shows_the_same_face_larger():
    small, large = (render(SEED, 2, size).astype(np.float32) for size in (128, 256))
    places = [draw_head(SEED, 2, size).landmarks_image for size in (128, 256)]
    assert np.allclose((places[0] + 0.5) * 2, places[1] + 0.5)
    shrunk = cv2.resize(large, (128, 128), interpolation=cv2.INTER_AREA)
    face = inside(places[0][:27], 128)
    assert np.corrcoef(small[face].ravel(), shrunk[face].ravel())[0, 1] > 0.8


def test_split_subset_names_and_boxes_follow_the_rule():
    found = list(annotations(num_faces=200, seed=2))
    assert sum(a.split == "test" for a in found) == 20
    assert {a.split for a in annotations(num_faces=10, seed=2)} == {"train", "test"}
    assert [a.source_file for a in found[:2]] == ["synthetic/000000", "synthetic/000001"]
    assert len({a.group for a in found}) == 200
    yaws = np.array([draw_head(2, index, 256).view.yaw_deg for index in range(200)])
    assert [a.subset for a in found] == [subset_of(yaw) for yaw in yaws]
    assert [subset_of(yaw) for yaw in (-14.9, 15.0, -30.0, 30.1)] == [
        "frontal",
        "turned",
        "turned",
        "profile",
    ]
    for a in found:
        box, points = a.face_box_image, a.landmarks_image
        assert box.width == box.height
        truth = np.array([points.min(0) + points.max(0)])[0] / 2
        away = np.hypot(box.center_x - truth[0], box.center_y - truth[1])
        assert away < 0.15 * box.width


def test_yaw_reaches_45_degrees_either_way():
    yaws = np.array([draw_head(3, index, 256).view.yaw_deg for index in range(600)])
    assert np.abs(yaws).max() <= YAW_LIMIT_DEG
    assert yaws.max() > 40
    assert yaws.min() < -40
    assert abs(yaws.mean()) < 4
    assert min((np.abs(yaws) < 15).mean(), (np.abs(yaws) > 30).mean()) > 0.12


def test_a_positive_yaw_looks_to_the_right_and_a_positive_pitch_down():
    nose = np.array([0.0, 0.0, 1.0])
    assert (rotation_matrix(30.0, 0.0, 0.0) @ nose)[0] > 0.4
    assert (rotation_matrix(0.0, 20.0, 0.0) @ nose)[1] > 0.3
    assert (rotation_matrix(0.0, 0.0, 20.0) @ [1.0, 0.0, 0.0])[1] > 0.3


def test_the_mean_shape_is_its_own_mirror_image():
    landmarks = mean_controls()[:68]
    mirrored = landmarks[list(IBUG_68.mirror_permutation)] * [-1, 1, 1]
    assert np.allclose(mirrored, landmarks)
    left, right = IBUG_68.outer_eye_corners
    assert landmarks[right, 0] - landmarks[left, 0] == pytest.approx(1.0)


def test_the_surface_passes_through_the_landmarks():
    texels = landmark_texels().astype(np.float32)
    surface = np.ascontiguousarray(mean_surface())
    found = cv2.remap(surface, texels[:, :1].copy(), texels[:, 1:].copy(), cv2.INTER_LINEAR)[:, 0]
    assert np.abs(found - mean_controls()[:68]).max() < 0.02


def test_lids_and_lips_meet_and_never_cross():
    controls = mean_controls().copy()
    close_eyes(controls, (1.0, 1.0))
    close_mouth(controls, 1.0)
    for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46), (61, 67), (62, 66), (63, 65)):
        assert 0 <= controls[lower, 1] - controls[upper, 1] < 0.01
    for index in range(300):
        points = draw_shape(np.random.default_rng(index)).controls
        for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46), (61, 67), (62, 66), (63, 65)):
            assert points[lower, 1] - points[upper, 1] > -0.005
            # Both follow the jaw, so a mouth has lips between its outer and inner points.
        assert (points[[61, 62, 63], 1] > points[[50, 51, 52], 1]).all()
        assert (points[[67, 66, 65], 1] < points[[58, 57, 56], 1]).all()


@pytest.mark.parametrize(
    ("points", "closed"),
    [(slice(36, 42), True), (slice(42, 48), True), (slice(48, 60), True), (slice(4, 13), False)],
    ids=["right eye", "left eye", "lips", "jaw"],
)
def test_brightness_changes_most_where_the_contour_is_marked(plain_heads, points, closed):
    offsets = (-6.0, -3.0, 0.0, 3.0, 6.0)
    changes = np.zeros(len(offsets))
    for head, index in plain_heads:
        # Beyond 20 degrees the far cheek hides the 3-D jaw.
        if abs(head.view.yaw_deg) < 20 and max(head.shape.closed_eyes) < 0.5:
            picture = paint_plain(head, index)
            changes += [
                across_contour(picture, head.landmarks_image[points], closed, offset) for offset in offsets
            ]
    assert changes.sum() > 0
    assert np.argmax(changes) == 2, changes


def test_lips_are_redder_than_the_skin_around(faces):
    redder = []
    for landmarks, picture in faces:
        red, green, blue = np.moveaxis(picture.astype(np.float32) + 1, 2, 0)
        lips = inside(landmarks[48:60]) & ~inside(landmarks[60:68])
        center = landmarks[48:60].mean(0)
        around = inside(center + 1.7 * (landmarks[48:60] - center)) & ~inside(
            center + 1.25 * (landmarks[48:60] - center)
        )
        if np.abs(red - blue).max() > 3 and lips.any() and around.any():
            redness = red / (green + blue)
            redder.append(np.median(redness[lips]) > np.median(redness[around]))
    assert len(redder) > 40
    assert np.mean(redder) > 0.75


def test_an_open_eye_shows_an_iris_and_a_closed_one_does_not(plain_heads):
    spreads = []
    for head, index in plain_heads:
        if abs(head.view.yaw_deg) > 25 or max(head.shape.closed_eyes) > 0.2:
            continue
        landmarks = head.landmarks_image
        controls = head.shape.controls.copy()
        close_eyes(controls, (1.0, 1.0))
        closed = dataclasses.replace(head, shape=dataclasses.replace(head.shape, controls=controls))
        grey = [cv2.cvtColor(paint_plain(h, index), cv2.COLOR_RGB2GRAY) for h in (head, closed)]
        center = landmarks[36:42].mean(0)
        eye = inside(center + 0.8 * (landmarks[36:42] - center))
        spreads.append([float(np.ptp(np.percentile(g[eye], [2, 98]))) for g in grey])
    opened, shut = np.array(spreads).T
    assert len(spreads) >= 5
    assert (opened > 60).all()
    assert (opened > shut).mean() > 0.8


def test_pictures_use_the_whole_range_and_differ(faces):
    brightness = np.array([picture.mean() for _, picture in faces])
    assert 60 < brightness.mean() < 190
    assert brightness.std() > 15
    grey = [np.ptp(picture.astype(int), axis=2).max() <= 12 for _, picture in faces]
    assert 0 < np.mean(grey) < 0.35


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_faces": 9, "seed": 0}, "num_faces is 9, expected at least 10"),
        ({"num_faces": 10, "seed": -1}, "seed is -1"),
        ({"num_faces": 10, "seed": 0, "picture_size_px": 16}, "picture_size_px is 16"),
    ],
)
def test_bad_options_are_told_at_once(options, told):
    with pytest.raises(InputError, match=told):
        annotations(**options)
