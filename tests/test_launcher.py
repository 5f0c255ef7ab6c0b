"""A launcher ends with the exit code of its processes and without a page, and starts no mistake again."""

import logging
import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from types import SimpleNamespace

import pytest
from conftest import REPOSITORY
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from flm.errors import LAUNCHER_VARIABLE, MISTAKE_SIGNAL
from flm.process import launcher


def failed(*codes: int) -> ChildFailedError:
    failures = {rank: ProcessFailure(rank, 1, code, "/nonexistent") for rank, code in enumerate(codes)}
    return ChildFailedError("flm.train", failures)


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ((2,), 2),
        ((-15, 2), 2),
        # One that was left alone by another's mistake fell.
        ((1, 2), 2),
        ((75, 75, -15), 75),
        ((76, -15), 76),
        ((75, 76), 76),
        ((130,), 130),
        ((1,), None),
        ((76, 1), None),
        ((-9, 76), None),
        ((-15, -15), None),
    ],
)
def test_the_code_is_that_of_processes_that_told_why(codes, code):
    assert launcher.exit_code_of(failed(*codes)) == code


def test_a_stop_on_purpose_asks_to_be_started_again_unless_it_is_the_second():
    first = SignalException("", signal.SIGINT)
    assert launcher.exit_code_of(first) == 75
    assert launcher.exit_code_of(SignalException("", signal.SIGTERM)) == 75
    second = SignalException("", signal.SIGINT)
    second.__context__ = first
    assert launcher.exit_code_of(second) == 130
    assert launcher.exit_code_of(ValueError("ours")) is None


@pytest.fixture
def fresh(monkeypatch):
    """What `register` changes in a process, put back."""
    handler = signal.getsignal(MISTAKE_SIGNAL)
    filters = {name: list(logging.getLogger(name).filters) for name in launcher.LOGGERS}
    monkeypatch.delenv(LAUNCHER_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    yield monkeypatch
    signal.signal(MISTAKE_SIGNAL, handler)
    os.environ.pop(LAUNCHER_VARIABLE, None)
    for name, before in filters.items():
        logging.getLogger(name).filters[:] = before


@pytest.mark.parametrize("words", [["-m", "other.train"], ["train.py", "flm"], ["-m"], []])
def test_launchers_of_other_programs_stay_as_they_are(fresh, words):
    fresh.setattr(sys, "argv", ["torchrun", *words])
    before = sys.excepthook, signal.getsignal(MISTAKE_SIGNAL)
    launcher.register()
    assert (sys.excepthook, signal.getsignal(MISTAKE_SIGNAL)) == before
    assert LAUNCHER_VARIABLE not in os.environ


def test_what_processes_have_told_is_not_told_again(fresh, capsys):
    fresh.setattr(sys, "argv", ["torchrun", "-m", "flm.train", "quickstart"])
    launcher.register()
    assert os.environ[LAUNCHER_VARIABLE] == str(os.getpid())
    with pytest.raises(SystemExit) as stop:
        sys.excepthook(ChildFailedError, failed(75), None)
    assert stop.value.code == 75
    assert capsys.readouterr().err == ""
    sys.excepthook(ChildFailedError, failed(1), None)
    assert "flm.train FAILED" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        signal.raise_signal(MISTAKE_SIGNAL)
    assert stop.value.code == 2


def test_lines_of_the_agent_that_tell_more_stay(fresh, caplog):
    fresh.setattr(sys, "argv", ["accelerate", "launch", "-m", "flm.train"])
    launcher.register()
    api, server = map(logging.getLogger, launcher.LOGGERS)
    failure = "failed (exitcode: %s) local_rank: %s (pid: %s) of binary: %s"
    api.warning("Sending process %s closing signal %s", 1, "SIGTERM")
    server.warning("Received %s death signal, shutting down workers", 15)
    api.error(failure, 2, 0, 1, "python")
    assert caplog.messages == []
    api.error(failure, -9, 0, 1, "python")
    api.warning("Unable to shutdown process %s via %s, forcefully exiting via %s", 1, 15, 9)
    assert len(caplog.messages) == 2


def test_it_is_no_way_to_meet():
    with pytest.raises(ValueError, match="flm has no rendezvous of its own"):
        launcher.register()(SimpleNamespace())


def test_torch_finds_it():
    found = {entry.name: entry.value for entry in entry_points(group="torchrun.handlers")}
    assert found.get("flm") == "flm.process.launcher:register", "pip install --editable . again"


@pytest.mark.multiprocess
@pytest.mark.timeout(300)
@pytest.mark.parametrize("restarts", ["0", "3"])
def test_a_mistake_is_one_line_however_often_a_launcher_may_start_again(restarts):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "--master-port", "0", "--max-restarts", restarts, "-m", "flm", "nonsense"],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == "error: Unrecognized options: nonsense; see `flm --help`\n"
