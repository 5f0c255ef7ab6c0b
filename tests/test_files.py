"""A file is there whole or not at all."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flm.errors import InputError
from flm.files import LineFile, write_whole


@contextmanager
def no_file_above(num_bytes: int) -> Iterator[None]:
    """The kernel refuses to write more, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "newer" / "file"
    for content in (b"first", b"second", b""):
        write_whole(path, content)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_who_reads_the_old_file_reads_on_in_it(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"old content")
    with path.open("rb", buffering=0) as reader:
        start = reader.read(3)
        write_whole(path, b"NEW CONTENT")
        assert start + reader.read() == b"old content"
    assert path.read_bytes() == b"NEW CONTENT"


def test_what_was_there_survives_a_disk_that_is_full(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"whole")
    with no_file_above(1000), pytest.raises(InputError, match=r"file: cannot be written \(File too large\)"):
        write_whole(path, bytes(100_000))
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_there_survives_a_disk_that_fails_at_last(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"whole")

    def full_disk(descriptor: int) -> None:
        # The new content stands beside the old one, and is not yet in its place.
        assert path.read_bytes() == b"whole"
        assert len(list(tmp_path.iterdir())) == 2
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(InputError, match=r"file: cannot be written.*No space left on device.*make room"):
        write_whole(path, b"half of")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_nothing_unfinished(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"whole")

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"half of")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["taken/file", "folder"])
def test_a_place_that_cannot_be_a_file_is_told_in_one_line(tmp_path: Path, place: str):
    (tmp_path / "taken").write_bytes(b"a file, no folder")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be written") as caught:
        write_whole(tmp_path / place, b"content")
    assert str(tmp_path / place) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["folder", "taken"]


def test_lines_are_added(tmp_path):
    (tmp_path / "log").write_text("first\n")
    lines = LineFile(tmp_path / "log")
    for line in ("second", "drittes, größer"):
        lines.add(line)
    assert (tmp_path / "log").read_text(encoding="utf-8") == "first\nsecond\ndrittes, größer\n"


def test_lines_wait_until_a_full_disk_has_room(tmp_path, capsys):
    path = tmp_path / "log"
    path.symlink_to("/dev/full")
    lines = LineFile(path)
    lines.add("first")
    lines.add("second")
    told = capsys.readouterr().err
    assert told.startswith(f"warning: {path}: cannot be written (No space left on device)")
    assert told.count("\n") == 1
    path.unlink()
    lines.add("third")
    lines.add("fourth")
    assert path.read_text() == "first\nsecond\nthird\nfourth\n"


def test_no_half_line_stays(tmp_path):
    path = tmp_path / "log"
    lines = LineFile(path)
    lines.add("whole")
    with no_file_above(8), pytest.raises(InputError, match="log: cannot be written"):
        lines.add("one that does not fit")
    assert path.read_text() == "whole\n"
