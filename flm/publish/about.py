"""What a checkpoint tells of itself and of the faces that it was trained on."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from flm.checkpoint import (
    CHECKPOINT_SCHEMA_VERSION,
    MODEL_NAME,
    STATE_NAME,
    find_checkpoint,
    load_network,
    read_config,
    read_json,
)
from flm.data.manifest import Manifest
from flm.data.store import open_store
from flm.errors import InputError
from flm.evaluation.report import MeasuredOn
from flm.files import sha256_of
from flm.inference.export.export import LICENCE_NOT_TOLD
from flm.landmarks import LandmarkScheme, scheme_named
from flm.metrics.calibration import Calibration
from flm.model.network import LandmarkNetwork

ONLY_HERE = ("out", "resume")
"""Fields of a run's configuration that say nothing to others."""

_MIT = re.compile(r"(^|\W)MIT$")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """The shards that it was trained on."""

    source: str
    split_rule: str
    licence: str
    labels: str = ""
    """What made the landmarks, where it was a network."""
    num_faces: int | None = None
    """None where only a report knows of these shards."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """A checkpoint, opened to be told of."""

    folder: Path
    fields: dict[str, Any]
    """Of its configuration, without paths of the machine that it was trained on."""
    state: dict[str, Any]
    """Where its training stood; nothing where only the weights were passed on."""
    network: LandmarkNetwork
    weights_sha256: str
    calibration: Calibration | None
    data: TrainingData | None
    """None where nobody tells."""

    @property
    def recipe(self) -> str:
        """The name of its recipe."""
        return str(self.fields.get("recipe") or "a landmark network")

    @property
    def scheme(self) -> LandmarkScheme:
        """Of its landmarks."""
        return scheme_named(self.network.config.scheme)

    @property
    def num_weights(self) -> int:
        """Numbers that were learned."""
        return sum(weight.numel() for weight in self.network.parameters())

    @property
    def licence(self) -> str:
        """One sentence: that of the data, which holds for the weights too."""
        return LICENCE_NOT_TOLD if self.data is None else self.data.licence

    @property
    def is_free(self) -> bool:
        """Whether the weights are under the licence of the code."""
        return _MIT.search(self.licence) is not None


def open_checkpoint(path: Path, data: str | None, reports: tuple[MeasuredOn, ...] = ()) -> Checkpoint:
    """Open a checkpoint and find out what it was trained on.

    Args:
        path: a checkpoint's or a run's folder.
        data: the shards that it was trained on, a folder or URL; where its configuration has them if None.
        reports: what measurements were made on; one on the same shards tells their licence.

    Raises:
        InputError: there is no checkpoint, it is damaged, a report is of other weights, or it was not trained
            on `data`.
    """
    folder = find_checkpoint(path)
    network = load_network(folder)
    fields = read_config(folder)
    state = read_json(folder / STATE_NAME) if (folder / STATE_NAME).exists() else {}
    weights_sha256 = sha256_of(folder / MODEL_NAME)
    return Checkpoint(
        folder=folder,
        fields=without_machine_paths(fields),
        state=state,
        network=network,
        weights_sha256=weights_sha256,
        calibration=Calibration.load(folder),
        data=_training_data(folder, fields, state.get("manifest_hash"), data, reports),
    )


def without_machine_paths(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a run's configuration as others may read them: of a path, the last name is kept."""
    kept = {name: value for name, value in fields.items() if name not in ONLY_HERE}
    return {"schema_version": CHECKPOINT_SCHEMA_VERSION, **_shortened(kept)}


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shortened(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shortened(inner) for inner in value]
    is_path = isinstance(value, str) and Path(value).is_absolute()
    return PurePosixPath(value).name if is_path else value


def _training_data(
    folder: Path,
    fields: dict[str, Any],
    manifest_hash: str | None,
    data: str | None,
    reports: tuple[MeasuredOn, ...],
) -> TrainingData | None:
    if data is not None:
        manifest = open_store(data).manifest
        if manifest_hash is not None and manifest.content_hash() != manifest_hash:
            raise InputError(
                f"--data {data}: {folder} was trained on other shards; give those, or leave --data out"
            )
        return _of_manifest(manifest)
    if (at_hand := Manifest.of_training(fields, manifest_hash)) is not None:
        return _of_manifest(at_hand)
    same = [one for one in reports if one.data_hash == manifest_hash]
    if not same:
        return None
    told = dataclasses.asdict(same[0])
    return TrainingData(**{name: told[name] for name in ("source", "split_rule", "licence")})


def _of_manifest(manifest: Manifest) -> TrainingData:
    return TrainingData(
        source=manifest.source,
        split_rule=manifest.split_rule,
        licence=manifest.licence,
        labels=manifest.labels,
        num_faces=manifest.num_samples("train"),
    )
