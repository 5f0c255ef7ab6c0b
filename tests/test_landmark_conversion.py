"""Points keep their meaning from scheme to scheme, and files all that is not landmarks."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_landmarks import MEAN_FACES

from flm.cli import main
from flm.errors import InputError
from flm.faces.landmark_conversion import convert_landmarks, points_taken, shared_points
from flm.faces.openness import openness
from flm.faces.pose import head_pose
from flm.faces.pts_file import pts_text, read_pts_file
from flm.geometry import transform_points
from flm.inference.aligned import image_to_aligned
from flm.inference.results.landmark_files import Conversion, convert_files
from flm.landmarks import DLIB_5, IBUG_68, SCHEMES, WFLW_98, LandmarkScheme

PAIRS = [(WFLW_98, IBUG_68), (IBUG_68, DLIB_5), (WFLW_98, DLIB_5)]
every_pair = pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda scheme: scheme.name)


@every_pair
def test_points_land_on_those_of_the_same_meaning(source, target):
    """Of faces that were drawn from the figures, not from the numbers."""
    found = convert_landmarks(MEAN_FACES[source.name], source, target)
    assert np.linalg.norm(found - MEAN_FACES[target.name], axis=1).max() < 0.05


@every_pair
def test_a_mirrored_face_converts_to_the_mirrored_points(source, target):
    taken = np.array(points_taken(source, target))
    mirrored_first = np.array(source.mirror_permutation)[taken]
    np.testing.assert_array_equal(mirrored_first, taken[list(target.mirror_permutation)])


@every_pair
def test_parts_stay_parts(source, target):
    part_of = {point: name for name, points in source.parts.items() for point in points}
    taken = points_taken(source, target)
    assert len(set(taken)) == target.num_points
    for name, points in target.parts.items():
        assert {part_of[taken[point]] for point in points} == {name}
    corners = [taken[corner] for corner in target.outer_eye_corners]
    assert tuple(corners) == source.outer_eye_corners


def test_two_steps_are_one():
    face = MEAN_FACES["wflw-98"]
    by_68 = convert_landmarks(convert_landmarks(face, WFLW_98, IBUG_68), IBUG_68, DLIB_5)
    np.testing.assert_array_equal(by_68, convert_landmarks(face, WFLW_98, DLIB_5))


def test_batches_and_tensors_convert_alike():
    batch = np.random.default_rng(0).normal(size=(3, 4, 98, 2))
    found = convert_landmarks(batch, WFLW_98, IBUG_68)
    assert found.shape == (3, 4, 68, 2)
    tensor = convert_landmarks(torch.from_numpy(batch), WFLW_98, IBUG_68)
    np.testing.assert_array_equal(tensor.numpy(), found)
    np.testing.assert_array_equal(convert_landmarks(batch, WFLW_98, WFLW_98), batch)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda scheme: scheme.name)
def test_shared_points_lie_on_each_other(scheme):
    own, reference = shared_points(scheme, IBUG_68)
    np.testing.assert_allclose(MEAN_FACES[scheme.name][own], MEAN_FACES["ibug-68"][reference], atol=0.05)


UNHEARD_OF = LandmarkScheme(
    name="eyes-and-chin",
    num_points=3,
    parts={"eyes": (0, 1), "chin": (2,)},
    mirror_permutation=(1, 0, 2),
    outer_eye_corners=(0, 1),
    right_eye=(0,),
    left_eye=(1,),
    lines=(),
)


def test_every_scheme_shares_the_eye_corners():
    """So a face of a scheme of one's own is upright in its crop; what needs more points is not told."""
    assert shared_points(UNHEARD_OF, IBUG_68) == ([0, 1], [36, 45])
    landmarks = np.array([[80.0, 30.0], [80.0, 90.0], [20.0, 60.0]])
    to_aligned = image_to_aligned(landmarks, UNHEARD_OF)
    right, left, chin = transform_points(landmarks, to_aligned)
    assert right[1] == pytest.approx(left[1])
    assert right[0] < chin[0] < left[0]
    assert chin[1] > left[1]
    assert head_pose(landmarks, UNHEARD_OF) is None
    assert openness(landmarks, UNHEARD_OF) is None


def test_points_are_not_made_up():
    with pytest.raises(InputError, match=r"of ibug-68 cannot become wflw-98; known: wflw-98 to ibug-68"):
        points_taken(IBUG_68, WFLW_98)


def face_of(scheme: LandmarkScheme) -> np.ndarray:
    return MEAN_FACES[scheme.name] * 100


def write_record(path: Path, scheme: LandmarkScheme) -> dict:
    landmarks = face_of(scheme).tolist()
    covariance = [[[float(point), 0.0], [0.0, 1.0]] for point in range(scheme.num_points)]
    faces = [{"score": 0.5, "landmarks": landmarks, "covariance": covariance}, {"landmarks": landmarks}]
    record = {"image": "ä.jpg", "scheme": scheme.name, "faces": faces}
    path.write_text(json.dumps(record) + "\n")
    return record


