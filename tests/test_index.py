"""Shards that someone else made: indexed, read, trained on, and told in one line when they are not right."""

import io
import json
import shlex
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import draw_face
from pages import block
from tiny_runs import tiny

from flm.data.foreign import decoder_of
from flm.data.loader import LoaderConfig
from flm.data.manifest import Manifest
from flm.data.output import LOCK_NAME, locked
from flm.data.sample_format import SampleFormat
from flm.data.samples import SampleFormatError
from flm.data.store import LocalStore
from flm.errors import InputError
from flm.evaluation.evaluate_checkpoint import evaluate_checkpoint
from flm.fields import to_fields
from flm.geometry import transform_points
from flm.train import train
from shards.__main__ import main
from shards.index import IndexOptions, index
from shards.verification.findings import Kind
from shards.verification.repair import repair_shards
from shards.verify import verify

OPTIONS = IndexOptions(crop_size_px=64, processes=1)


def encoded(picture: np.ndarray, extension: str = "jpg") -> bytes:
    return cv2.imencode(f".{extension}", np.ascontiguousarray(picture[..., ::-1]))[1].tobytes()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def as_json(fields: Any) -> bytes:
    return json.dumps(fields).encode()


def foreign_sample(seed: int) -> dict[str, bytes]:
    """As another tool would write it: a large picture, another class beside it, 68 points under a key."""
    picture, landmarks = draw_face(seed, 150 + 10 * (seed % 3))
    left, top = landmarks.min(axis=0)
    width, height = landmarks.max(axis=0) - [left, top] + 1
    annotation = {
        "face": {"keypoints": landmarks.tolist(), "bbox": [left, top, width, height]},
        "part": "even" if seed % 2 == 0 else "odd",
        "photo": seed // 2,
    }
    return {"JPG": encoded(picture), "json": as_json(annotation), "cls": b"7"}


FORMAT = SampleFormat(
    landmarks_key="face.keypoints", box_key="face.bbox", subset_key="part", group_key="photo"
)
FLAGS = [
    "--landmarks-key=face.keypoints",
    "--box-key=face.bbox",
    "--subset-key=part",
    "--group-key=photo",
    "--crop-size-px=64",
    "--processes=1",
]


