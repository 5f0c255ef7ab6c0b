import dataclasses
import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from flm.model.heads import MARGIN_CELLS, NetworkOutput, cell_centers, soft_argmax
from flm.model.losses import (
    HEAD_OF_LOSS,
    LossConfig,
    LossKind,
    adaptive_wing,
    check_loss_fits_head,
    landmark_loss,
    principal_axes,
    star,
    target_maps,
    wing,
)

KINDS: tuple[LossKind, ...] = get_args(LossKind)
COORDINATE_KINDS: tuple[LossKind, ...] = ("l1", "smooth_l1", "l2", "wing")
CENTERS = cell_centers(16, MARGIN_CELLS, torch.device("cpu"))


def output_of(logits: Tensor) -> NetworkOutput:
    landmarks, covariance = soft_argmax(logits, CENTERS)
    return NetworkOutput(
        landmarks_unit=landmarks,
        covariance_unit=covariance,
        heatmap_logits=logits,
        axis_logits=torch.stack([logits.logsumexp(2), logits.logsumexp(3)], dim=2),
        cell_centers_unit=CENTERS,
    )


def random_case(batch: int = 3, points: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    logits = torch.randn(batch, points, len(CENTERS), len(CENTERS), requires_grad=True)
    return logits, torch.rand(batch, points, 2), torch.ones(batch, dtype=torch.bool)


def off_by(error_px: float) -> tuple[NetworkOutput, Tensor]:
    """A prediction whose every coordinate is wrong by that much, px of a 256 px crop."""
    target = torch.rand(2, 4, 2, generator=torch.Generator().manual_seed(0))
    return NetworkOutput(landmarks_unit=target + error_px / 256), target


@pytest.mark.parametrize(
    ("kind", "error_px", "expected"),
    [
        ("l1", 3.0, 3.0),
        ("l1", -0.5, 0.5),
        ("smooth_l1", 0.5, 0.125),
        ("smooth_l1", -3.0, 2.5),
        ("l2", 25.6, 0.01),
        ("wing", 4.0, 10 * math.log(3)),
        ("wing", -4.0, 10 * math.log(3)),
        ("wing", 20.0, 20 - (10 - 10 * math.log(6))),
    ],
)
def test_values_are_those_of_the_formulas(kind: LossKind, error_px: float, expected: float) -> None:
    output, target = off_by(error_px)
    losses = landmark_loss(output, target, torch.ones(2, dtype=torch.bool), LossConfig(kind=kind))
    assert set(losses) == {"total", "coordinate"}
    assert float(losses["total"]) == pytest.approx(expected, rel=1e-4)


def test_wing_is_continuous_where_its_pieces_meet() -> None:
    config = LossConfig()
    assert float(wing(torch.tensor(10 - 1e-4), config)) == pytest.approx(
        float(wing(torch.tensor(10 + 1e-4), config)), abs=1e-3
    )


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_adaptive_wing_is_smooth_where_its_pieces_meet(level: float) -> None:
    config = LossConfig()
    target = torch.full((2,), level, dtype=torch.float64)
    predicted = (target + torch.tensor([0.5 - 1e-7, 0.5 + 1e-7])).requires_grad_()
    below, above = adaptive_wing(predicted, target, config)
    assert below.item() == pytest.approx(above.item(), abs=1e-4)
    (below + above).backward()
    assert predicted.grad is not None
    assert float(predicted.grad[0]) == pytest.approx(float(predicted.grad[1]), rel=1e-4)


def test_adaptive_wing_is_equation_three() -> None:
    predicted, target = torch.tensor([0.4, 1.0]), torch.tensor([0.1, 0.2])
    slope = 14 * (1 / (1 + 0.5**1.9)) * 1.9 * 0.5**0.9
    offset = 0.5 * slope - 14 * math.log(1 + 0.5**1.9)
    expected = [14 * math.log(1 + 0.3**2.0), slope * 0.8 - offset]
    assert adaptive_wing(predicted, target, LossConfig()).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", COORDINATE_KINDS)
def test_loss_is_least_at_the_target_and_the_same_on_both_sides(kind: LossKind) -> None:
    valid = torch.ones(2, dtype=torch.bool)
    values = {}
    for error_px in (-30.0, -8.0, -0.5, 0.0, 0.5, 8.0, 30.0):
        values[error_px] = float(landmark_loss(*off_by(error_px), valid, LossConfig(kind=kind))["total"])
    assert values[0.0] == 0
    assert values[0.5] < values[8.0] < values[30.0]
    for error_px in (0.5, 8.0, 30.0):
        assert values[error_px] == pytest.approx(values[-error_px], rel=1e-4)


def test_target_maps_peak_at_the_landmark() -> None:
    target = torch.stack([CENTERS[5], CENTERS[9]])[None, None]
    maps = target_maps(target, CENTERS, sigma_cells=1.0)
    assert float(maps[0, 0, 9, 5]) == pytest.approx(1, abs=1e-5)
    assert float(maps[0, 0, 9, 6]) == pytest.approx(math.exp(-0.5), rel=1e-4)
    assert float(maps[0, 0, 11, 6]) == pytest.approx(math.exp(-2.5), rel=1e-4)


@pytest.mark.parametrize("kind", ["adaptive_wing", "star"])
def test_loss_on_maps_is_least_where_the_map_is_the_target(kind: LossKind) -> None:
    target = torch.tensor([[[0.4, 0.55], [0.71, 0.3]]])
    valid = torch.ones(1, dtype=torch.bool)

    def total(shift: float, sharpness: float) -> float:
        logits = target_maps(target + shift, CENTERS, 1.0).clamp(min=1e-30).log() * sharpness
        return float(landmark_loss(output_of(logits), target, valid, LossConfig(kind=kind))["total"])

    best = total(0, 1)
    assert best < 0.1
    assert all(
        best < total(shift, sharpness) for shift, sharpness in [(0.05, 1), (-0.05, 1), (0, 3), (0, 0.3)]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_is_finite_and_reaches_the_network(kind: LossKind) -> None:
    logits, target, valid = random_case()
    losses = landmark_loss(output_of(logits), target, valid, LossConfig(kind=kind))
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    losses["total"].backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.flatten(1).any(dim=1).all()


def test_total_is_the_weighted_sum_of_its_parts() -> None:
    logits, target, valid = random_case()
    config = LossConfig(kind="star", heatmap_weight=3.0, eigenvalue_weight=5.0)
    losses = landmark_loss(output_of(logits), target, valid, config)
    assert set(losses) == {"total", "coordinate", "eigenvalue", "heatmap"}
    expected = losses["coordinate"] + 5 * losses["eigenvalue"] + 3 * losses["heatmap"]
    assert torch.allclose(losses["total"], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_do_not_count_add_nothing(kind: LossKind) -> None:
    logits, target, valid = random_case(batch=4)
    valid[1] = valid[3] = False
    target[1] = torch.nan
    target[3] = 1e30
    config = LossConfig(kind=kind)
    losses = landmark_loss(output_of(logits), target, valid, config)
    alone = landmark_loss(output_of(logits[[0, 2]]), target[[0, 2]], valid[[0, 2]], config)
    for name, value in alone.items():
        assert torch.allclose(losses[name], value, rtol=1e-5), name
    losses["total"].backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[[1, 3]].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_rows_that_count_has_no_loss(kind: LossKind) -> None:
    logits, target, valid = random_case()
    losses = landmark_loss(output_of(logits), target * torch.nan, ~valid, LossConfig(kind=kind))
    assert all(value.item() == 0 for value in losses.values())
    losses["total"].backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_losses_are_float32_inside_autocast() -> None:
    logits, target, valid = random_case()
    config = LossConfig(kind="star")
    plain = landmark_loss(output_of(logits), target, valid, config)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = landmark_loss(output_of(logits), target, valid, config)
    assert torch.equal(plain["total"], reduced["total"])


def random_spd(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(count, 2, 2, dtype=torch.float64, generator=generator)
    return root @ root.mT + 1e-3 * torch.eye(2, dtype=torch.float64)


def test_principal_axes_are_those_of_eigh() -> None:
    covariance = random_spd(500)
    eigenvalues, axes = principal_axes(covariance)
    expected, vectors = torch.linalg.eigh(covariance)
    assert torch.allclose(eigenvalues, expected.flip(-1), rtol=1e-9, atol=1e-12)
    aligned = (axes * vectors.mT.flip(-2)).sum(-1).abs()
    assert torch.allclose(aligned, torch.ones_like(aligned), atol=1e-9)
    assert torch.allclose(axes @ axes.mT, torch.eye(2, dtype=torch.float64).expand(500, 2, 2))


def test_gradient_of_the_eigenvalues_is_that_of_eigh() -> None:
    ours, theirs = random_spd(50).requires_grad_(), random_spd(50).requires_grad_()
    weights = torch.tensor([2.0, 0.5], dtype=torch.float64)
    (principal_axes(ours)[0].sqrt() * weights).sum().backward()
    (torch.linalg.eigvalsh(theirs).flip(-1).sqrt() * weights).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-8)


def test_star_is_the_error_along_each_axis_over_its_deviation() -> None:
    covariance = torch.diag(torch.tensor([0.04, 0.01]) / 4)[None, None]
    predicted, target = torch.zeros(1, 1, 2), torch.tensor([[[0.1, -0.05]]])
    coordinate, eigenvalue = star(predicted, covariance, target, LossConfig())
    assert float(coordinate) == pytest.approx((0.2 - 0.005) / 0.2 + (0.1 - 0.005) / 0.1, rel=1e-3)
    assert float(eigenvalue) == pytest.approx(0.05)


@pytest.mark.parametrize("angle", [0.3, 1.0, 2.5])
def test_star_does_not_see_rotation(angle: float) -> None:
    torch.manual_seed(0)
    covariance = random_spd(40)[None] * 0.01
    predicted, target = torch.rand(2, 1, 40, 2, dtype=torch.float64)
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64
    )
    plain = star(predicted, covariance, target, LossConfig())
    turned = star(predicted @ turn.T, turn @ covariance @ turn.T, target @ turn.T, LossConfig())
    for a, b in zip(plain, turned, strict=True):
        assert torch.allclose(a, b, rtol=1e-7)


def test_star_forgives_errors_along_the_contour() -> None:
    covariance = torch.diag(torch.tensor([0.04, 0.001]))[None, None]
    predicted = torch.zeros(1, 1, 2)
    along, _ = star(predicted, covariance, torch.tensor([[[0.1, 0.0]]]), LossConfig())
    across, _ = star(predicted, covariance, torch.tensor([[[0.0, 0.1]]]), LossConfig())
    assert along < 0.3 * across


@pytest.mark.parametrize("error", [(0.0, 0.0), (0.003, 0.0), (0.08, 0.0)])
def test_star_has_a_true_gradient_at_a_round_covariance(error: tuple[float, float]) -> None:
    """Where the derivative of the axes does not exist; that of the loss does, for errors along an axis."""
    predicted = torch.zeros(1, 1, 2, dtype=torch.float64, requires_grad=True)
    # eigenvalues of both orders stand in the perturbed matrices, so the entries are perturbed symmetrically
    entries = torch.tensor([0.01, 0.0, 0.01], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[error]], dtype=torch.float64)

    def loss(predicted: Tensor, entries: Tensor) -> Tensor:
        covariance = torch.stack([entries[0], entries[1], entries[1], entries[2]]).view(1, 1, 2, 2)
        coordinate, eigenvalue = star(predicted, covariance, target, LossConfig())
        return coordinate.sum() + eigenvalue.sum()

    if error[0] < 0.004:  # inside the quadratic part, where the loss does not depend on the axes
        assert torch.autograd.gradcheck(loss, (predicted, entries))
    else:
        assert torch.autograd.gradcheck(lambda p: loss(p, entries.detach()), (predicted,))
        loss(predicted, entries).backward()
        assert entries.grad is not None
        assert entries.grad.isfinite().all()


def test_gradient_is_finite_for_near_round_and_for_flat_covariances() -> None:
    tiny = 1e-12
    for diagonal in ([0.01, 0.01], [0.01, 0.01 + tiny], [0.1, 1 / (12 * 64**2)]):
        covariance = torch.diag(torch.tensor(diagonal))[None, None].requires_grad_()
        coordinate, _ = star(torch.zeros(1, 1, 2), covariance, torch.tensor([[[0.1, 0.07]]]), LossConfig())
        coordinate.sum().backward()
        assert covariance.grad is not None
        assert covariance.grad.isfinite().all()


def test_losses_on_distributions_refuse_other_heads() -> None:
    for kind, head in HEAD_OF_LOSS.items():
        check_loss_fits_head(kind, head)
        with pytest.raises(ValueError, match=rf"--loss\.kind {kind} .*--model\.head regression"):
            check_loss_fits_head(kind, "regression")
        output, target = off_by(1.0)
        with pytest.raises(ValueError, match=rf"--loss\.kind {kind}"):
            landmark_loss(output, target, torch.ones(2, dtype=torch.bool), LossConfig(kind=kind))
    for kind in COORDINATE_KINDS:
        check_loss_fits_head(kind, "regression")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("wing_width_px", 0.0),
        ("smooth_l1_beta_px", -1.0),
        ("heatmap_weight", -0.1),
        ("heatmap_sigma_cells", math.inf),
        ("adaptive_wing_alpha", 1.0),
        ("simcc_sigma_px", 0.0),
    ],
)
def test_constants_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"--loss\.{field.replace('_', '-')} {value}"):
        dataclasses.replace(LossConfig(), **{field: value})
