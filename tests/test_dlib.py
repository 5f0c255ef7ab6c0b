"""Any imglab XML becomes shards, whatever number of faces a picture has."""

import cv2
import numpy as np
import pytest
from test_layout import assert_one_line_naming, converted, draw_dots, landmarks_image

from flm.errors import InputError
from shards.sources.dlib import read_dlib
from shards.sources.layout import Listing


def box_xml(landmarks: np.ndarray, left: int, extra: str = "") -> str:
    parts = "".join(
        f"<part name='{number:02d}' x='{x:.4f}' y='{y:.4f}'/>\n" for number, (x, y) in enumerate(landmarks)
    )
    return f"<box top='30' left='{left}' width='100' height='110'{extra}>\n{parts}</box>\n"


def image_xml(file: str, *boxes: str) -> str:
    return f"<image file='{file}'>\n{''.join(boxes)}</image>\n"


def labels_xml(*images: str) -> str:
    return f"<?xml version='1.0'?>\n<dataset>\n<images>\n{''.join(images)}</images>\n</dataset>\n"


def draw_two(path, num_points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two faces side by side in one picture."""
    left, right = (
        draw_dots(path.with_name(f"{side}.png"), num_points, seed + i) for i, side in enumerate("lr")
    )
    halves = [cv2.imread(str(path.with_name(f"{side}.png"))) for side in "lr"]
    cv2.imwrite(str(path), np.concatenate(halves, axis=1))
    return left, right + np.array([halves[0].shape[1], 0])


@pytest.mark.parametrize(("scheme", "num_points"), [("ibug-68", 68), ("wflw-98", 98)])
def test_faces_of_a_picture_stay_together(tmp_path, scheme, num_points):
    source = tmp_path / "in"
    images, drawn = [], {}
    for number in range(5):
        file = f"party/{number}.png"
        (source / "party").mkdir(parents=True, exist_ok=True)
        drawn[file] = draw_two(source / file, num_points, 2 * number)
        images.append(image_xml(file, box_xml(drawn[file][0], 25), box_xml(drawn[file][1], 195)))
    (source / "training_with_faces.xml").write_text(labels_xml(*images[:4]))
    (source / "testing_with_faces.xml").write_text(labels_xml(*images[4:]))
    flags = ("--source", source, "--scheme", scheme, "--validation-share", "0.25")
    records = converted("dlib", tmp_path / "out", *flags)
    # One record of each picture, since both have its name.
    assert {split: len(of_split) for split, of_split in records.items()} == {
        **{"train": 3, "validation": 1, "test": 1}
    }
    assert set(records["test"]) == {"party/4.png"}
    for of_split in records.values():
        for file, record in of_split.items():
            side = 0 if record.face_box_image.left == 25 else 1
            np.testing.assert_allclose(landmarks_image(record), drawn[file][side], atol=0.01)
            assert (record.subset, record.group, record.scheme) == (
                "party",
                file.removesuffix(".png"),
                scheme,
            )


def test_one_file_all_in_one_split_with_twins_and_boxes_to_pass_over(tmp_path):
    landmarks = draw_dots(tmp_path / "1.png", 68, 0)
    draw_dots(tmp_path / "1_mirror.png", 68, 0)
    ignored = "<box top='1' left='2' width='3' height='4' ignore='1'/>\n"
    images = [
        image_xml("1.png", box_xml(landmarks, 25), ignored),
        image_xml("1_mirror.png", box_xml(landmarks, 25)),
    ]
    (tmp_path / "faces.xml").write_text(labels_xml(*images))
    original, twin = read_dlib(tmp_path / "faces.xml", listing=Listing(split="test")).faces
    assert (original.mirror_of, twin.mirror_of) == (None, "1.png")
    assert original.group == twin.group
    assert original.split == twin.split == "test"
    assert original.subset == ""


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda text: text.replace("<part name='07'", "<part name='99'"), (":13: part '99'", "00 to 67")),
        (lambda text: text.replace("</dataset>", ""), ("not well-formed XML",)),
        (lambda text: text.replace("1.png", "2.png"), ("1 of 1 listed pictures are missing: 2.png",)),
    ],
)
def test_a_fault_names_the_line(tmp_path, change, parts):
    landmarks = draw_dots(tmp_path / "1.png", 68, 0)
    path = tmp_path / "train.xml"
    path.write_text(change(labels_xml(image_xml("1.png", box_xml(landmarks, 25)))))
    with pytest.raises(InputError) as caught:
        read_dlib(path)
    assert_one_line_naming(caught, str(tmp_path), *parts)


def test_missing_pictures_are_counted_where_allowed(tmp_path):
    landmarks = draw_dots(tmp_path / "1.png", 68, 0)
    images = [image_xml(file, box_xml(landmarks, 25)) for file in ("1.png", "2.png")]
    (tmp_path / "train.xml").write_text(labels_xml(*images))
    data_set = read_dlib(tmp_path, listing=Listing(allow_missing=True))
    assert [face.source_file for face in data_set.faces] == ["1.png"]
    assert data_set.left_out == {"missing pictures": 1}
