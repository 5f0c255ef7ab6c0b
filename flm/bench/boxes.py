"""How much of a network's error hangs on the face box: boxes moved on purpose, and a detector's.

A box is shifted by a share of its longer side, in eight directions, or scaled about its centre. Stored crops
are wide enough for all of it. Every face is looked at once, and once more at the box of the landmarks that
the first look found.
"""

import dataclasses
import itertools
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from rich.progress import track
from torch import nn

from flm.bench.boxes_report import BoxReport, BoxRow, FittedMapping, MovedBoxes, boxes_picture, boxes_text
from flm.checkpoint import find_checkpoint, load_network
from flm.data.annotation_boxes import has_annotation_boxes
from flm.data.batches import CropShape
from flm.data.loader import LoaderConfig, ProcessPlace, evaluation_batches, training_batches
from flm.data.samples import Batch
from flm.data.store import ShardStore, open_store
from flm.draw import write_png
from flm.errors import InputError
from flm.evaluation.detected_boxes import box_of, cut_around_detected
from flm.evaluation.passes import cut_around, cut_around_landmarks, find_landmarks
from flm.files import write_json, write_whole
from flm.geometry import FaceBox, boxes_around
from flm.inference.detector import DLIB_SHAPE, YUNET_SHAPE, BoxShape, FaceDetector
from flm.metrics.nme import measurable, nme
from flm.process.memory import keep_freed_memory

SHIFTS = (0.0, 0.05, 0.1, 0.15, 0.2)
DIRECTIONS = 8
SCALES = (0.8, 0.9, 1.0, 1.1, 1.25)
BATCH_SIZE = 64
FITTED_SPLIT = "train"
FITTED_FACES = 500

PLAIN_SHAPE = BoxShape(right=0.0, down=0.0, size=1.0)
SHAPES = {"yunet": YUNET_SHAPE, "dlib": DLIB_SHAPE}
"""What the boxes of each detector are mapped with."""


@dataclass(frozen=True, slots=True)
class Move:
    """What is done to the landmarks' own boxes."""

    right: float = 0.0
    """Share of the longer side."""
    down: float = 0.0
    scale: float = 1.0


def moves_by(shift: float) -> list[Move]:
    """Shifts of that length in all directions."""
    angles = [2 * math.pi * direction / DIRECTIONS for direction in range(DIRECTIONS)]
    moves = [Move(right=shift * math.cos(angle), down=shift * math.sin(angle)) for angle in angles]
    return moves if shift else [Move()]


MOVES = tuple(dict.fromkeys([
    *itertools.chain.from_iterable(map(moves_by, SHIFTS)), *(Move(scale=scale) for scale in SCALES),
]))  # fmt: skip


