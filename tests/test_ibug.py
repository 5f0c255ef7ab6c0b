import json
import re
import subprocess
import sys
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from flm.data.manifest import Manifest
from flm.errors import InputError
from flm.geometry import FaceBox, transform_points
from flm.landmarks import IBUG_68
from shards.__main__ import main
from shards.annotation import FaceAnnotation, PictureFile
from shards.plan import plan_splits
from shards.sources.ibug import LABELS, photo_of, read_ibug
from shards.sources.imglab import read_labels
from shards.unpack import unpacked

SIZE_PX = 120
ARCHIVE = "ibug_300W_large_face_landmark_dataset"

TRAIN_FILES = ["afw/11_1.jpg", "afw/11_2.jpg", "afw/12_1.jpg"]
TRAIN_FILES += [f"helen/trainset/{number}_1.jpg" for number in range(20, 26)]
TRAIN_FILES += ["helen/testset/30_1.jpg", "lfpw/trainset/image_0001.png", "lfpw/trainset/image_0002.png"]
TEST_FILES = ["helen/testset/31_1.jpg", "lfpw/testset/image_0001.png", "ibug/image_003_1.jpg"]
TEST_FILES += ["helen/trainset/40_1.jpg"]
"""As in the official archive, neither labels file keeps to the folders of the papers' split."""


def landmarks_of(file: str) -> np.ndarray:
    """Sub-pixel, 0-based, another set for every file."""
    random = np.random.default_rng(zlib.crc32(file.encode()))
    return random.uniform(30, 90, (68, 2))


def mirrored(landmarks: np.ndarray) -> np.ndarray:
    return np.stack([SIZE_PX - 1 - landmarks[:, 0], landmarks[:, 1]], 1)[list(IBUG_68.mirror_permutation)]


def twin_of(file: str) -> str:
    return re.sub(r"\.\w+$", "_mirror.jpg", file)


def image_xml(file: str, landmarks: np.ndarray, box: tuple[int, int, int, int]) -> str:
    left, top, width, height = box
    parts = "\n".join(
        f"      <part name='{number:02d}' x='{x:.0f}' y='{y:.0f}'/>"
        for number, (x, y) in enumerate(landmarks)
    )
    return (
        f"  <image file='{file}' width='{SIZE_PX}' height='{SIZE_PX}'>\n"
        f"    <box top='{top}' left='{left}' width='{width}' height='{height}'>\n"
        f"{parts}\n    </box>\n  </image>\n"
    )


def labels_xml(images: str) -> str:
    return (
        "<?xml version='1.0' encoding='ISO-8859-1'?>\n"
        "<?xml-stylesheet type='text/xsl' href='image_metadata_stylesheet.xsl'?>\n"
        "<dataset>\n<name>Drawn faces in the manner of Müller</name>\n<images>\n"
        f"{images}</images>\n</dataset>\n"
    )


def pts_text(landmarks: np.ndarray) -> str:
    lines = "\n".join(f"{x + 1:.6f} {y + 1:.6f}" for x, y in landmarks)
    return f"version: 1\nn_points:  68\n{{\n{lines}\n}}\n"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive as dlib's: twins, PNG originals, boxes that reach outside the picture."""
    folder = tmp_path / ARCHIVE
    for split, files in (("train", TRAIN_FILES), ("test", TEST_FILES)):
        images = []
        for file in files:
            landmarks = landmarks_of(file)
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = np.full((SIZE_PX, SIZE_PX, 3), 90, np.uint8)
            cv2.imwrite(str(path), picture)
            path.with_suffix(".pts").write_text(pts_text(landmarks))
            cv2.imwrite(str(folder / twin_of(file)), picture)
            images.append(image_xml(file, landmarks, (-4, 40, 130, 77)))
            images.append(image_xml(twin_of(file), mirrored(landmarks), (-6, 40, 130, 77)))
        (folder / LABELS[split]).write_bytes(labels_xml("".join(images)).encode("iso-8859-1"))
    return folder


