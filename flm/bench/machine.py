"""The machine that something is measured on."""

import contextlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]

MOST_S = 10
"""Of a program that is asked something."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What numbers hang on; None where it is not known."""

    processor: str
    cores: int | None = None
    """With arithmetic of their own, in all sockets."""
    threads: int | None = None
    """That this process may run on at a time."""
    memory_gib: float | None = None
    accelerator: str | None = None
    """GPUs by name; `none` without."""
    system: str | None = None
    python: str | None = None
    torch: str | None = None
    """Version of PyTorch."""
    commit: str | None = None
    """Of this project; ends with `+` where files were changed since."""
    load: float | None = None
    """Programs that wanted a core over the minute before; numbers of a busy machine say little."""

    @classmethod
    def here(cls) -> "Machine":
        """This one, now."""
        return cls(
            processor=processor(),
            cores=_cores(),
            threads=usable_threads(),
            memory_gib=_memory_gib(),
            accelerator=_accelerator(),
            system=_system(),
            python=platform.python_version(),
            torch=versions_of(["torch"]).get("torch", "not installed"),
            commit=_commit(CHECKOUT),
            load=load_average(),
        )

    def facts(self) -> dict[str, str]:
        """What is known, as names and words."""
        words = {
            "Processor": self.processor,
            "Cores": "" if self.cores is None else f"{self.cores}, with {self.threads} threads",
            "Memory": "" if self.memory_gib is None else f"{self.memory_gib:.1f} GiB",
            "GPU": self.accelerator,
            "System": self.system,
            "Python": self.python,
            "PyTorch": self.torch,
            "Commit": self.commit,
            "Load before": "" if self.load is None else f"{self.load:.1f}",
        }
        return {name: word for name, word in words.items() if word}

    def describe(self) -> str:
        """In a line, for a table."""
        cores = "" if self.cores is None else f"{self.cores} cores of "
        gpu = f", {self.accelerator}" if self.accelerator not in (None, "none") else ""
        load = "" if self.load is None else f", load before {self.load:.1f}"
        return f"{cores}{self.processor}{gpu}{load}"


def load_average() -> float | None:
    """Programs that wanted a core over the last minute, where the system tells it."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def processor() -> str:
    """Its name, where the system tells it."""
    return next(iter(_from_cpuinfo("model name")), platform.processor() or platform.machine())


def usable_threads() -> int:
    """On how many of the machine's threads this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cores() -> int | None:
    """Threads of one core share it."""
    pairs = set(zip(_from_cpuinfo("physical id"), _from_cpuinfo("core id"), strict=False))
    return len(pairs) or os.cpu_count()


def _from_cpuinfo(name: str) -> list[str]:
    """A line of each processor, where there are such."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        pairs = (line.partition(":") for line in lines)
        return [value.strip() for found, _, value in pairs if found.strip() == name]
    return []


def _memory_gib() -> float | None:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return None


def _system() -> str:
    with contextlib.suppress(OSError):
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.system()} {platform.release()}"
    return platform.platform()


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _accelerator() -> str:
    """Asked of the driver, since PyTorch would take memory of the GPU to tell."""
    if shutil.which("nvidia-smi") is None:
        return "none"
    names = told(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]) or ""
    return ", ".join(names.splitlines()) or "none"


def _commit(checkout: Path) -> str | None:
    """None where this is no checkout."""
    if not (checkout / ".git").exists():
        return None
    commit = told(["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"])
    changed = told(["git", "-C", str(checkout), "status", "--porcelain", "--untracked-files=no"])
    return None if commit is None else commit + ("+" if changed else "")


def told(words: list[str]) -> str | None:
    """What a program says; None where it is missing or fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=MOST_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
