import dataclasses
import errno
import hashlib
import json
import os
import resource
import subprocess
import tarfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flm.data.manifest import Manifest
from flm.data.output import LOCK_NAME, UNFINISHED_NAME, replaced_when_done
from flm.data.samples import SampleRecord
from flm.errors import InputError
from flm.geometry import FaceBox, transform_points
from flm.pictures import DecodedPicture
from shards.__main__ import main
from shards.annotation import DataSet, FaceAnnotation, PictureFile
from shards.convert import ConvertOptions, convert
from shards.plan import hold_out, plan_splits
from shards.summary import print_summary

GRID = np.array([(x, y) for y in range(8) for x in range(9)], dtype=np.float64)[:68]
"""68 points far enough from each other that each dot can be found by itself."""

ONE_PROCESS = ConvertOptions(processes=1)


def dotted_picture(landmarks: np.ndarray, width: int, height: int, sigma_px: float) -> np.ndarray:
    """Grey, with a soft light dot whose centre of mass is the landmark, wherever between pixels it lies."""
    picture = np.full((height, width), 60.0)
    for x, y in landmarks:
        column = np.exp(-((np.arange(height) - y) ** 2) / (2 * sigma_px**2))
        row = np.exp(-((np.arange(width) - x) ** 2) / (2 * sigma_px**2))
        picture += 180 * np.outer(column, row)
    return np.repeat(np.round(picture).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def find_dot(crop: np.ndarray, near: np.ndarray, radius_px: int = 5) -> np.ndarray:
    """Centre of mass of the light around a place."""
    left, top = (round(float(v)) - radius_px for v in near)
    window = crop[top : top + 2 * radius_px + 1, left : left + 2 * radius_px + 1].mean(axis=2)
    light = np.maximum(window - 75.0, 0)
    rows, columns = np.indices(light.shape)
    return np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum() + [left, top]


def make_faces(folder: Path, num_faces: int, *, spacing_px: float = 14.0) -> list[FaceAnnotation]:
    """Dotted pictures on disk, two a photo, each fifth photo test."""
    faces = []
    for number in range(num_faces):
        random = np.random.default_rng(number)
        offset = random.uniform(0.8, 1.2, 2) + random.uniform(-0.1, 0.1, (68, 2))
        landmarks = (GRID + offset) * spacing_px
        width, height = (int(v + spacing_px) for v in landmarks.max(axis=0))
        path = folder / "pictures" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), dotted_picture(landmarks, width, height, sigma_px=spacing_px / 9))
        box = FaceBox.around(landmarks[20:])
        photo = number // 2
        faces.append(
            FaceAnnotation(
                picture=PictureFile(path),
                landmarks_image=landmarks,
                scheme="ibug-68",
                face_box_image=box,
                split="test" if photo % 5 == 4 else "train",
                subset="even" if number % 2 == 0 else "odd",
                source_file=f"pictures/{path.name}",
                group=f"photo-{photo}",
            )
        )
    return faces


def as_data_set(faces: Sequence[FaceAnnotation]) -> DataSet:
    return DataSet(
        faces=faces, source="drawn", split_rule="each fifth photo is test", licence="MIT", left_out={}
    )


def contents(folder: Path) -> dict[str, str]:
    """Hash of everything in a folder, hidden files too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_samples(folder: Path, split: str) -> dict[str, tuple[np.ndarray, SampleRecord]]:
    """Crops (RGB) and records by key, with nothing but the tar's bytes."""
    samples = {}
    for path in sorted(folder.glob(f"{split}-*.tar")):
        with tarfile.open(path) as tar:
            for name in tar.getnames():
                key, kind = name.split(".")
                if kind == "jpg":
                    jpeg = tar.extractfile(name)
                    record = tar.extractfile(f"{key}.json")
                    assert jpeg is not None
                    assert record is not None
                    crop = cv2.imdecode(np.frombuffer(jpeg.read(), np.uint8), cv2.IMREAD_COLOR_RGB)
                    samples[key] = (crop, SampleRecord.from_json(record.read()))
    return samples


@pytest.fixture
def faces(tmp_path: Path) -> list[FaceAnnotation]:
    return make_faces(tmp_path, 20)


