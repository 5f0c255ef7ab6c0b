"""`flm plan`: what is asked, and the plan as a table, with warnings where something does not fit."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from flm.command_line import run_command
from flm.data.store import open_store
from flm.errors import InputError
from flm.files import write_json
from flm.model.network import ModelConfig, build_network
from flm.recipes import recipe_named
from flm.training.config import TrainConfig
from flm.training.plan import Plan, PlanConfig, lanes_of_part, plan_run

LEAST_SCALING = 0.9
MOST_READER_GIB = 32.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanOptions:
    """Which run, on which machines, at which measured rates."""

    recipe: str = "ibug68-xception-300w"
    """What is trained; `flm recipes` lists them."""
    data: str | None = None
    """Shards whose manifest is read; or else --num-faces."""
    num_faces: int | None = None
    """Of the training split, where there are no shards yet."""
    num_validation: int = 0
    """Faces of the validation split, where there are no shards yet."""
    shard_faces: int = 1000
    """Faces of a shard, where there are no shards yet."""
    bytes_per_face: float = 20e3
    """In a shard, where there are no shards yet; the 256 px crops of 300-W take 20 kB."""

    gpus: int = 1
    """Training processes on all machines together."""
    machines: int = 1
    """That the processes are spread over."""
    img_per_s: float
    """Images that one process trains on in a second; the log of a short run on one GPU tells it."""
    decode_per_s: float = 1600.0
    """Faces that one worker reads and decodes in a second; measured on one core of an AMD EPYC (flm bench
    loader)."""
    link_gbit_s: float = 10.0
    """Of the slowest link between two neighbouring processes, in one direction: the network's between
    machines, else NVLink's or PCIe's. An assumption."""
    link_latency_us: float = 20.0
    """Of a message over that link. An assumption."""
    overlap: bool = True
    """Gradients are reduced while others are computed, as DistributedDataParallel does."""
    store_gbit_s: float = 10.0
    """That each machine gets from where the shards lie. An assumption."""
    write_mb_s: float = 500.0
    """That checkpoints are written with. An assumption."""

    batch_size: int | None = None
    """Of all processes together; the recipe's if not given. So are the following."""
    epochs: float | None = None
    lanes: int | None = None
    window_shards: int | None = None
    num_workers: int | None = None
    """Of each process."""
    cache_gib: float | None = None

    def to_config(self) -> PlanConfig:
        """All that the plan is made of.

        Raises:
            InputError: the recipe is unknown, there are no shards, or fields contradict each other.
        """
        run = self._run()
        sizes, shard_bytes, num_validation = self._shards()
        gradient_bytes, buffer_bytes = gradient_bytes_of(run.model)
        try:
            return PlanConfig(
                run=run,
                shard_sizes=sizes,
                shard_bytes=shard_bytes,
                num_validation=num_validation,
                gradient_bytes=gradient_bytes,
                buffer_bytes=buffer_bytes,
                gpus=self.gpus,
                machines=self.machines,
                img_per_s=self.img_per_s,
                decode_per_s=self.decode_per_s,
                link_gbit_s=self.link_gbit_s,
                link_latency_us=self.link_latency_us,
                overlap=self.overlap,
                store_gbit_s=self.store_gbit_s,
                write_mb_s=self.write_mb_s,
            )
        except ValueError as error:
            raise InputError(f"{error}; see `flm plan --help`") from error

    def _run(self) -> TrainConfig:
        recipe = recipe_named(self.recipe)
        loader_names = ("lanes", "window_shards", "num_workers", "cache_gib")
        of_loader = {name: getattr(self, name) for name in loader_names if getattr(self, name) is not None}
        of_run = {
            name: getattr(self, name) for name in ("batch_size", "epochs") if getattr(self, name) is not None
        }
        try:
            return dataclasses.replace(
                recipe, loader=dataclasses.replace(recipe.loader, **of_loader), **of_run
            )
        except ValueError as error:
            raise InputError(f"{str(error).replace('--loader.', '--')}; see `flm plan --help`") from error

    def _shards(self) -> tuple[np.ndarray, float, int]:
        """Faces of each training shard, bytes of an average one, and faces of the validation split."""
        if (self.data is None) == (self.num_faces is None):
            raise InputError("flm plan needs either --data or --num-faces; see `flm plan --help`")
        if self.data is not None:
            manifest = open_store(self.data).manifest
            shards = manifest.shards_of("train")
            sizes = np.array([shard.num_samples for shard in shards], np.int64)
            mean_bytes = sum(shard.num_bytes for shard in shards) / len(shards)
            return sizes, mean_bytes, manifest.num_samples("validation")
        for flag, value in (
            ("--num-faces", self.num_faces),
            ("--shard-faces", self.shard_faces),
            ("--bytes-per-face", self.bytes_per_face),
        ):
            if not value or not 0 < value < math.inf:
                raise InputError(f"{flag} is {value}, must be a number above 0")
        assert self.num_faces is not None
        full, rest = divmod(self.num_faces, self.shard_faces)
        sizes = np.array([self.shard_faces] * full + [rest] * (rest > 0), np.int64)
        return sizes, self.bytes_per_face * self.num_faces / len(sizes), self.num_validation


