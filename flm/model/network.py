"""The network: a picture of a face in, landmarks out. A timm Xception and a head."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flm.errors import InputError, first_line
from flm.geometry import MOST_INPUT_SIZE_PX
from flm.landmarks import scheme_named
from flm.model.heads import FusedFeatures, Head, HeatmapHead, NetworkOutput, RegressionHead
from flm.model.simcc import SimccHead

Backbone = Literal[
    "legacy_xception",
    "xception41",
    "xception41p",
    "xception65",
    "xception65p",
    "xception71",
    "xception_compact",
    "xception_compact_slim",
    "xception_compact_wide",
]

SIZE_MULTIPLE_PX = 32
"""The coarsest stride of the backbones."""

MOST_HEAD_CHANNELS = 1024
"""Far beyond what landmarks need; a checkpoint of a stranger could ask for all memory there is."""

UNPADDED_STEMS = frozenset({"legacy_xception"})
"""Their first two convolutions have no padding; three pixels around the picture make up for it, so that
features of stride s have exactly size / s cells and lie where those of the other backbones do."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in ITU-R BT.601, as Pillow and OpenCV make grey."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """What a network is made of.

    Raises:
        ValueError: a field is out of range, or two contradict each other.
    """

    backbone: Backbone = "legacy_xception"
    """An Xception of timm, the reference project's own, or a slimmer one for CPUs."""
    head: Head = "heatmap"
    """Coordinates from pooled features, one map per landmark with its uncertainty, or bins along x and y."""
    scheme: str = "ibug-68"
    """The landmark scheme, which says how many points there are."""
    input_size_px: int = 128
    """Side of the square crop that the network sees; a multiple of 32."""
    crop_margin: float = 0.125
    """Share of the longer side of the face box that the crop adds on each side."""
    color: Literal["rgb", "grey"] = "rgb"
    """What the backbone sees; grey is made inside the network, so the input is RGB either way."""
    pretrained: bool = False
    """Start from ImageNet weights of timm's hub, unless --model.weights names a file."""
    weights: Path | None = None
    """Start from the backbone weights in this file (.safetensors or .pth), instead of the hub."""
    heatmap_stride: Literal[4, 8] = 8
    """Crop pixels per cell of the maps of the heatmap and SimCC heads."""
    head_channels: int = 128
    """Channels of the fused features of the heatmap and SimCC heads."""
    dropout: float = 0.0
    """Share of the features before the last layer that training drops."""
    freeze_batch_norm: bool = False
    """Batch statistics stay those of the weights at the start, and training uses them too: for pre-trained
    weights and few faces a process. The losses are then the same on any number of processes."""

    def __post_init__(self) -> None:
        if not 0 < self.input_size_px <= MOST_INPUT_SIZE_PX or self.input_size_px % SIZE_MULTIPLE_PX:
            raise ValueError(
                f"--model.input-size-px {self.input_size_px} is not a positive multiple of {SIZE_MULTIPLE_PX}"
                f" up to {MOST_INPUT_SIZE_PX}"
            )
        if not 0 <= self.crop_margin <= 1:
            raise ValueError(f"--model.crop-margin {self.crop_margin} is not in [0, 1]")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--model.dropout {self.dropout} is not in [0, 1)")
        if not 0 < self.head_channels <= MOST_HEAD_CHANNELS:
            raise ValueError(
                f"--model.head-channels {self.head_channels} is not in 1 to {MOST_HEAD_CHANNELS}"
            )
        if self.pretrained and self.backbone.startswith("xception_compact"):
            raise ValueError(f"--model.pretrained: there are no ImageNet weights of {self.backbone}")


class LandmarkNetwork(nn.Module):
    """A backbone and a head; pixel normalisation is inside.

    Args:
        config: what it is made of.
        load_weights: False when a checkpoint is loaded afterwards; neither the hub nor a weights file is
            touched then.

    Raises:
        InputError: the scheme is unknown, or the pretrained weights cannot be had or do not fit.
    """

    def __init__(self, config: ModelConfig, load_weights: bool = True) -> None:
        super().__init__()
        self.config = config
        backbone = _create_backbone(
            config, from_hub=config.pretrained and config.weights is None and load_weights
        )
        if config.weights is not None and load_weights:
            _load_backbone_weights(backbone, config)
        self.backbone = backbone
        mean, std = _pixel_statistics(config)
        self.pixel_mean = nn.Buffer(mean, persistent=False)
        self.pixel_std = nn.Buffer(std, persistent=False)
        self.luma = nn.Buffer(torch.tensor(LUMA).view(1, 3, 1, 1), persistent=False)
        self.head = _create_head(
            config, cast(Any, backbone).feature_info
        )  # timm's wrapper has no public type

    def train(self, mode: bool = True) -> "LandmarkNetwork":
        """As of every module, but for batch statistics that are frozen."""
        super().train(mode)
        if self.config.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Float[Tensor, "batch 3 size size"]) -> NetworkOutput:
        """Landmarks of faces.

        Args:
            images: RGB crops in [0, 1]; the side is a multiple of 32, usually `config.input_size_px`.
        """
        return self.head(self.backbone(self._normalise(images)))

    def _normalise(self, images: Float[Tensor, "batch 3 size size"]) -> Tensor:
        if self.config.color == "grey":
            images = (images * self.luma).sum(dim=1, keepdim=True)
        normalised = (images - self.pixel_mean) / self.pixel_std
        if self.config.backbone in UNPADDED_STEMS:
            return F.pad(normalised, (1, 2, 1, 2))
        return normalised


