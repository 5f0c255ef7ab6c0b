"""The readers of files that others made: small valid files of each, and what reads them.

A reader is right with any content: it reads it, or raises an `InputError`.
"""

import atexit
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from flm.errors import InputError
from flm.landmarks import IBUG_68, WFLW_98

MEMORY = Path("/dev/shm")
"""Quicker than a disk, where each file is waited for."""

SIDE_PX = 64
PICTURE = "helen/trainset/a_1.jpg"

_random = np.random.default_rng(0)
FACE = _random.uniform(10, 50, (IBUG_68.num_points, 2)).round(2)
FACE_98 = _random.uniform(10, 50, (WFLW_98.num_points, 2)).round(2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One reader."""

    seeds: Callable[[], list[bytes]]
    """Contents that it reads without an error."""
    read: Callable[[bytes], object]
    words: tuple[bytes, ...] = ()
    """That its format knows."""


@cache
def _folder() -> Path:
    """Where contents are written for readers of files; one for each process."""
    folder = Path(tempfile.mkdtemp(prefix="flm-fuzz-", dir=MEMORY if MEMORY.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _written(name: str, content: bytes) -> Path:
    path = _folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _picture_bytes(kind: str = "jpeg", mode: str = "RGB", **options: object) -> bytes:
    ramp = np.add.outer(np.arange(SIDE_PX), np.arange(SIDE_PX)).astype(np.uint8)
    picture = Image.fromarray(np.stack([ramp, ramp.T * 2, ramp * 3], axis=-1))
    buffer = io.BytesIO()
    picture.convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def _xml_seeds() -> list[bytes]:
    parts = "\n".join(
        f"<part name='{number:02d}' x='{x:.0f}' y='{y:.0f}'/>" for number, (x, y) in enumerate(FACE)
    )
    box = f"<box top='8' left='8' width='46' height='46'>{parts}</box>"
    pictures = (PICTURE, PICTURE.replace(".jpg", "_mirror.jpg"))
    images = "".join(f"<image file='{name}' width='64' height='64'>{box}</image>" for name in pictures)
    head = "<?xml version='1.0' encoding='ISO-8859-1'?><?xml-stylesheet type='text/xsl' href='a.xsl'?>"
    full = f"{head}<dataset><name>x</name><images>{images}</images></dataset>"
    short = full.replace(parts, parts.partition("\n")[0])
    ignored = short.replace("<box ", "<box ignore='1' ")
    return [full.encode(), ignored.encode()]


def _read_xml(content: bytes) -> None:
    from shards.sources.dlib import read_dlib
    from shards.sources.ibug import LABELS, read_ibug
    from shards.sources.layout import Listing

    _written(f"ibug/{PICTURE}", b"")
    path = _written(f"ibug/{LABELS['train']}", content)
    _written(f"ibug/{LABELS['test']}", b"<dataset/>")
    _each(
        lambda: read_ibug(path.parent, mirrors="keep", allow_missing=True),
        lambda: read_dlib(path, listing=Listing(split="train", allow_missing=True)),
    )


def _pts_seeds() -> list[bytes]:
    from flm.faces.pts_file import pts_text

    text = pts_text(FACE)
    return [text.encode(), text.replace("\n", "\r\n").encode()]


def _read_pts(content: bytes) -> None:
    from shards.sources.pts import read_pts

    _written("pts/a.jpg", b"")
    path = _written("pts/a.pts", content)
    _each(lambda: read_pts(path.parent), lambda: _convert(path))


def _convert(path: Path) -> None:
    from flm.inference.results.landmark_files import Conversion, convert_files

    for mistake in convert_files([path], _folder() / "converted", Conversion.named("68-to-5")):
        raise mistake


def _csv_seeds() -> list[bytes]:
    cells = ",".join(f"{number:g}" for number in FACE.ravel())
    header = ",".join(["file", *(str(number) for number in range(FACE.size))])
    return [f"{header}\na.jpg,{cells}\nb.jpg,{cells}\n".encode(), f'"a.jpg",{cells}\r\n'.encode()]


def _read_csv(content: bytes) -> None:
    from shards.sources.layout import Listing
    from shards.sources.points_csv import read_points_csv

    _written("csv/a.jpg", b"")
    path = _written("csv/points.csv", content)
    read_points_csv(path, listing=Listing(split="train", allow_missing=True))


def _table_seeds() -> list[bytes]:
    names = ",".join(f"x{number},y{number}" for number in range(len(FACE)))
    cells = ",".join(f"{number:g}" for number in FACE.ravel())
    return [f"image,face,{names}\na.jpg,0,{cells}\n".encode()]


def _read_table(content: bytes) -> None:
    _convert(_written("table/landmarks.csv", content))


def _boxes_seeds() -> list[bytes]:
    rows = "file,left,top,width,height\na.jpg,1,2,30.5,40\nb.jpg,-3,0,9,9\n"
    return [rows.encode(), b'{"a.jpg": [[120, 80, 200, 200], [0.5, 1, 2, 3]], "b.jpg": []}']


def _read_boxes(content: bytes) -> None:
    from flm.inference.given_boxes import GivenBoxes, read_boxes

    is_json = content.lstrip()[:1] in (b"{", b"[")
    boxes = GivenBoxes(by_name=read_boxes(_written("boxes.json" if is_json else "boxes.csv", content)))
    _ = boxes.identity


def _wflw_seeds() -> list[bytes]:
    numbers = " ".join(f"{number:g}" for number in FACE_98.ravel())
    return [f"{numbers} 8 8 52 52 0 1 0 0 1 0 a.jpg\n{numbers} 8 8 52 52 0 0 0 0 0 0 b.jpg\n".encode()]


def _read_wflw(content: bytes) -> None:
    from shards.sources.wflw import LISTS, PICTURES, read_wflw

    _written(f"wflw/{PICTURES}/a.jpg", b"")
    _written(f"wflw/{LISTS['test']}", b"")
    path = _written(f"wflw/{LISTS['train']}", content)
    read_wflw(path.parent, allow_missing=True)


def _coco_seeds() -> list[bytes]:
    flat = [number for x, y in FACE.tolist() for number in (x, y, 2)]
    annotation = {"id": 1, "image_id": 7, "category_id": 1, "keypoints": flat, "bbox": [8, 8, 46, 46]}
    names = [f"point_{number}" for number in range(len(FACE))]
    file = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 64, "height": 64}],
        "annotations": [annotation, {**annotation, "id": 2, "bbox": None}],
        "categories": [{"id": 1, "name": "face", "keypoints": names}],
    }
    whole = {"id": 1, "image_id": 7, "category_id": 1, "face_valid": True, "face_box": [8, 8, 46, 46]}
    body = {**file, "annotations": [{**whole, "face_kpts": flat}]}
    return [json.dumps(file).encode(), json.dumps(body).encode()]


def _read_coco(content: bytes) -> None:
    from shards.sources.coco import read_coco
    from shards.sources.layout import Listing

    _written("coco/a.jpg", b"")
    path = _written("coco/faces.json", content)
    listing = Listing(split="train", allow_missing=True)
    read_coco(path, listing=listing, whole_body=b"face_kpts" in content)


def _manifest_seeds() -> list[bytes]:
    from flm.data.manifest import MANIFEST_NAME, Manifest, ShardEntry
    from flm.data.sample_format import SampleFormat

    shard = ShardEntry(name="train-000000.tar", num_samples=3, num_bytes=512, sha256="0" * 64)
    fields = {
        "scheme": "ibug-68",
        "crop_size_px": 96,
        "crop_margin": 0.5,
        "source": "x",
        "split_rule": "y",
        "licence": "z",
        "splits": {"train": (shard,), "test": (shard,)},
        "subsets": {"train": {"drawn": 3}},
    }
    seeds = []
    for more in ({}, {"sample_format": SampleFormat(box_key="box")}, {"labels": "a network"}):
        Manifest(**fields, **more).write(_folder())
        seeds.append((_folder() / MANIFEST_NAME).read_bytes())
    return seeds


def _read_manifest(content: bytes) -> None:
    from flm.data.foreign import decoder_of
    from flm.data.manifest import Manifest

    manifest = Manifest.from_json(content, "manifest.json")
    decoder_of(manifest)
    manifest.content_hash()
    _ = manifest.landmark_scheme
    manifest.write(_folder())
    for split in manifest.splits:
        manifest.shards_of(split)


def _sample_json() -> bytes:
    from flm.data.samples import SampleRecord
    from flm.geometry import FaceBox

    return SampleRecord(
        scheme="ibug-68",
        landmarks_shard=FACE,
        image_to_shard=np.eye(3),
        face_box_image=FaceBox.around(FACE),
        subset="drawn",
        source_file="a.png",
        group="a",
    ).to_json()


NUM_SAMPLES = 2


def _shard_seeds() -> list[bytes]:
    import webdataset

    npy = io.BytesIO()
    np.save(npy, FACE / SIDE_PX)
    seeds = []
    for picture in (_picture_bytes(), _picture_bytes(progressive=True)):
        buffer = io.BytesIO()
        with webdataset.TarWriter(buffer, mtime=0) as tar:
            for number in range(NUM_SAMPLES):
                tar.write(
                    {"__key__": f"{number}", "jpg": picture, "json": _sample_json(), "npy": npy.getvalue()}
                )
        seeds.append(buffer.getvalue())
    return seeds


def _read_shard(content: bytes) -> None:
    """As training reads it, ours or of a foreign format, and as `flm predict` does."""
    from flm.data.foreign import ForeignSamples
    from flm.data.manifest import ShardEntry
    from flm.data.reader import ShardReader
    from flm.data.sample_format import SampleFormat
    from flm.data.samples import OWN_SAMPLES
    from flm.data.store import LocalStore
    from flm.inference.inputs import pictures_of

    path = _written("shards/train-000000.tar", content)
    shard = ShardEntry(
        name=path.name,
        num_samples=NUM_SAMPLES,
        num_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    of_others = [
        ForeignSamples(sample_format=form, scheme="ibug-68", crop_size_px=SIDE_PX, crop_margin=0.5)
        for form in (
            SampleFormat(landmarks_key="landmarks_shard", group_key="group"),
            SampleFormat(annotation="npy", points="unit"),
        )
    ]
    for decoder in (OWN_SAMPLES, *of_others):
        reader = ShardReader(LocalStore(path.parent), (shard,), max_open_files=1, decoder=decoder)
        reads: list[Callable[[], object]] = [lambda reader=reader: reader.read(0, 0)]
        reads.append(lambda reader=reader: reader.read(0, NUM_SAMPLES - 1))
        if decoder is OWN_SAMPLES:
            reads.append(lambda reader=reader: reader.read_encoded(0, 0))
        _each(*reads, reader.close)
    _each(*(picture.read for picture in pictures_of([str(path)])))


CHECKPOINT_FILES = ("config.json", "model.safetensors", "state.json", "training.safetensors", "SHA256SUMS")
"""The first byte of a content says which of them the rest is; the others stay as they were."""


@cache
def _checkpoint() -> Path:
    import torch

    from flm.checkpoint import TrainingState, find_checkpoint
    from flm.model.network import ModelConfig, build_network
    from flm.training.checkpoint_writer import save_checkpoint
    from flm.training.config import TrainConfig

    run = _folder() / "run"
    config = TrainConfig(
        recipe="x",
        model=ModelConfig(
            backbone="xception_compact_slim", head="regression", input_size_px=32, head_channels=1
        ),
    )
    state = TrainingState(step=1, manifest_hash="abc", validation={"nme": 0.5})
    weights = build_network(config.model).state_dict()
    training = {"moment": torch.zeros(3)}
    save_checkpoint(run, config, state, model=weights, training=training, is_best=True, keep=1)
    return find_checkpoint(run)


def _checkpoint_seeds() -> list[bytes]:
    import safetensors.numpy

    tensors = safetensors.numpy.save(
        {"a.weight": np.eye(3), "a.bias": np.ones(3, np.float16)}, {"format": "pt"}
    )
    contents = [
        tensors if name.endswith(".safetensors") else (_checkpoint() / name).read_bytes()
        for name in CHECKPOINT_FILES
    ]
    return [bytes([number]) + content for number, content in enumerate(contents)]


def _read_checkpoint(content: bytes) -> None:
    from flm.checkpoint import MODEL_NAME, SUMS_NAME, check_whole, load_network, load_training, read_network

    name = CHECKPOINT_FILES[content[0] % len(CHECKPOINT_FILES)] if content else CHECKPOINT_FILES[0]
    damaged = _folder() / "damaged"
    shutil.rmtree(damaged, ignore_errors=True)
    damaged.mkdir()
    for file in _checkpoint().iterdir():
        if file.name == name:
            (damaged / name).write_bytes(content[1:])
        elif file.name != SUMS_NAME:  # else nothing that is damaged would be read further
            (damaged / file.name).symlink_to(file)
    match name:
        case "SHA256SUMS":
            check_whole(damaged, {MODEL_NAME})
        case "config.json":
            load_network(damaged)
        case "model.safetensors":
            read_network(damaged)
        case _:
            load_training(damaged)


def _onnx_seeds() -> list[bytes]:
    from test_onnx_network import ABOUT, model_bytes

    return [model_bytes(ABOUT.to_texts()), model_bytes(ABOUT.to_texts(), has_covariance=False)]


def _read_onnx(content: bytes) -> None:
    from test_onnx_network import SIDE

    from flm.inference.load import load

    predictor = load(_written("model.onnx", content), threads=1)
    predictor.network.find(np.zeros((1, SIDE, SIDE, 3), np.uint8))


def _picture_seeds() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        _picture_bytes(exif=exif),
        _picture_bytes(mode="CMYK"),
        _picture_bytes(progressive=True),
        *(_picture_bytes("png", mode) for mode in ("RGB", "P", "LA", "1", "I;16")),
        *(_picture_bytes(kind) for kind in ("gif", "bmp", "tiff", "webp", "ppm", "jpeg2000", "avif")),
        _picture_bytes("tiff", compression="tiff_lzw"),
    ]


def _read_picture(content: bytes) -> None:
    from flm.pictures import decode_picture

    decode_picture(content, "a picture", upright=True)


def _each(*reads: Callable[[], object]) -> None:
    """Do all, then raise the last of what was refused as it should be."""
    refusal = None
    for read in reads:
        try:
            read()
        except InputError as mistake:
            refusal = mistake
    if refusal is not None:
        raise refusal


TARGETS = {
    "xml": Target(
        seeds=_xml_seeds,
        read=_read_xml,
        words=(b"<image file='", b"<box top='0'", b"<part name='00' x='1' y='1'/>", b"</image>", b"</box>",
               b"</part>", b" ignore='1'", b"<!DOCTYPE x [<!ENTITY a 'b'>]>", b"&a;", b"&lt;", b"_mirror",
               b"<!--", b"-->", b"<![CDATA[", b"]]>", b"encoding='UTF-16'", b"encoding='x'", b"/.."),
    ),
    "pts": Target(seeds=_pts_seeds, read=_read_pts, words=(b"version: 1", b"n_points: 68", b"{", b"}")),
    "csv": Target(seeds=_csv_seeds, read=_read_csv, words=(b",", b"a.jpg", b'"', b'""', b"\r\n")),
    "table": Target(seeds=_table_seeds, read=_read_table, words=(b",", b"x0", b"y67", b"x68", b'"')),
    "boxes": Target(seeds=_boxes_seeds, read=_read_boxes, words=(b",", b"file", b"left", b"[", b"]", b'"')),
    "wflw": Target(seeds=_wflw_seeds, read=_read_wflw, words=(b" ", b"a.jpg", b"1e308", b"-1e308")),
    "coco": Target(seeds=_coco_seeds, read=_read_coco, words=(b"{", b"}", b"[", b"]", b"null", b"true")),
    "manifest": Target(seeds=_manifest_seeds, read=_read_manifest, words=(b"{", b"}", b"[", b"]", b"null")),
    "shard": Target(
        seeds=_shard_seeds,
        read=_read_shard,
        words=(b"ustar\x0000", b"ustar  \0", b"0.jpg", b"0.json", b"../", b"\xff\xd8", b"\xff\xc0", b"IHDR"),
    ),
    "checkpoint": Target(
        seeds=_checkpoint_seeds,
        read=_read_checkpoint,
        words=(b'"dtype":"F32"', b'"shape":[', b'"data_offsets":[', b'"__metadata__"', b"null", b"{", b"}"),
    ),
    "onnx": Target(seeds=_onnx_seeds, read=_read_onnx, words=(b"flm.", b"pixels", b"landmarks_unit")),
    "picture": Target(
        seeds=_picture_seeds,
        read=_read_picture,
        words=(b"\xff\xd8\xff", b"\xff\xc0", b"\xff\xe1", b"Exif\0\0", b"\x89PNG\r\n\x1a\n", b"IHDR", b"IDAT",
               b"PLTE", b"tRNS", b"eXIf", b"GIF89a", b"RIFF", b"WEBPVP8L", b"II*\0", b"MM\0*", b"BM",
               b"P6 ", b"ftypavif", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
    ),
}  # fmt: skip
