"""The subjects of `flm bench gpu`, each on the device that is there."""

import copy
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnxruntime
import torch
from torch.utils.flop_counter import FlopCounterMode

from flm.augment import augment
from flm.bench.figures import Figure
from flm.bench.machine import usable_threads
from flm.bench.measure import medians, rate, take_turns
from flm.bench.predict.landmarks import MANY, ONE, in_batches, one_by_one
from flm.bench.predict.setting import known_faces
from flm.bench.team import Team, wait_for_gpu
from flm.bench.train import Side, SideSetting, resident, training
from flm.data.loader import LoaderConfig, ProcessPlace, training_batches
from flm.data.samples import Batch
from flm.data.store import open_store
from flm.inference.load import DEFAULT_MODEL, load
from flm.inference.onnx_network import PROVIDERS
from flm.inference.predictor import Predictor
from flm.inference.torch_network import TorchNetwork
from flm.model.network import ModelConfig, build_network
from flm.training.config import TrainConfig
from flm.training.plan import BACKWARD_SHARE

TRAINING, LOADER = "training", "loader"
RESIDENT = "on one resident batch"


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuLength:
    """How much is measured."""

    turns: int = 3
    steps: int = 30
    """Of training, in a turn."""
    batches: int = 60
    """Of the loader."""
    faces: int = 32
    """Whose landmarks are looked for, in a turn."""
    matrix_side: int = 8192
    """Of the matrices whose product is the peak."""

    @classmethod
    def of(cls, device: torch.device) -> "GpuLength":
        """What fits into a few minutes."""
        return cls() if device.type == "cuda" else cls(steps=3, batches=20, faces=16, matrix_side=1024)

    @classmethod
    def quick(cls) -> "GpuLength":
        """To see that all runs; the numbers say nothing."""
        return cls(turns=1, steps=1, batches=2, faces=2, matrix_side=64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What is measured, and where."""

    device: torch.device
    config: TrainConfig
    precision: Literal["bf16", "fp16"]
    length: GpuLength

    @property
    def dtype(self) -> torch.dtype:
        """Of the training's arithmetic."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float16

    def describe(self) -> str:
        """What the figures share, in one line."""
        config = self.config
        return (
            f"network of `{config.recipe}` with random weights, {config.model.input_size_px} px, batches of "
            f"{config.batch_size}, {self.precision}, {config.loader.num_workers} loader workers, median of "
            f"{self.length.turns} turns"
        )


class NotHereError(Exception):
    """A subject that this machine has not; the message says why."""


def measure_augmentation(setting: Setting) -> list[Figure]:
    """The recipe's augmentation of a batch that is on the device."""
    batch = next(_batches(setting, setting.config.loader, 1)).to(setting.device)
    steps = itertools.count()

    def images_per_s() -> float:
        started_s = time.perf_counter()
        for _ in range(setting.length.steps):
            changed = dataclasses.replace(batch, step=next(steps))
            augment(changed, setting.config.augment, size_px=setting.config.crop.size_px, seed=0)
        wait_for_gpu()
        return setting.length.steps * len(batch) / (time.perf_counter() - started_s)

    images_per_s()
    (ours,) = medians([images_per_s], setting.length.turns)
    return [Figure(subject="augmentation", side="on the device", unit="img/s", value=ours)]


def measure_training(setting: Setting) -> list[Figure]:
    """From shards, and on one batch that stays on the device; what that is of the device's peak."""
    from_shards, waited = train_in_turns(setting, training, setting.config)
    on_batch, _ = train_in_turns(setting, resident, setting.config)
    peak = peak_flops(setting)
    share = 100 * on_batch * training_flops(setting.config.model) / peak
    product = f"a product of matrices of {setting.length.matrix_side}²"
    thrice = "counting three times the operations of the forward pass"
    return [
        Figure(subject=TRAINING, side="from shards", unit="img/s", value=from_shards),
        Figure(subject=TRAINING, side=RESIDENT, unit="img/s", value=on_batch),
        Figure(subject=TRAINING, side="time not waiting for data", unit="%", value=100 * (1 - waited)),
        Figure(subject=TRAINING, side="peak of the device", unit="TFLOP/s", value=peak / 1e12, how=product),
        Figure(subject=TRAINING, side="share of that peak", unit="%", value=share, how=thrice),
    ]


def measure_compiled(setting: Setting) -> list[Figure]:
    """The network after torch.compile."""
    if setting.device.type != "cuda":
        raise NotHereError("compiling for a processor takes many minutes")
    compiled = dataclasses.replace(setting.config, compile=True)
    ours, _ = train_in_turns(setting, resident, compiled)
    return [Figure(subject=TRAINING, side=f"{RESIDENT}, compiled", unit="img/s", value=ours)]


def measure_loader(setting: Setting) -> list[Figure]:
    """How many faces a second the loader could feed, decoded by processors and by the GPU."""
    decoders: list[Literal["cpu", "gpu"]] = ["cpu", "gpu"] if setting.device.type == "cuda" else ["cpu"]
    figures = []
    for decoder in decoders:
        loader = dataclasses.replace(setting.config.loader, decode=decoder)

        def faces_per_s(loader: LoaderConfig = loader) -> float:
            warm_up = 2 * max(1, loader.num_workers)
            batches = _batches(setting, loader, warm_up + setting.length.batches)
            return rate((len(batch.to(setting.device)) for batch in batches), warm_up=warm_up)

        (ours,) = medians([faces_per_s], setting.length.turns)
        side = "decoding on processors" if decoder == "cpu" else "decoding by nvJPEG"
        figures.append(Figure(subject=LOADER, side=side, unit="faces/s", value=ours))
    return figures


def measure_inference(setting: Setting) -> list[Figure]:
    """A face whose box is known, from the picture to its landmarks, and 16 faces at once."""
    model = dataclasses.replace(setting.config.model, weights=None)
    network = build_network(model)
    predictors = {
        "PyTorch, fp32": Predictor(TorchNetwork(network, setting.device)),
        "PyTorch, bf16": Predictor(TorchNetwork(copy.deepcopy(network), setting.device, "bf16")),
        "onnxruntime, the model that comes with flm, cpu": load(DEFAULT_MODEL),
    }
    if setting.device.type == "cuda" and PROVIDERS["cuda"] in onnxruntime.get_available_providers():
        predictors["onnxruntime, the model that comes with flm, cuda"] = load(DEFAULT_MODEL, device="cuda")
    faces = known_faces(setting.config.data, "train", setting.length.faces)
    figures = []
    for subject, way, unit in ((ONE, one_by_one, "ms"), (MANY, in_batches, "ms a face")):
        sides = {name: way(predictor, faces, time.perf_counter) for name, predictor in predictors.items()}
        turns = take_turns(sides, setting.length.turns)
        figures += [Figure(subject=subject, side=name, unit=unit, value=turns.median(name)) for name in sides]
    return figures


def training_flops(model: ModelConfig) -> float:
    """Floating-point operations of one image's forward and backward pass, a multiply-add being two."""
    network = build_network(model, load_weights=False).eval()
    size = model.input_size_px
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() / (1 - BACKWARD_SHARE)


def peak_flops(setting: Setting) -> float:
    """Operations a second of a product of large matrices: what it reaches, not what its maker says."""
    side = setting.length.matrix_side
    left, right = (torch.randn(side, side, device=setting.device).to(setting.dtype) for _ in range(2))
    product = torch.empty_like(left)

    def operations_per_s() -> float:
        started_s = time.perf_counter()
        for _ in range(10):
            torch.mm(left, right, out=product)
        wait_for_gpu()
        return 10 * 2 * side**3 / (time.perf_counter() - started_s)

    operations_per_s()
    return max(operations_per_s() for _ in range(setting.length.turns))


def train_in_turns(setting: Setting, side: Side, config: TrainConfig) -> tuple[float, float]:
    """Images a second of a training in a process of its own, and the share of the time it waited for data.

    Raises:
        RuntimeError: its process ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        its = SideSetting(config=dataclasses.replace(config, out=Path(folder)))
        on_gpu, threads = setting.device.type == "cuda", usable_threads()
        with Team(side, its, threads=threads, on_gpu=on_gpu, precision=setting.precision) as team:
            try:
                team.wait_until_ready()
                turns = [team.take_turn(setting.length.steps) for _ in range(setting.length.turns)]
            except (EOFError, ConnectionError) as error:
                raise RuntimeError("the training's process ended; it told why on stderr") from error
    return (
        statistics.median(turn.images_per_s for turn in turns),
        statistics.median(turn.waited_share for turn in turns),
    )


def _batches(setting: Setting, loader: LoaderConfig, count: int) -> Iterator[Batch]:
    config = setting.config
    return training_batches(
        open_store(config.data),
        loader,
        config.crop,
        steps=range(count),
        batch_size=config.batch_size,
        seed=0,
        place=ProcessPlace(device=setting.device),
    )
