"""What changes the weights: optimizer, learning-rate schedule, moving average."""

import copy
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from flm.model.network import LandmarkNetwork


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Optimizer, schedule and moving average."""

    kind: Literal["adamw", "adam"] = "adamw"
    """AdamW decays weights apart from the gradient; Adam is without decay."""
    learning_rate: float = 1e-3
    """Of the head, at the end of the warm-up."""
    backbone_factor: float = 1.0
    """The backbone's learning rate as a share of the head's; below 1 for pre-trained weights."""
    weight_decay: float = 0.05
    """Of AdamW, on matrices and filters; norms and biases are not decayed."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Cosine falls to zero at the end of the run."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly from zero."""
    max_gradient_norm: float = 1.0
    """Gradients with a larger norm over all parameters are scaled down to it; 0 leaves them."""
    ema_decay: float = 0.999
    """Of the moving average of the weights that is evaluated and shipped; 0 takes the weights themselves."""

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"--optimizer.learning-rate is {self.learning_rate}, must be a number above 0")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--optimizer.ema-decay is {self.ema_decay}, must be in [0, 1)")
        for flag, value in (
            ("--optimizer.backbone-factor", self.backbone_factor),
            ("--optimizer.weight-decay", self.weight_decay),
            ("--optimizer.warmup-steps", self.warmup_steps),
            ("--optimizer.max-gradient-norm", self.max_gradient_norm),
        ):
            if not 0 <= value < math.inf:
                raise ValueError(f"{flag} is {value}, must be a number of at least 0")


def build_optimizer(network: LandmarkNetwork, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer; each parameter group keeps its share of the learning rate in `factor`."""
    groups: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in network.named_parameters():
        factor = config.backbone_factor if name.startswith("backbone.") else 1.0
        decay = config.weight_decay if parameter.ndim > 1 and config.kind == "adamw" else 0.0
        groups.setdefault((factor, decay), []).append((name, parameter))
    parameter_groups = [
        {"params": parameters, "factor": factor, "weight_decay": decay, "lr": config.learning_rate * factor}
        for (factor, decay), parameters in groups.items()
    ]
    match config.kind:
        case "adamw":
            return torch.optim.AdamW(parameter_groups, fused=True)
        case "adam":
            return torch.optim.Adam(parameter_groups, fused=True)


def learning_rate_at(step: int, steps: int, config: OptimizerConfig) -> float:
    """The head's learning rate in a step, a function of nothing else, so that resuming needs no state.

    Args:
        step: 0 is the first.
        steps: of the whole run.
        config: its schedule.
    """
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    match config.schedule:
        case "constant":
            fall = 1.0
        case "cosine":
            progress = max(0, step - config.warmup_steps) / max(1, steps - config.warmup_steps)
            fall = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * warmup * fall


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give each parameter group its share."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["factor"]


class MovingAverage:
    """The exponential moving average of weights and batch statistics, as a network of its own.

    Its decay warms up as min(decay, (1 + n) / (10 + n)) with the number n of updates, so that a short run is
    not an average over its random start.

    Args:
        network: what is averaged; the average begins as a copy of it.
        decay: share of the old average that an update keeps; 0 makes the average the network itself.
    """

    def __init__(self, network: LandmarkNetwork, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(
        self, network: LandmarkNetwork, step: int, good: Bool[Tensor, ""] | Literal[True] = True
    ) -> None:
        """Take the weights after a step in.

        Args:
            network: after its update.
            step: 0 is the first.
            good: whether the step was; nothing moves if not. It stays on the device, which is not waited for.
        """
        share = (1 - min(self.decay, (1 + step) / (10 + step))) * torch.as_tensor(good)
        averaged, current = [], []
        for mine, theirs in zip(_state(self.network), _state(network), strict=True):
            if mine.is_floating_point():
                averaged.append(mine)
                current.append(theirs)
            else:
                mine.copy_(theirs)
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage] - of no public name
            averaged, current, [share] * len(averaged)
        )


def _state(network: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(network.parameters(), network.buffers())


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments by `optimizer.PARAMETER.MOMENT`, to be stored without pickle."""
    names = _parameter_names(optimizer)
    return {
        f"optimizer.{names[place]}.{moment}": value
        for place, moments in optimizer.state_dict()["state"].items()
        for moment, value in moments.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took out; other tensors are ignored.

    The parameters may be grouped in another way than those were, as another weight decay does.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    places = {name: place for place, name in enumerate(_parameter_names(optimizer))}
    # Older checkpoints have the place in the optimizer instead of the name.
    places |= {str(place): place for place in range(len(parameters))}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        owner, _, rest = name.partition(".")
        if owner == "optimizer":
            parameter, _, moment = rest.rpartition(".")
            place = places[parameter]
            # The fused update walks moments and weights in one pass, so they must lie alike in memory.
            like = parameters[place] if value.ndim else value
            # A copy, since what was read lies in the file, which stays on the disk as long as a tensor does.
            state.setdefault(place, {})[moment] = torch.empty_like(like).copy_(value)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _parameter_names(optimizer: torch.optim.Optimizer) -> list[str]:
    return [name for group in optimizer.param_groups for name in group["param_names"]]
