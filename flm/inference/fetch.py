"""A picture from a URL that a stranger may have given.

A server that fetches for others must not be led into its own network. So the address is checked after the
name was looked up, for each redirect anew, and the connection goes to that very address: a name that answers
differently the second time leads nowhere. Proxies of the environment are not used, since they would look up
again.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from flm.errors import InputError, first_line

Answer = TypeVar("Answer")

SCHEMES = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
CHUNK_BYTES = 2**16

TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""Addresses that a gateway turns into those of IPv4 in their last 32 bits. Source: RFC 6052."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchLimits:
    """What one URL may cost."""

    most_bytes: int = 64 * 2**20
    """Of what is fetched."""
    time_s: float = 20.0
    """From the start to the last byte, redirects included."""
    redirects: int = 5


LIMITS = FetchLimits()


def is_url(text: str) -> bool:
    """Whether a text is a URL that `fetch_url` may be asked for."""
    return text.lower().startswith(("http://", "https://"))


def fetch_url(url: str, *, allow_private: bool = False, limits: FetchLimits = LIMITS) -> bytes:
    """What a URL holds.

    Args:
        url: http or https.
        allow_private: also from addresses that are not of the public internet; for development.
        limits: of bytes, time and redirects.

    Raises:
        InputError: it is refused, cannot be reached, answers with an error, or exceeds a limit.
    """
    return _followed(url, lambda _, answer: _content(answer, limits), allow_private, limits)


def last_url(url: str, *, allow_private: bool = False) -> str:
    """Where a URL leads to in the end, for those who fetch it by other means and follow no redirects.

    Args:
        url: http or https.
        allow_private: see `fetch_url`.

    Raises:
        InputError: as for `fetch_url`.
    """

    def here(last: str, answer: http.client.HTTPResponse) -> str:
        _check_status(answer)
        return last

    return _followed(url, here, allow_private, LIMITS)


def _followed(
    url: str,
    taken: Callable[[str, http.client.HTTPResponse], Answer],
    allow_private: bool,
    limits: FetchLimits,
) -> Answer:
    """What is taken of the answer that redirects lead to."""
    deadline = time.monotonic() + limits.time_s
    here = url
    for _ in range(limits.redirects + 1):
        try:
            target = _Target.of(here, allow_private, deadline)
            with _answer_of(target, deadline) as answer:
                if answer.status not in REDIRECTS:
                    return taken(here, answer)
                there = answer.headers.get("Location")
        except _RefusedError as refusal:
            where = "" if here == url else f" leads to {_shown(here)}, which"
            raise InputError(f"{_shown(url)}:{where} {refusal}") from refusal
        except TimeoutError as error:
            raise InputError(f"{_shown(url)}: took longer than {limits.time_s:g} s; try again") from error
        except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
            raise InputError(
                f"{_shown(url)}: cannot be fetched ({first_line(error)}); check the URL"
            ) from error
        if not there:
            raise InputError(f"{_shown(url)}: redirects to nowhere; check the URL")
        here = urllib.parse.urljoin(here, there)
    raise InputError(f"{_shown(url)}: redirects more than {limits.redirects} times; give the last URL")


class _RefusedError(Exception):
    """A URL, or what came from it, is not taken; the message goes on after its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Target:
    """Where a request goes."""

    is_encrypted: bool
    host: str
    port: int
    path: str
    addresses: tuple[str, ...]
    """Of the host, checked; what is connected to."""

    @classmethod
    def of(cls, url: str, allow_private: bool, deadline: float) -> "_Target":
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in SCHEMES:
            raise _RefusedError("is neither http nor https; download it by other means")
        if not parts.hostname:
            raise _RefusedError("names no host; check the URL")
        if parts.username is not None:
            raise _RefusedError("holds a user name, which is not sent; download it by other means")
        host = parts.hostname.encode("idna").decode() if not parts.hostname.isascii() else parts.hostname
        port = parts.port or SCHEMES[parts.scheme]
        path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
        query = urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~?")
        return cls(
            is_encrypted=parts.scheme == "https",
            host=host,
            port=port,
            path=f"{path}?{query}" if query else path,
            addresses=_checked_addresses(host, port, allow_private, deadline),
        )

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_usual = self.port == SCHEMES["https" if self.is_encrypted else "http"]
        return host if is_usual else f"{host}:{self.port}"


