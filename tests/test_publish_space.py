"""The Space that is sent: complete, pinned, wired to its model, running with nothing of ours elsewhere."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from conftest import REPOSITORY
from demo_server import wait_for_page
from hub_server import TOKENS, Hub, Repo, client_of, running_hub
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from publishing import call
from test_onnx_network import ABOUT, model_bytes

from flm.bench.measure import free_port
from flm.errors import InputError
from flm.inference.detector import YUNET_FILE, YUNET_REPOSITORY
from flm.publish.card_sources import NO_SOURCES
from flm.publish.space import STALE, write_space

# The Hub's client sends large files in a way that its HTTP library is leaving behind.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ANN = next(iter(TOKENS))
NAME = "ann/faces-demo"
DEMO = REPOSITORY / "demo"
NO_NETWORK = ("connection broken by", "Name or service not known", "Temporary failure in name resolution")
"""What pip says where it reaches no index."""


def front_matter(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])


def requirements(path: Path) -> dict[str, Requirement]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(one.name): one for one in map(Requirement, lines)}


@pytest.fixture
def onnx(tmp_path) -> Path:
    """A network in a file of some 100 kB, so that it is sent as a large file."""
    path = tmp_path / "tiny.onnx"
    path.write_bytes(model_bytes(ABOUT.to_texts() | {"padding": "x" * 200_000}))
    return path


@pytest.fixture
def hub(tmp_path) -> Iterator[Hub]:
    with running_hub() as hub, client_of(hub, tmp_path / "home", ANN):
        yield hub


def test_the_front_matter_is_complete():
    told = front_matter(DEMO)
    assert {
        *("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file"),
        *("short_description", "models", "tags", "license", "preload_from_hub"),
    } <= told.keys()
    assert (told["sdk"], told["app_file"]) == ("gradio", "app.py")
    assert len(told["short_description"]) <= 60  # more is refused
    colors = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {told["colorFrom"], told["colorTo"]} <= colors
    # YuNet's file is in the Space when it is built.
    assert f"{YUNET_REPOSITORY} {YUNET_FILE}" in told["preload_from_hub"]
    assert YUNET_REPOSITORY in told["models"]


def test_versions_are_those_that_the_tests_run_with():
    pins = requirements(DEMO / "requirements.txt")
    for name, pin in pins.items():
        (only,) = pin.specifier
        assert only.operator == "==", pin
        assert importlib.metadata.version(name) == only.version, pin
    told = front_matter(DEMO)
    assert f"=={told['sdk_version']}" == str(pins["gradio"].specifier)
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    assert told["python_version"] in project["requires-python"]
    wanted = [
        Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["demo"]
    ]
    assert pins.keys() == {canonicalize_name(one.name) for one in wanted}
    for one in wanted:
        pin = pins[canonicalize_name(one.name)]
        assert one.extras == pin.extras
        (version,) = [spec.version for spec in pin.specifier]
        assert version in one.specifier, pin


def test_everything_of_ours_is_in_it(onnx, tmp_path):
    folder = tmp_path / "space"
    write_space(folder, str(onnx), NO_SOURCES)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {
        "app.py",
        "README.md",
        "requirements.txt",
        "LICENSE",
        "model/model.onnx",
        "flm/__init__.py",
    } <= names
    assert "flm/inference/load.py" in names
    assert not {"__init__.py", "flm/README.md"} & names
    assert not [
        name for name in names if "__pycache__" in name or name.startswith(("shards", "tests", "flm/shipped"))
    ]
    sources = {path.relative_to(DEMO).as_posix() for path in DEMO.rglob("*.py")} - {"__init__.py"}
    assert sources <= names
    assert (folder / "model" / "model.onnx").read_bytes() == onnx.read_bytes()
    assert front_matter(folder)["license"] == "mit"


def test_a_folder_that_was_passed_on_goes_whole(onnx, tmp_path):
    model = tmp_path / "passed on"
    model.mkdir()
    onnx.rename(model / "model.onnx")
    for name in ("README.md", "LICENSE", "ced.png"):
        (model / name).write_text(name)
    write_space(tmp_path / "space", str(model), NO_SOURCES)
    assert {path.name for path in (tmp_path / "space" / "model").iterdir()} == {
        *("model.onnx", "README.md", "LICENSE", "ced.png")
    }
    told = front_matter(tmp_path / "space")
    assert (told["license"], told["license_link"]) == ("other", "model/LICENSE")


def test_a_model_of_the_hub_stays_there(hub, tmp_path):
    hub.repos["models", "bob/faces"] = repo = Repo("models", private=False, sdk=None)
    repo.commits[-1].files["model.onnx"] = b"onnx"
    write_space(tmp_path / "space", "hf://bob/faces", NO_SOURCES)
    commit = repo.commits[-1].oid
    pointer = json.loads((tmp_path / "space" / "model" / "checkpoint.json").read_text())
    assert pointer == {"checkpoint": f"hf://bob/faces@{commit}"}
    told = front_matter(tmp_path / "space")
    assert told["models"] == ["bob/faces", YUNET_REPOSITORY]
    assert told["preload_from_hub"][0] == f"bob/faces model.onnx {commit}"
    del repo.commits[-1].files["model.onnx"]
    with pytest.raises(InputError, match=r"hf://bob/faces: has no model.onnx; publish it with"):
        write_space(tmp_path / "other", "hf://bob/faces", NO_SOURCES)


def test_a_space_is_made_gone_on_with_and_brought_up_to_date(hub, onnx):
    command = ("space", str(onnx), NAME)
    dry = call(hub, *command, "--dry-run")
    assert (dry.code, dry.received) == (0, [])
    assert re.search(r"^ +[\d,]+  app\.py$", dry.out, re.MULTILINE)

    hub.fails_at = "/commit/main"
    broken = call(hub, *command)
    assert broken.code == 2
    assert broken.err.splitlines()[-1].endswith("the same command goes on from there")
    assert len(broken.received) >= 1  # the model

    hub.fails_at = None
    whole = call(hub, *command)
    assert whole.code == 0, whole.err
    assert not set(whole.received) & set(broken.received)
    repo = hub.repos["spaces", NAME]
    assert (repo.sdk, repo.private) == ("gradio", False)
    listed = {line.split()[1] for line in dry.out.splitlines()[:-1]}
    assert repo.files.keys() == listed

    assert call(hub, *command).received == []
    repo.files["flm/of_an_older_version.py"] = b""
    repo.files["notes.md"] = b"of the owner"
    repo.files["app.py"] = b"older"
    assert call(hub, *command).received == ["app.py"]
    assert repo.files.keys() == listed | {"notes.md"}
    for tried in (dry, broken, whole):
        assert ANN not in tried.out + tried.err
    assert not any(ANN.encode() in content for content in repo.files.values())


def test_stale_patterns_cover_what_is_sent(onnx, tmp_path):
    folder = tmp_path / "space"
    write_space(folder, str(onnx), NO_SOURCES)
    paths = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    kept = paths - set(huggingface_hub.utils.filter_repo_objects(paths, allow_patterns=list(STALE)))
    assert kept <= {"README.md", "LICENSE", "requirements.txt", "packages.txt"}


@pytest.mark.parametrize(
    ("checkpoint", "told"),
    [
        ("runs/none", "runs/none: no checkpoint here"),
        ("none.onnx", "none.onnx: there is no such file"),
        ("hf://ann", "hf://ann: expected hf://USER/NAME"),
        ("hf://bob/none", "bob/none: there is no such model, or the token may not see it"),
    ],
)
def test_a_model_that_is_not_there(hub, checkpoint, told):
    tried = call(hub, "space", checkpoint, NAME, "--dry-run")
    assert tried.code == 2
    (line,) = tried.err.splitlines()
    assert line.startswith(f"error: {told}")


def test_without_a_checkout_there_is_no_demo(onnx, tmp_path, monkeypatch):
    monkeypatch.setattr("flm.publish.space.DEMO", tmp_path / "demo")
    with pytest.raises(InputError, match="run the command in a checkout"):
        write_space(tmp_path / "space", str(onnx), NO_SOURCES)


def answers(space: Path, python: list[str], tmp_path: Path) -> str:
    """Start the Space's app, and give what it printed once its page was there."""
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "GRADIO_SERVER_PORT": str(port),
        "HF_HUB_OFFLINE": "1",
    }
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(python, cwd=space, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_for_page(process, f"http://127.0.0.1:{port}/", log)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=60) as answer:
            assert json.load(answer)["version"] == front_matter(space)["sdk_version"]
        return log.read_text()
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_it_runs_without_the_checkout(onnx, tmp_path):
    space = tmp_path / "space"
    write_space(space, str(onnx), NO_SOURCES)
    program = REPOSITORY / "tests" / "programs" / "run_space.py"
    packages = sysconfig.get_paths()["purelib"]
    told = answers(space, [sys.executable, "-S", "-E", str(program), packages], tmp_path)
    assert f"flm is {space / 'flm' / '__init__.py'}" in told


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.timeout(1800)
def test_it_runs_as_a_space_builds_it(onnx, tmp_path):
    """A fresh environment, first the requirements alone, then the files."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = str(environment / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "-r", str(DEMO / "requirements.txt")]
    done = subprocess.run(install, capture_output=True, text=True, cwd=tmp_path)
    if done.returncode and any(word in done.stderr for word in NO_NETWORK):
        pytest.skip("packages cannot be fetched here")
    assert done.returncode == 0, done.stderr
    space = tmp_path / "space"
    write_space(space, str(onnx), NO_SOURCES)
    answers(space, [python, "app.py"], tmp_path)
