"""The parts of a training run, and where it stands."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import InitProcessGroupKwargs
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from flm.data.loader import ProcessPlace, evaluation_batches, training_batches
from flm.data.manifest import Manifest
from flm.data.samples import Batch
from flm.data.store import ShardStore, open_store
from flm.errors import InputError
from flm.model.network import LandmarkNetwork, build_network
from flm.process import rendezvous
from flm.process.memory import keep_freed_memory
from flm.process.owners import check_environment
from flm.training.checkpoint_writer import CheckpointWriter
from flm.training.config import TrainConfig
from flm.training.guards import Guards
from flm.training.optimization import MovingAverage, build_optimizer

VALIDATION = "validation"


@dataclass(kw_only=True, slots=True)
class Run:
    """Everything that a training step touches, and where the run stands."""

    config: TrainConfig
    store: ShardStore
    """Where the shards are."""
    accelerator: Accelerator
    network: LandmarkNetwork
    """Bare."""
    trained: nn.Module
    """The network as Accelerate wraps it for the forward pass."""
    optimizer: AcceleratedOptimizer
    average: MovingAverage
    writer: CheckpointWriter
    """Of the first process; `flm.training.resume.save` fills it."""
    guards: Guards
    steps: int
    """Of the whole run."""
    step: int = 0
    """Steps that are done."""
    owes_validation: bool = False
    """Whether the run was stopped in the evaluation of this step."""
    best_score: float | None = None
    best_step: int | None = None
    run_url: str | None = None
    """Where a tracker shows it online."""
    bad_samples: set[str] = field(default_factory=set)
    """Those that this process met since the run was last started, and read others for."""

    @property
    def manifest(self) -> Manifest:
        """What the shards hold."""
        return self.store.manifest

    @property
    def place(self) -> ProcessPlace:
        """This process among all."""
        accelerator = self.accelerator
        return ProcessPlace(
            process=accelerator.process_index,
            num_processes=accelerator.num_processes,
            device=accelerator.device,
        )

    def is_due(self, every_steps: int) -> bool:
        """Whether the step just done is one of these; the last one always is."""
        return self.step % every_steps == 0 or self.step == self.steps

    @property
    def is_over(self) -> bool:
        """Whether all steps are done, or `--patience-evaluations` went by since the best score."""
        patience, every_steps = self.config.patience_evaluations, self.config.eval_every_steps
        if patience is not None and self.best_step is not None:
            evaluations = self.step // every_steps - self.best_step // every_steps
            if evaluations >= patience:
                return True
        return self.step >= self.steps

    def score_of(self, validation: Mapping[str, float]) -> float:
        """What the best checkpoint has the lowest of, out of the numbers of an evaluation."""
        return validation["nme_pct" if self.config.select_by == "nme" else "loss"]

    def training_batches(self) -> Iterator[Batch]:
        """This process's rows of the steps that are left."""
        config = self.config
        return training_batches(
            self.store,
            config.loader,
            config.crop,
            steps=range(self.step, self.steps),
            batch_size=config.batch_size,
            seed=config.seed,
            place=self.place,
        )

    def validation_batches(self) -> Iterator[Batch]:
        """This process's rows of the validation split."""
        config, processes = self.config, self.place.num_processes
        return evaluation_batches(
            self.store,
            config.loader,
            config.crop,
            split=VALIDATION,
            # It changes no number, so any number of processes goes on with the run.
            batch_size=-(-config.eval_batch_size // processes) * processes,
            place=self.place,
        )

    def describe(self) -> str:
        """One line on what is trained with what."""
        config, accelerator = self.config, self.accelerator
        millions = sum(parameter.numel() for parameter in self.network.parameters()) / 1e6
        processes = f"{accelerator.num_processes} process" + "es" * (accelerator.num_processes > 1)
        return (
            f"{config.recipe}: {config.model.backbone}, {config.model.head}, {millions:.2f} M parameters · "
            f"{self.manifest.num_samples('train')} faces, batch {config.batch_size}, "
            f"steps {self.step} to {self.steps} · {processes} on {accelerator.device.type}, "
            f"{accelerator.mixed_precision} precision · {config.run}"
        )


def build(config: TrainConfig) -> Run:
    """Check what can be checked before the first step, and put the parts together.

    Raises:
        InputError: the shards do not fit the configuration, or the processes cannot share a batch.
    """
    store = _checked_store(config)
    accelerator = _accelerator(config)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.seed)
    network = build_network(config.model, load_weights=config.init_from is None)
    network.to(accelerator.device)
    if config.channels_last:
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    average = MovingAverage(network, config.optimizer.ema_decay)
    optimizer = build_optimizer(network, config.optimizer)
    trainable: nn.Module = network
    if config.sync_batch_norm:
        # In place but for the outermost module, which is no batch norm.
        trainable = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    if config.compile:
        trainable = cast(nn.Module, torch.compile(trainable))
    trained, prepared = accelerator.prepare(trainable, optimizer)
    if isinstance(trained, DistributedDataParallel) and accelerator.num_processes > 2:
        _settle_order_of_sums(trained, config, accelerator)
    return Run(
        config=config,
        store=store,
        accelerator=accelerator,
        network=network,
        trained=trained,
        optimizer=prepared,
        average=average,
        writer=CheckpointWriter(config.run, config.checkpoint),
        guards=Guards(config.guards, accelerator),
        steps=config.num_steps(store.manifest.num_samples("train")),
    )


