"""The manifest comes back as it was written, and says what is wrong with one that does not."""

import json

import pytest

from flm.data.manifest import MANIFEST_NAME, Manifest
from flm.errors import InputError


def test_what_is_written_is_read(make_shards, tmp_path):
    manifest = make_shards(tmp_path, {"train": 10, "validation": 3})
    assert Manifest.read(tmp_path) == manifest
    assert manifest.num_samples("train") == 10
    assert [shard.num_samples for shard in manifest.shards_of("train")] == [8, 2]
    assert manifest.num_samples("test") == 0


def test_the_hash_follows_the_content_not_the_place(make_shards, tmp_path):
    one = make_shards(tmp_path / "a", {"train": 10})
    same = make_shards(tmp_path / "b", {"train": 10})
    other = make_shards(tmp_path / "c", {"train": 11})
    assert one.content_hash() == same.content_hash() != other.content_hash()


def test_shards_of_a_training_are_known_by_their_hash(make_shards, tmp_path):
    manifest = make_shards(tmp_path / "a", {"train": 10})
    config = {"data": str(tmp_path / "a")}
    assert Manifest.of_training(config, manifest.content_hash()) == manifest
    assert Manifest.of_training(config, "another") is None
    assert Manifest.of_training(config, None) is None
    assert Manifest.of_training({"data": "s3://bucket/faces"}, manifest.content_hash()) is None
    assert Manifest.of_training({}, manifest.content_hash()) is None


def test_a_split_that_is_missing_or_empty_is_named(make_shards, tmp_path):
    manifest = make_shards(tmp_path, {"train": 3, "test": 0})
    with pytest.raises(InputError, match="no split 'validation'; they have train, test"):
        manifest.shards_of("validation")
    with pytest.raises(InputError, match="'test' of the shards is empty"):
        manifest.shards_of("test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there are no shards here"),
        ("{", "not a manifest"),
        ("[]", "not a manifest"),
        ('{"schema_version": 99}', "schema version 99, this flm reads 1; update"),
        ('{"schema_version": 1, "splits": {}}', "crop_margin is missing"),
        ("[" * 100_000, "not a manifest .*nested too deeply"),
        (r'{"schema_version": "\ud800"}', "not a manifest .*surrogates not allowed"),
    ],
)
def test_a_bad_manifest_is_told_in_one_line(tmp_path, text, message):
    if text is not None:
        (tmp_path / MANIFEST_NAME).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        Manifest.read(tmp_path)
    assert str(tmp_path / MANIFEST_NAME) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheme": ["ibug-68"]}, r"scheme is \['ibug-68'\], expected str"),
        ({"scheme": "ibug-69"}, "landmark scheme 'ibug-69' is unknown"),
        ({"crop_size_px": 2**31}, "crop_size_px is 2147483648, expected 1 to 4096"),
        ({"crop_size_px": 96.0}, "crop_size_px is 96.0, expected int"),
        ({"crop_margin": float("nan")}, "crop_margin is nan, expected a number from 0"),
        ({"crop_margin": 10**400}, "crop_margin is a number of 401 digits"),
        ({"splits": {"train": [{"name": "x"}]}}, r"splits\.train: num_bytes is missing"),
        ({"splits": {"train": {}}}, r"splits\.train is {}, expected tuple"),
        ({"subsets": {"train": {"drawn": "3"}}}, r"subsets\.train\.drawn is '3', expected int"),
    ],
)
def test_a_field_that_cannot_be_is_told_with_its_name(make_shards, tmp_path, change, message):
    make_shards(tmp_path, {"train": 3})
    fields = json.loads((tmp_path / MANIFEST_NAME).read_text())
    (tmp_path / MANIFEST_NAME).write_text(json.dumps({**fields, **change}))
    with pytest.raises(InputError, match=message) as caught:
        Manifest.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_unknown_field_is_refused(make_shards, tmp_path):
    make_shards(tmp_path, {"train": 3})
    fields = json.loads((tmp_path / MANIFEST_NAME).read_text())
    (tmp_path / MANIFEST_NAME).write_text(json.dumps({**fields, "surprise": 1}))
    with pytest.raises(InputError, match="surprise"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../train-000000.tar"}, "leads out of the folder"),
        ({"name": "a/../../b.tar"}, "leads out of the folder"),
        ({"name": "/etc/passwd"}, "leads out of the folder"),
        ({"name": "https://host/b.tar"}, "leads out of the folder"),
        ({"name": "pipe:cat x"}, "leads out of the folder"),
        ({"name": "a\\b.tar"}, "leads out of the folder"),
        ({"name": ""}, "leads out of the folder"),
        ({"name": "."}, "leads out of the folder"),
        ({"sha256": "../../x"}, "expected 64 hexadecimal digits"),
        ({"sha256": "a" * 63}, "expected 64 hexadecimal digits"),
        ({"num_bytes": -1}, "num_bytes is -1, expected a count"),
        ({"num_samples": -1}, "num_samples is -1, expected a count"),
    ],
)
def test_an_entry_that_is_no_safe_path_or_count_is_refused(make_shards, tmp_path, change, message):
    make_shards(tmp_path, {"train": 3})
    fields = json.loads((tmp_path / MANIFEST_NAME).read_text())
    fields["splits"]["train"][0].update(change)
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(fields))
    with pytest.raises(InputError, match=message) as caught:
        Manifest.read(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / MANIFEST_NAME))
    assert "\n" not in str(caught.value)


def test_shards_may_lie_in_folders_below(make_shards, tmp_path):
    make_shards(tmp_path, {"train": 3})
    fields = json.loads((tmp_path / MANIFEST_NAME).read_text())
    fields["splits"]["train"][0]["name"] = "train/a..b.tar"
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(fields))
    assert Manifest.read(tmp_path).shards_of("train")[0].name == "train/a..b.tar"
