"""Learning rate, parameter groups, moving average, and an optimizer that goes on as if never stopped."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import Tensor

from flm.model.network import LandmarkNetwork, ModelConfig, build_network
from flm.training.optimization import (
    MovingAverage,
    OptimizerConfig,
    build_optimizer,
    learning_rate_at,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
)

STEPS = 500


@pytest.fixture(scope="module")
def pristine() -> LandmarkNetwork:
    torch.manual_seed(0)
    return build_network(ModelConfig(backbone="xception_compact_slim", input_size_px=64))


@pytest.fixture
def network(pristine):
    return copy.deepcopy(pristine)


def rates(**options) -> list[float]:
    config = OptimizerConfig(learning_rate=0.01, **options)
    return [learning_rate_at(step, STEPS, config) for step in range(STEPS)]


@pytest.mark.parametrize("warmup_steps", [0, 1, 50])
def test_cosine_rises_linearly_to_its_peak_and_falls_to_nearly_nothing(warmup_steps):
    found = rates(schedule="cosine", warmup_steps=warmup_steps)
    rise, fall = found[: warmup_steps + 1], found[warmup_steps:]
    assert rise == pytest.approx([0.01 * (i + 1) / (warmup_steps + 1) for i in range(warmup_steps + 1)])
    assert max(found) == found[warmup_steps] == pytest.approx(0.01)
    assert fall == sorted(fall, reverse=True)
    assert len(set(fall)) == len(fall)
    assert 0 < found[-1] < 1e-4 * 0.01
    assert fall[len(fall) // 2] == pytest.approx(0.005, rel=0.02)


def test_constant_stays_where_the_warm_up_ends():
    found = rates(schedule="constant", warmup_steps=9)
    assert found[:9] == pytest.approx([0.001 * i for i in range(1, 10)])
    assert found[9:] == pytest.approx([0.01] * (STEPS - 9))


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_run_shorter_than_its_warm_up_only_rises(schedule):
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=100, schedule=schedule)
    found = [learning_rate_at(step, 10, config) for step in range(10)]
    assert found == pytest.approx([(i + 1) / 101 for i in range(10)])


def decays_and_factors(network: LandmarkNetwork, config: OptimizerConfig) -> dict[str, tuple[float, float]]:
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = build_optimizer(network, config).param_groups
    found = {names[p]: (group["weight_decay"], group["factor"]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(names)
    return found


def test_each_parameter_has_the_decay_and_share_that_it_should(network):
    config = OptimizerConfig(backbone_factor=0.25, weight_decay=0.1)
    found = decays_and_factors(network, config)
    for name, parameter in network.named_parameters():
        decay, factor = found[name]
        assert decay == (0.1 if parameter.ndim > 1 else 0.0), name
        assert factor == (0.25 if name.startswith("backbone.") else 1.0), name
    assert len(set(found.values())) == 4


def test_adam_decays_nothing(network):
    found = decays_and_factors(network, OptimizerConfig(kind="adam", weight_decay=0.1))
    assert set(found.values()) == {(0.0, 1.0)}


def test_a_learning_rate_reaches_each_group_by_its_share(network):
    optimizer = build_optimizer(network, OptimizerConfig(learning_rate=0.5, backbone_factor=0.25))
    assert {group["lr"] for group in optimizer.param_groups} == {0.5, 0.125}
    set_learning_rate(optimizer, 0.1)
    assert {group["factor"]: group["lr"] for group in optimizer.param_groups} == {1.0: 0.1, 0.25: 0.025}


def perturb(network: LandmarkNetwork, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator))
            else:
                assert name.endswith("num_batches_tracked")
                tensor.add_(3)


def test_the_moving_average_is_the_one_of_the_books(network):
    average = MovingAverage(network, 0.4)
    expected = {name: tensor.double() for name, tensor in network.state_dict().items()}
    for step in range(8):
        perturb(network, step)
        average.update(network, step)
        decay = min(0.4, (1 + step) / (10 + step))
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
            else:
                expected[name] = tensor.double()
    # The decay's warm-up and its end were both seen.
    assert 1 / 10 < 0.4 < 8 / 17
    for name, tensor in average.network.state_dict().items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-5, msg=name)
        assert tensor.dtype == network.state_dict()[name].dtype


def test_an_average_without_decay_is_the_network(network):
    average = MovingAverage(network, 0.0)
    for step in range(3):
        perturb(network, step)
        average.update(network, step)
        for name, tensor in average.network.state_dict().items():
            assert torch.equal(tensor, network.state_dict()[name]), name


def test_an_average_is_apart_from_the_network_and_never_trains(network):
    average = MovingAverage(network.train(), 0.5)
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    assert not any(module.training for module in average.network.modules())
    assert network.training
    before = {name: tensor.clone() for name, tensor in average.network.state_dict().items()}
    perturb(network, 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in average.network.state_dict().items())
    average.update(network, 0)
    assert all(parameter.grad_fn is None for parameter in average.network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())


def train_step(network: LandmarkNetwork, optimizer: torch.optim.Optimizer, seed: int) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    network.train()(images).landmarks_unit.square().mean().backward()
    optimizer.step()


def weights(network: LandmarkNetwork) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("kind", ["adamw", "adam"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_an_optimizer_goes_on_bit_by_bit(network, kind, memory_format):
    network.to(memory_format=memory_format)
    config = OptimizerConfig(kind=kind, learning_rate=0.01, backbone_factor=0.5)
    optimizer = build_optimizer(network, config)
    for seed in range(2):
        train_step(network, optimizer, seed)
    # As they come out of a file.
    stored = {name: value.clone().contiguous() for name, value in optimizer_tensors(optimizer).items()}
    stored["network.backbone"] = torch.zeros(3)
    resumed = copy.deepcopy(network)
    resumed_optimizer = build_optimizer(resumed, config)
    load_optimizer_tensors(resumed_optimizer, stored)
    forgetful = copy.deepcopy(network)
    forgetful_optimizer = build_optimizer(forgetful, config)
    for seed in (7, 8):
        train_step(network, optimizer, seed)
        train_step(resumed, resumed_optimizer, seed)
        train_step(forgetful, forgetful_optimizer, seed)
    one, other = weights(network), weights(resumed)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], tensor) for name, tensor in weights(forgetful).items())
    assert [group["lr"] for group in resumed_optimizer.param_groups] == [
        group["lr"] for group in optimizer.param_groups
    ]


@pytest.mark.parametrize(
    "changes",
    [{"weight_decay": 0.0}, {"backbone_factor": 1.0}, {"kind": "adam"}, {"learning_rate": 0.1}],
    ids=str,
)
def test_each_parameter_keeps_its_moments_in_other_groups(network, changes):
    config = OptimizerConfig(backbone_factor=0.5)
    optimizer = build_optimizer(network, config)
    train_step(network, optimizer, 0)
    stored = optimizer_tensors(optimizer)
    assert {name.split(".")[1] for name in stored} == {"backbone", "head"}
    other = build_optimizer(network, dataclasses.replace(config, **changes))
    load_optimizer_tensors(other, stored)
    for parameter in network.parameters():
        for moment, value in optimizer.state[parameter].items():
            assert torch.equal(other.state[parameter][moment], value)


def test_moments_of_older_checkpoints_are_numbered(network):
    optimizer = build_optimizer(network, OptimizerConfig(backbone_factor=0.5))
    train_step(network, optimizer, 0)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbered = {
        f"optimizer.{number}.{moment}": value
        for number, parameter in enumerate(parameters)
        for moment, value in optimizer.state[parameter].items()
    }
    other = build_optimizer(network, OptimizerConfig(backbone_factor=0.5))
    load_optimizer_tensors(other, numbered)
    assert all(
        torch.equal(other.state[parameter][moment], value)
        for parameter in parameters
        for moment, value in optimizer.state[parameter].items()
    )


@pytest.mark.parametrize(
    ("field", "value", "flag"),
    [
        ("learning_rate", 0.0, "--optimizer.learning-rate"),
        ("learning_rate", math.nan, "--optimizer.learning-rate"),
        ("learning_rate", math.inf, "--optimizer.learning-rate"),
        ("ema_decay", 1.0, "--optimizer.ema-decay"),
        ("ema_decay", -0.1, "--optimizer.ema-decay"),
        ("ema_decay", math.nan, "--optimizer.ema-decay"),
        ("backbone_factor", -1.0, "--optimizer.backbone-factor"),
        ("weight_decay", math.nan, "--optimizer.weight-decay"),
        ("warmup_steps", -1, "--optimizer.warmup-steps"),
        ("max_gradient_norm", -1.0, "--optimizer.max-gradient-norm"),
    ],
)
def test_bad_settings_name_their_flag_and_value(field, value, flag):
    with pytest.raises(ValueError, match=f"^{flag} is {value}, must be ") as caught:
        OptimizerConfig(**{field: value})
    assert "\n" not in str(caught.value)
