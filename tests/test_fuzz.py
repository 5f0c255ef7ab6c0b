"""Contents that are nearly right are read, or refused in one line; tests/fuzz/run.py looks for longer."""

import re
import runpy
from random import Random

import pytest
from conftest import REPOSITORY
from fuzz.alter import alter
from fuzz.targets import TARGETS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flm.errors import InputError

FEW = 15
MANY = 60
NUM_EXAMPLES = {"checkpoint": FEW, "onnx": FEW, "shard": FEW}


@pytest.mark.parametrize("name", TARGETS)
def test_contents_that_are_right_are_read(name):
    for content in TARGETS[name].seeds():
        TARGETS[name].read(content)


@pytest.mark.parametrize("name", TARGETS)
def test_contents_that_are_nearly_right_are_read_or_refused_in_one_line(name):
    target, refused = TARGETS[name], []
    contents = target.seeds()

    @settings(max_examples=NUM_EXAMPLES.get(name, MANY), suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(range(len(contents))), st.integers(0, 2**32))
    def read(number: int, seed: int) -> None:
        try:
            target.read(alter(contents[number], target.words, Random(seed)))
        except InputError as mistake:
            refused.append(str(mistake))

    read()
    assert refused
    assert not any("\n" in mistake for mistake in refused)


def test_the_command_of_the_page_is_understood(monkeypatch, tmp_path):
    page = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^python tests/fuzz/run.py (.*)$", page, re.MULTILINE)
    assert command == "xml --minutes 30"
    path = tmp_path / "content"
    path.write_bytes(TARGETS["xml"].seeds()[0])
    monkeypatch.setattr("sys.argv", ["run.py", *command.split(), "--again", str(path)])
    runpy.run_path(str(REPOSITORY / "tests" / "fuzz" / "run.py"), run_name="__main__")
    path.write_bytes(b"<html/>")
    with pytest.raises(InputError, match="<html> is the outermost element"):
        runpy.run_path(str(REPOSITORY / "tests" / "fuzz" / "run.py"), run_name="__main__")
