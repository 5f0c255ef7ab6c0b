"""The cameras of this machine."""

import time
from collections.abc import Iterator

import cv2
import numpy as np

from flm.errors import InputError, warn
from flm.inference.video.reader import USUAL_FRAMES_PER_S, VideoFrame, VideoReader

CAMERA_PREFIX = "camera:"


class Camera(VideoReader):
    """A camera of this machine, through OpenCV.

    Args:
        source: `camera:` and its number or its device file.

    Raises:
        InputError: there is no such camera.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        name = source[len(CAMERA_PREFIX) :]
        level = cv2.utils.logging.getLogLevel()
        # What it says of a camera that is not there takes several lines.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        missing = InputError(
            f"{source}: no such camera, or another program has it; expected camera:0 or camera:/dev/video0"
        )
        try:
            self._capture = cv2.VideoCapture(int(name) if name.isdecimal() else name)
            works, first = self._capture.read()
        except cv2.error as error:  # of a number that is none of a camera
            raise missing from error
        finally:
            cv2.utils.logging.setLogLevel(level)
        if not works:
            self._capture.release()
            raise missing
        self._first: np.ndarray | None = first
        self.height, self.width = first.shape[:2]
        self.frames_per_s = float(self._capture.get(cv2.CAP_PROP_FPS)) or USUAL_FRAMES_PER_S
        self.num_frames = None

    def _frames(self) -> Iterator[VideoFrame]:
        started_s, last_s, number = time.monotonic(), -1.0, 0
        while True:
            works, picture = (True, self._first) if self._first is not None else self._capture.read()
            self._first = None
            if not works or picture is None:
                warn(f"{self.source}: gives no more frames, and ends here; is it still plugged in?")
                return
            time_s = max(time.monotonic() - started_s, last_s + 1e-6)
            pixels = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
            yield VideoFrame(number=number, time_s=time_s, pixels=pixels)
            last_s, number = time_s, number + 1

    def close(self) -> None:
        """Give the camera free."""
        self._capture.release()
