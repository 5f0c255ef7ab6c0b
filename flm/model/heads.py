"""From the features of a backbone to landmarks: regressed from a pooled vector, or read off one map each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

Head = Literal["regression", "heatmap", "simcc"]

MARGIN_CELLS = 2
"""How far maps reach past each edge of the crop. A landmark outside the crop could not be said otherwise; two
separable convolutions of size three still see the crop from there."""

FINEST_STRIDE = 4
"""Finer features cost more than they add: a cell of stride 4 is well below the error of a landmark."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NetworkOutput:
    """What a network says about a batch of crops. Always float32, also under autocast."""

    landmarks_unit: Float32[Tensor, "batch points 2"]
    """Unit frame; may lie a little outside [0, 1]."""
    covariance_unit: Float32[Tensor, "batch points 2 2"] | None = None
    """Of each landmark's distribution about the landmark, positive definite, unit²; None for the regression
    head."""
    heatmap_logits: Float32[Tensor, "batch points cells cells"] | None = None
    """A softmax over all cells of a map makes it a distribution; of the heatmap head."""
    axis_logits: Float32[Tensor, "batch points 2 cells"] | None = None
    """A softmax over the bins of x and of y makes each a distribution; of the SimCC head."""
    cell_centers_unit: Float32[Tensor, " cells"] | None = None
    """Where the columns and likewise the rows of the maps lie, or the bins of an axis, unit frame."""


def cell_centers(num_cells: int, margin_cells: int, device: torch.device) -> Float32[Tensor, " cells"]:
    """Centres of the cells along one side of a map, unit frame.

    Args:
        num_cells: along the crop itself, whose cell i has its centre at (i + 0.5) / num_cells.
        margin_cells: cells of the same size before the first and after the last.
        device: where the result lies.
    """
    cells = torch.arange(-margin_cells, num_cells + margin_cells, device=device, dtype=torch.float32)
    return (cells + 0.5) / num_cells


def without_autocast(tensor: Tensor) -> torch.autocast:
    """Full precision for coordinates."""
    # Eight bits of a bfloat16 would round coordinates to a quarter of a pixel.
    return torch.autocast(tensor.device.type, enabled=False)


def soft_argmax(
    logits: Float32[Tensor, "batch points cells cells"], centers_unit: Float32[Tensor, " cells"]
) -> tuple[Float32[Tensor, "batch points 2"], Float32[Tensor, "batch points 2 2"]]:
    """Mean and covariance of each map's distribution, unit frame.

    The mass of a cell is spread evenly over it, which adds the variance of a cell, so that the covariance is
    positive definite even where one cell holds all the mass.

    Args:
        logits: of a softmax over all cells of a map; rows run down (y), columns to the right (x).
        centers_unit: of the columns and likewise the rows, evenly spaced.

    Source: Nibali et al., "Numerical Coordinate Regression with Convolutional Neural Networks", 2018, eq. 4.
    """
    with without_autocast(logits):
        mass = logits.flatten(2).softmax(dim=2).view_as(logits)
        mass_x, mass_y = mass.sum(dim=2), mass.sum(dim=3)
        mean_x, mean_y = mass_x @ centers_unit, mass_y @ centers_unit
        # Moments about the mean: the difference of large moments about the origin would lose half the digits.
        offset_x, offset_y = centers_unit - mean_x[..., None], centers_unit - mean_y[..., None]
        cell_variance = (centers_unit[1] - centers_unit[0]) ** 2 / 12
        variance_x = (mass_x * offset_x**2).sum(dim=2) + cell_variance
        variance_y = (mass_y * offset_y**2).sum(dim=2) + cell_variance
        shared = (offset_y * (mass @ offset_x[..., None]).squeeze(3)).sum(dim=2)
    rows = [torch.stack([variance_x, shared], dim=2), torch.stack([shared, variance_y], dim=2)]
    return torch.stack([mean_x, mean_y], dim=2), torch.stack(rows, dim=2)


