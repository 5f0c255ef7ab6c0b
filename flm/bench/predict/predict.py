"""From pictures and videos to landmarks, ours beside others: the same pictures and threads, in turns."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import cv2

from flm.bench.figures import OURS, Figure, missing, publish_figures
from flm.bench.machine import load_average, processor, usable_threads, versions_of
from flm.bench.predict.ids import SUBJECT as IDS
from flm.bench.predict.ids import measure_ids
from flm.bench.predict.landmarks import ONE, measure_landmarks
from flm.bench.predict.pictures import SUBJECT as PICTURES
from flm.bench.predict.pictures import measure_pictures
from flm.bench.predict.setting import PredictLength, Setting, limited_threads
from flm.bench.predict.start import SUBJECT as START
from flm.bench.predict.start import measure_start
from flm.bench.predict.steadiness import JITTER, measure_steadiness
from flm.bench.predict.turned import SUBJECT as TURNED
from flm.bench.predict.turned import measure_turned
from flm.bench.predict.video import SUBJECT as VIDEO
from flm.bench.predict.video import measure_video
from flm.checkpoint import MODEL_NAME
from flm.data.store import open_store
from flm.errors import InputError
from flm.inference.detector_config import ANY_DETECTOR, DetectorConfig
from flm.inference.load import ONNX_NAME, ONNX_SUFFIX, find_model, load
from flm.process.memory import keep_freed_memory

REPORT_NAME = "predict.json"

Subject = Callable[[Setting], list[Figure]]
SUBJECTS: Mapping[str, Subject] = MappingProxyType(
    {
        ONE: measure_landmarks,
        PICTURES: measure_pictures,
        TURNED: measure_turned,
        VIDEO: measure_video,
        JITTER: measure_steadiness,
        IDS: measure_ids,
        START: measure_start,
    }
)
"""By the first thing that each measures."""


def bench_predict(
    checkpoint: str,
    data: str,
    out: Path,
    *,
    split: str = "validation",
    detector: DetectorConfig = ANY_DETECTOR,
    dlib_model: Path | None = None,
    length: PredictLength | None = None,
    threads: int,
) -> list[Figure]:
    """Measure, print the table, and write predict.json and pictures into a folder.

    Args:
        checkpoint: as `flm.load` takes it; one for PyTorch is exported first.
        data: folder of shards, or its URL.
        out: folder, made if missing.
        split: whose faces are measured on.
        detector: ours.
        dlib_model: dlib's file of its 68-point predictor, which is left out without it.
        length: how much is measured.
        threads: of every side that takes them.

    Raises:
        InputError: model, detector, shards or folder cannot be used. What fails of a single subject is told
            in its line.
    """
    if threads < 1:
        raise InputError(f"--threads is {threads}, expected at least 1")
    keep_freed_memory()
    load_before = load_average()
    store = open_store(data)
    with limited_threads(threads), _exported(checkpoint) as (onnx, folder):
        predictor = load(onnx, detector=detector, threads=threads)
        store.check_scheme(predictor.scheme.name, f"{checkpoint} predicts")
        setting = Setting(
            predictor=predictor,
            onnx=onnx,
            checkpoint=folder,
            data=data,
            split=split,
            out=out,
            length=length or PredictLength(),
            threads=threads,
            dlib_model=dlib_model,
            detector_flags=detector.flags(),
        )
        # Told before anything is measured if they cannot be had.
        used = setting.detector.name
        _make(out)
        figures = measure(setting, SUBJECTS)
    what = {"model": checkpoint, "detector": used, "data": data, "load before": load_before}
    publish_figures(figures, out / REPORT_NAME, {**what, **conditions(setting)})
    return figures


def measure(setting: Setting, subjects: Mapping[str, Subject]) -> list[Figure]:
    """All subjects, one after the other; one that cannot be measured says why and stops no other."""
    figures: list[Figure] = []
    for name, subject in subjects.items():
        print(f"{name} …", flush=True)
        try:
            figures += subject(setting)
        except InputError as mistake:
            figures.append(missing(name, OURS, str(mistake)))
    return figures


def conditions(setting: Setting) -> dict[str, object]:
    """What the numbers hang on beside model and data."""
    versions = {**versions_of(("onnxruntime", "torch", "dlib-bin")), "OpenCV": cv2.__version__}
    return {
        "split": setting.split,
        "threads": setting.threads,
        "turns": setting.length.turns,
        "processor": processor(),
        "cores": usable_threads(),
        "versions": ", ".join(f"{package} {version}" for package, version in versions.items()),
    }


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be made ({error.strerror}); choose another place") from error


@contextlib.contextmanager
def _exported(checkpoint: str) -> Iterator[tuple[Path, Path | None]]:
    """The model as an .onnx file, and the checkpoint that it is out of."""
    path = find_model(checkpoint)
    if path.suffix == ONNX_SUFFIX:
        # A model that is passed on may have both.
        is_pair = path.name == ONNX_NAME and (path.parent / MODEL_NAME).is_file()
        yield path, path.parent if is_pair else None
        return
    from flm.inference.export.export import ExportOptions, export_onnx

    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        export_onnx(path, onnx, ExportOptions())
        yield onnx, path
