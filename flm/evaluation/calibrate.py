"""A checkpoint's uncertainty calibrated on the validation split."""

from pathlib import Path

from flm.checkpoint import find_checkpoint
from flm.data.store import open_store
from flm.errors import warn
from flm.evaluation.evaluate_checkpoint import evaluate_checkpoint
from flm.evaluation.report import describe_reliability
from flm.metrics.calibration import CALIBRATION_NAME, Calibration, face_reliability, fit_calibration


def calibrate(
    checkpoint: Path,
    data: str,
    *,
    split: str = "validation",
    per_point: bool = True,
    batch_size: int = 64,
    num_workers: int = 1,
    cache_dir: Path | None = None,
    cache_gib: float = 50.0,
) -> Calibration:
    """Fit a calibration and write it beside the weights, where prediction and evaluation find it.

    The other files of the checkpoint stay as they are, and so do their hashes.

    Args:
        checkpoint: a checkpoint's or a run's folder.
        data: folder of shards, or its URL.
        split: that nothing was trained on, and nothing is reported on.
        per_point: a scale for each point, or one for all.
        batch_size: over all processes.
        num_workers: reading processes of each process.
        cache_dir: where remote shards are kept; `default_cache_dir()` if None.
        cache_gib: how much of them at most.

    Raises:
        InputError: checkpoint or shards are missing, damaged or do not fit each other; the network gives no
            covariance; there are too few faces.
    """
    folder = find_checkpoint(checkpoint)
    report, is_first = evaluate_checkpoint(
        folder,
        data,
        split=split,
        batch_size=batch_size,
        num_workers=num_workers,
        cache_dir=cache_dir,
        cache_gib=cache_gib,
    )
    points, nme = report.errors.points, report.errors.nme
    assert points is not None
    store = open_store(data, cache_dir=cache_dir, cache_gib=cache_gib)
    data_hash = store.manifest.content_hash()
    calibration = fit_calibration(points, nme, per_point=per_point, split=split, data_hash=data_hash)
    if is_first:
        if split == "test":
            warn("calibrated on test: numbers about uncertainty on this split are no test of it any more")
        calibration.write(folder)
        for name, applied in (("before", None), ("after", calibration)):
            reliability = face_reliability(points, nme, applied)
            assert reliability is not None
            print(f"{name:>6}: {describe_reliability(reliability)}")
        print(f"{folder / CALIBRATION_NAME}: fitted to {len(nme)} faces of {split}")
    return calibration