def change(archive: Path, split: str, edit: Callable[[str], str]) -> None:
    path = archive / LABELS[split]
    before = path.read_bytes().decode("iso-8859-1")
    after = edit(before)
    assert after != before
    path.write_bytes(after.encode("iso-8859-1"))


def by_file(faces: object) -> dict[str, FaceAnnotation]:
    return {face.source_file: face for face in faces}  # type: ignore[attr-defined]


def test_300w_splits_by_folder(archive: Path) -> None:
    data_set = read_ibug(archive)
    parts = Counter((face.split, face.subset) for face in data_set.faces)
    assert parts == {
        ("train", "afw"): 3,
        ("train", "helen"): 7,
        ("train", "lfpw"): 2,
        ("test", "common/helen"): 2,
        ("test", "common/lfpw"): 1,
        ("test", "challenging/ibug"): 1,
    }
    assert data_set.left_out == {"mirror twins": 16, "missing pictures": 0}
    assert data_set.source == "ibug protocol=300w mirrors=drop"


def test_dlib_splits_by_labels_file(archive: Path) -> None:
    faces = by_file(read_ibug(archive, protocol="dlib", mirrors="keep").faces)
    assert {file for file, face in faces.items() if face.split == "train"} == {
        name for file in TRAIN_FILES for name in (file, twin_of(file))
    }
    assert {file for file, face in faces.items() if face.split == "test"} == {
        name for file in TEST_FILES for name in (file, twin_of(file))
    }
    assert faces["helen/testset/30_1.jpg"].subset == "common/helen"


def test_landmarks_are_those_of_the_pts_where_there_is_one(archive: Path) -> None:
    (archive / "afw/12_1.pts").unlink()
    faces = by_file(read_ibug(archive, mirrors="keep").faces)
    for file in TRAIN_FILES + TEST_FILES:
        expected = landmarks_of(file)
        if file == "afw/12_1.jpg":
            expected = np.array([[float(f"{v:.0f}") for v in point] for point in expected])
        np.testing.assert_allclose(faces[file].landmarks_image, expected, atol=1e-6)
        twin = faces[twin_of(file)].landmarks_image
        np.testing.assert_allclose(twin, mirrored(landmarks_of(file)), atol=0.5001)
    assert faces["afw/12_1.jpg"].face_box_image == FaceBox(left=-4.0, top=40.0, width=130.0, height=77.0)


def test_twins_know_their_original_and_share_its_photo(archive: Path) -> None:
    faces = by_file(read_ibug(archive, mirrors="keep").faces)
    twin = faces["lfpw/trainset/image_0001_mirror.jpg"]
    assert twin.mirror_of == "lfpw/trainset/image_0001.png"
    assert twin.group == faces["lfpw/trainset/image_0001.png"].group
    assert faces["lfpw/trainset/image_0001.png"].mirror_of is None


@pytest.mark.parametrize(
    ("file", "photo"),
    [
        ("afw/1051618982_1.jpg", "afw/1051618982"),
        ("afw/1051618982_12_mirror.jpg", "afw/1051618982"),
        ("helen/trainset/1002681492_1.jpg", "helen/1002681492"),
        ("helen/testset/1002681492_2.jpg", "helen/1002681492"),
        ("lfpw/trainset/image_0457.png", "lfpw/trainset/image_0457"),
        ("lfpw/testset/image_0001_mirror.jpg", "lfpw/testset/image_0001"),
        ("ibug/image_105_01.jpg", "ibug/image_105"),
        ("ibug/image_095.jpg", "ibug/image_095"),
    ],
)
def test_photo_of(file: str, photo: str) -> None:
    assert photo_of(file) == photo