@pytest.mark.parametrize("shrink", [0.6, 1.0, 2.3, 5.0])
def test_dots_lie_where_the_record_says(tmp_path: Path, shrink: float) -> None:
    # The grid is 8 spacings wide and fills half of the crop's 256 px.
    drawn = make_faces(tmp_path, 2, spacing_px=shrink * 128 / 8)
    convert(as_data_set(drawn), tmp_path / "out", ConvertOptions(processes=1, validation_share=0.0))
    samples = read_samples(tmp_path / "out", "train")
    assert len(samples) == 2
    for crop, record in samples.values():
        assert 1 / record.image_to_shard[0, 0] == pytest.approx(shrink, rel=0.1)
        found = np.array([find_dot(crop, landmark) for landmark in record.landmarks_shard])
        error_px = np.linalg.norm(found - record.landmarks_shard, axis=1)
        assert error_px.mean() < 0.1
        assert error_px.max() < 0.2


def test_record_has_what_the_annotation_had(tmp_path: Path, faces: list[FaceAnnotation]) -> None:
    faces[3] = dataclasses.replace(faces[3], mirror_of=faces[2].source_file)
    convert(as_data_set(faces), tmp_path / "out", ONE_PROCESS)
    by_file = {face.source_file: face for face in faces}
    num_read = 0
    for split in ("train", "validation", "test"):
        for _, record in read_samples(tmp_path / "out", split).values():
            face = by_file[record.source_file]
            landmarks = transform_points(record.landmarks_shard, np.linalg.inv(record.image_to_shard))
            np.testing.assert_allclose(landmarks, face.landmarks_image, atol=0.001)
            assert record.face_box_image == face.face_box_image
            assert (record.subset, record.group, record.mirror_of) == (
                face.subset,
                face.group,
                face.mirror_of,
            )
            assert (split == "test") == (face.split == "test")
            num_read += 1
    assert num_read == len(faces)


@pytest.mark.multiprocess
def test_bytes_do_not_depend_on_processes_nor_on_the_order_of_the_faces(
    tmp_path: Path, faces: list[FaceAnnotation]
) -> None:
    for processes in (1, 2, 3):
        options = ConvertOptions(processes=processes, shard_size=5, validation_share=0.25)
        convert(as_data_set(faces), tmp_path / f"out-{processes}", options)
    options = ConvertOptions(processes=1, shard_size=5, validation_share=0.25)
    convert(as_data_set(faces[::-1]), tmp_path / "reversed", options)
    expected = contents(tmp_path / "out-1")
    assert set(expected) == {
        "manifest.json",
        *(f"train-{index:06d}.tar" for index in range(3)),
        "validation-000000.tar",
        "test-000000.tar",
    }
    assert contents(tmp_path / "out-2") == expected
    assert contents(tmp_path / "out-3") == expected
    assert contents(tmp_path / "reversed") == expected


def test_seed_changes_order_and_validation(tmp_path: Path, faces: list[FaceAnnotation]) -> None:
    plans = [plan_splits(faces, seed=seed, validation_share=0.3) for seed in (0, 1)]
    keys = [{split: [sample.key for sample in samples] for split, samples in plan.items()} for plan in plans]
    assert keys[0] != keys[1]
    assert sorted(keys[0]["test"]) == sorted(keys[1]["test"])
    assert keys[0]["train"] != sorted(keys[0]["train"])


def test_manifest_tells_what_the_tars_hold(tmp_path: Path, faces: list[FaceAnnotation]) -> None:
    out = tmp_path / "out"
    options = ConvertOptions(processes=1, shard_size=5, crop_size_px=96, validation_share=0.25)
    returned = convert(as_data_set(faces), out, options)
    manifest = Manifest.read(out)
    assert manifest == returned
    assert [manifest.num_samples(split) for split in ("train", "validation", "test")] == [12, 4, 4]
    for split, entries in manifest.splits.items():
        records = []
        for entry in entries:
            content = (out / entry.name).read_bytes()
            assert entry.num_bytes == len(content)
            assert entry.sha256 == hashlib.sha256(content).hexdigest()
            assert entry.num_samples <= 5
        for crop, record in read_samples(out, split).values():
            assert crop.shape == (96, 96, 3)
            records.append(record)
        assert sum(entry.num_samples for entry in entries) == len(records)
        assert manifest.subsets[split] == Counter(record.subset for record in records)


