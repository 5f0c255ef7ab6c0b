"""Boxes moved on purpose, and the mapping of a detector found again."""

import dataclasses
import json
import math

import cv2
import numpy as np
import pytest
from test_detected_boxes import NUM_FACES, picture_of

# Fixtures.
from test_detected_boxes import run as run
from test_detected_boxes import shards as shards

from flm.bench.boxes import (
    DIRECTIONS,
    MOVES,
    SCALES,
    SHIFTS,
    Move,
    bench_boxes,
    moves_by,
    one_after_the_other,
)
from flm.bench.boxes_report import boxes_picture, boxes_text
from flm.cli import main
from flm.data.batches import CropShape
from flm.data.loader import LoaderConfig, ProcessPlace, evaluation_batches
from flm.data.store import open_store
from flm.errors import InputError
from flm.evaluation import detected_boxes
from flm.geometry import FaceBox
from flm.inference.detector import BoxShape, DetectedFace

SHAPE = BoxShape(right=0.03, down=-0.1, size=1.25)
"""How the landmarks' own boxes lie to those of `Displaced`."""


class Displaced:
    """Knows each face, and draws its boxes in its own way; misses some."""

    name = "displaced"

    def __init__(self, truths: dict[bytes, FaceBox]) -> None:
        self.truths = truths

    def detect(self, picture: np.ndarray) -> list[DetectedFace]:
        truth = self.truths.get(picture.tobytes())
        if truth is None:
            return []
        side = truth.long_side / SHAPE.size
        center_x, center_y = truth.center_x - SHAPE.right * side, truth.center_y - SHAPE.down * side
        box = FaceBox(left=center_x - (side - 1) / 2, top=center_y - (side - 1) / 2, width=side, height=side)
        return [DetectedFace(box_image=box, score=0.9)]


@pytest.fixture(scope="module")
def detector(shards) -> Displaced:
    """Misses the faces 3 and 7 of the test split."""
    store, truths = open_store(str(shards)), {}
    for split in ("train", "test"):
        for batch in evaluation_batches(
            store, LoaderConfig(num_workers=0), CropShape(size_px=32, margin=0.1),
            split=split, batch_size=4, place=ProcessPlace(),
        ):  # fmt: skip
            for row, position in enumerate(batch.positions.tolist()):
                if split == "train" or position not in (3, 7):
                    landmarks = batch.landmarks_shard[row].double().numpy()
                    truths[picture_of(batch, row)] = FaceBox.around(landmarks)
    return Displaced(truths)


@pytest.fixture(scope="module")
def measured(run, shards, detector, tmp_path_factory):
    """A report, and the folder that it was written into."""
    out = tmp_path_factory.mktemp("out") / "new"
    return bench_boxes(run, str(shards), detector, split="test", out=out), out


def test_the_moves_are_all_directions_and_scales_once():
    assert len(MOVES) == len(set(MOVES)) == 1 + (len(SHIFTS) - 1) * DIRECTIONS + len(SCALES) - 1
    for shift in SHIFTS[1:]:
        moves = moves_by(shift)
        assert [math.hypot(move.right, move.down) for move in moves] == pytest.approx([shift] * DIRECTIONS)
        assert np.sum([(move.right, move.down) for move in moves], axis=0) == pytest.approx([0, 0])
    assert moves_by(0.0) == [Move()]


def test_what_is_not_moved_is_the_truth(measured):
    report, _ = measured
    truth, detected = report.rows
    assert (truth.boxes, detected.boxes) == ("truth", "detector"), "drawn faces have no boxes of an annotator"
    for one in (report.shifts[0], report.scales[SCALES.index(1.0)]):
        assert one.nme_pct == one.worst_nme_pct == pytest.approx(truth.nme_pct)
        assert one.second_pass_nme_pct == pytest.approx(truth.second_pass_nme_pct)
    assert [one.amount for one in report.shifts] == list(SHIFTS)
    assert [one.amount for one in report.scales] == list(SCALES)
    assert all(one.worst_nme_pct > one.nme_pct for one in report.shifts[1:])
    # The one without a move is in both.
    assert len({one.nme_pct for one in (*report.shifts, *report.scales)}) == len(SHIFTS) + len(SCALES) - 1


