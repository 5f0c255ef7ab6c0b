"""A user's mistake is one line and exit code 2; of several processes one tells it."""

import errno
import os
from pathlib import Path

import pytest

import flm.errors
from flm.errors import (
    LAUNCHER_VARIABLE,
    MISTAKE_SIGNAL,
    InputError,
    OneProcessInputError,
    PreemptedError,
    ProcessLostError,
    exits_on_input_error,
)


def outcome(error: BaseException | None, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Exit code (None without an exit) and what stands on stderr after a command that raises."""

    @exits_on_input_error
    def command(word: str, *, number: int) -> None:
        assert (word, number) == ("a", 1)
        if error is not None:
            raise error

    code = None
    try:
        command("a", number=1)
    except SystemExit as stop:
        code = stop.code
    written = capsys.readouterr()
    assert written.out == ""
    return code, written.err


def test_a_mistake_is_one_line_and_exit_code_2(capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert outcome(InputError("a.xml:3: wrong"), capsys) == (2, "error: a.xml:3: wrong\n")
    assert outcome(None, capsys) == (None, "")


@pytest.mark.parametrize(("rank", "told"), [("0", "error: wrong\n"), ("1", ""), ("17", "")])
def test_of_several_processes_the_first_tells_it(capsys, monkeypatch, rank, told):
    waits = []
    monkeypatch.setattr(flm.errors.time, "sleep", waits.append)
    monkeypatch.setenv("RANK", rank)
    assert outcome(InputError("wrong"), capsys) == (2, told)
    # The launcher ends the first one too, as soon as another has ended.
    assert bool(waits) == (rank != "0")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_mistake_that_one_process_met_is_told_by_it(capsys, monkeypatch, rank):
    monkeypatch.setenv("RANK", rank)
    assert outcome(OneProcessInputError("bad sample"), capsys) == (2, "error: bad sample\n")


def test_a_stop_on_purpose_and_a_lost_process_have_codes_of_their_own(capsys, monkeypatch):
    waits = []
    monkeypatch.setattr(flm.errors.time, "sleep", waits.append)
    monkeypatch.delenv("RANK", raising=False)
    assert outcome(PreemptedError("SIGTERM"), capsys) == (75, "stopped by SIGTERM\n")
    assert outcome(ProcessLostError("gone"), capsys) == (76, "error: gone\n")
    # The launcher may have ended it by then.
    assert len(waits) == 1
    assert outcome(ProcessLostError(), capsys) == (76, "")


def test_a_mistake_ends_the_launcher_that_started_the_process(capsys, monkeypatch):
    sent = []
    monkeypatch.setattr(flm.errors.os, "kill", lambda *whom: sent.append(whom))
    for launcher in ("1", str(os.getppid())):
        monkeypatch.setenv(LAUNCHER_VARIABLE, launcher)
        outcome(InputError("wrong"), capsys)
        outcome(ProcessLostError(), capsys)
    assert sent == [(os.getppid(), MISTAKE_SIGNAL)]


def test_a_path_that_the_system_refuses_is_a_mistake(capsys, monkeypatch, tmp_path):
    def refusal(path: Path) -> OSError:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - which one is looked at below
            path.stat()
        return caught.value

    long = tmp_path / ("a" * 300)
    assert outcome(refusal(long), capsys) == (2, f"error: {long}: File name too long; give a shorter one\n")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    code, told = outcome(refusal(loop), capsys)
    assert (code, told) == (2, f"error: {loop}: Too many levels of symbolic links; mend the links\n")
    monkeypatch.setenv("RANK", "1")  # the file may be another one on each machine
    locked = PermissionError(errno.EACCES, "Permission denied", "b.jpg")
    assert outcome(locked, capsys) == (2, "error: b.jpg: Permission denied; give one that you may use\n")


def test_an_interrupt_ends_as_the_shell_expects(capsys):
    assert outcome(KeyboardInterrupt(), capsys) == (130, "interrupted\n")


def test_a_defect_of_ours_keeps_its_traceback(capsys):
    with pytest.raises(ValueError, match="ours"):
        outcome(ValueError("ours"), capsys)
    with pytest.raises(OSError, match="No space"):
        outcome(OSError(errno.ENOSPC, "No space left", "b.jpg"), capsys)
    with pytest.raises(PermissionError):  # of a port, for one: no path
        outcome(PermissionError(errno.EACCES, "Permission denied"), capsys)
    assert outcome(SystemExit(5), capsys) == (5, "")
