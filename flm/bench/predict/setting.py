"""What the subjects of `flm bench predict` share: the model, the detector, the pictures, the threads."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float64, UInt8

from flm.data.split_samples import samples_at
from flm.data.store import open_store
from flm.geometry import FaceBox, transform_points
from flm.inference.detector import FaceDetector
from flm.inference.predictor import Predictor

WIDTH, HEIGHT = 1280, 720
SHARES = (0.35, 1.0)
"""Of the frame's height that a stored crop takes up: the smallest and the largest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictLength:
    """How much is measured."""

    turns: int = 5
    faces: int = 48
    """In a turn, of the landmarks alone."""
    pictures: int = 40
    """In a turn, with detection."""
    video_frames: int = 300
    starts: int = 5
    frames_per_s: float = 30.0
    """Of the generated videos."""

    @classmethod
    def quick(cls) -> "PredictLength":
        """To see that all runs; the numbers say little."""
        return cls(turns=1, faces=16, pictures=4, video_frames=45, starts=1, frames_per_s=15.0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KnownFace:
    """A frame with one face whose landmarks are known."""

    picture: UInt8[np.ndarray, "height width 3"]
    """RGB."""
    landmarks_image: Float64[np.ndarray, "points 2"]

    @property
    def box(self) -> FaceBox:
        """The landmarks' own."""
        return FaceBox.around(self.landmarks_image)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Setting:
    """What is measured, and on what."""

    predictor: Predictor
    """Of the .onnx file, with the detector."""
    onnx: Path
    checkpoint: Path | None
    """With the same weights; None where only the .onnx file is given."""
    data: str
    """Folder or URL of shards."""
    split: str
    out: Path
    """Folder of the pictures that are drawn."""
    length: PredictLength
    threads: int
    dlib_model: Path | None
    """dlib's file of its 68-point predictor."""
    detector_flags: tuple[str, ...] = ()
    """The detector's, for a command line."""

    @property
    def detector(self) -> FaceDetector:
        """Ours."""
        return self.predictor.detector


@contextlib.contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """PyTorch and OpenCV on so many threads; onnxruntime is told by `flm.load`."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def known_faces(data: str, split: str, count: int) -> list[KnownFace]:
    """Faces from all over a split, each in a frame of its own, at any place and of many sizes.

    Where a stored crop ends, its edge pixels go on. Fewer where the split has fewer.

    Args:
        data: folder or URL of shards.
        split: which one.
        count: how many.

    Raises:
        InputError: there are no shards, no such split, or no face in it, or one is damaged.
    """
    store = open_store(data)
    num_samples = store.manifest.num_samples(split)
    chosen = np.linspace(0, num_samples - 1, min(count, num_samples)).round().astype(np.int64)
    random = np.random.default_rng(0)
    return [
        in_a_frame(sample.crop_shard, sample.record.landmarks_shard, random)
        for sample in samples_at(store, split, chosen)
    ]


def in_a_frame(
    crop: UInt8[np.ndarray, "height width 3"],
    landmarks: Float64[np.ndarray, "points 2"],
    random: np.random.Generator,
) -> KnownFace:
    """A crop, scaled and put somewhere into a frame; its edge pixels go on to the frame's edges."""
    side = max(crop.shape[:2])
    scale = random.uniform(*SHARES) * HEIGHT / side
    free = np.array([WIDTH, HEIGHT]) - scale * np.array(crop.shape[1::-1])
    matrix = np.diag([scale, scale, 1.0])
    matrix[:2, 2] = random.uniform(0, 1, 2) * free + (scale - 1) / 2
    if scale < 1:
        # A bilinear sample would alias; the crop's frame stays what it is.
        crop = np.asarray(cv2.GaussianBlur(crop, (0, 0), 0.5 * (scale**-2 - 1) ** 0.5 + 1e-3), np.uint8)
    frame = cv2.warpAffine(
        crop, matrix[:2], (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return KnownFace(picture=np.asarray(frame, np.uint8), landmarks_image=transform_points(landmarks, matrix))