def test_faces_that_are_missed_are_in_neither_side_of_the_comparison(measured):
    report, _ = measured
    truth, detected = report.rows
    assert (truth.num_faces, detected.num_faces) == (NUM_FACES, NUM_FACES - 2)
    assert (truth.found_pct, detected.found_pct) == (100.0, 80.0)
    assert truth.truth_nme_pct == truth.nme_pct
    assert detected.truth_nme_pct != truth.nme_pct
    assert detected.beside_truth_pct == pytest.approx(100 * (detected.nme_pct / detected.truth_nme_pct - 1))


def test_the_mapping_of_a_detector_is_found_again(measured):
    fitted = measured[0].fitted
    assert (fitted.split, fitted.num_faces) == ("train", 8)
    for found in (fitted.left_over, fitted.mapping):
        assert (found.right, found.down, found.size) == pytest.approx(
            (SHAPE.right, SHAPE.down, SHAPE.size), abs=1e-5
        )


def test_one_mapping_after_the_other_is_both():
    first, second = BoxShape(right=0.1, down=-0.2, size=0.8), BoxShape(right=-0.05, down=0.3, size=1.5)
    box = FaceBox(left=10.0, top=20.0, width=40.0, height=32.0)
    both, expected = one_after_the_other(first, second).truth_box(box), second.truth_box(first.truth_box(box))
    assert (both.center_x, both.center_y) == pytest.approx((expected.center_x, expected.center_y))
    assert both.long_side == pytest.approx(expected.long_side)


def test_what_is_written_says_the_same(measured):
    report, out = measured
    told = json.loads((out / "boxes.json").read_text())
    assert told["rows"][1]["nme_pct"] == report.rows[1].nme_pct
    assert told["fitted"]["mapping"] == dataclasses.asdict(report.fitted.mapping)
    text = (out / "boxes.md").read_text()
    assert text == boxes_text(report)
    assert "| detector (displaced) | 8 | 80.00 |" in text
    assert "| 20% |" in text
    picture = cv2.imread(str(out / "boxes.png"))
    assert picture.shape == boxes_picture(report).shape
    assert picture.std() > 10


def test_the_command_fits_nothing_where_there_is_no_train_split(run, make_shards, tmp_path, monkeypatch):
    # Drawn faces share at least so much with the whole picture.
    monkeypatch.setattr(detected_boxes, "LEAST_OVERLAP", 0.05)
    make_shards(tmp_path / "data", {"test": 3})
    out = tmp_path / "out"
    main([
        "bench", "boxes", str(run), "--data", str(tmp_path / "data"), "--split", "test", "--out", str(out),
        "--detector.kind", "whole", "--num-faces", "2",
    ])  # fmt: skip
    told = json.loads((out / "boxes.json").read_text())
    assert told["fitted"] is None
    assert [row["num_faces"] for row in told["rows"]] == [2, 2]


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ({"num_faces": 0}, "--num-faces is 0, must be at least 1"),
        ({"fitted_faces": -1}, "--fitted-faces is -1, must be at least 0"),
    ],
)
def test_numbers_that_make_no_sense_are_told(run, shards, detector, tmp_path, numbers, told):
    with pytest.raises(InputError, match=told):
        bench_boxes(run, str(shards), detector, split="test", out=tmp_path, **numbers)


def test_a_detector_that_finds_nothing_is_told(run, shards, tmp_path):
    with pytest.raises(InputError, match="displaced finds none of the 1 faces"):
        bench_boxes(run, str(shards), Displaced({}), split="test", out=tmp_path, num_faces=1)
