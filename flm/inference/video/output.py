"""A video that is written frame by frame, with the sound of another: H.264 in MP4, for every player."""

import contextlib
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from flm.errors import InputError
from flm.files import whole_file
from flm.inference.video.input import import_av

TICKS_PER_S = 90_000
"""Times are whole numbers of these; what broadcasting uses."""

QUALITY_CRF = 20
"""Of x264: 0 is lossless, 18 looks so, 23 is its default."""

COPIED_SOUND = frozenset({"aac", "mp3", "ac3", "eac3", "alac"})
"""Codecs that MP4 takes and players know; other sound is encoded anew, as AAC."""


class VideoWriter:
    """Takes frames in the order of their times; `open_writer` makes one."""

    def __init__(self, container: Any, sound: "_Sound | None", width: int, height: int, rate: float) -> None:
        self._container = container
        self._sound = sound
        self._av = import_av("video output")
        self._padding = (height % 2, width % 2)
        self._stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001))
        # Chroma has half the pixels: sides are even.
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, TICKS_PER_S)
        self._stream.options = {"crf": str(QUALITY_CRF), "preset": "veryfast"}
        self._frame_ticks = max(1, round(TICKS_PER_S / rate))
        self._last_tick = -1
        self.num_frames = 0

    def add(self, pixels: UInt8[np.ndarray, "height width 3"], time_s: float) -> None:
        """Add a frame.

        Args:
            pixels: RGB, of the writer's size.
            time_s: when it is shown; rises with every frame.
        """
        below, right = self._padding
        if below or right:
            pixels = np.asarray(
                cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8
            )
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        tick = max(round(time_s * TICKS_PER_S), self._last_tick + 1)
        frame.pts, frame.time_base = tick, Fraction(1, TICKS_PER_S)
        frame.duration = self._frame_ticks
        self._last_tick = tick
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
        if self._sound is not None:
            self._sound.write_until(time_s)
        self.num_frames += 1

    def finish(self) -> None:
        """Write what is left; the sound as far as the pictures reach."""
        for packet in self._stream.encode():
            self._container.mux(packet)
        if self._sound is not None:
            self._sound.finish((self._last_tick + self._frame_ticks) / TICKS_PER_S)


@contextlib.contextmanager
def open_writer(
    path: Path, *, width: int, height: int, frames_per_s: float, sound_of: str | None = None
) -> Iterator[VideoWriter]:
    """Write a video, which is there whole or not at all.

    Args:
        path: an .mp4.
        width: of the frames, px.
        height: of the frames, px.
        frames_per_s: on average.
        sound_of: a video file whose sound goes along; None, or one without, gives a silent video.

    Raises:
        InputError: it cannot be written, or PyAV is not installed.
    """
    av = import_av(str(path))
    with whole_file(path) as file:
        try:
            options = {"movflags": "+faststart"}
            with (
                av.open(file, "w", format="mp4", container_options=options) as container,
                _sound_of(av, sound_of, container) as sound,
            ):
                writer = VideoWriter(container, sound, width, height, frames_per_s)
                yield writer
                writer.finish()
        except av.error.FFmpegError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); make room") from error


@contextlib.contextmanager
def _sound_of(av: Any, source: str | None, container: Any) -> Iterator["_Sound | None"]:
    """The sound of a file, read beside its pictures so that little of it is in memory."""
    if source is None:
        yield None
        return
    with av.open(source) as opened:
        # Streams that cannot be decoded have no codec.
        streams = [stream for stream in opened.streams.audio if stream.codec_context is not None]
        yield _Sound(av, opened, streams[0], container) if streams else None


class _Sound:
    """Copies the sound of one container into another, as far as asked."""

    def __init__(self, av: Any, opened: Any, stream: Any, container: Any) -> None:
        self._av = av
        self._stream = stream
        self._container = container
        self._is_copied = stream.codec_context.name in COPIED_SOUND
        self._start_s = _start_s(opened)
        self._packets = self._packets_of(opened)
        self._held: Any = None
        self._num_samples: int | None = None
        if self._is_copied:
            self._out = container.add_stream_from_template(stream)
        else:
            rate = stream.codec_context.sample_rate
            self._out = container.add_stream("aac", rate=rate)
            self._out.layout = stream.codec_context.layout
            self._resampler = av.AudioResampler(format="fltp", layout=stream.codec_context.layout, rate=rate)

    def _packets_of(self, opened: Any) -> Iterator[Any]:
        # A fault in the sound ends the sound, and not the video.
        with contextlib.suppress(self._av.error.FFmpegError):
            for packet in opened.demux(self._stream):
                if packet.dts is not None:
                    yield packet

    def write_until(self, time_s: float) -> None:
        """Copy what is heard before a time, from the first frame on."""
        while True:
            packet = next(self._packets, None) if self._held is None else self._held
            if packet is None:
                return
            if float(packet.dts * packet.time_base) - self._start_s >= time_s:
                self._held = packet
                return
            self._held = None
            self._write(packet)

    def finish(self, time_s: float) -> None:
        """The same, and what the encoder still holds."""
        self.write_until(time_s)
        if not self._is_copied:
            self._encode(None)
            for packet in self._out.encode(None):
                self._container.mux(packet)

    def _write(self, packet: Any) -> None:
        if self._is_copied:
            shift = round(self._start_s / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts -= shift
            packet.stream = self._out
            self._container.mux(packet)
            return
        with contextlib.suppress(self._av.error.InvalidDataError):
            for frame in packet.decode():
                self._encode(frame)

    def _encode(self, frame: Any) -> None:
        if frame is not None and self._num_samples is None:
            self._num_samples = math.floor((float(frame.time or 0) - self._start_s) * frame.sample_rate)
        for resampled in self._resampler.resample(frame):
            resampled.pts = self._num_samples
            resampled.time_base = Fraction(1, resampled.sample_rate)
            self._num_samples += resampled.samples
            for packet in self._out.encode(resampled):
                self._container.mux(packet)


def _start_s(opened: Any) -> float:
    """When the first picture is shown, on the clock of the file."""
    video = opened.streams.video[0] if opened.streams.video else None
    if video is None or video.start_time is None:
        return 0.0
    return float(video.start_time * video.time_base)