def bench_boxes(
    checkpoint: Path,
    data: str,
    detector: FaceDetector,
    *,
    split: str,
    out: Path,
    num_faces: int | None = None,
    fitted_faces: int = FITTED_FACES,
) -> BoxReport:
    """Measure, and write `boxes.json`, `boxes.md` and `boxes.png` into a folder.

    Args:
        checkpoint: a checkpoint's or a run's folder.
        data: folder of shards, or its URL.
        detector: finds faces in the stored crops; one of this project's or any other of its protocol.
        split: which split is measured.
        out: folder of the results, made if missing.
        num_faces: the first so many faces of the split; all if None.
        fitted_faces: faces of the train split that the detector's mapping is fitted on, where there is one.

    Raises:
        InputError: checkpoint or shards are missing, damaged or do not fit each other; a face cannot be
            measured; a number of faces makes no sense.
    """
    for flag, value, least in (("--num-faces", num_faces, 1), ("--fitted-faces", fitted_faces, 0)):
        if value is not None and value < least:
            raise InputError(f"{flag} is {value}, must be at least {least}")
    folder = find_checkpoint(checkpoint)
    network = load_network(folder)
    store = open_store(data)
    store.check_scheme(network.config.scheme, f"{folder} predicts")
    crop = CropShape(size_px=network.config.input_size_px, margin=network.config.crop_margin)
    annotated = has_annotation_boxes(store, split)
    loader = LoaderConfig(num_workers=0, boxes="annotation" if annotated else "truth")
    batches = evaluation_batches(
        store, loader, crop, split=split, batch_size=BATCH_SIZE, place=ProcessPlace()
    )
    total = min(store.manifest.num_samples(split), num_faces or sys.maxsize)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if device.type == "cpu":
        keep_freed_memory()
    measured = Measured(network.eval().to(device), crop, detector, annotated=annotated)
    steps = math.ceil(total / BATCH_SIZE)
    with torch.inference_mode():
        for batch in track(_first(batches, total), "batches", total=steps, transient=True):
            measured.add(batch.to(device))
    report = BoxReport(
        checkpoint=str(folder),
        data=data,
        split=split,
        detector=detector.name,
        rows=measured.rows(),
        shifts=tuple(measured.moved(shift, moves_by(shift)) for shift in SHIFTS),
        scales=tuple(measured.moved(scale, [Move(scale=scale)]) for scale in SCALES),
        fitted=fit_mapping(store, crop, detector, fitted_faces),
    )
    write_json(out / "boxes.json", dataclasses.asdict(report))
    write_whole(out / "boxes.md", boxes_text(report).encode())
    write_png(out / "boxes.png", boxes_picture(report))
    return report


def _first(batches: Iterable[Batch], num_faces: int) -> Iterator[Batch]:
    """So many rows that are not padding."""
    for batch in batches:
        if num_faces <= 0:
            return
        yield batch.split(num_faces)[0]
        num_faces -= len(batch)


Errors = Float64[np.ndarray, "passes batch"]
"""NME of each face, a fraction; rows are looks. Not a number where a face was not found."""


class Measured:
    """The errors of each face with each box, batch by batch.

    Args:
        network: in evaluation mode, on its device.
        crop: its view of a face.
        detector: finds faces in the stored crops.
        annotated: whether the batches are cut out around the annotation's boxes.
    """

    def __init__(
        self, network: nn.Module, crop: CropShape, detector: FaceDetector, *, annotated: bool
    ) -> None:
        self.network = network
        self.crop = crop
        self.detector = detector
        self.annotated = annotated
        self._errors: dict[str | Move, list[Errors]] = {}

    def add(self, batch: Batch) -> None:
        """Measure the faces of a batch, which is on the network's device.

        Raises:
            InputError: a face is too small, or the network predicts a number that is not finite.
        """
        if not bool(measurable(batch.landmarks_shard, batch.scheme)[batch.valid].all()):
            raise InputError("a face has eyes or a box below one pixel; `flm evaluate` names it")
        left_top, sides = boxes_around(batch.landmarks_shard.cpu().double().numpy())
        for move in MOVES:
            shift = np.array([move.right, move.down]) * sides.max(1, keepdims=True)
            moved = left_top + shift + (sides - sides * move.scale) / 2
            everywhere = np.ones(len(batch), np.bool_)
            self._look(move, cut_around(batch, moved, sides * move.scale, everywhere, self.crop))
        if self.annotated:
            self._look("annotation", batch)
        on_cpu = batch.to(torch.device("cpu"))
        detected = cut_around_detected(on_cpu, self.detector, self.crop).batch
        self._look("detector", detected.to(batch.crops_shard.device))

    def _look(self, name: str | Move, batch: Batch) -> None:
        valid = batch.valid.cpu()
        errors = np.full((2, len(batch)), np.nan)
        for errors_of_look in errors:
            found = find_landmarks(self.network, batch, crop=self.crop)
            truth_shard = batch.landmarks_shard.cpu().double()
            if not bool(found.landmarks_shard[valid].isfinite().all()):
                raise InputError(
                    "the network predicts a number that is not finite; `flm evaluate` tells where"
                )
            errors_of_look[valid.numpy()] = nme(
                found.landmarks_shard[valid], truth_shard[valid], batch.scheme
            ).numpy()
            batch = cut_around_landmarks(batch, found.landmarks_shard, self.crop)
        self._errors.setdefault(name, []).append(errors)

    def errors(self, name: str | Move) -> Errors:
        """Of all faces, found or not."""
        return np.concatenate(self._errors[name], axis=1)

    def rows(self) -> tuple[BoxRow, ...]:
        """Each kind of box."""
        truth = self.errors(Move())
        kinds: dict[str, Errors] = {"truth": truth}
        kinds |= {name: self.errors(name) for name in ("annotation", "detector") if name in self._errors}
        rows = []
        for name, errors in kinds.items():
            found = np.isfinite(errors[0])
            if not found.any():
                raise InputError(f"{self.detector.name} finds none of the {len(found)} faces")
            one, two = 100 * errors[:, found].mean(1)
            rows.append(
                BoxRow(
                    boxes=name,
                    num_faces=int(found.sum()),
                    found_pct=float(100 * found.mean()),
                    nme_pct=float(one),
                    second_pass_nme_pct=float(two),
                    truth_nme_pct=float(100 * truth[0, found].mean()),
                )
            )
        return tuple(rows)

    def moved(self, amount: float, moves: list[Move]) -> MovedBoxes:
        """All faces with boxes that were moved by as much, in several directions."""
        one, two = 100 * np.array([self.errors(move).mean(1) for move in moves]).T
        return MovedBoxes(
            amount=amount,
            nme_pct=float(one.mean()),
            worst_nme_pct=float(one.max()),
            second_pass_nme_pct=float(two.mean()),
            second_pass_worst_nme_pct=float(two.max()),
        )