def gradient_bytes_of(model: ModelConfig) -> tuple[int, int]:
    """Bytes of the gradients of a network, and of its batch statistics, without making its weights."""
    with torch.device("meta"):
        network = build_network(model, load_weights=False)
    buffers = {name for name, _ in network.named_buffers()}
    statistics = [value for name, value in network.state_dict().items() if name in buffers]
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    return _num_bytes(weights), _num_bytes(statistics)


def _num_bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def rows_of(config: PlanConfig, plan: Plan) -> dict[str, str]:
    """The table: names and values with units."""
    epochs = f"{config.run.epochs:g} epoch" + "s" * (config.run.epochs != 1)
    reduced = f"{1e3 * plan.all_reduce_s:,.1f} ms of a step of {1e3 * plan.step_s:,.1f}"
    return {
        "faces": f"{plan.num_faces:,} in {_number(plan.num_shards, 'shard')}, {_bytes(plan.data_bytes)}",
        "steps": f"{plan.steps:,} of {config.run.batch_size:,} faces, {epochs}",
        "time": f"{_time(plan.run_s)}, {100 * plan.evaluation_share:.1f} % of it evaluation",
        "speed": f"{plan.images_per_s:,.0f} img/s, limited by {plan.limit}",
        "scaling": f"{100 * plan.scaling:.1f} % of {_number(config.gpus, 'GPU')} by themselves",
        "mixing": f"{plan.window_faces:,} faces at a time, {_number(plan.windows, 'window')} an epoch",
        "shards fetched": f"{plan.shards_per_machine:,} of {plan.num_shards:,} by a machine in an epoch",
        "cache": f"{plan.cache_bytes / 2**30:,.2f} GiB, to fetch none of them twice",
        "from the store": f"{_bytes(plan.store_bytes_per_s)}/s to a machine",
        "from its disk": f"{_bytes(plan.disk_bytes_per_s)}/s at most",
        "decoding": f"keeps {plan.decode_cores:.1f} of a machine's {plan.workers_per_machine} workers busy",
        "readers": f"{plan.reader_bytes / 2**30:,.2f} GiB of a machine's memory for order and indexes",
        "gradients": f"{_bytes(plan.gradient_bytes)} a step",
        "all-reduce": f"{reduced}, {1e3 * plan.exposed_s:,.1f} ms not hidden",
        "checkpoint": f"{_bytes(plan.checkpoint_bytes)}, written in {100 * plan.checkpoint_share:.2f} %",
    }


def _number(count: int, name: str) -> str:
    return f"{count:,} {name}" + "s" * (count != 1)


