"""Pictures in, files out: every format agrees with the predictor, one bad file does not stop the others."""

import csv
import dataclasses
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, draw_face
from fake_faces import Grower, Whole, fake_predictor
from PIL import Image
from test_inference_fetch import Server, redirect

from flm.checkpoint import TrainingState
from flm.cli import main
from flm.draw import PREDICTION_COLOR
from flm.errors import InputError
from flm.faces.pts_file import read_pts_file
from flm.geometry import FaceBox
from flm.inference import fetch
from flm.inference.detector import DetectedFace
from flm.inference.given_boxes import GivenBoxes, parse_box, read_boxes
from flm.inference.inputs import InputCounts, count_inputs, pictures_of
from flm.inference.load import load
from flm.inference.predict import PredictSummary, predict
from flm.inference.predictor import Prediction, Predictor
from flm.inference.results.files import FORMATS, OutputConfig, overlay, parse_formats, write_run_files
from flm.inference.results.records import face_record, landmarks_of, picture_record, table_columns
from flm.landmarks import IBUG_68
from flm.model.network import ModelConfig, build_network
from flm.pictures import read_picture
from flm.training.checkpoint_writer import save_checkpoint
from flm.training.config import TrainConfig


def run(inputs: list, out: Path, **options) -> PredictSummary:
    options = {"predictor": fake_predictor(), "settings": {"checkpoint": "x"}, **options}
    summary = predict([str(text) for text in inputs], out=out, **options)
    assert summary is not None
    return summary


def write_face(path: Path, seed: int = 0, size_px: int = 48) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture, landmarks = draw_face(seed, size_px)
    Image.fromarray(picture).save(path)
    return landmarks


