"""flm publish space: the demo as a Hugging Face Space, with flm beside it and a model in it."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi, SpaceCard

from flm.errors import InputError
from flm.files import write_whole
from flm.inference.hub_file import HUB_PREFIX, repository_of
from flm.inference.load import DEFAULT_MODEL, ONNX_NAME, ONNX_SUFFIX, find_model
from flm.publish.card import CARD_FILE, LICENCE_FILE, LICENCE_NAME
from flm.publish.card_sources import CardSources
from flm.publish.hub import Repository, check_may_publish, send, told_in_one_line
from flm.publish.listing import listing
from flm.publish.publish_config import PublishConfig

PACKAGE = Path(__file__).parents[1]
DEMO = PACKAGE.parent / "demo"
LICENCE = PACKAGE.parent / LICENCE_FILE

MODEL_FOLDER = "model"
POINTER = "checkpoint.json"
"""In the model's folder, where the model is one of the Hub: `{"checkpoint": "hf://USER/NAME@REVISION"}`."""

NEVER = ("__pycache__", "*.pyc", "*.pyi", ".*", "shipped_model")
LEFT_OUT = shutil.ignore_patterns(*NEVER)
LEFT_OUT_OF_FLM = shutil.ignore_patterns(*NEVER, "*.md")

STALE = ("flm/*", f"{MODEL_FOLDER}/*", "examples/*", "*.py", "*.css", "*.js")
"""What an earlier version may have left in the Space; else there may be files of its owner."""


def publish_space(checkpoint: str, config: PublishConfig, say: Callable[[str], None] = print) -> None:
    """Publish the demo with a model, as a Space that needs nothing of ours elsewhere.

    Args:
        checkpoint: a checkpoint's or a run's folder, an .onnx file, a folder of a model that was passed on,
            `hf://USER/NAME`, or `default`.
        config: where it goes, and what the card of a checkpoint is made of.
        say: is given a line for each thing that is known.

    Raises:
        InputError: there is no such model or no demo here, or the Hub refuses or cannot be reached.
    """
    repository = Repository(name=config.repository, kind="space", private=config.private)
    if not config.dry_run:
        check_may_publish(repository)
    with tempfile.TemporaryDirectory(prefix="flm-publish-") as place:
        folder = Path(place)
        write_space(folder, checkpoint, config.sources, say)
        if config.dry_run:
            say(listing(folder, repository))
            return
        commit = send(folder, repository, STALE)
    say(f"{repository.url}: {commit[:8]}; it builds now, which takes some minutes")


def write_space(
    folder: Path, checkpoint: str, sources: CardSources, say: Callable[[str], None] = print
) -> None:
    """The Space as it is sent: the demo's files, the package flm, a model.

    Raises:
        InputError: there is no such model, or no demo beside this flm.
    """
    if not (DEMO / "app.py").is_file():
        raise InputError(f"{DEMO}: there is no demo beside this flm; run the command in a checkout")
    folder.mkdir(parents=True, exist_ok=True)
    names = {path.name for path in DEMO.iterdir()}
    for name in sorted(names - {MODEL_FOLDER, "__init__.py"} - LEFT_OUT(str(DEMO), list(names))):
        if (DEMO / name).is_dir():
            shutil.copytree(DEMO / name, folder / name, ignore=LEFT_OUT)
        else:
            shutil.copyfile(DEMO / name, folder / name)
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=LEFT_OUT_OF_FLM)
    if LICENCE.is_file():
        shutil.copyfile(LICENCE, folder / LICENCE_FILE)
    _tell_of_model(folder, _put_model(folder / MODEL_FOLDER, checkpoint, sources, say))


def _put_model(
    folder: Path, checkpoint: str, sources: CardSources, say: Callable[[str], None]
) -> tuple[str, str] | None:
    """The model's files; gives USER/NAME and commit of one that stays on the Hub."""
    if checkpoint.startswith(HUB_PREFIX):
        name, commit = _on_the_hub(checkpoint)
        pointer = json.dumps({"checkpoint": f"{HUB_PREFIX}{name}@{commit}"}) + "\n"
        write_whole(folder / POINTER, pointer.encode())
        return name, commit
    path = find_model(checkpoint)
    passed_on = path.parent if checkpoint == DEFAULT_MODEL else path
    if (passed_on / ONNX_NAME).is_file():
        shutil.copytree(passed_on, folder, ignore=LEFT_OUT)
    elif path.suffix == ONNX_SUFFIX:
        from flm.inference.onnx_network import OnnxNetwork

        OnnxNetwork(path)  # refuses what is not ours
        folder.mkdir()
        shutil.copyfile(path, folder / ONNX_NAME)
    else:
        from flm.publish.card_files import write_card
        from flm.publish.model import export_half

        opened = write_card(path, sources, folder / CARD_FILE)
        export_half(opened, folder / ONNX_NAME, sources.data, say)
    return None


def _on_the_hub(checkpoint: str) -> tuple[str, str]:
    """USER/NAME and the commit of a model, which must run without PyTorch: a Space has none."""
    name, revision = repository_of(checkpoint)
    with told_in_one_line(Repository(name=name, kind="model")):
        about = HfApi().model_info(name, revision=revision)
    if ONNX_NAME not in [file.rfilename for file in about.siblings or ()]:
        raise InputError(f"{checkpoint}: has no {ONNX_NAME}; publish it with `flm publish model`")
    assert about.sha is not None
    return name, about.sha


def _tell_of_model(folder: Path, on_the_hub: tuple[str, str] | None) -> None:
    """The front matter: the models that the page uses, and their licence."""
    card = SpaceCard.load(folder / CARD_FILE)
    told = card.data
    if on_the_hub is not None:
        pinned, commit = on_the_hub
        told["models"] = [pinned, *told["models"]]
        # Fetched when the Space is built, not when it starts.
        told["preload_from_hub"] = [f"{pinned} {ONNX_NAME} {commit}", *told["preload_from_hub"]]
    has_licence = (folder / MODEL_FOLDER / LICENCE_FILE).is_file()
    is_free = on_the_hub is None and not has_licence
    told["license"] = "mit" if is_free else "other"
    told["license_name"] = None if is_free else LICENCE_NAME
    told["license_link"] = f"{MODEL_FOLDER}/{LICENCE_FILE}" if has_licence else None
    card.save(folder / CARD_FILE)
