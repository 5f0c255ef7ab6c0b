"""Work on several processes, results in order."""

import contextlib
import functools
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from flm.errors import InputError
from flm.process.interruption import signals_deferred
from shards.progress import progress

A = TypeVar("A")
B = TypeVar("B")

IN_FLIGHT_PER_PROCESS = 4
"""Enough that no process waits while the results are written, few enough that memory stays small."""

_THREADS_OF_LINEAR_ALGEBRA = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_CAN_FORK_FROM_SERVER = "forkserver" in multiprocessing.get_all_start_methods()


def usable_cpus() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare_workers(*modules: str) -> None:
    """Begin to import what the workers will need, in the background, once for all of them."""
    if not _CAN_FORK_FROM_SERVER:
        return
    multiprocessing.forkserver.set_forkserver_preload([*modules])
    # First, since its start lets the signals through again that are held back below.
    multiprocessing.resource_tracker.ensure_running()
    # The server and all that it starts inherit the mask, so Ctrl-C is this process's business alone, and the
    # environment, so that a worker's linear algebra keeps to the one processor that is its share.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    before = {name: os.environ.get(name) for name in _THREADS_OF_LINEAR_ALGEBRA}
    try:
        os.environ.update(dict.fromkeys(_THREADS_OF_LINEAR_ALGEBRA, "1"))
        multiprocessing.forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def map_in_order(
    function: Callable[[A], B], items: Iterable[A], *, processes: int
) -> Generator[B, None, None]:
    """`map`, on several processes; with one process, in this one.

    To be closed (`contextlib.closing`) by who may stop before the end. An exception of the function arrives
    here, at its place in the order.

    Raises:
        InputError: a worker was killed.
    """
    if processes == 1:
        yield from map(function, items)
        return
    start_method = "forkserver" if _CAN_FORK_FROM_SERVER else "spawn"
    pool = ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context(start_method), initializer=_start_worker
    )
    pending = deque[Future[B]]()
    try:
        for item in items:
            # A submission may start a process, which must not be left half known to the pool.
            with signals_deferred(signal.SIGINT, signal.SIGTERM):
                pending.append(pool.submit(function, item))
            if len(pending) >= IN_FLIGHT_PER_PROCESS * processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process was killed, probably for want of memory; use fewer --processes"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def collect(
    what: str,
    function: Callable[[A], B],
    items: Sequence[A],
    *,
    processes: int,
    size_of: Callable[[A], int] = lambda _: 1,
) -> list[B]:
    """As `map_in_order`, all results at once, while the terminal shows how far it is.

    Args:
        what: is done, such as "verifying".
        function: of an item, runs in the workers.
        items: what is handed out, one at a time.
        processes: workers.
        size_of: how much of the whole an item is.

    Raises:
        InputError: a worker was killed.
    """
    results: list[B] = []
    with (
        progress(what, sum(map(size_of, items))) as advance,
        contextlib.closing(map_in_order(function, items, processes=processes)) as arriving,
    ):
        for item, result in zip(items, arriving, strict=True):
            results.append(result)
            advance(size_of(item))
    return results


def _start_worker() -> None:
    import cv2

    # As many threads as processors in each of as many processes would only get in each other's way.
    cv2.setNumThreads(1)
    # Ctrl-C reaches every process of a terminal; the one that gave the work stops it in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A pool's workers wait for work for ever, also when the process that gave it was killed.
        leave = functools.partial(_exit_after, parent.join)
        threading.Thread(target=leave, daemon=True).start()


def _exit_after(wait: Callable[[], object]) -> None:
    wait()
    os._exit(1)