def write_plain(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Five pictures in two folders: faces, none, two, and a file that is no picture."""
    folder = tmp_path / "photos"
    write_face(folder / "a.png", 1)
    write_face(folder / "sub" / "ä b.jpg", 2)
    write_plain(folder / "sub" / "none.png", (0, 0, 0))
    write_plain(folder / "two.png", (255, 0, 0))
    (folder / "bad.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("no picture either")
    (folder / ".hidden.jpg").write_text("nor this")
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".flm-predict" not in path.parts
    }


ALL = OutputConfig(formats=tuple(name for name in FORMATS if name != "parquet"), overlay=True, crops=True)


def test_every_format_has_the_same_faces(photos, tmp_path):
    out = tmp_path / "new" / "out"
    summary = run([photos], out, outputs=ALL)
    counts = (summary.num_pictures, summary.num_faces, summary.num_without_faces, summary.num_mistakes)
    assert counts == (5, 4, 1, 1)
    assert set(files_in(out)) == {
        *("a.json", "a.pts", "a.png", "a_face1.png"),
        *("two.json", "two.pts", "two_face2.pts", "two.png", "two_face1.png", "two_face2.png"),
        *("sub/ä b.json", "sub/ä b.pts", "sub/ä b.png", "sub/ä b_face1.png", "sub/none.json", "sub/none.png"),
        *("landmarks.jsonl", "landmarks.csv", "landmarks.coco.json", "report.json"),
    }
    (expected,) = fake_predictor().predict(photos / "a.png")
    single = json.loads((out / "a.json").read_text())
    assert (single["image"], single["width"], single["height"]) == (str(photos / "a.png"), 48, 48)
    (face,) = single["faces"]
    np.testing.assert_allclose(face["landmarks"], expected.landmarks_image, atol=0.00051)
    np.testing.assert_allclose(face["covariance"], expected.covariance_image, atol=0.00051)
    assert face["detection_score"] == 0.75
    assert face["pose"].keys() == {"yaw_deg", "pitch_deg", "roll_deg"}

    lines = [json.loads(line) for line in (out / "landmarks.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["a", "two", "sub/none", "sub/ä b"]
    assert lines[0] == single

    rows = list(csv.DictReader(io.StringIO((out / "landmarks.csv").read_text())))
    assert [(Path(row["image"]).name, row["face"]) for row in rows] == [
        ("a.png", "0"), ("two.png", "0"), ("two.png", "1"), ("ä b.jpg", "0")
    ]  # fmt: skip
    table = [[float(rows[0][f"{axis}{point}"]) for axis in "xy"] for point in range(68)]
    assert table == face["landmarks"]
    assert float(rows[0]["yaw_deg"]) == face["pose"]["yaw_deg"]

    np.testing.assert_allclose(read_pts_file(out / "a.pts", IBUG_68), face["landmarks"], atol=1e-6)
    assert " ".join((out / "a.pts").read_text().split()[5:7]) == " ".join(
        f"{value + 1:.6f}" for value in face["landmarks"][0]
    )

    coco = json.loads((out / "landmarks.coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == [line["image"] for line in lines]
    assert [(face["id"], face["image_id"]) for face in coco["annotations"]] == [
        (1, 1),
        (2, 2),
        (3, 2),
        (4, 4),
    ]
    points = np.array(coco["annotations"][0]["keypoints"]).reshape(-1, 3)
    assert points[:, :2].tolist() == face["landmarks"]
    assert (len(coco["categories"][0]["keypoints"]), set(points[:, 2])) == (68, {2})

    assert read_picture(out / "a_face1.png", upright=True).shape == (256, 256, 3)
    report = json.loads((out / "report.json").read_text())
    (mistake,) = report.pop("mistakes")
    assert mistake["name"] == "bad"
    assert mistake["mistake"].startswith(f"{photos / 'bad.jpg'}: not a whole picture")
    assert report == {"num_pictures": 5, "num_without_faces": 1, "num_faces": 4, "num_mistakes": 1}


def test_parquet_has_the_rows_of_the_table(photos, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    run([photos], tmp_path / "out", outputs=OutputConfig(formats=("csv", "parquet")))
    table = parquet.read_table(tmp_path / "out" / "landmarks.parquet").to_pylist()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "landmarks.csv").read_text())))
    assert [{name: str(value) for name, value in row.items()} for row in table] == rows


def test_parquet_holds_what_is_not_known_and_no_face_at_all(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    box = {"left": 1, "top": 2.5, "width": 3.0, "height": 4.0}
    face = {"box": box, "score": None, "detection_score": None, "pose": None, "openness": None}
    record = {"image": "ä.png", "faces": [{**face, "landmarks": [[0.5, 1]] * 68}]}
    for records in ([], [{"image": "none.png", "faces": []}], [record]):
        write_run_files(tmp_path, lambda records=records: iter(records), ("parquet",), IBUG_68)
        table = parquet.read_table(tmp_path / "landmarks.parquet")
        assert table.num_rows == sum(len(one["faces"]) for one in records)
        assert table.column_names == table_columns(68)
    (row,) = table.to_pylist()
    assert (row["image"], row["face"], row["box_left"], row["y67"]) == ("ä.png", 0, 1.0, 1.0)
    assert [row[name] for name in ("score", "yaw_deg", "mouth")] == [None] * 3


def test_formats_are_read_from_a_list(monkeypatch):
    assert parse_formats("csv, json") == ("json", "csv")
    with pytest.raises(InputError, match="--format json,xml: expected some of json, jsonl"):
        parse_formats("json,xml")
    with pytest.raises(InputError, match="--format ,: expected"):
        parse_formats(",")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"--format parquet: .* 'flm-landmarks\[tables\]'"):
        parse_formats("parquet")


def test_a_face_without_covariance_or_pose_is_told_so():
    face = Prediction(
        scheme=IBUG_68,
        box_image=FaceBox.of_picture(9, 9),
        landmarks_image=np.full((68, 2), 1.23456),
        covariance_image=None,
        score=None,
        detection_score=None,
    )
    record = face_record(face, "a.png")
    nothing = ("covariance", "score", "detection_score", "pose", "openness")
    assert [record[name] for name in nothing] == [None] * 5
    assert record["landmarks"][0] == [1.235, 1.235]
    broken = Prediction(
        scheme=IBUG_68,
        box_image=FaceBox.of_picture(9, 9),
        landmarks_image=np.full((68, 2), np.nan),
        covariance_image=None,
        score=None,
        detection_score=None,
    )
    unsure = dataclasses.replace(face, covariance_image=np.full((68, 2, 2), np.inf))
    for prediction in (broken, unsure):
        with pytest.raises(InputError, match=r"a\.png: the network gives landmarks that are not finite"):
            picture_record("a", "a.png", (9, 9), [prediction], IBUG_68)


def test_coordinates_are_of_the_picture_as_viewers_turn_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(draw_face(0, 80)[0][:40]).save(tmp_path / "a.jpg", exif=exif)
    run([tmp_path / "a.jpg"], tmp_path / "out", outputs=OutputConfig(overlay=True))
    found = json.loads((tmp_path / "out" / "a.json").read_text())
    assert (found["width"], found["height"]) == (40, 80)
    drawn = read_picture(tmp_path / "out" / "a.png", upright=True)
    assert drawn.shape[0] == 2 * drawn.shape[1]


@pytest.mark.parametrize(
    ("pictures", "names"),
    [
        (["x/a.png", "y/a.png", "z/a.jpg"], ["a", "a-2", "a-3"]),
        (["x/a.png", "y/a.png", "x/a-2.png"], ["a", "a-3", "a-2"]),
        (["x/a-2.png", "y/a-2.png", "x/a.png", "y/a.png"], ["a-2", "a-2-2", "a", "a-3"]),
        (["x/a.b.png", "x/report.png", "y/report.png"], ["a.b", "report-2", "report-3"]),
        (["x/videos.png", "x/landmarks.png"], ["videos-2", "landmarks-2"]),
        (["http://u.org/x/a%2F..%2Fb%00.jpg?y=1", "http://u.org/", "x/u.png"], ["b_", "u.org", "u"]),
    ],
)
def test_no_picture_takes_the_place_of_another(pictures, names):
    assert [picture.name for picture in pictures_of(pictures)] == names


def test_names_inside_folders_globs_and_shards_are_their_places(tmp_path):
    for name in ("x/a.png", "x/a.jpg", "x/y/a.png", "x/report.png", "z/a.png"):
        write_plain(tmp_path / name, (9, 9, 9))
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("000.jpg", "000.json", "../../evil.png", "001.a.png"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())

    def names(*inputs: str, **options) -> list[str]:
        return [picture.name for picture in pictures_of([str(tmp_path / text) for text in inputs], **options)]

    assert names("x") == ["a", "a-2", "report-2", "y/a"]
    assert names("x", skip=tmp_path / "x" / "y") == ["a", "a-2", "report-2"]
    assert names("x", "z") == ["x/a", "x/a-2", "x/report", "x/y/a", "z/a"]
    assert names("*/a.png") == ["x/a", "z/a"]
    assert names("**/*.png", "z") == [
        f"{tmp_path.name}/{name}" for name in ("x/a", "x/report", "x/y/a", "z/a")
    ] + ["z/a"]
    shard = names("s.tar")
    assert shard[0] == "000"
    assert len(shard) == 3
    assert not any(part in ("..", "") for name in shard for part in name.split("/"))


def test_no_two_pictures_of_a_shard_have_one_name(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("a?.jpg", "b.jpg", "a?.png", "a#.jpg", "report.jpg", "a_-2.jpg"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    names = [picture.name for picture in pictures_of([str(tmp_path / "s.tar")])]
    assert names == ["a_", "b", "a_-2", "a_-3", "report-2", "a_-2-2"]


def test_what_is_drawn_is_no_input_of_a_glob_around_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_face(tmp_path / "x" / "a.png")
    for _ in range(2):
        assert run(["**/*.png"], Path("out"), outputs=OutputConfig(overlay=True)).num_pictures == 1
    assert [picture.name for picture in pictures_of(["out/**/*.png"], skip=tmp_path / "out")] == ["x/a"]


def test_names_that_are_no_text_end_nothing(tmp_path):
    write_face(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "a.png").rename(tmp_path / "photos" / os.fsdecode(b"caf\xe9.png"))
    (tmp_path / "photos" / os.fsdecode(b"caf\xe8.png")).write_text("no picture")
    summary = run([tmp_path / "photos"], tmp_path / "out", outputs=ALL)
    assert (summary.num_pictures, summary.num_faces) == (2, 1)
    (mistake,) = summary.mistakes
    assert mistake.startswith(f"{tmp_path / 'photos'}/caf\ufffd.png: not a whole picture")
    (line,) = (tmp_path / "out" / "landmarks.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "caf\ufffd-2"


def test_pictures_come_out_of_shards(make_shards, tmp_path):
    make_shards(tmp_path / "data", {"train": 5}, shard_size=8)
    shard = tmp_path / "data" / "train-000000.tar"
    summary = run([shard], tmp_path / "out")
    assert (summary.num_pictures, summary.num_mistakes) == (5, 0)
    with tarfile.open(shard) as tar:
        name = next(name for name in tar.getnames() if not name.endswith(".json"))
        content = tar.extractfile(name).read()
    (expected,) = fake_predictor().predict(content)
    found = json.loads((tmp_path / "out" / f"{Path(name).stem}.json").read_text())
    np.testing.assert_allclose(found["faces"][0]["landmarks"], expected.landmarks_image, atol=0.00051)
    # Cut in the middle: what is before is done, and the rest is told.
    cut = tmp_path / "cut.tar"
    cut.write_bytes(shard.read_bytes()[: len(shard.read_bytes()) // 2 + 700])
    summary = run([cut], tmp_path / "cut")
    assert 0 < summary.num_faces < 5
    assert summary.num_mistakes == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: (folder / "x").mkdir(), "x: no pictures in this folder"),
        (lambda folder: None, r"x/\*\.png: no file has such a name"),
        (lambda folder: tarfile.open(folder / "x.tar", "w").close(), r"x\.tar: no pictures in this shard"),
    ],
    ids=["folder", "glob", "shard"],
)
def test_an_input_without_pictures_is_told(tmp_path, make, message):
    make(tmp_path)
    name = {"x: ": "x", r"x/\*": "x/*.png", r"x\.t": "x.tar"}[message[:4] if message[1] != ":" else "x: "]
    with pytest.raises(InputError, match=message):
        run([tmp_path / name], tmp_path / "out")
    assert not (tmp_path / "out").exists()


BAD = {
    "text.png": b"no picture",
    "empty.png": b"",
    "phone.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
    "script.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>x</script></svg>",
}


def test_bad_files_are_told_and_the_others_are_done(tmp_path):
    good = [tmp_path / name for name in ("a.png", "z.gif", "c.jpg", "p.png", "s.png")]
    write_face(good[0])
    frames = [Image.fromarray(draw_face(seed, 40)[0]) for seed in (1, 2)]
    frames[0].save(good[1], save_all=True, append_images=frames[1:])
    frames[0].convert("CMYK").save(good[2])
    frames[0].convert("P").save(good[3], transparency=0)
    Image.fromarray(np.full((30, 30), 40_000, np.uint16)).save(good[4])
    write_face(tmp_path / "cut.jpg", 3, 200)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:900])
    for name, content in BAD.items():
        (tmp_path / name).write_bytes(content)
    bad = [tmp_path / name for name in (*BAD, "cut.jpg", "none.png")]
    summary = run([good[0], *bad, *good[1:]], tmp_path / "out")
    assert (summary.num_pictures, summary.num_faces, summary.num_mistakes) == (11, 5, 6)
    assert [mistake.partition(": ")[0] for mistake in summary.mistakes] == [str(path) for path in bad]
    assert all("\n" not in mistake for mistake in summary.mistakes)
    assert "pip install pillow-heif" in summary.mistakes[2]
    assert "missing" in summary.mistakes[-1]


def test_huge_pictures_are_refused_by_a_stated_limit_and_large_ones_are_done(tmp_path):
    Image.new("1", (10_000, 10_000), 1).save(tmp_path / "large.png")
    Image.new("1", (20_000, 10_000), 1).save(tmp_path / "huge.png")
    summary = run([tmp_path / "large.png", tmp_path / "huge.png"], tmp_path / "out")
    assert (summary.num_faces, summary.num_mistakes) == (1, 1)
    assert "more than 134 million pixels" in summary.mistakes[0]


def test_an_error_of_any_kind_ends_no_batch(tmp_path):
    write_face(tmp_path / "a.png")
    write_face(tmp_path / "b.png")

    class Broken(Whole):
        def detect(self, picture: np.ndarray) -> list:
            if threading.current_thread().name and not hasattr(self, "was_called"):
                self.was_called = True
                raise RuntimeError("out of\nluck")
            return super().detect(picture)

    broken = Predictor(Grower(), detector=Broken())
    summary = run([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out", predictor=broken, workers=1)
    assert summary.mistakes == (f"{tmp_path / 'a.png'}: RuntimeError: out of",)
    assert summary.num_faces == 1


def test_a_detector_that_cannot_be_had_ends_it(photos, tmp_path):
    from flm.inference.detector_config import DetectorConfig

    none = Predictor(Grower(), detector=DetectorConfig(kind="yunet", model=tmp_path / "none.onnx"))
    with pytest.raises(InputError, match=r"--detector\.model .*none\.onnx: there is no such file"):
        run([photos], tmp_path / "out", predictor=none)


def test_boxes_that_are_given_are_taken(tmp_path):
    for name in ("a", "b", "c"):
        write_face(tmp_path / f"{name}.png")
    box, other = FaceBox(left=1.0, top=2.0, width=20.0, height=30.0), parse_box("5,6,7.5,8")
    boxes = GivenBoxes(everywhere=(box,), by_name={"b.png": (), "c": (other, box)})
    run([tmp_path], tmp_path / "out", boxes=boxes)
    found = [json.loads((tmp_path / "out" / f"{name}.json").read_text())["faces"] for name in "abc"]
    assert [[face["box"]["left"] for face in faces] for faces in found] == [[1], [], [5, 1]]
    assert found[0][0]["detection_score"] is None


def test_boxes_of_no_picture_are_told(tmp_path, capsys):
    for name in ("a", "b"):
        write_face(tmp_path / f"{name}.png")
    box = FaceBox(left=1.0, top=2.0, width=20.0, height=30.0)
    named = GivenBoxes(by_name={"a.png": (box,), "b": (box,)})
    run([tmp_path], tmp_path / "named", boxes=named)
    assert capsys.readouterr().err == ""
    others = GivenBoxes(everywhere=(box,), by_name={"a.png": (), **dict.fromkeys("defgh", (box,))})
    run([tmp_path], tmp_path / "others", boxes=others)
    assert "warning: --boxes: no picture is called d, e, f and 2 more; " in capsys.readouterr().err


def test_boxes_are_read_from_tables_and_json(tmp_path):
    (tmp_path / "b.csv").write_text(
        "file,left,top,width,height,more\na,1,2,3,4,x\nb,5,6,7,8,x\na,0,0,9,9,x\n"
    )
    (tmp_path / "b.json").write_text(
        json.dumps({"a": [[1, 2, 3, 4], [0, 0, 9, 9]], "b": [[5, 6, 7, 8]], "c": []})
    )
    first = FaceBox(left=1.0, top=2.0, width=3.0, height=4.0)
    for name in ("b.csv", "b.json"):
        boxes = read_boxes(tmp_path / name)
        assert boxes["a"][0] == first
        assert [len(boxes.get(key, ())) for key in "abc"] == [2, 1, 0]
    assert boxes["c"] == ()
    (tmp_path / "b.csv").write_text('file,left,top,width,height\n"a\u2028b\nc",1,2,3,4\n')
    assert read_boxes(tmp_path / "b.csv") == {"a\u2028b\nc": (first,)}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("b.csv", "file,left,top,width\n", "b.csv:1: the column height is missing"),
        ("b.csv", "file,left,top,width,height\na,1,2,x,4\n", "b.csv:2: expected left, top, width and height"),
        ("b.csv", "file,left,top,width,height\na,1,2\n", "b.csv:2: expected left"),
        ("b.csv", "file,left,top,width,height\na,1,2,0,4\n", "b.csv:2: expected left"),
        ("b.json", "[1]", "b.json: expected lists of boxes by picture"),
        ("b.csv", "left,top,width,height,file\n1,2,3,4\n1,2,3,x\n", "b.csv:3: expected left"),
        ("b.csv", "file,left,top,width,height\na,1,2,1e7,4\n", "b.csv:2: expected left"),
        ("b.csv", f"file,left,top,width,height\n{'a' * 200_000}\n", "b.csv:1: not a row of a table"),
        ("b.json", "{", "b.json: not JSON"),
        ("b.json", "[" * 100_000, "b.json: not JSON (nested too deeply)"),
        ("b.json", f'{{"a": [[1, 2, 3, {10**400}]]}}', "b.json:a: expected left"),
        ("b.json", '{"a": [[1, 2]]}', "b.json:a: expected left"),
        ("b.json", '{"a": [7]}', "b.json:a: expected left"),
        ("none.csv", None, "none.csv: cannot be read"),
    ],
)
def test_bad_boxes_are_told_with_their_place(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_boxes(tmp_path / name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="--box 1,2: expected LEFT,TOP,WIDTH,HEIGHT"):
        parse_box("1,2")


def test_what_is_done_is_not_done_again(photos, tmp_path):
    expected = tmp_path / "expected"
    run([photos], expected, outputs=ALL)
    out = tmp_path / "out"
    dying = fake_predictor()
    dying.network.dies_after = 2
    dying.faces_per_forward = 1
    with pytest.raises(KeyboardInterrupt):
        run([photos], out, outputs=ALL, predictor=dying, workers=1)
    (log,) = (out / ".flm-predict").glob("results-*.jsonl")
    assert 1 <= len(log.read_text().splitlines()) < 5
    with log.open("ab") as file:
        file.write(b'{"name": "two", "resu')  # killed while it wrote
    resumed = fake_predictor()
    run([photos], out, outputs=ALL, predictor=resumed)
    assert resumed.network.num_faces < 4
    assert files_in(out) == files_in(expected)
    # Nothing is left to do but what could not be read, which may be another file by now.
    write_face(photos / "bad.jpg", 5)
    write_face(photos / "aa.png", 6)
    again = fake_predictor()
    summary = run([photos], out, outputs=ALL, predictor=again)
    assert again.network.num_faces == 2
    assert (summary.num_pictures, summary.num_mistakes) == (6, 0)
    fresh = tmp_path / "fresh"
    run([photos], fresh, outputs=ALL)
    assert files_in(out) == files_in(fresh)


def test_results_of_other_settings_are_not_mixed(photos, tmp_path):
    out = tmp_path / "out"
    run([photos], out)
    with pytest.raises(InputError, match=r"out: holds results of another run \(checkpoint was x, is y\)"):
        run([photos], out, settings={"checkpoint": "y"})
    anew = fake_predictor()
    run([photos], out, settings={"checkpoint": "y"}, overwrite=True, predictor=anew)
    assert anew.network.num_faces == 4


def write_long_ago(path: Path) -> None:
    path.write_text("mine")
    os.utime(path, (1e9, 1e9))


def test_no_file_of_somebody_else_is_replaced(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        write_face(tmp_path / name)
    write_long_ago(tmp_path / "b.json")
    for _ in range(2):  # nor when the same command goes on
        with pytest.raises(InputError, match=r"b\.json: is there already, and would be replaced"):
            run([tmp_path], tmp_path)
        assert (tmp_path / "b.json").read_text() == "mine"
    (tmp_path / "b.json").unlink()
    assert run([tmp_path], tmp_path).num_faces == 2


@pytest.mark.parametrize("name", ["report.json", "landmarks.csv"])
def test_nor_one_by_what_is_of_all_pictures(tmp_path, name):
    write_face(tmp_path / "a.jpg")
    write_long_ago(tmp_path / name)
    predictor = fake_predictor()
    for _ in range(2):
        with pytest.raises(InputError, match="is there already"):
            run([tmp_path], tmp_path, outputs=OutputConfig(formats=("csv",)), predictor=predictor)
    assert (tmp_path / name).read_text() == "mine"
    assert predictor.network.num_faces == 0


def test_files_of_its_own_are_replaced_where_their_lines_are_lost(photos, tmp_path):
    run([photos], tmp_path / "out", outputs=ALL)
    (log,) = (tmp_path / "out" / ".flm-predict").glob("results-*.jsonl")
    log.write_bytes(b"")  # a machine that died had not written them yet
    assert run([photos], tmp_path / "out", outputs=ALL).num_faces == 4


def test_a_run_that_began_with_overwrite_goes_on_without(photos, tmp_path):
    out = tmp_path / "out"
    run([photos], out)
    for path in out.glob("**/*.json"):
        os.utime(path, (1e9, 1e9))
    dying = fake_predictor()
    dying.network.dies_after = 1
    dying.faces_per_forward = 1
    with pytest.raises(KeyboardInterrupt):
        run([photos], out, settings={"checkpoint": "y"}, overwrite=True, predictor=dying, workers=1)
    assert run([photos], out, settings={"checkpoint": "y"}).num_faces == 4


def test_a_picture_is_never_replaced_by_what_is_drawn_on_it(tmp_path):
    write_face(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    for options in ({}, {"overwrite": True}):
        with pytest.raises(InputError, match=r"a\.png: is the input itself"):
            run([tmp_path / "a.png"], tmp_path, outputs=OutputConfig(overlay=True), **options)
    assert (tmp_path / "a.png").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    write_face(tmp_path / "a.png")
    (tmp_path / "file").write_text("no folder")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/flm")):  # there nobody may write
        with pytest.raises(InputError, match=rf"^{out}: cannot be written \(.*\); choose another --out$"):
            run([tmp_path / "a.png"], out)


def test_sixty_faces_are_each_found_once(tmp_path):
    write_plain(tmp_path / "many.png", (9, 99, 9), (600, 360))
    places = [(60.0 * column, 60.0 * row) for row in range(6) for column in range(10)]
    boxes = [FaceBox(left=left, top=top, width=60.0, height=60.0) for left, top in places]

    class Many(Whole):
        def detect(self, picture: np.ndarray) -> list[DetectedFace]:
            return [DetectedFace(box_image=box, score=0.5) for box in boxes]

    predictor = Predictor(Grower(), detector=Many(), faces_per_forward=32)
    summary = run([tmp_path / "many.png"], tmp_path / "out", predictor=predictor, outputs=ALL)
    assert (summary.num_pictures, summary.num_faces, summary.num_mistakes) == (1, 60, 0)
    faces = json.loads((tmp_path / "out" / "many.json").read_text())["faces"]
    assert [(face["box"]["left"], face["box"]["top"]) for face in faces] == places
    assert len(list((tmp_path / "out").glob("many_face*.png"))) == 60


def test_a_url_into_a_private_network_is_refused_and_the_others_are_done(tmp_path, monkeypatch):
    judge = fetch.is_public
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1" or judge(address))
    write_face(tmp_path / "a.png")
    public, private = Server("127.0.0.1"), Server("127.0.0.2")
    public.answers["/in.png"] = redirect(f"{private.url}/a.png")
    summary = run([f"{public.url}/in.png", tmp_path / "a.png"], tmp_path / "out")
    for server in (public, private):
        server.http.shutdown()
        server.http.server_close()
    assert (summary.num_pictures, summary.num_faces) == (2, 1)
    assert "leads to http://127.0.0.2" in summary.mistakes[0]
    assert "not of the public internet" in summary.mistakes[0]
    assert private.asked == []


def test_inputs_are_gone_through_once_to_learn_what_they_are(photos, tmp_path, monkeypatch):
    walks = []
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda folder: walks.append(folder) or walk(folder))
    assert count_inputs([str(photos), "camera:0", "b.mp4"]) == InputCounts(pictures=5, videos=2)
    assert len(walks) == 1
    # Then they are done, and then they are told in their order.
    run([photos], tmp_path / "out", num_pictures=5)
    assert len(walks) == 3


def test_memory_does_not_grow_with_the_pictures_read_ahead(tmp_path):
    """Few pictures are alive at a time, however many there are."""
    import weakref

    alive: list[weakref.ref] = []
    most = 0

    class Counting(Whole):
        def detect(self, picture: np.ndarray) -> list:
            nonlocal most
            alive.append(weakref.ref(picture))
            most = max(most, sum(ref() is not None for ref in alive))
            return super().detect(picture)

    for number in range(40):
        write_plain(tmp_path / "photos" / f"{number:02d}.png", (9, number, 9))
    counting = Predictor(Grower(), detector=Counting(), faces_per_forward=4)
    run([tmp_path / "photos"], tmp_path / "out", predictor=counting)
    assert most <= 12


def test_processes_share_the_pictures_and_write_one_result(photos, tmp_path, monkeypatch):
    for seed in range(6):
        write_face(photos / f"more{seed}.png", seed)
    expected, out = tmp_path / "expected", tmp_path / "out"
    run([photos], expected, outputs=OutputConfig(formats=("json", "csv")))
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from pathlib import Path\n"
        "from fake_faces import fake_predictor\n"
        "from flm.inference.predict import predict\n"
        "from flm.inference.results.files import OutputConfig\n"
        f"found = predict([{str(photos)!r}], out=Path({str(out)!r}), predictor=fake_predictor(),\n"
        "    settings={'checkpoint': 'x'}, outputs=OutputConfig(formats=('json', 'csv')))\n"
        "print(found)\n"
    )
    for num_processes in (3, 2):  # the second time, nothing but the mistake is left to do
        started = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=REPOSITORY,
                env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(num_processes)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in reversed(range(num_processes))
        ]
        told = [process.communicate(timeout=120) for process in started]
        assert [process.returncode for process in started] == [0] * num_processes, told
        assert "num_pictures=11" in told[-1][0]
        assert {output.strip() for output, _ in told[:-1]} == {"None"}
        assert files_in(out) == files_in(expected)
    assert len(list((out / ".flm-predict").glob("results-*.jsonl"))) == 3


def test_an_overlay_shows_box_and_landmarks_where_they_are():
    picture, landmarks = draw_face(2, 96)
    face = {
        "box": {"left": 8, "top": 9, "width": 70, "height": 75},
        "landmarks": landmarks.tolist(),
    }
    drawn = overlay(picture, [face], IBUG_68)
    scale = 480 // 96
    assert drawn.shape == (480, 480, 3)
    centers = np.round((landmarks_of(face) + 0.5) * scale - 0.5).astype(int)
    at_points = drawn[centers[:, 1], centers[:, 0]].astype(int)
    assert np.abs(at_points - PREDICTION_COLOR).max(axis=1).mean() < 20
    changed_rows = (drawn != cv2.resize(picture, None, fx=scale, fy=scale)).any(axis=(1, 2)).nonzero()[0]
    # The box's edges, half a pixel about the outermost ones that it covers.
    assert abs(changed_rows.min() - (9 * scale - 1)) <= 2
    assert abs(changed_rows.max() - 84 * scale) <= 2


def test_an_overlay_of_a_large_picture_has_its_size_and_one_of_no_face_is_plain():
    picture = np.random.default_rng(0).integers(0, 256, (500, 700, 3)).astype(np.uint8)
    np.testing.assert_array_equal(overlay(picture, [], IBUG_68), picture)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A run's folder with a checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("run")
    config = TrainConfig(recipe="x", model=ModelConfig(backbone="xception_compact_slim", input_size_px=64))
    torch.manual_seed(0)
    weights = build_network(config.model).state_dict()
    state = TrainingState(step=1, manifest_hash="abc")
    save_checkpoint(folder, config, state, model=weights, training={}, is_best=True, keep=1)
    return folder


def command(*words: object) -> int:
    try:
        main([str(word) for word in words])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_command_says_what_became_of_the_pictures(photos, checkpoint, tmp_path, capsys):
    words = ["predict", photos, "--checkpoint", checkpoint, "--out", tmp_path / "out"]
    assert command(*words, "--detector.kind", "whole", "--format", "json,csv") == 2
    told = capsys.readouterr()
    assert told.out == f"4 of 5 pictures done, 4 faces; in {tmp_path / 'out'}\n"
    (line,) = told.err.splitlines()
    assert line.startswith(f"error: {photos / 'bad.jpg'}: not a whole picture")
    (expected,) = load(checkpoint).predict(photos / "a.png", [FaceBox.of_picture(48, 48)])
    found = json.loads((tmp_path / "out" / "a.json").read_text())
    np.testing.assert_allclose(found["faces"][0]["landmarks"], expected.landmarks_image, atol=0.00051)
    (photos / "bad.jpg").unlink()
    assert command(*words, "--detector.kind", "whole", "--format", "json,csv") == 0
    assert command(*words, "--box", "1,2,30,30", "--format", "json,csv") == 2
    assert "holds results of another run (boxes was" in capsys.readouterr().err


MISTAKES: list[tuple[Callable[[Path, Path], list[object]], str]] = [
    (lambda photos, run: ["predict", "--out", "o"], "error: no picture given"),
    (
        lambda photos, run: ["predict", photos, "--out", photos / "o", "--checkpoint", photos],
        "no checkpoint here",
    ),
    (
        lambda photos, run: ["predict", photos, "--out", photos / "o", "--checkpoint", "hf://x"],
        "hf://x: expected hf://USER/NAME",
    ),
    (
        lambda photos, run: ["predict", photos, "--out", photos / "o", "--checkpoint", "hf://x/y"],
        "hf://x/y: cannot be fetched from the Hugging Face Hub",
    ),
    (
        lambda photos, run: ["predict", photos, "--out", photos / "o", "--checkpoint", photos / "a.onnx"],
        "a.onnx: there is no such file",
    ),
    (
        lambda photos, run: ["predict", photos, "--out", "o", "--checkpoint", run, "--workers", "0"],
        "--workers is 0, expected at least 1",
    ),
    (
        lambda photos, run: ["predict", photos, "--out", "o", "--checkpoint", run, "--device", "cuda:9"],
        "device cuda:9: cannot be used",
    ),
    (lambda photos, run: ["predict", photos], "--out"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_mistakes_are_one_line_and_exit_code_two(
    photos, checkpoint, capsys, monkeypatch, tmp_path, words, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flm.inference.load.SHIPPED", (tmp_path / "none",))
    assert command(*words(photos, checkpoint)) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1