def _checked_store(config: TrainConfig) -> ShardStore:
    loader = config.loader
    store = open_store(config.data, cache_dir=loader.cache_dir, cache_gib=loader.cache_gib)
    for split in ("train", VALIDATION):
        store.manifest.shards_of(split)
    store.check_scheme(config.model.scheme, "--model.scheme is")
    return store


def _accelerator(config: TrainConfig) -> Accelerator:
    check_environment(os.environ)
    tracker = config.tracking.tracker
    try:
        accelerator = Accelerator(
            # Started by torchrun on a machine without an accelerator, it would not join its processes itself.
            cpu=not torch.accelerator.is_available(),
            kwargs_handlers=[
                InitProcessGroupKwargs(
                    init_method=rendezvous.method(),
                    timeout=timedelta(seconds=config.guards.collective_timeout_s),
                )
            ],
            log_with=None if tracker == "none" else tracker,
            project_dir=config.run,
        )
    except InputError:
        raise
    except ValueError as error:
        # Such as fp16 without a GPU.
        raise InputError(f"accelerate launch: {error}; change the launch file or its flags") from error
    if config.sync_batch_norm and accelerator.device.type == "cpu" and accelerator.num_processes > 1:
        raise InputError("--sync-batch-norm needs GPUs; leave it out on the processor")
    if config.loader.decode == "gpu" and accelerator.device.type != "cuda":
        raise InputError("--loader.decode gpu needs an NVIDIA GPU; take --loader.decode cpu")
    _check_batch_can_be_shared(config, accelerator.num_processes)
    return accelerator


def _settle_order_of_sums(trained: nn.Module, config: TrainConfig, accelerator: Accelerator) -> None:
    """Have DistributedDataParallel bundle the gradients as it does from the second step of each start on.

    How they are bundled decides in which order those of three or more processes are added. Without this, the
    first step after going on would add in another order than the same step of a run that went through.
    """
    rows, size_px = config.batch_size // accelerator.num_processes, config.model.input_size_px
    # Few, as the memory for more may not be there; but a compiled network is compiled for their number.
    rows = rows // config.accumulation_steps if config.compile else min(rows, 2)
    buffers = [(buffer, buffer.clone()) for buffer in trained.buffers()]
    trained.train()
    images = torch.zeros(rows, 3, size_px, size_px, device=accelerator.device)
    accelerator.backward(trained(images).landmarks_unit.sum())
    trained.zero_grad()
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)


def _check_batch_can_be_shared(config: TrainConfig, processes: int) -> None:
    size, parts = config.batch_size, config.accumulation_steps
    if size % (processes * parts) == 0:
        return
    fitting = [number for number in range(1, size + 1) if size % (number * parts) == 0]
    fewer = [number for number in fitting if number < processes][-1:]
    more = [number for number in fitting if number > processes][:1]
    multiple = math.lcm(processes * parts, config.loader.lanes)
    sizes = sorted({max(multiple, size // multiple * multiple), -(-size // multiple) * multiple})
    ways = [
        *([f"start {_either(fewer + more)} processes"] if fewer or more else []),
        f"give --batch-size {_either(sizes)}",
    ]
    in_parts = f" in --accumulation-steps {parts} parts each" if parts > 1 else ""
    raise InputError(
        f"--batch-size {size} cannot be shared by {processes} processes{in_parts}; {', or '.join(ways)}"
    )


def _either(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))
