"""What `flm publish model` and `flm publish space` have in common, known without what publishes."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from flm.publish.card_sources import NO_SOURCES, CardSources

Sources = Annotated[CardSources, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishConfig:
    """Where something goes, and what its card is made of."""

    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/NAME")]
    """Where it goes; made if it is not there, else brought up to date: what it has is not sent again."""
    private: bool = False
    """Only you see it."""
    dry_run: bool = False
    """List the files and their sizes, and send nothing."""
    sources: Sources = NO_SOURCES
