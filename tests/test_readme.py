"""What the pages say is run or counted."""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import REPOSITORY, draw_face
from pages import PAGES, block

from flm.cli import main as flm_main
from flm.data.manifest import Manifest
from shards.__main__ import main
from shards.convert import ConvertOptions, convert


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in links."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_and_pictures_are_there(name):
    page = REPOSITORY / name
    for target in re.findall(r"\]\(([^) ]+)\)|(?:src|href)=\"([^\"]+)\"", PAGES[name]):
        path, _, anchor = "".join(target).partition("#")
        if path.startswith("http"):
            continue
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_every_marked_block_has_a_test():
    marked = [mark for page in PAGES.values() for mark in re.findall(r"<!-- tested: ([\w-]+) -->", page)]
    tests = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "tests").glob("test_*.py"))
    assert sorted(marked) == sorted(set(re.findall(r"\bblock\(\"([\w-]+)\"\)", tests)))


def test_the_first_page_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 250


def write_archive(path: Path) -> None:
    """An archive like dlib's, with drawn faces."""
    with tarfile.open(path, "w:gz") as tar:

        def add(name: str, content: bytes) -> None:
            info = tarfile.TarInfo(f"ibug_300W_large_face_landmark_dataset/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

        for which, folder, count in (("train", "helen/trainset", 80), ("test", "helen/testset", 6)):
            images = []
            for number in range(count):
                picture, landmarks = draw_face(number + (1000 if which == "test" else 0), 96)
                name = f"{folder}/{number}_1.jpg"
                add(name, cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]))[1].tobytes())
                points = "\n".join(f"{x + 1:.4f} {y + 1:.4f}" for x, y in landmarks)
                add(f"{folder}/{number}_1.pts", f"version: 1\nn_points:  68\n{{\n{points}\n}}\n".encode())
                parts = "".join(
                    f"<part name='{number:02d}' x='{round(x)}' y='{round(y)}'/>"
                    for number, (x, y) in enumerate(landmarks)
                )
                box = "<box top='20' left='20' width='50' height='50'>"
                images.append(f"<image file='{name}'>{box}{parts}</box></image>")
            header = "<?xml version='1.0' encoding='ISO-8859-1'?>"
            text = f"{header}<dataset><images>{''.join(images)}</images></dataset>"
            add(f"labels_ibug_300W_{which}.xml", text.encode())


def test_the_commands_for_other_sources_are_understood(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = block("sources").splitlines()
    assert len(commands) > 5
    for command in commands:
        words = command.removeprefix("python -m shards ").split()
        with pytest.raises(SystemExit):
            main(words)
        # Past the flags, and stopped only by data that are not there.
        assert capsys.readouterr().err.startswith(f"error: {words[words.index('--source') + 1]}: ")


def test_the_commands_of_export_are_understood(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = block("export").splitlines()
    assert len(commands) > 2
    for command in commands:
        with pytest.raises(SystemExit):
            flm_main(command.removeprefix("flm ").split())
        # Past the flags, and stopped only by a checkpoint that is not there.
        assert capsys.readouterr().err.startswith("error: runs/quick: no checkpoint here")


def test_the_new_source_converts(tmp_path):
    picture, landmarks = draw_face(3, 96)
    for split in ("train", "test"):
        cv2.imwrite(str(tmp_path / f"{split}.png"), np.ascontiguousarray(picture[..., ::-1]))
    lines = [
        json.dumps({"file": f"{split}.png", "split": split, "points": landmarks.tolist()})
        for split in ("train", "test")
    ]
    (tmp_path / "faces.jsonl").write_text("\n".join(lines))
    names: dict[str, Any] = {}
    exec(compile(block("source"), "shards/README.md", "exec"), names)
    data_set = names["read_json_lines"](tmp_path)
    convert(data_set, tmp_path / "out", ConvertOptions(processes=1))
    manifest = Manifest.read(tmp_path / "out")
    assert (manifest.num_samples("train"), manifest.num_samples("test")) == (1, 1)
    np.testing.assert_array_equal(data_set.faces[0].landmarks_image, landmarks)


def test_the_plans_are_what_the_table_says(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    told = []
    for command in block("plan").replace("\\\n", " ").splitlines():
        program, *words = command.split()
        assert program == "flm"
        flm_main(words)
        lines = [line.strip("│ ").split("│") for line in capsys.readouterr().out.splitlines()]
        assert not any(line[0].startswith("warning") for line in lines)
        told.append({line[0].strip(): line[1].strip() for line in lines if len(line) == 2})
    table = r"\| `flm plan` says \|.*\n\|[-|]+\n((?:\|.*\n)+)"
    rows = re.search(table, PAGES["README.md"])[1].splitlines()
    assert len(rows) > 5
    for row in rows:
        name, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        assert len(cells) == len(told) == 3
        for cell, plan in zip(cells, told, strict=True):
            # Abridged at a word's end.
            assert f"{plan[name]} ".startswith((f"{cell} ", f"{cell},")), (name, cell, plan[name])


@pytest.mark.slow
@pytest.mark.multiprocess
def test_the_workflow_runs(tmp_path):
    write_archive(tmp_path / "ibug_300W_large_face_landmark_dataset.tar.gz")
    (tmp_path / "launch").symlink_to(REPOSITORY / "launch")
    picture, _ = draw_face(7, 400)
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.ascontiguousarray(picture[..., ::-1]))
    commands = block("workflow")
    # As written, but for two steps instead of sixteen epochs and without weights from a hub.
    small = " --steps 2 --model.no-pretrained --model.input-size-px 64"
    commands = re.sub(r"(-m flm\.train .*)", rf"\1{small}", commands)
    assert small in commands
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = ("predictions/photo.json", "predictions/photo.png")
    for name in ("report.json", "ced.png", "worst.png", "quick.onnx", *found):
        assert (tmp_path / name).is_file(), name

    check = block("python") + "assert faces[0].landmarks_image.shape == (68, 2)\n"
    subprocess.run([sys.executable, "-c", check], cwd=tmp_path, check=True, timeout=120)
