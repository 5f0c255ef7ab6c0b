"""Videos of a few kilobytes, written for a test: squares that move, with a tone."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

TONE_HZ = 440.0
SOUND_RATE = 48_000


def square_at(number: int, width: int = 128, height: int = 96) -> np.ndarray:
    """A frame with a red square that goes to the right by 2 px a frame, on a grey ground."""
    pixels = np.full((height, width, 3), 90, np.uint8)
    left = 8 + 2 * number
    pixels[height // 3 : height // 3 + 24, left : left + 24] = (220, 30, 30)
    return pixels


def square_in(pixels: np.ndarray) -> float:
    """Where the square's left edge is, px."""
    red = pixels[..., 0].astype(int) - pixels[..., 1] > 80
    return float(np.flatnonzero(red.any(axis=0))[0])


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    times_s: Sequence[float] | None = None,
    sound: str | None = None,
    rotation: int = 0,
    frames_per_s: int = 25,
    codec: str = "libx264",
    gop: int = 5,
) -> Path:
    """Write frames, and a tone of `sound`'s codec as long as they are."""
    times_s = [number / frames_per_s for number in range(len(frames))] if times_s is None else times_s
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=frames_per_s)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        video.codec_context.gop_size = gop
        if rotation:
            video.set_display_rotation(rotation)
        tone = None
        if sound is not None:
            tone = container.add_stream(sound, rate=SOUND_RATE)
            tone.layout = "mono"
        for pixels, time_s in zip(frames, times_s, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time_s), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if tone is not None:
            _write_tone(container, tone, len(frames) / frames_per_s)
    return path


def _write_tone(container: av.container.OutputContainer, tone: av.AudioStream, duration_s: float) -> None:
    is_float = tone.codec_context.name == "aac"
    for start in range(0, round(duration_s * SOUND_RATE), 1024):
        wave = 0.3 * np.sin(2 * np.pi * TONE_HZ * (start + np.arange(1024)) / SOUND_RATE)
        samples = wave.astype(np.float32) if is_float else (32767 * wave).astype(np.int16)
        layout, kind = "mono", "fltp" if is_float else "s16"
        frame = av.AudioFrame.from_ndarray(samples[None], format=kind, layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
        container.mux(tone.encode(frame))
    container.mux(tone.encode())


def sound_of(path: Path) -> tuple[float, float, np.ndarray]:
    """When the sound of a file begins, its loudest frequency in Hz, and its samples."""
    with av.open(str(path)) as container:
        frames = [
            (frame.time, frame.to_ndarray().astype(np.float64).mean(axis=0), frame.sample_rate)
            for frame in container.decode(audio=0)
        ]
    samples = np.concatenate([wave for _, wave, _ in frames])
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return frames[0][0], float(spectrum.argmax() * frames[0][2] / len(samples)), samples
