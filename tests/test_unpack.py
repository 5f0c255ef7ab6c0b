"""A data set in a tar: all of it in a folder for a while, or one line that says why not."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from flm.errors import InputError
from shards.unpack import BrokenArchiveError, unpacked

NUM_FILES = 12


def write_tar(path: Path) -> None:
    """Files that cannot be compressed, so that a damage hits one of them."""
    with tarfile.open(path, f"w:{path.suffix.removeprefix('.').replace('tar', '')}") as tar:
        for number in range(NUM_FILES):
            member = tarfile.TarInfo(f"faces/{number}.jpg")
            member.size = 2000
            tar.addfile(member, io.BytesIO(np.random.default_rng(number).bytes(member.size)))


def refused(path: Path, match: str | None = None) -> None:
    """With one line that names the archive, and nothing left over."""
    beside = path.parent / "new"
    with pytest.raises(BrokenArchiveError, match=match) as caught, unpacked(path, beside=beside):
        pass
    assert str(caught.value).startswith(f"{path}: not a whole, safe tar (")
    assert "\n" not in str(caught.value)
    assert not list(beside.iterdir())


SUFFIXES = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_all_files_are_there_for_a_while(tmp_path, suffix):
    path = tmp_path / f"faces{suffix}"
    write_tar(path)
    with unpacked(path, beside=tmp_path / "new") as folder:
        assert {file.name for file in folder.rglob("*.jpg")} == {f"{n}.jpg" for n in range(NUM_FILES)}
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_damage_inside_is_found(tmp_path, suffix):
    """Decompressors tell it late, and tar takes a damaged block for the end."""
    path = tmp_path / f"faces{suffix}"
    write_tar(path)
    whole = path.read_bytes()
    for share in (0.2, 0.5, 0.8):
        damaged = bytearray(whole)
        damaged[int(share * len(whole))] ^= 0xFF
        path.write_bytes(damaged)
        refused(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_archive_that_was_cut_short_is_found(tmp_path, suffix):
    path = tmp_path / f"faces{suffix}"
    write_tar(path)
    whole = path.read_bytes()
    for share in (0.2, 0.5, 0.65):  # not in the zeros behind the last file
        path.write_bytes(whole[: int(share * len(whole))])
        refused(path)


def test_a_tar_that_was_cut_between_its_files_is_found(tmp_path):
    path = tmp_path / "faces.tar"
    write_tar(path)
    with tarfile.open(path) as tar:
        place = tar.getmembers()[7].offset
    path.write_bytes(path.read_bytes()[:place])
    refused(path, "the marks of its end are missing")


def test_a_damaged_header_is_not_the_end(tmp_path):
    path = tmp_path / "faces.tar"
    write_tar(path)
    with tarfile.open(path) as tar:
        place = tar.getmembers()[7].offset
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 0xFF
    path.write_bytes(damaged)
    refused(path, f"byte {place:,} begins neither a member nor the end")


def test_a_tar_that_reaches_outside_is_refused(tmp_path):
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("../escaped.txt")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"evi"))
    refused(path, "leads outside")
    assert not list(tmp_path.rglob("escaped.txt"))


def test_what_is_no_tar_is_told(tmp_path):
    path = tmp_path / "faces.tar.gz"
    with pytest.raises(InputError, match="not found") as caught, unpacked(path, beside=tmp_path):
        pass
    assert str(caught.value).startswith(f"{path}: ")
    path.write_text("<html>not found</html>")
    refused(path)
