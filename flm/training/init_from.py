"""A run that begins with the weights of another: pre-train, then fine-tune."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast, broadcast_object_list
from torch import Tensor

from flm.checkpoint import find_checkpoint, read_network
from flm.errors import InputError
from flm.inference.hub_file import HUB_PREFIX, WEIGHT_FILES, hub_model, repository_of
from flm.training.run import Run

MOST_MODULES_TOLD = 4


def take_over(run: Run) -> None:
    """Before the first step, take what fits of the network that `--init-from` names; every process calls it.

    Of the other run's moving average each tensor is taken whose name and shape this network has, so between
    landmark schemes and heads the backbone and what the heads have in common. The moving average of this run
    begins from them too. The first process alone reads, and tells in one line what was not taken.

    `run.config.init_from` then is the very checkpoint, also where a run's folder was given.

    Args:
        run: before its first step; as it is where `--init-from` was not given.

    Raises:
        InputError: on every process, where there is no such checkpoint, it is damaged, or it has another
            backbone.
    """
    if run.config.init_from is None:
        return
    told: list[Any] = [None, None]
    if run.accelerator.is_main_process:
        try:
            told[0] = _fill(run, run.config.init_from)
        except InputError as error:
            told[1] = f"--init-from {error}"
    if run.accelerator.num_processes > 1:
        broadcast_object_list(told)
    checkpoint, mistake = told
    if mistake is not None:
        raise InputError(mistake)
    weights = run.network.state_dict()
    if run.accelerator.num_processes > 1:
        for tensor in weights.values():
            tensor.copy_(broadcast(tensor.contiguous()))
    run.average.network.load_state_dict(weights)
    run.config = dataclasses.replace(run.config, init_from=checkpoint)


def _fill(run: Run, given: str) -> str:
    """Put what fits into the network of the first process; gives the checkpoint's lasting name."""
    checkpoint, lasting_name = _found(given)
    config, theirs = read_network(checkpoint)
    wanted = run.config.model.backbone
    if config.backbone != wanted:
        raise InputError(
            f"{checkpoint}: has the backbone {config.backbone}, --model.backbone is {wanted}; give a "
            f"checkpoint of {wanted} or --model.backbone {config.backbone}"
        )
    ours = run.network.state_dict()
    taken = {name for name, tensor in ours.items() if name in theirs and theirs[name].shape == tensor.shape}
    with torch.no_grad():
        for name in taken:
            ours[name].copy_(theirs[name])
    run.accelerator.print(f"--init-from {lasting_name}: {_account(ours, theirs, taken)}", flush=True)
    return lasting_name


def _found(name: str) -> tuple[Path, str]:
    """Where a checkpoint lies, fetched if need be, and the name under which it is always the same."""
    if name.startswith(HUB_PREFIX):
        checkpoint = find_checkpoint(hub_model(name, WEIGHT_FILES))
        return checkpoint, f"{HUB_PREFIX}{repository_of(name)[0]}@{checkpoint.name}"
    checkpoint = find_checkpoint(Path(name)).resolve()
    return checkpoint, str(checkpoint)


def _account(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], taken: set[str]) -> str:
    """How much was taken, and which modules were not and why."""
    # A count of batches fits everywhere.
    weights_taken = {name for name in taken if ours[name].ndim}
    left: dict[str, list[str]] = {}
    for name in {**ours, **theirs}:
        if name not in taken:
            left.setdefault(_outermost_module(name, weights_taken), []).append(name)
    told = [f"{module} ({_reason(names, ours, theirs)})" for module, names in left.items()]
    if told[MOST_MODULES_TOLD:]:
        told[MOST_MODULES_TOLD:] = [f"{len(told) - MOST_MODULES_TOLD} more modules"]
    return f"{len(taken)} of {len(ours)} tensors are taken{', but not ' * bool(told)}{', '.join(told)}"


def _outermost_module(name: str, taken: set[str]) -> str:
    """The largest module around a tensor of which nothing was taken."""
    parts = name.split(".")[:-1]
    modules = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return next((one for one in modules if not any(has.startswith(f"{one}.") for has in taken)), name)


def _reason(names: Sequence[str], ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    """Why these tensors of a module were not taken."""
    if ours.keys().isdisjoint(names):
        return "not in this network"
    if theirs.keys().isdisjoint(names):
        return "not in that checkpoint"
    both = [name for name in names if name in ours and name in theirs]
    return f"{_shape(theirs[both[0]])} there, {_shape(ours[both[0]])} here" if both else "of another kind"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
