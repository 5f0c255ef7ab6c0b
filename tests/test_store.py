"""Shards from far away: the same as from a folder, once a machine, within bounds, and never half."""

import contextlib
import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import fsspec
import numpy as np
import pytest
import torch
from huggingface_hub import constants

from flm.data.cache import ShardCache
from flm.data.loader import CropShape, LoaderConfig, ProcessPlace, evaluation_batches, training_batches
from flm.data.manifest import Manifest, ShardEntry
from flm.data.reader import ShardReader
from flm.data.remote import Patience
from flm.data.store import LocalStore, RemoteStore, default_cache_dir, is_url, open_store
from flm.errors import InputError, OneProcessInputError

CROP = CropShape(size_px=32, margin=0.1)
QUICK = Patience(tries=5, first_wait_s=0.01, stall_s=20.0)
UNHURRIED = Patience(tries=5, first_wait_s=60.0, stall_s=60.0)
"""Whoever tries again with it runs into the test's deadline."""

NUM_SHARDS = 6


class Handler(BaseHTTPRequestHandler):
    """Serves the files of a folder, each request with the next of the faults that were planned for it."""

    server: "Server"

    def do_GET(self):
        name = unquote(self.path.rpartition("/")[2])
        with self.server.lock:
            self.server.gets[name] += 1
            fault = self.server.faults[name].pop(0) if self.server.faults[name] else None
        path = self.server.folder / name
        if fault == "hang up":
            return
        if isinstance(fault, int) or not path.is_file():
            self.send_error(fault or 404)
            return
        body = path.read_bytes()
        if fault == "wrong bytes":
            body = body[:600] + bytes([body[600] ^ 1]) + body[601:]
        if fault == "too much":
            body += b"more"
        if fault == "too little":
            body = body[:-512]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault in ("truncate", "stall"):
            self.wfile.write(body[: len(body) // 2])
            if fault == "stall":
                self.server.released.wait(20)
            return
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.lock = threading.Lock()
        self.released = threading.Event()
        self.gets = Counter()
        self.faults = defaultdict(list)
        self.url = f"http://127.0.0.1:{self.server_port}/some folder"

    def handle_error(self, request, client_address):
        """A client that was killed is no news."""


@pytest.fixture(scope="module")
def folder(make_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_shards(folder, {"train": 5 * NUM_SHARDS, "validation": 7}, shard_size=5)
    return folder


@pytest.fixture(scope="module")
def shards(folder) -> tuple[ShardEntry, ...]:
    return Manifest.read(folder).shards_of("train")


@pytest.fixture
def server(folder, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path) -> ShardCache:
    return ShardCache(tmp_path / "cache", 2**30)


@pytest.fixture
def store(server, cache) -> RemoteStore:
    return RemoteStore(server.url, cache, QUICK)


def read_all(store, shard: ShardEntry) -> bytes:
    with os.fdopen(store.open(shard), "rb") as file:
        file.seek(0)
        return file.read()


def is_whole(content: bytes, shard: ShardEntry) -> bool:
    return hashlib.sha256(content).hexdigest() == shard.sha256


def files_in(cache: ShardCache, suffix: str) -> list[Path]:
    return sorted(cache.folder.glob(f"??/*{suffix}"))


def wait_until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def train(store, *, epochs=2, workers=0, window_shards=2):
    config = LoaderConfig(num_workers=workers, window_shards=window_shards)
    steps = range(epochs * 5 * NUM_SHARDS // 10)
    return training_batches(store, config, CROP, steps=steps, batch_size=10, seed=0, place=ProcessPlace())


# The same as from a folder


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_a_folder_and_each_shard_is_fetched_once(folder, store, server, workers):
    for near, far in zip(train(LocalStore(folder)), train(store, workers=workers), strict=True):
        assert near.keys == far.keys
        assert torch.equal(near.crops_shard, far.crops_shard)
        assert torch.equal(near.landmarks_shard, far.landmarks_shard)
    config = LoaderConfig(num_workers=workers)
    arguments = (config, CROP)
    options = {"split": "validation", "batch_size": 4, "place": ProcessPlace()}
    near, far = (list(evaluation_batches(s, *arguments, **options)) for s in (LocalStore(folder), store))
    assert [batch.keys for batch in near] == [batch.keys for batch in far]
    assert server.gets == {"manifest.json": 1} | {path.name: 1 for path in folder.glob("*.tar")}


def test_the_manifest_is_fetched_anew_at_each_start_and_shards_are_not(server, shards, tmp_path):
    for _ in range(2):
        store = open_store(server.url, cache_dir=tmp_path, cache_gib=1.0)
        assert is_whole(read_all(store, shards[0]), shards[0])
    assert server.gets == {"manifest.json": 2, shards[0].name: 1}


def test_the_same_shard_from_another_place_is_not_fetched_again(server, store, shards, cache):
    read_all(store, shards[0])
    read_all(RemoteStore(f"{server.url}/elsewhere/", cache, QUICK), shards[0])
    assert server.gets[shards[0].name] == 1


def test_a_store_travels_to_a_spawned_worker_with_its_manifest(store, shards, server):
    store.will_need(shards[:1])
    manifest = store.manifest
    there = pickle.loads(pickle.dumps(store))
    assert there.manifest == manifest
    assert is_whole(read_all(there, shards[1]), shards[1])
    assert server.gets["manifest.json"] == 1


def test_any_store_that_fsspec_knows_is_read(folder, shards, cache):
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/shards", recursive=True)
    try:
        store = RemoteStore("memory://bucket/shards", cache, QUICK)
        assert store.manifest == Manifest.read(folder)
        assert is_whole(read_all(store, shards[0]), shards[0])
        memory.rm("/bucket/shards/" + shards[1].name)
        with pytest.raises(OneProcessInputError, match="check the address"):
            store.open(shards[1])
    finally:
        memory.store.clear()


def test_a_name_with_odd_characters_is_asked_for_as_it_is(folder, server, store, shards):
    name = "a b#c?d%20é.tar"
    (folder / name).write_bytes((folder / shards[0].name).read_bytes())
    try:
        entry = ShardEntry(name=name, num_samples=5, num_bytes=shards[0].num_bytes, sha256=shards[0].sha256)
        assert is_whole(read_all(store, entry), shards[0])
        assert server.gets[name] == 1
    finally:
        (folder / name).unlink()


# Stores that stumble


@pytest.mark.parametrize(
    ("faults", "gets"),
    [
        ([503, 503], 3),
        ([429], 2),
        ([500, "hang up", "truncate", "too little"], 5),
        (["truncate"], 2),
        (["wrong bytes"], 2),
        (["too much"], 2),
    ],
)
def test_a_store_that_stumbles_is_asked_again(server, store, shards, cache, faults, gets):
    server.faults[shards[0].name] = list(faults)
    assert is_whole(read_all(store, shards[0]), shards[0])
    assert server.gets[shards[0].name] == gets
    assert len(files_in(cache, "")) == 1


def test_a_connection_without_a_byte_for_long_is_given_up(server, shards, cache):
    server.faults[shards[0].name] = ["stall"]
    store = RemoteStore(server.url, cache, Patience(tries=5, first_wait_s=0.01, stall_s=0.4))
    assert is_whole(read_all(store, shards[0]), shards[0])
    assert server.gets[shards[0].name] >= 2
    assert not server.released.is_set()


@pytest.mark.parametrize(
    ("faults", "gets", "message"),
    [
        ([503] * 9, 5, "503.*tried 5 times; run it again when the store is back"),
        (["truncate"] * 9, 5, "tried 5 times"),
        (["too little"] * 9, 5, r"bytes came\); tried 5 times"),
        (["wrong bytes"] * 9, 2, "its sha256 is [0-9a-f]{64}, the manifest says SHA256; upload"),
        (["wrong bytes", 503, 503, "wrong bytes"], 4, "its sha256 is [0-9a-f]{64}, the manifest says"),
        (["too much"] * 9, 2, "has more than the [0-9]+ bytes that the manifest says; upload"),
        ([404], 1, "cannot be read .*; check the address and your rights to read it"),
        ([403], 1, "cannot be read .*403.*; check the address and your rights to read it"),
    ],
)
def test_a_store_that_stays_bad_is_told_in_one_line(server, store, shards, cache, faults, gets, message):
    server.faults[shards[0].name] = list(faults)
    with pytest.raises(OneProcessInputError, match=message.replace("SHA256", shards[0].sha256)) as caught:
        store.open(shards[0])
    assert str(caught.value).startswith(f"{server.url}/{shards[0].name}: ")
    assert "\n" not in str(caught.value)
    assert server.gets[shards[0].name] == gets
    # Nothing is left, and once the store is well again it is read.
    assert files_in(cache, "") == []
    server.faults.clear()
    assert is_whole(read_all(store, shards[0]), shards[0])


def test_a_store_that_is_gone_is_told_after_all_tries(store, server):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        gone = RemoteStore(f"http://127.0.0.1:{nobody.getsockname()[1]}/x", store.cache, QUICK)
        with pytest.raises(OneProcessInputError, match=r"/x/manifest\.json: cannot be read .* tried 5 times"):
            _ = gone.manifest


def test_a_host_that_does_not_exist_is_told_at_once(cache, monkeypatch):
    def unknown(*arguments, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(OneProcessInputError, match=r"nowhere\.invalid.*check the address"):
        _ = RemoteStore("http://nowhere.invalid/x", cache, UNHURRIED).manifest


@pytest.mark.parametrize("status", [404, 403, 401, 410])
def test_what_is_not_there_or_not_allowed_is_told_at_once(server, cache, status):
    server.faults["manifest.json"] = [status] * 9
    with pytest.raises(OneProcessInputError, match=r"manifest\.json: cannot be read .*; check the address"):
        _ = RemoteStore(server.url, cache, UNHURRIED).manifest
    assert server.gets["manifest.json"] == 1


def test_a_page_instead_of_a_manifest_is_told(server, store, tmp_path):
    server.folder = tmp_path
    (tmp_path / "manifest.json").write_text("<html>Please log in</html>")
    with pytest.raises(InputError, match=r"^http://.*/manifest\.json: not a manifest"):
        _ = store.manifest


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_shard_comes_out_of_a_worker_as_one_line(server, store, shards, workers):
    server.faults[shards[3].name] = [404] * 99
    with pytest.raises(InputError, match=shards[3].name) as caught:
        list(train(store, workers=workers))
    assert "\n" not in str(caught.value)


# One download a machine


def read_shards(store, shards, barrier, results):
    barrier.wait()
    results.put([is_whole(read_all(store, shard), shard) for shard in shards])


@pytest.mark.multiprocess
def test_processes_that_want_the_same_shards_fetch_each_once(store, server, shards):
    # After use of the store in the parent, as a forked DataLoader worker finds it.
    _ = store.manifest
    fork = multiprocessing.get_context("fork")
    barrier, results = fork.Barrier(3), fork.Queue()
    processes = [fork.Process(target=read_shards, args=(store, shards, barrier, results)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [[True] * NUM_SHARDS] * 3
    for process in processes:
        process.join()
    assert server.gets == {"manifest.json": 1} | {shard.name: 1 for shard in shards}


def test_threads_of_one_process_fetch_each_once(store, server, shards):
    store.will_need(shards)
    contents = [read_all(store, shard) for shard in shards]
    assert all(is_whole(content, shard) for content, shard in zip(contents, shards, strict=True))
    assert server.gets == {shard.name: 1 for shard in shards}


@pytest.mark.multiprocess
def test_a_killed_download_leaves_nothing_that_is_taken_for_whole(store, server, shards, cache):
    server.faults[shards[0].name] = ["stall"]
    patient = RemoteStore(server.url, cache, UNHURRIED)
    process = multiprocessing.get_context("fork").Process(target=patient.open, args=(shards[0],))
    process.start()
    # Its room is taken before the first byte has come.
    wait_until(lambda: any(path.read_bytes().strip(b"\0") for path in files_in(cache, ".unfinished")))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (left,) = files_in(cache, "")
    assert left.suffix == ".unfinished"
    # Whoever needs room finds it abandoned; whoever needs that very shard fetches it.
    read_all(store, shards[1])
    assert files_in(cache, ".unfinished") == []
    assert is_whole(read_all(store, shards[0]), shards[0])
    assert len(files_in(cache, "")) == 2


# A bounded cache


@contextlib.contextmanager
def watched_size(cache: ShardCache):
    """The largest size that the cache has while the block runs, looked at all the time."""
    largest, done = [0], threading.Event()

    def watch():
        cache.folder.mkdir(parents=True, exist_ok=True)
        with (cache.folder / "lock").open("wb") as lock:
            while not done.is_set():
                # Else files might come and go between the looks at two of them.
                fcntl.flock(lock, fcntl.LOCK_EX)
                size = 0
                for path in files_in(cache, ""):
                    with contextlib.suppress(FileNotFoundError):
                        size += path.stat().st_size
                fcntl.flock(lock, fcntl.LOCK_UN)
                largest[0] = max(largest[0], size)
                time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield largest
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("window_shards", [1, 4])
def test_the_cache_stays_within_its_bound_and_what_left_it_is_fetched_again(
    folder, server, shards, tmp_path, window_shards
):
    bound = 2 * max(shard.num_bytes for shard in shards)
    cache = ShardCache(tmp_path / "small", bound)
    store = RemoteStore(server.url, cache, QUICK)
    with watched_size(cache) as largest:
        far = [batch.keys for batch in train(store, window_shards=window_shards)]
    assert far == [batch.keys for batch in train(LocalStore(folder), window_shards=window_shards)]
    assert 0 < largest[0] <= bound
    # One may still be on its way when the last batch is there.
    wait_until(lambda: len(files_in(cache, ".tar")) == 2)
    # Open files keep what was removed readable: no shard comes again for each of its samples.
    most = max(server.gets[shard.name] for shard in shards)
    assert most < 2 * 5
    if window_shards == 1:
        assert most >= 2


def read_at_random(store, shards, seed):
    random = np.random.default_rng(seed)
    for turn in range(40):
        if turn % 5 == 0:
            store.will_need([shards[number] for number in random.permutation(NUM_SHARDS)[:4]])
        shard = shards[random.integers(NUM_SHARDS)]
        assert is_whole(read_all(store, shard), shard)


@pytest.mark.multiprocess
def test_processes_that_push_out_each_others_shards_stay_within_the_bound(server, shards, tmp_path):
    cache = ShardCache(tmp_path / "small", 3 * max(shard.num_bytes for shard in shards))
    store = RemoteStore(server.url, cache, QUICK)
    fork = multiprocessing.get_context("fork")
    with watched_size(cache) as largest:
        processes = [fork.Process(target=read_at_random, args=(store, shards, seed)) for seed in range(4)]
        for process in processes:
            process.start()
        time.sleep(0.3)
        os.kill(processes[0].pid, signal.SIGKILL)
        for process in processes:
            process.join(300)
    assert [process.exitcode for process in processes[1:]] == [0, 0, 0]
    assert 0 < largest[0] <= cache.max_bytes


def test_the_least_recently_used_goes_first(server, shards, tmp_path):
    cache = ShardCache(tmp_path / "small", 3 * max(shard.num_bytes for shard in shards))
    store = RemoteStore(server.url, cache, QUICK)
    for number in (0, 1, 2, 0, 3):
        read_all(store, shards[number])
        time.sleep(0.01)
    there = {path.stem for path in files_in(cache, ".tar")}
    assert there == {shards[number].sha256 for number in (0, 2, 3)}
    for number in (0, 1):
        assert is_whole(read_all(store, shards[number]), shards[number])
    assert server.gets == {shards[0].name: 1, shards[1].name: 2, shards[2].name: 1, shards[3].name: 1}


def test_a_cache_smaller_than_a_shard_is_refused(server, tmp_path):
    with pytest.raises(InputError, match=r"largest shard has .* GiB, more than --loader\.cache-gib 1e-06"):
        open_store(server.url, cache_dir=tmp_path, cache_gib=1e-6)


def test_a_damaged_file_in_the_cache_is_fetched_again(store, server, shards, cache):
    read_all(store, shards[0])
    (path,) = files_in(cache, ".tar")
    path.write_bytes(path.read_bytes()[:1000])
    assert is_whole(read_all(store, shards[0]), shards[0])
    assert server.gets[shards[0].name] == 2


def test_a_cache_that_cannot_be_written_is_told(server, shards, tmp_path):
    (tmp_path / "file").write_text("")
    store = RemoteStore(server.url, ShardCache(tmp_path / "file", 2**30), QUICK)
    with pytest.raises(OneProcessInputError, match=r"file: the cache cannot be used .*--loader\.cache-dir"):
        store.open(shards[0])


def test_a_disk_that_knows_no_locks_is_told(store, shards, monkeypatch):
    def refused(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(
        OneProcessInputError, match=r"cannot be used \(No locks available\).*--loader\.cache-dir"
    ):
        store.open(shards[0])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_and_not_tried_again(server, store, shards):
    with (
        Path("/dev/full").open("r+b", buffering=0) as full,
        pytest.raises(OneProcessInputError, match=r"No space left on device.*--loader\.cache-gib"),
    ):
        store.remote.download(shards[0], full)
    assert server.gets[shards[0].name] == 1


# Prefetching


def test_what_will_be_needed_is_there_when_it_is_opened(store, server, shards, cache):
    store.will_need(shards)
    wait_until(lambda: len(files_in(cache, ".tar")) == NUM_SHARDS)
    read_all(store, shards[5])
    assert server.gets == {shard.name: 1 for shard in shards}


def test_prefetching_stops_where_it_would_push_out_what_is_needed_sooner(server, shards, tmp_path):
    cache = ShardCache(tmp_path / "small", 2 * max(shard.num_bytes for shard in shards))
    store = RemoteStore(server.url, cache, QUICK)
    read_all(store, shards[5])
    store.will_need(shards[:4])
    soonest = {shard.sha256 for shard in shards[:2]}
    wait_until(lambda: {path.stem for path in files_in(cache, "")} == soonest)
    time.sleep(0.2)
    assert {path.stem for path in files_in(cache, "")} == soonest
    assert server.gets[shards[2].name] == server.gets[shards[3].name] == 0


def test_a_prefetch_that_fails_fails_nobody(store, server, shards, cache):
    server.faults[shards[0].name] = [404]
    store.will_need(shards[:2])
    wait_until(lambda: server.gets[shards[0].name] == 1)
    assert is_whole(read_all(store, shards[0]), shards[0])
    # Nor is the thread gone.
    store.will_need(shards[2:3])
    wait_until(lambda: server.gets[shards[2].name] == 1)


def test_a_shard_that_left_the_cache_is_closed_once_it_is_not_needed(store, shards, cache):
    reader = ShardReader(store, shards, max_open_files=9)
    first = reader.read(0, 0).key
    for path in files_in(cache, ".tar"):
        path.unlink()
    assert reader.read(0, 0).key == first
    handles = len(list(Path("/proc/self/fd").iterdir()))
    reader.will_need([0])
    assert reader.read(0, 0).key == first
    reader.will_need([])
    wait_until(lambda: len(list(Path("/proc/self/fd").iterdir())) < handles)
    assert reader.read(0, 0).key == first


# S3


@pytest.fixture(scope="module")
def s3_endpoint():
    moto_server = pytest.importorskip("moto.server")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(s3_endpoint, folder, monkeypatch) -> str:
    import s3fs

    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    there = s3fs.S3FileSystem(skip_instance_cache=True)
    if not there.exists("faces"):
        there.mkdir("faces")
        there.put(str(folder), "faces/300w", recursive=True)
    return "s3://faces/300w"


def test_s3_gives_the_batches_of_the_folder(s3, folder, cache):
    store = RemoteStore(s3, cache, QUICK)
    for near, far in zip(train(LocalStore(folder)), train(store, workers=1), strict=True):
        assert near.keys == far.keys
        assert torch.equal(near.crops_shard, far.crops_shard)


def test_s3_says_what_is_missing_or_gone(s3, cache, tmp_path, monkeypatch):
    with pytest.raises(
        OneProcessInputError, match=r"^s3://faces/nothing/manifest\.json: .*check the address"
    ):
        _ = RemoteStore("s3://faces/nothing", cache, UNHURRIED).manifest
    with pytest.raises(OneProcessInputError, match=r"^s3://nobody/x/manifest\.json: .*check the address"):
        _ = RemoteStore("s3://nobody/x", cache, UNHURRIED).manifest
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        fsspec.filesystem("s3").clear_instance_cache()
        impatient = Patience(tries=2, first_wait_s=0.01, stall_s=1.0)
        with pytest.raises(OneProcessInputError, match=r"^s3://faces/300w/manifest\.json: .*tried 2 times"):
            _ = RemoteStore(s3, cache, impatient).manifest
    fsspec.filesystem("s3").clear_instance_cache()


# Hugging Face


class HubHandler(Handler):
    """As much of the hub as reading files takes: a revision, a folder, a file."""

    def do_GET(self):
        if self.path.startswith("/api/"):
            tree = [
                {"type": "file", "path": f"300w/{path.name}", "size": path.stat().st_size, "oid": "0" * 40}
                for path in self.server.folder.iterdir()
            ]
            body = json.dumps(tree if "/tree/v1/300w?" in self.path else {"id": "me/faces"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        else:
            super().do_GET()


def test_a_data_set_of_the_hub_is_read_at_a_revision(server, folder, shards, cache, monkeypatch):
    server.RequestHandlerClass = HubHandler
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": endpoint})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    store = RemoteStore("hf://datasets/me/faces@v1/300w", cache, QUICK)
    assert store.manifest == Manifest.read(folder)
    assert is_whole(read_all(store, shards[0]), shards[0])
    assert server.gets == {"manifest.json": 1, shards[0].name: 1}
    server.faults[shards[1].name] = ["wrong bytes"]
    assert is_whole(read_all(store, shards[1]), shards[1])
    missing = ShardEntry(name="missing.tar", num_samples=1, num_bytes=9, sha256="0" * 64)
    with pytest.raises(OneProcessInputError, match=r"^hf://.*/300w/missing\.tar: .*check the address"):
        store.open(missing)


# What a place may be called


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("pipe:cat x", "is no place to read shards from"),
        ("file:///data", "is no place to read shards from; give a folder"),
        ("ftp://host/data", "is no place to read shards from"),
        ("https:/host/data", "is no place to read shards from"),
        ("hf://user/repository", "hf://datasets/"),
        ("simplecache::https://host/data", "is no place to read shards from"),
        ("https://user:secret@host/data", r"https://…@host: a name or password in a URL would stand in"),
        ("https://host/data?token=1", r"leave out what follows \? or #"),
    ],
)
def test_other_places_are_refused(data, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        open_store(data, cache_dir=tmp_path)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_url_is_told_from_a_folder():
    for url in ("https://a/b", "s3://a/b", "gs://a", "hf://datasets/a/b@main/c", "pipe:cat x"):
        assert is_url(url)
    for folder in ("data/300w", "/data", ".", "./a:b", "a/b:c", "C:\\data"):
        assert not is_url(folder)


def test_the_cache_lies_where_the_user_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "flm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache" / "flm"
