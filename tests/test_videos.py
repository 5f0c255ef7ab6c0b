"""`flm predict` with videos among its inputs: done once, told whole, one bad one ends nothing."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from fake_faces import Grower, fake_predictor
from pages import block
from PIL import Image
from small_videos import square_at, write_video

import flm
from flm.cli import main
from flm.errors import InputError
from flm.inference import load as load_module
from flm.inference.inputs import pictures_of, videos_of
from flm.inference.predict_videos import VideoFormats, VideosSummary, predict_videos
from flm.inference.tracking.config import TrackConfig
from flm.inference.tracking.tracker import FaceTracker

FRAMES = [square_at(number) for number in range(6)]


def run(inputs: list, out: Path, **options) -> VideosSummary:
    options = {
        "tracker": FaceTracker(fake_predictor()),
        "settings": {"checkpoint": "x"},
        "formats": VideoFormats(jsonl=True, csv=True),
        **options,
    }
    summary = predict_videos([str(text) for text in inputs], out=out, **options)
    assert summary is not None
    return summary


def files_in(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.parts)
    }


@pytest.fixture
def clips(tmp_path) -> Path:
    folder = tmp_path / "clips"
    (folder / "sub").mkdir(parents=True)
    write_video(folder / "a.mp4", FRAMES)
    write_video(folder / "sub" / "b.mkv", FRAMES[:3])
    (folder / "bad.mp4").write_bytes(b"no video")
    Image.fromarray(FRAMES[0]).save(folder / "a.png")
    return folder


def test_a_folder_of_videos_is_done_and_the_bad_one_told(clips, tmp_path):
    out = tmp_path / "out"
    summary = run([clips], out)
    assert (summary.num_videos, summary.num_frames, summary.num_faces) == (3, 9, 9)
    (mistake,) = summary.mistakes
    assert mistake.startswith(f"{clips / 'bad.mp4'}: cannot be opened as a video")
    assert files_in(out) == {"a.jsonl", "a.csv", "sub/b.jsonl", "sub/b.csv", "videos.json"}
    report = json.loads((out / "videos.json").read_text())
    assert [video["name"] for video in report["videos"]] == ["a", "sub/b"]
    assert report["videos"][0]["num_frames"] == 6
    assert report["mistakes"] == [{"name": "bad", "source": str(clips / "bad.mp4"), "mistake": mistake}]
    for name, num_frames in (("a", 6), ("sub/b", 3)):
        lines = [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]
        # As if there were no other video.
        assert [(line["frame"], line["id"]) for line in lines] == [(frame, 0) for frame in range(num_frames)]


def test_a_damaged_stretch_ends_neither_its_video_nor_the_others(tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "b.mp4", FRAMES)
    path = write_video(tmp_path / "clips" / "a.mp4", [square_at(number) for number in range(60)])
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    middle = start + (content.index(b"moov") - start) // 2
    content[middle : middle + 400] = bytes(range(250, 50, -1)) * 2
    path.write_bytes(content)
    summary = run([tmp_path / "clips"], tmp_path / "out")
    assert (summary.num_videos, summary.mistakes) == (2, ())
    damaged, whole = json.loads((tmp_path / "out" / "videos.json").read_text())["videos"]
    assert summary.num_bad_frames == damaged["num_bad_frames"] > 0 == whole["num_bad_frames"]
    assert 30 < damaged["num_frames"] < 60
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {path}: {summary.num_bad_frames} frames could not be read")


def test_what_is_finished_is_not_done_again(clips, tmp_path):
    out, grower = tmp_path / "out", Grower()
    tracker = FaceTracker(fake_predictor())
    tracker.predictor.network = grower
    run([clips], out, tracker=tracker)
    assert grower.num_faces == 9
    write_video(clips / "bad.mp4", FRAMES[:2])
    summary = run([clips], out, tracker=tracker)
    assert (grower.num_faces, summary.mistakes, summary.num_frames) == (11, (), 11)
    with pytest.raises(InputError, match=r"out: holds results of another run \(checkpoint was x, is y\)"):
        run([clips], out, settings={"checkpoint": "y"})
    assert run([clips], out, settings={"checkpoint": "y"}, overwrite=True, tracker=tracker).num_frames == 11
    assert grower.num_faces == 22


def test_a_video_that_was_stopped_is_done_anew(clips, tmp_path):
    out, tracker = tmp_path / "out", FaceTracker(fake_predictor())
    tracker.predictor.network = grower = Grower()
    grower.dies_after = 4
    with pytest.raises(KeyboardInterrupt):
        run([clips / "a.mp4"], out, tracker=tracker)
    assert files_in(out) == set()
    grower.dies_after = 100
    assert run([clips / "a.mp4"], out, tracker=tracker).num_frames == 6


def test_files_of_others_are_not_replaced(clips, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name, inputs in (("a.csv", [clips / "a.mp4"]), ("videos.json", [clips])):
        (out / name).write_text("mine")
        os.utime(out / name, (1e9, 1e9))
        for _ in range(2):  # nor when the same command goes on
            with pytest.raises(InputError, match=f"{name}: is there already, and would be replaced"):
                run(inputs, out)
        assert (out / name).read_text() == "mine"


def test_a_video_is_never_replaced_by_what_is_drawn_on_it(clips):
    before = (clips / "a.mp4").read_bytes()
    for options in ({}, {"overwrite": True}):
        with pytest.raises(InputError, match=r"a\.mp4: is the input itself"):
            run([clips / "a.mp4"], clips, formats=VideoFormats(overlay=True), **options)
    assert (clips / "a.mp4").read_bytes() == before


def test_a_name_that_is_no_text_ends_nothing(clips, tmp_path):
    (clips / "bad.mp4").rename(clips / os.fsdecode(b"caf\xe9.mp4"))
    for _ in range(2):
        summary = run([clips], tmp_path / "out")
        assert (summary.num_videos, summary.num_frames, len(summary.mistakes)) == (3, 9, 1)
    (mistake,) = json.loads((tmp_path / "out" / "videos.json").read_text())["mistakes"]
    assert mistake["source"] == f"{clips}/caf\ufffd.mp4"


def test_videos_and_pictures_are_told_apart(clips, tmp_path):
    def names(*inputs: str) -> tuple[list[str], list[str]]:
        texts = [text if ":" in text else str(tmp_path / text) for text in inputs]
        return [one.name for one in videos_of(texts)], [one.name for one in pictures_of(texts)]

    assert names("clips") == (["a", "bad", "sub/b"], ["a"])
    assert names("clips/*.mp4") == (["a", "bad"], [])
    assert names("clips/**/*") == (["a", "bad", "sub/b"], ["a"])
    assert names("clips/a.mp4", "clips/sub/b.mkv", "clips/a.png") == (["a", "b"], ["a-2"])
    assert names("camera:0", "rtsp://me:secret@cam.local/one") == (["camera_0", "cam.local_one"], [])
    assert names("https://example.org/clip.mp4?key=1") == (["clip"], [])
    (tmp_path / "clips" / "a.png").unlink()
    assert names("clips") == (["a", "bad", "sub/b"], [])
    assert names("clips/sub") == (["b"], [])
    with pytest.raises(InputError, match=r"\*\.mov: no file has such a name"):
        names("clips/*.mov")


def test_formats_are_those_that_videos_have():
    assert VideoFormats.of(("json",), overlay=False) == VideoFormats(jsonl=True)
    assert VideoFormats.of(("csv", "pts"), overlay=True) == VideoFormats(jsonl=False, csv=True, overlay=True)
    with pytest.raises(
        InputError, match="--format pts,coco: landmarks of videos are written as jsonl or csv"
    ):
        VideoFormats.of(("pts", "coco"), overlay=False)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs `flm predict` with a network that needs no weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"weights")
    monkeypatch.setattr(load_module, "load", lambda *_, **__: fake_predictor())

    def predict(*words: str) -> None:
        main(["predict", *words, "--checkpoint", "model.onnx"])

    return predict


def test_the_command_takes_pictures_and_videos_together(clips, command, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        command("clips", "--out", "out", "--format", "json,csv", "--overlay", "--no-steady")
    assert stop.value.code == 2
    told = capsys.readouterr()
    assert "1 of 1 pictures done, 1 faces; in out" in told.out
    assert "2 of 3 videos done, 9 frames, 9 faces in them; in out" in told.out
    assert told.err.splitlines() == [
        "error: clips/bad.mp4: cannot be opened as a video (Invalid data found when processing input); "
        "replace it, or check the address"
    ]
    assert files_in(tmp_path / "out") == {
        *("a.json", "a.png", "landmarks.csv", "report.json", "videos.json"),
        *("a.jsonl", "a.csv", "a.mp4", "sub/b.jsonl", "sub/b.csv", "sub/b.mp4"),
    }
    raw = [json.loads(line) for line in (tmp_path / "out" / "a.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["landmarks"]).all() for line in raw)


def test_the_command_passes_on_how_faces_are_followed(clips, command, monkeypatch, capsys):
    from flm.inference import predict_videos as videos

    given = []

    def look(*_: object, tracker: FaceTracker, **options: object) -> None:
        given.append((tracker.config, options["most_seconds"]))

    monkeypatch.setattr(videos, "predict_videos", look)
    command(
        *("clips/a.mp4", "--out", "out", "--track.detect-every-frames", "4", "--track.filter.beta", "7"),
        *("--seconds", "3"),
    )
    command("clips/a.mp4", "--out", "out", "--no-steady")
    ((steady, seconds), (raw, all_of_it)) = given
    assert (steady.detect_every_frames, steady.filter.beta, seconds) == (4, 7, 3)
    assert (raw, all_of_it) == (TrackConfig(filter=None), None)
    for words, message in (
        (("--seconds", "0"), "--seconds is 0, expected more than 0"),
        (("--track.lost-score", "2"), "--track.lost-score is 2.0, must be from 0 to 1"),
        (("--track.filter.beta", "-1"), "--track.filter.beta is -1.0, must be at least 0"),
        (("--box", "1,2,3,4"), "--box and --boxes are for pictures"),
        (("--format", "pts"), "--format pts: landmarks of videos are written as jsonl or csv"),
    ):
        with pytest.raises(SystemExit) as stop:
            command("clips/a.mp4", "--out", "out", *words)
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_the_commands_of_the_readme_are_understood(command, monkeypatch, capsys):
    monkeypatch.setattr(load_module, "identity", lambda _: "x")
    for line, end in zip(
        block("video").splitlines(), ("clip.mp4: is missing", "camera:0: no such camera"), strict=True
    ):
        with pytest.raises(SystemExit):
            main(line.removeprefix("flm ").split())
        # Past the flags, and stopped only by what is not there.
        assert capsys.readouterr().err.startswith(f"error: {end}")


def test_the_code_of_the_readme_runs(clips, monkeypatch, capsys):
    monkeypatch.chdir(clips)
    (clips / "a.mp4").rename(clips / "clip.mp4")
    monkeypatch.setattr(flm, "load", lambda _: fake_predictor())
    exec(compile(block("tracker"), "flm/README.md", "exec"), {})
    assert capsys.readouterr().out.count(" 0 [[") == 6


def test_a_camera_that_is_not_there_is_one_line(command, capsys):
    with pytest.raises(SystemExit) as stop:
        command("camera:97", "--out", "out")
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: camera:97: no such camera")
