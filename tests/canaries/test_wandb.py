"""What W&B's own commands send of a run, told by a server that stands in for theirs."""

import contextlib
import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from test_runlog import MANIFEST, read_back, starts_of
from test_wandb_run import started

from flm.runlog.wandb_run import LoggedLine

pytestmark = pytest.mark.multiprocess

HISTORY = "wandb-history.jsonl"


class Server:
    """Takes runs as W&B's server does, as far as their numbers and the graph of artifacts go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """Where commands are run."""
        self.asked: list[tuple[str, dict[str, Any]]] = []
        """Operations with their variables."""
        self.streams: list[dict[str, Any]] = []
        self.files: dict[tuple[str, str], dict[int, str]] = {}
        """Lines by run and file, then by number."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle()

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Content-Encoding") == "gzip":
                    content = gzip.decompress(content)
                answer = json.dumps(server.answer(self.path, content)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_PUT = do_GET = do_POST  # noqa: N815

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("WANDB")},
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": "a" * 40,
            "WANDB_ENTITY": "e",
            "PYTHONPATH": str(REPOSITORY),
        }

    def history(self, run: str) -> list[dict[str, Any]]:
        lines = self.files.get((run, HISTORY), {})
        assert sorted(lines) == list(range(len(lines)))
        return [json.loads(lines[number]) for number in sorted(lines)]

    def answer(self, path: str, content: bytes) -> dict[str, Any]:
        if path.endswith("/graphql"):
            request = json.loads(content)
            self.asked.append((request["operationName"], request.get("variables") or {}))
            return {"data": self.answer_query(*self.asked[-1])}
        if path.endswith("/file_stream"):
            stream, run = json.loads(content), path.split("/")[-2]
            self.streams.append(stream)
            for name, chunk in (stream.get("files") or {}).items():
                for number, line in enumerate(chunk["content"], chunk["offset"]):
                    self.files.setdefault((run, name), {})[number] = line
        return {}

    def answer_query(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": "faces", "entity": {"id": "e", "name": "e"}}
        match name:
            case "Viewer":
                user = {"id": "x", "entity": "e", "username": "u", "flags": "{}", "teams": {"edges": []}}
                return {"viewer": user}
            case "UpsertBucket":
                run = variables["name"]
                bucket = {"id": "b", "name": run, "displayName": run, "project": project, "config": "{}"}
                return {"upsertBucket": {"bucket": bucket, "inserted": True}}
            case "RunResumeStatus":
                history = self.history(variables["name"])
                bucket = {
                    **{"id": "b", "name": variables["name"], "displayName": "a", "config": "{}", "tags": []},
                    **{"logLineCount": 0, "historyLineCount": len(history), "eventsLineCount": 0},
                    "historyTail": json.dumps([json.dumps(line) for line in history[-1:]]),
                    **{"eventsTail": "[]", "summaryMetrics": "{}", "wandbConfig": '{"t": 1}'},
                }
                return {"model": {**project, "bucket": bucket if history else None}}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.url}/up"} for name in variables["files"]]
                return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
            case "CreateArtifact":
                made = {"id": variables["input"]["artifactCollectionName"], "state": "COMMITTED"}
                sequence = {"id": "s", "latestArtifact": None}
                return {"createArtifact": {"artifact": {**made, "artifactSequence": sequence}}}
        return {}

    def run(self, *words: str) -> None:
        """A command that speaks with this server."""
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def server(tmp_path_factory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    made.http.shutdown()
    made.http.server_close()


def lines_until(last: int) -> list[LoggedLine]:
    return [
        LoggedLine(step=step, time_s=1.7e9 + step, values={"train/loss": 1 / step})
        for step in range(20, last + 1, 20)
    ]


def test_sync_sends_a_run_that_crashed_and_went_on_as_one_curve(server, tmp_path):
    best = tmp_path / "best"
    best.mkdir()
    (best / "config.json").write_text("{}")
    (best / "model.safetensors").write_bytes(b"weights")
    (best / "state.json").write_text('{"step": 40}')
    with started(tmp_path) as made:
        for line in lines_until(80):
            made.log(line.values, line.step, time_s=line.time_s)
    read_back(starts_of(tmp_path)[0])
    server.run("-m", "wandb", "sync", str(tmp_path / "wandb"))
    assert [line["_step"] for line in server.history(made.id)] == [20, 40, 60, 80]
    # It had a checkpoint at step 40.
    with started(tmp_path, lines=lines_until(40)) as made:
        made.use_data("/data/faces", MANIFEST)
        for line in lines_until(120)[2:]:
            made.log({"train/loss": -line.step}, line.step, time_s=line.time_s)
        made.log_checkpoints()
        made.run.mark_preempting()
    read_back(starts_of(tmp_path)[0])
    server.asked.clear()
    server.run("-m", "wandb", "sync", str(tmp_path / "wandb"))
    history = server.history(made.id)
    assert [line["_step"] for line in history] == [20, 40, 60, 80, 100, 120]
    assert [line["train/loss"] for line in history] == [1 / 20, 1 / 40, -60, -80, -100, -120]
    assert [line["_timestamp"] - 1.7e9 for line in history] == [20, 40, 60, 80, 100, 120]
    assert any(stream.get("preempting") for stream in server.streams)
    # The data go in and the checkpoint comes out.
    created = [variables["input"] for name, variables in server.asked if name == "CreateArtifact"]
    assert sorted(artifact["artifactTypeName"] for artifact in created) == ["dataset", "model"]
    used = [variables["input"] for name, variables in server.asked if name == "UseArtifact"]
    assert [use["artifactID"] for use in used] == ["faces"]


ONLINE = """
import sys
from pathlib import Path
from flm.runlog.wandb_run import LoggedLine, WandbRun

run, kept, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
lines = [LoggedLine(step=step, time_s=1.7e9 + step, values={"train/loss": 1 / step})
         for step in range(20, last + 1, 20)]
earlier = [line for line in lines if line.step <= kept]
run.mkdir(exist_ok=True)
made = WandbRun(run, project="faces", name="a", lines=earlier, goes_on=kept > 0, facts={"steps": last},
                many_machines=False, say=print)
assert not made.offline
for line in lines[len(earlier):]:
    made.log(line.values, line.step, time_s=line.time_s)
made.finish(exit_code=0)
"""


def test_online_a_run_goes_on_where_the_server_has_it(server, tmp_path):
    (tmp_path / "script.py").write_text(ONLINE)
    run = tmp_path / "run"
    server.run(str(tmp_path / "script.py"), str(run), "0", "80")
    # Begun again from the checkpoint of step 40, and steps up to 80 are made a second time.
    server.run(str(tmp_path / "script.py"), str(run), "40", "120")
    (identity,) = {run for run, name in server.files if name == HISTORY}
    history = server.history(identity)
    assert [line["_step"] for line in history] == [20, 40, 60, 80, 100, 120]
    assert [line["train/loss"] for line in history] == [
        line.values["train/loss"] for line in lines_until(120)
    ]
    # Then offline, and online once more: what is missing is sent.
    with started(run, lines=lines_until(120)) as made:
        assert (made.id, made.offline) == (identity, True)
        made.log({"train/loss": 1 / 140}, 140, time_s=1.7e9 + 140)
    server.run(str(tmp_path / "script.py"), str(run), "140", "160")
    history = server.history(identity)
    assert [line["_step"] for line in history] == [20, 40, 60, 80, 100, 120, 140, 160]
    assert [line["train/loss"] for line in history] == [
        line.values["train/loss"] for line in lines_until(160)
    ]
    assert [folder.name[:4] for folder in starts_of(run)] == ["run-"] * 3
