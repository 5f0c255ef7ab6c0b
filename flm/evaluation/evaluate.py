"""A network measured on a split, by one process or several."""

import contextlib
import dataclasses
import heapq
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed
from jaxtyping import Bool
from torch import Tensor, nn

from flm.data.batches import Boxes, CropShape
from flm.data.samples import Batch
from flm.errors import InputError
from flm.evaluation.detected_boxes import cut_around_detected
from flm.evaluation.passes import Found, find_landmarks
from flm.evaluation.report import EvalReport, FaceExample
from flm.inference.detector import FaceDetector
from flm.inference.pass_config import ONE_PASS, PassConfig
from flm.metrics.nme import WHOLE, FaceErrors, measurable, summarize
from flm.model.losses import LossConfig, landmark_loss

GOLDEN_RATIO = (1 + 5**0.5) / 2


def evaluate(
    network: nn.Module,
    batches: Iterable[Batch],
    *,
    crop: CropShape,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    loss: LossConfig | None = None,
    boxes: Boxes = "truth",
    detector: FaceDetector | None = None,
    passes: PassConfig = ONE_PASS,
    num_pictures: int = 16,
) -> EvalReport:
    """Measure a network on the faces of a split.

    Errors are measured in the frame of the stored crops. It is a similarity of the source picture, so the
    normalised errors are those of the source picture.

    Under `torch.distributed` each process calls this with its own batches, and all get the same report. Rows
    that only pad (`valid=False`) are left out.

    Args:
        network: from images (batch, 3, size, size) in [0, 1] to an object with `landmarks_unit` (batch,
            points, 2); not wrapped in DistributedDataParallel, which would wait for the other processes.
        batches: of the split, in any order.
        crop: the network's view of a face.
        device: where the network is.
        autocast: entered around each forward pass, for mixed precision.
        loss: the loss that the report gives beside the errors, if any.
        boxes: what the batches are cut out around.
        detector: cuts them out again around its own boxes. Faces that it misses are told and left out; no
            other box stands in for them.
        passes: how often the network looks at each face.
        num_pictures: how many faces the report shows as the worst, and how many as examples.

    Raises:
        InputError: on every process, where there is no face, a face is too small to measure, or the network
            predicts a number that is not finite.
    """
    found = _Findings(num_pictures)
    with _evaluation_mode(network), torch.inference_mode():
        for batch in batches:
            if detector is not None:
                detected = cut_around_detected(batch, detector, crop)
                batch = detected.batch
                found.not_detected += detected.missed
            seen = find_landmarks(network, batch.to(device), crop=crop, passes=passes, autocast=autocast)
            found.add(batch, seen)
            if loss is not None:
                mean = landmark_loss(seen.output, seen.crops.landmarks_unit, seen.crops.valid, loss)["total"]
                found.add_loss(mean.item(), int(seen.crops.valid.sum()))
    report = _report(_gathered(found))
    name = detector.name if detector else None
    return dataclasses.replace(report, boxes="detector" if detector else boxes, detector=name, passes=passes)


@contextlib.contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    """`network.eval()`, and afterwards each module as it was; some may be frozen while others train."""
    was_training = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in was_training:
            module.training = training