def test_files_of_each_kind_are_converted(tmp_path, capsys):
    points = list(points_taken(WFLW_98, IBUG_68))
    wide = face_of(WFLW_98)
    (tmp_path / "a.pts").write_text(pts_text(wide))
    record = write_record(tmp_path / "b.json", WFLW_98)
    (tmp_path / "c.jsonl").write_text((tmp_path / "b.json").read_text() * 3)
    header = ["file", *(f"{axis}{point}" for point in range(98) for axis in "xy"), "note"]
    row = ["p.jpg", *wide.ravel().tolist(), "x,y"]
    with (tmp_path / "d.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, row])
    names = ["a.pts", "b.json", "c.jsonl", "d.csv"]
    main(
        [
            "convert-landmarks",
            "98-to-68",
            *(str(tmp_path / name) for name in names),
            "--out",
            str(tmp_path / "o"),
        ]
    )
    assert capsys.readouterr().out == f"4 of 4 files converted, in {tmp_path / 'o'}\n"
    np.testing.assert_allclose(read_pts_file(tmp_path / "o" / "a.pts", IBUG_68), wide[points], atol=1e-6)
    found = json.loads((tmp_path / "o" / "b.json").read_text())
    assert (found["image"], found["scheme"], found["faces"][0]["score"]) == ("ä.jpg", "ibug-68", 0.5)
    for name in ("landmarks", "covariance"):
        before = record["faces"][0][name]
        assert found["faces"][0][name] == [before[point] for point in points]
    assert [json.loads(line) for line in (tmp_path / "o" / "c.jsonl").read_text().splitlines()] == [found] * 3
    (table,) = csv.DictReader(io.StringIO((tmp_path / "o" / "d.csv").read_text()))
    assert (table["file"], table["note"], len(table)) == ("p.jpg", "x,y", 2 + 2 * 68)
    assert [float(table[f"x{point}"]) for point in range(68)] == wide[points, 0].tolist()


BROKEN = {
    "few.pts": (pts_text(face_of(IBUG_68)), "68 points, expected 98"),
    "few.json": (json.dumps({"faces": [{"landmarks": [[1, 2]]}]}), "few.json: 1 points, expected 98"),
    "text.json": ("x", "text.json: not a record of `flm predict`"),
    "list.json": ("[1]", "list.json: not a record"),
    "second.jsonl": ('{"faces": []}\n{"x": 1}\n', "second.jsonl:2: not a record"),
    "few.csv": ("file,x0,y0\na,1,2\n", "few.csv:1: its columns are not those of x0, y0, … y97 (wflw-98)"),
    "other.txt": ("", "other.txt: expected a .pts, .json, .jsonl or .csv file"),
    "none.json": (None, "none.json: cannot be read"),
}


def test_bad_files_are_told_and_the_others_are_converted(tmp_path):
    write_record(tmp_path / "good.json", WFLW_98)
    for name, (text, _) in BROKEN.items():
        if text is not None:
            (tmp_path / name).write_text(text)
    files = [tmp_path / name for name in (*BROKEN, "good.json")]
    mistakes = convert_files(files, tmp_path / "out", Conversion.named("98-to-68"))
    for mistake, (_, message) in zip(mistakes, BROKEN.values(), strict=True):
        assert message in str(mistake)
        assert "\n" not in str(mistake)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.json"]


def test_lines_of_a_video_are_converted_and_so_are_names_with_ends_of_lines(tmp_path):
    points = list(points_taken(WFLW_98, IBUG_68))
    wide = face_of(WFLW_98).tolist()
    lines = [{"frame": frame, "id": 0, "landmarks": wide, "covariance": None} for frame in range(2)]
    write_record(tmp_path / "b.jsonl", WFLW_98)
    record = json.loads((tmp_path / "b.jsonl").read_text()) | {"image": "a\u2028b\x85c.jpg"}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "b.jsonl").write_text(json.dumps(record, ensure_ascii=False) + "\n")
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    assert convert_files(files, tmp_path / "out", Conversion.named("98-to-68")) == []
    found = [json.loads(line) for line in (tmp_path / "out" / "a.jsonl").read_text().splitlines()]
    assert found == [{**line, "landmarks": [wide[point] for point in points]} for line in lines]
    (line,) = (tmp_path / "out" / "b.jsonl").read_text().removesuffix("\n").split("\n")
    assert json.loads(line)["image"] == record["image"]


def test_no_file_is_replaced(tmp_path):
    write_record(tmp_path / "a.json", WFLW_98)
    (tmp_path / "x").mkdir()
    write_record(tmp_path / "x" / "a.json", WFLW_98)
    conversion = Conversion.named("98-to-5")
    for files, out in (
        ([tmp_path / "a.json"], tmp_path),
        ([tmp_path / "a.json", tmp_path / "x" / "a.json"], tmp_path / "o"),
    ):
        with pytest.raises(InputError, match="would be replaced; choose another --out"):
            convert_files(files, out, conversion)


def test_a_table_that_is_none_is_told(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(",".join(f"x{point},y{point}" for point in range(68)) + f"\n{'1' * 200_000}\n")
    (mistake,) = convert_files([path], tmp_path / "out", Conversion.named("68-to-5"))
    assert str(mistake).startswith(f"{path}: not a table (field larger than")


@pytest.mark.parametrize("name", ["98-to-7", "68-to-98", "98", "x-to-68"])
def test_an_unknown_conversion_is_told(name):
    with pytest.raises(InputError, match=r"expected one of 98-to-68|cannot become"):
        Conversion.named(name)
