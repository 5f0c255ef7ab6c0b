"""A folder of files in a remote store, read through fsspec, with patience for stores that stumble."""

import hashlib
import random
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from flm.data.manifest import ShardEntry
from flm.errors import OneProcessInputError

T = TypeVar("T")

CHUNK_BYTES = 8 * 2**20
"""Read at a time; one request each at stores that are read by ranges (S3, GCS), a stream at the others."""

TEMPORARY_STATUSES = {408, 425, 429}
"""Of the answers below 500, those that ask to come back later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long is held out with a store that fails."""

    tries: int = 5
    first_wait_s: float = 0.5
    """Before the second try; doubled before each further one, give or take a half."""
    stall_s: float = 30.0
    """Without a byte, after which a connection counts as broken."""


class _WrongContentError(Exception):
    """All bytes came, but they are not the shard that the manifest means."""


class RemoteFolder:
    """Files under a URL.

    Args:
        url: of the folder, with a scheme that fsspec knows.
        patience: with the store.

    Raises:
        OneProcessInputError: (any method) the store stays away, refuses, or has something else than it
            should. The message is one line that names the URL.
    """

    def __init__(self, url: str, patience: Patience) -> None:
        self.url = url
        self.patience = patience

    def read(self, name: str) -> bytes:
        """The whole content of a small file."""

        def attempt() -> bytes:
            store, path = self._open_store(name)
            return store.cat_file(path)

        return self._patiently(name, attempt)

    def download(self, shard: ShardEntry, file: BinaryIO) -> None:
        """Write a shard to a file, from its start, and compare it with its entry in the manifest."""
        self._patiently(shard.name, lambda: self._download_once(shard, file))

    def _download_once(self, shard: ShardEntry, file: BinaryIO) -> None:
        digest, num_bytes = hashlib.sha256(), 0
        file.seek(0)
        for chunk in self._chunks(shard):
            num_bytes += len(chunk)
            if num_bytes > shard.num_bytes:
                raise _WrongContentError(f"has more than the {shard.num_bytes} bytes that the manifest says")
            digest.update(chunk)
            _write(file, chunk)
        if num_bytes < shard.num_bytes:
            raise ConnectionError(f"{num_bytes} of {shard.num_bytes} bytes came")
        if digest.hexdigest() != shard.sha256:
            raise _WrongContentError(f"its sha256 is {digest.hexdigest()}, the manifest says {shard.sha256}")

    def _chunks(self, shard: ShardEntry) -> Iterator[bytes]:
        store, path = self._open_store(shard.name)
        # A block size of 0 is fsspec's word for a stream.
        how = {"block_size": 0} if self._is_streamed else {"block_size": CHUNK_BYTES, "cache_type": "none"}
        with store.open(path, "rb", size=shard.num_bytes, **how) as remote:
            while chunk := remote.read(CHUNK_BYTES):
                yield chunk

    @property
    def _scheme(self) -> str:
        return self.url.partition(":")[0].lower()

    @property
    def _is_streamed(self) -> bool:
        return self._scheme in ("http", "https", "hf")

    def _open_store(self, name: str) -> tuple[Any, str]:
        """The file system of this process and thread, and the path of a file in it."""
        import fsspec

        if self._scheme in ("http", "https"):
            name = urllib.parse.quote(name)
        return fsspec.url_to_fs(f"{self.url.rstrip('/')}/{name}", **self._options())

    def _options(self) -> dict[str, Any]:
        """What makes each kind of store give up on a connection that stalls; we are the ones to try again."""
        stall_s = self.patience.stall_s
        match self._scheme:
            case "http" | "https":
                import aiohttp

                timeout = aiohttp.ClientTimeout(total=None, sock_connect=stall_s, sock_read=stall_s)
                # The environment may name a proxy.
                return {"client_kwargs": {"timeout": timeout, "trust_env": True}}
            case "s3":
                retries = {"max_attempts": 0}
                times = {"connect_timeout": stall_s, "read_timeout": stall_s}
                return {"config_kwargs": {**times, "retries": retries}}
            case "gs":
                # Of a whole request, which is one chunk, also over a slow line.
                return {"requests_timeout": 10 * stall_s}
            case _:
                return {}

    def _patiently(self, name: str, attempt: Callable[[], T]) -> T:
        """What an attempt gives, which is made again as long as there is hope."""
        wait_s, was_wrong = self.patience.first_wait_s, False
        for tries_left in reversed(range(self.patience.tries)):
            try:
                return attempt()
            except OneProcessInputError:
                raise
            except _WrongContentError as error:
                # Once may be an accident on the way.
                if was_wrong or not tries_left:
                    raise self._mistake(name, error, "upload it or the manifest again") from error
                was_wrong = True
            except ImportError as error:
                to_do = "install it: pip install 'flm-landmarks[remote]'"
                raise self._mistake(name, error, to_do) from error
            except Exception as error:
                # Of whatever library reads the store; each has its own.
                if _is_permanent(error):
                    raise self._mistake(
                        name, error, "check the address and your rights to read it"
                    ) from error
                if not tries_left:
                    to_do = f"tried {self.patience.tries} times; run it again when the store is back"
                    raise self._mistake(name, error, to_do) from error
            time.sleep(wait_s * random.uniform(0.5, 1.5))
            wait_s *= 2
        raise AssertionError("the last try returns or raises")

    def _mistake(self, name: str, error: Exception, to_do: str) -> OneProcessInputError:
        said = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, _WrongContentError):
            said = f"cannot be read ({said})"
        return OneProcessInputError(f"{self.url.rstrip('/')}/{name}: {said}; {to_do}")


def _write(file: BinaryIO, chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise OneProcessInputError(
            f"{file.name}: cannot be written ({error.strerror}); make room, lower --loader.cache-gib, or "
            "choose another --loader.cache-dir"
        ) from error


def _is_permanent(error: BaseException) -> bool:
    """Whether trying again is of no use, as far as one can tell."""
    # Not of its causes: aiohttp gives a body that was cut short the status 400.
    status = _http_status(error)
    if status is not None:
        return 400 <= status < 500 and status not in TEMPORARY_STATUSES
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, FileNotFoundError | PermissionError | ssl.SSLCertVerificationError):
            return True
        if isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _http_status(error: BaseException) -> int | None:
    """The status of the answer, where the library's exceptions carry one."""
    response = getattr(error, "response", None)
    for owner, name in ((error, "status"), (error, "code"), (response, "status_code")):
        status = getattr(owner, name, None)
        if isinstance(status, int):
            return status
    return None
