"""COCO's keypoint JSON and the faces of COCO-WholeBody become shards."""

import json
from collections import Counter

import numpy as np
import pytest
from test_layout import assert_one_line_naming, converted, draw_dots, landmarks_image

from flm.errors import InputError
from flm.geometry import FaceBox
from shards.sources.coco import read_coco
from shards.sources.layout import Listing


def triples(landmarks: np.ndarray, visibility: float = 2) -> list[float]:
    return [float(v) for x, y in landmarks for v in (x, y, visibility)]


def content(annotations: list[dict], files: list[str], num_points: int) -> dict:
    return {
        "images": [
            {"id": 100 + i, "file_name": file, "width": 1, "height": 1} for i, file in enumerate(files)
        ],
        "annotations": [{"id": 500 + i, **annotation} for i, annotation in enumerate(annotations)],
        "categories": [{"id": 1, "name": "face", "keypoints": [f"p{i}" for i in range(num_points)]}],
    }


def face(image: int, landmarks: np.ndarray, **changes) -> dict:
    fields = {"image_id": 100 + image, "category_id": 1, "bbox": [12.5, 20, 110, 120]}
    return {**fields, "keypoints": triples(landmarks), **changes}


@pytest.mark.parametrize(("num_points", "scheme"), [(68, "ibug-68"), (98, "wflw-98")])
def test_the_number_of_keypoints_tells_the_scheme(tmp_path, num_points, scheme):
    files = ["a.png", "b.png", "c.png"]
    drawn = {}
    (tmp_path / "annotations").mkdir()
    for split in ("train2017", "test2017"):
        landmarks = [draw_dots(tmp_path / split / file, num_points, seed) for seed, file in enumerate(files)]
        drawn[split] = dict(zip(files, landmarks, strict=True))
        annotations = [face(i, points) for i, points in enumerate(landmarks)]
        path = tmp_path / "annotations" / f"faces_{split}.json"
        path.write_text(json.dumps(content(annotations, files, num_points)))
    flags = ("--source", tmp_path / "annotations", "--validation-share", "0")
    records = converted("coco", tmp_path / "out", *flags)
    for split in ("train", "test"):
        assert set(records[split]) == set(files)
        for file, record in records[split].items():
            np.testing.assert_allclose(landmarks_image(record), drawn[f"{split}2017"][file], atol=0.01)
            assert record.face_box_image == FaceBox(left=12.5, top=20.0, width=110.0, height=120.0)
            assert (record.scheme, record.subset, record.group) == (scheme, "face", file)


