"""A generated video shows its faces where its truth says, and measures what it should."""

import cv2
import numpy as np
import pytest
from simulated_faces import drawn_faces

from flm.bench.face_paths import crossing, faces_of_shards, still, swaying
from flm.bench.moving_faces import FacePicture, MovingFaces, Placement
from flm.errors import InputError
from flm.geometry import FaceBox

SIZE = {"width": 320, "height": 240}


def dotted() -> FacePicture:
    """Five blue dots, of which the truth knows the places."""
    landmarks = np.array([[60.0, 80], [100, 80], [80, 80], [80, 60], [80, 100]])
    picture = np.full((160, 160, 3), 230, np.uint8)
    for x, y in landmarks.tolist():
        cv2.circle(picture, (int(x), int(y)), 3, (0, 0, 255), -1, cv2.LINE_AA)
    return FacePicture(picture=picture, landmarks=landmarks)


@pytest.mark.parametrize("time_s", [0.0, 0.3, 0.7, 1.4])
def test_pixels_are_where_the_truth_says(time_s):
    path = swaying(160.0, 120.0, 80.0, reach=0.4)
    video = MovingFaces([dotted()], [path], num_frames=60, noise=0.0, **SIZE)
    frame = video.frame(round(time_s * 30))
    blue = frame.pixels[..., 2].astype(float) - frame.pixels[..., 0]
    for x, y in frame.landmarks[0].tolist():
        rows, columns = np.mgrid[round(y) - 6 : round(y) + 7, round(x) - 6 : round(x) + 7]
        weights = np.clip(blue[rows, columns] - 60, 0, None)
        found = np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()
        np.testing.assert_allclose(found, [x, y], atol=0.35)


def test_a_placement_says_where_and_how_large():
    placement = Placement(center_x=150.0, center_y=110.0, size_px=60.0, roll_deg=90.0)
    frame = MovingFaces([dotted()], [lambda _: placement], num_frames=1, **SIZE).frame(0)
    box = FaceBox.around(frame.landmarks[0])
    assert (box.center_x, box.center_y) == pytest.approx((150, 110))
    assert box.long_side == pytest.approx(60, abs=1)
    # Clockwise as seen: what was on the left is above.
    assert frame.landmarks[0][0] == pytest.approx([150.0, 80.73], abs=0.5)


def test_frames_are_the_same_each_time_and_differ_by_their_noise():
    video = MovingFaces(drawn_faces(1), [still(160.0, 120.0, 80.0)], noise=3.0, num_frames=3, **SIZE)
    first, second = video.frame(0).pixels, video.frame(1).pixels
    np.testing.assert_array_equal(first, video.frame(0).pixels)
    difference = second.astype(int) - first
    assert difference.std() == pytest.approx(3 * np.sqrt(2), rel=0.05)
    assert [frame.number for frame in video] == [0, 1, 2]
    assert len(video) == 3


def test_what_is_hidden_is_known():
    here, beside = still(120.0, 120.0, 60.0), still(150.0, 120.0, 60.0)
    far, outside = still(260.0, 120.0, 40.0), still(320.0, 120.0, 40.0)
    faces = drawn_faces(4)
    frame = MovingFaces(faces, [here, beside, far, outside], num_frames=1, **SIZE).frame(0)
    assert frame.visible[1] == frame.visible[2] == 1
    assert frame.visible[0] < 0.5
    assert 0.2 < frame.visible[3] < 0.8
    gone = MovingFaces(faces[:1], [lambda _: None], num_frames=1, **SIZE).frame(0)
    assert gone.landmarks == gone.visible == {}


def test_four_faces_cross_leave_and_come_back():
    video = MovingFaces(drawn_faces(4), crossing(320, 240, size_px=40.0), num_frames=100, frames_per_s=10.0)
    hidden = dict.fromkeys(range(4), 0)
    gone = dict.fromkeys(range(4), 0)
    for frame in (video.frame(number) for number in range(0, 100, 3)):
        for face in range(4):
            hidden[face] += frame.visible.get(face, 1.0) < 0.3
            gone[face] += face not in frame.visible
    assert hidden[0] > 0
    assert hidden[1] > 0
    assert hidden[2] == 0
    assert (gone[1], gone[2]) == (0, 0)
    assert min(gone[0], gone[3]) > 0


def test_each_face_needs_a_path():
    with pytest.raises(InputError, match="1 paths for 2 faces; give one for each"):
        MovingFaces(drawn_faces(2), [still(0.0, 0.0, 9.0)])


def test_faces_come_out_of_shards(make_shards, tmp_path):
    make_shards(tmp_path, {"test": 6}, size_px=220)
    faces = faces_of_shards(str(tmp_path), 3)
    assert len(faces) == 3
    assert len({face.picture.tobytes() for face in faces}) == 3
    for face in faces:
        assert face.picture.shape == (220, 220, 3)
        assert FaceBox.around(face.landmarks).long_side >= 100
    again = faces_of_shards(str(tmp_path), 3)
    assert all(np.array_equal(one.picture, other.picture) for one, other in zip(faces, again, strict=True))
    with pytest.raises(InputError, match="faces of test are large and look ahead, 7 are needed"):
        faces_of_shards(str(tmp_path), 7)
    with pytest.raises(InputError, match="no split 'train'"):
        faces_of_shards(str(tmp_path), 2, split="train")
