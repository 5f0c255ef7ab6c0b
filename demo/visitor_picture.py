"""A picture that a visitor gives: uploaded, pasted, photographed or named by its address."""

import base64
import binascii
import io
import secrets
import time
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.data_classes import ImageData
from jaxtyping import UInt8
from limits import FETCH_S, MOST_PICTURE_BYTES, MOST_PICTURE_PIXELS
from PIL import Image

from flm.errors import InputError
from flm.inference.fetch import FetchLimits, fetch_url, is_url
from flm.inference.picture_input import as_picture

Picture = UInt8[np.ndarray, "height width 3"]

_PRIVATE = "not of the public internet"
"""In `fetch_url`'s message."""

NO_PICTURE = "no picture came; choose one first"


def picture_upload(**options: Any) -> gr.Image:
    """Where a picture is put; it hands on the file as it came, so that what is in it is checked here alone.

    Not a class of its own: Gradio would write a stub of it beside this file.
    """
    upload = gr.Image(type="filepath", show_label=False, buttons=[], **options)
    upload.preprocess = _as_it_came
    return upload


def _as_it_came(payload: ImageData | None) -> str | None:
    """The file's path, or a `data:` URL."""
    if payload is None:
        return None
    return payload.url if payload.url and payload.url.startswith("data:") else payload.path


def picture_of(upload: str | None) -> Picture:
    """Decode what was uploaded.

    Args:
        upload: as `picture_upload` gives it.

    Raises:
        InputError: it is no picture, or too large.
    """
    if not upload:
        raise InputError(NO_PICTURE)
    if upload.startswith("data:"):
        return decoded(_of_data_url(upload))
    path = Path(upload)
    if not path.is_file():
        raise InputError(NO_PICTURE)
    if path.stat().st_size > MOST_PICTURE_BYTES:
        raise InputError(_TOO_MANY_BYTES)
    return decoded(path.read_bytes())


def picture_at(url: str, *, allow_private: bool) -> Picture:
    """Fetch a picture.

    Raises:
        InputError: the address is none, is refused, or leads to no picture.
    """
    url = url.strip()
    if not is_url(url):
        raise InputError("an address of a picture begins with http:// or https://; check it")
    limits = FetchLimits(most_bytes=MOST_PICTURE_BYTES, time_s=FETCH_S)
    try:
        content = fetch_url(url, allow_private=allow_private, limits=limits)
    except InputError as mistake:
        if _PRIVATE in str(mistake):
            # Which address a name of the inside has is nobody's business.
            raise InputError(
                "that address is not of the public internet; download it, and drop it here"
            ) from mistake
        raise
    return decoded(content)


def decoded(content: bytes) -> Picture:
    """A picture file's content, upright.

    Raises:
        InputError: it is no picture, or too large.
    """
    if not content:
        raise InputError("the file is empty; choose another one")
    if len(content) > MOST_PICTURE_BYTES:
        raise InputError(_TOO_MANY_BYTES)
    _check_pixels(content)
    try:
        return as_picture(content)
    except InputError as mistake:
        text = str(mistake).removeprefix("the given bytes: ")
        raise InputError(f"that is {text}" if text.startswith("not") else text) from mistake


def keep(picture: Picture, folder: Path | None) -> None:
    """Keep a visitor's picture where the one who serves asked for that."""
    if folder is None:
        return
    from flm.draw import write_png

    write_png(folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}.png", picture)


_TOO_MANY_BYTES = f"the file is larger than {MOST_PICTURE_BYTES // 2**20} MB; choose a smaller one"


def _check_pixels(content: bytes) -> None:
    """Believe no header that claims too much, before anything is decoded."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            num_pixels = picture.width * picture.height
    except Image.DecompressionBombError:
        num_pixels = MOST_PICTURE_PIXELS + 1
    except Exception:  # told by whoever decodes it
        return
    if num_pixels > MOST_PICTURE_PIXELS:
        raise InputError(
            f"the picture has more than {MOST_PICTURE_PIXELS // 1_000_000} million pixels; shrink it first"
        )


def _of_data_url(url: str) -> bytes:
    head, _, body = url.partition(",")
    if not head.endswith(";base64") or len(body) > MOST_PICTURE_BYTES * 4 // 3 + 4:
        raise InputError(_TOO_MANY_BYTES if body else NO_PICTURE)
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("the picture came damaged; send it again") from error
