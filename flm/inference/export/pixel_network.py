"""A network from the pixels of crops to arrays, as exported files have it."""

import torch
from jaxtyping import UInt8
from torch import Tensor, nn


class PixelNetwork(nn.Module):
    """A network that takes pixels as a predictor cuts them out, and gives arrays.

    Args:
        network: a `LandmarkNetwork`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, pixels: UInt8[Tensor, "faces size size 3"]) -> tuple[Tensor, ...]:
        """Landmarks, unit frame, and their covariance, unit², where the network has it."""
        output = self.network(pixels.permute(0, 3, 1, 2).float() / 255)
        if output.covariance_unit is None:
            return (output.landmarks_unit,)
        return output.landmarks_unit, output.covariance_unit


def traced(network: PixelNetwork, size_px: int) -> torch.export.ExportedProgram:
    """The network for any number of faces, as `torch.export` has it."""
    pixels = torch.zeros((2, size_px, size_px, 3), dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(
            network, (pixels,), dynamic_shapes=({0: torch.export.Dim("faces", min=1)},), strict=False
        )
