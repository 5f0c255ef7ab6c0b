"""What a page of a data set shows."""

from dataclasses import dataclass, field

from shards.workers import usable_cpus


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectOptions:
    """What the page shows."""

    max_faces: int = 20_000
    """Of a larger data set that many faces are measured, spread evenly over all shards; the page says so."""
    unusual: int = 24
    """How many of the most unusual faces are shown."""
    processes: int = field(default_factory=usable_cpus)
    """Worker processes; changes nothing in the page. Default: one for each processor."""

    def __post_init__(self) -> None:
        for name, minimum in {"max_faces": 1, "unusual": 1, "processes": 1}.items():
            if getattr(self, name) < minimum:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is {getattr(self, name)}, the least is {minimum}")
