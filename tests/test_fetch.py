"""A file over HTTP comes whole or with one clear line, whatever the server does."""

import errno
import fcntl
import hashlib
import json
import shutil
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from flm.data.remote import Patience
from flm.errors import InputError
from shards import fetch as fetch_module
from shards.fetch import fetch

MAGIC = b"\x1f\x8b"
CONTENT = MAGIC + np.random.default_rng(0).bytes(400_000)
OTHER = MAGIC + np.random.default_rng(1).bytes(400_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(tries=3, first_wait_s=0.01, stall_s=0.3)

Answer = Callable[["Handler"], None]


@dataclass
class Server:
    """A server on loopback that answers as it is told to, and well when it is told no more."""

    url: str = ""
    content: bytes = CONTENT
    etag: str | None = '"one"'
    answers: list[Answer] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    """The Range header of each request."""


class Handler(BaseHTTPRequestHandler):
    state: Server

    def do_GET(self) -> None:
        self.state.ranges.append(self.headers["Range"])
        answer = self.state.answers.pop(0) if self.state.answers else serve
        answer(self)

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve(handler: Handler, *, up_to: int | None = None, obeys_range: bool = True) -> None:
    """The content or the range of it that was asked for; breaks off after `up_to` bytes of the whole."""
    server, start = handler.state, 0
    asked, condition = handler.headers["Range"], handler.headers["If-Range"]
    if obeys_range and asked and condition in (None, server.etag):
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
    if start >= len(server.content):
        return refuse(416)(handler)
    handler.send_response(206 if start else 200)
    if start:
        last, whole = len(server.content) - 1, len(server.content)
        handler.send_header("Content-Range", f"bytes {start}-{last}/{whole}")
    handler.send_header("Content-Length", str(len(server.content) - start))
    if server.etag:
        handler.send_header("ETag", server.etag)
    handler.end_headers()
    handler.wfile.write(server.content[start:up_to])
    return None


def break_off(at: int) -> Answer:
    return lambda handler: serve(handler, up_to=at)


def refuse(status: int, **headers: str) -> Answer:
    def answer(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def stall(handler: Handler) -> None:
    """Say no more, until the other side hangs up."""
    serve(handler, up_to=100_000)
    handler.connection.settimeout(60)
    assert handler.connection.recv(1) == b""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Server()
    handler = type("_Handler", (Handler,), {"state": state})
    with QuietServer(("127.0.0.1", 0), handler) as http_server:
        state.url = f"http://127.0.0.1:{http_server.server_port}/files/data.tar.gz"
        thread = threading.Thread(target=http_server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield state
        http_server.shutdown()
        thread.join()


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of these tests."""


def fetched(server: Server, folder: Path, sha256: str | None = SHA256) -> bytes:
    """Fetch, and see that nothing else is left."""
    path = folder / "data.tar.gz"
    digest = fetch(server.url, path, sha256=sha256, begins=MAGIC, patience=QUICK)
    assert [entry.name for entry in folder.iterdir()] == ["data.tar.gz"]
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    return path.read_bytes()


def refused(server: Server, folder: Path, match: str, sha256: str | None = SHA256) -> str:
    """Fail to fetch, with one line, and without a file of the final name."""
    with pytest.raises(InputError, match=match) as caught:
        fetch(server.url, folder / "data.tar.gz", sha256=sha256, begins=MAGIC, patience=QUICK)
    assert "\n" not in str(caught.value)
    assert not (folder / "data.tar.gz").exists()
    return str(caught.value)


def test_a_good_server_is_asked_once(server, tmp_path):
    assert fetched(server, tmp_path / "new" / "folder") == CONTENT
    assert server.ranges == [None]


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    fetched(server, tmp_path)
    assert fetched(server, tmp_path) == CONTENT
    assert len(server.ranges) == 1
    with pytest.raises(InputError, match=r"is there already, but its sha256 is .*move it away"):
        fetch(server.url, tmp_path / "data.tar.gz", sha256="0" * 64, begins=MAGIC, patience=QUICK)
    assert (tmp_path / "data.tar.gz").read_bytes() == CONTENT


def test_broken_connections_are_taken_up_where_they_broke(server, tmp_path):
    # More often than there are tries: each one brings something.
    server.answers = [break_off(at) for at in (90_000, 150_000, 210_000, 280_000, 350_000)]
    assert fetched(server, tmp_path) == CONTENT
    assert server.ranges == [None, *(f"bytes={n}-" for n in (90_000, 150_000, 210_000, 280_000, 350_000))]


def test_another_run_takes_it_up(server, tmp_path):
    server.answers = [break_off(250_000), *[refuse(503)] * (QUICK.tries - 1)]
    refused(server, tmp_path, r"503 .* tried 3 times in a row; the same command goes on where it stopped")
    assert (tmp_path / "data.tar.gz.part").stat().st_size == 250_000
    server.ranges.clear()
    assert fetched(server, tmp_path) == CONTENT
    assert server.ranges == ["bytes=250000-"]


def test_a_run_that_was_killed_at_the_last_moment_asks_for_nothing(server, tmp_path):
    server.answers = [break_off(250_000), *[refuse(503)] * (QUICK.tries - 1)]
    refused(server, tmp_path, "503")
    (tmp_path / "data.tar.gz.part").write_bytes(CONTENT)
    server.ranges.clear()
    assert fetched(server, tmp_path) == CONTENT
    assert not server.ranges


def test_a_server_that_ignores_ranges_is_believed_from_the_start(server, tmp_path):
    server.answers = [break_off(250_000), lambda handler: serve(handler, obeys_range=False)]
    assert fetched(server, tmp_path) == CONTENT
    assert server.ranges == [None, "bytes=250000-"]


def test_a_server_that_always_breaks_at_the_same_place_is_given_up(server, tmp_path):
    server.etag = None  # so nothing can be resumed
    server.answers = [break_off(250_000)] * 20
    refused(server, tmp_path, r"250,000 of 400,002 bytes came")
    assert len(server.ranges) == QUICK.tries


def test_a_file_that_changed_is_not_glued_to_its_old_part(server, tmp_path):
    def change(handler: Handler) -> None:
        server.content, server.etag = OTHER, '"two"'
        serve(handler)

    server.answers = [break_off(250_000), change]
    assert fetched(server, tmp_path, sha256=None) == OTHER


@pytest.mark.parametrize("etag", ['"two"', None])
def test_nor_where_the_server_ignores_the_condition(server, tmp_path, etag):
    """A range of the new file though only the old one's was wanted; its tag or length gives it away."""

    def change(handler: Handler) -> None:
        server.content, server.etag = OTHER + (b"" if etag else b"longer"), etag
        del handler.headers["If-Range"]
        serve(handler)

    server.answers = [break_off(250_000), change]
    assert fetched(server, tmp_path, sha256=None) == server.content
    assert server.ranges == [None, "bytes=250000-", None]


def test_a_part_that_is_longer_than_the_file_is_thrown_away(server, tmp_path):
    server.answers = [break_off(250_000), *[refuse(503)] * (QUICK.tries - 1)]
    refused(server, tmp_path, "503")
    (tmp_path / "data.tar.gz.part").write_bytes(OTHER + OTHER)
    assert fetched(server, tmp_path) == CONTENT


def test_a_part_of_another_address_is_not_gone_on_with(server, tmp_path):
    server.answers = [break_off(250_000), *[refuse(503)] * (QUICK.tries - 1)]
    refused(server, tmp_path, "503")
    memory = tmp_path / "data.tar.gz.part.json"
    memory.write_text(json.dumps(json.loads(memory.read_text()) | {"url": "http://elsewhere/x"}))
    server.ranges.clear()
    assert fetched(server, tmp_path) == CONTENT
    assert server.ranges == [None]


@pytest.mark.parametrize(
    "memory", [b"", b"[]", b'{"url": 1}', b"\xff", b'{"url": "", "num_bytes": "9", "validator": null}']
)
def test_a_damaged_memory_of_the_part_costs_only_its_bytes(server, tmp_path, memory):
    (tmp_path / "data.tar.gz.part").write_bytes(OTHER[:1000])
    (tmp_path / "data.tar.gz.part.json").write_bytes(memory)
    assert fetched(server, tmp_path) == CONTENT


def test_a_refused_range_begins_anew(server, tmp_path):
    server.answers = [break_off(250_000), refuse(416)]
    assert fetched(server, tmp_path) == CONTENT
    assert server.ranges == [None, "bytes=250000-", None]


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.answers = [refuse(503, Retry_After="0"), refuse(429)]
    assert fetched(server, tmp_path) == CONTENT


def test_a_server_may_ask_for_time(server, tmp_path, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(fetch_module.time, "sleep", waits.append)
    server.answers = [refuse(503, Retry_After="7"), refuse(503, Retry_After="100000")]
    assert fetched(server, tmp_path) == CONTENT
    assert waits == [7.0, 60.0]


def test_a_server_that_stalls_counts_as_broken(server, tmp_path):
    server.answers = [stall]
    start_s = time.monotonic()
    assert fetched(server, tmp_path) == CONTENT
    assert server.ranges == [None, "bytes=100000-"]
    assert time.monotonic() - start_s < 60  # as long as it stalls


def test_a_wrong_address_is_told_at_once(server, tmp_path):
    server.answers = [refuse(404)]
    message = refused(server, tmp_path, r"the server answered 404 Not Found; check the address")
    assert server.url in message
    assert len(server.ranges) == 1


def test_nobody_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as free:
        port = free.server_address[1]
    gone = Server(url=f"http://127.0.0.1:{port}/x")
    refused(gone, tmp_path, "cannot be fetched .*refused")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "data.tar.gz", ""])
def test_other_kinds_of_addresses_are_refused(tmp_path, url):
    refused(Server(url=url), tmp_path, "expected an address that begins with https:// or http://")
    assert not list(tmp_path.iterdir())


def test_a_redirection_leads_to_no_file(server, tmp_path):
    server.answers = [refuse(302, Location="file:///etc/passwd")] * QUICK.tries
    refused(server, tmp_path, "302")


def test_a_redirection_is_followed(server, tmp_path):
    server.answers = [refuse(302, Location="/elsewhere")]
    assert fetched(server, tmp_path) == CONTENT


def test_wrong_bytes_are_not_kept(server, tmp_path):
    server.content = OTHER
    refused(server, tmp_path, f"its sha256 is {hashlib.sha256(OTHER).hexdigest()}, expected {SHA256}")
    assert not list(tmp_path.iterdir())
    server.content = CONTENT
    assert fetched(server, tmp_path) == CONTENT


def test_a_page_instead_of_the_file_is_not_kept(server, tmp_path):
    server.content = b"<html>please log in</html>"
    refused(server, tmp_path, r"begins with b'<h', expected", sha256=None)
    assert not list(tmp_path.iterdir())


def test_a_server_that_tells_no_length_is_read_to_its_end(server, tmp_path):
    def without_length(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(CONTENT)

    server.answers = [without_length]
    assert fetched(server, tmp_path) == CONTENT


def test_two_downloads_do_not_write_into_each_other(server, tmp_path):
    part = tmp_path / "data.tar.gz.part"
    with part.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused(server, tmp_path, "another download is writing here")
    assert fetched(server, tmp_path) == CONTENT


def test_a_folder_that_cannot_be_written_is_told(server, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"cannot be written \(.*\); choose another --out"):
        fetch(server.url, tmp_path / "file" / "data.tar.gz", sha256=None, begins=MAGIC, patience=QUICK)


def test_too_small_a_disk_is_told_before_it_is_full(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(fetch_module.shutil, "disk_usage", lambda _: usage)
    refused(server, tmp_path, "the disk has room for 0.0 GB; make room and go on with the same command")


def test_a_disk_that_fills_up_is_told_and_the_part_stays(server, tmp_path, monkeypatch):
    part = tmp_path / "data.tar.gz.part"
    real = fetch_module._chunks

    def chunks(response: object) -> Iterator[bytes]:
        for chunk in real(response):
            yield chunk
            if part.stat().st_size > 100_000:
                raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch_module, "_chunks", chunks)
    refused(server, tmp_path, r"No space left on device.*make room and go on with the same command")
    kept = part.stat().st_size
    assert kept > 100_000
    monkeypatch.setattr(fetch_module, "_chunks", real)
    server.ranges.clear()
    assert fetched(server, tmp_path) == CONTENT
    assert server.ranges == [f"bytes={kept}-"]


def test_an_interrupted_download_keeps_its_part(server, tmp_path, monkeypatch):
    real = fetch_module._chunks

    def chunks(response: object) -> Iterator[bytes]:
        yield next(real(response))
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch_module, "_chunks", chunks)
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, tmp_path / "data.tar.gz", sha256=None, begins=MAGIC, patience=QUICK)
    assert not (tmp_path / "data.tar.gz").exists()
    monkeypatch.setattr(fetch_module, "_chunks", real)
    assert fetched(server, tmp_path) == CONTENT
    assert server.ranges[1] is not None