def test_archive_may_lie_one_folder_below_or_in_a_tar(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / LABELS["test"]).write_text("an extra copy")
    expected = sorted(by_file(read_ibug(archive).faces))
    assert sorted(by_file(read_ibug(archive.parent).faces)) == expected
    tar_path = tmp_path / "archive.tar.gz"
    with tarfile.open(tar_path, "w:gz") as tar:
        tar.add(archive, arcname=ARCHIVE)
    with unpacked(tar_path, beside=tmp_path / "new" / "deep") as folder:
        faces = read_ibug(folder).faces
        assert sorted(by_file(faces)) == expected
        assert faces[0].picture.decode(FaceBox.of_picture(SIZE_PX, SIZE_PX), 1.0).pixels.shape == (
            SIZE_PX,
            SIZE_PX,
            3,
        )
    assert not list((tmp_path / "new" / "deep").iterdir())


def test_missing_pictures_stop_the_run_unless_allowed(archive: Path) -> None:
    for number in range(20, 26):
        (archive / f"helen/trainset/{number}_1.jpg").unlink()
    (archive / twin_of("afw/12_1.jpg")).unlink()
    with pytest.raises(InputError) as caught:
        read_ibug(archive)
    told = str(caught.value)
    assert "6 of 16 listed pictures are missing: helen/trainset/20_1.jpg, " in told
    assert "helen/trainset/24_1.jpg and 1 more; " in told
    assert "--allow-missing" in told
    data_set = read_ibug(archive, allow_missing=True)
    assert len(data_set.faces) == 10
    assert data_set.left_out == {"mirror twins": 16, "missing pictures": 6}


FIRST_BOX_LINE = 7
FIRST_PART = "<part name='00' x="


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        (
            r"      <part name='67'[^\n]*\n",
            "",
            FIRST_BOX_LINE,
            "box of afw/11_1.jpg has 67 points, expected 68",
        ),
        ("part name='05'", "part name='04'", 13, "box of afw/11_1.jpg has part '04' twice"),
        ("part name='05'", "part name='68'", 13, "part '68' of afw/11_1.jpg, expected 00 to 67 (ibug-68)"),
        ("part name='05'", "part", 13, "part '' of afw/11_1.jpg, expected 00 to 67"),
        ("name='05' x='[0-9]+'", "name='05' x='nan'", FIRST_BOX_LINE, "a landmark is not a finite number"),
        ("name='05' x='[0-9]+'", "name='05' x='left'", 13, "part '05' of afw/11_1.jpg is at (left, "),
        (
            "width='130'",
            "width='0'",
            FIRST_BOX_LINE,
            "box of afw/11_1.jpg has left -4, top 40, width 0, height 77",
        ),
        (
            "height='77'",
            "height='-77'",
            FIRST_BOX_LINE,
            "box of afw/11_1.jpg has left -4, top 40, width 130, height -77",
        ),
        ("top='40' ", "", FIRST_BOX_LINE, "box of afw/11_1.jpg has left -4, top None"),
        ("file='afw/11_1.jpg' ", "", 6, "an <image> has no file"),
        ("file='afw/11_1.jpg' ", "file='/' ", 6, "an <image> has no file"),
        ("file='afw/11_1.jpg' ", "file='./' ", 6, "an <image> has no file"),
        ("    </box>\n  </image>\n", "    </box>\n", 1733, "not well-formed XML (mismatched tag)"),
        ("<dataset>", "<html>", 3, "<html> is the outermost element, expected <dataset>"),
        ("afw/11_2.jpg", "afw/11_1.jpg", 151, "afw/11_1.jpg is listed already at"),
        ("afw/11_1.jpg", "frgc/11_1.jpg", FIRST_BOX_LINE, "not a part of 300-W"),
    ],
)
def test_bad_labels_are_told_with_their_line(
    archive: Path, old: str, new: str, line: int, message: str
) -> None:
    change(archive, "train", lambda text: re.sub(old, new, text, count=1))
    if "finite" in message:
        (archive / "afw/11_1.pts").unlink()
    if new.startswith("frgc"):
        (archive / "frgc").mkdir()
        (archive / "afw/11_1.jpg").rename(archive / "frgc/11_1.jpg")
    with pytest.raises(InputError) as caught:
        read_ibug(archive)
    assert message in str(caught.value)
    assert f"{LABELS['train']}:{line}: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_cut_short_and_labels_that_are_no_xml(archive: Path) -> None:
    path = archive / LABELS["test"]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"labels_ibug_300W_test\.xml:\d+: not well-formed XML"):
        read_ibug(archive)
    path.write_bytes(b"\x89PNG\r\n")
    with pytest.raises(InputError, match=r"labels_ibug_300W_test\.xml:1: not well-formed XML"):
        read_ibug(archive)
    path.unlink()
    with pytest.raises(InputError, match=r"labels_ibug_300W_test\.xml: the file is missing"):
        read_ibug(archive)


