"""What `flm bench gpu` tells: the device, checks with how they ended, and figures."""

import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import onnxruntime
import torch

import flm
from flm.bench.figures import NOT_MEASURED, Figure
from flm.bench.machine import Machine, processor, told, versions_of
from flm.errors import InputError
from flm.files import write_json

Status = Literal["passed", "failed", "skipped"]

PACKAGES = (
    *("torch", "torchvision", "timm", "kornia", "accelerate"),
    *("onnxruntime", "onnxruntime-gpu", "opencv-python", "opencv-python-headless", "numpy"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """Something that was tried."""

    name: str
    status: Status
    reason: str = ""
    """Why it was not passed, in one line."""
    seconds: float = 0.0


@dataclass(kw_only=True, slots=True)
class GpuReport:
    """All that is known so far."""

    device: dict[str, Any]
    versions: dict[str, str]
    machine: Machine
    how: str = ""
    """What the figures share."""
    checks: list[Check] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    @classmethod
    def begin(cls, device: torch.device) -> "GpuReport":
        """Without checks and figures."""
        return cls(device=describe_device(device), versions=versions(), machine=Machine.here())

    @property
    def has_failed(self) -> bool:
        """Whether a check has."""
        return any(check.status == "failed" for check in self.checks)

    def text(self) -> str:
        """For the terminal."""
        lines = [f"{check.status:8} {check.name}" for check in self.checks if check.status == "passed"]
        lines += [
            f"{check.status:8} {check.name}: {check.reason}"
            for check in self.checks
            if check.status != "passed"
        ]
        lines += [_line_of(figure) for figure in self.figures]
        return "\n".join([*lines, self.summary()])

    def summary(self) -> str:
        """In one line, and plainly whether a GPU was there."""
        count = Counter(check.status for check in self.checks)
        checks = f"{count['passed']} checks passed, {count['failed']} failed, {count['skipped']} skipped"
        if self.device["kind"] == "cuda":
            return f"{self.device['name']}: {checks}"
        return f"no GPU here: {checks}; all figures are the processor's and say nothing of a GPU"

    def write_json(self, path: Path) -> None:
        """All of it."""
        content = {
            "flm": flm.__version__,
            "summary": self.summary(),
            "device": self.device,
            "machine": asdict(self.machine),
            "versions": self.versions,
            "how": self.how,
            "checks": [asdict(check) for check in self.checks],
            "figures": [figure.to_json() for figure in self.figures],
        }
        write_json(path, content)


def describe_device(device: torch.device) -> dict[str, Any]:
    """A device's name and what drives it."""
    if device.type != "cuda":
        return {"kind": "cpu", "name": processor(), "cores": os.cpu_count()}
    about = torch.cuda.get_device_properties(device)
    return {
        "kind": "cuda",
        "name": about.name,
        "memory_gib": round(about.total_memory / 2**30, 1),
        "capability": f"{about.major}.{about.minor}",
        "count": torch.cuda.device_count(),
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that compute, those that are installed."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        **versions_of(PACKAGES),
        "torch": torch.__version__,  # with the CUDA that it was built for
        "onnxruntime's providers": ", ".join(onnxruntime.get_available_providers()),
    }


def checks_of_tests(path: Path) -> list[Check]:
    """How tests ended.

    Args:
        path: what `pytest --junit-xml` wrote.

    Raises:
        InputError: there is no such file, or it is none of pytest's.
    """
    try:
        cases = list(ElementTree.parse(path).iter("testcase"))
    except (OSError, ElementTree.ParseError) as error:
        raise InputError(
            f"{path}: no results of tests ({error}); write them with pytest --junit-xml"
        ) from error
    return [_check_of(case) for case in cases]


def _check_of(case: ElementTree.Element) -> Check:
    status: Status = "passed"
    reason = ""
    for part in case:
        if part.tag in ("failure", "error", "skipped"):
            status = "skipped" if part.tag == "skipped" else "failed"
            reason = next(iter(part.get("message", "").splitlines()), "")
    words = case.get("name", "").removeprefix("test_").replace("_", " ")
    return Check(
        name=words.replace("[", " ["), status=status, reason=reason, seconds=float(case.get("time", 0))
    )


def failed(name: str, error: Exception, seconds: float) -> Check:
    """A check that ended with an error."""
    lines: Sequence[str] = str(error).splitlines() or [""]
    return Check(name=name, status="failed", reason=f"{type(error).__name__}: {lines[0]}", seconds=seconds)


def _line_of(figure: Figure) -> str:
    value = NOT_MEASURED if figure.value is None else f"{figure.value:,.4g} {figure.unit}"
    how = f" ({figure.how})" if figure.how else ""
    return f"{figure.subject}, {figure.side}: {value}{how}"


def _driver() -> str | None:
    said = told(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]) or ""
    return next(iter(said.splitlines()), None)
