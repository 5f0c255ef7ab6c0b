"""What a training run needs before it is started: time, reads, cache, network, processors, memory.

`plan_run` is a function of its configuration alone. Its rates have to be measured, `--img-per-s` above all;
how often shards are read is counted on the order that training itself follows; the rest is arithmetic.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64

from flm.data.loader import WINDOWS_AHEAD
from flm.data.order import RunOrder
from flm.data.reader import REMEMBERED_SHARDS
from flm.training.config import TrainConfig

GRADIENT_BUCKET_BYTES = 25 * 2**20
"""Gradients are reduced in buckets of this size: `bucket_cap_mb` of DistributedDataParallel."""
BACKWARD_SHARE = 2 / 3
"""Of a step's computation: a layer's backward pass multiplies twice, for its input and for its weights, where
the forward pass multiplies once. Source: Kaplan et al., "Scaling laws for neural language models", 2020."""
COPIES_IN_CHECKPOINT = 4
"""Of each weight: itself, its moving average, and the two moments of Adam."""
MANIFEST_BYTES_PER_SHARD = 430
"""Of a shard's entry in memory; measured."""
INDEX_BYTES_PER_FACE = 200
"""Of the places of its members in memory, see `flm.data.reader.REMEMBERED_SHARDS`."""
ORDER_BYTES_PER_SHARD = 4 * 8
"""Of an epoch's line: number, start, end, window end."""
ORDER_BYTES_PER_FACE = 2 * 8
"""Of a window: shard and place."""

Limit = Literal["computing", "decoding", "the store"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    """A run, the machines that it shall have, and what was measured of them."""

    run: TrainConfig
    """What is trained; its batch, epochs and `loader` count."""
    shard_sizes: Int64[np.ndarray, " shards"]
    """Faces of each shard of the training split."""
    shard_bytes: float
    """Of an average shard."""
    gradient_bytes: int
    """Of one update, see `gradient_bytes_of`."""
    buffer_bytes: int = 0
    """Of batch statistics, which each step sends from the first process to the others."""
    num_validation: int = 0
    """Faces of the validation split."""

    gpus: int
    """Training processes, on all machines together."""
    machines: int
    img_per_s: float
    """Images that one GPU trains on in a second, alone and with data at hand."""
    decode_per_s: float
    """Faces that one worker process reads and decodes in a second."""
    link_gbit_s: float
    """Of the slowest link between two neighbouring processes, in one direction."""
    link_latency_us: float
    """Of a message over it."""
    overlap: bool
    """Whether gradients are reduced while others are still computed, as DistributedDataParallel does."""
    store_gbit_s: float
    """That each machine gets from where the shards lie."""
    write_mb_s: float
    """That the first machine writes checkpoints with."""

    def __post_init__(self) -> None:
        for name in (
            *("gpus", "machines", "img_per_s", "decode_per_s"),
            *("link_gbit_s", "store_gbit_s", "write_mb_s"),
        ):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"--{name.replace('_', '-')} is {value}, must be a number above 0")
        if self.link_latency_us < 0:
            raise ValueError(f"--link-latency-us is {self.link_latency_us}, must be at least 0")
        if self.gpus % self.machines:
            raise ValueError(f"--gpus {self.gpus} are no multiple of --machines {self.machines}")

    @property
    def workers_per_machine(self) -> int:
        """Processes that read; without workers the training processes do."""
        return max(1, self.run.loader.num_workers) * self.gpus // self.machines


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What the run needs. Bytes and rates are decimal but for GiB."""

    num_faces: int
    num_shards: int
    data_bytes: float
    steps: int
    steps_per_epoch: float
    step_s: float
    limit: Limit
    """What a step waits for."""
    images_per_s: float
    scaling: float
    """Images a second as a share of what the GPUs would make alone."""
    run_s: float
    evaluation_share: float
    """Of the time of the run."""

    faces_per_machine: float
    """In an epoch."""
    shards_per_machine: int
    """That a machine fetches in an epoch; of the one that fetches most."""
    shards_all_machines: int
    """That all machines fetch in an epoch together."""
    windows: int
    """In an epoch, inside which faces are mixed."""
    window_faces: int
    cache_bytes: float
    """On a machine, with which no shard is fetched twice in an epoch."""
    store_bytes_per_s: float
    """Into a machine, from where the shards lie."""
    disk_bytes_per_s: float
    """Of stored faces that a machine reads; those that its memory still has cost the disk nothing."""
    decode_cores: float
    """That a machine's workers keep busy."""
    workers_per_machine: int
    reader_bytes: float
    """Main memory of all readers of a machine for manifest, order and indexes."""

    gradient_bytes: int
    all_reduce_s: float
    """Of one step."""
    exposed_s: float
    """Part of it that the step waits for."""
    checkpoint_bytes: int
    checkpoint_s: float
    """To write one, beside the training."""
    checkpoint_share: float
    """Of the time between two checkpoints."""


