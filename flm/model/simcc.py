"""Each coordinate of a landmark as a distribution over fine bins along its axis."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from flm.model.heads import MARGIN_CELLS, FusedFeatures, NetworkOutput, cell_centers, without_autocast

BINS_PER_PX = 2
"""Of the crop, as the authors have it."""

SHARPNESS = 10.0
"""Factor of the logits before the softmax.

Source: Jiang et al., "RTMPose", 2023, whose code has it as `beta`.
"""

HIDDEN = 256
"""Features of a landmark between its map and its bins."""


class SimccHead(nn.Module):
    """The fused features as one map a landmark, each flattened and read off by two linear layers.

    Unlike the maps, which are convolved, the layers fit one size of crop.

    Args:
        fused: of the backbone's levels.
        num_cells: of a map along a side of the crop.
        stride: of the maps, in crop pixels.
        num_points: number of landmarks.

    Source: Li et al., "SimCC: a Simple Coordinate Classification Perspective for Human Pose Estimation",
        2022.
    """

    def __init__(self, fused: FusedFeatures, *, num_cells: int, stride: int, num_points: int) -> None:
        super().__init__()
        self.fused = fused
        self.maps = nn.Conv2d(fused.width, num_points, 1)
        self.num_bins = num_cells * stride * BINS_PER_PX
        self.margin_bins = MARGIN_CELLS * stride * BINS_PER_PX
        self.flat = nn.Linear((num_cells + 2 * MARGIN_CELLS) ** 2, HIDDEN)
        self.axes = nn.Linear(HIDDEN, 2 * (self.num_bins + 2 * self.margin_bins))

    def forward(self, features: Sequence[Float[Tensor, "batch _ _ _"]]) -> NetworkOutput:
        """Landmarks, and their covariance, which knows no slant."""
        maps = self.maps(self.fused(features))
        hidden = self.flat(maps.flatten(2)).relu()
        with without_autocast(hidden):
            logits = self.axes(hidden.float()).unflatten(2, (2, -1)) * SHARPNESS
            centers_unit = cell_centers(self.num_bins, self.margin_bins, logits.device)
            landmarks_unit, variance = mean_and_variance(logits, centers_unit)
        return NetworkOutput(
            landmarks_unit=landmarks_unit,
            covariance_unit=torch.diag_embed(variance),
            axis_logits=logits,
            cell_centers_unit=centers_unit,
        )


def mean_and_variance(
    logits: Float32[Tensor, "batch points 2 bins"], centers_unit: Float32[Tensor, " bins"]
) -> tuple[Float32[Tensor, "batch points 2"], Float32[Tensor, "batch points 2"]]:
    """Of each axis' distribution, unit frame; the mass of a bin is spread evenly over it.

    The mean instead of the authors' most likely bin: it is finer than a bin, and has a gradient.

    Args:
        logits: of a softmax over the bins.
        centers_unit: of the bins, evenly spaced.
    """
    mass = logits.softmax(dim=3)
    mean = mass @ centers_unit
    offset = centers_unit - mean[..., None]
    bin_variance = (centers_unit[1] - centers_unit[0]) ** 2 / 12
    return mean, (mass * offset**2).sum(dim=3) + bin_variance
