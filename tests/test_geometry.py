"""Frames, boxes and the resampler, measured on drawn dots."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flm.geometry import FaceBox, crop_to_unit, resample, square_crop, transform_points, unit_to_crop

sides = st.floats(5, 500)
places = st.floats(-200, 200)
boxes = st.builds(FaceBox, left=places, top=places, width=sides, height=sides)


def centroid(picture: np.ndarray) -> np.ndarray:
    weight = picture[..., 0].astype(float)
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


@given(box=boxes, size=st.integers(16, 512), margin=st.floats(0, 1))
def test_the_square_crop_centres_the_box(box, size, margin):
    matrix = square_crop(box, size, margin)
    inside = box.mapped(matrix)
    assert inside.long_side == pytest.approx(size / (1 + 2 * margin))
    assert inside.center_x == pytest.approx((size - 1) / 2, abs=1e-6)
    assert inside.center_y == pytest.approx((size - 1) / 2, abs=1e-6)


@given(box=boxes, size=st.integers(16, 512))
def test_there_and_back(box, size):
    matrix = square_crop(box, size, 0.2)
    points = np.array([[1.0, 2.0], [-3.5, 80.25]])
    back = transform_points(transform_points(points, matrix), np.linalg.inv(matrix))
    assert np.abs(back - points).max() < 1e-6
    assert np.abs(unit_to_crop(crop_to_unit(points, size), size) - points).max() < 1e-9


def test_edges_of_the_unit_frame_are_edges_of_pixels():
    assert crop_to_unit(np.array([[-0.5, 127.5]]), 128).tolist() == [[0, 1]]


def test_arrays_and_tensors_agree_also_in_batches():
    random = np.random.default_rng(0)
    points = random.normal(size=(5, 7, 2))
    matrices = random.normal(size=(5, 3, 3))
    expected = transform_points(points, matrices)
    assert np.allclose(transform_points(torch.from_numpy(points), torch.from_numpy(matrices)), expected)
    assert np.allclose(transform_points(points[2], matrices[2]), expected[2])


def test_a_box_around_points_covers_their_pixels():
    box = FaceBox.around(np.array([[3.0, 4.0], [10.0, 5.0]]))
    assert (box.left, box.top, box.width, box.height) == (3, 4, 8, 2)
    assert FaceBox.of_picture(20, 10).center_x == 9.5


@pytest.mark.parametrize(
    "bad", [{"width": 0.0}, {"height": -1.0}, {"left": float("nan")}, {"top": float("inf")}]
)
def test_a_box_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="FaceBox"):
        FaceBox(**{"left": 0.0, "top": 0.0, "width": 5.0, "height": 5.0, **bad})


@pytest.mark.parametrize("side", [30, 64, 100, 190, 333, 580])
@pytest.mark.parametrize("place", [(401.0, 303.0), (398.3, 310.7)])
def test_a_dot_lands_where_its_point_lands(side, place):
    picture = np.zeros((600, 800, 3), np.uint8)
    center = (round(place[0] * 256), round(place[1] * 256))
    cv2.circle(picture, center, 8 * 256, (255, 255, 255), -1, cv2.LINE_AA, shift=8)
    matrix = square_crop(FaceBox(left=390.0, top=290.0, width=float(side), height=float(side)), 64, 0.4)
    found = centroid(resample(picture, matrix, 64))
    assert np.abs(found - transform_points(np.array([place]), matrix)[0]).max() < 0.06


def test_turned_crops_land_too():
    picture = np.zeros((300, 300, 3), np.uint8)
    cv2.circle(picture, (140, 160), 9, (255, 255, 255), -1, cv2.LINE_AA)
    turn = np.array([[0.3, -0.2, 40], [0.2, 0.3, -20], [0, 0, 1.0]])
    found = centroid(resample(picture, turn, 96))
    assert np.abs(found - transform_points(np.array([[140.0, 160.0]]), turn)[0]).max() < 0.06


@pytest.mark.parametrize("shrink", [1.5, 2.0, 3.7, 8.0, 13.0])
def test_shrinking_does_not_alias(shrink):
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (700, 700, 3)).astype(np.uint8)
    matrix = square_crop(FaceBox(left=20.0, top=20.0, width=32 * shrink, height=32 * shrink), 32, 0.0)
    # The mean of n² independent grey levels spreads n times less; sampling without a filter keeps all of it.
    assert resample(picture, matrix, 32).std() < 1.45 * picture.std() / shrink


def test_outside_the_picture_is_black_and_the_inside_keeps_its_level():
    picture = np.full((50, 60, 3), 200, np.uint8)
    crop = resample(picture, square_crop(FaceBox(left=-40.0, top=10.0, width=80.0, height=30.0), 80, 0.0), 80)
    assert (crop[:, :39] == 0).all()
    assert (crop[30:60, 45:75] == 200).all()
    nowhere = resample(
        picture, square_crop(FaceBox(left=500.0, top=500.0, width=9.0, height=9.0), 16, 0.0), 16
    )
    assert not nowhere.any()


def test_boxes_overlap_as_the_pixels_that_they_cover():
    random = np.random.default_rng(0)
    for _ in range(50):
        left, top, width, height = random.integers(1, 20, (4, 2)).tolist()
        ours = [
            FaceBox(left=float(a), top=float(b), width=float(c), height=float(d))
            for a, b, c, d in zip(left, top, width, height, strict=True)
        ]
        covered = np.zeros((2, 40, 40), bool)
        for layer, a, b, c, d in zip(covered, left, top, width, height, strict=True):
            layer[b : b + d, a : a + c] = True
        expected = (covered[0] & covered[1]).sum() / (covered[0] | covered[1]).sum()
        assert ours[0].overlap(ours[1]) == pytest.approx(expected)
        assert ours[1].overlap(ours[0]) == pytest.approx(expected)
