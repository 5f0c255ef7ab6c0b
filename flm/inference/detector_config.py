"""How faces are looked for: apart from the detectors, so that a command line knows its flags at once."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorConfig:
    """How faces are looked for."""

    kind: Literal["auto", "yunet", "dlib", "whole"] = "auto"
    """`auto` is YuNet, or dlib where YuNet's file cannot be had; `whole` takes the picture as one face."""
    model: Path | None = None
    """YuNet's ONNX file; fetched once from the Hugging Face Hub if not given."""
    min_score: float = 0.6
    """Of a face, between 0 and 1; lower finds more and errs more."""
    side_px: int = 640
    """Longer side that a picture is looked at with first; faces below a fiftieth of it are not found."""
    search: Literal["quick", "thorough"] = "quick"
    """`quick` looks at other scales only where nothing was found; `thorough` always looks at all of them."""

    def __post_init__(self) -> None:
        if not 0 < self.min_score < 1:
            raise ValueError(f"--detector.min-score is {self.min_score}, must be between 0 and 1")
        if not 64 <= self.side_px <= 4096:
            raise ValueError(f"--detector.side-px is {self.side_px}, must be between 64 and 4096")

    def flags(self) -> tuple[str, ...]:
        """The words of a command line for all that is not as usual."""
        words: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                words += [f"--detector.{field.name.replace('_', '-')}", str(value)]
        return tuple(words)


ANY_DETECTOR = DetectorConfig()
