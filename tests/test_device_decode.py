"""JPEGs decoded on the device: the same pictures as in the workers."""

import dataclasses

import pytest
import torch

from flm.data.device_decode import decode_on
from flm.data.loader import CropShape, LoaderConfig, ProcessPlace, training_batches
from flm.data.store import open_store
from flm.errors import InputError, OneProcessInputError

ON_CPU = LoaderConfig(num_workers=0, window_shards=2)
ON_DEVICE = dataclasses.replace(ON_CPU, decode="gpu")


@pytest.fixture(scope="module")
def data(make_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_shards(folder, {"train": 24, "validation": 4}, shard_size=8)
    return folder


def batches(data, config, device="cpu"):
    place = ProcessPlace(device=torch.device(device))
    crop = CropShape(size_px=32, margin=0.1)
    return list(
        training_batches(open_store(data), config, crop, steps=range(3), batch_size=8, seed=0, place=place)
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_the_same_batches_as_from_the_workers(data, workers):
    config = dataclasses.replace(ON_DEVICE, num_workers=workers)
    for ours, expected in zip(batches(data, config), batches(data, ON_CPU), strict=True):
        assert torch.equal(ours.crops_shard, expected.crops_shard)
        assert torch.equal(ours.shard_to_crop, expected.shard_to_crop)
        assert ours.keys == expected.keys
        assert ours.jpegs == ()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nvjpeg_decodes_as_the_cpu_does(data):
    for ours, expected in zip(batches(data, ON_DEVICE, "cuda"), batches(data, ON_CPU), strict=True):
        assert ours.crops_shard.device.type == "cuda"
        difference = ours.crops_shard.cpu().float() - expected.crops_shard.float()
        # It spreads the halved colour channels in another way.
        assert difference.abs().mean() < 3
        assert difference.mean().abs() < 0.5


def encoded_batch(data):
    (batch, *_) = batches(data, ON_CPU)
    store = open_store(data)
    from flm.data.reader import ShardReader

    reader = ShardReader(store, store.manifest.shards_of("train"), max_open_files=2)
    jpegs = tuple(reader.read_encoded(0, place).jpeg for place in range(len(batch)))
    return dataclasses.replace(batch, crops_shard=torch.empty(8, 3, 0, 0, dtype=torch.uint8), jpegs=jpegs)


def test_a_damaged_picture_is_named(data):
    batch = encoded_batch(data)
    jpegs = (*batch.jpegs[:3], batch.jpegs[3][:500], *batch.jpegs[4:])
    with pytest.raises(OneProcessInputError, match=f"sample '{batch.keys[3]}': the picture is no whole JPEG"):
        decode_on(dataclasses.replace(batch, jpegs=jpegs), torch.device("cpu"))


def test_what_only_the_cpu_knows_is_decoded_there(data, monkeypatch):
    batch = encoded_batch(data)
    expected = decode_on(batch, torch.device("cpu")).crops_shard

    def refuse(*_, **__):
        raise RuntimeError("nvjpegDecode failed: 5")

    monkeypatch.setattr("torchvision.io.decode_jpeg", refuse)
    assert torch.equal(decode_on(batch, torch.device("cpu")).crops_shard, expected)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match=r"--loader\.decode gpu .* --loader\.max-bad-samples is 3"):
        LoaderConfig(decode="gpu", max_bad_samples=3)


def test_shards_of_somebody_else_are_refused(data, monkeypatch):
    monkeypatch.setattr("flm.data.loader.decoder_of", lambda manifest: object())
    with pytest.raises(InputError, match=r"--loader\.decode gpu reads shards that"):
        batches(data, ON_DEVICE)
