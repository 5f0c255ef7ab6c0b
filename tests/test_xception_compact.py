import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import flm.model.xception_compact as _registered  # noqa: F401 - makes the names known to timm


def gflop(network: torch.nn.Module, channels: int) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, channels, 128, 128, device="meta"))
    return counter.get_total_flops() / 1e9


def test_has_the_size_and_cost_of_the_reference_project() -> None:
    with torch.device("meta"):
        network = timm.create_model("xception_compact", num_classes=136, in_chans=1)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 2.63
    assert gflop(network, channels=1) == pytest.approx(5.0, abs=0.05)
    assert network(torch.zeros(2, 1, 128, 128, device="meta")).shape == (2, 136)


def test_has_the_layers_of_the_reference_project() -> None:
    with torch.device("meta"):
        network = timm.create_model("xception_compact", num_classes=136, in_chans=1)
    activations = [m for m in network.modules() if isinstance(m, torch.nn.LeakyReLU)]
    assert {(m.negative_slope, m.inplace) for m in activations} == {(0.2, False)}
    assert [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)] == [0.3]
    depthwise = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    assert [m.in_channels for m in depthwise] == [64, 64, 128, 128, *[256] * 18, 256, 256, 512, 512]


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("xception_compact", [1, 2, 4, 8]),
        ("xception_compact_slim", [4, 8, 16, 32]),
        ("xception_compact_wide", [4, 8, 16, 32]),
    ],
)
def test_features_have_the_stated_strides_and_channels(name: str, strides: list[int]) -> None:
    with torch.device("meta"):
        backbone = timm.create_model(name, features_only=True)
    features = backbone(torch.zeros(2, 3, 64, 64, device="meta"))
    assert backbone.feature_info.reduction() == strides
    expected = [
        (2, channels, 64 // s, 64 // s)
        for s, channels in zip(strides, backbone.feature_info.channels(), strict=True)
    ]
    assert [tuple(feature.shape) for feature in features] == expected
    assert not [key for key in backbone.state_dict() if "fc." in key]


def test_features_can_be_chosen() -> None:
    torch.manual_seed(0)
    network = timm.create_model("xception_compact_slim", num_classes=5).eval()
    picture = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        every = network.forward_intermediates(picture)
        assert torch.equal(network.forward_intermediates(picture, 2)[0], every[2])
        assert torch.equal(network.forward_intermediates(picture, [1, 3])[1], every[3])
        assert torch.allclose(network(picture), network.fc(every[-1].mean((2, 3))))


def test_classifier_can_be_replaced() -> None:
    network = timm.create_model("xception_compact_slim", num_classes=5)
    network.reset_classifier(7)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    network.reset_classifier(0)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 512)
