import dataclasses
from pathlib import Path
from typing import get_args

import pytest
import torch
from conftest import draw_face
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from flm.errors import InputError
from flm.model.heads import MARGIN_CELLS, Head
from flm.model.losses import LossConfig, landmark_loss
from flm.model.network import Backbone, LandmarkNetwork, ModelConfig, build_network

SLIM = ModelConfig(backbone="xception_compact_slim", input_size_px=64, head_channels=32)


def make_network(config: ModelConfig = SLIM, seed: int = 0) -> LandmarkNetwork:
    torch.manual_seed(seed)
    return build_network(config)


def drawn_faces(count: int, size_px: int) -> tuple[Tensor, Tensor]:
    """Pictures in [0, 1] and their landmarks, unit frame."""
    faces = [draw_face(seed, size_px) for seed in range(count)]
    images = torch.stack([torch.from_numpy(picture).permute(2, 0, 1) for picture, _ in faces]).float() / 255
    landmarks = torch.stack([torch.from_numpy((points + 0.5) / size_px).float() for _, points in faces])
    return images, landmarks


@pytest.mark.parametrize("head", get_args(Head))
@pytest.mark.parametrize("backbone", get_args(Backbone))
def test_every_backbone_goes_with_every_head(backbone: Backbone, head: Head) -> None:
    with FakeTensorMode():
        network = build_network(ModelConfig(backbone=backbone, head=head))
        output = network(torch.zeros(2, 3, 128, 128))
    assert output.landmarks_unit.shape == (2, 68, 2)
    assert output.landmarks_unit.dtype == torch.float32
    if head == "heatmap":
        cells = 16 + 2 * MARGIN_CELLS
        assert output.covariance_unit is not None
        assert output.covariance_unit.shape == (2, 68, 2, 2)
        assert output.heatmap_logits is not None
        assert output.heatmap_logits.shape == (2, 68, cells, cells)
    elif head == "simcc":
        assert output.covariance_unit is not None
        assert output.axis_logits is not None
        assert output.axis_logits.shape == (2, 68, 2, 2 * (128 + 2 * 8 * MARGIN_CELLS))
    else:
        assert output.covariance_unit is None


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("size_px", [64, 96])
def test_maps_have_a_cell_for_each_stride_of_the_crop(stride: int, size_px: int) -> None:
    config = dataclasses.replace(SLIM, heatmap_stride=stride, input_size_px=size_px)
    output = make_network(config)(torch.rand(2, 3, size_px, size_px))
    assert output.heatmap_logits is not None
    assert output.heatmap_logits.shape[-1] == size_px // stride + 2 * MARGIN_CELLS
    assert output.cell_centers_unit is not None
    assert float(output.cell_centers_unit[MARGIN_CELLS]) == pytest.approx(stride / size_px / 2)


@pytest.mark.parametrize("head", get_args(Head))
def test_every_weight_has_a_gradient(head: Head) -> None:
    network = make_network(dataclasses.replace(SLIM, head=head))
    output = network(torch.rand(2, 3, 64, 64))
    landmark_loss(output, torch.rand(2, 68, 2), torch.ones(2, dtype=torch.bool), LossConfig())[
        "total"
    ].backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("head", get_args(Head))
def test_landmarks_are_float32_and_near_the_same_in_reduced_precision(head: Head) -> None:
    network = make_network(dataclasses.replace(SLIM, head=head)).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        plain = network(images)
        network = network.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            reduced = network(images.contiguous(memory_format=torch.channels_last))
    assert reduced.landmarks_unit.dtype == torch.float32
    assert (plain.landmarks_unit - reduced.landmarks_unit).abs().max() < 0.02
    assert not torch.equal(plain.landmarks_unit, reduced.landmarks_unit)


def test_grey_is_the_luma_of_the_picture() -> None:
    network = make_network(dataclasses.replace(SLIM, color="grey")).eval()
    images = torch.rand(2, 3, 64, 64)
    luma = 0.299 * images[:, :1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:]
    with torch.no_grad():
        from_color = network(images).landmarks_unit
        from_luma = network(luma.expand(-1, 3, -1, -1)).landmarks_unit
        from_red = network(images[:, :1].expand(-1, 3, -1, -1)).landmarks_unit
    assert torch.allclose(from_color, from_luma, atol=1e-6)
    assert (from_color - from_red).abs().max() > 1e-4 * from_color.std()