def write_tar(path: Path, samples: dict[str, dict[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("./faces.v2")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for key, members in samples.items():
            for extension, content in members.items():
                info = tarfile.TarInfo(f"./faces.v2/{key}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Tars of someone else, their keys with dots and the same in each."""
    for name, seeds in (("train-0", range(10)), ("train-1", range(10, 20)), ("sub/val-0", range(20, 26))):
        samples = {f"{place:05d}": foreign_sample(seed) for place, seed in enumerate(seeds)}
        write_tar(tmp_path / f"{name}.tar", samples)
    return tmp_path


def index_both(folder: Path) -> Manifest:
    index(folder, split="train", shards="train-*.tar", sample_format=FORMAT, options=OPTIONS)
    manifest, faults = index(
        folder, split="validation", shards="sub/*.tar", sample_format=FORMAT, options=OPTIONS
    )
    assert faults == ()
    return manifest


def test_the_manifest_counts_and_says_how_samples_are_read(folder):
    manifest = index_both(folder)
    assert Manifest.read(folder) == manifest
    assert manifest.sample_format == FORMAT
    assert {split: manifest.num_samples(split) for split in manifest.splits} == {"train": 20, "validation": 6}
    assert [shard.name for shard in manifest.splits["validation"]] == ["sub/val-0.tar"]
    assert manifest.subsets == {"train": {"even": 10, "odd": 10}, "validation": {"even": 3, "odd": 3}}
    assert verify(LocalStore(folder), processes=1).errors == ()


def test_the_landmarks_follow_the_pixels(folder):
    decoder = decoder_of(index_both(folder))
    for seed in range(4):
        sample = foreign_sample(seed)
        crop, record = decoder.decode("k", sample["JPG"], sample["json"])
        _, truth = draw_face(seed, 150 + 10 * (seed % 3))
        back = transform_points(record.landmarks_shard, np.linalg.inv(record.image_to_shard))
        np.testing.assert_allclose(back, truth, atol=1e-6)
        assert crop.shape == (64, 64, 3)
        # Dots are lighter than the rest.
        places = np.round(record.landmarks_shard).astype(int)
        light = crop.mean(axis=-1)
        assert light[places[:, 1], places[:, 0]].mean() > light.mean() + 30
        inside = (record.landmarks_shard > 14) & (record.landmarks_shard < 49)
        assert inside.all()


def decoded(annotation: bytes, sample_format: SampleFormat, extension: str = "jpg"):
    picture, _ = draw_face(0, 150)
    manifest = Manifest(
        scheme="ibug-68",
        crop_size_px=64,
        crop_margin=0.5,
        source="",
        split_rule="",
        licence="",
        splits={},
        subsets={},
        sample_format=sample_format,
    )
    _, record = decoder_of(manifest).decode("k", encoded(picture, extension), annotation)
    return record


def test_every_way_to_write_points_gives_the_same():
    _, landmarks = draw_face(0, 150)
    triples = np.concatenate([landmarks, np.ones((68, 1))], axis=1)
    box = np.array([10.0, 20.0, 90.0, 80.0])
    unit = (landmarks + 0.5) / 150
    plain = SampleFormat(box_key="box")
    expected = decoded(as_json({"landmarks": landmarks.tolist(), "box": box.tolist()}), plain)
    assert (expected.face_box_image.left, expected.face_box_image.width) == (10, 90)
    for annotation, sample_format in (
        ({"landmarks": landmarks.ravel().tolist(), "box": box.tolist()}, plain),
        ({"landmarks": triples.tolist(), "box": box.tolist()}, plain),
        (
            {"landmarks": (landmarks + 1).tolist(), "box": [11.0, 21.0, 90.0, 80.0]},
            SampleFormat(box_key="box", origin=1),
        ),
        (
            {"landmarks": landmarks.tolist(), "box": [10.0, 20.0, 100.0, 100.0]},
            SampleFormat(box_key="box", box_order="xyxy"),
        ),
        (
            {"landmarks": unit.tolist(), "box": (box / 150).tolist()},
            SampleFormat(box_key="box", points="unit"),
        ),
    ):
        record = decoded(as_json(annotation), sample_format)
        np.testing.assert_allclose(record.landmarks_shard, expected.landmarks_shard, atol=1e-9)
        for side in ("left", "top", "width", "height"):
            assert getattr(record.face_box_image, side) == pytest.approx(
                getattr(expected.face_box_image, side)
            )
    for extension in ("jpg", "png", "webp"):
        record = decoded(npy(landmarks), SampleFormat(annotation="points.npy", picture=extension), extension)
        np.testing.assert_allclose(record.landmarks_shard, expected.landmarks_shard, atol=1e-9)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (b"{", "the .json cannot be read"),
        (b"[1]", "the JSON has no 'landmarks'; it has list"),
        (as_json({"points": [], "id": 3}), "the JSON has no 'landmarks'; it has points, id"),
        (as_json({"landmarks": "many"}), "the landmarks are no numbers"),
        (as_json({"landmarks": [[1, 2, 3, 4]] * 68}), r"shape \(68, 4\), expected pairs"),
        (as_json({"landmarks": [[1, 2 * i] for i in range(5)]}), r"shape \(5, 2\), expected \(68, 2\)"),
        (as_json({"landmarks": [[float("nan"), 2]] * 68}), "not a finite number"),
        (as_json({"landmarks": [[1, 2]] * 68}), "all landmarks lie within 4 px"),
        (as_json({"landmarks": [[i, 900] for i in range(68)]}), "far outside the picture of 150 by 150 px"),
    ],
)
def test_an_annotation_that_is_none_is_told(annotation, message):
    with pytest.raises(SampleFormatError, match=message):
        decoded(annotation, SampleFormat())


def test_shares_of_a_picture_too_large_for_numbers_are_told():
    """Found by the fuzzer: numpy warned of them, for each sample."""
    with pytest.raises(SampleFormatError, match="not a finite number"):
        decoded(as_json({"landmarks": [[1e308, 0.5]] * 68}), SampleFormat(points="unit"))


@pytest.mark.parametrize(
    "content",
    [b"", npy(np.zeros((68, 2)))[:90], npy(np.zeros((68, 2))).replace(b"}", b"("),
     npy(np.zeros((68, 2))).replace(b"(68, 2)", b"(9**9,)"), npy(np.array([None]))],
)  # fmt: skip
def test_an_array_that_is_none_is_told(content):
    with pytest.raises(SampleFormatError, match=r"the \.npy cannot be read"):
        decoded(content, SampleFormat(annotation="npy"))


def test_bad_samples_are_told_and_dropped(folder):
    samples = {f"{seed:05d}": foreign_sample(seed) for seed in range(5)}
    samples["00001"]["json"] = as_json({"face": {}})
    del samples["00003"]["JPG"]
    write_tar(folder / "train-0.tar", samples)
    manifest, faults = index(
        folder, split="train", shards="train-*.tar", sample_format=FORMAT, options=OPTIONS
    )
    assert len(faults) == 2
    assert "train-0.tar: sample './faces.v2/00001': the JSON has no 'face.keypoints'" in faults[0]
    assert "has .json, .cls, expected .jpg and .json" in faults[1]
    assert manifest.num_samples("train") == 15
    found = verify(LocalStore(folder), processes=1)
    assert {one.kind for one in found.errors} == {Kind.BAD_SAMPLE, Kind.INCOMPLETE_SAMPLE}
    repair_shards(found)
    repaired = verify(LocalStore(folder), processes=1)
    assert repaired.errors == ()
    assert repaired.manifest.num_samples("train") == 13
    with tarfile.open(folder / "train-0.tar") as tar:
        assert "./faces.v2/00000.cls" in tar.getnames()


def run(*arguments: str) -> int:
    try:
        main(["index", *arguments])
    except SystemExit as stop:
        return stop.code
    return 0


def test_the_command_tells_what_it_did(folder, capsys):
    assert run(str(folder), "--split", "train", "--shards", "train-*.tar", *FLAGS) == 0
    assert capsys.readouterr().out == f"{folder}: 20 train faces in 2 shards of train\n"


def test_a_split_that_is_added_at_the_same_time_stays(folder, monkeypatch):
    def entered_late(place: Path):
        monkeypatch.undo()
        index(folder, split="validation", shards="sub/*.tar", sample_format=FORMAT, options=OPTIONS)
        return locked(place)

    monkeypatch.setattr("shards.index.locked", entered_late)
    index(folder, split="train", shards="train-*.tar", sample_format=FORMAT, options=OPTIONS)
    manifest = Manifest.read(folder)
    assert [manifest.num_samples(split) for split in ("train", "validation")] == [20, 6]


def test_a_folder_that_cannot_be_written_is_told(folder, capsys):
    (folder / LOCK_NAME).mkdir()
    assert run(str(folder), "--split", "train", "--shards", "train-*.tar", *FLAGS) == 2
    told = capsys.readouterr().err
    assert f"{folder}: cannot be written (Is a directory)" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shards", "x*.tar"], "nothing here is called x*.tar"),
        (["--shards", "/etc/*"], "is no glob inside the folder"),
        (["--scheme", "ibug-69"], "landmark scheme 'ibug-69' is unknown"),
        (["--landmarks-key", "points"], "the JSON has no 'points'; it has face, part, photo"),
        (["--picture", "png"], "has .jpg, .json, .cls, expected .png and .json"),
        (["--annotation", "txt"], "--annotation is 'txt'"),
        (["--origin", "1", "--points", "unit"], "--origin 1 is for --points px"),
        (["--crop-size-px", "3"], "--crop-size-px is 3, expected 16 to 4096"),
        (["--crop-size-px", "5000"], "--crop-size-px is 5000, expected 16 to 4096"),
        (["--crop-margin", "inf"], "--crop-margin is inf, expected 0 to 5"),
    ],
)
def test_mistakes_are_one_line(folder, capsys, arguments, message):
    given = {argument for argument in arguments if argument.startswith("--")}
    flags = [flag for flag in FLAGS if flag.partition("=")[0] not in given]
    assert run(str(folder), "--split", "train", *flags, *arguments) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (folder / "manifest.json").exists()