def test_the_faces_of_whole_body(tmp_path):
    landmarks = draw_dots(tmp_path / "val2017" / "a.png", 68, 0)
    body = {"image_id": 100, "category_id": 1, "bbox": [0, 0, 5, 5], "keypoints": [0.0] * 51}
    people = [
        {**body, "face_valid": True, "face_box": [30, 31, 90, 91], "face_kpts": triples(landmarks, 0.4)},
        {**body, "face_valid": False, "face_box": [0] * 4, "face_kpts": [0] * 204},
    ]
    path = tmp_path / "coco_wholebody_val2017.json"
    path.write_text(json.dumps(content(people, ["a.png"], 17)))
    flags = ("--source", path, "--whole-body", "--split", "test")
    (record,) = converted("coco", tmp_path / "out", *flags)["test"].values()
    np.testing.assert_allclose(landmarks_image(record), landmarks, atol=0.01)
    assert record.face_box_image == FaceBox(left=30.0, top=31.0, width=90.0, height=91.0)
    assert record.subset == ""
    assert read_coco(path, whole_body=True).left_out["people without a valid face"] == 1
    with pytest.raises(InputError) as caught:
        read_coco(path)
    assert_one_line_naming(caught, str(path), "have 17 keypoints, expected one scheme's", "--whole-body")


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path):
    landmarks = draw_dots(tmp_path / "a.png", 68, 0)
    unmarked = triples(landmarks)
    unmarked[2] = 0
    annotations = [
        face(0, landmarks),
        face(0, landmarks, keypoints=unmarked),
        face(0, landmarks, keypoints=unmarked[:51]),
        {"image_id": 100, "category_id": 1, "bbox": [0, 0, 5, 5]},
        face(1, landmarks, bbox=None),
    ]
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content(annotations, ["a.png", "b.png"], 68)))
    data_set = read_coco(path, listing=Listing(allow_missing=True, licence="mine"))
    assert [found.source_file for found in data_set.faces] == ["a.png"]
    assert data_set.licence == "mine"
    assert Counter(data_set.left_out) == {
        "faces with points that are not marked": 1,
        "annotations with another number of points": 2,
        "missing pictures": 1,
    }
    draw_dots(tmp_path / "b.png", 68, 0)
    assert read_coco(path).faces[1].face_box_image == FaceBox.around(landmarks)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            lambda whole: whole["annotations"][0].update(bbox=[1, 2, 3]),
            ("annotation 500: bbox is [1, 2, 3]",),
        ),
        (lambda whole: whole["annotations"][0].update(bbox=[1, 2, 0, 3]), ("annotation 500: bbox is",)),
        (lambda whole: whole["annotations"][0].update(bbox=[1, 2, "x", 3]), ("annotation 500: bbox has",)),
        (
            lambda whole: whole["annotations"][0].update(image_id=7),
            ("annotation 500: image_id 7 is no image",),
        ),
        (
            lambda whole: whole["annotations"][0]["keypoints"].__setitem__(0, "x"),
            ("annotation 500: keypoints has something that is no number",),
        ),
        (
            lambda whole: whole["annotations"][0]["keypoints"].__setitem__(0, float("nan")),
            ("annotation 500: keypoints has something that is no number",),
        ),
        (
            lambda whole: whole["annotations"][0]["keypoints"].__setitem__(0, 10**400),
            ("annotation 500: keypoints has something that is no number",),
        ),
        (
            lambda whole: whole["annotations"][0].update(bbox=[-1e308, 2, 1e308, 3]),
            ("annotation 500: bbox has something that is no number",),
        ),
        (lambda whole: whole["images"][0].update(id=[1]), ("id of images[0] is [1], expected int or",)),
        (lambda whole: whole["annotations"][0].update(image_id={}), ("image_id of annotations[0] is {}",)),
        (lambda whole: whole["categories"][0].update(name=3), ("name of categories[0] is 3, expected str",)),
        (lambda whole: whole["categories"][0].update(keypoints=3), ("categories have 0 keypoints",)),
        (lambda whole: whole["annotations"].clear(), ("no face to take (no annotation)",)),
        (
            lambda whole: whole["annotations"][0].update(keypoints=[]),
            ("no face to take (1 annotations with another number of points)",),
        ),
        (lambda whole: whole.pop("images"), ("no list 'images'",)),
        (lambda whole: whole.update(annotations=[3]), ("no list 'annotations' of objects",)),
        (lambda whole: whole["images"][0].update(file_name="z.png"), ("1 of 1 listed pictures are missing",)),
    ],
)
def test_a_fault_names_file_and_annotation(tmp_path, change, parts):
    whole = content([face(0, draw_dots(tmp_path / "a.png", 68, 0))], ["a.png"], 68)
    change(whole)
    path = tmp_path / "train.json"
    path.write_text(json.dumps(whole))
    with pytest.raises(InputError) as caught:
        read_coco(path)
    assert_one_line_naming(caught, str(tmp_path), *parts)


def test_a_scheme_that_the_faces_of_whole_bodies_do_not_have_is_refused(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content([], [], 68)))
    with pytest.raises(InputError, match=r"--scheme is wflw-98, the faces of --whole-body are ibug-68"):
        read_coco(path, scheme="wflw-98", whole_body=True)


@pytest.mark.parametrize("text", ["{", "[]", '"images"', "[" * 100_000])
def test_what_is_no_coco_json_is_told(tmp_path, text):
    path = tmp_path / "train.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_coco(path)
    assert_one_line_naming(caught, str(path))
