"""Boxes of a detector in the place of the truth's: taken by overlap, told where missing."""

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from accelerate.state import AcceleratorState
from conftest import REPOSITORY, draw_face

from flm.checkpoint import TrainingState
from flm.cli import main
from flm.data.annotation_boxes import has_annotation_boxes
from flm.data.batches import CropShape
from flm.data.loader import LoaderConfig, ProcessPlace, evaluation_batches
from flm.data.manifest import Manifest
from flm.data.samples import Batch, SampleRecord, encode_sample
from flm.data.store import open_store
from flm.errors import InputError
from flm.evaluation import detected_boxes as module
from flm.evaluation.detected_boxes import LEAST_OVERLAP, cut_around_detected
from flm.evaluation.evaluate import evaluate
from flm.evaluation.report import EvalReport, format_table
from flm.geometry import FaceBox, resample, square_crop, transform_points
from flm.inference.detector import YUNET_FILE, DetectedFace, DetectorConfig, FaceDetector, YunetDetector
from flm.landmarks import IBUG_68
from flm.model.network import LandmarkNetwork, ModelConfig, build_network
from flm.pictures import read_picture
from flm.training.checkpoint_writer import save_checkpoint
from flm.training.config import TrainConfig
from shards.sources.ibug import read_ibug

NUM_FACES, BATCH_SIZE = 10, 4
MODEL = ModelConfig(backbone="xception_compact_slim", input_size_px=32, head_channels=16)
CROP = CropShape(size_px=MODEL.input_size_px, margin=MODEL.crop_margin)


class KnownBoxes:
    """A detector that has learnt its pictures by heart, with the boxes of each."""

    name = "known"

    def __init__(self) -> None:
        self.boxes: dict[bytes, list[FaceBox]] = {}
        self.looked = 0

    def detect(self, picture: np.ndarray) -> list[DetectedFace]:
        self.looked += 1
        return [DetectedFace(box_image=box, score=0.9) for box in self.boxes[picture.tobytes()]]


def known(batches: Sequence[Batch], missed: Sequence[int] = ()) -> KnownBoxes:
    """Knows the landmarks' own box of each face, but for those at some positions."""
    detector = KnownBoxes()
    for batch in batches:
        for row, position in enumerate(batch.positions.tolist()):
            box = FaceBox.around(batch.landmarks_shard[row].double().numpy())
            detector.boxes[picture_of(batch, row)] = [] if position in missed else [box]
    return detector


def picture_of(batch: Batch, row: int) -> bytes:
    return batch.crops_shard[row].permute(1, 2, 0).contiguous().numpy().tobytes()


