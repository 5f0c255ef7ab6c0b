"""What `flm evaluate --json` and `flm bench predict` wrote."""

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flm.errors import InputError, first_line
from flm.evaluation.report import MeasuredOn
from flm.fields import from_fields, parse_json
from flm.metrics.nme import NmeSummary
from flm.metrics.reliability import Reliability

OURS = "ours"
"""How a benchmark names our side, or begins its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFile:
    """An evaluation."""

    boxes: str
    detector: str | None
    second_pass: bool
    mirror_average: bool
    summary: NmeSummary
    subsets: dict[str, NmeSummary]
    parts: dict[str, float]
    num_not_detected: int
    is_calibrated: bool
    reliability: Reliability | None
    """None of networks without covariances."""
    measured_on: MeasuredOn | None
    """None in files of older versions of flm."""

    @property
    def look(self) -> str:
        """How the faces were looked at, in a cell of a table."""
        names = {"second pass": self.second_pass, "mirror average": self.mirror_average}
        boxes = self.boxes if self.detector is None else f"{self.boxes} ({self.detector})"
        return ", ".join([boxes, *(name for name, wanted in names.items() if wanted)])

    @classmethod
    def read(cls, path: Path) -> "ReportFile":
        """Read a file of `flm evaluate --json`.

        Raises:
            InputError: it is missing or another file.
        """
        where = str(path)
        with _read(path, "flm evaluate --json") as fields:
            return cls(
                boxes=fields["boxes"],
                detector=fields.get("detector"),
                second_pass=fields["second_pass"],
                mirror_average=fields["mirror_average"],
                summary=_summary(fields, where),
                subsets={name: _summary(part, where) for name, part in fields["subsets"].items()},
                parts=fields["parts"],
                num_not_detected=fields.get("num_not_detected", 0),
                is_calibrated=fields.get("calibration", {}).get("calibrated", False),
                reliability=_reliability(fields.get("calibration"), where),
                measured_on=_measured_on(fields.get("measured_on"), where),
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedRow:
    """One line of a benchmark's file."""

    measure: str
    value: float
    unit: str
    how: str
    """Conditions, in words."""


def read_speed(path: Path) -> list[SpeedRow]:
    """Our side of the times and rates in a `predict.json` of `flm bench predict`.

    Raises:
        InputError: it is missing or another file.
    """
    with _read(path, "flm bench predict") as fields:
        machine = fields["conditions"]
        where = f"{machine['cores']} cores of {machine['processor']}"
        return [
            SpeedRow(
                measure=figure["subject"] + figure["side"].removeprefix(OURS),
                value=float(figure["value"]),
                unit=figure["unit"],
                how="; ".join(filter(None, (figure["how"], where))),
            )
            for figure in fields["figures"]
            if figure["side"].startswith(OURS) and figure["value"] is not None and _is_speed(figure["unit"])
        ]


def _is_speed(unit: str) -> bool:
    """Whether this is a time or a rate; the file has other figures too."""
    return unit.startswith("ms") or unit.endswith("/s")


@contextlib.contextmanager
def _read(path: Path, made_by: str) -> Iterator[dict[str, Any]]:
    """What a file holds; whoever finds something else in it than expected has a mistake of the user."""
    try:
        yield parse_json(path.read_bytes())
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a file of `{made_by}`") from error
    except KeyError as error:
        raise InputError(f"{path}: {error} is missing; give a file of `{made_by}`") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: another file ({first_line(error)}); give one of `{made_by}`") from error


def _summary(fields: dict[str, Any], where: str) -> NmeSummary:
    return from_fields(NmeSummary, _those_of(NmeSummary, fields), where)


def _reliability(fields: dict[str, Any] | None, where: str) -> Reliability | None:
    return None if fields is None else from_fields(Reliability, _those_of(Reliability, fields), where)


def _measured_on(fields: dict[str, Any] | None, where: str) -> MeasuredOn | None:
    return None if fields is None else from_fields(MeasuredOn, fields, where)


def _those_of(kind: Any, fields: dict[str, Any]) -> dict[str, Any]:
    return {field.name: fields[field.name] for field in dataclasses.fields(kind)}