class RegressionHead(nn.Module):
    """Coordinates as a linear function of the averaged last features."""

    def __init__(self, channels: int, num_points: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.coordinates = nn.Linear(channels, 2 * num_points)

    def forward(self, features: Sequence[Float[Tensor, "batch _ _ _"]]) -> NetworkOutput:
        """Landmarks from the last of the features; zero outputs stand for the centre of the crop."""
        pooled = self.dropout(features[-1].mean((2, 3)))
        with without_autocast(pooled):
            from_center = self.coordinates(pooled.float()).unflatten(1, (-1, 2))
            return NetworkOutput(landmarks_unit=from_center + 0.5)


class FusedFeatures(nn.Module):
    """The sum of the features of several strides, widened by the margin.

    Each level is brought to the same channels and to the cells of the maps; the sum passes two separable
    convolutions.

    Args:
        channels: of each level.
        strides: of each level, in crop pixels; those finer than `FINEST_STRIDE` are left alone.
        stride: of the result, in crop pixels.
        width: channels of the result.
        dropout: share of the channels that training drops.
    """

    def __init__(
        self, *, channels: Sequence[int], strides: Sequence[int], stride: int, width: int, dropout: float
    ) -> None:
        super().__init__()
        self.width, self.stride = width, stride
        self.levels = [i for i, level_stride in enumerate(strides) if level_stride >= FINEST_STRIDE]
        self.finest_stride = strides[self.levels[0]]
        self.laterals = nn.ModuleList(
            _lateral(channels[i], width, shrink=max(1, stride // strides[i])) for i in self.levels
        )
        self.refine = nn.Sequential(_separable(width), _separable(width), nn.Dropout2d(dropout))

    def forward(
        self, features: Sequence[Float[Tensor, "batch _ _ _"]]
    ) -> Float[Tensor, "batch width cells cells"]:
        """The features of all levels of the backbone as one, with the margin around them."""
        num_cells = features[self.levels[0]].shape[-1] * self.finest_stride // self.stride
        size = (num_cells, num_cells)
        fused: Tensor | None = None
        for i, lateral in zip(self.levels, self.laterals, strict=True):
            level = lateral(features[i])
            if level.shape[2:] != size:
                level = F.interpolate(level, size, mode="bilinear", align_corners=False)
            fused = level if fused is None else fused + level
        assert fused is not None
        return self.refine(F.pad(fused.relu(), [MARGIN_CELLS] * 4))


class HeatmapHead(nn.Module):
    """One map per landmark out of the fused features, whose mean and covariance are the output.

    Args:
        fused: of the backbone's levels.
        num_points: number of maps.
    """

    def __init__(self, fused: FusedFeatures, num_points: int) -> None:
        super().__init__()
        self.fused = fused
        self.maps = nn.Conv2d(fused.width, num_points, 1)

    def forward(self, features: Sequence[Float[Tensor, "batch _ _ _"]]) -> NetworkOutput:
        """Landmarks and their covariance, from the features of all levels of the backbone."""
        refined = self.fused(features)
        with without_autocast(refined):
            logits = self.maps(refined.float())
        centers_unit = cell_centers(logits.shape[-1] - 2 * MARGIN_CELLS, MARGIN_CELLS, logits.device)
        landmarks_unit, covariance_unit = soft_argmax(logits, centers_unit)
        return NetworkOutput(
            landmarks_unit=landmarks_unit,
            covariance_unit=covariance_unit,
            heatmap_logits=logits,
            cell_centers_unit=centers_unit,
        )


def _lateral(in_channels: int, width: int, shrink: int) -> nn.Module:
    layers: list[nn.Module] = []
    if shrink > 1:
        layers.append(
            nn.Conv2d(in_channels, in_channels, 3, stride=shrink, padding=1, groups=in_channels, bias=False)
        )
    layers += [nn.Conv2d(in_channels, width, 1, bias=False), nn.BatchNorm2d(width)]
    return nn.Sequential(*layers)


def _separable(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