@pytest.fixture(scope="module")
def shards(make_shards, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    make_shards(folder, {"train": 8, "test": NUM_FACES})
    return folder


@pytest.fixture(scope="module")
def batches(shards) -> list[Batch]:
    """The last is padded by two rows."""
    config, place = LoaderConfig(num_workers=0), ProcessPlace()
    store = open_store(str(shards))
    read = evaluation_batches(store, config, CROP, split="test", batch_size=BATCH_SIZE, place=place)
    return list(read)


@pytest.fixture(scope="module")
def network() -> LandmarkNetwork:
    torch.manual_seed(0)
    return build_network(MODEL)


def measure(network: LandmarkNetwork, batches: Sequence[Batch], **options) -> EvalReport:
    return evaluate(network, batches, crop=CROP, device=torch.device("cpu"), **options)


def test_truth_boxes_through_the_detector_give_the_truths_result(network, batches):
    detector = known(batches)
    assert isinstance(detector, FaceDetector)
    truth, detected = measure(network, batches), measure(network, batches, detector=detector)
    np.testing.assert_allclose(detected.errors.nme, truth.errors.nme, rtol=1e-4)
    told = detected.to_json()
    expected = truth.to_json()
    assert told["nme_pct"] == pytest.approx(expected["nme_pct"], abs=1e-3)
    assert told["num_faces"] == expected["num_faces"] == NUM_FACES
    assert (expected["boxes"], told["boxes"], told["detector"]) == ("truth", "detector", "known")
    assert (told["detection_rate_pct"], told["num_not_detected"], told["not_detected"]) == (100, 0, [])
    assert expected.keys() == told.keys() - {
        "detector", "detection_rate_pct", "num_not_detected", "not_detected"
    }  # fmt: skip
    assert detector.looked == NUM_FACES, "rows that pad are not looked at"


def test_faces_that_are_missed_are_told_and_in_no_number(network, batches):
    missed = [1, 4, 9]
    report = measure(network, batches, detector=known(batches, missed))
    keys = sorted(f"test_{position:04d}" for position in missed)
    told = report.to_json()
    assert told["not_detected"] == keys
    assert (told["num_not_detected"], told["detection_rate_pct"], told["num_faces"]) == (3, 70.0, 7)
    assert report.num_not_detected == 3
    whole = measure(network, batches)
    others = [position for position in range(NUM_FACES) if position not in missed]
    assert report.errors.positions.tolist() == others
    np.testing.assert_allclose(report.errors.nme, whole.errors.nme[others], rtol=1e-4)
    assert not {face.key for face in report.worst + report.examples} & set(keys)
    assert "7 of 10 faces found (70.00 %)" in format_table(report)


def test_without_any_face_there_is_one_line(network, batches):
    with pytest.raises(InputError, match=r"the detector finds none of the 10 faces; lower --detector\.min"):
        measure(network, batches, detector=known(batches, range(NUM_FACES)))


def moved(box: FaceBox, right: float) -> FaceBox:
    return dataclasses.replace(box, left=box.left + right * box.width)


def matrix_around(box: FaceBox) -> np.ndarray:
    return square_crop(box, CROP.size_px, CROP.margin)


def test_the_box_of_largest_overlap_is_taken_and_no_other_faces(batches):
    detector, batch = known(batches), batches[0]
    truths = [FaceBox.around(landmarks.double().numpy()) for landmarks in batch.landmarks_shard]
    close = moved(truths[0], 0.1)
    detector.boxes[picture_of(batch, 0)] = [moved(truths[0], -0.3), close, moved(truths[0], 0.4)]
    stranger = moved(truths[1], 0.7)
    assert 0 < stranger.overlap(truths[1]) < LEAST_OVERLAP
    detector.boxes[picture_of(batch, 1)] = [stranger]
    cut = cut_around_detected(batch, detector, CROP)
    np.testing.assert_allclose(cut.batch.shard_to_crop[0], matrix_around(close), rtol=1e-5)
    assert cut.missed == (batch.keys[1],)
    assert cut.batch.valid.tolist() == [True, False, True, True]
    assert torch.equal(cut.batch.shard_to_crop[1], batch.shard_to_crop[1])
    for row in (2, 3):
        np.testing.assert_allclose(cut.batch.shard_to_crop[row], matrix_around(truths[row]), rtol=1e-5)
    assert torch.equal(cut.batch.crops_shard, batch.crops_shard)
    assert torch.equal(cut.batch.landmarks_shard, batch.landmarks_shard)


def test_rows_that_pad_are_not_missed(batches):
    padded = batches[-1]
    assert padded.valid.tolist() == [True, True, False, False]
    cut = cut_around_detected(padded, known(batches, [8]), CROP)
    assert cut.missed == ("test_0008",)
    assert cut.batch.valid.tolist() == [False, True, False, False]


def test_a_real_detector_on_real_faces(shared_data):
    model = REPOSITORY.parent / "shared" / "weights" / YUNET_FILE
    if not model.exists():
        pytest.skip("YuNet's file (../shared/weights) is not on this machine")
    faces = read_ibug(shared_data / "ibug_300W_large_face_landmark_dataset").faces
    chosen = [face for face in faces if face.split == "test"][::25]
    crops, landmarks = [], []
    for face in chosen:
        image_to_shard = square_crop(FaceBox.around(face.landmarks_image), 256, 0.5)
        crops.append(resample(read_picture(face.picture.path, upright=False), image_to_shard, 256))
        landmarks.append(transform_points(face.landmarks_image, image_to_shard))
    truths = [FaceBox.around(points) for points in landmarks]
    batch = Batch(
        crops_shard=torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2),
        landmarks_shard=torch.from_numpy(np.stack(landmarks)).float(),
        shard_to_crop=torch.from_numpy(np.stack([matrix_around(box) for box in truths])).float(),
        valid=torch.ones(len(chosen), dtype=torch.bool),
        positions=torch.arange(len(chosen)),
        first_row=0,
        step=0,
        keys=tuple(map(str, range(len(chosen)))),
        subsets=("",) * len(chosen),
        scheme=IBUG_68,
    )
    cut = cut_around_detected(batch, YunetDetector(model, DetectorConfig(model=model)), CROP)
    assert len(chosen) >= 12
    assert len(cut.missed) <= 1
    # What the detector's crop shows, in px of that crop, beside what the truth's shows.
    truth_to_detected = cut.batch.shard_to_crop.double() @ torch.linalg.inv(batch.shard_to_crop.double())
    scales = truth_to_detected[:, 0, 0].numpy()
    assert np.median(np.abs(scales - 1)) < 0.12
    assert 0.6 < scales.min() < scales.max() < 1.6


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run's folder with a checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    weights = build_network(MODEL).state_dict()
    state = TrainingState(step=1, manifest_hash="abc")
    config = TrainConfig(recipe="x", model=MODEL)
    save_checkpoint(folder, config, state, model=weights, training={}, is_best=True, keep=1)
    return folder