def _bytes(number: float | int) -> str:
    count = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _time(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def warnings_of(config: PlanConfig, plan: Plan) -> list[str]:
    """What does not fit, each with what to do."""
    return [
        text for is_wrong, text in (*_unequal_shares(config, plan), *_too_little(config, plan)) if is_wrong
    ]


def _unequal_shares(config: PlanConfig, plan: Plan) -> Iterator[tuple[bool, str]]:
    run, loader, machines = config.run, config.run.loader, config.machines
    share = config.gpus * run.accumulation_steps
    yield (
        run.batch_size % share > 0,
        f"--batch-size {run.batch_size} cannot be shared by {config.gpus} processes; give "
        f"{max(1, round(run.batch_size / share)) * share}",
    )
    yield (
        plan.num_faces < run.batch_size,
        f"a batch of {run.batch_size} is more than all faces; give less",
    )
    yield (
        machines > 1 and loader.lanes % machines > 0,
        f"--lanes {loader.lanes} is no multiple of {machines} machines: they fetch the same shards, "
        f"{plan.shards_all_machines:,} in all of {plan.num_shards:,}; give "
        f"{max(1, round(loader.lanes / machines)) * machines}",
    )
    yield (
        machines > 1 and plan.num_shards < loader.lanes * loader.window_shards,
        f"{_number(plan.num_shards, 'shard')} for {_number(loader.lanes, 'lane')} of windows of "
        f"{loader.window_shards}: machines share windows; make smaller shards, or give fewer --window-shards",
    )


def _too_little(config: PlanConfig, plan: Plan) -> Iterator[tuple[bool, str]]:
    loader = config.run.loader
    yield (
        plan.cache_bytes > loader.cache_gib * 2**30,
        f"--cache-gib {loader.cache_gib:g} is too small; shards are fetched twice below "
        f"{plan.cache_bytes / 2**30:.0f}",
    )
    yield (
        plan.limit == "computing" and plan.scaling < LEAST_SCALING,
        f"the GPUs wait {100 * (1 - plan.scaling):.0f} % of the time for gradients; a larger --batch-size, a "
        "quicker link or fewer GPUs help",
    )
    workers = math.ceil(config.img_per_s / config.decode_per_s)
    yield (
        plan.limit == "decoding",
        f"decoding is too slow for the GPUs; give --num-workers {workers}, and each machine "
        f"{workers * config.gpus // config.machines} cores for it",
    )
    yield (
        plan.limit == "the store",
        f"the store is too slow at {config.store_gbit_s:g} Gbit/s to a machine; more --lanes, a quicker one, "
        "or shards on the machines' own disks help",
    )
    lanes = max(len(lanes_of_part(config, process, config.gpus)) for process in range(config.gpus))
    opened = min(plan.num_shards, lanes * loader.window_shards)
    yield (
        opened > loader.max_open_files,
        f"each worker reads {opened} shards at a time and keeps {loader.max_open_files} open; give "
        f"--loader.max-open-files {opened}",
    )
    yield (
        plan.reader_bytes > MOST_READER_GIB * 2**30,
        f"the readers of a machine need {plan.reader_bytes / 2**30:.0f} GiB of memory for order and indexes; "
        "fewer --num-workers, or shards of another size, help",
    )


def plan(options: tyro.conf.OmitArgPrefixes[PlanOptions], json: Path | None = None) -> Plan:
    """What a run will need: time, reads, cache, network, processors, memory.

    Such as:
      flm plan --data data/300w --recipe ibug68-quick --img-per-s 30
      flm plan --num-faces 10000000 --gpus 8 --batch-size 512 --img-per-s 1000

    Args:
        options: the run, the machines, and what was measured.
        json: where the plan is written.
    """
    config = options.to_config()
    made = plan_run(config)
    warnings = warnings_of(config, made)
    table = Table("what", "how much")
    for name, value in rows_of(config, made).items():
        table.add_row(name, value)
    Console().print(table)
    for warning in warnings:
        print(f"warning: {warning}")
    if json is not None:
        write_json(json, {**asdict(made), "warnings": warnings, "options": asdict(options)})
    return made


def main(arguments: Sequence[str]) -> None:
    """`flm plan …`, without these two words."""
    run_command({"plan": plan}, ["plan", *arguments], program="flm")
