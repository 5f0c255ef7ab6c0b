"""flm publish. Parsing only: each command imports what it needs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import tyro

from flm.publish.card_sources import NO_SOURCES, CardSources

Sources = Annotated[CardSources, tyro.conf.arg(name="")]


def publish_model(
    checkpoint: tyro.conf.Positional[Path],
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/NAME")],
    *,
    private: bool = False,
    dry_run: bool = False,
    sources: Sources = NO_SOURCES,
) -> None:
    """Send a checkpoint to the Hugging Face Hub, with its card and as .onnx; hf://USER/NAME is its name then.

    It is loaded back and compared. When it was broken off, the same command goes on. Such as:
      flm publish model runs/quick you/faces --report truth.json detector.json --plot ced.png

    Args:
        checkpoint: Folder of a checkpoint, or of a run (its best).
        repository: Where it goes; made if it is not there.
        private: Only you see it.
        dry_run: List the files and their sizes, and send nothing.
        sources: What the card is made of.
    """
    from flm.memory import keep_freed_memory
    from flm.publish.hub import Repository
    from flm.publish.model import publish_model as publish

    keep_freed_memory()
    where = Repository(name=repository, kind="model", private=private)
    publish(checkpoint, where, sources, dry_run=dry_run)


def publish_space(
    checkpoint: tyro.conf.Positional[str],
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/NAME")],
    *,
    private: bool = False,
    dry_run: bool = False,
    sources: Sources = NO_SOURCES,
) -> None:
    """Send the web page with a model to the Hugging Face Hub, as a Space; needs a checkout of flm.

    When it was broken off, the same command goes on; later it brings the Space up to date. Such as:
      flm publish space hf://you/faces you/faces-demo
      flm publish space runs/quick you/faces-demo --report truth.json --plot ced.png

    Args:
        checkpoint: hf://USER/NAME, a checkpoint, a run (its best), an .onnx file, or `default`.
        repository: Where it goes; made if it is not there.
        private: Only you see it.
        dry_run: List the files and their sizes, and send nothing.
        sources: What the card of a checkpoint is made of.
    """
    from flm.publish.hub import Repository
    from flm.publish.space import publish_space as publish

    where = Repository(name=repository, kind="space", private=private)
    publish(checkpoint, where, sources, dry_run=dry_run)


def publish_card(
    checkpoint: tyro.conf.Positional[Path],
    *,
    out: Path,
    model: str = "",
    sources: Sources = NO_SOURCES,
) -> None:
    """Write the model card of a checkpoint: what it is, what was measured, and what it is not for.

    Such as:
      flm publish card runs/quick --report truth.json detector.json --plot ced.png --out card/README.md

    Args:
        checkpoint: Folder of a checkpoint, or of a run (its best).
        out: The card; its pictures and the licence go beside it.
        model: What a reader gives as --checkpoint, such as hf://USER/NAME; the model that comes with flm if
            not given.
        sources: What it is made of.
    """
    from flm.publish.card_files import write_card

    write_card(checkpoint, sources, out, model=model)
    print(f"{out}: the card of {checkpoint}")


PUBLICATIONS: Mapping[str, Callable[..., object]] = {
    "model": publish_model,
    "space": publish_space,
    "card": publish_card,
}
