"""How far a prediction is from the truth, as training sees it."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from flm.model.heads import Head, NetworkOutput

LossKind = Literal["l1", "smooth_l1", "l2", "wing", "adaptive_wing", "star", "simcc"]

HEAD_OF_LOSS: dict[LossKind, Head] = {
    "adaptive_wing": "heatmap",
    "star": "heatmap",
    "simcc": "simcc",
}
"""Losses on the distributions of one head; the others are on coordinates."""

LOSS_CROP_PX = 256
"""Side of the crop in whose pixels the papers state their constants, whatever the network's own size."""

FOREGROUND_WEIGHT = 10
FOREGROUND_LEVEL = 0.2
"""Cells within one cell of a target above this level weigh as much more (Wang et al. 2019, eq. 7 and 8)."""

STAR_EIGENVALUE_FLOOR = 1e-5
"""Added to eigenvalues before their root, where the crop is 2 wide; as the authors' code has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Which loss, and its constants, by default those of the papers.

    Raises:
        ValueError: a constant is out of range.
    """

    kind: LossKind = "wing"
    """What is minimised; adaptive_wing and star need the heatmap head, simcc the SimCC head."""
    smooth_l1_beta_px: float = 1.0
    """Errors below it count as squares, in px of a 256 px crop."""
    wing_width_px: float = 10.0
    """Errors below it count as logarithms, in px of a 256 px crop."""
    wing_epsilon_px: float = 2.0
    """Bends the logarithm: smaller is steeper at small errors, in px of a 256 px crop."""
    adaptive_wing_alpha: float = 2.1
    """Exponent of map errors in the background; one less at the peak of a target."""
    adaptive_wing_omega: float = 14.0
    """Scale of map errors."""
    adaptive_wing_theta: float = 0.5
    """Map errors below it count as logarithms; a target's peak is 1."""
    adaptive_wing_epsilon: float = 1.0
    """Bends the logarithm of map errors."""
    star_beta: float = 0.01
    """Errors along an axis below it count as squares, in half sides of the crop."""
    eigenvalue_weight: float = 1.0
    """Weight of the eigenvalues of the maps' covariance in star, which keeps maps from growing wide."""
    heatmap_weight: float = 10.0
    """Weight of the maps' adaptive wing beside the loss of the coordinates, in adaptive_wing and star."""
    heatmap_sigma_cells: float = 1.0
    """Standard deviation of the target drawn on a map, in cells."""
    simcc_sigma_px: float = 2.83
    """Standard deviation of the target along an axis in simcc, in px of a 256 px crop, as RTMPose has it."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            flag = f"--loss.{field.name.replace('_', '-')}"
            if field.name.endswith("_weight"):
                if not 0 <= value < math.inf:
                    raise ValueError(f"{flag} {value} is not a finite number of at least 0")
            elif field.name != "kind" and not 0 < value < math.inf:
                raise ValueError(f"{flag} {value} is not a finite number above 0")
        if self.adaptive_wing_alpha <= 1:
            raise ValueError(f"--loss.adaptive-wing-alpha {self.adaptive_wing_alpha} is not above 1")


def check_loss_fits_head(loss_kind: LossKind, head: Head) -> None:
    """Raise ValueError, which names both flags, for a loss on distributions that a head does not make."""
    wanted = HEAD_OF_LOSS.get(loss_kind, head)
    if head != wanted:
        raise ValueError(
            f"--loss.kind {loss_kind} needs --model.head {wanted}, not --model.head {head}; change one"
        )


def landmark_loss(
    output: NetworkOutput,
    target_unit: Float[Tensor, "batch points 2"],
    valid: Bool[Tensor, " batch"],
    config: LossConfig,
) -> dict[str, Float[Tensor, ""]]:
    """The loss of a batch: `total`, and beside it the parts that it sums, before their weights.

    Every value is a mean over the valid rows, zero where none is valid. Parts are, by kind, `coordinate`,
    `heatmap`, `eigenvalue` and `distribution`. Computed in float32.

    Args:
        output: of the network.
        target_unit: true landmarks, unit frame; may lie outside [0, 1].
        valid: rows that count; whatever the others hold, they add nothing to values and gradients.
        config: the kind and its constants.

    Raises:
        ValueError: the kind needs maps and the output has none.
    """
    predicted = output.landmarks_unit
    # A row that does not count may hold anything, and NaN times zero is NaN.
    target = torch.where(valid[:, None, None], target_unit.float(), predicted.detach())
    weights = {"heatmap": config.heatmap_weight, "eigenvalue": config.eigenvalue_weight}
    rows = _rows_of_parts(output, predicted, target, config)
    num_valid = valid.sum().clamp(min=1)
    parts = {name: torch.where(valid, row, 0).sum() / num_valid for name, row in rows.items()}
    total = sum(
        (weights.get(name, 1.0) * part for name, part in parts.items()), start=predicted.new_zeros(())
    )
    return {"total": total, **parts}


def _rows_of_parts(
    output: NetworkOutput,
    predicted: Float[Tensor, "batch points 2"],
    target: Float[Tensor, "batch points 2"],
    config: LossConfig,
) -> dict[str, Float[Tensor, " batch"]]:
    error_px = (predicted - target) * LOSS_CROP_PX
    match config.kind:
        case "l1":
            return {"coordinate": error_px.abs().mean((1, 2))}
        case "smooth_l1":
            return {"coordinate": _smooth_l1(error_px, config.smooth_l1_beta_px).mean((1, 2))}
        case "l2":
            # In the unit frame, whose differences are those of the reference project's [-0.5, 0.5].
            return {"coordinate": (predicted - target).square().mean((1, 2))}
        case "wing":
            return {"coordinate": wing(error_px, config).mean((1, 2))}
        case "adaptive_wing":
            coordinate = _smooth_l1(error_px, config.smooth_l1_beta_px).mean((1, 2))
            return {"coordinate": coordinate, "heatmap": _map_rows(output, target, config)}
        case "star":
            if output.covariance_unit is None:
                raise ValueError("--loss.kind star needs the covariance of the heatmap head")
            coordinate, eigenvalue = star(predicted, output.covariance_unit, target, config)
            rows = {"coordinate": coordinate.mean(1), "eigenvalue": eigenvalue.mean(1)}
            return {**rows, "heatmap": _map_rows(output, target, config)}
        case "simcc":
            return {"distribution": _axis_rows(output, target, config)}


def _smooth_l1(error: Float[Tensor, "*shape"], beta: float) -> Float[Tensor, "*shape"]:
    return F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=beta)


def wing(error_px: Float[Tensor, "*shape"], config: LossConfig) -> Float[Tensor, "*shape"]:
    """The wing loss of each error, in px of a 256 px crop.

    Source: Feng et al., "Wing Loss for Robust Facial Landmark Localisation with CNNs", 2018, eq. 5.
    """
    width, epsilon = config.wing_width_px, config.wing_epsilon_px
    size = error_px.abs()
    offset = width - width * math.log1p(width / epsilon)
    return torch.where(size < width, width * torch.log1p(size / epsilon), size - offset)


def adaptive_wing(
    predicted: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], config: LossConfig
) -> Float[Tensor, "*shape"]:
    """The adaptive wing loss of each cell of maps whose targets have a peak of 1.

    Source: Wang et al., "Adaptive Wing Loss for Robust Face Alignment via Heatmap Regression", 2019, eq. 3.
    """
    omega, theta = config.adaptive_wing_omega, config.adaptive_wing_theta
    epsilon = config.adaptive_wing_epsilon
    exponent = config.adaptive_wing_alpha - target
    at_theta = (theta / epsilon) ** exponent
    slope = omega / (1 + at_theta) * exponent * (theta / epsilon) ** (exponent - 1) / epsilon
    offset = theta * slope - omega * torch.log1p(at_theta)
    error = (predicted - target).abs()
    return torch.where(
        error < theta, omega * torch.log1p((error / epsilon) ** exponent), slope * error - offset
    )


def target_maps(
    target_unit: Float[Tensor, "batch points 2"], centers_unit: Float[Tensor, " cells"], sigma_cells: float
) -> Float[Tensor, "batch points cells cells"]:
    """A Gaussian around each landmark, 1 at the landmark.

    Args:
        target_unit: the landmarks, unit frame.
        centers_unit: of columns and likewise rows, evenly spaced.
        sigma_cells: standard deviation in cells.
    """
    cell_unit = centers_unit[1] - centers_unit[0]
    offset_cells = (centers_unit - target_unit[..., None]) / cell_unit
    along_x, along_y = torch.exp(-(offset_cells**2) / (2 * sigma_cells**2)).unbind(dim=2)
    return along_y[..., :, None] * along_x[..., None, :]


def _map_rows(
    output: NetworkOutput, target_unit: Float[Tensor, "batch points 2"], config: LossConfig
) -> Float[Tensor, " batch"]:
    """Adaptive wing of the maps, each a softmax scaled to the mass of its target.

    So the map that the soft-argmax reads is the one that is judged: it has no error exactly where its
    distribution is the target's. A sigmoid of the same logits would be best at another distribution.
    """
    if output.heatmap_logits is None or output.cell_centers_unit is None:
        raise ValueError(f"--loss.kind {config.kind} needs the maps of the heatmap head")
    target = target_maps(target_unit, output.cell_centers_unit, config.heatmap_sigma_cells)
    mass = output.heatmap_logits.flatten(2).softmax(dim=2).view_as(target)
    predicted = mass * target.sum((2, 3), keepdim=True)
    near_target = F.max_pool2d(target, 3, stride=1, padding=1) >= FOREGROUND_LEVEL
    weight = 1 + FOREGROUND_WEIGHT * near_target
    return (adaptive_wing(predicted, target, config) * weight).mean((1, 2, 3))


def _axis_rows(
    output: NetworkOutput, target_unit: Float[Tensor, "batch points 2"], config: LossConfig
) -> Float[Tensor, " batch"]:
    """Divergence of each axis' distribution from a Gaussian around the landmark, the mean of x and y."""
    if output.axis_logits is None or output.cell_centers_unit is None:
        raise ValueError("--loss.kind simcc needs the bins of the SimCC head")
    offset_px = (output.cell_centers_unit - target_unit[..., None]) * LOSS_CROP_PX
    target = (-(offset_px**2) / (2 * config.simcc_sigma_px**2)).log_softmax(dim=3)
    predicted = output.axis_logits.log_softmax(dim=3)
    return F.kl_div(predicted, target, reduction="none", log_target=True).sum(3).mean((1, 2))


