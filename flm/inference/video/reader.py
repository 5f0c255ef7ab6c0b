"""What every source of frames gives: frames, each with the time at which it is shown."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

USUAL_FRAMES_PER_S = 30.0
"""Where a video or a camera does not say."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VideoFrame:
    """One frame."""

    number: int
    """From 0, of those that could be read."""
    time_s: float
    """When it is shown, from the first frame on; rises with every frame."""
    pixels: UInt8[np.ndarray, "height width 3"]
    """RGB, upright."""


class VideoReader(ABC):
    """Goes once through the frames of a video. A context manager, which closes it."""

    source: str
    """As the user named it."""
    width: int
    height: int
    """Px, of upright frames."""
    frames_per_s: float
    """On average; `time_s` of each frame is exact."""
    num_frames: int | None
    """As far as the file says; None for streams and cameras."""
    num_bad_frames: int = 0
    """That could not be read and were passed over so far."""

    def __iter__(self) -> Iterator[VideoFrame]:
        """The frames from here on; where a stream breaks off or a camera is unplugged, they end."""
        return self._frames()

    def __enter__(self) -> "VideoReader":
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    @abstractmethod
    def _frames(self) -> Iterator[VideoFrame]: ...

    @abstractmethod
    def close(self) -> None:
        """Give the file or the camera free."""
