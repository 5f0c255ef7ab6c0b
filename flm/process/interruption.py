"""Signals that wait until a block is through."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def signals_deferred(*signals: signal.Signals) -> Iterator[None]:
    """These signals wait until the block is through."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread only.
        return
    arrived: list[int] = []
    # A mask would not do: another thread would take the signal and Python raise it here all the same.
    handlers = {number: signal.signal(number, lambda number, _: arrived.append(number)) for number in signals}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number in arrived:
        signal.raise_signal(number)
