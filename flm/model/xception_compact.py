"""The small Xception of the reference project, and two relatives of it for CPUs, all registered with timm.

`timm.create_model("xception_compact", …)` knows them once this module is imported.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
)
from torch import Tensor, nn

NEGATIVE_SLOPE = 0.2


class SeparableConvNorm(nn.Sequential):
    """A 3x3 convolution per channel, a 1x1 convolution across channels, batch norm."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )


def _activation() -> nn.Module:
    # Never in place: what a block starts from is also its shortcut and a feature that heads read.
    return nn.LeakyReLU(NEGATIVE_SLOPE)


class DownBlock(nn.Module):
    """Two separable convolutions and a max pool of stride 2, beside a 1x1 shortcut of stride 2."""

    def __init__(self, in_channels: int, out_channels: int, start_with_activation: bool = True) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _activation() if start_with_activation else nn.Identity(),
            SeparableConvNorm(in_channels, in_channels),
            _activation(),
            SeparableConvNorm(in_channels, out_channels),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride=2, bias=False), nn.BatchNorm2d(out_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Halve the size."""
        return self.residual(x) + self.shortcut(x)


class MiddleBlock(nn.Module):
    """Three separable convolutions beside an identity shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [_activation(), SeparableConvNorm(channels, channels)]
        self.residual = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the size."""
        return x + self.residual(x)


class XceptionCompact(nn.Module):
    """Entry, middle and exit flow of an Xception, global average pool, dropout, linear classifier.

    Args:
        num_classes: outputs of the classifier; 0 for none.
        in_chans: channels of the picture.
        drop_rate: share of the pooled features that training drops.
        stem_strides: of the two convolutions of the stem.
        entry_channels: after each convolution of the stem and each of the two blocks that follow.
        middle_blocks: how many blocks of three separable convolutions.
        exit_channels: after the last block and after the last separable convolution.

    Source: Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", 2017, figure 5.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.3,
        stem_strides: tuple[int, int] = (1, 1),
        entry_channels: tuple[int, int, int, int] = (32, 64, 128, 256),
        middle_blocks: int = 6,
        exit_channels: tuple[int, int] = (512, 1024),
    ) -> None:
        super().__init__()
        first, second, third, fourth = entry_channels
        self.num_classes = num_classes
        self.num_features = exit_channels[1]
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, first, 3, stride=stem_strides[0], padding=1, bias=False),
            nn.BatchNorm2d(first),
            _activation(),
            nn.Conv2d(first, second, 3, stride=stem_strides[1], padding=1, bias=False),
            nn.BatchNorm2d(second),
            _activation(),
        )
        self.entry = DownBlock(second, third, start_with_activation=False)
        self.middle = nn.Sequential(
            DownBlock(third, fourth), *(MiddleBlock(fourth) for _ in range(middle_blocks))
        )
        self.exit = nn.Sequential(
            DownBlock(fourth, exit_channels[0]),
            SeparableConvNorm(exit_channels[0], exit_channels[0]),
            _activation(),
            SeparableConvNorm(exit_channels[0], exit_channels[1]),
            _activation(),
        )
        self.feature_info = [
            {"num_chs": channels, "reduction": stem_strides[0] * stem_strides[1] * 2**i, "module": module}
            for i, (module, channels) in enumerate(
                [("stem", second), ("entry", third), ("middle", fourth), ("exit", exit_channels[1])]
            )
        ]
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_intermediates(
        self,
        x: Float[Tensor, "batch channels height width"],
        indices: int | Sequence[int] | None = None,
        **_: Any,
    ) -> list[Tensor]:
        """The features after stem, entry, middle and exit, as timm's `features_only` asks for them.

        Args:
            x: normalised picture.
            indices: which of them, by timm's rule: the last so many, or all for None.
        """
        features: list[Tensor] = []
        for stage in (self.stem, self.entry, self.middle, self.exit):
            x = stage(x)
            features.append(x)
        if indices is None:
            return features
        return features[-indices:] if isinstance(indices, int) else [features[i] for i in indices]

    def forward_features(self, x: Float[Tensor, "batch channels height width"]) -> Tensor:
        """The features after the exit flow."""
        return self.forward_intermediates(x, 1)[0]

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """The outputs of the classifier for normalised pictures."""
        return self.fc(self.drop(self.forward_features(x).mean((2, 3))))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier; 0 for none."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def prune_intermediate_layers(self, indices: Sequence[int], **_: Any) -> list[int]:
        """Drop the classifier, which would never see a gradient; timm calls it for `features_only`."""
        self.reset_classifier(0)
        return list(indices)


default_cfgs = generate_default_cfgs(
    {
        name: {
            "input_size": (3, 128, 128),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "stem.0",
            "classifier": "fc",
        }
        for name in ("xception_compact", "xception_compact_slim", "xception_compact_wide")
    }
)


def _build(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    feature_cfg = {"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}
    return build_model_with_cfg(XceptionCompact, variant, pretrained, feature_cfg=feature_cfg, **kwargs)


@register_model
def xception_compact(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The network of the reference project: full size up to the first max pool, features of strides 1 to 8.

    With 136 outputs on one grey channel it has 2,629,992 parameters (the project: 2.63 M) and takes
    5.00 GFLOP at 128 px (the project: 5.0), a multiply-add being two; both measured.
    """
    return _build("xception_compact", pretrained, **kwargs)


@register_model
def xception_compact_slim(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A relative for CPUs: a stem of stride 4, features of strides 4 to 32, few channels.

    Under a heatmap head of 128 channels it takes 0.22 GFLOP at 128 px, and a training step on two CPU cores
    (bfloat16, channels_last, batch 32) did 294 images/s where stems of stride 2 at like cost did 230: large
    early maps cost more time than multiplications do.
    """
    slim: dict[str, Any] = {
        "stem_strides": (2, 2),
        "entry_channels": (24, 64, 128, 192),
        "middle_blocks": 4,
        "exit_channels": (256, 512),
    }
    return _build("xception_compact_slim", pretrained, **{**slim, **kwargs})


@register_model
def xception_compact_wide(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """As `xception_compact_slim`, with three times its weights: for the best quality a CPU has time for.

    Under a heatmap head of 128 channels it has 3.45 M parameters and takes 0.51 GFLOP at 128 px. Of six such
    networks it had the most multiplications a millisecond in onnxruntime.
    """
    wide: dict[str, Any] = {
        "stem_strides": (2, 2),
        "entry_channels": (32, 64, 192, 320),
        "middle_blocks": 6,
        "exit_channels": (512, 768),
    }
    return _build("xception_compact_wide", pretrained, **{**wide, **kwargs})
