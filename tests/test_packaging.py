"""The wheel holds flm and nothing else, and predicts with what it depends on and nothing else."""

import email
import json
import os
import re
import resource
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import REPOSITORY, draw_face
from packaging.requirements import Requirement
from test_onnx_network import NEEDED, TRAINING, WITHOUT

import flm
from flm.errors import EXTRAS
from flm.errors import NEEDED as TOLD_AS_NEEDED

pytest.importorskip("hatchling", reason="hatchling, of the extra dev, builds the wheel")

EXTRA = TRAINING | {
    "av",
    "dlib",
    "pyarrow",
    "s3fs",
    "gcsfs",
    "tensorboard",
    "trackio",
    "playwright",
    "pytest",
}
"""Packages of the extras."""


def build(what: str, project: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", what, "-d", str(out)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    return build("sdist", REPOSITORY, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """As `python -m build` makes it: out of the sdist."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as tar:
        tar.extractall(folder, filter="data")
    (project,) = folder.iterdir()
    return build("wheel", project, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder that holds what pip would put beside the other packages."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def run_alone(
    installed: Path, program: str, *arguments: str, missing: frozenset[str] = frozenset(EXTRA)
) -> subprocess.CompletedProcess[str]:
    """A program with the wheel's flm, where these packages are not installed."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=set(missing)) + program, *arguments],
        cwd=installed.parent,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_wheel_holds_flm_and_the_model(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    about = f"flm_landmarks-{flm.__version__}.dist-info/"
    ours = {name for name in names if name.startswith("flm/")}
    assert all(name.startswith(about) for name in names - ours)
    modules = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "flm").rglob("*")
        if path.is_file() and path.suffix in (".py", ".css", ".js", ".typed")
    }
    model = {path.name for path in (REPOSITORY / "demo" / "model").iterdir()}
    assert modules | {f"flm/shipped_model/{name}" for name in model} <= ours
    assert {"flm/py.typed", "flm/shipped_model/model.onnx", "flm/shipped_model/LICENSE"} <= ours
    assert not [name for name in ours if "__pycache__" in name or name.endswith(".pyc")]
    # Pages for people who read the repository: their links lead nowhere in a wheel.
    assert {name for name in ours if name.endswith(".md")} == {"flm/shipped_model/README.md"}
    assert wheel.stat().st_size < 10 * 2**20


def test_the_sdist_holds_the_project(sdist):
    with tarfile.open(sdist) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {name.partition("/")[0] for name in names} == {
        *("flm", "shards", "demo", "launch", "tests", ".assets"),
        *("README.md", "LICENSE", "pyproject.toml", "PKG-INFO", ".gitignore"),
    }
    assert {"demo/model/model.onnx", "launch/quickstart.sh", "tests/conftest.py"} <= names
    assert sdist.stat().st_size < 15 * 2**20


def test_it_says_what_it_is(installed):
    (about,) = installed.glob("*.dist-info")
    told = email.message_from_string((about / "METADATA").read_text(encoding="utf-8"))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert told["Name"] == "flm-landmarks"
    # The module has the only version there is.
    assert told["Version"] == flm.__version__
    assert "version" in project["dynamic"]
    assert told["License-Expression"] == "MIT"
    assert "Typing :: Typed" in told.get_all("Classifier", [])
    needed = [line for line in told.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {str(Requirement(line)).replace("_", "-") for line in project["dependencies"]} == set(needed)
    entries = (about / "entry_points.txt").read_text()
    assert "flm = flm.cli:main" in entries
    assert "flm = flm.process.launcher:register" in entries


def test_the_extras_that_messages_name_are_those_that_there_are():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(EXTRAS.values()) | {"train"} <= project["optional-dependencies"].keys()
    for package, extra in EXTRAS.items():
        packages = {re.split(r"[\[>]", line)[0] for line in project["optional-dependencies"][extra]}
        assert packages & {package, f"{package}-bin"}, package
    assert TOLD_AS_NEEDED == NEEDED


def test_it_predicts_alone_with_its_own_model(installed, tmp_path):
    picture, landmarks = draw_face(1, 256)
    cv2.imwrite(str(tmp_path / "face.png"), np.ascontiguousarray(picture[..., ::-1]))
    program = """
import flm
from flm.cli import main
main(sys.argv[1:])
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([flm.__file__, sorted(loaded)]))
"""
    left, top = landmarks.min(0)
    width, height = landmarks.max(0) - landmarks.min(0)
    words = ["predict", str(tmp_path / "face.png"), "--out", str(tmp_path / "out"), "--box"]
    done = run_alone(installed, program, *words, f"{left:.0f},{top:.0f},{width:.0f},{height:.0f}")
    assert done.returncode == 0, done.stderr
    path, loaded = json.loads(done.stdout.splitlines()[-1])
    assert Path(path) == installed / "flm" / "__init__.py"
    assert not EXTRA & set(loaded)
    (face,) = json.loads((tmp_path / "out" / "face.json").read_text())["faces"]
    assert np.shape(face["landmarks"]) == (68, 2)


def test_a_checkpoint_without_pytorch_is_told_in_one_line(installed, tmp_path):
    program = """
import flm
try:
    flm.load(sys.argv[1])
except ValueError as error:
    print(type(error).__name__, error)
"""
    done = run_alone(installed, program, str(tmp_path))
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"InputError {tmp_path}: PyTorch runs it, but ")
    assert "is not installed; pip install 'flm-landmarks[train]', or give an .onnx file" in line


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["train", "quickstart"], "[train]"),
        (["evaluate", "run", "--data", "data"], "[train]"),
        (["predict", "face.png", "--checkpoint", ".", "--out", "out"], "[train]"),
        (["publish", "model", "run", "you/faces", "--dry-run"], "[train]"),
    ],
)
def test_commands_of_the_extras_say_which_is_missing(installed, words, extra):
    done = run_alone(installed, "from flm.cli import main; main(sys.argv[1:])", *words)
    assert done.returncode == 2
    assert f"is not installed; pip install 'flm-landmarks{extra}'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_detector_the_extra_is_named(installed, tmp_path):
    program = """
from flm.inference.detector import build_detector
from flm.inference.detector_config import DetectorConfig
try:
    build_detector(DetectorConfig())
except ValueError as error:
    print(error)
"""
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=EXTRA) + program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed), "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    (line,) = done.stdout.splitlines()
    assert "--detector.model, or pip install 'flm-landmarks[dlib]'" in line


@pytest.mark.parametrize(
    ("program", "most"), [("import flm", 3.5), ("import flm.cli as c; c.main(['-h'])", 6.0)]
)
def test_it_starts_at_once(program, most):
    """Beside the parser alone, of which 3.5 and 6 are 0.3 and 0.5 s where the project was made."""
    assert processor_s(program) <= most * processor_s("import rich, tyro")


def processor_s(program: str) -> float:
    """The least of five; of the processor, since a busy machine's clock says nothing."""
    spent_s = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent_s)


def test_the_help_needs_no_package_but_the_parser():
    program = """
import json, sys
from flm.cli import main
try:
    main(["--help"])
except SystemExit:
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert "tyro" in loaded
    assert not loaded & (NEEDED | EXTRA) - {"tyro", "rich"}
