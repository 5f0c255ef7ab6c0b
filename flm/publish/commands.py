"""flm publish. Parsing only: each command imports what it needs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import tyro

from flm.publish.card_sources import NO_SOURCES
from flm.publish.publish_config import PublishConfig, Sources

Config = Annotated[PublishConfig, tyro.conf.arg(name="")]


def publish_model(checkpoint: tyro.conf.Positional[Path], config: Config) -> None:
    """Send a checkpoint to the Hugging Face Hub, with its card and as .onnx; hf://USER/NAME is its name then.

    It is loaded back and compared. When it was broken off, the same command goes on. Such as:
      flm publish model runs/quick you/faces --report truth.json detector.json --plot ced.png

    Args:
        checkpoint: Folder of a checkpoint, or of a run (its best).
        config: Where it goes, and what its card is made of.
    """
    from flm.process.memory import keep_freed_memory
    from flm.publish.model import publish_model as publish

    keep_freed_memory()
    publish(checkpoint, config)


def publish_space(checkpoint: tyro.conf.Positional[str], config: Config) -> None:
    """Send the web page with a model to the Hugging Face Hub, as a Space; needs a checkout of flm.

    When it was broken off, the same command goes on; later it brings the Space up to date. Such as:
      flm publish space hf://you/faces you/faces-demo
      flm publish space runs/quick you/faces-demo --report truth.json --plot ced.png

    Args:
        checkpoint: hf://USER/NAME, a checkpoint, a run (its best), an .onnx file, or `default`.
        config: Where it goes, and what the card of a checkpoint is made of.
    """
    from flm.publish.space import publish_space as publish

    publish(checkpoint, config)


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
