"""`flm`, with benchmarks that take no time; the commands, their flags and what they write are the real ones.

What takes no time stands in the place of each module that measures; the order is really measured, of fewer
faces.
The environment says which ones go wrong, such as QUICK_MISTAKES="convert=mistake train=killed demo=slow".
"""

import os
import signal
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flm.bench.figures import OURS, Bar, Figure, missing, publish_figures
from flm.bench.measure import Conditions, Row
from flm.cli import main


def rows(*margins: float) -> list[Row]:
    """One for each, that many times its bar."""
    row = Conditions("faces/s", "in no time <b>").row
    return [row(f"measure {place}", 300.0 * margin, 100.0, bar=3.0) for place, margin in enumerate(margins)]


def page(*margins: float) -> list[Figure]:
    """Likewise, of numbers that stand by themselves."""
    return [
        Figure(subject=f"page {place}", side=OURS, unit="s", value=8.0 / margin, bar=Bar("at most", 8.0))
        for place, margin in enumerate(margins)
    ]


class Faults:
    """Of three kills."""

    holds = True

    def describe(self) -> str:
        return "3 kills"

    def write_json(self, path: Path) -> None:
        path.write_text(
            '{"kills": 3, "seed": 0, "moments": {"step": 2, "saving": 1}, "same_weights": true, '
            '"same_log": true, "seconds": 1.5, "how": "two processes"}'
        )


def boxes(checkpoint: Path, data: str, detector: Any, *, out: Path, split: str, **others: Any) -> Any:
    """An error that grows with the shift."""
    import dataclasses
    import json

    from flm.bench.boxes_report import BoxReport, BoxRow, MovedBoxes

    def moved(amount: float, error: float) -> MovedBoxes:
        return MovedBoxes(
            amount=amount,
            nme_pct=error,
            worst_nme_pct=error + 0.2,
            second_pass_nme_pct=3.4,
            second_pass_worst_nme_pct=3.5,
        )

    def row(name: str, error: float) -> BoxRow:
        return BoxRow(
            boxes=name,
            num_faces=20,
            found_pct=100.0,
            nme_pct=error,
            second_pass_nme_pct=3.4,
            truth_nme_pct=3.3,
        )

    report = BoxReport(
        checkpoint=str(checkpoint),
        data=data,
        split=split,
        detector=detector.name,
        rows=(row("truth", 3.3), row("annotation", 3.6), row("detector", 3.35)),
        shifts=tuple(moved(0.05 * place, 3.3 + 0.15 * place**2) for place in range(5)),
        scales=tuple(moved(scale, 3.3 + 20 * (scale - 1) ** 2) for scale in (0.8, 0.9, 1.0, 1.1, 1.25)),
        fitted=None,
    )
    (out / "boxes.json").write_text(json.dumps(dataclasses.asdict(report)))
    return report


def predict(checkpoint: str, data: str, out: Path, **others: Any) -> None:
    """A side that holds, one that does not, one that is not there, one that should be nothing and is."""
    at_least = Bar("at least", 2.0, is_of_ratio=True)
    figures = [
        Figure(subject="landmarks of one face", side=OURS, unit="ms", value=2.5, bar=Bar("at most", 4.0)),
        missing("landmarks of one face", "dlib", "no model file given"),
        Figure(subject="picture to landmarks", side=OURS, unit="pictures/s", value=70.0),
        Figure(
            subject="picture to landmarks",
            side="dlib",
            unit="pictures/s",
            value=60.0,
            beside=1.2,
            bar=at_least,
        ),
        Figure(subject="ids of four faces", side=OURS, unit="switches", value=0.0, bar=Bar("at most", 0.0)),
    ]
    publish_figures(figures, out / "predict.json", {"model": checkpoint, "data": data})


class GpuReport:
    """Of a machine without one."""

    has_failed = False

    def text(self) -> str:
        return "no GPU here"


def gpu(data: Path, out: Path, **others: Any) -> GpuReport:
    """A figure without a bar."""
    import json

    figure = {"subject": "training", "side": "from shards", "value": 23.0, "unit": "img/s", "how": ""}
    out.write_text(json.dumps({"summary": "no GPU here", "figures": [figure]}))
    return GpuReport()


MEASURES: dict[str, dict[str, Callable[..., Any]]] = {
    "loader": {"bench_loader": lambda data, source: rows(3.4, 1.2, 0.9)},
    "convert": {"bench_convert": lambda data: rows(1.9)},
    "train": {"bench_train": lambda data, source: rows(1.03, 1.0007, 2.2)},
    "faults": {"bench_faults": lambda data, *, kills, seed: Faults()},
    "boxes": {"bench_boxes": boxes},
    "predict": {"bench_predict": predict},
    "demo": {"bench_demo": lambda checkpoint, **others: page(1.0, 1.4)},
    "gpu": {"bench_gpu": gpu},
}


MODULES = {"predict": "predict.predict", "demo": "demo.demo", "gpu": "gpu.check"}
"""Of benchmarks that are folders."""


def replace(name: str, mistake: str) -> None:
    """Put what takes no time in the place of the module that measures."""

    def fails(*_: Any, **__: Any) -> Any:
        from flm.errors import InputError

        if mistake == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if mistake == "slow":
            time.sleep(600)
        raise InputError("data/<b>: no shards here")

    module = types.ModuleType(f"flm.bench.{MODULES.get(name, name)}")
    for function, measure in MEASURES[name].items():
        setattr(module, function, fails if mistake else measure)
    sys.modules[module.__name__] = module


if __name__ == "__main__":
    mistakes = dict(pair.split("=") for pair in os.environ.get("QUICK_MISTAKES", "").split())
    for name in MEASURES:
        replace(name, mistakes.get(name, ""))
    match sys.argv[2]:
        case "order":
            import flm.bench.order

            flm.bench.order.SHARDS = 1000
        case "gpu":
            sys.modules["flm.bench.gpu.measures"] = types.SimpleNamespace(GpuLength=None)
        case "boxes":
            import flm.inference.detector

            # Whose file is somewhere else.
            flm.inference.detector.build_detector = lambda config: types.SimpleNamespace(name=config.kind)
    main()
