"""Whatever is wrong with shards is found and named; a repair keeps all that is good."""

import dataclasses
import functools
import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from conftest import MEAN_FACE_UNIT

from flm.data.manifest import Manifest
from flm.data.samples import SampleRecord, encode_sample
from flm.data.store import LocalStore
from flm.data.writer import write_shard
from flm.errors import InputError
from flm.geometry import FaceBox, resample, square_crop, transform_points
from shards.__main__ import main
from shards.likeness import ALIKE_BITS, alike_pairs, perceptual_hash
from shards.verification.findings import Kind
from shards.verification.repair import REPORT_NAME, SET_ASIDE, repair_shards
from shards.verify import Verification, verify

SIZE_PX = 64
MARGIN = 0.5

Sample = dict[str, str | bytes]


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture of its own, and 68 landmarks on it."""
    random = np.random.default_rng(seed)
    landmarks = MEAN_FACE_UNIT * 60 + 30 + random.normal(0, 1, (68, 2))
    clouds = cv2.resize(random.uniform(40, 215, (8, 8, 3)).astype(np.float32), (120, 120), interpolation=2)
    picture = clouds.clip(0, 255).astype(np.uint8)
    for x, y in landmarks:
        cv2.circle(picture, (round(x), round(y)), 1, (255, 255, 255), -1)
    return picture, landmarks


def make_sample(seed: int, key: str, **changes: object) -> Sample:
    """A sample as conversion makes it; `changes` are fields of its record, or `picture`."""
    picture, landmarks = draw(seed)
    picture = changes.pop("picture", picture)
    image_to_shard = square_crop(FaceBox.around(landmarks), SIZE_PX, MARGIN)
    fields = {
        "scheme": "ibug-68",
        "landmarks_shard": transform_points(landmarks, image_to_shard),
        "image_to_shard": image_to_shard,
        "face_box_image": FaceBox.around(landmarks),
        "subset": "odd" if seed % 2 else "even",
        "source_file": f"{key}.png",
        "group": key,
    }
    crop = resample(picture, image_to_shard, SIZE_PX)
    return encode_sample(key, crop, SampleRecord(**{**fields, **changes}))


def change_json(sample: Sample, **fields: object) -> Sample:
    return {**sample, "json": json.dumps({**json.loads(sample["json"]), **fields}).encode()}


def claim_size(jpeg: bytes, side_px: int) -> bytes:
    """The same bytes with another size in the header."""
    place = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:place] + side_px.to_bytes(2, "big") * 2 + jpeg[place + 4 :]


def write_folder(folder: Path, shards: Mapping[str, Sequence[Sample]]) -> Manifest:
    """Shards by name, such as `train-000000.tar`, and a manifest that says what is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    splits, subsets = {}, {}
    for name, samples in shards.items():
        split = name.partition("-")[0]
        splits.setdefault(split, []).append(write_shard(folder / name, samples))
        for sample in samples:
            try:
                subset = json.loads(sample["json"])["subset"]
            except (KeyError, ValueError):
                continue
            counts = subsets.setdefault(split, {})
            counts[subset] = counts.get(subset, 0) + 1
    manifest = Manifest(
        scheme="ibug-68",
        crop_size_px=SIZE_PX,
        crop_margin=MARGIN,
        source="drawn",
        split_rule="as asked",
        licence="MIT",
        splits={split: tuple(entries) for split, entries in splits.items()},
        subsets=subsets,
    )
    manifest.write(folder)
    return manifest


def good_shards() -> dict[str, list[Sample]]:
    return {
        "train-000000.tar": [make_sample(i, f"train_{i}") for i in range(5)],
        "train-000001.tar": [make_sample(i, f"train_{i}") for i in range(5, 8)],
        "validation-000000.tar": [make_sample(i, f"validation_{i}") for i in range(10, 13)],
    }


@pytest.fixture(scope="module")
def _good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    write_folder(folder, good_shards())
    return folder


