import pytest
import torch
from torch import Tensor

from flm.model.heads import (
    MARGIN_CELLS,
    FusedFeatures,
    HeatmapHead,
    RegressionHead,
    cell_centers,
    soft_argmax,
)

NUM_CELLS = 16
CENTERS = cell_centers(NUM_CELLS, MARGIN_CELLS, torch.device("cpu"))


def gaussian_logits(mean: Tensor, covariance: Tensor) -> Tensor:
    """Of a map of one landmark of one face, unit frame."""
    y, x = torch.meshgrid(CENTERS, CENTERS, indexing="ij")
    offset = torch.stack([x, y], dim=-1) - mean
    return -(offset @ torch.linalg.inv(covariance) * offset).sum(-1)[None, None] / 2


def test_cells_of_the_crop_are_centred_and_the_margin_continues_them() -> None:
    assert torch.allclose(cell_centers(4, 0, torch.device("cpu")), torch.tensor([0.125, 0.375, 0.625, 0.875]))
    assert CENTERS[0] == pytest.approx(-1.5 / 16)
    assert CENTERS[-1] == pytest.approx(1 + 1.5 / 16)
    assert CENTERS.diff().std() < 1e-7


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.3])
def test_soft_argmax_of_a_gaussian_is_its_mean_and_covariance(angle: float) -> None:
    cell = 1 / NUM_CELLS
    rotation = torch.tensor([[torch.tensor(angle).cos(), -torch.tensor(angle).sin()], [0, 0]])
    rotation[1] = torch.stack([-rotation[0, 1], rotation[0, 0]])
    covariance = rotation @ torch.diag(torch.tensor([1.5, 1.0]) * cell).square() @ rotation.T
    mean = torch.tensor([0.43, 0.57])
    landmarks, got = soft_argmax(gaussian_logits(mean, covariance), CENTERS)
    assert (landmarks[0, 0] - mean).abs().max() < 0.02 * cell
    expected = covariance + torch.eye(2) * cell**2 / 12
    assert (got[0, 0] - expected).abs().max() < 0.02 * cell**2


def test_axes_are_not_swapped() -> None:
    logits = torch.zeros(1, 1, len(CENTERS), len(CENTERS))
    logits[0, 0, 4, 11] = 100  # row 4, column 11
    landmarks, _ = soft_argmax(logits, CENTERS)
    assert torch.allclose(landmarks[0, 0], torch.stack([CENTERS[11], CENTERS[4]]))


def test_covariance_is_positive_definite_even_where_one_cell_holds_all() -> None:
    torch.manual_seed(0)
    sharp = torch.zeros(1, 1, len(CENTERS), len(CENTERS))
    sharp[0, 0, 7, 3] = 1e4
    for logits in (sharp, torch.randn(3, 5, len(CENTERS), len(CENTERS)) * 50):
        _, covariance = soft_argmax(logits, CENTERS)
        assert torch.linalg.eigvalsh(covariance).min() > 0.99 / (12 * NUM_CELLS**2)


def test_points_outside_the_crop_can_be_said() -> None:
    for place in (-0.06, 1.06):
        mean = torch.tensor([place, 0.5])
        landmarks, _ = soft_argmax(gaussian_logits(mean, torch.eye(2) * 0.02**2), CENTERS)
        assert (landmarks[0, 0] - mean).abs().max() < 0.01


def make_head(stride: int) -> HeatmapHead:
    torch.manual_seed(0)
    return HeatmapHead(make_fused(stride), num_points=7)


def make_fused(stride: int) -> FusedFeatures:
    return FusedFeatures(channels=(5, 8, 16, 24), strides=(2, 4, 8, 16), stride=stride, width=12, dropout=0.1)


@pytest.mark.parametrize("stride", [4, 8])
def test_heatmap_head_fuses_every_level_but_the_finest(stride: int) -> None:
    features = [torch.randn(2, c, 64 // s, 64 // s, requires_grad=True) for c, s in ((5, 2), (8, 4), (16, 8))]
    features.append(torch.randn(2, 24, 4, 4, requires_grad=True))
    head = make_head(stride)
    output = head(features)
    cells = 64 // stride + 2 * MARGIN_CELLS
    assert output.landmarks_unit.shape == (2, 7, 2)
    assert output.covariance_unit is not None
    assert output.covariance_unit.shape == (2, 7, 2, 2)
    assert output.heatmap_logits is not None
    assert output.heatmap_logits.shape == (2, 7, cells, cells)
    (output.landmarks_unit.square().sum() + output.covariance_unit.sum()).backward()
    assert [feature.grad is not None and bool(feature.grad.any()) for feature in features] == [
        False,
        True,
        True,
        True,
    ]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_maps_move_with_the_features() -> None:
    """A picture shifted by one coarsest cell gives landmarks shifted as much; no level is out of place."""
    head = make_head(8).eval()
    bump = torch.zeros(1, 1, 16, 16)
    bump[..., 6:10, 4:8] = 30
    levels = [torch.nn.functional.interpolate(bump, scale_factor=f, mode="area") for f in (2, 1, 0.5, 0.25)]

    def peak(shift_cells: int) -> tuple[int, int]:
        features = [
            level.roll(shift_cells * level.shape[-1] // 4, dims=3).expand(-1, channels, -1, -1)
            for level, channels in zip(levels, (5, 8, 16, 24), strict=True)
        ]
        with torch.no_grad():
            logits = head(features).heatmap_logits
        assert logits is not None
        background = logits[0, 0, 2, -3]
        row, column = divmod(int((logits[0, 0] - background).abs().argmax()), logits.shape[3])
        return row, column

    row, column = peak(0)
    assert peak(1) == (row, column + 2)


def test_regression_head_reads_the_last_features_and_starts_from_the_centre() -> None:
    head = RegressionHead(channels=6, num_points=7, dropout=0.5).eval()
    assert head.coordinates.bias is not None
    torch.nn.init.zeros_(head.coordinates.bias)
    output = head([torch.full((2, 3, 4, 4), torch.nan), torch.zeros(2, 6, 2, 2)])
    assert torch.equal(output.landmarks_unit, torch.full((2, 7, 2), 0.5))
    assert output.covariance_unit is None
    assert output.heatmap_logits is None


def test_coordinates_are_float32_under_autocast() -> None:
    features = [torch.randn(2, c, s, s) for c, s in ((5, 32), (8, 16), (16, 8), (24, 4))]
    head, regression = make_head(8).eval(), RegressionHead(24, 7, 0.0).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        reduced = head([f.bfloat16() for f in features])
        assert regression([f.bfloat16() for f in features]).landmarks_unit.dtype == torch.float32
    assert reduced.landmarks_unit.dtype == torch.float32
    assert reduced.heatmap_logits is not None
    # Were the maps' convolution in bfloat16, its logits would round to themselves.
    assert not torch.equal(reduced.heatmap_logits, reduced.heatmap_logits.bfloat16().float())
