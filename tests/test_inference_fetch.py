"""URLs of strangers: real servers on loopback, some of which play the public internet."""

import contextlib
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from flm.errors import InputError
from flm.inference import fetch
from flm.inference.fetch import FetchLimits, fetch_url, is_public, is_url
from flm.inference.picture_input import as_picture

CONTENT = bytes(range(256)) * 400
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    answers: dict[str, Answer]
    asked: list[tuple[str, str]]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Host"]))
        self.answers[self.path.partition("?")[0]](self)

    def log_message(self, *words: object) -> None:
        pass


def whole(handler: Handler) -> None:
    send(handler, CONTENT)


def send(handler: Handler, content: bytes, length: int | None = None) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    handler.wfile.write(content)


def redirect(to: str, code: int = 302) -> Answer:
    def answer(handler: Handler) -> None:
        handler.send_response(code)
        handler.send_header("Location", to)
        handler.end_headers()

    return answer


class Server:
    def __init__(self, address: str) -> None:
        self.handler = type("_Handler", (Handler,), {"answers": {"/a.png": whole}, "asked": []})
        self.http = ThreadingHTTPServer((address, 0), self.handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        self.url = f"http://{address}:{self.port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def answers(self) -> dict[str, Answer]:
        return self.handler.answers

    @property
    def asked(self) -> list[tuple[str, str]]:
        return self.handler.asked


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    started = Server("127.0.0.1"), Server("127.0.0.2")
    yield started
    for server in started:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture
def public(servers) -> Server:
    return servers[0]


@pytest.fixture
def private(servers) -> Server:
    return servers[1]


@pytest.fixture(autouse=True)
def first_is_public(monkeypatch) -> None:
    """127.0.0.1 stands for the public internet; all else is judged as it is."""
    judge = fetch.is_public
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1" or judge(address))


def refused(url: str, **options) -> str:
    with pytest.raises(InputError) as caught:
        fetch_url(url, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_public_is_fetched_whole(public):
    assert fetch_url(f"{public.url}/a.png") == CONTENT
    assert public.asked == [("/a.png", f"127.0.0.1:{public.port}")]
    assert fetch_url(f"{public.url}/a.png?x=ä b#part") == CONTENT
    assert public.asked[1][0] == "/a.png?x=%C3%A4%20b"


def test_a_picture_comes_out_of_it(public):
    file = io.BytesIO()
    Image.new("RGB", (7, 5), (255, 0, 0)).save(file, "png")
    public.answers["/a.png"] = lambda handler: send(handler, file.getvalue())
    assert as_picture(f"{public.url}/a.png").shape == (5, 7, 3)
    public.answers["/a.png"] = lambda handler: send(handler, b"<html>")
    with pytest.raises(InputError, match=r"/a\.png: not a whole picture"):
        as_picture(f"{public.url}/a.png")


def test_a_private_address_is_refused_before_it_is_asked(private):
    message = refused(f"{private.url}/a.png")
    assert f"{private.url}/a.png: is at 127.0.0.2, which is not of the public internet" in message
    assert private.asked == []
    assert fetch_url(f"{private.url}/a.png", allow_private=True) == CONTENT


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_followed_but_not_into_a_private_network(public, private, code):
    public.answers["/there"] = redirect("/a.png", code)
    assert fetch_url(f"{public.url}/there") == CONTENT
    public.answers["/in"] = redirect(f"{private.url}/a.png", code)
    public.answers["/twice"] = redirect("/in", code)
    for path in ("/in", "/twice"):
        assert "leads to http://127.0.0.2:" in refused(f"{public.url}{path}")
    assert private.asked == []


@pytest.mark.parametrize(
    "there",
    ["http://10.0.0.1/", "http://169.254.169.254/latest/meta-data", "http://[::1]:80/", "http://0.0.0.0/",
     "http://2130706434/", "http://0x7f000002/", "http://[::ffff:127.0.0.2]/"],
)  # fmt: skip
def test_no_spelling_of_a_private_address_is_followed(public, there):
    public.answers["/in"] = redirect(there)
    assert "which is not of the public internet" in refused(f"{public.url}/in")


@pytest.mark.parametrize(
    "there", ["file:///etc/passwd", "ftp://x.org/a.png", "gopher://127.0.0.1/", "data:,x"]
)
def test_only_http_is_spoken(public, there):
    public.answers["/in"] = redirect(there)
    assert "is neither http nor https" in refused(f"{public.url}/in")
    assert not is_url(there)
    assert is_url("HTTPS://x.org")


def test_a_name_is_looked_up_once_and_that_address_is_taken(public, private, monkeypatch):
    """A name that is public when it is checked and private when it is connected to leads nowhere."""
    answers = iter(["127.0.0.1", "127.0.0.2", "127.0.0.2"])

    def look_up(host: str, port: int, **kwargs: object) -> list:
        assert host == "rebinding.example"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    real = socket.getaddrinfo
    monkeypatch.setattr(
        fetch.socket, "getaddrinfo", lambda host, port, *a, **k: look_up(host, port)
        if host == "rebinding.example" else real(host, port, *a, **k)
    )  # fmt: skip
    assert fetch_url(f"http://rebinding.example:{public.port}/a.png") == CONTENT
    assert public.asked == [("/a.png", f"rebinding.example:{public.port}")]
    assert "is at 127.0.0.2" in refused(f"http://rebinding.example:{public.port}/a.png")


def test_a_host_with_one_private_address_is_refused(monkeypatch):
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")
    ]
    monkeypatch.setattr(fetch.socket, "getaddrinfo", lambda *a, **k: found)
    assert "is at 10.0.0.1" in refused("http://mixed.example/")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("127.0.0.2", False), ("10.1.2.3", False),
        ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False), ("100.64.0.1", False),
        ("0.0.0.0", False), ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False), ("::", False),
        ("fe80::1%eth0", False), ("fc00::1", False), ("ff02::1", False), ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True), ("2002:7f00:0002::", False), ("64:ff9b::7f00:2", False),
        ("64:ff9b::808:808", True), ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False), ("fec0::1", False),
    ],
)  # fmt: skip
def test_addresses_are_public_or_not_however_they_are_wrapped(address, expected):
    assert is_public(address) is expected