def test_what_does_not_go_together_is_refused(folder, make_shards):
    index_both(folder)
    before = (folder / "manifest.json").read_bytes()
    for shards, sample_format, message in (
        ("train-0.tar", FORMAT, "train-0.tar is in the split train already"),
        ("sub/*.tar", SampleFormat(), "has sample_format"),
    ):
        with pytest.raises(InputError, match=message):
            index(folder, split="test", shards=shards, sample_format=sample_format, options=OPTIONS)
    (folder / "sub/cut.tar").write_bytes((folder / "train-0.tar").read_bytes()[:30_000])
    with pytest.raises(InputError, match=r"sub/cut.tar: .*; fetch it again, or leave it out with --shards"):
        index(folder, split="test", shards="sub/cut.tar", sample_format=FORMAT, options=OPTIONS)
    assert (folder / "manifest.json").read_bytes() == before
    make_shards(folder / "own", {"train": 3})
    with pytest.raises(InputError, match="is of converted shards"):
        index(folder / "own", split="test", shards="*.tar", sample_format=FORMAT, options=OPTIONS)


@pytest.mark.parametrize("fields", [{"points": "miles"}, {"surprise": 1}, "jpg"])
def test_a_manifest_with_another_format_is_told(folder, fields):
    index_both(folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    changed = {**to_fields(FORMAT), **fields} if isinstance(fields, dict) else fields
    path.write_text(json.dumps({**manifest, "sample_format": changed}))
    with pytest.raises(InputError, match=r"manifest\.json"):
        Manifest.read(folder)


@pytest.mark.usefixtures("fresh_accelerator")
def test_foreign_shards_train_and_evaluate(folder, tmp_path):
    index_both(folder)
    loader = LoaderConfig(num_workers=0, boxes="annotation")
    run_folder = train(tiny(folder, tmp_path / "run", steps=2, eval_batch_size=6, loader=loader))
    report, _ = evaluate_checkpoint(run_folder, str(folder), split="validation", num_workers=0)
    assert report.subsets.keys() >= {"even", "odd"}
    assert len(report.errors) == 6


def test_the_commands_of_the_readme_run(tmp_path, monkeypatch):
    for name, seeds in (("train-0", range(3)), ("val-0", range(3, 5))):
        samples = {}
        for seed in seeds:
            picture, landmarks = draw_face(seed, 100)
            points = ((landmarks + 0.5) / 100).tolist()
            samples[str(seed)] = {"jpg": encoded(picture), "json": as_json({"face": {"points": points}})}
        write_tar(tmp_path / f"faces/{name}.tar", samples)
    monkeypatch.chdir(tmp_path)
    for command in block("index").splitlines():
        words = shlex.split(command)
        assert words[:4] == ["python", "-m", "shards", "index"]
        assert run(*words[4:], "--processes", "1") == 0
    assert Manifest.read(tmp_path / "faces").num_samples("validation") == 2
