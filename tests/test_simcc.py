"""Bins along each axis: read off finely, on the right axis, and learned."""

import pytest
import torch

from flm.model.heads import FusedFeatures, cell_centers
from flm.model.losses import LossConfig, landmark_loss
from flm.model.simcc import BINS_PER_PX, SimccHead, mean_and_variance

CENTERS = cell_centers(128, 16, torch.device("cpu"))
VALID = torch.ones(1, dtype=torch.bool)


def gaussian(x: float, y: float, sigma: float) -> torch.Tensor:
    return -((CENTERS - torch.tensor([[[[x], [y]]]])) ** 2) / (2 * sigma**2)


@pytest.mark.parametrize(("x", "y"), [(0.3, 0.71), (0.5, 0.5), (-0.05, 1.06)])
def test_a_gaussian_is_read_off_finer_than_its_bins(x, y):
    mean, variance = mean_and_variance(gaussian(x, y, 0.012), CENTERS)
    assert torch.allclose(mean, torch.tensor([[[x, y]]]), atol=2e-4)
    expected = 0.012**2 + 1 / (12 * 128**2)
    assert torch.allclose(variance, torch.full((1, 1, 2), expected), rtol=0.02)


def make_head() -> SimccHead:
    torch.manual_seed(0)
    fused = FusedFeatures(channels=(4, 6), strides=(4, 8), stride=8, width=8, dropout=0.0)
    return SimccHead(fused, num_cells=4, stride=8, num_points=3)


def test_the_head_gives_a_distribution_for_each_axis():
    features = [torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)]
    output = make_head()(features)
    assert output.axis_logits is not None
    assert output.axis_logits.shape == (2, 3, 2, BINS_PER_PX * (32 + 2 * 2 * 8))
    assert output.landmarks_unit.shape == (2, 3, 2)
    assert output.covariance_unit is not None
    assert (torch.linalg.eigvalsh(output.covariance_unit) > 0).all()
    assert output.heatmap_logits is None
    assert float(output.cell_centers_unit[0]) == pytest.approx(-0.5 + 0.5 / 64)


def test_coordinates_are_float32_under_autocast():
    features = [torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4)]
    with torch.autocast("cpu", torch.bfloat16):
        output = make_head().eval()(features)
    assert output.landmarks_unit.dtype == torch.float32


def test_a_few_faces_can_be_learned():
    head = make_head()
    features = [torch.randn(3, 4, 8, 8), torch.randn(3, 6, 4, 4)]
    target = torch.rand(3, 3, 2) * 1.2 - 0.1
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    config = LossConfig(kind="simcc")
    for _ in range(150):
        losses = landmark_loss(head(features), target, torch.ones(3, dtype=torch.bool), config)
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
    with torch.no_grad():
        found = head(features).landmarks_unit
    assert (found - target).abs().max() < 0.02


def test_the_loss_is_least_where_distribution_and_target_agree():
    def loss(x: float, sigma_px: float) -> float:
        from flm.model.heads import NetworkOutput

        logits = gaussian(x, 0.4, sigma_px / 256)
        output = NetworkOutput(
            landmarks_unit=torch.full((1, 1, 2), 0.5), axis_logits=logits, cell_centers_unit=CENTERS
        )
        target = torch.tensor([[[0.6, 0.4]]])
        return float(landmark_loss(output, target, VALID, LossConfig(kind="simcc"))["total"])

    best = loss(0.6, 2.83)
    assert abs(best) < 1e-5
    assert all(
        loss(x, sigma) > best + 0.01 for x, sigma in [(0.62, 2.83), (0.58, 2.83), (0.6, 5), (0.6, 1.5)]
    )