def test_too_much_is_refused_whether_it_is_announced_or_not(public):
    limits = FetchLimits(most_bytes=50_000)
    assert "is larger than" in refused(f"{public.url}/a.png", limits=limits)

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):  # the other side hangs up
            while True:
                handler.wfile.write(bytes(10_000))

    public.answers["/endless"] = endless
    assert "is larger than" in refused(f"{public.url}/endless", limits=limits)
    exact = FetchLimits(most_bytes=len(CONTENT))
    assert fetch_url(f"{public.url}/a.png", limits=exact) == CONTENT


def test_a_slow_server_is_left_in_time(public):
    def drip(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):  # the other side hangs up
            while True:
                handler.wfile.write(b"x")
                time.sleep(0.05)

    def silent(handler: Handler) -> None:
        handler.connection.settimeout(60)
        handler.connection.recv(1)

    public.answers.update({"/drip": drip, "/silent": silent})
    for path in ("/drip", "/silent"):
        start = time.monotonic()
        assert "took longer than 0.4 s" in refused(f"{public.url}{path}", limits=FetchLimits(time_s=0.4))
        assert time.monotonic() - start < 60  # as long as the servers would go on


def test_redirects_end(public):
    public.answers["/loop"] = redirect("/loop")
    assert "redirects more than 5 times" in refused(f"{public.url}/loop")
    assert len(public.asked) == 6
    public.answers["/nowhere"] = redirect("")
    assert "redirects to nowhere" in refused(f"{public.url}/nowhere")


def test_what_breaks_off_or_is_not_there_is_told(public):
    public.answers["/short"] = lambda handler: send(handler, CONTENT, len(CONTENT) + 9)
    public.answers["/none"] = lambda handler: handler.send_error(404)
    public.answers["/noise"] = lambda handler: handler.wfile.write(b"what?\r\n\r\n")
    assert "cannot be fetched" in refused(f"{public.url}/short") or "broke off" in refused(
        f"{public.url}/short"
    )
    assert "answers 404 Not Found" in refused(f"{public.url}/none")
    assert "cannot be fetched" in refused(f"{public.url}/noise")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://", "names no host"),
        ("http:///a.png", "names no host"),
        ("http://me:secret@127.0.0.1/a.png", "holds a user name, which is not sent"),
        ("http://127.0.0.1:99999/", "cannot be fetched"),
        ("http://[::1/", "cannot be fetched"),
        ("http://127.0.0.1:1/", "cannot be fetched"),
        ("http://no.such.host.invalid/", "has a host that is not known"),
        ("http://\u2100.example\r\nX: y/", "cannot be fetched"),
    ],
)
def test_broken_urls_are_told_in_one_line_without_secrets(url, message):
    told = refused(url)
    assert message in told
    assert "secret" not in told


def test_a_query_is_not_told(private):
    assert "token" not in refused(f"{private.url}/a.png?token=x")


def test_https_is_checked(public):
    """A server that speaks no TLS is no https server."""
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch_url(public.url.replace("http", "https") + "/a.png")
    assert ssl.create_default_context().check_hostname
    assert public.asked == []
