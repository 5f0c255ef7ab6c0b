"""Every subject in miniature: structure, units, ratios and verdicts; what it costs says nothing here."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from colored_faces import DiscNetwork, disc_predictor, write_disc_shards
from test_bench import FakeClock
from test_onnx_network import ABOUT, model_bytes

from flm.bench.figures import OURS, Figure
from flm.bench.measure import process_s
from flm.bench.predict import landmarks as predict_landmarks
from flm.bench.predict import peers as predict_peers
from flm.bench.predict import pictures as predict_pictures
from flm.bench.predict import predict as predict_bench
from flm.bench.predict import start as predict_start
from flm.bench.predict import video as predict_video
from flm.bench.predict.landmarks import in_batches, measure_landmarks, one_by_one
from flm.bench.predict.pictures import errors_of, measure_pictures, nearest
from flm.bench.predict.setting import HEIGHT, WIDTH, PredictLength, Setting, in_a_frame, known_faces
from flm.bench.predict.start import measure_start
from flm.bench.predict.turned import measure_turned, quarter_turned, share_found_right
from flm.bench.predict.video import measure_video
from flm.cli import main
from flm.errors import InputError
from flm.inference.network import FoundLandmarks
from flm.inference.predictor import Predictor
from flm.landmarks import IBUG_68

TINY = PredictLength(turns=1, faces=2, pictures=2, video_frames=8, starts=1, frames_per_s=5.0)


def steady(step_s: float) -> FakeClock:
    return FakeClock(iter(lambda: step_s, None))


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_disc_shards(tmp_path_factory.mktemp("discs"))


@pytest.fixture(scope="module")
def onnx(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "means.onnx"
    path.write_bytes(model_bytes(ABOUT.to_texts()))
    return path


@pytest.fixture
def setting(shards, onnx, tmp_path) -> Setting:
    return Setting(
        predictor=disc_predictor(), onnx=onnx, checkpoint=None, data=str(shards), split="validation",
        out=tmp_path / "out", length=TINY, threads=1, dlib_model=None,
        detector_flags=("--detector.kind", "whole"),
    )  # fmt: skip


def by_side(figures: list[Figure], subject: str) -> dict[str, Figure]:
    return {figure.side: figure for figure in figures if figure.subject == subject}


def test_a_face_in_a_frame_has_its_landmarks_on_its_pixels():
    dot = np.zeros((100, 100, 3), np.uint8)
    dot[60:63, 30:33] = 255
    points = np.tile([31.0, 61.0], (68, 1))
    for seed in range(8):
        face = in_a_frame(dot, points, np.random.default_rng(seed))
        assert face.picture.shape == (HEIGHT, WIDTH, 3)
        weights = face.picture[..., 0].astype(float)
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        center = [(weights * columns).sum() / weights.sum(), (weights * rows).sum() / weights.sum()]
        np.testing.assert_allclose(face.landmarks_image[0], center, atol=0.02)


def test_a_turned_face_keeps_its_landmarks_on_its_pixels():
    dot = np.zeros((100, 100, 3), np.uint8)
    dot[60:63, 30:33] = 255
    face = in_a_frame(dot, np.tile([31.0, 61.0], (68, 1)), np.random.default_rng(0))
    for quarters in range(1, 5):
        turned = quarter_turned(face, quarters)
        assert turned.picture.shape == ((WIDTH, HEIGHT, 3) if quarters % 2 else (HEIGHT, WIDTH, 3))
        x, y = np.round(turned.landmarks_image[0]).astype(int)
        assert turned.picture[y, x].min() > 200
    np.testing.assert_array_equal(turned.picture, face.picture)
    np.testing.assert_allclose(turned.landmarks_image, face.landmarks_image, atol=1e-9)


def test_what_is_found_right_of_turned_faces_is_counted(setting):
    """Discs look alike from all sides, but their landmarks are then those of an upright face."""
    ours, once = measure_turned(setting)
    assert (ours.side, ours.unit, ours.value, once.value, once.beside) == (OURS, "%", 0, 0, None)
    upright = known_faces(setting.data, "validation", 4)
    on_the_head = [quarter_turned(face, 2) for face in upright[:1]]
    assert share_found_right(disc_predictor(), upright) == 100
    assert share_found_right(disc_predictor(), [*upright, *on_the_head]) == 80


def test_faces_come_from_all_over_the_split(shards):
    faces = known_faces(str(shards), "validation", 3)
    assert len(faces) == 3
    assert len(known_faces(str(shards), "validation", 99)) == 6
    found = disc_predictor().predict(faces[0].picture)
    assert errors_of([[found[0].landmarks_image]], faces[:1], IBUG_68)[0] < 3
    with pytest.raises(InputError, match="no split 'test'"):
        known_faces(str(shards), "test", 3)


def test_landmarks_of_one_face_are_timed_a_call_each_and_sixteen_at_once(setting):
    seen: list[int] = []

    class Counting(DiscNetwork):
        def find(self, crops: np.ndarray) -> FoundLandmarks:
            seen.append(len(crops))
            return super().find(crops)

    faces = known_faces(setting.data, "validation", 6) * 6
    predictor = Predictor(Counting())
    assert one_by_one(predictor, faces, steady(0.25))() == pytest.approx(250)
    assert seen == [1] * 36
    seen.clear()
    assert in_batches(predictor, faces, steady(0.25))() == pytest.approx(250 / 16)
    assert seen == [16, 16], "what is left over is no whole batch"


def test_the_subject_of_landmarks(setting, monkeypatch):
    monkeypatch.setattr(predict_landmarks, "reference_network", DiscNetwork)
    figures = measure_landmarks(setting, steady(0.003))
    one = by_side(figures, predict_landmarks.ONE)
    assert one.keys() == {OURS, predict_landmarks.REFERENCE, predict_landmarks.TORCH, predict_landmarks.DLIB}
    assert (one[OURS].value, one[OURS].unit, one[OURS].holds) == (pytest.approx(3), "ms", True)
    assert one[predict_landmarks.REFERENCE].beside == pytest.approx(1)
    (many,) = by_side(figures, predict_landmarks.MANY).values()
    assert (many.value, many.unit, many.holds) == (pytest.approx(1.5), "ms a face", True)
    for side, why in (
        (predict_landmarks.TORCH, "checkpoint"),
        (predict_landmarks.DLIB, "no model file given"),
    ):
        assert one[side].value is None
        assert why in one[side].how
    slow = measure_landmarks(setting, steady(0.006))
    assert [figure.holds for figure in slow if figure.bar] == [False, False]


def test_what_is_no_model_of_dlib_is_told(setting, monkeypatch, tmp_path):
    pytest.importorskip("dlib", reason="dlib is not installed")
    for module in (predict_landmarks, predict_pictures):
        monkeypatch.setattr(module, "reference_network", DiscNetwork)
    (tmp_path / "model.dat").write_bytes(b"nothing")
    wrong = dataclasses.replace(setting, dlib_model=tmp_path / "model.dat")
    for figures in (measure_landmarks(wrong, steady(0.001)), predict_pictures._peers(wrong)[1]):
        (figure,) = (figure for figure in figures if figure.side.startswith("dlib"))
        assert "dlib cannot read it" in figure.how
        assert "\n" not in figure.how


class FakeDlib(predict_peers.Dlib):
    """Finds each disc too low, in time of its own."""

    has_predictor = True

    def __init__(self, model: Path | None) -> None:
        self.predictor = disc_predictor()

    def faces(self, picture: np.ndarray) -> list[np.ndarray]:
        return [face.landmarks_image + np.array([0, 9]) for face in self.predictor.predict(picture)]


def test_the_subject_of_pictures(setting, monkeypatch):
    monkeypatch.setattr(predict_pictures, "Dlib", FakeDlib)
    monkeypatch.setattr(predict_pictures, "reference_network", DiscNetwork)
    # Each side once, and once more counted: 2 pictures each, in 1, 4, 2 and 1 s.
    figures = measure_pictures(setting, FakeClock(iter([0.0, 1.0, 0.0, 4.0, 0.0, 2.0, 0.0, 1.0] * 2)))
    speeds = by_side(figures, predict_pictures.SUBJECT)
    assert [speeds[side].value for side in speeds] == pytest.approx([2, 0.5, 1, 2])
    dlib, reference = speeds[predict_pictures.DLIB], speeds[predict_pictures.REFERENCE]
    assert (dlib.beside, dlib.holds) == (pytest.approx(4), True)
    assert (reference.beside, reference.holds) == (pytest.approx(1), False)
    assert "no cascade detector any more" in reference.how
    errors = by_side(figures, predict_pictures.ERROR)
    assert errors[OURS].value < errors[predict_pictures.DLIB].value
    assert errors[predict_pictures.DLIB].holds is True
    assert errors[predict_pictures.DLIB].beside == pytest.approx(
        errors[predict_pictures.DLIB].value / errors[OURS].value
    )
    assert predict_pictures.REFERENCE not in errors, "random weights have no error worth telling"
    found = by_side(figures, predict_pictures.FOUND)
    assert {(figure.value, figure.unit) for figure in found.values()} == {(2.0, "of 2")}


def test_dlib_by_itself_is_a_detector_and_said_to_be(setting, monkeypatch):
    pytest.importorskip("dlib", reason="dlib is not installed")
    monkeypatch.setattr(predict_pictures, "reference_network", DiscNetwork)
    peers, absent = predict_pictures._peers(setting)
    assert absent == []
    dlib = next(peer for peer in peers if peer.side == predict_pictures.DLIB)
    assert not dlib.has_landmarks
    assert "its detector alone, which flatters it" in dlib.how
    assert dlib.find(np.full((90, 120, 3), 128, np.uint8)) == []
    box = known_faces(setting.data, "validation", 1)[0].box
    rectangle = predict_peers.Dlib(None).rectangle(box)
    assert (rectangle.left(), rectangle.top()) == (round(box.left), round(box.top))
    assert (rectangle.width(), rectangle.height()) == pytest.approx((box.width, box.height), abs=1.01)


def test_the_face_that_is_meant_is_the_nearest_one():
    truth = np.random.default_rng(0).uniform(0, 100, (68, 2))
    near, far = truth + 10, truth + 60
    assert nearest([far, near], truth) is near
    assert nearest([far], truth) is None
    assert nearest([], truth) is None
    assert nearest([np.full((68, 2), np.nan)], truth) is None


def test_the_reference_network_is_a_network(setting):
    network = predict_peers.reference_network()
    face = known_faces(setting.data, "validation", 1)[0]
    (found,) = Predictor(network).predict(face.picture, [face.box])
    assert (network.input_size_px, found.covariance_image) == (128, None)
    assert np.isfinite(found.landmarks_image).all()


def test_the_cascade_where_opencv_has_one(monkeypatch):
    class Classifier:
        def __init__(self, path: str) -> None:
            assert path.endswith("frontalface_default.xml")

        def empty(self) -> bool:
            return False

        def detectMultiScale(self, grey: np.ndarray) -> list[tuple[int, ...]]:  # noqa: N802
            assert grey.ndim == 2
            return [(1, 2, 30, 30), (5, 6, 40, 40)]

    monkeypatch.setattr(predict_peers.cv2, "CascadeClassifier", Classifier, raising=False)
    faces = predict_peers.Cascade().detect(np.zeros((90, 90, 3), np.uint8))
    assert [face.box_image.left for face in faces] == [5, 1]


def test_the_subject_of_videos(setting):
    figures = measure_video(setting, steady(0.1))
    assert [(figure.side, figure.unit) for figure in figures] == [
        (OURS, "frames/s"),
        (predict_video.FRAME_BY_FRAME, "frames/s"),
    ]
    # Eight frames between two looks at the clock.
    assert figures[0].value == pytest.approx(80)
    assert figures[0].holds
    assert figures[1].beside == pytest.approx(1)
    assert not dataclasses.replace(figures[0], value=39.0).holds


def test_the_subject_of_the_start(setting, monkeypatch):
    monkeypatch.setattr(predict_start, "IMPORTS", {"python alone": "pass"})
    figures = measure_start(setting, steady(1.5))
    assert [(figure.side, figure.value, figure.unit) for figure in figures] == [
        (OURS, 1.5, "s"),
        ("python alone", 1.5, "s"),
    ]
    assert figures[0].holds is True
    with pytest.raises(InputError, match="exit code 3: gone"):
        process_s([sys.executable, "-c", "print('gone'); exit(3)"], steady(1.0))


def test_a_subject_that_fails_says_why_and_stops_no_other(setting):
    def fails(_: Setting) -> list[Figure]:
        raise InputError("there is no such face")

    def works(_: Setting) -> list[Figure]:
        return [Figure(subject="b", side=OURS, unit="ms", value=1.0)]

    first, second = predict_bench.measure(setting, {"a": fails, "b": works})
    assert (first.subject, first.value, first.how) == ("a", None, "there is no such face")
    assert second.value == 1.0


def test_the_command_measures_all_subjects(setting, shards, onnx, tmp_path, monkeypatch, capsys):
    kept: dict[str, str] = {}

    def pretend(name: str):
        def measure(setting: Setting) -> list[Figure]:
            kept[name] = setting.detector.name
            return [Figure(subject=name, side=OURS, unit="ms", value=1.0)]

        return measure

    subjects = {name: pretend(name) for name in predict_bench.SUBJECTS}
    monkeypatch.setattr(predict_bench, "SUBJECTS", subjects)
    out = tmp_path / "new" / "out"
    words = [
        "bench",
        "predict",
        "--quick",
        "--checkpoint",
        str(onnx),
        "--data",
        str(shards),
        "--out",
        str(out),
    ]
    main([*words, "--detector.kind", "whole", "--threads", "1"])
    written = json.loads((out / "predict.json").read_text())
    assert [figure["subject"] for figure in written["figures"]] == list(subjects)
    assert set(kept.values()) == {"whole"}
    conditions = written["conditions"]
    assert (conditions["threads"], conditions["turns"], conditions["detector"]) == (1, 1, "whole")
    assert "onnxruntime" in conditions["versions"]
    with pytest.raises(SystemExit):
        main([*words, "--threads", "0"])
    assert capsys.readouterr().err == "error: --threads is 0, expected at least 1\n"
    (tmp_path / "file").write_text("whole")
    words[words.index("--out") + 1] = str(tmp_path / "file" / "out")
    with pytest.raises(SystemExit):
        main([*words, "--detector.kind", "whole"])
    assert "cannot be made (Not a directory); choose another place" in capsys.readouterr().err
