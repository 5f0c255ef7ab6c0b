"""What the kernel tells of processes; its figures are those of /proc."""

import time
from pathlib import Path
from subprocess import Popen

MIB = 2**20


def family_of(process: int) -> list[int]:
    """A process and all that it started, and that those started."""
    found = [process]
    for task in _entries(Path(f"/proc/{process}/task")):
        for child in _text(task / "children").split():
            found += family_of(int(child))
    return found


def resident_mib(process: int, what: str = "VmRSS") -> float:
    """Memory that a process has in use (`VmRSS`), or had at most (`VmHWM`); 0 if it is gone."""
    for line in _text(Path(f"/proc/{process}/status")).splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    return 0.0


def open_tars(process: int) -> list[str]:
    """The tars that a process has open, each as often as it has."""
    targets: list[str] = []
    for handle in _entries(Path(f"/proc/{process}/fd")):
        try:
            targets.append(str(handle.readlink()))
        except OSError:
            continue
    return [target for target in targets if target.endswith(".tar")]


def peaks_of(process: Popen) -> dict[int, float]:
    """The most memory (MiB) of each process of a family, watched until the first one ends."""
    peaks: dict[int, list[float]] = {}
    while process.poll() is None:
        for member in family_of(process.pid):
            peaks.setdefault(member, []).append(resident_mib(member, "VmHWM"))
        time.sleep(0.02)
    # One that is gone at once was just about to become another program, and had its parent's memory.
    return {member: max(seen) for member, seen in peaks.items() if len(seen) > 3}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
