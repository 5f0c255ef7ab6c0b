"""The parts of a training run, where it stands, and how it is taken up again."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn

from flm.checkpoint import (
    TrainingState,
    find_training,
    load_state,
    load_training,
    read_config,
    save_checkpoint,
)
from flm.config import TrainConfig, check_same_run
from flm.data.loader import ProcessPlace, evaluation_batches, training_batches
from flm.data.manifest import Manifest
from flm.data.samples import Batch
from flm.data.store import ShardStore, open_store
from flm.errors import InputError
from flm.model.network import LandmarkNetwork, build_network
from flm.optimization import (
    MovingAverage,
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
)

VALIDATION = "validation"

NETWORK = "network."
"""Begins the names of the raw weights among a checkpoint's training tensors."""

OWNED_BY_CONFIG = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "--accumulation-steps"}
"""Settings of the launcher that would silently win over the configuration."""


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
    steps: int
    """Of the whole run."""
    step: int = 0
    """Steps that are done."""
    best_score: float | None = None
    best_step: int | None = None
    bad_samples: set[str] = field(default_factory=set)
    """Those that this process met since the run was last started, and read others for."""

    @property
    def manifest(self) -> Manifest:
        """What the shards hold."""
        return self.store.manifest

    @property
    def place(self) -> ProcessPlace:
        """This process among all."""
        return ProcessPlace(
            process=self.accelerator.process_index, num_processes=self.accelerator.num_processes
        )

    def is_due(self, every_steps: int) -> bool:
        """Whether the step just done is one of these; the last one always is."""
        return self.step % every_steps == 0 or self.step == self.steps

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
        config = self.config
        return evaluation_batches(
            self.store,
            config.loader,
            config.crop,
            split=VALIDATION,
            batch_size=config.eval_batch_size,
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
    torch.manual_seed(config.seed)
    network = build_network(config.model)
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
    return Run(
        config=config,
        store=store,
        accelerator=accelerator,
        network=network,
        trained=trained,
        optimizer=prepared,
        average=average,
        steps=config.num_steps(store.manifest.num_samples("train")),
    )


def _checked_store(config: TrainConfig) -> ShardStore:
    loader = config.loader
    store = open_store(config.data, cache_dir=loader.cache_dir, cache_gib=loader.cache_gib)
    manifest = store.manifest
    for split in ("train", VALIDATION):
        manifest.shards_of(split)
    if manifest.scheme != config.model.scheme:
        raise InputError(
            f"{config.data}: the shards have {manifest.scheme} landmarks, --model.scheme is "
            f"{config.model.scheme}; make them agree"
        )
    return store


def _accelerator(config: TrainConfig) -> Accelerator:
    for variable, flag in OWNED_BY_CONFIG.items():
        if variable in os.environ:
            raise InputError(f"the environment sets {variable}; unset it and give {flag} instead")
    tracker = config.tracking.tracker
    try:
        accelerator = Accelerator(
            # Started by torchrun on a machine without an accelerator, it would not join its processes itself.
            cpu=not torch.accelerator.is_available(),
            log_with=None if tracker == "none" else tracker,
            project_dir=config.run,
        )
    except ValueError as error:
        # Such as fp16 without a GPU.
        raise InputError(f"accelerate launch: {error}; change the launch file or its flags") from error
    if config.sync_batch_norm and accelerator.device.type == "cpu" and accelerator.num_processes > 1:
        raise InputError("--sync-batch-norm needs GPUs; leave it out on the processor")
    share = accelerator.num_processes * config.accumulation_steps
    for flag, size, multiple in (
        ("--batch-size", config.batch_size, share),
        ("--eval-batch-size", config.eval_batch_size, accelerator.num_processes),
    ):
        if size % multiple:
            raise InputError(
                f"{flag} {size} cannot be shared by {accelerator.num_processes} processes in "
                f"{multiple // accelerator.num_processes} parts each; give a multiple of {multiple}"
            )
    return accelerator


def restore(run: Run) -> None:
    """Go on from a checkpoint where there is one, as `--resume` says."""
    checkpoint = find_training(run.config.run, run.config.resume)
    if checkpoint is None:
        return
    check_same_run(run.config, read_config(checkpoint), checkpoint)
    state, model, training = load_training(checkpoint)
    if state.manifest_hash != run.manifest.content_hash():
        raise InputError(
            f"{checkpoint}: was trained on other shards than {run.config.data}; give the same --data, or "
            "--resume none and another --out"
        )
    weights = {
        name.removeprefix("network."): value for name, value in training.items() if name[:8] == "network."
    }
    load_state(run.network, weights, checkpoint)
    load_state(run.average.network, model, checkpoint)
    load_optimizer_tensors(run.optimizer.optimizer, training)
    if state.scaler is not None and run.accelerator.scaler is not None:
        run.accelerator.scaler.load_state_dict(state.scaler)
    run.step, run.best_score, run.best_step = state.step, state.best_score, state.best_step


def save(run: Run, validation: dict[str, float], *, is_best: bool) -> Path:
    """Write the checkpoint of this step; only the first process calls it.

    Args:
        run: where it stands.
        validation: the numbers of the last evaluation.
        is_best: whether it is the best so far.

    Raises:
        InputError: it cannot be written.
    """
    scaler = run.accelerator.scaler
    state = TrainingState(
        step=run.step,
        manifest_hash=run.manifest.content_hash(),
        best_score=run.best_score,
        best_step=run.best_step,
        scaler=scaler.state_dict() if scaler is not None else None,
        validation=validation,
    )
    weights = {f"{NETWORK}{name}": value for name, value in run.network.state_dict().items()}
    return save_checkpoint(
        run.config.run,
        run.config,
        state,
        model=run.average.network.state_dict(),
        training={**weights, **optimizer_tensors(run.optimizer.optimizer)},
        is_best=is_best,
        keep=run.config.keep_checkpoints,
    )
