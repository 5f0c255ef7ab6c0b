"""Stopping a run on purpose: a signal to any of its processes, and all of them stop after the same step.

What torchrun's agent, which `accelerate launch` uses too for several processes, does with a signal (tried
with torch 2.14 and accelerate 1.15):

- It takes SIGTERM, SIGINT, SIGHUP and SIGQUIT, or instead what `--signals-to-handle` names, or
  PET_SIGNALS_TO_HANDLE, which `accelerate launch` honours as well. SIGUSR1 kills it unless it is among them.
- It sends the same signal to the process group of each training process, and 30 s later SIGKILL;
  `--shutdown-timeout` or PET_SHUTDOWN_TIMEOUT is that time. After a second signal it sends SIGTERM.
- It starts nothing again after a signal of its own, and exits with 1; flm/process/launcher.py makes that 75.
- A training process that ends by itself with another code than 0 is a failure to it, which `--max-restarts`
  answers by starting all again. So a process that stopped although its agent was told nothing tells it.
- Each training process leads a session of its own, so Ctrl-C reaches it through the agent alone.

With one process `accelerate launch` hands no signal on; `python -m flm.train` takes them itself.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed

from flm.errors import INTERRUPTED_EXIT_CODE, PreemptedError

PR_SET_PDEATHSIG = 1
"""Of <sys/prctl.h>: what a process gets when its parent dies."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""SIGUSR1 is what SLURM is asked to send ahead of the limit of time."""

T = TypeVar("T")


class _WaitInterrupted(BaseException):
    """Raised by the handler of a signal where the process only waits."""


class Stop:
    """Whether a signal asked for an end, and the agreement of all processes on it.

    The agreement is an all-reduce on the processor, so the device is never waited for.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """What this process was asked by."""
        self._group: Any = None
        self._is_waiting = False

    @contextlib.contextmanager
    def listening(self, timeout_s: float) -> Iterator[None]:
        """Take the signals; called by all processes, in the main thread of each.

        Args:
            timeout_s: how long the agreement may take.
        """
        if torch.distributed.is_initialized():
            self._group = torch.distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        # Elsewhere, as in a notebook's thread, a run is stopped by other means.
        taken = STOP_SIGNALS if threading.current_thread() is threading.main_thread() else ()
        before = {number: signal.signal(number, self._take) for number in taken}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def until_agreed(self, items: Iterator[T]) -> Iterator[T]:
        """The same items, which all processes have as many of, until one process was asked to stop.

        They agree before an item is handed out. A process that waits for the next one when the signal comes
        waits no longer.

        Raises:
            PreemptedError: on all processes alike.
        """
        ended = object()
        while True:
            item = self._next(items, ended)
            number = self._agreed()
            if number is not None:
                raise PreemptedError(number.name)
            if item is ended:
                return
            yield item  # pyright: ignore[reportReturnType]

    def _next(self, items: Iterator[T], ended: object) -> T | object:
        try:
            try:
                self._is_waiting = True
                if self.signal is None:
                    return next(items, ended)
            finally:
                self._is_waiting = False
        except _WaitInterrupted:
            # Outside of the other, since the signal may come while that one ends.
            self._is_waiting = False
        return ended

    def _agreed(self) -> signal.Signals | None:
        number = self.signal or 0
        if self._group is not None:
            asked = torch.tensor(int(number))
            torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX, group=self._group)
            number = int(asked)
        return signal.Signals(number) if number else None

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal is signal.SIGINT and number in (signal.SIGINT, signal.SIGTERM):
            # The second Ctrl-C; an agent hands it on as SIGTERM.
            os.write(2, b"interrupted\n")
            os._exit(INTERRUPTED_EXIT_CODE)
        if self.signal is None:
            self.signal = signal.Signals(number)
            if self._is_waiting and not _starts_process(frame):
                raise _WaitInterrupted


def _starts_process(frame: FrameType | None) -> bool:
    """Whether an exception would come in the middle of a fork, which swallows it, or in the new process."""
    while frame is not None and frame.f_code is not BaseProcess.start.__code__:
        frame = frame.f_back
    return frame is not None


def tell_agent() -> None:
    """Make the agent that started this process stop too, or it would start the run again."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if os.environ.get("LOCAL_RANK") == "0":
        os.kill(os.getppid(), signal.SIGTERM)


def outlive_signals(_worker: int) -> None:
    """For a reading process, which its training process needs until the end of the step.

    A group of its own keeps it from what an agent or a terminal sends to the whole group. What reaches every
    process of a job counts only if it is a SIGTERM of the training process, which ends its readers by that.
    """
    os.setpgid(0, 0)
    if sys.platform == "linux":
        # Else it would live some seconds longer than a training process that was killed, with that one's
        # connections, and the other processes would wait as long for it.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_told_by, args=(os.getppid(),), daemon=True).start()


def _end_when_told_by(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
