"""How often a network looks at a face: apart from what looks, which may be PyTorch or not."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class PassConfig:
    """How often a network looks at a face; each of the two takes twice the time."""

    second_pass: bool = False
    """Look again, at the box of the landmarks that the first look found."""
    mirror_average: bool = False
    """Average with what is found in the mirrored picture."""


ONE_PASS = PassConfig()
