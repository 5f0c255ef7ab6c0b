"""The network of a checkpoint, run by PyTorch."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from flm.checkpoint import load_network
from flm.errors import InputError, first_line
from flm.inference.network import FoundLandmarks, Precision
from flm.landmarks import LandmarkScheme, scheme_named
from flm.model.network import LandmarkNetwork


class TorchNetwork:
    """A `FaceNetwork` out of a network and its weights.

    Args:
        network: with its weights; it is put into evaluation mode.
        device: where it runs, such as `cpu` or `cuda:0`.
        precision: of the arithmetic; `bf16` halves memory traffic and moves landmarks by some hundredths of
            a pixel.

    Raises:
        InputError: there is no such device.
    """

    def __init__(
        self, network: LandmarkNetwork, device: str | torch.device = "cpu", precision: Precision = "fp32"
    ) -> None:
        self.device = _device(device)
        self.precision: Precision = precision
        self.network = network.eval().to(self.device)
        self.scheme: LandmarkScheme = scheme_named(network.config.scheme)
        self.input_size_px: int = network.config.input_size_px
        self.crop_margin: float = network.config.crop_margin

    @classmethod
    def load(
        cls, checkpoint: Path, device: str | torch.device = "cpu", precision: Precision = "fp32"
    ) -> "TorchNetwork":
        """Out of a checkpoint's folder, or a run's folder (its best).

        Raises:
            InputError: there is no checkpoint, or it is damaged, or there is no such device.
        """
        return cls(load_network(checkpoint), device, precision)

    def find(self, crops: UInt8[np.ndarray, "faces size size 3"]) -> FoundLandmarks:
        """As `FaceNetwork.find`."""
        images = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).float() / 255
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            output = self.network(images)
        covariance = output.covariance_unit
        return FoundLandmarks(
            landmarks_unit=output.landmarks_unit.cpu().numpy(),
            covariance_unit=None if covariance is None else covariance.cpu().numpy(),
        )


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for CUDA
        raise InputError(
            f"device {name}: cannot be used ({first_line(error)}); expected cpu, or cuda with a GPU"
        ) from error
    return device
