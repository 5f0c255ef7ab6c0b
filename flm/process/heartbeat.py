"""The hang guard: names the process that the others wait for, and ends the run.

Each process tells the others through the rendezvous store how far its main thread is. It has two threads: one
speaks with the store, which may block for as long as a broken network likes; the other only looks at the
clock and so ends the process even where the store's own machine is gone.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed.distributed_c10d import Store, _get_default_store

from flm.errors import HANG_EXIT_CODE, some_of

START_S = 120.0
"""What the first step has at least, in which a busy machine starts, connects and compiles all."""
TICKS_A_TIMEOUT = 20
LONGEST_TICK_S = 10.0
END_S = 5.0
"""How long the end of a run waits for a store that may be gone."""
GRACE_TICKS = 5
"""How long the others stay after their timeout for one of them to speak."""
MOST_NAMES = 8
SILENT_SHARE = 0.25
"""A process whose sign of life does not change for this share of the timeout cannot be reached."""


@dataclass(kw_only=True, slots=True)
class Sign:
    """What is known of a process."""

    rank: int
    host: str
    beats: int
    """How far it is: every process makes the same beats in the same order."""
    doing: str
    ticks: int
    """Grows as long as the process lives and reaches the store."""
    seen_s: float
    """When it grew last, by this process's clock."""


class Heartbeat:
    """Watches over the progress of all processes.

    Args:
        rank: this process.
        num_processes: all of them; of one alone nothing is missing, and nothing is watched.
        timeout_s: how long a process may be without progress; `START_S` at least until `is_started`.
    """

    def __init__(self, *, rank: int, num_processes: int, timeout_s: float) -> None:
        self.rank = rank
        self.num_processes = num_processes
        self.timeout_s = timeout_s
        self.is_started = False
        """Whether the first step is done."""
        self.tick_s = min(LONGEST_TICK_S, timeout_s / TICKS_A_TIMEOUT)
        self.signs: dict[int, Sign] = {}
        self._beats = 0
        self._doing = "starts"
        self._beat_s = time.monotonic()
        self._store_s = time.monotonic()
        self._store_name = ""
        self._ended = threading.Event()

    def beat(self, doing: str) -> None:
        """The main thread got on, and now does this."""
        self._beats += 1
        self._doing = doing
        self._beat_s = time.monotonic()

    @contextlib.contextmanager
    def watching(self, end: Callable[[int], object] = os._exit) -> Iterator[None]:
        """Watch as long as the context lasts.

        Args:
            end: ends the process with an exit code; the main thread may not be able to.
        """
        if self.num_processes == 1:
            yield
            return
        # A client of its own: that of the main thread may be blocked with it.
        store = _get_default_store().clone()
        self._store_name = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
        # Before, processes may have tried to fit a batch into memory, one more often than the others.
        self._beats = 0
        self.beat("starts")
        works = (lambda: self._exchange(store), lambda: self._watch(end))
        threads = [threading.Thread(target=work, daemon=True, name="heartbeat") for work in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                # One that speaks with the store while the interpreter ends would abort it.
                thread.join(timeout=END_S)

    def _silence_s(self) -> float:
        return time.monotonic() - self._beat_s

    def _allowed_s(self) -> float:
        return self.timeout_s if self.is_started else max(self.timeout_s, START_S)

    def _exchange(self, store: Store) -> None:
        store.set_timeout(timedelta(seconds=max(1.0, self.timeout_s * SILENT_SHARE)))
        host, ticks = socket.gethostname(), 0
        # A store that is gone raises; that it is silent, the other thread sees.
        with contextlib.suppress(RuntimeError):
            while not self._ended.is_set():
                ticks += 1
                store.set(_key(self.rank), json.dumps([host, self._beats, self._doing, ticks]))
                if self._silence_s() > self.timeout_s / 3:
                    for rank in range(self.num_processes):
                        if store.check([_key(rank)]):
                            self._take(rank, json.loads(store.get(_key(rank))))
                self._store_s = time.monotonic()
                self._ended.wait(self.tick_s)

    def _take(self, rank: int, told: Sequence) -> None:
        host, beats, doing, ticks = told
        now, before = time.monotonic(), self.signs.get(rank)
        seen_s = before.seen_s if before is not None and before.ticks == ticks else now
        self.signs[rank] = Sign(rank=rank, host=host, beats=beats, doing=doing, ticks=ticks, seen_s=seen_s)

    def _watch(self, end: Callable[[int], object]) -> None:
        while not self._ended.wait(self.tick_s):
            if self._silence_s() > self._allowed_s():
                if not self._tell():
                    # The one that speaks may be a little later, and would find this one gone before.
                    time.sleep(GRACE_TICKS * self.tick_s)
                sys.stdout.flush()
                end(HANG_EXIT_CODE)
                return

    def _tell(self) -> bool:
        """Say who is missing, unless another process is to say it; whether it was said."""
        now_s, silent_s = time.monotonic(), self.timeout_s * SILENT_SHARE
        if now_s - self._store_s > silent_s:
            line = f"the rendezvous store at {self._store_name} cannot be reached"
            # Two of each machine speak, since one may be the missing one.
            speaks = int(os.environ.get("LOCAL_RANK", "0")) < 2
        else:
            signs = list(self.signs.values())
            line, speaker = diagnosis(signs, self.num_processes, now_s=now_s, silent_s=silent_s)
            speaks = self.rank == speaker
        if speaks:
            print(
                f"error: no step for {self._allowed_s():g} s (--guards.timeout-s): {line}; this one (rank "
                f"{self.rank}) {self._doing}; the same command goes on from the last checkpoint",
                file=sys.stderr,
                flush=True,
            )
        return speaks


def diagnosis(
    signs: Sequence[Sign], num_processes: int, *, now_s: float, silent_s: float
) -> tuple[str, int | None]:
    """Who is missing, and which process says so.

    Args:
        signs: of the processes that are known of.
        num_processes: all of them.
        now_s: by the clock of `Sign.seen_s`.
        silent_s: a process that gave no sign for as long cannot be reached.

    Returns:
        The words, and the lowest rank that is neither behind nor out of reach; None if there is none.
    """
    known = {sign.rank: sign for sign in signs}
    gone = [f"rank {rank} (it gave no sign yet)" for rank in range(num_processes) if rank not in known]
    silent = {sign.rank for sign in signs if now_s - sign.seen_s > silent_s}
    gone += [f"rank {rank} on {known[rank].host} ({known[rank].doing})" for rank in sorted(silent)]
    alive = [sign for sign in signs if sign.rank not in silent]
    furthest = max((sign.beats for sign in alive), default=0)
    behind = [sign for sign in alive if sign.beats < furthest]
    texts = []
    if gone:
        texts.append(f"{some_of(gone, MOST_NAMES)} cannot be reached")
    if behind:
        late = [f"rank {sign.rank} on {sign.host} ({sign.doing})" for sign in behind]
        texts.append(f"{some_of(late, MOST_NAMES)} is behind")
    if not texts:
        texts.append("all processes live, and none is behind")
    waiting = [sign.rank for sign in alive if sign.beats == furthest]
    return " and ".join(texts), min(waiting, default=None)


def _key(rank: int) -> str:
    return f"flm/heartbeat/{rank}"
