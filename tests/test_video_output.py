"""A video as it is written is a video as it is read, with its sound, and never half there."""

import av
import numpy as np
import pytest
from small_videos import TONE_HZ, sound_of, square_at, square_in, write_video

from flm.errors import InputError
from flm.inference.video.input import open_video
from flm.inference.video.output import open_writer


def frames_of(count: int, width: int = 128, height: int = 96) -> list[np.ndarray]:
    return [square_at(number, width, height) for number in range(count)]


def write(path, frames, *, times_s=None, sound_of=None) -> None:
    height, width = frames[0].shape[:2]
    times_s = [number / 25 for number in range(len(frames))] if times_s is None else times_s
    with open_writer(path, width=width, height=height, frames_per_s=25.0, sound_of=sound_of) as writer:
        for pixels, time_s in zip(frames, times_s, strict=True):
            writer.add(pixels, float(time_s))
    assert writer.num_frames == len(frames)


def test_frames_and_times_come_back(tmp_path):
    times = np.cumsum([0, 0.02, 0.5, 0.04, 0.04, 0.3, 0.02])
    write(tmp_path / "new" / "a.mp4", frames_of(7), times_s=times)
    with open_video(tmp_path / "new" / "a.mp4") as reader:
        found = list(reader)
    np.testing.assert_allclose([frame.time_s for frame in found], times, atol=1e-4)
    for frame, sent in zip(found, frames_of(7), strict=True):
        assert abs(square_in(frame.pixels) - square_in(sent)) <= 1
        assert np.abs(frame.pixels.astype(int) - sent).mean() < 4
    with av.open(str(tmp_path / "new" / "a.mp4")) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        # The last frame is shown as long as others are.
        assert float(stream.duration * stream.time_base) == pytest.approx(times[-1] + 0.04, abs=0.01)


def test_odd_sides_get_one_pixel_more(tmp_path):
    write(tmp_path / "a.mp4", frames_of(3, 127, 95))
    with open_video(tmp_path / "a.mp4") as reader:
        assert (reader.width, reader.height) == (128, 96)
        pixels = next(iter(reader)).pixels
    assert np.abs(pixels[:95, :127].astype(int) - frames_of(1, 127, 95)[0]).mean() < 4


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "aac"), ("a.mov", "pcm_s16le"), ("a.mkv", "flac")])
def test_sound_is_kept(tmp_path, name, codec):
    source = write_video(tmp_path / name, frames_of(30), sound=codec)
    write(tmp_path / "out.mp4", frames_of(30), sound_of=str(source))
    with av.open(str(tmp_path / "out.mp4")) as container:
        (sound,) = container.streams.audio
        assert sound.codec_context.name == "aac"
        assert float(sound.duration * sound.time_base) == pytest.approx(30 / 25, abs=0.06)
    start, hertz, samples = sound_of(tmp_path / "out.mp4")
    assert abs(start) < 0.06
    assert hertz == pytest.approx(TONE_HZ, abs=3)
    assert 0.15 < np.sqrt((samples**2).mean()) < 0.25


def test_sound_that_mp4_takes_is_copied(tmp_path):
    source = write_video(tmp_path / "a.mp4", frames_of(30), sound="aac")
    write(tmp_path / "out.mp4", frames_of(30), sound_of=str(source))

    def packets(path) -> list[bytes]:
        with av.open(str(path)) as container:
            return [bytes(packet) for packet in container.demux(audio=0) if packet.size]

    sent, found = packets(source), packets(tmp_path / "out.mp4")
    assert found == sent[: len(found)]
    assert len(found) >= len(sent) - 2


def test_the_sound_ends_with_the_pictures(tmp_path):
    source = write_video(tmp_path / "a.mp4", frames_of(50), sound="aac")
    write(tmp_path / "out.mp4", frames_of(10), sound_of=str(source))
    with av.open(str(tmp_path / "out.mp4")) as container:
        sound = container.streams.audio[0]
        assert float(sound.duration * sound.time_base) == pytest.approx(10 / 25, abs=0.06)


def test_a_silent_source_gives_a_silent_video(tmp_path):
    source = write_video(tmp_path / "a.mp4", frames_of(5))
    write(tmp_path / "out.mp4", frames_of(5), sound_of=str(source))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert not container.streams.audio


def stopped_halfway(path) -> None:
    with open_writer(path, width=128, height=96, frames_per_s=25.0) as writer:
        for number, pixels in enumerate(frames_of(10)):
            writer.add(pixels, number / 25)
        raise KeyboardInterrupt


def test_a_video_that_is_not_finished_is_not_there(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        stopped_halfway(tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "a.mp4", frames_of(5))
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        stopped_halfway(tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"a\.mp4: cannot be written"):
        write(tmp_path / "file" / "a.mp4", frames_of(2))