@pytest.fixture(autouse=True)
def fresh(fresh_accelerator):
    """Commands start Accelerate."""


def mistake(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *words, "--num-workers", "0"])
    assert stopped.value.code == 2
    AcceleratorState._reset_state(reset_partial_state=True)
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_mistakes_are_told_in_a_line(run, shards, tmp_path, make_shards, capsys):
    data = ["--data", str(shards)]
    told = mistake(capsys, str(run), *data, "--boxes", "annotation")
    assert "--boxes annotation: the faces of split 'test' came without boxes" in told
    assert "take --boxes truth or --boxes detector" in told
    told = mistake(capsys, str(run), *data, "--detector.kind", "whole")
    assert "the flags --detector.… are for --boxes detector, --boxes is truth" in told
    assert "--batch-size is 0, must be at least 1" in mistake(capsys, str(run), *data, "--batch-size", "0")
    missing = ["--detector.model", str(tmp_path / "none.onnx")]
    assert "there is no such file" in mistake(capsys, str(run), *data, "--boxes", "detector", *missing)
    assert "no split 'other'; they have train, test" in mistake(capsys, str(run), *data, "--split", "other")
    make_shards(tmp_path / "empty", {"train": 2, "test": 0})
    told = mistake(capsys, str(run), "--data", str(tmp_path / "empty"))
    assert "the split 'test' of the shards is empty" in told
    points_98 = dataclasses.replace(Manifest.read(shards), scheme="wflw-98")
    points_98.write(tmp_path / "wflw")
    told = mistake(capsys, str(run), "--data", str(tmp_path / "wflw"))
    assert "the shards have wflw-98 landmarks" in told
    assert "predicts ibug-68" in told


def test_the_command_takes_a_detectors_boxes_and_looks_again(run, shards, tmp_path, capsys, monkeypatch):
    # The larger ones of the drawn faces share so much with the whole picture.
    monkeypatch.setattr(module, "LEAST_OVERLAP", 0.16)
    report = tmp_path / "report.json"
    main([
        "evaluate", str(run), "--data", str(shards), "--boxes", "detector", "--detector.kind", "whole",
        "--second-pass", "--mirror-average", "--num-workers", "0", "--json", str(report),
    ])  # fmt: skip
    told = json.loads(report.read_text())
    assert (told["boxes"], told["detector"]) == ("detector", "whole")
    assert told["second_pass"] is told["mirror_average"] is True
    assert 0 < told["num_not_detected"] < NUM_FACES
    assert told["num_faces"] + told["num_not_detected"] == NUM_FACES
    assert "faces found" in capsys.readouterr().out


def write_faces(folder: Path, manifest: Manifest, boxes: Sequence[FaceBox | None]) -> None:
    """Shards of faces with these boxes of the annotation; the landmarks' own for None."""
    buffer = io.BytesIO()
    with webdataset.TarWriter(buffer, mtime=0) as tar:
        for seed, box in enumerate(boxes):
            picture, landmarks = draw_face(seed, 64)
            record = SampleRecord(
                scheme="ibug-68",
                landmarks_shard=landmarks,
                image_to_shard=np.diag([0.5, 0.5, 1.0]),
                face_box_image=box or FaceBox.around(2 * landmarks),
                subset="",
                source_file=f"{seed}.png",
                group=str(seed),
            )
            tar.write(encode_sample(f"{seed:04d}", picture, record))
    folder.mkdir()
    entry = dataclasses.replace(manifest.splits["test"][0], num_samples=len(boxes))
    (folder / entry.name).write_bytes(buffer.getvalue())
    dataclasses.replace(manifest, splits={"test": (entry,)}).write(folder)


@pytest.mark.parametrize(("marked", "expected"), [((), False), ((2,), True), ((0, 1, 2, 3), True)])
def test_whether_faces_came_with_boxes(shards, tmp_path, marked, expected):
    box = FaceBox(left=30.0, top=30.0, width=80.0, height=80.0)
    boxes = [box if face in marked else None for face in range(4)]
    write_faces(tmp_path / "faces", Manifest.read(shards), boxes)
    assert has_annotation_boxes(open_store(str(tmp_path / "faces")), "test") is expected
