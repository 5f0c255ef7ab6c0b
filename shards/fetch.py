"""One large file over HTTP, with resume, back-off and checks; it is there whole or not at all.

Until it is whole it is `NAME.part`, with `NAME.part.json` beside it, which says what it is a part of. What a
server has changed in the meantime is not glued to the part.
"""

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from flm.data.remote import TEMPORARY_STATUSES, Patience
from flm.errors import InputError
from flm.files import DISK_FULL, write_whole
from shards.progress import progress

CHUNK_BYTES = 2**18
LONGEST_WAIT_S = 60.0
BYTES_PER_GB = 1e9

_HANDLERS = (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPErrorProcessor,
)
"""Without those of file: and ftp:, where a redirection might lead."""


def fetch(
    url: str, path: Path, *, sha256: str | None, begins: bytes, patience: Patience | None = None
) -> str:
    """Fetch a file, or the rest of it, unless it is there already.

    Args:
        url: http or https.
        path: of the file; its folder is made.
        sha256: that it must have, or None if nobody knows.
        begins: bytes that every file of its kind begins with.
        patience: with the server; tries are counted anew whenever more bytes than ever before have come.

    Returns:
        The sha256 that it has.

    Raises:
        InputError: it cannot be fetched or written, or is not what it should be. What has come stays for the
            next time, unless it is wrong.
    """
    if not re.match("https?://", url):
        raise InputError(f"--url {url}: expected an address that begins with https:// or http://")
    part = path.with_name(f"{path.name}.part")
    with _writing(part) as file:
        if path.exists():
            # Perhaps of another process, which finished it a moment ago.
            if not os.fstat(file.fileno()).st_size:
                part.unlink()
            digest, fault = _check(path, sha256, begins)
            if fault:
                raise InputError(f"{path}: is there already, but {fault}; move it away to fetch it anew")
            return digest
        _Transfer(url, file, part, patience or Patience()).run()
        digest, fault = _check(part, sha256, begins)
        if fault:
            part.unlink()
        else:
            part.replace(path)
        _memory_of(part).unlink(missing_ok=True)
    if fault:
        raise InputError(f"{url}: {fault}; what came was removed, check --url and --sha256 and try again")
    return digest


def _check(path: Path, sha256: str | None, begins: bytes) -> tuple[str, str | None]:
    """The sha256 of a file, and what is wrong with it."""
    with path.open("rb") as file:
        start = file.read(len(begins))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if start != begins:
        return digest, f"begins with {start!r}, expected {begins!r}"
    if sha256 not in (None, digest):
        return digest, f"its sha256 is {digest}, expected {sha256}"
    return digest, None


@contextlib.contextmanager
def _writing(part: Path) -> Iterator[BinaryIO]:
    """The part, opened for this process alone."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
    except BlockingIOError as error:
        raise InputError(f"{part}: another download is writing here; wait for it to end") from error
    except OSError as error:
        is_full = error.errno in DISK_FULL
        to_do = "make room and go on with the same command" if is_full else "choose another --out"
        raise InputError(f"{part}: cannot be written ({error.strerror}); {to_do}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Version:
    """What a server says about the file that it sends."""

    url: str
    num_bytes: int | None
    validator: str | None
    """A strong ETag, or else the date of the last change; with neither, nothing is resumed."""


class _BrokenOffError(Exception):
    """This connection failed; the next one may not."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(" ".join(reason.split()))
        self.wait_s = wait_s
        """At least, as the server asks."""