@dataclass(slots=True)
class _Findings:
    """What one process found, and then all of them."""

    num_pictures: int
    errors: list[FaceErrors] = field(default_factory=list)
    worst: list[FaceExample] = field(default_factory=list)
    examples: list[FaceExample] = field(default_factory=list)
    too_small: list[str] = field(default_factory=list)
    """Keys of faces that cannot be measured; told at the end, since the other processes wait for this one."""
    not_finite: list[str] = field(default_factory=list)
    not_detected: list[str] = field(default_factory=list)
    loss_sum: float = 0.0
    loss_faces: int = 0

    def add(self, batch: Batch, seen: Found) -> None:
        predicted_shard, covariance = seen.landmarks_shard, seen.covariance_shard
        target_shard = batch.landmarks_shard.cpu().double()
        large_enough = measurable(target_shard, batch.scheme)
        finite = predicted_shard.isfinite().all(dim=2).all(dim=1)
        valid = batch.valid.cpu()
        self.too_small += [batch.keys[i] for i in _places(valid & ~large_enough)]
        self.not_finite += [batch.keys[i] for i in _places(valid & ~finite)]
        rows = _places(valid & large_enough & finite)
        errors = FaceErrors.measure(
            predicted_shard[rows],
            target_shard[rows],
            batch.scheme,
            covariance=None if covariance is None else covariance[rows],
            positions=batch.positions.cpu()[rows],
            keys=tuple(batch.keys[i] for i in rows),
            subsets=tuple(batch.subsets[i] for i in rows),
        )
        self.errors.append(errors)
        faces = [
            FaceExample(
                key=errors.keys[place],
                position=int(errors.positions[place]),
                scheme=batch.scheme.name,
                picture_shard=batch.crops_shard[row].cpu().numpy().transpose(1, 2, 0).copy(),
                truth_shard=target_shard[row].numpy(),
                prediction_shard=predicted_shard[row].numpy(),
                nme=float(errors.nme[place]),
            )
            for place, row in enumerate(rows)
        ]
        self.worst = heapq.nsmallest(self.num_pictures, self.worst + faces, key=_worst_first)
        self.examples = heapq.nsmallest(self.num_pictures, self.examples + faces, key=_spread_evenly)

    def add_loss(self, mean: float, num_faces: int) -> None:
        # A batch of nothing but padding has no mean.
        if num_faces:
            self.loss_sum += mean * num_faces
            self.loss_faces += num_faces


def _places(mask: Bool[Tensor, " batch"]) -> list[int]:
    return mask.nonzero().flatten().tolist()


def _worst_first(face: FaceExample) -> tuple[float, int]:
    return -face.nme, face.position


def _spread_evenly(face: FaceExample) -> float:
    """The lowest are spread evenly over a split of any size, as the golden ratio's multiples are modulo 1."""
    return face.position * GOLDEN_RATIO % 1


def _gathered(own: _Findings) -> list[_Findings]:
    """What each process found; called by all of them."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return [own]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, own)
    return found


def _report(found: list[_Findings]) -> EvalReport:
    num_pictures = found[0].num_pictures
    _refuse(
        [key for one in found for key in one.too_small],
        "with eyes or a box below one pixel cannot be measured; remove them from the data",
    )
    _refuse(
        [key for one in found for key in one.not_finite],
        "got a prediction that is not finite; the network has diverged, train it with a lower learning rate",
    )
    pieces = [piece for one in found for piece in one.errors if len(piece)]
    not_detected = tuple(sorted(key for one in found for key in one.not_detected))
    if not pieces and not_detected:
        raise InputError(
            f"the detector finds none of the {len(not_detected)} faces; lower --detector.min-score or choose "
            "another --detector.kind"
        )
    if not pieces:
        raise InputError("there is no face to evaluate; choose a split that has some")
    errors = FaceErrors.concatenate(pieces)
    loss_faces = sum(one.loss_faces for one in found)
    subsets = {name: summarize(faces) for name, faces in errors.by_subset().items()}
    worst = heapq.nsmallest(num_pictures, (face for one in found for face in one.worst), key=_worst_first)
    examples = heapq.nsmallest(
        num_pictures, (face for one in found for face in one.examples), key=_spread_evenly
    )
    return EvalReport(
        summary=subsets[WHOLE],
        subsets=subsets,
        parts=errors.nme_pct_by_part(),
        loss=sum(one.loss_sum for one in found) / loss_faces if loss_faces else None,
        errors=errors,
        worst=tuple(worst),
        examples=tuple(sorted(examples, key=lambda face: face.position)),
        not_detected=not_detected,
    )


def _refuse(keys: list[str], what: str) -> None:
    if keys:
        raise InputError(f"{len(keys)} of the faces {what}: {', '.join(sorted(keys)[:3])}")