def test_the_reference_network_has_its_number_of_parameters() -> None:
    with FakeTensorMode():
        network = build_network(ModelConfig(backbone="xception_compact", head="regression", color="grey"))
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 2.63


@pytest.mark.parametrize(
    ("backbone", "most_flop", "most_weights"),
    [("xception_compact_slim", 0.25e9, 1.1e6), ("xception_compact_wide", 0.55e9, 3.5e6)],
)
def test_networks_for_processors_are_cheap(backbone: Backbone, most_flop: float, most_weights: float) -> None:
    network = build_network(ModelConfig(backbone=backbone)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 128, 128))
    assert counter.get_total_flops() < most_flop
    assert sum(weight.numel() for weight in network.parameters()) < most_weights


def test_pixels_reach_the_backbone_as_plus_minus_one() -> None:
    network = make_network()
    seen: list[Tensor] = []
    network.backbone.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    network(torch.stack([torch.zeros(3, 64, 64), torch.ones(3, 64, 64)]))
    assert torch.equal(seen[0][0], torch.full((3, 64, 64), -1.0))
    assert torch.equal(seen[0][1], torch.full((3, 64, 64), 1.0))


def test_state_holds_weights_only_and_round_trips() -> None:
    network, other = make_network(seed=0).eval(), make_network(seed=1).eval()
    images = torch.rand(1, 3, 64, 64)
    other.load_state_dict(network.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(other(images).landmarks_unit, network(images).landmarks_unit)
    assert {key.split(".")[0] for key in network.state_dict()} == {"backbone", "head"}


def test_a_few_faces_are_learned_by_heart() -> None:
    images, target = drawn_faces(4, size_px=64)
    network = make_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    valid = torch.ones(4, dtype=torch.bool)
    losses = []
    for _ in range(30):
        total = landmark_loss(network(images), target, valid, LossConfig(kind="l1"))["total"]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert losses[-1] < losses[0] / 5


def legacy(path: Path | None, **fields: object) -> ModelConfig:
    return dataclasses.replace(ModelConfig(weights=path, input_size_px=64), **fields)


def test_frozen_batch_statistics_do_not_move_and_are_those_that_training_uses() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, 64, 64)
    config = ModelConfig(backbone="xception_compact_slim", input_size_px=64, freeze_batch_norm=True)
    network = build_network(config)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    together = network.train()(images).landmarks_unit
    one_by_one = torch.cat([network(image[None]).landmarks_unit for image in images])
    torch.testing.assert_close(together, one_by_one)
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    thawed = build_network(dataclasses.replace(config, freeze_batch_norm=False))
    thawed.load_state_dict(network.state_dict())
    assert not torch.allclose(thawed.train()(images).landmarks_unit, together)
    assert all(module.training for module in network.modules() if isinstance(module, torch.nn.Conv2d))


def test_imagenet_weights_are_read_from_a_file(imagenet_weights: Path) -> None:
    network = build_network(legacy(imagenet_weights, head="regression")).eval()
    stored = load_file(imagenet_weights)
    loaded = {key.removeprefix("model."): value for key, value in network.backbone.state_dict().items()}
    assert set(stored) <= set(loaded)
    assert all(torch.equal(value.float(), loaded[key].float()) for key, value in stored.items())
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    # Learned features of a face are sparse: what random ones are not.
    images, _ = drawn_faces(2, size_px=64)
    with torch.no_grad():
        last = network.backbone(network._normalise(images))[-1]
    assert float((last == 0).float().mean()) > 0.7


def test_grey_takes_the_weights_of_the_colours(imagenet_weights: Path) -> None:
    """So that a grey picture gives what the network for colours gives for it."""
    grey = build_network(legacy(imagenet_weights, color="grey", head="regression")).eval()
    color = build_network(legacy(imagenet_weights, head="regression")).eval()
    images = torch.rand(1, 1, 64, 64).expand(-1, 3, -1, -1)
    with torch.no_grad():
        a, b = (network.backbone(network._normalise(images))[-1] for network in (grey, color))
    assert torch.allclose(a, b, atol=1e-3)


