"""What the tests build for themselves; nothing binary is in git."""

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import webdataset
from hypothesis import settings

from flm.data.manifest import Manifest, ShardEntry
from flm.data.samples import SampleRecord, encode_sample
from flm.geometry import FaceBox

# Set before any library looks: no test waits for a network.
os.environ.update(
    HF_HUB_OFFLINE="1", GRADIO_ANALYTICS_ENABLED="False", WANDB_MODE="offline", WANDB_SILENT="true"
)

# The same cases each time and no limit of time for one: a busy machine changes no verdict.
settings.register_profile("project", derandomize=True, deadline=None)
settings.load_profile("project")

# The suite runs in two processes on two cores; more threads only wait for each other.
torch.set_num_threads(1)

REPOSITORY = Path(__file__).parents[1]

MEAN_FACE_UNIT = np.array(
    [[0.08 + 0.0525 * i, 0.35 + 0.55 * np.sin(np.pi * i / 16)] for i in range(17)]
    + [[0.15 + 0.07 * i, 0.25] for i in range(5)]
    + [[0.57 + 0.07 * i, 0.25] for i in range(5)]
    + [[0.5, 0.38 + 0.06 * i] for i in range(4)]
    + [[0.42 + 0.04 * i, 0.62] for i in range(5)]
    + [[0.3 + 0.07 * np.cos(a), 0.38 + 0.03 * np.sin(a)] for a in np.pi + np.arange(6) * np.pi / 3]
    + [[0.7 + 0.07 * np.cos(a), 0.38 + 0.03 * np.sin(a)] for a in np.pi + np.arange(6) * np.pi / 3]
    + [[0.5 + 0.14 * np.cos(a), 0.75 + 0.06 * np.sin(a)] for a in np.pi + np.arange(12) * np.pi / 6]
    + [[0.5 + 0.09 * np.cos(a), 0.75 + 0.02 * np.sin(a)] for a in np.pi + np.arange(8) * np.pi / 4]
)
"""A rough face of 68 points, in a square of side 1."""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real faces; skips where it is missing."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real faces (../shared/data) are not on this machine")
    return folder


@pytest.fixture(scope="session")
def imagenet_weights() -> Path:
    """ImageNet weights of legacy_xception; skips where they are missing."""
    path = REPOSITORY.parent / "shared" / "weights" / "legacy_xception.imagenet.notop.fp16.safetensors"
    if not path.is_file():
        pytest.skip("the ImageNet weights (../shared/weights) are not on this machine")
    return path


def draw_face(seed: int, size_px: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A drawn face, RGB, and its 68 landmarks in px: a light dot on each point, brighter on the left eye."""
    random = np.random.default_rng(seed)
    side = size_px * random.uniform(0.45, 0.6)
    corner = random.uniform(0.1, 0.3, 2) * size_px
    landmarks = MEAN_FACE_UNIT * side + corner + random.normal(0, 0.01 * side, (68, 2))
    picture = np.full((size_px, size_px, 3), random.integers(20, 90, 3), np.uint8)
    for number, (x, y) in enumerate(landmarks):
        color = (255, 220, 180) if 36 <= number < 48 else (200, 120, 110)
        center = (round(x * 16), round(y * 16))
        cv2.circle(picture, center, round(side / 40 * 16), color, -1, cv2.LINE_AA, shift=4)
    return picture, landmarks


def sample_bytes(seed: int, key: str, size_px: int, subset: str = "drawn") -> dict[str, str | bytes]:
    """A sample of a drawn face, as the tar takes it."""
    picture, landmarks = draw_face(seed, size_px)
    record = SampleRecord(
        scheme="ibug-68",
        landmarks_shard=landmarks,
        image_to_shard=np.eye(3),
        face_box_image=FaceBox.around(landmarks),
        subset=subset,
        source_file=f"{key}.png",
        group=key,
    )
    return encode_sample(key, picture, record)


MakeShards = Callable[..., Manifest]


@pytest.fixture(scope="session")
def make_shards() -> MakeShards:
    """A function that writes shards of drawn faces: `make_shards(folder, {"train": 20}, shard_size=8)`."""

    def write(folder: Path, faces: Mapping[str, int], *, shard_size: int = 8, size_px: int = 64) -> Manifest:
        folder.mkdir(parents=True, exist_ok=True)
        splits, first = {}, 0
        for split, count in faces.items():
            shards = []
            for start in range(0, count, shard_size):
                buffer = io.BytesIO()
                stop = min(count, start + shard_size)
                with webdataset.TarWriter(buffer, mtime=0) as tar:
                    for i in range(start, stop):
                        tar.write(sample_bytes(first + i, f"{split}_{i:04d}", size_px))
                name = f"{split}-{start // shard_size:06d}.tar"
                (folder / name).write_bytes(buffer.getvalue())
                digest = hashlib.sha256(buffer.getvalue()).hexdigest()
                size = len(buffer.getvalue())
                shards.append(ShardEntry(name=name, num_samples=stop - start, num_bytes=size, sha256=digest))
            splits[split] = tuple(shards)
            first += count
        manifest = Manifest(
            scheme="ibug-68",
            crop_size_px=size_px,
            crop_margin=0.5,
            source="drawn",
            split_rule="as asked",
            licence="MIT",
            splits=splits,
            subsets={split: {"drawn": count} for split, count in faces.items()},
        )
        manifest.write(folder)
        return manifest

    return write


@pytest.fixture(scope="session")
def data(make_shards: MakeShards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shards for trainings that take seconds; nobody writes into it."""
    folder = tmp_path_factory.mktemp("shards")
    make_shards(folder, {"train": 40, "validation": 10}, shard_size=16)
    return folder


@pytest.fixture
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps one state a process: the next test starts without that of this one."""
    # Imported here, since most tests go without it.
    from accelerate.state import AcceleratorState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium with a red camera, for tests of the page."""
    from browsers import red_browser

    with red_browser(tmp_path_factory.mktemp("camera")) as running:
        yield running


@pytest.fixture
def tab(page: Any, browser: Any) -> Iterator[Any]:
    """A tab with the `page` of the test's file."""
    from browsers import tab_of

    with tab_of(page, browser) as shown:
        yield shown