def build_network(config: ModelConfig, load_weights: bool = True) -> LandmarkNetwork:
    """The network of a configuration, with the pretrained weights that it asks for; see `LandmarkNetwork`."""
    return LandmarkNetwork(config, load_weights)


def _create_backbone(config: ModelConfig, from_hub: bool) -> nn.Module:
    # timm takes seconds to import, and the configuration of a run needs this module without a network.
    import timm

    import flm.model.xception_compact  # noqa: F401 - registers three backbones with timm

    try:
        # "getter" takes features without hooks, so that the network can be copied, compiled and exported.
        return timm.create_model(
            config.backbone,
            pretrained=from_hub,
            features_only=True,
            feature_cls="getter",
            in_chans=_input_channels(config),
        )
    except Exception as error:  # the hubs' clients raise all sorts
        if not from_hub:
            raise
        raise InputError(
            f"--model.pretrained: the weights of {config.backbone} cannot be fetched from timm's hub "
            f"({type(error).__name__}: {first_line(error)}); give a file with --model.weights PATH"
        ) from error


def _create_head(config: ModelConfig, levels: Any) -> nn.Module:
    num_points = scheme_named(config.scheme).num_points
    if config.head == "regression":
        return RegressionHead(levels.channels()[-1], num_points, config.dropout)
    fused = FusedFeatures(
        channels=levels.channels(),
        strides=levels.reduction(),
        stride=config.heatmap_stride,
        width=config.head_channels,
        dropout=config.dropout,
    )
    if config.head == "heatmap":
        return HeatmapHead(fused, num_points)
    num_cells = config.input_size_px // config.heatmap_stride
    return SimccHead(fused, num_cells=num_cells, stride=config.heatmap_stride, num_points=num_points)


def _about(backbone: Backbone) -> Any:
    """What timm knows of a backbone's weights: pixel statistics, name of the first convolution."""
    import timm

    return timm.get_pretrained_cfg(backbone)


def _pixel_statistics(config: ModelConfig) -> tuple[Float[Tensor, "1 c 1 1"], Float[Tensor, "1 c 1 1"]]:
    about = _about(config.backbone)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (about.mean, about.std))
    if config.color == "grey":
        return mean.mean(dim=1, keepdim=True), std.mean(dim=1, keepdim=True)
    return mean, std


def _input_channels(config: ModelConfig) -> int:
    return 1 if config.color == "grey" else 3


def _load_backbone_weights(backbone: nn.Module, config: ModelConfig) -> None:
    """Fill the backbone from `config.weights`; a classifier in the file is left alone.

    Raises:
        InputError: the file is missing or unreadable, or lacks a weight of this backbone or has it in another
            shape.
    """
    import timm

    path, name = config.weights, config.backbone
    if path is None or not path.is_file():
        raise InputError(f"--model.weights {path}: there is no such file; give the weights of {name}")
    try:
        file = timm.models.load_state_dict(str(path), weights_only=True)
        found = {key: value for key, value in file.items() if isinstance(value, Tensor)}
        first_conv = f"{_about(name).first_conv}.weight"
        if first_conv in found:
            found[first_conv] = timm.models.adapt_input_conv(_input_channels(config), found[first_conv])
    except Exception as error:  # pickle, safetensors and zip files fail each in their own way
        raise InputError(
            f"--model.weights {path}: cannot be read ({type(error).__name__}: {first_line(error)}); "
            f"expected a .safetensors or .pth file with the weights of {name}"
        ) from error
    backbone_weights = backbone.get_submodule("model").state_dict()
    for key, wanted in backbone_weights.items():
        got = found.get(key)
        if got is None and not key.endswith("num_batches_tracked"):
            raise InputError(
                f"--model.weights {path}: {key} is missing, so these are not the weights of {name}; "
                "give the file of that network or change --model.backbone"
            )
        if got is not None and got.shape != wanted.shape:
            raise InputError(
                f"--model.weights {path}: {key} has shape {tuple(got.shape)}, expected {tuple(wanted.shape)} "
                f"for {name}; give the file of that network or change --model.backbone"
            )
        if got is not None:
            wanted.copy_(got)
