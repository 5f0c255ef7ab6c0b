"""The Hugging Face Hub on loopback: what huggingface_hub asks of it, kept in memory. It can fail half-way.

The protocol is that of git over HTTP as huggingface_hub 2.4 speaks it without Xet: small files go with the
commit, large ones by themselves before it.
"""

import base64
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKENS = {"hf_of_ann_0123456789": "ann", "hf_of_bob_0123456789": "bob"}
LARGE_BYTES = 100_000
"""The Hub goes by the file's name too; size alone will do here."""

INSUFFICIENT_STORAGE = 507
"""One that the client does not try again by itself."""


@dataclass
class Commit:
    oid: str
    files: dict[str, bytes]


@dataclass
class Repo:
    kind: str
    private: bool
    sdk: str | None
    commits: list[Commit] = field(default_factory=lambda: [Commit("0" * 40, {})])

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1].files

    def at(self, revision: str) -> Commit | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.oid == revision), None)


@dataclass
class Hub:
    """What is there, and what was asked."""

    url: str = ""
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    """By kind (models or spaces) and USER/NAME."""
    large: dict[str, bytes] = field(default_factory=dict)
    """By sha256; also of uploads that no commit followed."""
    received: list[str] = field(default_factory=list)
    """Paths of small files and hashes of large ones, whenever their content came."""
    asked: list[str] = field(default_factory=list)
    fails_at: str | None = None
    """Requests whose method and path hold this are refused."""
    fails_with: int = INSUFFICIENT_STORAGE


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        if self.hub.fails_at is not None and self.hub.fails_at in f"{self.command} {path}":
            self.send_json({"error": "the disk is full"}, self.hub.fails_with)
            return
        for pattern, method in ROUTES:
            if found := re.fullmatch(pattern, path):
                getattr(self, method)(**found.groupdict())
                return
        self.send_json({"error": f"no such endpoint: {path}"}, 404)

    @property
    def user(self) -> str | None:
        return TOKENS.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def send_json(self, content: object, status: int = 200, **headers: str) -> None:
        self.send_bytes(
            json.dumps(content).encode(), status, **{"Content-Type": "application/json", **headers}
        )

    def send_bytes(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def missing(self, code: str) -> None:
        self.send_json({"error": code}, 404, X_Error_Code=code)

    def readable(self, kind: str, name: str) -> Repo | None:
        """The repository, or an answer that there is none."""
        repo = self.hub.repos.get((kind or "models", name))
        if repo is None or (repo.private and self.user != name.split("/")[0]):
            self.missing("RepoNotFound")
            return None
        return repo

    def writable(self, kind: str, name: str) -> Repo | None:
        repo = self.readable(kind, name)
        if repo is not None and self.user != name.split("/")[0]:
            self.send_json({"error": "you may not write here"}, 403 if self.user else 401)
            return None
        return repo

    def whoami(self) -> None:
        if self.user is None:
            self.send_json({"error": "Invalid credentials"}, 401)
        else:
            self.send_json({"type": "user", "name": self.user, "orgs": [{"name": "institute"}]})

    def create(self) -> None:
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization') or self.user}/{wanted['name']}"
        kind = f"{wanted.get('type') or 'model'}s"
        if self.user is None:
            self.send_json({"error": "Invalid credentials"}, 401)
        elif name.split("/")[0] != self.user:
            self.send_json({"error": "You don't have the rights to create a model under this namespace"}, 403)
        else:
            is_there = (kind, name) in self.hub.repos
            private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
            self.hub.repos.setdefault((kind, name), Repo(kind, private, wanted.get("sdk")))
            prefix = "" if kind == "models" else f"{kind}/"
            self.send_json({"url": f"{self.hub.url}/{prefix}{name}"}, 409 if is_there else 200)

    def validate_yaml(self) -> None:
        content = json.loads(self.body)["content"]
        errors = [] if content.startswith("---\n") else [{"message": "no front matter"}]
        self.send_json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def info(self, kind: str, name: str, revision: str | None = None) -> None:
        repo = self.readable(kind, name)
        if repo is not None:
            commit = repo.at(revision or "main")
            if commit is None:
                self.missing("RevisionNotFound")
                return
            siblings = [{"rfilename": path} for path in commit.files]
            about = {"id": name, "sha": commit.oid, "private": repo.private, "siblings": siblings}
            self.send_json(about | {"tags": [], "downloads": 0, "likes": 0})

    def tree(self, kind: str, name: str, revision: str) -> None:
        repo = self.readable(kind, name)
        if repo is not None:
            commit = repo.at(revision)
            entries = []
            for path, content in commit.files.items() if commit else ():
                entry = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
                if len(content) > LARGE_BYTES:
                    oid = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
                entries.append(entry)
            self.send_json(entries)

    def preupload(self, kind: str, name: str) -> None:
        repo = self.writable(kind, name)
        if repo is not None:
            files = []
            for file in json.loads(self.body)["files"]:
                is_large = file["size"] > LARGE_BYTES
                there = repo.files.get(file["path"])
                oid = None
                if there is not None:
                    oid = hashlib.sha256(there).hexdigest() if len(there) > LARGE_BYTES else git_hash(there)
                mode = "lfs" if is_large else "regular"
                files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self.send_json({"files": files})

    def batch(self, kind: str, name: str) -> None:
        if self.writable(kind, name) is None:
            return
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/large/{wanted['oid']}"}}
            missing = wanted["oid"] not in self.hub.large
            objects.append({**wanted, **({"actions": upload} if missing else {})})
        self.send_json({"transfer": "basic", "objects": objects})

    def put_large(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self.send_json({"error": "another content"}, 400)
            return
        self.hub.large[oid] = self.body
        self.hub.received.append(oid)
        self.send_json({})

    def commit(self, kind: str, name: str) -> None:
        repo = self.writable(kind, name)
        if repo is None:
            return
        files = dict(repo.files)
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
                self.hub.received.append(value["path"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        oid = hashlib.sha1(self.body + repo.commits[-1].oid.encode()).hexdigest()
        repo.commits.append(Commit(oid, files))
        self.send_json({"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        repo = self.readable(kind, name)
        if repo is None:
            return
        commit = repo.at(revision)
        if commit is None:
            self.missing("RevisionNotFound")
        elif path not in commit.files:
            self.missing("EntryNotFound")
        else:
            content = commit.files[path]
            etag = hashlib.sha256(content).hexdigest() if len(content) > LARGE_BYTES else git_hash(content)
            self.send_bytes(content, ETag=f'"{etag}"', X_Repo_Commit=commit.oid)


KIND, NAME = "(?P<kind>models|spaces)", "(?P<name>[^/]+/[^/]+)"
ROUTES = (
    ("/api/whoami-v2", "whoami"),
    ("/api/repos/create", "create"),
    ("/api/validate-yaml", "validate_yaml"),
    (f"/api/{KIND}/{NAME}", "info"),
    (f"/api/{KIND}/{NAME}/revision/(?P<revision>.+)", "info"),
    (f"/api/{KIND}/{NAME}/tree/(?P<revision>[^/]+)", "tree"),
    (f"/api/{KIND}/{NAME}/preupload/main", "preupload"),
    (f"/api/{KIND}/{NAME}/commit/main", "commit"),
    (r"/(?:(?P<kind>spaces)/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
    (r"/large/(?P<oid>[0-9a-f]{64})", "put_large"),
    (r"/(?:(?P<kind>spaces)/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A Hub that answers until the end of the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def client_of(hub: Hub, home: Path, token: str | None) -> Iterator[None]:
    """huggingface_hub asks this Hub, with this token, and keeps its files here.

    As with HF_ENDPOINT, HF_HOME and HF_TOKEN, which it reads when it is imported.
    """
    import pytest
    from huggingface_hub import close_session, constants

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        }.items():
            patch.setattr(constants, name, value)
        patch.delenv("HF_TOKEN", raising=False)
        if token is not None:
            patch.setenv("HF_TOKEN", token)
        close_session()
        try:
            yield
        finally:
            close_session()