def _checked_addresses(host: str, port: int, allow_private: bool, deadline: float) -> tuple[str, ...]:
    """The addresses of a host, all of which are public."""
    # The system's look-up has no limit of time; its thread is left behind if it takes too long.
    looker = ThreadPoolExecutor(max_workers=1)
    try:
        looking = looker.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = looking.result(timeout=max(0.0, deadline - time.monotonic()))
    except socket.gaierror as error:
        raise _RefusedError(f"has a host that is not known ({error.strerror}); check the URL") from error
    finally:
        looker.shutdown(wait=False)
    addresses = [str(information[4][0]) for information in found]
    for address in addresses:
        if not allow_private and not is_public(address):
            raise _RefusedError(
                f"is at {address}, which is not of the public internet; download it by other means, or allow "
                "private URLs on your own machine"
            )
    return tuple(addresses)


def is_public(address: str) -> bool:
    """Whether an IP address is of the public internet, whichever way it is wrapped."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in TRANSLATED:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if found.teredo is not None or found.is_site_local:
            return False
    return found.is_global and not found.is_multicast


@contextlib.contextmanager
def _answer_of(target: _Target, deadline: float) -> Iterator[http.client.HTTPResponse]:
    """The answer of a server, whose connection is cut at the deadline, however slowly it drips."""
    connection = http.client.HTTPConnection(target.host, target.port)
    connected = connection.sock = _connected(target, deadline)
    is_late = threading.Event()

    def cut() -> None:
        is_late.set()
        with contextlib.suppress(OSError):  # it may be closed by then
            connected.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), cut)
    timer.daemon = True
    timer.start()
    try:
        if isinstance(connected, ssl.SSLSocket):
            connected.do_handshake()
        headers = {"User-Agent": "flm", "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
        connection.request("GET", target.path, headers={"Host": target.host_header, **headers})
        with connection.getresponse() as answer:
            yield answer
        if is_late.is_set():  # an answer of unknown length just ends
            raise TimeoutError
    except Exception as error:
        if is_late.is_set():
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
        connection.close()


def _connected(target: _Target, deadline: float) -> socket.socket:
    """A connection to the first of the host's addresses that takes one; not yet encrypted."""
    refused: OSError = TimeoutError()
    for address in target.addresses:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        try:
            raw = socket.create_connection((address, target.port), timeout=left_s)
        except OSError as error:
            refused = error
            continue
        if not target.is_encrypted:
            return raw
        try:
            context = ssl.create_default_context()
            return context.wrap_socket(raw, server_hostname=target.host, do_handshake_on_connect=False)
        except (OSError, ValueError):
            raw.close()
            raise
    raise refused


def _content(answer: http.client.HTTPResponse, limits: FetchLimits) -> bytes:
    _check_status(answer)
    too_large = _RefusedError(f"is larger than {limits.most_bytes / 2**20:g} MiB; give a smaller picture")
    if answer.length is not None and answer.length > limits.most_bytes:
        raise too_large
    parts: list[bytes] = []
    size = 0
    while part := answer.read(CHUNK_BYTES):
        size += len(part)
        if size > limits.most_bytes:
            raise too_large
        parts.append(part)
    if answer.length:
        raise _RefusedError(f"broke off after {size} bytes; try again")
    return b"".join(parts)


def _check_status(answer: http.client.HTTPResponse) -> None:
    if answer.status != http.HTTPStatus.OK:
        raise _RefusedError(f"answers {answer.status} {answer.reason}; check the URL")


def _shown(url: str) -> str:
    """A URL on one line, without what may be secret in it."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in url.partition("?")[0])
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(shown)
        shown = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return shown if len(shown) <= 200 else f"{shown[:200]}…"