def fit_mapping(
    store: ShardStore, crop: CropShape, detector: FaceDetector, num_faces: int
) -> FittedMapping | None:
    """Where the landmarks' own boxes lie beside a detector's, on faces of the train split at random.

    Args:
        store: the shards.
        crop: any network's view.
        detector: whose boxes are compared.
        num_faces: how many are looked at.

    Returns:
        The medians; None where there is no such split, or none of its faces is found.
    """
    num_faces = min(num_faces, store.manifest.num_samples(FITTED_SPLIT))
    if num_faces == 0:
        return None
    size = min(BATCH_SIZE, num_faces)
    steps, loader = range(num_faces // size), LoaderConfig(num_workers=0)
    batches = training_batches(
        store, loader, crop, steps=steps, batch_size=size, seed=0, place=ProcessPlace(), split=FITTED_SPLIT
    )
    relations = []
    for batch in track(batches, "fitting", total=len(steps), transient=True):
        for picture, landmarks in zip(batch.crops_shard, batch.landmarks_shard.double().numpy(), strict=True):
            truth = FaceBox.around(landmarks)
            box = box_of(picture.permute(1, 2, 0).contiguous().numpy(), truth, detector)
            if box is not None:
                shift = truth.center_x - box.center_x, truth.center_y - box.center_y, truth.long_side
                relations.append(np.array(shift) / box.long_side)
    if not relations:
        return None
    right, down, size = np.median(relations, axis=0).tolist()
    left_over = BoxShape(right=right, down=down, size=size)
    return FittedMapping(
        split=FITTED_SPLIT,
        num_faces=len(relations),
        left_over=left_over,
        mapping=one_after_the_other(SHAPES.get(detector.name, PLAIN_SHAPE), left_over),
    )


def one_after_the_other(first: BoxShape, second: BoxShape) -> BoxShape:
    """The mapping that does what two do after each other."""
    return BoxShape(
        right=first.right + first.size * second.right,
        down=first.down + first.size * second.down,
        size=first.size * second.size,
    )
