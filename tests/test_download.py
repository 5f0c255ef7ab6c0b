"""A public data set: the licence first, then the archive, then its folder."""

import dataclasses
import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flm.data.remote import Patience
from flm.errors import InputError
from shards import __main__ as program
from shards import download as download_module
from shards.download import IBUG, download
from shards.sources.ibug import LABELS, LICENCE

NAME = "ibug_300W_large_face_landmark_dataset"
QUICK = Patience(tries=2, first_wait_s=0.01, stall_s=2.0)


def write_archive(path: Path, files: dict[str, bytes]) -> str:
    """A gzipped tar; its sha256."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


FILES = {f"{NAME}/{LABELS['train']}": b"<dataset/>", f"{NAME}/afw/1.jpg": b"picture" * 1000}


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and its address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_archive_and_what_is_in_it_are_there_in_the_end(served, tmp_path, capsys):
    folder, address = served
    sha256 = write_archive(folder / "copy.tar.gz", FILES)
    out = tmp_path / "new" / "data"
    unpacked = download(IBUG, out, url=f"{address}/copy.tar.gz", agreed=True, patience=QUICK)
    assert unpacked == out / NAME
    assert sorted(path.name for path in out.iterdir()) == [NAME, f"{NAME}.tar.gz"]
    assert (unpacked / "afw" / "1.jpg").read_bytes() == b"picture" * 1000
    told = capsys.readouterr().err
    assert LICENCE in told
    assert f"sha256 {sha256}" in told
    assert f"python -m shards convert ibug --source {unpacked}" in told


def test_a_second_time_does_nothing_twice(served, tmp_path, capsys):
    folder, address = served
    write_archive(folder / "copy.tar.gz", FILES)
    for _ in range(2):
        download(IBUG, tmp_path / "data", url=f"{address}/copy.tar.gz", agreed=True, patience=QUICK)
        (folder / "copy.tar.gz").unlink(missing_ok=True)
    assert "is there already and was left as it is" in capsys.readouterr().err


def test_the_archive_may_stay_packed(served, tmp_path):
    folder, address = served
    sha256 = write_archive(folder / "copy.tar.gz", FILES)
    path = download(
        IBUG,
        tmp_path / "data",
        url=f"{address}/copy.tar.gz",
        sha256=sha256.upper(),
        agreed=True,
        unpack=False,
        patience=QUICK,
    )
    assert path.name == f"{NAME}.tar.gz"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("files", "cut"), [({"../outside.txt": b"x"}, None), (FILES, -20)])
def test_an_archive_that_is_not_whole_or_not_safe_is_removed(served, tmp_path, files, cut):
    folder, address = served
    write_archive(folder / "copy.tar.gz", files)
    content = (folder / "copy.tar.gz").read_bytes()
    (folder / "copy.tar.gz").write_bytes(content[:cut])
    out = tmp_path / "data"
    with pytest.raises(InputError, match=r"not a whole, safe tar .*fetch it again; it was removed") as caught:
        download(IBUG, out, url=f"{address}/copy.tar.gz", agreed=True, patience=QUICK)
    assert "\n" not in str(caught.value)
    assert not list(out.iterdir())
    assert not (tmp_path / "outside.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", f"{NAME}/file"])
def test_links_and_devices_are_refused_wherever_they_lead(served, tmp_path, kind, target):
    folder, address = served
    with tarfile.open(folder / "copy.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(f"{NAME}/file"))
        info = tarfile.TarInfo(f"{NAME}/link")
        info.type, info.linkname = kind, target
        tar.addfile(info)
    with pytest.raises(InputError, match=r"not a whole, safe tar \('.*/link' is (a link|no plain file)\)"):
        download(IBUG, tmp_path / "data", url=f"{address}/copy.tar.gz", agreed=True, patience=QUICK)
    assert not list((tmp_path / "data").iterdir())


def test_an_archive_without_a_folder_of_its_own_gets_one(served, tmp_path):
    folder, address = served
    write_archive(folder / "copy.tar.gz", {"a.txt": b"a", "b.txt": b"b"})
    unpacked = download(IBUG, tmp_path / "data", url=f"{address}/copy.tar.gz", agreed=True, patience=QUICK)
    assert sorted(path.name for path in unpacked.iterdir()) == ["a.txt", "b.txt"]
    assert unpacked.stat().st_mode & 0o055 == 0o055


def test_nothing_is_fetched_before_the_licence_is_agreed_to(served, tmp_path, monkeypatch):
    _, address = served
    for answer, match in (("n\n", "was not agreed to"), ("", "was not agreed to"), (None, "add --yes")):
        stdin = io.StringIO(answer or "")
        monkeypatch.setattr(stdin, "isatty", lambda answer=answer: answer is not None)
        monkeypatch.setattr(download_module.sys, "stdin", stdin)
        with pytest.raises(InputError, match=match):
            download(IBUG, tmp_path / "data", url=f"{address}/copy.tar.gz", patience=QUICK)
    assert not (tmp_path / "data").exists()


def test_a_terminal_is_asked(served, tmp_path, monkeypatch, capsys):
    folder, address = served
    write_archive(folder / "copy.tar.gz", FILES)
    stdin = io.StringIO("Yes\n")
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr(download_module.sys, "stdin", stdin)
    download(IBUG, tmp_path / "data", url=f"{address}/copy.tar.gz", patience=QUICK)
    told = capsys.readouterr().err
    assert told.index(LICENCE) < told.index("Do you agree") < told.index("sha256")


def test_a_known_hash_is_compared(served, tmp_path):
    folder, address = served
    write_archive(folder / "copy.tar.gz", FILES)
    known = dataclasses.replace(IBUG, sha256="0" * 64)
    with pytest.raises(InputError, match=f"expected {'0' * 64}"):
        download(known, tmp_path / "data", url=f"{address}/copy.tar.gz", agreed=True, patience=QUICK)
    with pytest.raises(InputError, match="--sha256 is 'abc', expected 64 hexadecimal digits"):
        download(IBUG, tmp_path / "data", url=f"{address}/copy.tar.gz", sha256="abc", agreed=True)


def test_the_command_line(served, tmp_path, capsys):
    folder, address = served
    write_archive(folder / "copy.tar.gz", FILES)
    words = ["download", "ibug", "--out", str(tmp_path / "data"), "--url", f"{address}/copy.tar.gz"]
    program.main([*words, "--yes", "--stall-s", "2"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "data" / NAME)

    for extra, match in (
        (["--yes", "--stall-s", "0"], r"error: --stall-s is 0.0, expected seconds, more than 0"),
        ([], r"error: nobody is here to agree to the licence; add --yes if you do"),
    ):
        with pytest.raises(SystemExit) as caught:
            program.main([*words, *extra])
        assert caught.value.code == 2
        assert re.search(match, capsys.readouterr().err)


def test_the_public_address_is_that_of_the_archive():
    assert re.fullmatch(rf"https?://dlib\.net/files/data/{NAME}\.tar\.gz", IBUG.url)
    assert IBUG.licence == LICENCE