@pytest.fixture
def folder(_good, tmp_path) -> Path:
    """A folder of good shards, to be spoilt."""
    return shutil.copytree(_good, tmp_path / "shards")


def check(folder: Path, processes: int = 1) -> Verification:
    return verify(LocalStore(folder), processes=processes)


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def samples_in(folder: Path) -> dict[str, tuple[bytes, bytes]]:
    """Picture and record of every sample of the tars, as Python's tarfile reads them."""
    members = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                members[member.name] = tar.extractfile(member).read()
    keys = {name.partition(".")[0] for name in members}
    return {key: (members[f"{key}.jpg"], members[f"{key}.json"]) for key in keys}


def flip_byte(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(bytes(data))


def place_of(path: Path, name: str) -> tuple[int, int]:
    """Where the header and the data of a member begin."""
    with tarfile.open(path) as tar:
        member = tar.getmember(name)
        return member.offset, member.offset_data


def rewrite(folder: Path, name: str, samples: Sequence[Sample]) -> None:
    """Another content for a shard, which the manifest knows of."""
    entry = write_shard(folder / name, samples)
    manifest = Manifest.read(folder)
    splits = {
        split: tuple(entry if shard.name == name else shard for shard in entries)
        for split, entries in manifest.splits.items()
    }
    Manifest.write(dataclasses.replace(manifest, splits=splits), folder)


def add_member(path: Path, info: tarfile.TarInfo, content: bytes = b"") -> None:
    info.size = len(content)
    with tarfile.open(path, "a") as tar:
        tar.addfile(info, io.BytesIO(content))


SHARD = "train-000000.tar"


def spoil_picture(folder: Path) -> None:
    flip_byte(folder / SHARD, place_of(folder / SHARD, "train_2.jpg")[1] + 700)


def spoil_header(folder: Path) -> None:
    flip_byte(folder / SHARD, place_of(folder / SHARD, "train_2.jpg")[0] + 20)


def cut_short(folder: Path) -> None:
    path = folder / SHARD
    path.write_bytes(path.read_bytes()[: place_of(path, "train_3.jpg")[1] + 100])


def cut_between_members(folder: Path) -> None:
    path = folder / SHARD
    path.write_bytes(path.read_bytes()[: place_of(path, "train_3.jpg")[0]])


def climb(folder: Path) -> None:
    add_member(folder / SHARD, tarfile.TarInfo("../../etc/cron.d/x.jpg"), b"x")


def point_away(folder: Path) -> None:
    link = tarfile.TarInfo("link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    add_member(folder / SHARD, link)


def repeat(folder: Path) -> None:
    add_member(folder / SHARD, tarfile.TarInfo("train_1.jpg"), b"another picture")


def spoil_sample(change: Callable[[Sample], Sample]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        samples = good_shards()[SHARD]
        samples[2] = change(samples[2])
        rewrite(folder, SHARD, samples)

    return spoil


def shifted(sample: Sample) -> Sample:
    matrix = json.loads(sample["json"])["image_to_shard"]
    matrix[0][2] += 300
    return change_json(sample, image_to_shard=matrix)


def turned(sample: Sample) -> Sample:
    return change_json(sample, image_to_shard=[[0.4, 0.1, 0.0], [-0.1, 0.4, 9.0], [0.0, 0.0, 1.0]])


def moved_out(sample: Sample) -> Sample:
    landmarks = json.loads(sample["json"])["landmarks_shard"]
    landmarks[5][0] = 200.0
    return change_json(sample, landmarks_shard=landmarks)


def miscount(folder: Path) -> None:
    manifest = Manifest.read(folder)
    train = manifest.splits["train"]
    entries = (dataclasses.replace(train[0], num_samples=6), train[1])
    Manifest.write(dataclasses.replace(manifest, splits={**manifest.splits, "train": entries}), folder)


def misname_subset(folder: Path) -> None:
    manifest = Manifest.read(folder)
    subsets = {**manifest.subsets, "train": {"even": 3, "odd": 5}}
    Manifest.write(dataclasses.replace(manifest, subsets=subsets), folder)


TRAIN_2 = {"train_2"}
SPOILT = {
    "a changed byte in a picture": (spoil_picture, {Kind.WRONG_HASH}, set()),
    "a changed byte in a header": (spoil_header, {Kind.BROKEN_TAR, Kind.INCOMPLETE_SAMPLE}, TRAIN_2),
    "cut short": (cut_short, {Kind.BROKEN_TAR, Kind.WRONG_SIZE, Kind.WRONG_COUNT}, {"train_3", "train_4"}),
    "cut between members": (cut_between_members, {Kind.BROKEN_TAR, Kind.WRONG_SIZE}, {"train_3", "train_4"}),
    "empty": (
        lambda folder: (folder / SHARD).write_bytes(b""),
        {Kind.BROKEN_TAR, Kind.WRONG_SIZE},
        {f"train_{i}" for i in range(5)},
    ),
    "no tar": (
        lambda folder: (folder / SHARD).write_bytes(b"<html>not found</html>" * 99),
        {Kind.BROKEN_TAR},
        {f"train_{i}" for i in range(5)},
    ),
    "missing": (
        lambda folder: (folder / SHARD).unlink(),
        {Kind.MISSING_SHARD},
        {f"train_{i}" for i in range(5)},
    ),
    "a path that climbs": (climb, {Kind.UNSAFE_MEMBER, Kind.WRONG_HASH}, set()),
    "a link": (point_away, {Kind.UNSAFE_MEMBER}, set()),
    "a member twice": (repeat, {Kind.REPEATED_MEMBER}, set()),
    "another tar": (
        lambda folder: shutil.copy(folder / SHARD, folder / "train-000009.tar"),
        {Kind.UNLISTED_SHARD},
        set(),
    ),
    "a count": (miscount, {Kind.WRONG_COUNT}, set()),
    "a subset": (misname_subset, {Kind.WRONG_SUBSETS}, set()),
    "an absurd picture": (
        spoil_sample(lambda sample: {**sample, "jpg": claim_size(sample["jpg"], 20_000)}),
        {Kind.BAD_SAMPLE},
        TRAIN_2,
    ),
    "no picture": (spoil_sample(lambda sample: {**sample, "jpg": b"GIF89a"}), {Kind.BAD_SAMPLE}, TRAIN_2),
    "half a picture": (
        spoil_sample(lambda sample: {**sample, "jpg": sample["jpg"][:900]}),
        {Kind.BAD_SAMPLE},
        TRAIN_2,
    ),
    "no annotation": (
        spoil_sample(lambda sample: {name: sample[name] for name in ("__key__", "jpg")}),
        {Kind.INCOMPLETE_SAMPLE},
        TRAIN_2,
    ),
    "no JSON": (spoil_sample(lambda sample: {**sample, "json": b"{"}), {Kind.BAD_SAMPLE}, TRAIN_2),
    "not a number": (
        spoil_sample(lambda sample: change_json(sample, landmarks_shard=[[float("nan")] * 2] * 68)),
        {Kind.BAD_SAMPLE},
        TRAIN_2,
    ),
    "no text": (spoil_sample(lambda sample: change_json(sample, group=5)), {Kind.BAD_SAMPLE}, TRAIN_2),
    "a matrix that flattens": (
        spoil_sample(lambda sample: change_json(sample, image_to_shard=[[1, 0, 0], [0, 1, 0], [0, 0, 0]])),
        {Kind.BAD_SAMPLE},
        TRAIN_2,
    ),
    "a point outside": (spoil_sample(moved_out), {Kind.MISPLACED_FACE}, TRAIN_2),
    "a matrix that is off": (spoil_sample(shifted), {Kind.MISPLACED_FACE}, TRAIN_2),
    "a matrix that turns": (spoil_sample(turned), {Kind.MISPLACED_FACE}, TRAIN_2),
    "another size": (
        spoil_sample(
            lambda sample: {
                **sample,
                "jpg": cv2.imencode(".jpg", np.zeros((32, 32, 3), np.uint8))[1].tobytes(),
            }
        ),
        {Kind.OTHER_THAN_MANIFEST},
        TRAIN_2,
    ),
    "a photo in validation": (
        spoil_sample(lambda sample: change_json(sample, group="validation_11")),
        {Kind.STRADDLING_PHOTO},
        TRAIN_2,
    ),
    "a twin in validation": (
        spoil_sample(lambda sample: change_json(sample, mirror_of="validation_11.png")),
        {Kind.STRADDLING_PHOTO},
        TRAIN_2,
    ),
    "a key of another shard": (
        spoil_sample(lambda sample: {**sample, "__key__": "train_6"}),
        {Kind.REPEATED_KEY},
        TRAIN_2,
    ),
}


def test_good_shards_are_clean(folder):
    found = check(folder)
    assert found.findings == ()
    before = contents(folder)
    assert "nothing to repair" in repair_shards(found)
    assert contents(folder) == before


@pytest.mark.multiprocess
def test_processes_find_the_same(folder):
    climb(folder)
    repeat(folder)
    assert check(folder, processes=2).findings == check(folder).findings


@pytest.mark.parametrize("what", SPOILT)
def test_what_is_wrong_is_named_and_mended(folder, what):
    spoil, kinds, lost = SPOILT[what]
    good = samples_in(folder)
    spoil(folder)
    found = check(folder)
    assert kinds <= {finding.kind for finding in found.errors}
    assert all(finding.shard and "\n" not in str(finding) for finding in found.errors)
    repair_shards(found)
    repaired = check(folder)
    assert repaired.errors == ()
    left = samples_in(folder)
    assert left.keys() == good.keys() - lost
    changed = {key for key in left if left[key] != good[key]}
    # A changed byte of a picture that decodes cannot be undone; of two samples of one key the first stays.
    expected = {"a changed byte in a picture": {"train_2"}, "a key of another shard": {"train_6"}}
    assert changed <= expected.get(what, set())
    told = json.loads((folder / REPORT_NAME).read_text())["findings"]
    assert [line["shard"] for line in told] == [finding.shard for finding in found.errors]
    assert {*told[0]} == {"shard", "key", "reason"}
    before = contents(folder)
    repair_shards(repaired)
    assert contents(folder) == before


def test_an_absurd_picture_is_refused_from_its_header(folder, monkeypatch):
    SPOILT["an absurd picture"][0](folder)
    decoded = []
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(
        simplejpeg, "decode_jpeg", lambda data, **to: decoded.append(len(data)) or decode(data, **to)
    )
    (finding,) = check(folder).errors
    assert "claims 20000x20000 px" in finding.detail
    assert (finding.shard, finding.key) == (SHARD, "train_2")
    assert len(decoded) == 10


def test_a_tar_beside_the_shards_is_set_aside(folder):
    shutil.copy(folder / SHARD, folder / "train-000009.tar")
    repair_shards(check(folder))
    assert (folder / f"train-000009.tar{SET_ASIDE}").read_bytes() == (folder / SHARD).read_bytes()


def test_a_damage_that_decodes_is_found(folder):
    """Of many changed bytes some make a picture that only a lenient decoder takes."""
    found = 0
    for place in range(700, 1000, 20):
        samples = good_shards()[SHARD]
        data = bytearray(samples[2]["jpg"])
        data[place] ^= 0xFF
        samples[2] = {**samples[2], "jpg": bytes(data)}
        rewrite(folder, SHARD, samples)
        errors = check(folder).errors
        assert {finding.key for finding in errors} <= {"train_2"}
        found += any("Corrupt JPEG data" in finding.detail for finding in errors)
    assert found >= 3


def test_photos_in_train_and_test_are_a_warning(tmp_path):
    shards = good_shards()
    shards["test-000000.tar"] = [make_sample(20, "test_20", group="train_1")]
    write_folder(tmp_path, shards)
    found = check(tmp_path)
    assert [finding.kind for finding in found.findings] == [Kind.PHOTO_IN_TEST]
    assert found.errors == ()
    assert str(found.findings[0]).startswith(
        "train-000000.tar: train_1: of train shows the photo of test-0000"
    )


def test_a_sample_leaves_every_copy_of_its_tar(tmp_path):
    """`merge` writes a shard twice for faces that come twice an epoch; one of them alone is looked at."""
    shards = good_shards()
    shards["train-000000.tar"].append(make_sample(30, "train_30", group="validation_11"))
    shards["train-000002.tar"] = shards["train-000000.tar"]
    write_folder(tmp_path, shards)
    found = check(tmp_path)
    assert [finding.kind for finding in found.errors] == [Kind.STRADDLING_PHOTO]
    repair_shards(found)
    found = check(tmp_path)
    assert not found.errors
    assert [report.entry.num_samples for report in found.reports] == [5, 3, 5, 3]


def test_a_subset_that_nobody_is_in_may_be_listed(folder):
    manifest = Manifest.read(folder)
    subsets = {**manifest.subsets, "train": {**manifest.subsets["train"], "none": 0}}
    dataclasses.replace(manifest, subsets=subsets).write(folder)
    assert not check(folder).errors
    dataclasses.replace(manifest, subsets={"train": {}}).write(folder)
    assert [one.detail for one in check(folder).errors] == ["train has 4 faces of even, the manifest says 0"]


@pytest.mark.parametrize("mirrored", [False, True])
def test_copies_are_a_warning(tmp_path, mirrored):
    shards = good_shards()
    picture, _ = draw(3)
    if mirrored:
        # About the centre of the crop, so that the crop is mirrored.
        _, landmarks = draw(20)
        box = FaceBox.around(landmarks)
        mirror = np.array([[-1, 0, 2 * box.center_x], [0, 1, 0]])
        _, original = draw(3)
        shift = np.array([box.center_x, box.center_y]) - [
            FaceBox.around(original).center_x,
            FaceBox.around(original).center_y,
        ]
        picture = cv2.warpAffine(picture, np.array([[1, 0, shift[0]], [0, 1, shift[1]]]), (120, 120))
        picture = cv2.warpAffine(picture, mirror, (120, 120))
        copy = make_sample(20, "validation_20", picture=picture)
    else:
        copy = make_sample(3, "validation_20")
    shards["validation-000000.tar"].append(copy)
    write_folder(tmp_path, shards)
    found = check(tmp_path)
    assert found.errors == ()
    duplicate = [one for one in found.findings if one.kind is Kind.NEAR_DUPLICATE]
    assert [one.key for one in duplicate] == ["train_3"]
    assert "validation-000000.tar: validation_20" in duplicate[0].detail
    same = [one.key for one in found.findings if one.kind is Kind.SAME_ANNOTATION]
    assert same == ([] if mirrored else ["train_3"])


@pytest.mark.parametrize("seed", range(4))
def test_the_hash_stays_with_the_picture(seed):
    picture, _ = draw(seed)
    own = perceptual_hash(picture)
    smaller = cv2.resize(picture, (70, 70), interpolation=cv2.INTER_AREA)
    coded = cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1)
    lighter = (picture * 0.8 + 30).astype(np.uint8)
    hashes = [perceptual_hash(other) for other in (smaller, coded, lighter)]
    assert max((own ^ other).bit_count() for other in hashes) <= ALIKE_BITS
    assert (own ^ perceptual_hash(draw(seed + 50)[0])).bit_count() > ALIKE_BITS
    mirrored = perceptual_hash(np.ascontiguousarray(picture[:, ::-1]))
    assert (own ^ mirrored).bit_count() > ALIKE_BITS
    pairs = list(alike_pairs(np.array([own], np.uint64), np.array([mirrored], np.uint64)))
    assert [(one, other) for one, other, _ in pairs] == [(0, 0)]


def test_pairs_are_all_pairs():
    random = np.random.default_rng(0)
    first = random.integers(0, 2**63, 3000).astype(np.uint64)
    second = random.integers(0, 2**63, 400).astype(np.uint64)
    flips = [
        np.uint64(sum(1 << int(bit) for bit in random.choice(64, count, replace=False))) for count in (6, 7)
    ]
    second[17], second[399] = first[2999] ^ flips[0], first[5] ^ flips[1]
    assert list(alike_pairs(first, second)) == [(2999, 17, 6)]
    assert list(alike_pairs(first[:0], second)) == list(alike_pairs(first, second[:0])) == []


def test_an_interrupted_repair_loses_nothing(folder, tmp_path, monkeypatch):
    for spoil in (repeat, climb, cut_short):
        spoil(folder)
    other = "train-000001.tar"
    flip_byte(folder / other, place_of(folder / other, "train_5.json")[1] + 1)
    undisturbed = shutil.copytree(folder, tmp_path / "undisturbed")
    repair_shards(check(undisturbed))
    good = samples_in(undisturbed)
    replace = Path.replace
    done = 0

    def stopping(path: Path, target: Path) -> Path:
        nonlocal done
        if done == 0:
            raise KeyboardInterrupt
        done -= 1
        return replace(path, target)

    for steps in range(20):
        done = steps
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", stopping)
            try:
                repair_shards(check(folder))
                break
            except KeyboardInterrupt:
                pass
        # Nothing that is left over is taken for whole, and nothing good is gone.
        found = check(folder)
        assert found.errors
        assert good.keys() <= {key for report in found.reports for key in report.facts.keys}
    assert steps > 2
    assert contents(folder).keys() == contents(undisturbed).keys()
    for name in ("manifest.json", SHARD, other):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()


def test_a_split_is_never_repaired_away(folder):
    (folder / "validation-000000.tar").unlink()
    before = contents(folder)
    with pytest.raises(InputError, match="nothing of the split 'validation' can be read"):
        repair_shards(check(folder))
    assert contents(folder) == before


def run(*arguments: str) -> int:
    try:
        main(["verify", *arguments, "--processes", "1"])
    except SystemExit as stop:
        return stop.code
    return 0


def test_the_command_tells_and_exits(folder, capfd):
    assert run(str(folder)) == 0
    assert capfd.readouterr().out.startswith(f"{folder}: clean, 0 warnings; 11 good faces in 3 shards")
    SPOILT["an absurd picture"][0](folder)
    assert run(str(folder)) == 1
    table = capfd.readouterr().out
    assert "error bad sample" in table
    assert "train_2" in table
    assert run(str(folder), "--repair") == 0
    assert "11 faces before, 10 now" in capfd.readouterr().out
    assert run(str(folder)) == 0


def test_mistakes_are_one_line_and_exit_code_two(folder, capfd):
    (folder / "manifest.json").write_text('{"schema_version": 9}')
    for arguments in ([str(folder)], [str(folder / "nowhere")], ["ftp://host/shards"]):
        assert run(*arguments) == 2
        told = capfd.readouterr()
        assert told.err.startswith("error: ")
        assert told.err.count("\n") == 1
        assert not told.out


def test_shards_far_away_are_checked_too(folder, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spoil_sample(lambda sample: {**sample, "json": b"{"})(folder)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            # Fetched, then out of the cache.
            for _ in range(2):
                assert run(url) == 1
                told = capfd.readouterr().out
                assert "error bad sample" in told
                assert f"{url}: 1 error, 0 warnings; 10 good faces in 3 shards" in told
            assert run(url, "--repair") == 2
            assert "only a folder can be repaired" in capfd.readouterr().err
        finally:
            server.shutdown()
            thread.join()
