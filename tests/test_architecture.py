"""The house keeps its rules: imports go down, modules and functions stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

MODULES = sorted(path for folder in ("flm", "shards", "demo") for path in (REPOSITORY / folder).rglob("*.py"))
MOST_LINES = 300
MOST_FUNCTION_LINES = 50
MOST_TRAIN_LINES = 80


def test_imports_go_down():
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_modules_and_functions_are_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[0]
            has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            start = first.end_lineno if has_docstring else node.lineno
            most = MOST_TRAIN_LINES if node.name == "train" else MOST_FUNCTION_LINES
            lines = node.end_lineno - start + 1
            assert lines <= most, f"{path.name}:{node.lineno} {node.name} has {lines} lines"


def test_no_room_is_called_utils():
    forbidden = {"utils", "common", "helpers", "base", "types", "registry"}
    assert not forbidden & {path.stem for path in MODULES} | forbidden & {
        path.parent.name for path in MODULES
    }