def test_folder_without_an_archive(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        read_ibug(tmp_path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: [*lines[:5], *lines[6:]], "67 points, expected 68"),
        (lambda lines: [*lines[:5], "12.0", *lines[6:]], ":6: expected x and y, got '12.0'"),
        (lambda lines: [*lines[:5], "12.0 left", *lines[6:]], ":6: expected x and y"),
        (lambda lines: [*lines[:5], "nan 3", *lines[6:]], "a landmark is not a finite number"),
        (
            lambda lines: [*lines[:5], "900 3", *lines[6:]],
            "landmark 2 at (899, 2) is 774 px outside its face box",
        ),
        (lambda lines: lines[4:], "no points in braces"),
        (lambda lines: lines[:-1], "no points in braces"),
        (lambda lines: lines[:0], "no points in braces"),
    ],
)
def test_bad_pts_are_told(archive: Path, edit: Callable[[list[str]], list[str]], message: str) -> None:
    path = archive / "afw/12_1.pts"
    path.write_text("\n".join(edit(path.read_text().splitlines())))
    with pytest.raises(InputError) as caught:
        read_ibug(archive)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_boxes_of_one_picture_take_their_points_from_the_xml(archive: Path) -> None:
    second = landmarks_of("second")
    box = "    <box" + image_xml("", second, (20, 20, 80, 80)).split("    <box")[1].removesuffix(
        "  </image>\n"
    )
    change(archive, "train", lambda text: text.replace("    <box", f"{box}    <box", 1))
    faces = [face for face in read_ibug(archive).faces if face.source_file == "afw/11_1.jpg"]
    assert len(faces) == 2
    np.testing.assert_allclose(faces[0].landmarks_image, second, atol=0.5001)
    np.testing.assert_allclose(faces[1].landmarks_image, landmarks_of("afw/11_1.jpg"), atol=0.5001)


