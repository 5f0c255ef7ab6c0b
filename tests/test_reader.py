"""Any sample out of a tar by its place, and one line on a tar that is not right."""

import io
import pickle
import tarfile
from pathlib import Path

import pytest
from conftest import sample_bytes

from flm.data.manifest import ShardEntry
from flm.data.reader import ShardReader
from flm.data.store import LocalStore
from flm.errors import OneProcessInputError


@pytest.fixture(scope="module")
def folder(make_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    manifest = make_shards(folder, {"train": 40}, shard_size=5)
    return LocalStore(folder), manifest.shards_of("train")


def test_samples_come_by_place_in_any_order(folder):
    reader = ShardReader(*folder, max_open_files=3)
    for number in (39, 0, 17, 3, 38, 17):
        sample = reader.read(number // 5, number % 5)
        assert sample.key == f"train_{number:04d}"
        assert sample.record.source_file == f"train_{number:04d}.png"
        assert sample.crop_shard.shape == (64, 64, 3)


def num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_more_files_are_open_than_asked_for(folder):
    reader = ShardReader(*folder, max_open_files=3)
    before = num_open_files()
    for number in range(40):
        reader.read(number // 5, number % 5)
    assert num_open_files() - before <= 3
    reader.close()
    assert num_open_files() <= before


def test_a_reader_travels_to_another_process(folder):
    reader = ShardReader(*folder, max_open_files=3)
    reader.read(2, 2)
    assert pickle.loads(pickle.dumps(reader)).read(2, 2).key == "train_0012"


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def read_first(path: Path, num_samples: int = 1) -> None:
    entry = ShardEntry(name=path.name, num_samples=num_samples, num_bytes=0, sha256="")
    ShardReader(LocalStore(path.parent), (entry,), max_open_files=2).read(0, 0)


SAMPLE = sample_bytes(0, "a", 64)
PICTURE, RECORD = SAMPLE["jpg"], SAMPLE["json"]
_SIZE = PICTURE.index(b"\xff\xc0") + 5
ABSURD = PICTURE[:_SIZE] + (20_000).to_bytes(2, "big") * 2 + PICTURE[_SIZE + 4 :]


@pytest.mark.parametrize(
    ("members", "num_samples", "message"),
    [
        ([("a.jpg", PICTURE), ("a.json", RECORD)], 2, "has 1 samples, the manifest says 2"),
        ([("a.jpg", PICTURE)], 1, "a sample has no .json member"),
        ([("a.json", RECORD)], 1, "a sample has no .jpg member"),
        ([("a.jpg", PICTURE), ("a.json", RECORD), ("a.jpg", PICTURE)], 1, "'a.jpg' is there twice"),
        (
            [("a.jpg", PICTURE[:300]), ("a.json", RECORD)],
            1,
            "sample 'a': the picture is no whole JPEG",
        ),
        ([("a.jpg", PICTURE), ("a.json", RECORD[:-2])], 1, "sample 'a': not a sample record"),
        ([("../a.jpg", PICTURE), ("a.json", RECORD)], 1, "'../a.jpg' its path leads outside the folder"),
        ([("/a.jpg", PICTURE), ("a.json", RECORD)], 1, "'/a.jpg' its path leads outside the folder"),
        (
            [("a.jpg", ABSURD), ("a.json", RECORD)],
            1,
            "sample 'a': the picture claims 20000x20000 px, a stored crop has at most 4096x4096",
        ),
    ],
)
def test_a_bad_shard_is_named(tmp_path, members, num_samples, message):
    path = tmp_path / "train-000000.tar"
    write_tar(path, members)
    with pytest.raises(OneProcessInputError, match=message) as caught:
        read_first(path, num_samples)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_shard_cut_short_missing_or_foreign_is_named(tmp_path):
    path = tmp_path / "train-000000.tar"
    with pytest.raises(OneProcessInputError, match="cannot be opened"):
        read_first(path)
    path.write_bytes(b"no tar at all")
    with pytest.raises(OneProcessInputError, match="not a whole tar"):
        read_first(path)
    path.write_bytes(b"")
    with pytest.raises(OneProcessInputError, match="not a whole tar"):
        read_first(path)
    write_tar(path, [("a.jpg", PICTURE), ("a.json", RECORD)])
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(OneProcessInputError):
        read_first(path)


def test_a_link_is_named(tmp_path):
    path = tmp_path / "train-000000.tar"
    write_tar(path, [("a.jpg", PICTURE), ("a.json", RECORD)])
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(OneProcessInputError, match=r"'b\.jpg' is a link"):
        read_first(path)


def test_a_header_that_is_damaged_is_noticed(tmp_path):
    path = tmp_path / "train-000000.tar"
    write_tar(path, [(f"{key}.{extension}", b"x") for key in "abc" for extension in ("jpg", "json")])
    data = bytearray(path.read_bytes())
    data[2 * 1024 + 20] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(OneProcessInputError, match="has 1 samples, the manifest says 3"):
        read_first(path, 3)


def test_a_shard_can_be_scanned_again(folder, monkeypatch):
    monkeypatch.setattr("flm.data.reader.REMEMBERED_SHARDS", 1)
    reader = ShardReader(*folder, max_open_files=8)
    for shard in (0, 1, 0, 1):
        assert reader.read(shard, 2).key == f"train_{shard * 5 + 2:04d}"