def test_tars_are_reproducible_in_owner_and_time(tmp_path: Path, faces: list[FaceAnnotation]) -> None:
    convert(as_data_set(faces), tmp_path / "out", ONE_PROCESS)
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as tar:
        headers = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar}
    assert headers == {(946_684_800, 0, 0, "flm", "flm", 0o644)}


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    share=st.floats(0, 0.9),
    seed=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_hold_out_meets_the_share_with_whole_groups(sizes: list[int], share: float, seed: int) -> None:
    groups = {f"group-{number}": size for number, size in enumerate(sizes)}
    singles = {f"single-{number}": 1 for number in range(9)}
    held_out = hold_out(groups | singles, share=share, seed=seed)
    total = sum(sizes) + 9
    num_held_out = sum((groups | singles)[group] for group in held_out)
    assert num_held_out <= share * total + 1e-6
    # Short of the share only where not even a group of one was left.
    assert num_held_out == int(share * total + 1e-9) or held_out >= set(singles)
    assert hold_out(dict(reversed((groups | singles).items())), share=share, seed=seed) == held_out


def test_photos_do_not_straddle_train_and_validation(faces: list[FaceAnnotation]) -> None:
    plan = plan_splits(faces, seed=0, validation_share=0.25)
    assert len(plan["validation"]) == 4
    groups = {split: {sample.face.group for sample in samples} for split, samples in plan.items()}
    assert not groups["train"] & groups["validation"]


def test_validation_of_the_source_is_left_alone(faces: list[FaceAnnotation]) -> None:
    faces[0] = dataclasses.replace(faces[0], split="validation")
    plan = plan_splits(faces, seed=0, validation_share=0.5)
    assert [sample.face.source_file for sample in plan["validation"]] == [faces[0].source_file]


def test_a_data_set_may_be_all_test(tmp_path: Path, faces: list[FaceAnnotation]) -> None:
    only_test = [face for face in faces if face.split == "test"]
    manifest = convert(as_data_set(only_test), tmp_path / "out", ONE_PROCESS)
    assert manifest.num_samples("test") == len(only_test)
    assert manifest.num_samples("train") == manifest.num_samples("validation") == 0


def test_the_manifest_counts_a_face_in_each_of_its_subsets(
    tmp_path: Path, faces: list[FaceAnnotation]
) -> None:
    subsets = ["blur+pose", "pose", ""]
    marked = [
        dataclasses.replace(face, split="test", subset=subset)
        for face, subset in zip(faces, subsets, strict=False)
    ]
    manifest = convert(as_data_set(marked), tmp_path / "out", ONE_PROCESS)
    assert manifest.subsets["test"] == {"blur": 1, "pose": 2}


def test_keys_are_unique_and_fit_a_tar(faces: list[FaceAnnotation]) -> None:
    names = [
        "a/b.c.png",
        "a/b_c.png",
        "a/b_c.jpg",
        "a/b_c-2.jpg",
        f"{'x' * 300}.png",
        f"{'x' * 301}.png",
        "é/ü.png",
    ]
    named = [dataclasses.replace(face, source_file=name) for face, name in zip(faces, names, strict=False)]
    plan = plan_splits(named, seed=0, validation_share=0.0)
    keys = [sample.key for samples in plan.values() for sample in samples]
    assert len(set(keys)) == len(names)
    assert all(key.isascii() and "." not in key and "/" not in key for key in keys)
    assert all(len(f"{key}.json") <= 100 for key in keys)
    assert {"a-b_c", "a-b_c-2", "a-b_c-3"} <= set(keys)


def test_any_number_of_names_may_become_one_key(faces: list[FaceAnnotation]) -> None:
    """As those in letters that a key cannot have; this took seconds for thousands, hours for a million."""
    same = [dataclasses.replace(faces[0], source_file="\u9854/\u9854.png")] * 20_000
    start_s = time.perf_counter()
    plan = plan_splits(same, seed=0, validation_share=0.0)
    assert time.perf_counter() - start_s < 5
    assert len({sample.key for sample in plan[faces[0].split]}) == 20_000


