"""A sample comes back as it was encoded; a batch can be cut and moved."""

import io
import json

import numpy as np
import pytest
import torch
from conftest import draw_face, sample_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flm.data.samples import Batch, SampleFormatError, SampleRecord, decode_crop, jpeg_size
from flm.geometry import FaceBox
from flm.landmarks import IBUG_68


def a_record(**changes) -> SampleRecord:
    _, landmarks = draw_face(0)
    fields = {
        "scheme": "ibug-68",
        "landmarks_shard": landmarks,
        "image_to_shard": np.array([[0.5, 0, 3], [0, 0.5, -2], [0, 0, 1.0]]),
        "face_box_image": FaceBox(left=-3.0, top=2.5, width=40.0, height=41.0),
        "subset": "common/helen",
        "source_file": "helen/ß 1.jpg",
        "group": "helen/ß",
    }
    return SampleRecord(**{**fields, **changes})


def test_a_record_comes_back():
    record = a_record(mirror_of="helen/2.jpg")
    back = SampleRecord.from_json(record.to_json())
    assert np.abs(back.landmarks_shard - record.landmarks_shard).max() <= 0.5e-4
    assert np.array_equal(back.image_to_shard, record.image_to_shard)
    for name in ("scheme", "face_box_image", "subset", "source_file", "group", "mirror_of"):
        assert getattr(back, name) == getattr(record, name)


def test_encoding_is_the_same_each_time():
    assert sample_bytes(4, "a", 64) == sample_bytes(4, "a", 64)


def test_the_picture_comes_back_nearly():
    picture, _ = draw_face(1)
    crop = decode_crop(sample_bytes(1, "a", 64)["jpg"])
    assert np.abs(crop.permute(1, 2, 0).numpy().astype(int) - picture).mean() < 6


@pytest.mark.parametrize("cut", [0, 10, 400])
def test_a_picture_cut_short_is_refused(cut):
    with pytest.raises(SampleFormatError, match="no JPEG or is cut short"):
        decode_crop(sample_bytes(1, "a", 64)["jpg"][:cut])


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    progressive=st.booleans(),
    comment=st.binary(max_size=50),
)
@settings(max_examples=40, deadline=None)
def test_the_size_of_a_picture_stands_in_its_header(width, height, progressive, comment):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "jpeg", progressive=progressive, comment=comment)
    assert jpeg_size(buffer.getvalue()) == (width, height)


@given(st.binary(max_size=60))
def test_bytes_that_are_no_jpeg_have_no_size(noise):
    with pytest.raises(SampleFormatError, match="no JPEG"):
        jpeg_size(b"\xff" + noise if noise[:1] != b"\xd8" else noise)
    with pytest.raises(SampleFormatError, match="no JPEG"):
        jpeg_size(b"\xff\xd8\xff\xda" + noise)


def test_an_absurd_size_is_refused_before_decoding(monkeypatch):
    jpeg = sample_bytes(1, "a", 64)["jpg"]
    place = jpeg.index(b"\xff\xc0") + 5
    monkeypatch.setattr("cv2.imdecode", None)
    for side in (4097, 20_000, 65_535):
        claim = jpeg[:place] + side.to_bytes(2, "big") * 2 + jpeg[place + 4 :]
        with pytest.raises(SampleFormatError, match=f"claims {side}x{side} px"):
            decode_crop(claim)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"landmarks_shard": np.zeros((67, 2))}, r"\(67, 2\), expected \(68, 2\)"),
        ({"landmarks_shard": np.full((68, 2), np.nan)}, "not finite"),
        ({"image_to_shard": np.zeros((3, 3))}, "invertible"),
        ({"scheme": "ibug-69"}, "unknown"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        a_record(**change)


@pytest.mark.parametrize(
    "change",
    [{"schema_version": 2}, {"group": None, "surprise": 1}, {"landmarks_shard": "x"}, {"face_box_image": 3}],
)
def test_foreign_json_is_refused(change):
    fields = json.loads(a_record().to_json())
    with pytest.raises(SampleFormatError):
        SampleRecord.from_json(json.dumps({**fields, **change}).encode())
    del fields["group"]
    with pytest.raises(SampleFormatError):
        SampleRecord.from_json(json.dumps(fields).encode())


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"3", b"\xff"])
def test_bytes_that_are_no_record_are_refused(text):
    with pytest.raises(SampleFormatError):
        SampleRecord.from_json(text)


def a_batch(rows: int) -> Batch:
    return Batch(
        crops_shard=torch.arange(rows, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4),
        landmarks_shard=torch.zeros(rows, 68, 2),
        shard_to_crop=torch.eye(3).expand(rows, 3, 3),
        valid=torch.ones(rows, dtype=torch.bool),
        positions=torch.arange(rows) + 100,
        first_row=32,
        step=7,
        keys=tuple(f"k{i}" for i in range(rows)),
        subsets=("s",) * rows,
        scheme=IBUG_68,
    )


def test_parts_of_a_batch_know_their_place():
    parts = a_batch(10).split(4)
    assert [len(part) for part in parts] == [4, 4, 2]
    assert [part.first_row for part in parts] == [32, 36, 40]
    assert [part.crops_shard[0, 0, 0, 0].item() for part in parts] == [0, 4, 8]
    assert parts[2].keys == ("k8", "k9")
    assert parts[2].positions.tolist() == [108, 109]
    assert parts[1].to(torch.device("cpu")).step == 7
