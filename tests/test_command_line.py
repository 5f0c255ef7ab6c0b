"""Flags out of dataclasses and functions; a mistake is one line that names the flag and the help."""

import io
import sys
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
import tyro

from flm.command_line import parse_config, run_command
from flm.errors import InputError

FRAME_CHARACTERS = set("╭╮╰╯─│")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    """The inner one."""

    size_px: int = 3
    """Side of the inner one."""
    kind: Literal["round", "square"] = "round"
    """Shape of the inner one."""

    def __post_init__(self) -> None:
        if self.size_px <= 0:
            raise ValueError(f"--inner.size-px is {self.size_px}, must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    """The outer one."""

    steps: int = 1
    """Steps of the outer one."""
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.steps <= 0:
            raise ValueError(f"--steps is {self.steps}, must be above 0")


PARSING: list[str] = []


@dataclass(frozen=True, kw_only=True, slots=True)
class Unprefixed:
    """Flags without a prefix."""

    size: int = 1
    """Of it."""

    def __post_init__(self) -> None:
        if self.size == 99:
            print("this size is rare", file=sys.stderr)
        if self.size <= 0:
            raise ValueError(f"--size is {self.size}, must be above 0")


DEFAULT = Unprefixed()


def walk(*, far: int, options: Annotated[Unprefixed, tyro.conf.arg(name="")] = DEFAULT) -> str:
    """Walk somewhere.

    Args:
        far: How far.
        options: More.
    """
    # Not during parsing, when stderr is caught.
    PARSING.append("caught" if isinstance(sys.stderr, io.StringIO) else "free")
    return f"walked {far}, size {options.size}"


def rest(seconds: float = 1.0) -> str:
    """Rest a while."""
    return f"rested {seconds}"


def parse(*arguments: str) -> Outer:
    return parse_config(Outer(), arguments, program="flm train x")


def run(*arguments: str) -> object:
    return run_command({"walk": walk, "rest": rest}, arguments, program="flm")


def refusal(function, *arguments: str) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert not FRAME_CHARACTERS & set(message)
    assert "\x1b" not in message
    return message


def test_flags_change_fields_and_leave_the_rest():
    assert parse() == Outer()
    assert parse("--steps", "5", "--inner.kind", "square") == Outer(steps=5, inner=Inner(kind="square"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--nonsense", "1"], ["--nonsense"]),
        (["--inner.siz-px", "1"], ["--inner.siz-px"]),
        (["--inner.kind", "oval"], ["--inner.kind", "'oval'", "'round', 'square'"]),
        (["--inner.size-px", "wide"], ["--inner.size-px", "'wide'"]),
        (["--steps"], ["--steps"]),
        (["stray"], ["stray"]),
    ],
)
@pytest.mark.parametrize("columns", ["40", "200"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_mistake_is_one_line_on_any_terminal(monkeypatch, arguments, named, columns, encoding, is_terminal):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm-256color")
    stdout = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(stdout, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stdout", stdout)
    message = refusal(parse, *arguments)
    for words in named:
        assert words in message
    assert message.endswith("; see `flm train x --help`")
    assert "--- " not in message


def test_a_value_that_the_dataclass_refuses_is_told_in_its_own_words():
    see = "; see `flm train x --help`"
    assert refusal(parse, "--inner.size-px", "0") == f"--inner.size-px is 0, must be above 0{see}"
    assert refusal(parse, "--steps", "-2") == f"--steps is -2, must be above 0{see}"
    unprefixed = refusal(run, "walk", "--far", "1", "--size", "0")
    assert unprefixed == "--size is 0, must be above 0; see `flm walk --help`"


def test_the_named_function_is_run_with_its_flags():
    PARSING.clear()
    assert run("walk", "--far", "3", "--size", "2") == "walked 3, size 2"
    assert run("rest") == "rested 1.0"
    assert PARSING == ["free"]


def test_the_command_line_of_the_process_is_the_default(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["flm", "rest", "--seconds", "2"])
    assert run_command({"walk": walk, "rest": rest}, program="flm") == "rested 2.0"
    monkeypatch.setattr(sys, "argv", ["flm", "rest", "--second", "2"])
    assert refusal(lambda: run_command({"walk": walk, "rest": rest}, program="flm")).endswith(
        "`flm rest --help`"
    )


@pytest.mark.parametrize(
    ("arguments", "named", "program"),
    [
        ([], "walk", "flm"),
        (["fly"], "fly", "flm"),
        (["walk"], "--far", "flm walk"),
        (["walk", "--far", "1", "--near", "2"], "--near", "flm walk"),
        (["walk", "--far", "x"], "--far", "flm walk"),
    ],
)
def test_a_mistake_in_a_command_is_one_line(arguments, named, program):
    PARSING.clear()
    message = refusal(run, *arguments)
    assert named in message
    assert message.endswith(f"; see `{program} --help`")
    assert PARSING == []


@pytest.mark.parametrize(
    ("function", "arguments", "told"),
    [
        (parse, ["--help"], ["flm train x", "--inner.size-px", "Side of the inner one", "{round,square}"]),
        (run, ["--help"], ["flm", "Walk somewhere", "Rest a while"]),
        (run, ["walk", "--help"], ["flm walk", "--far", "How far"]),
    ],
)
def test_the_help_is_the_docstrings(capsys, function, arguments, told):
    with pytest.raises(SystemExit) as stop:
        function(*arguments)
    assert stop.value.code == 0
    written = capsys.readouterr()
    for words in told:
        assert words in written.out
    assert written.err == ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Noisy:
    """Tells something before its second part is refused."""

    first: Unprefixed = field(default_factory=Unprefixed)
    inner: Inner = field(default_factory=Inner)


def test_what_is_told_while_parsing_is_not_swallowed(capsys):
    assert run("walk", "--far", "1", "--size", "99") == "walked 1, size 99"
    assert capsys.readouterr().err == "this size is rare\n"
    noisy = ["--first.size", "99", "--inner.size-px", "0"]
    message = refusal(lambda: parse_config(Noisy(), noisy, program="flm"))
    assert message == "--inner.size-px is 0, must be above 0; see `flm --help`"
    assert capsys.readouterr().err == "this size is rare\n"


def test_an_error_inside_the_command_is_no_mistake_in_the_command_line():
    def fail() -> None:
        """Fail."""
        raise ValueError("ours")

    with pytest.raises(ValueError, match=r"^ours$") as caught:
        run_command({"fail": fail, "rest": rest}, ["fail"], program="flm")
    assert not isinstance(caught.value, InputError)
