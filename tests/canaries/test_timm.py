"""What timm's Xceptions do that flm.model builds on."""

import copy
from pathlib import Path

import pytest
import timm
import torch

XCEPTIONS = ("legacy_xception", "xception41", "xception41p", "xception65", "xception65p", "xception71")
ONE_OF_EACH_KIND = ("legacy_xception", "xception41", "xception41p")
"""The others differ in depth."""


@pytest.mark.parametrize("name", XCEPTIONS)
def test_features_come_at_strides_2_to_32_without_a_classifier(name: str) -> None:
    with torch.device("meta"):
        backbone = timm.create_model(name, features_only=True, feature_cls="getter")
    assert backbone.feature_info.reduction() == [2, 4, 8, 16, 32]
    assert not [key for key in backbone.state_dict() if "fc." in key]
    features = backbone(torch.zeros(1, 3, 128, 128, device="meta"))
    assert [feature.shape[1] for feature in features] == backbone.feature_info.channels()


@pytest.mark.parametrize("name", XCEPTIONS)
def test_pixels_are_normalised_to_plus_minus_one(name: str) -> None:
    about = timm.get_pretrained_cfg(name)
    assert about is not None
    assert about.mean == about.std == (0.5, 0.5, 0.5)


def test_the_stem_of_legacy_xception_has_no_padding_and_three_pixels_make_up_for_it() -> None:
    with torch.device("meta"):
        backbone = timm.create_model("legacy_xception", features_only=True, feature_cls="getter")
    for size, expected in ((128, [61, 31, 16, 8, 4]), (131, [63, 32, 16, 8, 4])):
        features = backbone(torch.zeros(1, 3, size, size, device="meta"))
        assert [feature.shape[-1] for feature in features] == expected


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_no_activation_in_place_spoils_a_feature(name: str) -> None:
    """A feature as handed over is the feature as it was when the network passed it, and has a gradient."""
    torch.manual_seed(0)
    backbone = timm.create_model(name, features_only=True, feature_cls="getter").eval()
    hooked = timm.create_model(name, features_only=True).eval()
    picture = torch.randn(1, 3, 64, 64)
    # both wrappers keep the order of the weights, under names of their own
    hooked.load_state_dict(
        dict(zip(hooked.state_dict(), backbone.state_dict().values(), strict=True)), strict=True
    )
    seen: list[torch.Tensor] = []
    for module_name in (info["module"] for info in hooked.feature_info.info):
        module = hooked.get_submodule(_name_in_hook_net(hooked, module_name))
        module.register_forward_hook(lambda _module, _args, output: seen.append(output.detach().clone()))
    with torch.no_grad():
        hooked(picture)
    features = backbone(picture)
    for feature, at_its_time in zip(features, seen, strict=True):
        assert torch.allclose(feature, at_its_time, atol=1e-5)
    sum(feature.square().mean() for feature in features).backward()  # pyright: ignore
    assert all(p.grad is not None for p in backbone.parameters())


def _name_in_hook_net(hooked: torch.nn.Module, module_name: str) -> str:
    children = dict(hooked.named_modules())
    names = (f"body.{module_name}", module_name, module_name.replace(".", "_", 1))
    return next(name for name in names if name in children)


def test_feature_networks_can_be_copied() -> None:
    """Averages of weights are kept in a copy, whose features must be its own."""
    torch.manual_seed(0)
    backbone = timm.create_model("legacy_xception", features_only=True, feature_cls="getter").eval()
    twin = copy.deepcopy(backbone)
    picture = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = backbone(picture)[-1]
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(backbone(picture)[-1], before)
        assert not torch.equal(twin(picture)[-1], before)


def test_grey_takes_the_sum_of_the_colours() -> None:
    weight = torch.randn(4, 3, 3, 3)
    assert torch.allclose(timm.models.adapt_input_conv(1, weight), weight.sum(1, keepdim=True))


def test_state_dicts_are_read_from_both_formats(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = {"conv1.weight": torch.randn(2, 3)}
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": {"module.conv1.weight": state["conv1.weight"]}}, tmp_path / "b.pth")
    for name in ("a.safetensors", "b.pth"):
        found = timm.models.load_state_dict(str(tmp_path / name), weights_only=True)
        assert torch.equal(found["conv1.weight"], state["conv1.weight"])


def test_weights_that_cannot_be_fetched_are_an_error() -> None:
    """It does not go on with random ones. The tests run with the hub's client offline."""
    with pytest.raises(OSError, match=r"cannot find|offline"):
        timm.create_model("xception41", pretrained=True, features_only=True)
