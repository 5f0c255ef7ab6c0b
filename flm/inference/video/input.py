"""Videos, streams and cameras, frame by frame: upright, with the time at which each frame is shown.

One frame is in memory at a time, and those that FFmpeg needs to decode it.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8

from flm.errors import InputError, first_line
from flm.inference.fetch import is_url, last_url
from flm.inference.video.camera import CAMERA_PREFIX, Camera
from flm.inference.video.reader import USUAL_FRAMES_PER_S, VideoFrame, VideoReader
from flm.pictures import MOST_PICTURE_PIXELS

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv", ".ogv",
     ".3gp", ".m3u8"}
)  # fmt: skip
"""What is taken for a video by its name; any other file that FFmpeg reads can be opened too."""

STREAM_PREFIXES = ("rtsp://", "rtsps://", "rtmp://", "srt://", "udp://")

OPENS_WITHIN_S = 20.0
READS_WITHIN_S = 30.0
"""Of streams: no frame for so long is their end."""

MOST_FAULTS_IN_A_ROW = 100
"""A container that gives nothing but faults has ended."""

HD_HEIGHT_PX = 720
"""From here on, colours are those of BT.709 where a video does not say, as players have it."""


def is_video(source: str) -> bool:
    """Whether a source is a video by its name: a file or a URL of such a suffix, a stream, or a camera."""
    if is_live(source):
        return True
    path = source.partition("?")[0].partition("#")[0] if is_url(source) else source
    return PurePosixPath(path).suffix.lower() in VIDEO_SUFFIXES


def is_live(source: str) -> bool:
    """Whether a source has no end of its own: a camera or a stream."""
    return source.lower().startswith((CAMERA_PREFIX, *STREAM_PREFIXES))


def open_video(source: str | Path, *, allow_private_urls: bool = False) -> VideoReader:
    """Open a video.

    Args:
        source: a file that FFmpeg reads; `camera:0` or `camera:/dev/video0`; an RTSP, RTMP or SRT stream,
            which may be in the own network, as cameras are; or an http or https URL, of which the address is
            checked, but not what a playlist leads to.
        allow_private_urls: see `flm.inference.fetch.fetch_url`.

    Raises:
        InputError: there is no such video or camera, it holds no frame, or PyAV is not installed.
    """
    text = str(source)
    if text.lower().startswith(CAMERA_PREFIX):
        return Camera(text)
    return _FFmpegReader(text, allow_private_urls)


class _FFmpegReader(VideoReader):
    """A file or a stream, through PyAV."""

    def __init__(self, source: str, allow_private_urls: bool) -> None:
        self._av = import_av(source)
        self.source = source
        self._container = self._open(source, allow_private_urls)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        if not self._container.streams.video:
            raise InputError(f"{self.source}: holds no pictures, only sound or text; give a video")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self._reformatter = self._av.video.reformatter.VideoReformatter()
        self._decoding = self._decoded()
        first = next(self._decoding, None)
        if first is None:
            raise InputError(f"{self.source}: no frame of this video can be read; replace the file")
        self._first = first
        self._quarter_turns = round(first.rotation / 90) % 4
        ratio = float(self._stream.sample_aspect_ratio or 1)
        self._size = (max(1, round(first.width * ratio)), first.height)
        if self._size[0] * self._size[1] > MOST_PICTURE_PIXELS:
            raise InputError(f"{self.source}: frames of {self._size[0]} x {self._size[1]} px are too large")
        is_turned = self._quarter_turns % 2 == 1
        self.width, self.height = self._size[::-1] if is_turned else self._size
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.frames_per_s = float(rate) if rate else USUAL_FRAMES_PER_S
        self.num_frames = self._stream.frames or self._frames_by_duration()

    def _frames_by_duration(self) -> int | None:
        """Of files that give their length only in seconds."""
        duration = self._container.duration
        if is_live(self.source) or not duration:
            return None
        return max(1, round(duration / self._av.time_base * self.frames_per_s))

    def _open(self, source: str, allow_private_urls: bool) -> Any:
        name, options = source, {}
        if is_url(source):
            # The redirects were followed here, and each address was checked.
            name, options = last_url(source, allow_private=allow_private_urls), {"max_redirects": "0"}
        elif source.lower().startswith("rtsp"):
            # Datagrams get lost, and half a picture with them.
            options = {"rtsp_transport": "tcp"}
        elif not is_live(source) and not Path(source).is_file():
            raise InputError(f"{source}: is missing; check the name")
        try:
            timeout = (OPENS_WITHIN_S, READS_WITHIN_S) if is_url(source) or is_live(source) else None
            return self._av.open(name, options=options, timeout=timeout)
        except (self._av.error.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            raise InputError(
                f"{source}: cannot be opened as a video ({reason}); replace it, or check the address"
            ) from error

    def _packets(self) -> Iterator[Any]:
        """The packets of the pictures, past faults of the container."""
        faults, packets = 0, self._container.demux(self._stream)
        while faults < MOST_FAULTS_IN_A_ROW:
            try:
                packet = next(packets, None)
            except self._av.error.InvalidDataError:
                faults += 1
                self.num_bad_frames += 1
                # A generator that raised is over; the container goes on behind the fault.
                packets = self._container.demux(self._stream)
                continue
            except (self._av.error.FFmpegError, OSError):
                # A stream that broke off; what came is kept.
                self.num_bad_frames += 1
                return
            if packet is None:
                return
            faults = 0
            yield packet

    def _decoded(self) -> Iterator[Any]:
        for packet in self._packets():
            try:
                frames = packet.decode()
            except self._av.error.FFmpegError:
                self.num_bad_frames += 1
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.num_bad_frames += 1
                else:
                    yield frame

    def _frames(self) -> Iterator[VideoFrame]:
        start_s: float | None = None
        last_s = -1 / self.frames_per_s
        number = 0
        frame, self._first = self._first, None
        while frame is not None:
            if frame.time is None:
                time_s = last_s + 1 / self.frames_per_s
            else:
                start_s = frame.time - number / self.frames_per_s if start_s is None else start_s
                time_s = frame.time - start_s
                if time_s <= last_s:  # of a file that was cut together badly
                    time_s = last_s + 1 / self.frames_per_s
            yield VideoFrame(number=number, time_s=time_s, pixels=self._pixels(frame))
            last_s, number = time_s, number + 1
            frame = next(self._decoding, None)

    def _pixels(self, frame: Any) -> UInt8[np.ndarray, "height width 3"]:
        unsaid = self._av.video.reformatter.Colorspace
        is_hd = frame.height >= HD_HEIGHT_PX and frame.colorspace == _UNSPECIFIED
        rgb = self._reformatter.reformat(
            frame, *self._size, format="rgb24", src_colorspace=unsaid.ITU709 if is_hd else None
        )
        pixels = rgb.to_ndarray()
        return np.ascontiguousarray(np.rot90(pixels, self._quarter_turns)) if self._quarter_turns else pixels

    def close(self) -> None:
        """Close the file."""
        self._container.close()


_UNSPECIFIED = 2
"""Of colour spaces, in FFmpeg and in ISO/IEC 23091-2."""


def import_av(source: str) -> Any:
    """PyAV.

    Args:
        source: what it is needed for, for the message.

    Raises:
        InputError: it is not installed.
    """
    try:
        import av
        import av.video.reformatter
    except ImportError as error:
        raise InputError(f"{source}: videos need PyAV; pip install 'flm-landmarks[video]'") from error
    return av
