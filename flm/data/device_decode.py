"""JPEGs decoded on the device, a batch at a time: by nvJPEG, so that a few cores feed a quick GPU."""

import dataclasses
import warnings

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from flm.data.samples import Batch, SampleFormatError, decode_crop
from flm.errors import OneProcessInputError


def decode_on(batch: Batch, device: torch.device) -> Batch:
    """The batch with the crops of its `jpegs`, on a device.

    Args:
        batch: read without decoding.
        device: where nvJPEG decodes if it is one of NVIDIA's.

    Raises:
        OneProcessInputError: a JPEG cannot be decoded; the message names its sample.
    """
    try:
        crops = _decode_together(batch, device)
    except (RuntimeError, ValueError):
        # It does not say which one, and there are JPEGs that only the CPU's decoder knows.
        crops = _decode_one_by_one(batch).to(device)
    return dataclasses.replace(batch, crops_shard=crops, jpegs=())


def _decode_together(batch: Batch, device: torch.device) -> UInt8[Tensor, "batch 3 height width"]:
    # Imported here: every loader imports this module, few decode on a device.
    import torchvision.io

    # Writable, as torch.frombuffer wants it.
    encoded = [torch.frombuffer(bytearray(jpeg), dtype=torch.uint8) for jpeg in batch.jpegs]
    with warnings.catch_warnings():
        # TorchCodec is to follow it one day.
        warnings.simplefilter("ignore", DeprecationWarning)
        crops = torchvision.io.decode_jpeg(encoded, torchvision.io.ImageReadMode.RGB, device=device)
    return torch.stack(list(crops))


def _decode_one_by_one(batch: Batch) -> UInt8[Tensor, "batch 3 height width"]:
    crops = []
    for key, jpeg in zip(batch.keys, batch.jpegs, strict=True):
        try:
            crops.append(decode_crop(jpeg))
        except SampleFormatError as error:
            raise OneProcessInputError(
                f"sample {key!r}: {error}; `python -m shards verify --repair` drops such samples"
            ) from error
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
