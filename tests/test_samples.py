"""A sample comes back as it was encoded; a batch can be cut and moved."""

import json

import numpy as np
import pytest
import torch
from conftest import draw_face, sample_bytes

from flm.data.samples import Batch, SampleFormatError, SampleRecord, decode_crop
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
    assert np.abs(crop.astype(int) - picture).mean() < 6


def test_a_picture_goes_where_it_is_asked_to():
    jpeg = sample_bytes(1, "a", 64)["jpg"]
    room = np.zeros((2, 64, 64, 3), np.uint8)
    assert np.shares_memory(decode_crop(jpeg, room[1]), room)
    assert np.array_equal(room[1], decode_crop(jpeg))
    assert not room[0].any()
    # Of another size, it is not squeezed in.
    assert decode_crop(jpeg, np.zeros((32, 32, 3), np.uint8)).shape == (64, 64, 3)


@pytest.mark.parametrize("cut", [0, 10, 400])
def test_a_picture_cut_short_is_refused(cut):
    with pytest.raises(SampleFormatError, match="no whole JPEG"):
        decode_crop(sample_bytes(1, "a", 64)["jpg"][:cut])


def test_an_absurd_size_is_refused_before_decoding(monkeypatch):
    jpeg = sample_bytes(1, "a", 64)["jpg"]
    place = jpeg.index(b"\xff\xc0") + 5
    monkeypatch.setattr("simplejpeg.decode_jpeg", None)
    for side in (4097, 20_000, 65_500):
        claim = jpeg[:place] + side.to_bytes(2, "big") * 2 + jpeg[place + 4 :]
        with pytest.raises(SampleFormatError, match=f"claims {side}x{side} px"):
            decode_crop(claim)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"landmarks_shard": np.zeros((67, 2))}, r"\(67, 2\), expected \(68, 2\)"),
        ({"landmarks_shard": np.full((68, 2), np.nan)}, "not finite"),
        ({"image_to_shard": np.zeros((3, 3))}, "invertible"),
        ({"image_to_shard": np.diag([1.0, 1.0, 0.0])}, "affine"),
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


@pytest.mark.parametrize(
    "change", [{"group": 5}, {"subset": None}, {"source_file": ["a"]}, {"mirror_of": {"a": 1}}]
)
def test_a_field_of_another_kind_is_named(change):
    """`verify` and the tally of subsets take them for texts."""
    fields = json.loads(a_record().to_json())
    (name,) = change
    with pytest.raises(SampleFormatError, match=f"{name} is .*, expected a text"):
        SampleRecord.from_json(json.dumps({**fields, **change}).encode())


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
