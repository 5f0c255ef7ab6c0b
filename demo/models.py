"""The networks that the page answers with: its own, and those of the Hub that visitors name."""

import dataclasses
import json
import re
import statistics
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flm.errors import InputError, warn
from flm.inference.detector_config import ANY_DETECTOR, DetectorConfig
from flm.inference.hub_file import HUB_PREFIX, WEIGHTS_NAME, repository_of
from flm.inference.load import ONNX_NAME, find_model, load
from flm.inference.pass_config import PassConfig
from flm.inference.predictor import Predictor

HERE = Path(__file__).parent
SHIPPED = HERE / "model"
"""Where the model lies that comes with the page."""

DETECTOR = SHIPPED / "face_detection_yunet_2023mar.onnx"
"""Taken where it is there, so that nothing is fetched."""

HUB_NAME = re.compile(r"hf://[\w.-]{1,96}/[\w.-]{1,96}(@[\w./-]{1,100})?")
MOST_HUB_BYTES = 400 * 2**20
HUB_MODELS_KEPT = 2
"""Of those that visitors named; the one that was not asked for longest is dropped."""

LOOKS = {
    "one look": PassConfig(),
    "two looks, and one in the mirror": PassConfig(second_pass=True, mirror_average=True),
}

TIMED_RUNS = 5
MEASURED_WITHIN_S = 60.0
"""After the start; who asks for the speed earlier waits for it as long."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What the page tells of a model."""

    name: str
    """As visitors see it."""
    folder: Path
    """Where its files lie: the card, the report, the configuration."""
    about: dict[str, Any]
    """What the network says of itself."""
    run_url: str | None = None
    """Where its training can be looked at."""


class Models:
    """The page's own model, others to compare with, and those of the Hub.

    Args:
        checkpoint: a path or `hf://…`; the model that comes with the page if empty.
        compare: more of them.
        detector: YuNet's file; see `DETECTOR`.

    Raises:
        InputError: a model cannot be loaded.
    """

    def __init__(self, checkpoint: str, compare: Sequence[str] = (), detector: Path | None = None) -> None:
        self._detector = _detector(detector)
        self.path = find_model(checkpoint or _shipped())
        self.main = self._load(self.path)
        self.name = _shown(checkpoint) if checkpoint else "the model of this page"
        self._given = {self.name: self.main}
        for name in compare:
            self._given[_shown(name)] = self._load(name)
        self._fetched: OrderedDict[str, Predictor] = OrderedDict()
        self._lock = threading.Lock()
        self._ms_per_face: float | None = None
        self._is_measured = threading.Event()

    @property
    def names(self) -> list[str]:
        """Of the models that need no fetching."""
        return list(self._given)

    @property
    def facts(self) -> ModelFacts:
        """Of the page's own model."""
        network = self.main.network
        about: dict[str, Any] = {
            "scheme": network.scheme.name,
            "points": network.scheme.num_points,
            "input": f"{network.input_size_px} px",
        }
        inside = getattr(network, "about", None)
        told = _told_of_checkpoint(self.path) if inside is None else dataclasses.asdict(inside)
        for field in ("recipe", "step", "precision", "licence"):
            if told.get(field) not in (None, ""):
                about[field] = told[field]
        folder = self.path if self.path.is_dir() else self.path.parent
        run_url = str(told.get("run_url") or "")
        # A file of somebody else may say anything.
        is_link = run_url.startswith(("https://", "http://"))
        return ModelFacts(name=self.name, folder=folder, about=about, run_url=run_url if is_link else None)

    def warm_up(self) -> None:
        """Build the detector, run everything once, and measure; in the background of the start."""
        size_px = 256
        noise = np.random.default_rng(0).integers(0, 255, (size_px, size_px, 3), np.uint8)
        try:
            self.main.predict(noise)
            from flm.inference.picture_input import whole

            times = []
            for _ in range(TIMED_RUNS):
                start_s = time.perf_counter()
                self.main.predict(noise, [whole(noise)])
                times.append(time.perf_counter() - start_s)
            self._ms_per_face = 1000 * statistics.median(times)
        except InputError as mistake:
            warn(str(mistake))
        finally:
            self._is_measured.set()

    def ms_per_face(self, wait_s: float = 0.0) -> float | None:
        """How long a face takes here; None where `warm_up` has not told, or could not.

        Args:
            wait_s: for `warm_up`, at most.
        """
        self._is_measured.wait(wait_s)
        return self._ms_per_face

    def chosen(self, name: str, look: str = "one look") -> Predictor:
        """The model that a visitor chose: one of `names`, or one of the Hub.

        Raises:
            InputError: there is no such model, or it is too large.
        """
        predictor = self._given.get(name) or self._of_hub(name)
        passes = LOOKS.get(look, PassConfig())
        if passes == predictor.passes:
            return predictor
        return Predictor(
            predictor.network,
            detector=predictor.detector,
            calibration=predictor.calibration,
            passes=passes,
        )

    def _of_hub(self, name: str) -> Predictor:
        name = name.strip()
        if not HUB_NAME.fullmatch(name):
            raise InputError(
                "a model is one of the list, or hf://USER/NAME of the Hugging Face Hub; check it"
            )
        with self._lock:
            if name in self._fetched:
                self._fetched.move_to_end(name)
                return self._fetched[name]
            _check_size(name)
            predictor = self._load(name)
            self._fetched[name] = predictor
            if len(self._fetched) > HUB_MODELS_KEPT:
                self._fetched.popitem(last=False)
            return predictor

    def _load(self, name: str | Path) -> Predictor:
        return load(name, detector=self._detector)


def _told_of_checkpoint(path: Path) -> dict[str, Any]:
    """What the folder of a checkpoint, or of a run, says in its files."""
    told: dict[str, Any] = {}
    folder = next(
        (one for one in (path, path / "best", path / "last") if (one / WEIGHTS_NAME).is_file()), path
    )
    for name, fields in (("config.json", ["recipe"]), ("state.json", ["step", "run_url"])):
        if (folder / name).is_file():
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            told |= {field: content.get(field) for field in fields}
    return told


def _shipped() -> str:
    """What is loaded where no checkpoint is named: beside this file on a Space, or as flm knows it."""
    named = SHIPPED / "checkpoint.json"
    if named.is_file():
        return json.loads(named.read_text(encoding="utf-8"))["checkpoint"]
    onnx = SHIPPED / ONNX_NAME
    return str(onnx) if onnx.is_file() else "default"


def _detector(given: Path | None) -> DetectorConfig:
    if given is not None:
        return DetectorConfig(kind="yunet", model=given)
    return DetectorConfig(kind="yunet", model=DETECTOR) if DETECTOR.is_file() else ANY_DETECTOR


def _shown(name: str) -> str:
    """A model's name without the folders of this machine."""
    if name.startswith(HUB_PREFIX):
        return name
    path = Path(name)
    return path.parent.name + "/" + path.name if path.name == ONNX_NAME else path.name


def _check_size(name: str) -> None:
    """Refuse what would fill the disk, before it is fetched."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    repository, revision = repository_of(name)
    try:
        found = HfApi().model_info(
            repository, revision=revision, files_metadata=True, timeout=10, token=False
        )
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise InputError(f"{name} cannot be found on the Hugging Face Hub; check the name") from error
    if sum(file.size or 0 for file in found.siblings or []) > MOST_HUB_BYTES:
        raise InputError(
            f"{name} is larger than {MOST_HUB_BYTES // 2**20} MB; compare it on your own machine"
        )
