"""A network measured on a split, by one process or several."""

import contextlib
import dataclasses
import heapq
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.distributed
from accelerate import PartialState
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from flm.checkpoint import find_checkpoint, load_network, read_config
from flm.data.crops import crop_plainly
from flm.data.loader import CropShape, LoaderConfig, ProcessPlace, evaluation_batches
from flm.data.samples import Batch
from flm.data.store import open_store
from flm.errors import InputError
from flm.fields import from_fields
from flm.geometry import transform_points, unit_to_crop
from flm.landmarks import LandmarkScheme
from flm.metrics import WHOLE, FaceErrors, measurable, summarize
from flm.model.losses import LossConfig, landmark_loss
from flm.report import EvalReport, FaceExample

GOLDEN_RATIO = (1 + 5**0.5) / 2


def evaluate(
    network: nn.Module,
    batches: Iterable[Batch],
    *,
    size_px: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    loss: LossConfig | None = None,
    mirror_average: bool = False,
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
        size_px: side of the network's input.
        device: where the network is.
        autocast: entered around each forward pass, for mixed precision.
        loss: the loss that the report gives beside the errors, if any.
        mirror_average: whether to average the prediction with that of the mirrored picture.
        num_pictures: how many faces the report shows as the worst, and how many as examples.

    Raises:
        InputError: on every process, where there is no face, a face is too small to measure, or the network
            predicts a number that is not finite.
    """
    found = _Findings(num_pictures)
    with _evaluation_mode(network), torch.inference_mode():
        for batch in batches:
            crops = crop_plainly(batch.to(device), size_px=size_px)
            with autocast():
                output = network(crops.images)
                landmarks_unit = output.landmarks_unit
                if mirror_average:
                    of_mirrored = network(crops.images.flip(-1)).landmarks_unit
                    landmarks_unit = (landmarks_unit + _mirrored(of_mirrored, batch.scheme)) / 2
            found.add(batch, _unit_to_shard(landmarks_unit, crops.shard_to_crop, size_px))
            if loss is not None:
                mean = landmark_loss(output, crops.landmarks_unit, crops.valid, loss)["total"]
                found.add_loss(mean.item(), int(crops.valid.sum()))
    return _report(_gathered(found))


def _unit_to_shard(
    landmarks_unit: Float[Tensor, "batch points 2"], shard_to_crop: Float[Tensor, "batch 3 3"], size_px: int
) -> Float64[Tensor, "batch points 2"]:
    crop_to_shard = torch.linalg.inv(shard_to_crop.cpu().double())
    return transform_points(unit_to_crop(landmarks_unit.cpu().double(), size_px), crop_to_shard)


def _mirrored(
    landmarks_unit: Float[Tensor, "batch points 2"], scheme: LandmarkScheme
) -> Float[Tensor, "batch points 2"]:
    x, y = landmarks_unit[:, list(scheme.mirror_permutation)].unbind(dim=-1)
    return torch.stack([1 - x, y], dim=-1)


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
    loss_sum: float = 0.0
    loss_faces: int = 0

    def add(self, batch: Batch, predicted_shard: Float64[Tensor, "batch points 2"]) -> None:
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
    )


def _refuse(keys: list[str], what: str) -> None:
    if keys:
        raise InputError(f"{len(keys)} of the faces {what}: {', '.join(sorted(keys)[:3])}")


def evaluate_checkpoint(
    checkpoint: Path,
    data: str,
    *,
    split: str,
    boxes: Literal["truth", "annotation"] | None = None,
    batch_size: int = 64,
    num_workers: int = 1,
    cache_dir: Path | None = None,
    cache_gib: float = 50.0,
) -> tuple[EvalReport, bool]:
    """Measure a checkpoint on a split of shards, in float32, on all processes that a launcher started.

    Args:
        checkpoint: a checkpoint's or a run's folder.
        data: folder of shards, or its URL.
        split: which split.
        boxes: what the crops are cut around; what the checkpoint was trained with if None.
        batch_size: over all processes.
        num_workers: reading processes of each process.
        cache_dir: where remote shards are kept; `default_cache_dir()` if None.
        cache_gib: how much of them at most.

    Returns:
        The report, and whether this is the first process, which tells it.

    Raises:
        InputError: checkpoint or shards are missing, damaged or do not fit each other.
    """
    folder = find_checkpoint(checkpoint)
    network = load_network(folder)
    store = open_store(data, cache_dir=cache_dir, cache_gib=cache_gib)
    store.check_scheme(network.config.scheme, f"{folder} predicts")
    trained_with = from_fields(LoaderConfig, read_config(folder)["loader"], str(folder))
    # The same pixels on every machine, however it was trained.
    loader = dataclasses.replace(
        trained_with, boxes=boxes or trained_with.boxes, num_workers=num_workers, decode="cpu"
    )
    processes = PartialState(cpu=not torch.accelerator.is_available())
    place = ProcessPlace(process=processes.process_index, num_processes=processes.num_processes)
    size_px = network.config.input_size_px
    batches = evaluation_batches(
        store,
        loader,
        CropShape(size_px=size_px, margin=network.config.crop_margin),
        split=split,
        batch_size=-(-batch_size // place.num_processes) * place.num_processes,
        place=place,
    )
    device = cast(torch.device, processes.device)
    report = evaluate(network.to(device), batches, size_px=size_px, device=device)
    return report, processes.is_main_process
