"""A checkpoint measured on a split of shards."""

import dataclasses
from pathlib import Path
from typing import Literal, cast

import torch
from accelerate import PartialState

from flm.checkpoint import MODEL_NAME, find_checkpoint, load_network, read_config
from flm.data.annotation_boxes import check_annotation_boxes
from flm.data.batches import Boxes, CropShape
from flm.data.loader import LoaderConfig, ProcessPlace, evaluation_batches
from flm.data.store import ShardStore, open_store
from flm.errors import InputError
from flm.evaluation.evaluate import evaluate
from flm.evaluation.report import EvalReport, MeasuredOn
from flm.fields import from_fields
from flm.files import sha256_of
from flm.inference.detector import build_detector
from flm.inference.detector_config import ANY_DETECTOR, DetectorConfig
from flm.inference.pass_config import ONE_PASS, PassConfig
from flm.metrics.calibration import Calibration
from flm.process.memory import keep_freed_memory


def evaluate_checkpoint(
    checkpoint: Path,
    data: str,
    *,
    split: str,
    boxes: Literal[Boxes, "detector"] | None = None,
    detector: DetectorConfig = ANY_DETECTOR,
    passes: PassConfig = ONE_PASS,
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
        detector: which one, for `detector`.
        passes: how often the network looks at each face.
        batch_size: over all processes.
        num_workers: reading processes of each process.
        cache_dir: where remote shards are kept; `default_cache_dir()` if None.
        cache_gib: how much of them at most.

    Returns:
        The report, with the checkpoint's calibration if it has one, and whether this is the first process,
        which tells it.

    Raises:
        InputError: checkpoint or shards are missing, damaged or do not fit each other; a number is too small.
    """
    for flag, value, least in (("--batch-size", batch_size, 1), ("--num-workers", num_workers, 0)):
        if value < least:
            raise InputError(f"{flag} is {value}, must be at least {least}")
    folder = find_checkpoint(checkpoint)
    network = load_network(folder)
    store = open_store(data, cache_dir=cache_dir, cache_gib=cache_gib)
    store.check_scheme(network.config.scheme, f"{folder} predicts")
    trained_with = from_fields(LoaderConfig, read_config(folder)["loader"], str(folder))
    # The same pixels on every machine, however it was trained.
    own_boxes: Boxes = trained_with.boxes if boxes in (None, "detector") else boxes
    loader = dataclasses.replace(trained_with, boxes=own_boxes, num_workers=num_workers, decode="cpu")
    if boxes == "annotation":
        check_annotation_boxes(store, split)
    if boxes != "detector" and detector != ANY_DETECTOR:
        raise InputError(f"the flags --detector.… are for --boxes detector, --boxes is {own_boxes}")
    processes = PartialState(cpu=not torch.accelerator.is_available())
    say = print if processes.is_main_process else _say_nothing
    place = ProcessPlace(process=processes.process_index, num_processes=processes.num_processes)
    crop = CropShape(size_px=network.config.input_size_px, margin=network.config.crop_margin)
    batches = evaluation_batches(
        store,
        loader,
        crop,
        split=split,
        batch_size=-(-batch_size // place.num_processes) * place.num_processes,
        place=place,
    )
    device = cast(torch.device, processes.device)
    if device.type == "cpu":
        keep_freed_memory()
    report = evaluate(
        network.to(device),
        batches,
        crop=crop,
        device=device,
        boxes=own_boxes,
        detector=build_detector(detector, say) if boxes == "detector" else None,
        passes=passes,
    )
    told = dataclasses.replace(
        report, calibration=Calibration.load(folder), measured_on=_measured_on(folder, store, split)
    )
    return told, processes.is_main_process


def _measured_on(checkpoint: Path, store: ShardStore, split: str) -> MeasuredOn:
    manifest = store.manifest
    return MeasuredOn(
        weights_sha256=sha256_of(checkpoint / MODEL_NAME),
        source=manifest.source,
        split=split,
        split_rule=manifest.split_rule,
        licence=manifest.licence,
        data_hash=manifest.content_hash(),
    )


def _say_nothing(line: str) -> None:
    """The first process speaks for all."""
