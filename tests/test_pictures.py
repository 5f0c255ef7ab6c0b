"""Every kind of picture becomes upright or stored RGB; what is no picture is told in one line."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flm.errors import InputError
from flm.pictures import read_picture

ORIENTATION = 0x0112


def ramp(height: int = 24, width: int = 40) -> np.ndarray:
    """RGB with no symmetry: red grows to the right, green down, and the top left corner is blue."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, width)[None]
    picture[..., 1] = np.linspace(0, 255, height)[:, None]
    picture[: height // 3, : width // 3, 2] = 200
    return picture


def grey_ramp() -> np.ndarray:
    return np.repeat(np.linspace(0, 255, 40, dtype=np.uint8)[None], 24, axis=0)


def test_a_png_comes_back_as_it_was(tmp_path):
    Image.fromarray(ramp()).save(tmp_path / "a.png")
    for upright in (True, False):
        np.testing.assert_array_equal(read_picture(tmp_path / "a.png", upright=upright), ramp())


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp", "tif"])
def test_other_formats_come_close(tmp_path, suffix):
    smooth = ramp()
    smooth[..., 2] = 0
    Image.fromarray(smooth).save(tmp_path / f"a.{suffix}", quality=95)
    difference = read_picture(tmp_path / f"a.{suffix}", upright=True).astype(int) - smooth
    assert np.abs(difference).mean() < 3


@pytest.mark.parametrize("mode", ["L", "LA", "1", "RGBA", "P", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    picture = Image.fromarray(ramp()).convert(mode)
    suffix = "tif" if mode == "CMYK" else "png"
    picture.save(tmp_path / f"a.{suffix}")
    read = read_picture(tmp_path / f"a.{suffix}", upright=True)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_grey_keep_their_shades(tmp_path, suffix):
    fine = grey_ramp().astype(np.uint16) * 257
    Image.fromarray(fine).save(tmp_path / f"a.{suffix}")
    read = read_picture(tmp_path / f"a.{suffix}", upright=True)
    np.testing.assert_array_equal(read, np.stack([grey_ramp()] * 3, axis=-1))


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_without_a_known_white_are_refused(tmp_path, kind):
    Image.fromarray(grey_ramp().astype(kind)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: not a whole picture \(pixels of 32 bits"):
        read_picture(tmp_path / "a.tif", upright=True)


TURNED_BACK = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}
"""What a viewer does with the stored pixels, by EXIF orientation."""


@pytest.mark.parametrize("orientation", TURNED_BACK)
def test_an_exif_rotation_is_applied_only_when_asked_for(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(ramp()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png", upright=False), ramp())
    upright = read_picture(tmp_path / "a.png", upright=True)
    np.testing.assert_array_equal(upright, TURNED_BACK[orientation](ramp()))


def jpeg_bytes() -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x0110] = "a camera of some name"
    buffer = io.BytesIO()
    Image.fromarray(ramp(48, 64)).save(buffer, "jpeg", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.jpg", jpeg_bytes()[:-200]),
        ("head.jpg", jpeg_bytes()[:20]),
        ("text.jpg", b"no picture at all"),
        ("empty.png", b""),
        ("folder.png", None),
    ],
)
@pytest.mark.parametrize("upright", [True, False])
def test_what_is_no_whole_picture_is_told_in_one_line(tmp_path, name, content, upright):
    path = tmp_path / name
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match="not a whole picture") as caught:
        read_picture(path, upright=upright)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_picture_is_told_as_missing(tmp_path: Path):
    with pytest.raises(InputError, match=r"none\.jpg: the picture is missing"):
        read_picture(tmp_path / "none.jpg", upright=True)


def test_no_damage_to_a_file_ends_in_a_traceback(tmp_path):
    whole, random = jpeg_bytes(), np.random.default_rng(0)
    path = tmp_path / "damaged.jpg"
    read = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in random.integers(2, 300, 4):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            assert read_picture(path, upright=True).ndim == 3
            read += 1
        except InputError as error:
            told = str(error)
            assert "\n" not in told
    assert 0 < read < 300
