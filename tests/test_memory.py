"""Freed memory comes back without the system's help."""

import ctypes
import platform
import subprocess
import sys

import pytest

from flm.process.memory import keep_freed_memory

PROGRAM = """
import resource, sys
import numpy as np
from flm.process.memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "kept" else None
def fill():
    return [np.ones(size, np.uint8).sum() for size in (2**26, 2**27)]
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    fill()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

MANY_THREADS = """
import threading
from pathlib import Path
import numpy as np
from flm.process.memory import keep_freed_memory
def size_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS"))
keep_freed_memory()
before_mb, end = size_mb(), threading.Event()
for _ in range(12):
    done = threading.Event()
    def work(done=done):
        np.ones(2**24, np.uint8)
        done.set()
        end.wait()
    threading.Thread(target=work).start()
    done.wait()
print(size_mb() - before_mb)
end.set()
"""


def page_faults(mode: str) -> tuple[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True, timeout=60
    )
    kept, faults = done.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_what_was_freed_is_taken_again_without_a_page_fault():
    assert page_faults("kept")[0] == "True"
    mib = 5 * (64 + 128)
    # Huge pages, where the system has them on, are 2 MiB.
    assert page_faults("plain")[1] >= mib / 2
    assert page_faults("kept")[1] < mib / 8


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_what_one_thread_freed_the_next_takes():
    done = subprocess.run(
        [sys.executable, "-c", MANY_THREADS], capture_output=True, text=True, check=True, timeout=60
    )
    # One after the other, all alive: 17 MB each is 200 if each keeps its own.
    assert float(done.stdout) < 60


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", pytest.fail)
    assert keep_freed_memory() is False
