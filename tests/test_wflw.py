"""WFLW's lists become shards whose faces count in each of their attributes; 98 points train as 68 do."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from test_landmarks import MEAN_FACE_98_UNIT
from test_layout import assert_one_line_naming, converted, draw_dots, landmarks_image
from tiny_runs import tiny

from flm.data.manifest import Manifest
from flm.errors import InputError
from flm.evaluation.evaluate_checkpoint import evaluate_checkpoint
from flm.geometry import FaceBox
from flm.inference.load import load
from flm.landmarks import WFLW_98
from flm.train import train
from shards.convert import ConvertOptions, convert
from shards.sources.wflw import LISTS, read_wflw

ATTRIBUTES = {
    "0--Parade/a.png": "0 0 0 0 0 0",
    "0--Parade/b.png": "1 0 0 0 0 1",
    "9--Press/c.png": "0 1 1 1 1 0",
    "9--Press/d.png": "0 0 0 0 0 1",
}
TEST = ("9--Press/c.png", "9--Press/d.png")


def line(landmarks: np.ndarray, attributes: str, file: str) -> str:
    points = " ".join(f"{value:.6f}" for value in landmarks.ravel())
    return f"{points} 20 30 119 139 {attributes} {file}"


def write_lists(source, lines: dict[str, list[str]]) -> None:
    lists = source / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    lists.mkdir(parents=True)
    for split, name in LISTS.items():
        (lists / name).write_text("".join(f"{text}\n" for text in lines[split]))


@pytest.fixture
def archive(tmp_path):
    source = tmp_path / "WFLW"
    drawn, lines = {}, {"train": [], "test": []}
    for seed, (file, attributes) in enumerate(ATTRIBUTES.items()):
        drawn[file] = draw_dots(source / "WFLW_images" / file, 98, seed)
        lines["test" if file in TEST else "train"].append(line(drawn[file], attributes, file))
    write_lists(source, lines)
    return source, drawn


def test_points_boxes_and_attributes(archive, tmp_path):
    source, drawn = archive
    out = tmp_path / "out"
    records = converted("wflw", out, "--source", source, "--validation-share", "0")
    assert set(records["test"]) == set(TEST)
    assert set(records["train"]) == set(ATTRIBUTES) - set(TEST)
    subsets = {}
    for of_split in records.values():
        for file, record in of_split.items():
            np.testing.assert_allclose(landmarks_image(record), drawn[file], atol=0.01)
            box = record.face_box_image
            assert (box.left, box.top, box.width, box.height) == (20, 30, 100, 110)
            assert (record.scheme, record.group) == ("wflw-98", file)
            subsets[file] = record.subset
    assert subsets == {
        "0--Parade/a.png": "",
        "0--Parade/b.png": "largepose+blur",
        "9--Press/c.png": "expression+illumination+makeup+occlusion",
        "9--Press/d.png": "blur",
    }
    assert Manifest.read(out).subsets["test"] == {
        **{"blur": 1, "expression": 1, "illumination": 1, "makeup": 1, "occlusion": 1}
    }


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda text: text.replace(" 0--Parade", "  0 0--Parade", 1), (":1: 208 words, expected 207",)),
        (lambda text: "x" + text, (":1: word 1 is 'x", "expected a number")),
        (lambda text: "nan" + text[text.index(" ") :], (":1: word 1 is 'nan'", "expected a number")),
        (lambda text: "1e308" + text[text.index(" ") :], (":1: word 1 is '1e308'", "expected a number")),
        (lambda text: text.replace(" 119 139 1", " 1e308 139 1"), (":2: word 199 is '1e308'",)),
        (lambda text: text.replace(" 0 0 0 0 0 0 ", " 0 0 2 0 0 0 "), (":1: word 203 is '2'", "0 or 1")),
        (
            lambda text: text.replace(" 20 30 119 139 1", " 20 30 19 139 1"),
            (":2: the box goes from (20, 30) to (19, 139)",),
        ),
        (
            lambda text: text.replace("a.png", "z.png"),
            ("1 of 4 listed pictures are missing: 0--Parade/z.png",),
        ),
    ],
)
def test_a_fault_names_file_and_line(archive, change, parts):
    source, _ = archive
    (path,) = source.rglob(LISTS["train"])
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError) as caught:
        read_wflw(source)
    assert_one_line_naming(caught, str(source), *parts)


def test_missing_pictures_are_counted_where_allowed(archive):
    source, _ = archive
    (source / "WFLW_images" / "0--Parade" / "a.png").unlink()
    data_set = read_wflw(source, allow_missing=True)
    assert len(data_set.faces) == 3
    assert data_set.left_out == {"missing pictures": 1}


def test_a_folder_that_is_not_wflw_is_told(tmp_path):
    with pytest.raises(InputError) as caught:
        read_wflw(tmp_path)
    assert_one_line_naming(caught, str(tmp_path), "expected one list_98pt_rect_attr_train.txt")


def draw_face_98(path, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    landmarks = MEAN_FACE_98_UNIT * random.uniform(60, 75) + random.uniform(10, 25, 2)
    landmarks += random.normal(0, 0.5, landmarks.shape)
    picture = np.full((112, 112, 3), random.integers(20, 90, 3), np.uint8)
    for x, y in landmarks:
        cv2.circle(picture, (round(x * 16), round(y * 16)), 24, (200, 160, 140), -1, cv2.LINE_AA, shift=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture)
    return landmarks


@pytest.mark.usefixtures("fresh_accelerator")
def test_98_points_train_and_are_measured_as_68_are(tmp_path):
    source = tmp_path / "WFLW"
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for number in range(24):
        file = f"{number}.png"
        landmarks = draw_face_98(source / "WFLW_images" / file, number)
        lines["test" if number >= 20 else "train"].append(line(landmarks, "0 0 0 0 1 1", file))
    write_lists(source, lines)
    data = tmp_path / "data"
    convert(read_wflw(source), data, ConvertOptions(crop_size_px=96, processes=1))

    config = tiny(data, tmp_path / "run", steps=2, eval_every_steps=2)
    with pytest.raises(InputError, match=r"the shards have wflw-98 landmarks, --model\.scheme is ibug-68"):
        train(config)
    run = train(dataclasses.replace(config, model=dataclasses.replace(config.model, scheme="wflw-98")))

    report, _ = evaluate_checkpoint(run, str(data), split="test", num_workers=0)
    table = json.loads(json.dumps(report.to_json()))
    assert set(table["subsets"]) == {"blur", "occlusion", "full"}
    assert set(table["parts"]) == set(WFLW_98.parts)
    for name in ("nme_pct", "nme_inter_pupil_pct", "nme_box_pct"):
        assert 0 < table[name] < 1000
    whole = FaceBox.of_picture(320, 240)
    (face,) = load(run).predict(source / "WFLW_images" / "0.png", [whole])
    assert face.landmarks_image.shape == (98, 2)
