import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from flm.draw import (
    PREDICTION_COLOR,
    TRUTH_COLOR,
    Canvas,
    compare,
    contact_sheet,
    encode_png,
    write_png,
)
from flm.geometry import FaceBox
from flm.landmarks import IBUG_68

WHITE = (255, 255, 255)


def black(height: int = 40, width: int = 40) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def ink(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centroid and covariance of what is brighter than black, px of the picture."""
    weights = picture.sum(axis=2).astype(float)
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    centroid = np.average(points, axis=0, weights=weights.ravel())
    return centroid, np.cov(points.T, aweights=weights.ravel(), ddof=0)


def random_face(seed: int, side: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1 * side, 0.9 * side, (68, 2))


@pytest.mark.parametrize(("scale", "radius_px"), [(1, 3.0), (2, 1.5), (3, 1.5), (3, 4.0)])
def test_a_dot_stands_on_its_landmark(scale: int, radius_px: float) -> None:
    for landmark in np.random.default_rng(scale).uniform(12, 28, (100, 1, 2)):
        centroid, _ = ink(Canvas(black(), scale).dots(landmark, WHITE, radius_px).picture)
        np.testing.assert_allclose((centroid + 0.5) / scale - 0.5, landmark[0], atol=0.1)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_enlarging_keeps_the_pixels_under_their_landmarks(scale: int) -> None:
    picture = black()
    picture[17, 23] = 255
    centroid, _ = ink(Canvas(picture, scale).picture)
    np.testing.assert_allclose((centroid + 0.5) / scale - 0.5, [23, 17], atol=0.05)


def test_nothing_changes_the_picture_that_was_handed_in() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    before = picture.copy()
    truth, prediction = random_face(0, 64), random_face(1, 64)
    canvas = Canvas(picture).dots(truth, WHITE).box(FaceBox.around(truth))
    first = canvas.picture
    canvas.ellipses(truth, np.tile(np.eye(2), (68, 1, 1)), WHITE).caption("below")
    compare(picture, truth=truth, prediction=prediction, scheme=IBUG_68, caption="3.1 %", scale=1)
    contact_sheet([picture, picture], 2)
    np.testing.assert_array_equal(picture, before)
    assert first.shape == picture.shape


@pytest.mark.parametrize("angle_deg", [0, 30, 90, 140])
def test_an_ellipse_has_the_axes_of_the_covariance(angle_deg: float) -> None:
    angle = np.radians(angle_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    covariance = turn @ np.diag([36.0, 9.0]) @ turn.T
    canvas = Canvas(black(80, 80), 3).ellipses(np.array([[40.0, 40.0]]), covariance[None], WHITE, 2.0)
    outline = canvas.picture[..., 0] > 100
    filled = outline.astype(np.uint8)
    cv2.floodFill(filled, None, (121, 121), 1)
    centroid, spread = ink(np.repeat(filled[..., None], 3, axis=2))
    np.testing.assert_allclose(centroid, 3 * 40.5 - 0.5, atol=0.5)
    # The variance of a filled ellipse along an axis is a quarter of its half axis squared.
    half_axes = 2 * np.sqrt(np.linalg.eigvalsh(spread)) / 3
    np.testing.assert_allclose(half_axes, [6.0, 12.0], atol=0.5)
    np.testing.assert_allclose(spread / np.trace(spread), covariance / np.trace(covariance), atol=0.03)


def test_a_box_runs_around_the_pixels_that_it_covers() -> None:
    drawn = (
        Canvas(black(), 4).box(FaceBox(left=10.0, top=5.0, width=20.0, height=8.0), WHITE).picture[..., 0]
        > 128
    )
    rows, columns = np.nonzero(drawn.any(axis=1))[0], np.nonzero(drawn.any(axis=0))[0]
    # The edge of pixel 10 at four times the size lies at 4 · 10 - 0.5.
    np.testing.assert_allclose([columns[0], columns[-1]], [4 * 10 - 0.5, 4 * 30 - 0.5], atol=1)
    np.testing.assert_allclose([rows[0], rows[-1]], [4 * 5 - 0.5, 4 * 13 - 0.5], atol=1)
    assert not drawn[24:48, 44:116].any()


def test_a_segment_joins_a_point_with_its_counterpart() -> None:
    start, end = np.array([[5.0, 5.0], [5.0, 30.0]]), np.array([[25.0, 5.0], [15.0, 30.0]])
    drawn = Canvas(black()).segments(start, end, WHITE).picture[..., 0] > 128
    assert drawn[5, 5:26].all()
    assert drawn[30, 5:16].all()
    assert drawn.sum() == 21 + 11


def test_lines_join_the_landmarks_of_the_scheme_and_close_eyes_and_lips() -> None:
    landmarks = random_face(3, 200)
    drawn = Canvas(black(200, 200)).lines(landmarks, IBUG_68, WHITE).picture[..., 0] > 40
    for line in IBUG_68.lines:
        neighbours = list(zip(line.points, line.points[1:], strict=False))
        for a, b in [*neighbours, *([(line.points[-1], line.points[0])] if line.closed else [])]:
            middle = np.round((landmarks[a] + landmarks[b]) / 2).astype(int)
            assert drawn[middle[1] - 1 : middle[1] + 2, middle[0] - 1 : middle[0] + 2].any()


def test_truth_and_prediction_are_told_apart_by_their_colours() -> None:
    truth = random_face(0, 100)
    drawn = compare(black(100, 100), truth=truth, prediction=truth + 12, scheme=IBUG_68, scale=3)
    for landmarks, color in ((truth, TRUTH_COLOR), (truth + 12, PREDICTION_COLOR)):
        centers = np.round((landmarks + 0.5) * 3 - 0.5).astype(int)
        seen = drawn[centers[:, 1].clip(0, 299), centers[:, 0].clip(0, 299)].astype(int)
        hit = (np.abs(seen - color).max(axis=1) < 40).mean()
        assert hit > 0.8


def test_a_diverged_prediction_is_drawn_without_an_error() -> None:
    truth = random_face(0, 100)
    wild = truth.copy()
    wild[0], wild[1] = [np.nan, 5], [1e30, -np.inf]
    drawn = compare(black(100, 100), truth=truth, prediction=wild, scheme=IBUG_68)
    assert drawn.shape == (200, 200, 3)


def test_a_caption_stands_below_and_stays_within_the_width() -> None:
    picture = np.full((30, 90, 3), 77, np.uint8)
    for text in ("2.31 %", "2.31 %  " + "a_very_long_name_of_a_picture" * 2):
        captioned = Canvas(picture).caption(text).picture
        np.testing.assert_array_equal(captioned[:30], picture)
        assert captioned.shape[1] == 90
        assert captioned[30:].max() > 150
    short = Canvas(picture).caption("2.31 %").picture[30:]
    assert short[:, -8:].max() < 50


def test_a_sheet_holds_every_tile_row_by_row() -> None:
    tiles = [np.full((20 + i, 30, 3), 50 * (i + 1), np.uint8) for i in range(5)]
    sheet = contact_sheet(tiles, 3)
    seen = [int((sheet == 50 * (i + 1)).all(axis=2).sum()) for i in range(5)]
    assert seen == [tile.shape[0] * tile.shape[1] for tile in tiles]
    tops = [np.argwhere((sheet == 50 * (i + 1)).all(axis=2)).min(axis=0).tolist() for i in range(5)]
    assert [top for top, _ in tops] == [6, 6, 6, 36, 36]
    assert [left for _, left in tops] == [6, 42, 78, 6, 42]
    with_legend = contact_sheet(tiles, 3, {"truth": TRUTH_COLOR})
    np.testing.assert_array_equal(with_legend[-sheet.shape[0] :], sheet)
    assert with_legend[: -sheet.shape[0], :, 1].max() > 150
    with pytest.raises(ValueError, match="0 tiles"):
        contact_sheet([], 3)


def test_a_written_picture_reads_back_as_it_was(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    path = tmp_path / "new" / "picture.png"
    write_png(path, picture)
    assert path.read_bytes() == encode_png(picture)
    read = cv2.imread(str(path))
    assert read is not None
    np.testing.assert_array_equal(read[..., ::-1], picture)


def test_a_canvas_does_not_shrink() -> None:
    with pytest.raises(ValueError, match="0 times"):
        Canvas(black(), 0)


def test_drawing_loads_neither_torch_nor_matplotlib() -> None:
    code = "import sys, flm.draw; print([m for m in ('torch', 'matplotlib', 'kornia') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