def test_command_tells_what_it_did(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["convert", "ibug", "--source", str(archive), "--out", str(out), "--processes", "1"]
    main([*arguments, "--validation-share", "0.2"])
    manifest = Manifest.read(out)
    assert [manifest.num_samples(split) for split in ("train", "validation", "test")] == [10, 2, 4]
    told = capsys.readouterr().out
    for words in ("left out: 16 mirror twins", "challenging/ibug", "16 faces in 3 shards", f"--data {out}"):
        assert words in told
    (archive / "afw/12_1.jpg").write_bytes(b"\xff\xd8 cut")
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "afw/12_1.jpg: not a whole picture" in capsys.readouterr().err
    assert Manifest.read(out) == manifest


def official_size_faces() -> list[FaceAnnotation]:
    """As many entries as the official archive has, named as it names them; no picture is ever read."""
    random = np.random.default_rng(0)
    originals: list[str] = []
    photo = 0
    while len(originals) < 279:
        photo += 1
        originals += [f"afw/{photo}_{face + 1}.jpg" for face in range(int(random.integers(1, 12)))]
    del originals[279:]
    originals += [f"helen/trainset/{1000 + number}_1.jpg" for number in range(1758)]
    originals += [f"helen/testset/{9000 + number}_1.jpg" for number in range(290)]
    originals += [f"lfpw/trainset/image_{number:04d}.png" for number in range(700)]
    originals += [f"lfpw/testset/image_{number:04d}.png" for number in range(3333 - len(originals))]
    tests = [f"ibug/image_{number:03d}_1.jpg" for number in range(504)]
    faces = []
    for split, files in (("train", originals), ("test", tests)):
        for file in files:
            for name in (file, twin_of(file)):
                landmarks = np.zeros((68, 2))
                faces.append(
                    FaceAnnotation(
                        picture=PictureFile(Path(name)),
                        landmarks_image=landmarks,
                        scheme="ibug-68",
                        face_box_image=FaceBox.around(landmarks),
                        split=split,
                        subset="any",
                        source_file=name,
                        group=photo_of(name),
                    )
                )
    return faces


@pytest.mark.parametrize("seed", [0, 1])
def test_official_counts_of_the_dlib_protocol_with_twins(seed: int) -> None:
    faces = official_size_faces()
    plan = plan_splits(faces, seed=seed, validation_share=0.1)
    assert {split: len(samples) for split, samples in plan.items()} == {
        "train": 6000,
        "validation": 666,
        "test": 1008,
    }
    groups = {split: {sample.face.group for sample in samples} for split, samples in plan.items()}
    assert not groups["train"] & groups["validation"]


class TestRealFaces:
    """The part of the official archive that stands beside the checkout."""

    def test_official_test_labels(self, shared_data: Path) -> None:
        faces = read_labels(shared_data / "annotations_official" / LABELS["test"], IBUG_68)
        assert len(faces) == 1008
        assert sum(face.is_mirror for face in faces) == 504
        originals = {face.stem for face in faces if not face.is_mirror}
        assert {face.stem.removesuffix("_mirror") for face in faces if face.is_mirror} == originals

    def test_dlib_protocol(self, shared_data: Path) -> None:
        faces = read_ibug(shared_data / ARCHIVE, protocol="dlib").faces
        assert Counter(face.split for face in faces) == {"train": 2020, "test": 322}

    @pytest.mark.multiprocess
    def test_conversion_by_command(self, shared_data: Path, tmp_path: Path) -> None:
        archive, out = shared_data / ARCHIVE, tmp_path / "out"
        command = [sys.executable, "-m", "shards", "convert", "ibug", "--source", archive, "--out", out]
        subprocess.run([*command, "--processes", "2"], check=True, cwd=Path(__file__).parents[1])
        manifest = Manifest.read(out)
        assert [manifest.num_samples(split) for split in ("train", "validation", "test")] == [1811, 201, 330]
        num_read = 0
        for path in out.glob("*.tar"):
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.name.endswith(".json"):
                        content = tar.extractfile(member)
                        assert content is not None
                        record = json.loads(content.read())
                        shard_to_image = np.linalg.inv(record["image_to_shard"])
                        landmarks = transform_points(np.array(record["landmarks_shard"]), shard_to_image)
                        points_file = (archive / record["source_file"]).with_suffix(".pts")
                        rows = points_file.read_text().split("{")[1].split("}")[0].split()
                        truth = np.array(rows, dtype=float).reshape(68, 2) - 1
                        np.testing.assert_allclose(landmarks, truth, atol=0.01)
                        num_read += 1
        assert num_read == 2342


def test_a_photo_that_the_papers_have_in_both_splits_is_a_warning(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As HELEN has one: its faces are `PHOTO_1` and `PHOTO_2`."""
    old, new = archive / "helen/trainset/20_1.jpg", archive / "helen/trainset/31_2.jpg"
    for suffix in (".jpg", ".pts"):
        old.with_suffix(suffix).rename(new.with_suffix(suffix))
    change(archive, "train", lambda text: text.replace("helen/trainset/20_1.jpg", "helen/trainset/31_2.jpg"))
    out = tmp_path / "out"
    main(["convert", "ibug", "--source", str(archive), "--out", str(out), "--processes", "1"])
    assert "1 photos or people have faces in both train and test, as the source has them" in (
        Manifest.read(out).split_rule
    )
    capsys.readouterr()
    main(["verify", str(out), "--processes", "1"])
    told = capsys.readouterr().out
    assert "warning photo in test" in told
    assert "helen-trainset-31_2" in told
    assert f"{out}: clean, " in told
