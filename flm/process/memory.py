"""Freed memory, kept for the next step."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Numbers of `mallopt`'s parameters. Source: mallopt(3)."""

TOP_PAD_BYTES = 64 * 2**20


def keep_freed_memory() -> bool:
    """Have the C library keep what this process frees, for a training or a prediction on the processor.

    Every layer of a network frees its largest tensors in each step and asks for the same again. By default
    glibc hands those back to the system, which clears each page when it is touched the next time: a third of
    a training's time on some machines.

    Returns:
        Whether the C library can: glibc alone; others stay as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    parameters = {M_TRIM_THRESHOLD: -1, M_TOP_PAD: TOP_PAD_BYTES, M_MMAP_MAX: 0}
    taken = [mallopt(parameter, value) == 1 for parameter, value in parameters.items()]
    return all(taken)
