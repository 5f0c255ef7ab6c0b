"""Files in, JSON and overlays out; one bad file does not stop the others."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import draw_face
from PIL import Image

from flm.checkpoint import TrainingState
from flm.checkpoint_writer import save_checkpoint
from flm.config import TrainConfig
from flm.draw import PREDICTION_COLOR
from flm.errors import InputError
from flm.geometry import FaceBox
from flm.inference.predict import overlay, predict, to_json
from flm.inference.predictor import Prediction, Predictor
from flm.landmarks import IBUG_68
from flm.model.network import ModelConfig, build_network
from flm.pictures import read_picture


def box_at(left: float, top: float, width: float, height: float) -> FaceBox:
    return FaceBox(left=float(left), top=float(top), width=float(width), height=float(height))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run's folder with a checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("run")
    config = TrainConfig(recipe="x", model=ModelConfig(backbone="xception_compact_slim", input_size_px=64))
    torch.manual_seed(0)
    weights = build_network(config.model).state_dict()
    state = TrainingState(step=1, manifest_hash="abc")
    save_checkpoint(folder, config, state, model=weights, training={}, is_best=True, keep=1)
    return folder


def write_face(path: Path, seed: int = 0, size_px: int = 96) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture, landmarks = draw_face(seed, size_px)
    Image.fromarray(picture).save(path)
    return landmarks


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_json_holds_what_the_predictor_says(run, tmp_path):
    path, box = tmp_path / "ä face.jpg", box_at(20, 10, 50, 60)
    write_face(path)
    assert predict(run, [path], out=tmp_path / "new" / "out", box=box) == []
    out = tmp_path / "new" / "out"
    assert names_in(out) == ["ä face.json", "ä face.png"]
    found = json.loads((out / "ä face.json").read_text())
    assert found.keys() == {"image", "width", "height", "faces"}
    assert (found["image"], found["width"], found["height"]) == (str(path), 96, 96)
    (face,) = found["faces"]
    assert face.keys() == {"box", "landmarks", "covariance"}
    assert face["box"] == {"left": 20, "top": 10, "width": 50, "height": 60}
    (expected,) = Predictor.load(run).predict(read_picture(path, upright=True), [box])
    np.testing.assert_allclose(face["landmarks"], expected.landmarks_image, atol=0.00051)
    assert expected.covariance_image is not None
    np.testing.assert_allclose(face["covariance"], expected.covariance_image, atol=0.00051)


def test_without_a_box_it_is_the_whole_picture(run, tmp_path):
    write_face(tmp_path / "a.png")
    predict(run, [tmp_path / "a.png"], out=tmp_path / "out")
    (face,) = json.loads((tmp_path / "out" / "a.json").read_text())["faces"]
    assert face["box"] == {"left": 0, "top": 0, "width": 96, "height": 96}


def test_a_network_without_maps_has_no_covariance():
    face = Prediction(
        box_image=box_at(0, 0, 9, 9),
        landmarks_image=np.full((68, 2), 1.23456),
        covariance_image=None,
    )
    found = to_json(Path("a.png"), np.zeros((9, 8, 3), np.uint8), [face])
    assert found["faces"][0]["covariance"] is None
    assert found["faces"][0]["landmarks"][0] == [1.235, 1.235]
    assert (found["width"], found["height"]) == (8, 9)


def test_coordinates_are_of_the_picture_as_viewers_turn_it(run, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((40, 80, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    predict(run, [tmp_path / "a.jpg"], out=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "a.json").read_text())
    assert (found["width"], found["height"]) == (40, 80)
    drawn = read_picture(tmp_path / "out" / "a.png", upright=True)
    assert drawn.shape[0] == 2 * drawn.shape[1]


@pytest.mark.parametrize(
    ("pictures", "names"),
    [
        (["x/a.png", "y/a.png", "z/a.jpg"], ["a", "a-2", "a-3"]),
        (["x/a.png", "y/a.png", "x/a-2.png"], ["a", "a-3", "a-2"]),
        (["x/a-2.png", "x/a.png", "y/a.png"], ["a-2", "a", "a-3"]),
        (["x/a-2.png", "y/a-2.png", "x/a.png", "y/a.png"], ["a-2", "a-2-2", "a", "a-3"]),
        (["x/a.b.png", "x/a.c.png"], ["a.b", "a.c"]),
    ],
)
def test_no_picture_takes_the_place_of_another(run, tmp_path, pictures, names):
    paths = [tmp_path / name for name in pictures]
    for seed, path in enumerate(paths):
        write_face(path, seed, size_px=40)
    assert predict(run, paths, out=tmp_path / "out") == []
    assert len(names_in(tmp_path / "out")) == 2 * len(paths)
    for path, name in zip(paths, names, strict=True):
        assert json.loads((tmp_path / "out" / f"{name}.json").read_text())["image"] == str(path)


def test_one_bad_file_is_told_and_the_others_are_done(run, tmp_path):
    paths = [tmp_path / name for name in ("a.png", "text.png", "none.png", "b.png")]
    write_face(paths[0])
    paths[1].write_text("no picture")
    write_face(paths[3])
    mistakes = predict(run, paths, out=tmp_path / "out")
    assert [str(mistake).partition(": ")[0] for mistake in mistakes] == [str(paths[1]), str(paths[2])]
    assert names_in(tmp_path / "out") == ["a.json", "a.png", "b.json", "b.png"]


def test_a_picture_is_never_replaced_by_its_overlay(run, tmp_path):
    write_face(tmp_path / "a.jpg")
    write_face(tmp_path / "b.png")
    before = (tmp_path / "b.png").read_bytes()
    with pytest.raises(InputError, match=r"b\.png: an overlay of that name would replace it; choose another"):
        predict(run, [tmp_path / "a.jpg", tmp_path / "b.png"], out=tmp_path / "c" / "..")
    assert (tmp_path / "b.png").read_bytes() == before
    assert names_in(tmp_path) == ["a.jpg", "b.png"]
    predict(run, [tmp_path / "a.jpg"], out=tmp_path)
    assert names_in(tmp_path) == ["a.jpg", "a.json", "a.png", "b.png"]


def test_a_folder_that_cannot_be_written_and_a_missing_checkpoint_are_told(run, tmp_path):
    write_face(tmp_path / "a.png")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"file/a\.json: cannot be written") as caught:
        predict(run, [tmp_path / "a.png"], out=tmp_path / "file")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no checkpoint here"):
        predict(tmp_path / "none", [tmp_path / "a.png"], out=tmp_path / "out")


def test_an_overlay_shows_box_and_landmarks_where_they_are():
    picture, landmarks = draw_face(2, 96)
    face = Prediction(
        box_image=box_at(8, 9, 70, 75),
        landmarks_image=landmarks,
        covariance_image=None,
    )
    drawn = overlay(picture, [face], IBUG_68)
    scale = 480 // 96
    assert drawn.shape == (480, 480, 3)
    centers = np.round((landmarks + 0.5) * scale - 0.5).astype(int)
    at_points = drawn[centers[:, 1], centers[:, 0]].astype(int)
    assert np.abs(at_points - PREDICTION_COLOR).max(axis=1).mean() < 20
    changed_rows = (drawn != cv2.resize(picture, None, fx=scale, fy=scale)).any(axis=(1, 2)).nonzero()[0]
    # The box's edges, half a pixel about the outermost ones that it covers.
    assert abs(changed_rows.min() - (9 * scale - 1)) <= 2
    assert abs(changed_rows.max() - 84 * scale) <= 2


def test_an_overlay_of_a_large_picture_has_its_size_and_one_of_no_face_is_plain():
    picture = np.random.default_rng(0).integers(0, 256, (500, 700, 3)).astype(np.uint8)
    np.testing.assert_array_equal(overlay(picture, [], IBUG_68), picture)
