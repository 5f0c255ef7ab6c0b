"""A network as huggingface_hub's users load one: `from_pretrained`, `save_pretrained`, `push_to_hub`."""

from pathlib import Path
from typing import Any

from huggingface_hub import PyTorchModelHubMixin

from flm.checkpoint import CHECKPOINT_SCHEMA_VERSION, CONFIG_NAME
from flm.data.loader import LoaderConfig
from flm.fields import to_fields
from flm.files import write_json
from flm.model.network import LandmarkNetwork, ModelConfig


class PretrainedNetwork(LandmarkNetwork, PyTorchModelHubMixin, library_name="flm", tags=["facial-landmarks"]):
    """A `LandmarkNetwork` with the weights of a model repository, or of a checkpoint's folder.

    `PretrainedNetwork.from_pretrained("USER/NAME")` is in evaluation mode. Other than with the mixin by
    itself, weights that are missing or left over are an error, unless `strict=False` is given.

    Args:
        model: what it is made of; the field `model` of the repository's `config.json`.
    """

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model, load_weights=False)

    @classmethod
    def _from_pretrained(cls, *, strict: bool = True, **how: Any) -> "PretrainedNetwork":
        return super()._from_pretrained(strict=strict, **how)

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)
        # As of a checkpoint, so that `flm.load` takes the folder too.
        fields = {
            "schema_version": CHECKPOINT_SCHEMA_VERSION,
            "model": to_fields(self.config),
            "loader": to_fields(LoaderConfig()),
        }
        write_json(save_directory / CONFIG_NAME, fields)
