"""Anything that may be a picture, as an array."""

import sys
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from flm.errors import InputError
from flm.geometry import FaceBox
from flm.inference.fetch import fetch_url, is_url
from flm.pictures import MOST_PICTURE_PIXELS, decode_picture, read_picture, rgb_of

PictureSource: TypeAlias = Any
"""What `as_picture` takes."""

Picture: TypeAlias = UInt8[np.ndarray, "height width 3"]
"""RGB, upright."""

SIXTEEN_TO_EIGHT_BITS = 8


def as_picture(source: PictureSource, *, allow_private_urls: bool = False) -> Picture:
    """A picture as an array, turned as its EXIF rotation says.

    Args:
        source: a path; an http or https URL; the bytes of a picture file; a Pillow image; an array (height,
            width), (height, width, 3) or (height, width, 4), RGB; or a torch tensor (1 or 3, height, width).
            Arrays and tensors are of uint8, of uint16, or of floats from 0 to 1.
        allow_private_urls: see `fetch_url`.

    Raises:
        InputError: it is no picture, cannot be had, or is larger than `MOST_PICTURE_PIXELS`.
    """
    match source:
        case Path():
            return read_picture(source, upright=True)
        case str():
            return _of_text(source, allow_private_urls)
        case bytes() | bytearray() | memoryview():
            return decode_picture(bytes(source), "the given bytes", upright=True)
        case Image.Image():
            return rgb_of(source, "the given image", upright=True)
        case np.ndarray():
            return _of_array(source)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.Tensor):
        return _of_tensor(source)
    raise InputError(
        f"a picture cannot be a {type(source).__name__}; give a path, a URL, bytes, an array, a Pillow image "
        "or a torch tensor"
    )


def whole(picture: Picture) -> FaceBox:
    """The box of the whole picture."""
    return FaceBox.of_picture(picture.shape[1], picture.shape[0])


def _of_text(text: str, allow_private_urls: bool) -> Picture:
    if is_url(text):
        return decode_picture(fetch_url(text, allow_private=allow_private_urls), text, upright=True)
    return read_picture(Path(text), upright=True)


def _of_tensor(tensor: Any) -> Picture:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        raise InputError(
            f"a tensor of shape {tuple(tensor.shape)} is no picture; expected (3, height, width)"
        )
    tensor = tensor.detach().cpu()
    if tensor.dtype.is_floating_point:
        tensor = tensor.float()  # numpy has no bfloat16
    return _of_array(tensor.permute(1, 2, 0).numpy())


def _of_array(array: np.ndarray) -> Picture:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise InputError(f"an array of shape {array.shape} is no picture; expected (height, width, 3), RGB")
    if array.shape[0] * array.shape[1] > MOST_PICTURE_PIXELS:
        raise InputError(
            f"an array of {array.shape[1]} x {array.shape[0]} px is larger than "
            f"{MOST_PICTURE_PIXELS / 1e6:.0f} million pixels; shrink it"
        )
    eight_bits = _eight_bits(array[..., :3])
    return np.ascontiguousarray(np.broadcast_to(eight_bits, (*array.shape[:2], 3)))


def _eight_bits(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return (array >> SIXTEEN_TO_EIGHT_BITS).astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if low >= 0 and high <= 1:
            return np.round(array * 255).astype(np.uint8)
        raise InputError(f"an array of floats from {low:g} to {high:g}; expected 0 to 1, or uint8")
    raise InputError(f"an array of {array.dtype}; expected uint8, uint16, or floats from 0 to 1")