def plan_run(config: PlanConfig) -> Plan:
    """Work a run out."""
    run, loader = config.run, config.run.loader
    num_faces, num_shards = int(config.shard_sizes.sum()), len(config.shard_sizes)
    compute_s = run.batch_size / (config.gpus * config.img_per_s)
    all_reduce_s, exposed_s = all_reduce_time_s(config, compute_s)
    fetched = shards_fetched(config)
    times_s = step_times_s(config, compute_s + exposed_s, max(fetched))
    limit = max(times_s, key=lambda name: times_s[name])
    step_s = times_s[limit]
    steps, steps_per_epoch = run.num_steps(num_faces), num_faces / run.batch_size
    run_s = steps * step_s + evaluation_s(config, steps)
    images_per_s = run.batch_size / step_s
    save_every = min(run.eval_every_steps, run.checkpoint.every_steps or run.eval_every_steps)
    checkpoint_bytes = COPIES_IN_CHECKPOINT * config.gradient_bytes + 2 * config.buffer_bytes
    checkpoint_s = checkpoint_bytes / (config.write_mb_s * 1e6)
    return Plan(
        num_faces=num_faces,
        num_shards=num_shards,
        data_bytes=config.shard_bytes * num_shards,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        step_s=step_s,
        limit=limit,
        images_per_s=images_per_s,
        scaling=compute_s / step_s,
        run_s=run_s,
        evaluation_share=1 - steps * step_s / run_s,
        faces_per_machine=num_faces / config.machines,
        shards_per_machine=max(fetched),
        shards_all_machines=sum(fetched),
        windows=-(-num_shards // loader.window_shards),
        window_faces=min(num_faces, round(num_faces / num_shards * loader.window_shards)),
        cache_bytes=cached_shards(config) * config.shard_bytes,
        store_bytes_per_s=max(fetched) * config.shard_bytes / (steps_per_epoch * step_s),
        disk_bytes_per_s=images_per_s / config.machines * config.shard_bytes * num_shards / num_faces,
        decode_cores=images_per_s / config.machines / config.decode_per_s,
        workers_per_machine=config.workers_per_machine,
        reader_bytes=reader_bytes(config),
        gradient_bytes=config.gradient_bytes,
        all_reduce_s=all_reduce_s,
        exposed_s=exposed_s,
        checkpoint_bytes=checkpoint_bytes,
        checkpoint_s=checkpoint_s,
        checkpoint_share=checkpoint_s / (save_every * step_s),
    )


def step_times_s(config: PlanConfig, computing_s: float, shards: int) -> dict[Limit, float]:
    """Seconds of a step's three parts, the longest of which it takes, since loading runs ahead.

    Args:
        config: the run.
        computing_s: with the wait for gradients.
        shards: that a machine fetches in an epoch.
    """
    steps_per_epoch = int(config.shard_sizes.sum()) / config.run.batch_size
    rows_of_machine = config.run.batch_size / config.machines
    return {
        "computing": computing_s,
        "decoding": rows_of_machine / (config.workers_per_machine * config.decode_per_s),
        "the store": shards * config.shard_bytes / steps_per_epoch / (config.store_gbit_s * 1e9 / 8),
    }


def evaluation_s(config: PlanConfig, steps: int) -> float:
    """Seconds of all evaluations; a face takes what training spends on it but for the backward pass."""
    evaluations = -(-steps // config.run.eval_every_steps)
    face_s = (1 - BACKWARD_SHARE) / (config.gpus * config.img_per_s)
    return evaluations * config.num_validation * face_s


def all_reduce_time_s(config: PlanConfig, compute_s: float) -> tuple[float, float]:
    """Seconds of a step's all-reduce, and how many of them the step waits for.

    A ring of n processes sends 2 (n - 1) messages of a part n of the gradients each, so that it takes
    2 (n - 1) · latency + 2 (n - 1) / n · bytes / bandwidth, the first for every bucket. Gradients become
    ready evenly through the backward pass. With overlap a bucket is sent as soon as it is whole and the one
    before is sent; so the last bucket is always waited for, and all that takes longer than the backward pass.

    Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009
    (the ring); Thakur et al., "Optimization of collective communication operations in MPICH", 2005 (latency);
    Li et al., "PyTorch Distributed", 2020 (buckets beside the backward pass).
    """
    n, num_bytes = config.gpus, config.gradient_bytes
    if n == 1:
        return 0.0, 0.0
    buckets = -(-num_bytes // GRADIENT_BUCKET_BYTES)
    messages = 2 * (n - 1)
    latency_s = buckets * messages * config.link_latency_us * 1e-6
    all_reduce_s = latency_s + messages / n * num_bytes / (config.link_gbit_s * 1e9 / 8)
    if not config.overlap:
        return all_reduce_s, all_reduce_s
    backward_s = BACKWARD_SHARE * compute_s
    return all_reduce_s, max(all_reduce_s / buckets, all_reduce_s - backward_s * (1 - 1 / buckets))


def lanes_of_part(config: PlanConfig, part: int, parts: int) -> range:
    """The lanes that rows of a machine, or of a process, are read from; a batch's rows stand lane by lane."""
    lanes = config.run.loader.lanes
    return range(part * lanes // parts, -(-(part + 1) * lanes // parts))


def shards_fetched(config: PlanConfig) -> list[int]:
    """How many shards each machine fetches in the first epoch, counted on the order of the run.

    That is every shard of a window that its lanes lie in, since whole windows are fetched ahead. Where lanes
    are no multiple of the machines, machines share lanes; with one lane each of them fetches everything.
    """
    loader = config.run.loader
    order = RunOrder(
        config.shard_sizes, seed=config.run.seed, window_shards=loader.window_shards, lanes=loader.lanes
    )
    return [
        len(order.shards_between(0, order.num_samples, lanes_of_part(config, machine, config.machines)))
        for machine in range(config.machines)
    ]


def cached_shards(config: PlanConfig) -> int:
    """Shards that a machine's cache needs room for, so that none is fetched twice in an epoch.

    In each of its lanes the window that is read and those that are fetched ahead.
    """
    lanes = max(len(lanes_of_part(config, machine, config.machines)) for machine in range(config.machines))
    return min(len(config.shard_sizes), lanes * (1 + WINDOWS_AHEAD) * config.run.loader.window_shards)


def reader_bytes(config: PlanConfig) -> float:
    """Main memory that all readers of a machine take for the manifest, the order and the shards' indexes.

    Each worker keeps two epochs' lines of shards, in each of its lanes up to two windows, and the indexes of
    up to `REMEMBERED_SHARDS` shards.
    """
    loader, num_shards = config.run.loader, len(config.shard_sizes)
    shard_faces = float(config.shard_sizes.mean())
    lanes = max(len(lanes_of_part(config, process, config.gpus)) for process in range(config.gpus))
    window_faces = min(loader.window_shards, num_shards) * shard_faces
    of_one = (
        num_shards * (MANIFEST_BYTES_PER_SHARD + 2 * ORDER_BYTES_PER_SHARD)
        + 2 * lanes * window_faces * ORDER_BYTES_PER_FACE
        + min(REMEMBERED_SHARDS, num_shards) * shard_faces * INDEX_BYTES_PER_FACE
    )
    return of_one * config.workers_per_machine