class _Transfer:
    """The bytes of one file, over as many connections as it takes."""

    def __init__(self, url: str, file: BinaryIO, part: Path, patience: Patience) -> None:
        self.url = url
        self.file = file
        self.part = part
        self.patience = patience
        self.version = _remembered(part, url)
        self.advance: Callable[[int], None] | None = None
        self.opener = urllib.request.OpenerDirector()
        for handler in _HANDLERS:
            self.opener.add_handler(handler())

    @property
    def num_bytes(self) -> int:
        """That are there."""
        return self.file.tell()

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing, as far as the server said."""
        return self.version is not None and self.num_bytes == self.version.num_bytes

    def run(self) -> None:
        """Return when the part is whole and on the disk."""
        tries_left, wait_s, most_bytes = self.patience.tries, self.patience.first_wait_s, self.num_bytes
        with contextlib.ExitStack() as bar:
            while not self.is_whole:
                try:
                    self._attempt(bar)
                    break
                except _BrokenOffError as error:
                    if self.num_bytes > most_bytes:
                        tries_left, wait_s = self.patience.tries, self.patience.first_wait_s
                        most_bytes = self.num_bytes
                    tries_left -= 1
                    if tries_left <= 0:
                        raise InputError(
                            f"{self.url}: cannot be fetched ({error}), tried {self.patience.tries} times in "
                            "a row; the same command goes on where it stopped"
                        ) from error
                    time.sleep(max(error.wait_s, wait_s * random.uniform(0.5, 1.5)))
                    wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        self.file.flush()
        os.fsync(self.file.fileno())

    def _attempt(self, bar: contextlib.ExitStack) -> None:
        """Receive all that is missing."""
        headers = {"Accept-Encoding": "identity", "User-Agent": "flm"}
        if self.num_bytes and self.version and self.version.validator:
            headers |= {"Range": f"bytes={self.num_bytes}-", "If-Range": self.version.validator}
        with self._open(urllib.request.Request(self.url, headers=headers)) as response:
            if response.status == http.client.PARTIAL_CONTENT:
                self._check_range(response)
            else:
                self._begin_anew(response)
            version = self.version
            whole = version.num_bytes if version else None
            self._check_room(whole)
            if self.advance is None:
                shown = progress("fetching", whole, in_bytes=True, done=self.num_bytes)
                self.advance = bar.enter_context(shown)
            for chunk in _chunks(response):
                self.file.write(chunk)
                self.advance(len(chunk))
        if whole is not None and not self.is_whole:
            raise _BrokenOffError(f"{self.num_bytes:,} of {whole:,} bytes came")

    def _open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        try:
            return self.opener.open(request, timeout=self.patience.stall_s)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                    self._forget()
                elif error.code < 500 and error.code not in TEMPORARY_STATUSES:
                    raise InputError(
                        f"{self.url}: the server answered {error.code} {error.reason}; check the address"
                    ) from error
                raise _BrokenOffError(f"{error.code} {error.reason}", _asked_wait_s(error)) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise InputError(f"{self.url}: its certificate is not valid ({error.reason})") from error
            raise _BrokenOffError(str(error.reason)) from error
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenOffError(str(error) or type(error).__name__) from error

    def _check_range(self, response: http.client.HTTPResponse) -> None:
        """The rest that comes is that of the part, or nothing is kept."""
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        version, validator = self.version, _validator(response)
        if (
            version is None
            or found is None
            or int(found[1]) != self.num_bytes
            or (found[2] != "*" and int(found[2]) != version.num_bytes)
            or validator not in (None, version.validator)
        ):
            self._forget()
            raise _BrokenOffError("the file has changed on the server")

    def _begin_anew(self, response: http.client.HTTPResponse) -> None:
        self._forget()
        length = response.headers.get("Content-Length", "")
        self.version = _Version(
            url=self.url,
            num_bytes=int(length) if length.isdecimal() else None,
            validator=_validator(response),
        )
        write_whole(_memory_of(self.part), json.dumps(asdict(self.version)).encode())

    def _forget(self) -> None:
        if self.advance:
            self.advance(-self.num_bytes)
        self.file.seek(0)
        self.file.truncate()
        self.version = None

    def _check_room(self, whole: int | None) -> None:
        missing, free = (whole or 0) - self.num_bytes, shutil.disk_usage(self.part.parent).free
        if missing > free:
            raise InputError(
                f"{self.part}: {missing / BYTES_PER_GB:.1f} GB are missing, the disk has room for "
                f"{free / BYTES_PER_GB:.1f} GB; make room and go on with the same command"
            )


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenOffError(str(error) or type(error).__name__) from error
        if not chunk:
            return
        yield chunk


def _validator(response: http.client.HTTPResponse) -> str | None:
    etag = response.headers.get("ETag", "")
    # A weak one says that the meaning is the same, not the bytes.
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _asked_wait_s(error: urllib.error.HTTPError) -> float:
    asked = error.headers.get("Retry-After", "")
    return min(float(asked), LONGEST_WAIT_S) if asked.isdecimal() else 0.0


def _memory_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _remembered(part: Path, url: str) -> _Version | None:
    """What the part is a part of; None where that is not known."""
    try:
        version = _Version(**json.loads(_memory_of(part).read_bytes()))
        is_longer = version.num_bytes is not None and part.stat().st_size > version.num_bytes
    except (OSError, ValueError, TypeError):
        return None
    return None if version.url != url or is_longer else version
