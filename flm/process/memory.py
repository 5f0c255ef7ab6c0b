"""Freed memory, kept for the next step."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
"""Numbers of `mallopt`'s parameters. Source: mallopt(3)."""

TOP_PAD_BYTES = 64 * 2**20

NUM_ARENAS = 2
"""What threads allocate from. By itself glibc makes up to eight for each core, and each would keep for itself
the most that ever was in it: a server with many threads would grow for hours."""


def keep_freed_memory() -> bool:
    """Have the C library keep what this process frees, for a training or a prediction on the processor.

    Every layer of a network frees its largest tensors in each step and asks for the same again. By default
    glibc hands those back to the system, which clears each page when it is touched the next time: a third of
    a training's time on some machines. Threads share what is kept: it does not grow with their number.

    Returns:
        Whether the C library can: glibc alone; others stay as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    parameters = {M_TRIM_THRESHOLD: -1, M_TOP_PAD: TOP_PAD_BYTES, M_MMAP_MAX: 0, M_ARENA_MAX: NUM_ARENAS}
    taken = [mallopt(parameter, value) == 1 for parameter, value in parameters.items()]
    return all(taken)