def test_names_that_look_like_markup_are_told_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = Manifest(
        scheme="ibug-68",
        crop_size_px=64,
        crop_margin=0.5,
        source="pts [bold]",
        split_rule="",
        licence="",
        splits={},
        subsets={"train": {"[old]": 3, "a[/b]": 2}},
    )
    print_summary(manifest, tmp_path, left_out={}, duration_s=1.0)
    told = capsys.readouterr().out
    assert all(name in told for name in ("pts [bold]", "[old]", "a[/b]"))


class TestWhatWasThere:
    """A conversion that fails leaves the folder as it was."""

    @pytest.fixture
    def out(self, tmp_path: Path, faces: list[FaceAnnotation]) -> Path:
        out = tmp_path / "out"
        convert(as_data_set(faces[:12]), out, ConvertOptions(processes=1, shard_size=4))
        (out / "notes.txt").write_text("mine")
        return out

    def refused(self, faces: Sequence[FaceAnnotation], out: Path, processes: int = 1) -> str:
        before = contents(out)
        with pytest.raises(InputError) as caught:
            convert(as_data_set(faces), out, ConvertOptions(processes=processes))
        assert contents(out) == before
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_is_replaced_by_a_run_that_succeeds(self, out: Path, faces: list[FaceAnnotation]) -> None:
        before = contents(out)
        manifest = convert(as_data_set(faces), out, ONE_PROCESS)
        after = contents(out)
        listed = {shard.name for shards in manifest.splits.values() for shard in shards}
        assert set(after) == {"manifest.json", "notes.txt", *listed}
        assert after["notes.txt"] == before["notes.txt"]
        assert {"train-000001.tar", "train-000002.tar"} <= set(before)

    @pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.multiprocess)])
    def test_survives_a_truncated_picture(
        self, out: Path, faces: list[FaceAnnotation], processes: int
    ) -> None:
        path = out.parent / "pictures" / "007.png"
        path.write_bytes(path.read_bytes()[:2000])
        assert "007.png" in self.refused(faces, out, processes)

    def test_survives_a_picture_that_is_none(self, out: Path, faces: list[FaceAnnotation]) -> None:
        (out.parent / "pictures" / "007.png").write_text("<html>not found</html>")
        assert "007.png: not a whole picture" in self.refused(faces, out)

    @pytest.mark.parametrize(
        ("landmarks", "message"),
        [
            (np.full((68, 2), np.nan), "not a finite number"),
            (GRID + np.array([[1e308, 0]] + [[0, 0]] * 67), "or beyond 1e+06 px"),
            (GRID + np.array([5000, 0]), "landmark 0 at (5000, 0) is far outside the picture"),
            (GRID * 0 + 50, "all landmarks lie within 4 px"),
        ],
    )
    def test_survives_impossible_landmarks(
        self, out: Path, faces: list[FaceAnnotation], landmarks: np.ndarray, message: str
    ) -> None:
        faces[5] = dataclasses.replace(faces[5], landmarks_image=landmarks)
        told = self.refused(faces, out)
        assert "pictures/005.png" in told
        assert message in told

    def test_survives_an_interruption(self, out: Path, faces: list[FaceAnnotation]) -> None:
        before = contents(out)
        faces[5] = dataclasses.replace(faces[5], picture=Interrupted())
        with pytest.raises(KeyboardInterrupt):
            convert(as_data_set(faces), out, ONE_PROCESS)
        assert contents(out) == before

    @pytest.mark.multiprocess
    def test_survives_a_worker_that_is_killed(self, out: Path, faces: list[FaceAnnotation]) -> None:
        faces[5] = dataclasses.replace(faces[5], picture=Deadly())
        assert "use fewer --processes" in self.refused(faces, out, processes=2)

    def test_survives_a_write_that_fails(self, out: Path, faces: list[FaceAnnotation]) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            told = self.refused(faces, out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert told.startswith(f"{out}: cannot be written (File too large)")

    def test_survives_a_full_disk_before_the_last_step(
        self, out: Path, faces: list[FaceAnnotation], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: Path) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("flm.data.writer.sync", full)
        assert f"{out}: the disk is full; free space" in self.refused(faces, out)

    def test_survives_a_run_without_faces(self, out: Path) -> None:
        assert "there is no face; check the source" in self.refused([], out)

    def test_is_not_overwritten_while_another_writes(self, out: Path, faces: list[FaceAnnotation]) -> None:
        before = contents(out)
        with replaced_when_done(out) as unfinished:
            with pytest.raises(InputError, match="another conversion is writing here"):
                convert(as_data_set(faces), out, ONE_PROCESS)
            assert {path.name for path in out.iterdir()} >= {UNFINISHED_NAME, LOCK_NAME, *before}
            for path in out.glob("*.[jt]*"):
                (unfinished / path.name).write_bytes(path.read_bytes())
        assert contents(out) == before

    def test_is_cleared_of_what_a_killed_run_left(self, out: Path, faces: list[FaceAnnotation]) -> None:
        (out / UNFINISHED_NAME).mkdir()
        (out / UNFINISHED_NAME / "train-000009.tar").write_text("half")
        (out / LOCK_NAME).touch()
        convert(as_data_set(faces), out, ONE_PROCESS)
        assert not [path for path in out.rglob("*") if path.name.startswith(".") or "000009" in path.name]

    def test_is_not_deleted_unless_a_manifest_lists_it(self, out: Path, faces: list[FaceAnnotation]) -> None:
        (out / "train-000077.tar").write_text("of another program")
        assert "train-000077.tar is in no manifest" in self.refused(faces, out)

    def test_may_have_a_manifest_of_another_program(self, out: Path, faces: list[FaceAnnotation]) -> None:
        (out / "manifest.json").write_text(json.dumps({"name": "web app"}))
        assert "move it away or choose another --out" in self.refused(faces, out)


def test_full_disk(tmp_path: Path, faces: list[FaceAnnotation]) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        before = contents(small)
        with pytest.raises(InputError, match=r"the disk is full; free space or choose another --out"):
            convert(as_data_set(faces), small / "out", ConvertOptions(processes=1))
        assert contents(small) == before
        assert not (small / "out").exists()
    finally:
        subprocess.run(["umount", small], check=True)


def test_folder_that_cannot_be_made(tmp_path: Path, faces: list[FaceAnnotation]) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="cannot be written"):
        convert(as_data_set(faces), tmp_path / "file" / "out", ONE_PROCESS)


