"""A signal ends a run after the step, with a checkpoint, and it goes on as if it had never been stopped."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from conftest import REPOSITORY
from tiny_runs import assert_equal_weights, log_of, tiny

import flm.evaluation.passes
import flm.training.run
import flm.training.step
from flm.data.loader import LoaderConfig
from flm.errors import INTERRUPTED_EXIT_CODE, PREEMPTED_EXIT_CODE, PreemptedError
from flm.process.signals import STOP_SIGNALS, Stop
from flm.train import main, train

DEADLINE_S = 240


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> Path:
    run = train(tiny(data, tmp_path_factory.mktemp("run") / "whole"))
    AcceleratorState._reset_state(reset_partial_state=True)
    return run


def calling_first(function, action):
    """The same function, but an action comes before it; that it was called before is on its list."""

    def both(*args, **kwargs):
        action(*args)
        return function(*args, **kwargs)

    return both


def signal_in_step(monkeypatch, number):
    def send(batch, *_):
        if batch.step == 3:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(flm.training.step, "augment", calling_first(flm.training.step.augment, send))


def signal_in_evaluation(monkeypatch, number):
    def send(*_):
        os.kill(os.getpid(), number)

    monkeypatch.setattr(
        flm.evaluation.passes, "crop_plainly", calling_first(flm.evaluation.passes.crop_plainly, send)
    )


def signal_while_waiting(monkeypatch, number):
    read = flm.training.run.training_batches

    def stuck(*args, **kwargs):
        for batch in read(*args, **kwargs):
            if batch.step == 4:
                threading.Timer(0.3, os.kill, (os.getpid(), number)).start()
                time.sleep(100)
            yield batch

    monkeypatch.setattr(flm.training.run, "training_batches", stuck)


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize(
    ("disturb", "step", "validations"),
    [(signal_in_step, 4, 1), (signal_in_evaluation, 3, 0), (signal_while_waiting, 4, 1)],
)
def test_a_stopped_run_ends_as_if_it_had_not_been(
    data, tmp_path, undisturbed, monkeypatch, disturb, step, validations, number
):
    config = tiny(data, tmp_path / "run")
    handlers = [signal.getsignal(number) for number in STOP_SIGNALS]
    started_s = time.monotonic()
    with monkeypatch.context() as patch:
        disturb(patch, number)
        with pytest.raises(PreemptedError, match=number.name):
            train(config)
    assert time.monotonic() - started_s < 60
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == handlers
    assert (config.run / "last").resolve().name == f"step_000000{step}"
    assert [line["step"] for line in log_of(config.run, "preempted")] == [step]
    assert len(log_of(config.run, "validation")) == validations
    AcceleratorState._reset_state(reset_partial_state=True)
    train(config)
    assert_equal_weights(undisturbed, config.run)
    # An evaluation that was broken off is made up for, so that the best is the same one.
    assert (config.run / "best").resolve().name == (undisturbed / "best").resolve().name
    numbers = [[line["nme_pct"] for line in log_of(run, "validation")] for run in (undisturbed, config.run)]
    assert numbers[0] == numbers[1]


def test_before_the_first_step_there_is_nothing_to_save(data, tmp_path, monkeypatch):
    read = flm.training.run.training_batches

    def stuck(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        yield from read(*args, **kwargs)

    monkeypatch.setattr(flm.training.run, "training_batches", stuck)
    config = tiny(data, tmp_path / "run")
    with pytest.raises(PreemptedError):
        train(config)
    assert not (config.run / "last").exists()


def test_the_exit_code_asks_to_be_started_again(data, tmp_path, monkeypatch, capsys):
    signal_in_step(monkeypatch, signal.SIGTERM)
    words = ["--data", str(data), "--out", str(tmp_path / "run"), "--steps", "8", "--batch-size", "8"]
    words += ["--model.input-size-px", "64", "--tracking.tracker", "none", "--loader.num-workers", "0"]
    with pytest.raises(SystemExit) as stop:
        main(["quickstart", *words])
    assert stop.value.code == PREEMPTED_EXIT_CODE
    assert capsys.readouterr().err.endswith("stopped by SIGTERM\n")


def test_a_second_interrupt_ends_at_once():
    program = (
        "import os, signal, time\n"
        "from flm.process.signals import Stop\n"
        "stop = Stop()\n"
        "with stop.listening(1.0):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print(stop.signal.name, flush=True)\n"
        "    os.kill(os.getpid(), signal.{second})\n"
        "    time.sleep(0.1)\n"
        "    print('went on')\n"
    )
    for second, code in (
        ("SIGINT", INTERRUPTED_EXIT_CODE),
        ("SIGTERM", INTERRUPTED_EXIT_CODE),
        ("SIGUSR1", 0),
    ):
        command = [sys.executable, "-c", program.replace("{second}", second)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, cwd=REPOSITORY)
        assert done.returncode == code, done.stderr
        assert done.stdout == ("SIGINT\n" if code else "SIGINT\nwent on\n")


def test_items_come_through_until_a_signal_does():
    stop = Stop()
    with stop.listening(1.0):
        assert list(stop.until_agreed(iter(range(5)))) == list(range(5))
        items = stop.until_agreed(iter(range(5)))
        assert next(items) == 0
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(PreemptedError, match="SIGUSR1"):
            next(items)


def test_a_mistake_while_reading_stays_one():
    def broken():
        yield 1
        raise ValueError("unreadable")

    stop = Stop()
    with stop.listening(1.0):
        items = stop.until_agreed(broken())
        assert next(items) == 1
        with pytest.raises(ValueError, match="unreadable"):
            next(items)


def test_reading_processes_outlive_what_their_group_is_sent(data, tmp_path, undisturbed, monkeypatch):
    """The agent of a launcher signals the whole group of processes."""

    def send(batch, *_):
        if batch.step == 3:
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            readers = [int(child) for child in children if Path(f"/proc/{child}/cmdline").read_bytes() == own]
            assert readers
            for reader in readers:
                for number in STOP_SIGNALS:
                    # By another process: its own training process may end it.
                    subprocess.run(["kill", f"-{number.value}", str(reader)], check=True)
                assert os.getpgid(reader) != os.getpgid(0)

    own = Path("/proc/self/cmdline").read_bytes()
    monkeypatch.setattr(flm.training.step, "augment", calling_first(flm.training.step.augment, send))
    run = train(tiny(data, tmp_path / "run", loader=LoaderConfig(num_workers=1, prefetch_batches=1)))
    assert_equal_weights(undisturbed, run)


@pytest.mark.multiprocess
@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both_and_their_launcher(data, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "3"]
    command += ["-m", "flm.train", "quickstart", "--data", data, "--out", run, "--steps", "1000"]
    command += ["--batch-size", "8", "--model.input-size-px", "64", "--tracking.tracker", "none"]
    command += ["--log-every-steps", "1"]
    with (tmp_path / "output.txt").open("w+") as output:
        launcher = subprocess.Popen(
            list(map(str, command)),
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline_s = time.monotonic() + DEADLINE_S
            while not (run / "log.jsonl").exists() or len(log_of(run, "train")) < 3:
                assert launcher.poll() is None
                assert time.monotonic() < deadline_s
                time.sleep(0.1)
            children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
            os.kill(int(children[1]), signal.SIGUSR1)
            assert launcher.wait(DEADLINE_S) == PREEMPTED_EXIT_CODE
        finally:
            launcher.kill()
    text = (tmp_path / "output.txt").read_text()
    assert "Traceback" not in text
    # Not started again, although there were restarts left.
    assert text.count("quickstart: ") == 1, text
    assert text.count("stopped by SIGUSR1") == 1
    (line,) = log_of(run, "preempted")
    assert line["step"] == log_of(run, "train")[-1]["step"]
    assert (run / "last").resolve().name == f"step_{line['step']:07d}"
