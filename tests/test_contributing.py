"""The changes that CONTRIBUTING.md shows are made to a copy of the house, which then does what it says."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import REPOSITORY
from pages import PAGES, block

PAGE = PAGES["CONTRIBUTING.md"]
NUM_POINTS = 19

UNLISTED = {"__init__.py", "__main__.py", "py.typed"}


@pytest.fixture(scope="module")
def changed_house(tmp_path_factory) -> Path:
    house = tmp_path_factory.mktemp("house")
    for package in ("flm", "shards"):
        shutil.copytree(REPOSITORY / package, house / package, ignore=shutil.ignore_patterns("__pycache__"))
    for change in re.findall(r"```diff\n(.*?)```", PAGE, re.DOTALL):
        # Away from any repository, whose own paths `git apply` would otherwise follow.
        subprocess.run(
            ["git", "apply", "--recount", "-"],
            input=change, text=True, check=True, cwd=house, timeout=20,
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(house.parent)},
        )  # fmt: skip
    return house


def draw_annotations(folder: Path) -> None:
    """Pictures with a dot at each of 19 points, and their lines."""
    random = np.random.default_rng(0)
    folder.mkdir()
    lines = []
    for number in range(24):
        points = random.uniform(30, 98, (NUM_POINTS, 2)).round()
        picture = np.full((128, 128, 3), 80, np.uint8)
        for x, y in points.astype(int).tolist():
            cv2.circle(picture, (x, y), 2, (255, 255, 255), -1)
        cv2.imwrite(str(folder / f"{number}.png"), picture)
        split = "train" if number < 20 else "test"
        lines.append(json.dumps({"file": f"{number}.png", "split": split, "points": points.tolist()}))
    (folder / "faces.jsonl").write_text("\n".join(lines), encoding="utf-8")


def commands() -> list[list[str]]:
    block = PAGE.partition("With these,")[2].partition("```bash\n")[2].partition("```")[0]
    return [shlex.split(line) for line in block.splitlines()]


@pytest.mark.timeout(240)
def test_the_example_is_followed(changed_house, tmp_path):
    draw_annotations(tmp_path / "faces")
    shutil.copy(tmp_path / "faces/0.png", tmp_path / "passport.png")
    environment = {**os.environ, "PYTHONPATH": str(changed_house), "WANDB_MODE": "disabled"}
    convert, train, predict = commands()
    assert train[:3] == ["accelerate", "launch", "-m"]
    assert predict[0] == "flm"
    short = ["--steps", "2", "--batch-size", "8", "--optimizer.warmup-steps", "1", "--tracker", "none"]
    for words in (convert[1:], [*train[2:], *short], ["-m", *predict]):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    (face,) = json.loads((tmp_path / "found/passport.json").read_text(encoding="utf-8"))["faces"]
    assert len(face["landmarks"]) == NUM_POINTS
    assert face["pose"] is None
    config = json.loads((tmp_path / "runs/aflw19-mobile/config.json").read_text(encoding="utf-8"))
    assert (config["model"]["head"], config["loss"]["kind"]) == ("hidden", "soft_wing")


def test_changes_are_checked_as_the_house_is(changed_house):
    shutil.copy(REPOSITORY / "pyproject.toml", changed_house)
    ruff = [sys.executable, "-m", "ruff"]
    subprocess.run([*ruff, "check", "flm", "shards"], cwd=changed_house, check=True, timeout=60)
    subprocess.run([*ruff, "format", "--check", "flm", "shards"], cwd=changed_house, check=True, timeout=60)


def listed_files() -> set[str]:
    """The paths of the file list, from its indentation."""
    paths, folders = set(), []
    for line in block("files").splitlines():
        name = line.split()[0]
        folders = folders[: (len(line) - len(line.lstrip())) // 2]
        path = "".join(folders) + name
        paths.add(path)
        if name.endswith("/"):
            folders.append(name)
    return paths


def test_the_file_list_is_the_tree():
    listed = listed_files()
    for path in listed:
        assert (REPOSITORY / path).exists(), path
    for top in ("launch", "shards", "flm"):
        for path in sorted((REPOSITORY / top).rglob("*")):
            name = path.relative_to(REPOSITORY).as_posix()
            if path.is_dir() or "__pycache__" in name or path.name in UNLISTED:
                continue
            parent = f"{path.parent.relative_to(REPOSITORY).as_posix()}/"
            whole_folder = parent in listed and not any(
                other.startswith(parent) and other != parent for other in listed
            )
            assert name in listed or whole_folder, f"{name} is not in the file list"