def test_faces_of_two_schemes_are_refused(tmp_path: Path, faces: list[FaceAnnotation]) -> None:
    faces[0] = dataclasses.replace(faces[0], scheme="other-68")
    with pytest.raises(InputError, match="ibug-68 and other-68"):
        convert(as_data_set(faces), tmp_path / "out", ONE_PROCESS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("crop-size-px", "8"),
        ("crop-size-px", "5000"),
        ("crop-margin", "nan"),
        ("shard-size", "0"),
        ("processes", "0"),
        ("validation-share", "1"),
        ("unknown-flag", "1"),
        ("seed", "one"),
    ],
)
def test_bad_flags_are_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["convert", "synthetic", "--num-faces", "10", "--out", str(tmp_path / "o"), f"--{flag}", value])
    told = capsys.readouterr().err
    assert stopped.value.code == 2
    assert told.count("\n") == 1
    assert f"--{flag}" in told
    assert not (tmp_path / "o").exists()


def test_synthetic_faces_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    main(["convert", "synthetic", "--num-faces", "20", "--out", str(out), "--processes", "1", "--seed", "4"])
    manifest = Manifest.read(out)
    assert [manifest.num_samples(split) for split in ("train", "validation", "test")] == [17, 1, 2]
    told = capsys.readouterr().out
    assert "20 faces in 3 shards" in told
    assert f"--data {out}" in told


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Ctrl-C while this picture is read."""

    def decode(self, part: FaceBox, most_reduction: float) -> DecodedPicture:
        raise KeyboardInterrupt


@dataclass(frozen=True, slots=True)
class Deadly:
    """Kills the process that reads it."""

    def decode(self, part: FaceBox, most_reduction: float) -> DecodedPicture:
        os._exit(9)
