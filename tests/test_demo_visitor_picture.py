"""Whatever a visitor sends is a picture, or one sentence."""

import io
import os
import random
import time

import numpy as np
import pytest
from conftest import draw_face
from demo_server import demo_module
from PIL import Image
from test_pictures import claiming

from flm.errors import InputError

pytest.importorskip("gradio", reason="Gradio is not installed")

visitor_picture = demo_module("visitor_picture")
limits = demo_module("limits")

LONGEST_S = 5.0
"""Of the processor, since a busy machine's clock says nothing."""
NUM_MALFORMED = 300


def encoded(kind: str, size_px: int = 64) -> bytes:
    content = io.BytesIO()
    Image.fromarray(draw_face(1, size_px)[0]).save(content, kind)
    return content.getvalue()


def malformed(number: int) -> tuple[str, bytes]:
    """The upload of that number: a name and a content, none of which is a whole picture of a fair size."""
    source = random.Random(number)
    kind = ["JPEG", "PNG", "WEBP", "GIF", "BMP"][number // 10 % 5]
    whole = encoded(kind)
    match number % 10:
        case 0:
            return "cut", whole[: source.randrange(1, 40)]
        case 1:
            return "wrong start", bytes(source.randrange(256) for _ in range(8)) + b"\0" * 4 + whole[12:]
        case 2:
            return "noise", source.randbytes(source.randrange(1, 5000))
        case 3:
            return "bomb", claiming(source.randrange(7_000, 2**31), source.randrange(7_000, 2**31), ".png")
        case 4:
            return "svg", b'<svg onload="alert(%d)"><script>alert(1)</script></svg>' % number
        case 5:
            return "no size", claiming(0, source.randrange(1, 99), ".png")
        case 6:
            return "empty", b""
        case 7:
            return "too large", b"P6 9999 9999 255\n"
        case 8:
            return "another kind", source.choice(
                [b"%PDF-1.7", b"PK\x03\x04", b"\x7fELF", b"MZ", b"#!/bin/sh\n"]
            ) * 9
        case _:
            return "path", b"../" * source.randrange(1, 20) + b"etc/passwd"


def test_malformed_uploads_are_sentences(tmp_path):
    upload = tmp_path / "upload"
    for number in range(NUM_MALFORMED):
        name, content = malformed(number)
        upload.write_bytes(content)
        if name == "too large":
            os.truncate(upload, limits.MOST_PICTURE_BYTES + 1)
        start_s = time.process_time()
        with pytest.raises(InputError) as caught:
            visitor_picture.picture_of(str(upload))
        assert time.process_time() - start_s < LONGEST_S, name
        told = limits.sentence(caught.value)
        assert told.endswith("."), name
        assert "\n" not in told
        assert "<" not in told
        assert str(tmp_path) not in told


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_usual_format_is_taken(tmp_path, kind):
    upload = tmp_path / "upload"
    upload.write_bytes(encoded(kind))
    assert visitor_picture.picture_of(str(upload)).shape == (64, 64, 3)


def test_a_turned_photo_is_upright(tmp_path):
    picture = Image.new("RGB", (40, 20), "red")
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert visitor_picture.picture_of(str(tmp_path / "turned.jpg")).shape == (40, 20, 3)


@pytest.mark.parametrize(
    "upload", [None, "", "/missing/file.png", "data:image/png;base64,", "data:image/png,x"]
)
def test_nothing_is_a_sentence(upload):
    with pytest.raises(InputError):
        visitor_picture.picture_of(upload)


def test_a_picture_is_kept_only_where_asked(tmp_path):
    picture = np.zeros((4, 4, 3), np.uint8)
    visitor_picture.keep(picture, None)
    visitor_picture.keep(picture, tmp_path / "kept")
    assert [path.suffix for path in (tmp_path / "kept").iterdir()] == [".png"]
