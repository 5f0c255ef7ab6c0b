"""Where shards lie: in a folder, or in a remote store behind a cache."""

import functools
import os
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from flm.data.cache import ShardCache
from flm.data.manifest import MANIFEST_NAME, Manifest, ShardEntry
from flm.data.remote import Patience, RemoteFolder
from flm.errors import InputError, OneProcessInputError

REMOTE_SCHEMES = ("https", "http", "s3", "gs", "hf")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
"""At least two letters, since one is a drive."""


class ShardStore(ABC):
    """A manifest and its shards.

    Args:
        place: folder or URL, for messages.
    """

    def __init__(self, place: str) -> None:
        self.place = place

    @functools.cached_property
    def manifest(self) -> Manifest:
        """Read when it is first asked for, then the same for as long as the store is used.

        Raises:
            InputError: it is missing or malformed.
        """
        return self._read_manifest()

    def check_scheme(self, scheme: str, wanted: str) -> None:
        """Refuse shards whose landmarks are not those of a network.

        Args:
            scheme: of the network.
            wanted: who says so, for the message, such as "--model.scheme is".

        Raises:
            InputError: they are of another scheme.
        """
        if self.manifest.scheme != scheme:
            raise InputError(
                f"{self.place}: the shards have {self.manifest.scheme} landmarks, {wanted} {scheme}; "
                "make them agree"
            )

    @abstractmethod
    def open(self, shard: ShardEntry) -> int:
        """A file descriptor to read a shard from; the caller closes it.

        Raises:
            OneProcessInputError: the shard is missing.
        """

    def will_need(self, shards: Sequence[ShardEntry]) -> None:  # noqa: B027 - nothing to do is an answer
        """Take note of the shards that will be opened next, in that order, instead of those noted before."""

    @abstractmethod
    def _read_manifest(self) -> Manifest: ...


class LocalStore(ShardStore):
    """Shards in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder

    def open(self, shard: ShardEntry) -> int:
        """As `ShardStore.open`."""
        path = self.folder / shard.name
        try:
            return os.open(path, os.O_RDONLY)
        except OSError as error:
            raise OneProcessInputError(
                f"{path}: the manifest names this shard, but it cannot be opened ({error.strerror}); "
                "convert the data again"
            ) from error

    def _read_manifest(self) -> Manifest:
        return Manifest.read(self.folder)


class RemoteStore(ShardStore):
    """Shards under a URL, fetched whole into a cache that all processes of the machine share.

    Args:
        url: of the folder that has the manifest.
        cache: where fetched shards lie.
        patience: with the store.
    """

    def __init__(self, url: str, cache: ShardCache, patience: Patience | None = None) -> None:
        super().__init__(url.rstrip("/"))
        self.remote = RemoteFolder(self.place, patience or Patience())
        self.cache = cache
        self._prefetcher: _Prefetcher | None = None

    def __getstate__(self) -> dict[str, object]:
        """A spawned worker fetches by itself."""
        return {**self.__dict__, "_prefetcher": None}

    def open(self, shard: ShardEntry) -> int:
        """As `ShardStore.open`; fetched first if need be.

        Raises:
            OneProcessInputError: the store or the cache fails.
        """
        return self.cache.open(shard, functools.partial(self.remote.download, shard))

    def will_need(self, shards: Sequence[ShardEntry]) -> None:
        """As `ShardStore.will_need`; fetches them in the background, as far as there is room."""
        # A forked worker has none of its parent's threads.
        if self._prefetcher is None or self._prefetcher.process != os.getpid():
            self._prefetcher = _Prefetcher(self.remote, self.cache)
        self._prefetcher.want(shards)

    def _read_manifest(self) -> Manifest:
        manifest = Manifest.from_json(self.remote.read(MANIFEST_NAME), f"{self.place}/{MANIFEST_NAME}")
        largest = max((shard.num_bytes for shards in manifest.splits.values() for shard in shards), default=0)
        if largest > self.cache.max_bytes:
            raise InputError(
                f"{self.place}: its largest shard has {largest / 2**30:.3g} GiB, more than "
                f"--loader.cache-gib {self.cache.max_bytes / 2**30:.3g}; give more"
            )
        return manifest


class _Prefetcher:
    """A thread that fetches what is wanted, while what was fetched is read."""

    def __init__(self, remote: RemoteFolder, cache: ShardCache) -> None:
        self.process = os.getpid()
        self.remote = remote
        self.cache = cache
        self._wanted: list[ShardEntry] = []
        self._is_new = threading.Condition()
        # Ends with its process, also in the middle of a download.
        threading.Thread(target=self._run, name="prefetch", daemon=True).start()

    def want(self, shards: Sequence[ShardEntry]) -> None:
        with self._is_new:
            self._wanted = list(shards)
            self._is_new.notify()

    def _run(self) -> None:
        while True:
            with self._is_new:
                self._is_new.wait_for(lambda: self._wanted)
                wanted = self._wanted
            keep = {shard.sha256 for shard in wanted}
            for shard in wanted:
                # Others were asked for in the meantime.
                if self._wanted is not wanted or not self._fetch(shard, keep):
                    break
            with self._is_new:
                if self._wanted is wanted:
                    self._wanted = []

    def _fetch(self, shard: ShardEntry, keep: set[str]) -> bool:
        """Whether to go on."""
        try:
            return self.cache.prefetch(shard, functools.partial(self.remote.download, shard), keep)
        except InputError:
            # Who reads the shard meets the mistake too, and tells it.
            return False


def is_url(data: str) -> bool:
    """Whether this names a remote store, or would if there were such a kind of store; `./a:b` is a folder."""
    return _SCHEME.match(data) is not None


def default_cache_dir() -> Path:
    """`flm` in the user's folder for caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flm"


def open_store(data: str | Path, *, cache_dir: Path | None = None, cache_gib: float = 50.0) -> ShardStore:
    """The store that a folder or URL names, with its manifest read.

    Args:
        data: a folder of shards, or https://, http://, s3://, gs:// or hf://datasets/ and so on.
        cache_dir: where remote shards are kept; `default_cache_dir()` if None.
        cache_gib: how much of them at most.

    Raises:
        InputError: there are no shards, the store cannot be reached, or the URL is of another kind.
    """
    store = _store(str(data), cache_dir or default_cache_dir(), round(cache_gib * 2**30))
    _ = store.manifest
    return store


def _store(data: str, cache_dir: Path, cache_bytes: int) -> ShardStore:
    if not is_url(data):
        return LocalStore(Path(data))
    parts = urlsplit(data)
    scheme = parts.scheme.lower()
    if scheme not in REMOTE_SCHEMES or "://" not in data or (scheme == "hf" and parts.netloc != "datasets"):
        raise InputError(
            f"--data {data}: is no place to read shards from; give a folder, or a URL that begins with "
            "https://, http://, s3://, gs:// or hf://datasets/"
        )
    if "@" in parts.netloc:
        raise InputError(
            f"--data {scheme}://…@{parts.hostname}: a name or password in a URL would stand in every log; "
            "put it into ~/.netrc"
        )
    if scheme in ("http", "https") and (parts.query or parts.fragment):
        raise InputError(f"--data {data}: shards are read from under a folder; leave out what follows ? or #")
    return RemoteStore(data, ShardCache(cache_dir, cache_bytes))
