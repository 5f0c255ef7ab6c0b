"""Every kind of picture becomes upright or stored RGB; what is no picture is told in one line."""

import io
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flm.errors import InputError
from flm.geometry import FaceBox, region_shown, resample, square_crop
from flm.pictures import FORMATS, read_part, read_picture

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


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
def test_a_header_that_claims_too_much_is_refused_before_anything_is_decoded(tmp_path, name, monkeypatch):
    path = tmp_path / name
    path.write_bytes(claiming(20_000, 20_000, path.suffix))

    def decode(picture: Image.Image) -> None:
        pytest.fail("was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    whole = FaceBox.of_picture(20_000, 20_000)
    for read in (lambda: read_picture(path, upright=False), lambda: read_part(path, whole, 8)):
        with pytest.raises(InputError, match="claims more than 134 million pixels; shrink it") as caught:
            read()
        assert str(caught.value).startswith(f"{path}: ")


def test_the_limit_is_ours_not_that_of_pillow(tmp_path):
    # Pillow itself warns from 89 million on and refuses 179.
    (tmp_path / "a.jpg").write_bytes(claiming(13_000, 13_000, ".jpg"))
    with pytest.raises(InputError, match="claims more than 134 million"):
        read_picture(tmp_path / "a.jpg", upright=False)


def claiming(width: int, height: int, suffix: str) -> bytes:
    """A small picture whose header says something else."""
    buffer = io.BytesIO()
    Image.fromarray(ramp()).save(buffer, {".jpg": "jpeg", ".png": "png", ".bmp": "bmp"}[suffix])
    content = bytearray(buffer.getvalue())
    if suffix == ".jpg":
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    elif suffix == ".png":
        content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    else:
        content[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    return bytes(content)


# Reduced by no more than the crop of twice the side shrinks it.
@pytest.mark.parametrize(("side", "reduction"), [(40, 1), (160, 1), (160, 4), (700, 1), (700, 8)])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_part_gives_the_crop_that_the_whole_gives(tmp_path, suffix, side, reduction):
    random = np.random.default_rng(side)
    path = tmp_path / f"a{suffix}"
    small = random.integers(0, 256, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(small).resize((607, 403)).save(path)
    size_px = 64
    for center in ((300.0, 200.5), (3.25, 398.0), (-60.0, 100.0), (900.0, 900.0)):
        box = FaceBox(
            left=center[0] - side / 2, top=center[1] - side / 2, width=float(side), height=float(side)
        )
        image_to_crop = square_crop(box, size_px, 0.5)
        part = read_part(path, region_shown(image_to_crop, size_px), reduction)
        whole = read_part(path, FaceBox.of_picture(607, 403), reduction)
        assert (part.width, part.height, part.reduction) == (whole.width, whole.height, whole.reduction)
        one, other = (
            resample(picture.pixels, image_to_crop @ np.linalg.inv(picture.image_to_pixels), size_px)
            for picture in (part, whole)
        )
        np.testing.assert_array_equal(one, other)
        if side < 700 and center == (300.0, 200.5):
            assert part.pixels.size < whole.pixels.size


def test_no_format_is_read_that_starts_another_program(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    Image.fromarray(ramp()).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"a\.jpg: not a whole picture \(of no format that is read"):
        read_picture(tmp_path / "a.jpg", upright=True)


def test_each_format_that_is_read_is_known_to_pillow():
    Image.init()
    assert set(FORMATS) <= Image.OPEN.keys()


PEAK = """
import resource, sys
from pathlib import Path
from flm.pictures import read_picture

def peak_bytes():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

read_picture(Path(sys.argv[1]), upright=True)
before = peak_bytes()
read_picture(Path(sys.argv[2]), upright=True)
print(peak_bytes() - before)
"""


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_picture_is_in_memory_twice_at_most(tmp_path, orientation):
    """Pillow has four bytes a pixel, and what comes out three."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(ramp()).save(tmp_path / "small.jpg", exif=exif)
    Image.new("RGB", (6000, 4000)).save(tmp_path / "large.jpg", exif=exif)
    paths = [str(tmp_path / name) for name in ("small.jpg", "large.jpg")]
    done = subprocess.run([sys.executable, "-c", PEAK, *paths], capture_output=True, check=True)
    assert int(done.stdout) < 1.2 * (4 + 3) * 6000 * 4000


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
@pytest.mark.parametrize("orientation", TURNED_BACK)
def test_bands_make_the_picture(tmp_path, monkeypatch, mode, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(ramp()).convert(mode).save(tmp_path / "a.jpg", exif=exif, quality=95)
    whole = read_picture(tmp_path / "a.jpg", upright=True)
    monkeypatch.setattr("flm.pictures.BAND_PIXELS", 5 * 40)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.jpg", upright=True), whole)
    turned = TURNED_BACK[orientation](read_picture(tmp_path / "a.jpg", upright=False))
    np.testing.assert_array_equal(turned, whole)


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