def principal_axes(
    covariance: Float[Tensor, "*batch 2 2"],
) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, "*batch 2 2"]]:
    """Eigenvalues, larger first, and unit eigenvectors (one a row) of symmetric 2x2 matrices, in closed form.

    The axes carry no gradient: theirs grows without bound as a matrix becomes round. The eigenvalues have
    their exact gradient, v^T dC v, which is finite for every matrix.
    """
    fixed = covariance.detach()
    difference = fixed[..., 0, 0] - fixed[..., 1, 1]
    angle = torch.atan2(2 * fixed[..., 0, 1], difference) / 2
    cos, sin = angle.cos(), angle.sin()
    axes = torch.stack([torch.stack([cos, sin], dim=-1), torch.stack([-sin, cos], dim=-1)], dim=-2)
    outer = axes[..., :, None] * axes[..., None, :]
    return (outer * covariance[..., None, :, :]).sum((-2, -1)), axes


def star(
    predicted_unit: Float[Tensor, "batch points 2"],
    covariance_unit: Float[Tensor, "batch points 2 2"],
    target_unit: Float[Tensor, "batch points 2"],
    config: LossConfig,
) -> tuple[Float[Tensor, "batch points"], Float[Tensor, "batch points"]]:
    """Errors along the principal axes of each map, less where the map is wide; and the sum of eigenvalues.

    An error along a contour, where annotators disagree too, so costs less than one across it. As in the
    authors' code, in the frame where the crop reaches from -1 to 1, and gradients reach the eigenvalues.

    Source: Zhou et al., "STAR Loss: Reducing Semantic Ambiguity in Facial Landmark Detection", 2023, eq. 5-7.
    """
    eigenvalues, axes = principal_axes(covariance_unit * 4)
    error = (target_unit - predicted_unit) * 2
    along_axes = (axes * error[..., None, :]).sum(-1)
    scale = (eigenvalues + STAR_EIGENVALUE_FLOOR).sqrt()
    return (_smooth_l1(along_axes, config.star_beta) / scale).sum(-1), eigenvalues.sum(-1)