def save_slim_weights(path: Path, drop: str = "", reshape: str = "") -> dict[str, Tensor]:
    state = {
        key.removeprefix("model."): value
        for key, value in make_network(seed=1).backbone.state_dict().items()
        if key.startswith("model.") and key != f"model.{drop}"
    }
    if reshape:
        state[reshape] = torch.zeros(3, 3)
    state["fc.weight"] = torch.zeros(1000, 512)
    if path.suffix == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path)
    return state


@pytest.mark.parametrize("name", ["backbone.safetensors", "backbone.pth"])
def test_weights_come_from_either_format_and_not_for_a_checkpoint(tmp_path: Path, name: str) -> None:
    state = save_slim_weights(tmp_path / name)
    config = dataclasses.replace(SLIM, weights=tmp_path / name)
    stem = make_network(config).backbone.get_parameter("model.stem.0.weight")
    assert torch.equal(stem, state["stem.0.weight"])
    (tmp_path / name).unlink()
    build_network(config, load_weights=False)


def test_a_weights_file_takes_the_place_of_the_hub(imagenet_weights: Path) -> None:
    build_network(legacy(imagenet_weights, pretrained=True, head="regression"))


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, imagenet_weights: Path) -> None:
    with pytest.raises(InputError, match=r"--model\.weights .*missing.* xception_compact_slim"):
        build_network(dataclasses.replace(SLIM, weights=imagenet_weights))
    path = tmp_path / "a.safetensors"
    save_slim_weights(path, drop="exit.1.1.weight")
    with pytest.raises(InputError, match=r"exit\.1\.1\.weight is missing"):
        build_network(dataclasses.replace(SLIM, weights=path))
    save_slim_weights(path, reshape="exit.1.1.weight")
    with pytest.raises(
        InputError, match=r"exit\.1\.1\.weight has shape \(3, 3\), expected \(256, 256, 1, 1\)"
    ):
        build_network(dataclasses.replace(SLIM, weights=path))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_weights_that_cannot_be_read_are_refused(tmp_path: Path, name: str) -> None:
    config = dataclasses.replace(SLIM, weights=tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        build_network(config)
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(InputError, match=rf"{name}: cannot be read") as caught:
        build_network(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "weight", [torch.zeros(3), torch.zeros(4, 4, 3, 3), "none"], ids=["1D", "4 colours", "text"]
)
def test_a_first_convolution_of_another_kind_is_refused(tmp_path: Path, weight: object) -> None:
    torch.save({"stem.0.weight": weight}, tmp_path / "a.pth")
    config = dataclasses.replace(SLIM, weights=tmp_path / "a.pth", color="grey")
    with pytest.raises(InputError, match=r"--model\.weights .*a\.pth: ") as caught:
        build_network(config)
    assert "\n" not in str(caught.value)


def test_pretrained_weights_without_a_network_name_the_way_out() -> None:
    with pytest.raises(InputError, match=r"--model\.pretrained: .*xception41 .*--model\.weights PATH"):
        build_network(ModelConfig(backbone="xception41", pretrained=True))
    with FakeTensorMode():
        build_network(ModelConfig(backbone="xception41", pretrained=True), load_weights=False)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(InputError, match="wflw-99"):
        build_network(dataclasses.replace(SLIM, scheme="wflw-99"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_size_px": 100}, r"--model\.input-size-px 100"),
        ({"input_size_px": 0}, r"--model\.input-size-px 0"),
        ({"crop_margin": -0.1}, r"--model\.crop-margin -0\.1"),
        ({"dropout": 1.0}, r"--model\.dropout 1\.0"),
        ({"head_channels": 0}, r"--model\.head-channels 0"),
        ({"head_channels": 10**6}, r"--model\.head-channels 1000000 is not in 1 to 1024"),
        ({"input_size_px": 32_000}, r"--model\.input-size-px 32000 .* up to 1024"),
        ({"pretrained": True, "backbone": "xception_compact"}, r"--model\.pretrained: .*xception_compact"),
    ],
)
def test_fields_out_of_range_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ModelConfig(), **fields)
