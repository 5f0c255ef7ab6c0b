"""How far a command is: a bar on a terminal, lines elsewhere."""

import io

import pytest
from rich.console import Console

from shards import progress as progress_module
from shards.progress import progress


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a command writes when it is no terminal, a line at every step."""
    text = io.StringIO()
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(progress_module, "Console", lambda stderr: Console(file=text))
    return text


def test_lines_tell_the_share_that_is_done(written):
    with progress("reading", 40) as advance:
        advance(10)
        advance(30)
    assert written.getvalue() == "reading: 25%\nreading: 100%\n"


def test_what_was_done_before_counts(written):
    with progress("fetching", 40, in_bytes=True, done=20) as advance:
        advance(10)
    assert written.getvalue() == "fetching: 75%\n"


def test_an_unknown_whole_is_no_share(written):
    with progress("fetching", None, in_bytes=True) as advance:
        advance(3_000_000)
    with progress("reading", None) as advance:
        advance(1234)
    assert written.getvalue() == "fetching: 3 MB\nreading: 1,234\n"


@pytest.mark.parametrize("total", [None, 50_000_000])
def test_a_terminal_of_80_columns_has_room_for_the_bar(monkeypatch, total):
    text = io.StringIO()
    terminal = Console(file=text, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(progress_module, "Console", lambda stderr: terminal)
    with progress("fetching", total, in_bytes=True, done=10_000_000) as advance:
        advance(20_000_000)
    whole = "50.0 MB" if total else "? MB"
    assert f"30.0/{whole}" in text.getvalue()


def test_of_several_processes_only_the_first_tells(written, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with progress("reading", 40) as advance:
        advance(10)
    assert not written.getvalue()
