"""What the shards rely on in webdataset."""

import gc
import io
import tarfile
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from webdataset.compat import WebDataset
from webdataset.writer import TarWriter

from flm.data.manifest import Manifest
from flm.geometry import FaceBox
from shards.annotation import DataSet, FaceAnnotation, PictureFile
from shards.convert import ConvertOptions, convert

SAMPLES = [{"__key__": f"face-{number}", "json": b"{}", "jpg": bytes([number])} for number in range(3)]


def tar_of(samples: list[dict[str, str | bytes]], mtime: int = 1) -> bytes:
    file = io.BytesIO()
    with TarWriter(file, encoder=False, mtime=mtime, user="flm", group="flm", mode=0o644) as tar:
        for sample in samples:
            tar.write(sample)
    return file.getvalue()


def test_writer_gives_equal_bytes_for_equal_samples() -> None:
    assert tar_of(SAMPLES) == tar_of(SAMPLES)
    assert tar_of(SAMPLES) != tar_of(SAMPLES, mtime=2)


def test_writer_puts_a_samples_members_together_in_the_order_of_their_kinds() -> None:
    with tarfile.open(fileobj=io.BytesIO(tar_of(SAMPLES))) as tar:
        members = tar.getmembers()
        assert [m.name for m in members] == [
            f"face-{number}.{kind}" for number in range(3) for kind in ("jpg", "json")
        ]
        # One seek per member, as flm.data.reader reads them.
        content = tar_of(SAMPLES)
        assert content[members[2].offset_data : members[2].offset_data + members[2].size] == bytes([1])


def test_only_names_beyond_100_bytes_need_a_second_header() -> None:
    for length, num_headers in ((95, 1), (96, 3)):
        with tarfile.open(fileobj=io.BytesIO(tar_of([{"__key__": "x" * length, "json": b""}]))) as tar:
            assert tar.getmembers()[0].offset_data == num_headers * tarfile.BLOCKSIZE


def test_webdataset_alone_reads_the_shards(tmp_path: Path) -> None:
    landmarks = np.random.default_rng(0).uniform(20, 80, (68, 2))
    faces = []
    for number in range(7):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.full((100, 100, 3), 10 + 30 * number, np.uint8))
        faces.append(
            FaceAnnotation(
                picture=PictureFile(path),
                landmarks_image=landmarks,
                scheme="ibug-68",
                face_box_image=FaceBox.around(landmarks),
                split="train",
                subset="flat",
                source_file=path.name,
                group=path.name,
            )
        )
    flat = DataSet(faces=faces, source="flat", split_rule="none", licence="MIT", left_out={})
    options = ConvertOptions(processes=1, shard_size=3, validation_share=0.0, crop_size_px=64)
    convert(flat, tmp_path / "out", options)
    names = [shard.name for shard in Manifest.read(tmp_path / "out").shards_of("train")]
    assert len(names) == 3
    urls = [str(tmp_path / "out" / name) for name in names]
    with warnings.catch_warnings():
        # webdataset leaves its files to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        reader: Any = WebDataset(urls, shardshuffle=False).decode("rgb8")
        samples = list(reader)
        gc.collect()
    assert sorted(sample["json"]["source_file"] for sample in samples) == [f"{n}.png" for n in range(7)]
    for sample in samples:
        assert sample["jpg"].shape == (64, 64, 3)
        number = int(sample["json"]["source_file"].removesuffix(".png"))
        assert abs(int(sample["jpg"][32, 32, 0]) - (10 + 30 * number)) <= 1
        assert np.shape(sample["json"]["landmarks_shard"]) == (68, 2)
