"""flm publish model: a checkpoint as a model repository, loaded back from there before it is called done."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from flm.checkpoint import CONFIG_NAME, MODEL_NAME, STATE_NAME, SUMS_NAME
from flm.data.store import open_store
from flm.errors import InputError
from flm.files import sha256_of, write_json
from flm.inference.export.agreement import compare, random_crops
from flm.inference.export.export import ExportOptions, export_onnx
from flm.inference.hub_file import HUB_FILES, HUB_PREFIX, hub_model
from flm.inference.load import ONNX_NAME
from flm.inference.onnx_network import OnnxNetwork
from flm.inference.torch_network import TorchNetwork
from flm.metrics.calibration import CALIBRATION_NAME
from flm.publish.about import Checkpoint
from flm.publish.card import CARD_FILE
from flm.publish.card_files import write_card
from flm.publish.hub import Repository, check_may_publish, send, told_in_one_line
from flm.publish.listing import listing
from flm.publish.pretrained import PretrainedNetwork
from flm.publish.publish_config import PublishConfig

MOST_DIFFERENCE_UNIT = 1e-6
"""Between the file that was sent and the one that came back; they are the same, and so is the machine."""


def publish_model(checkpoint: Path, config: PublishConfig, say: Callable[[str], None] = print) -> None:
    """Publish a checkpoint with its card, so that `hf://USER/NAME` can be given for it everywhere.

    Args:
        checkpoint: a checkpoint's or a run's folder.
        config: where it goes; `sources.data` is also what the halved network is measured on.
        say: is given a line for each thing that is known.

    Raises:
        InputError: there is no checkpoint, a file cannot be used, the Hub refuses or cannot be reached, or
            what comes back from it is not what was sent.
    """
    repository = Repository(name=config.repository, kind="model", private=config.private)
    if not config.dry_run:
        check_may_publish(repository)
    with tempfile.TemporaryDirectory(prefix="flm-publish-") as place:
        folder = Path(place)
        name = f"{HUB_PREFIX}{repository.name}"
        opened = write_card(checkpoint, config.sources, folder / CARD_FILE, model=name)
        write_model_files(opened, folder, config.sources.data, say)
        if config.dry_run:
            say(listing(folder, repository))
            return
        commit = send(folder, repository)
        say(f"{repository.url}: {commit[:8]}")
        _check_what_came_back(folder, repository, commit, say)


def write_model_files(
    checkpoint: Checkpoint, folder: Path, data: str | None, say: Callable[[str], None]
) -> None:
    """Everything but the card: weights, what they are of, and the same network halved for onnxruntime.

    Raises:
        InputError: the halved network errs more on the data than it may.
    """
    # The weights are in the folder: who loads it looks for no others.
    model = {**checkpoint.fields["model"], "pretrained": False, "weights": None}
    write_json(folder / CONFIG_NAME, {**checkpoint.fields, "model": model})
    for name in (MODEL_NAME, STATE_NAME, CALIBRATION_NAME):
        if (checkpoint.folder / name).is_file():
            shutil.copyfile(checkpoint.folder / name, folder / name)
    export_half(checkpoint, folder / ONNX_NAME, data, say)
    there = [name for name in HUB_FILES if (folder / name).is_file()]
    sums = "".join(f"{sha256_of(folder / name)}  {name}\n" for name in there)
    (folder / SUMS_NAME).write_text(sums, encoding="utf-8")


def export_half(checkpoint: Checkpoint, file: Path, data: str | None, say: Callable[[str], None]) -> None:
    """The .onnx file, with the licence that the card has.

    Raises:
        InputError: it errs more on the data than it may.
    """
    can_measure = data is not None and open_store(data).manifest.num_samples("validation") > 0
    options = ExportOptions(precision="half", data=data if can_measure else None, licence=checkpoint.licence)
    export_onnx(checkpoint.folder, file, options, say)


def _check_what_came_back(
    folder: Path, repository: Repository, commit: str, say: Callable[[str], None]
) -> None:
    name = f"{HUB_PREFIX}{repository.name}@{commit}"
    there = hub_model(name)
    for file in (name for name in HUB_FILES if (folder / name).is_file()):
        if not (there / file).is_file() or sha256_of(there / file) != sha256_of(folder / file):
            raise InputError(f"{name}: {file} is not what was sent; the same command sends it again")
    with told_in_one_line(repository):
        network = PretrainedNetwork.from_pretrained(repository.name, revision=commit, strict=True)
    pairs = {
        "PyTorch": (TorchNetwork.load(folder), TorchNetwork(network)),
        "onnxruntime": (OnnxNetwork(folder / ONNX_NAME), OnnxNetwork(there / ONNX_NAME)),
    }
    for kind, (sent, came_back) in pairs.items():
        size_px = sent.input_size_px
        difference = compare(sent, came_back, [random_crops(size_px)]).difference_px / size_px
        if difference > MOST_DIFFERENCE_UNIT:
            raise InputError(f"{name}: finds other landmarks with {kind} than what was sent; send it again")
        say(f"loaded back with {kind}: landmarks differ by {difference:g} of the crop's side")
