"""What a card is made of: apart from what writes it, so that a command line knows its flags at once."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class CardSources:
    """What a model card is made of, beside the checkpoint; what is not given is not in it."""

    report: tuple[Path, ...] = ()
    """Files of `flm evaluate --json`, such as one with true boxes and one with a detector's."""
    speed: Path | None = None
    """The predict.json of `flm bench predict`."""
    plot: Path | None = None
    """The curve of `flm evaluate --plot`."""
    predictions: Path | None = None
    """The faces of `flm evaluate --predictions`, where the licence of the data lets them be shown."""
    worst: Path | None = None
    """The faces of `flm evaluate --worst`; the same."""
    data: str | None = None
    """Shards that it was trained on, a folder or URL, where they moved since."""
    command: tuple[str, ...] = ()
    """That made it, where it was more than one; each in quotes."""


NO_SOURCES = CardSources()
