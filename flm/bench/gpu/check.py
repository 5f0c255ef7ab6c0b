"""What a GPU reaches: augmentation, training, the loader that feeds it, prediction. On a processor too."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch

from flm.bench.figures import Figure
from flm.bench.gpu.measures import (
    LOADER,
    RESIDENT,
    TRAINING,
    GpuLength,
    NotHereError,
    Setting,
    measure_augmentation,
    measure_compiled,
    measure_inference,
    measure_loader,
    measure_training,
)
from flm.bench.gpu.report import Check, GpuReport, checks_of_tests, failed
from flm.bench.machine import usable_threads
from flm.bench.predict.setting import limited_threads
from flm.data.store import open_store
from flm.recipes import recipe_named
from flm.runlog.trackers import TrackingConfig

RECIPES: Mapping[str, str] = MappingProxyType({"cuda": "ibug68-xception-300w", "cpu": "quickstart"})
"""What is trained, by the kind of device."""

COMPILING_S = 180.0
"""That a network takes to be compiled, with room."""

SUBJECTS: Mapping[str, Callable[[Setting], list[Figure]]] = MappingProxyType(
    {
        "measuring augmentation": measure_augmentation,
        "measuring training": measure_training,
        "measuring the loader": measure_loader,
        "measuring prediction": measure_inference,
        "measuring compiled training": measure_compiled,
    }
)


def bench_gpu(
    data: Path,
    out: Path,
    *,
    recipe: str | None = None,
    tests: Path | None = None,
    limit_s: float = 300.0,
    length: GpuLength | None = None,
) -> GpuReport:
    """Measure on the GPU, or on the processor where there is none, and write it as JSON.

    Args:
        data: folder of shards.
        out: the JSON file, written anew after each subject.
        recipe: whose network and augmentation are measured; see `RECIPES`.
        tests: results of tests to be told too, as `pytest --junit-xml` writes them.
        limit_s: no subject is begun later.
        length: how much is measured.

    Raises:
        InputError: shards, recipe or results cannot be used. What goes wrong with a subject is a check that
            failed.
    """
    began_s = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    setting = setting_of(device, data, recipe or RECIPES[device.type], length or GpuLength.of(device))
    report = GpuReport.begin(device)
    report.how = setting.describe()
    report.checks += checks_of_tests(tests) if tests else []
    with limited_threads(usable_threads()):
        for name, subject in SUBJECTS.items():
            print(f"{name} …", flush=True)
            started_s = time.monotonic()
            try:
                left_s = limit_s - (started_s - began_s)
                if left_s <= (COMPILING_S if subject is measure_compiled else 0):
                    raise NotHereError(f"no time left of {limit_s:.0f} s")
                report.figures += subject(setting)
                check = Check(name=name, status="passed", seconds=time.monotonic() - started_s)
            except NotHereError as reason:
                check = Check(name=name, status="skipped", reason=str(reason))
            except Exception as error:  # whatever a driver may raise is a finding, and ends nothing else
                check = failed(name, error, time.monotonic() - started_s)
            report.checks.append(check)
            report.write_json(out)
    report.figures += feeding(report.figures)
    report.write_json(out)
    return report


def feeding(figures: Sequence[Figure]) -> list[Figure]:
    """How many times as quick as training the loader is, where both were measured."""
    rates = {(figure.subject, figure.side): figure.value for figure in figures}
    trained = rates.get((TRAINING, RESIDENT))
    return [
        Figure(subject=f"{LOADER} beside training", side=side, unit="times", value=rate / trained)
        for (subject, side), rate in rates.items()
        if subject == LOADER and rate and trained
    ]


def setting_of(device: torch.device, data: Path, recipe: str, length: GpuLength) -> Setting:
    """A recipe without weights from elsewhere, its log, or more workers than there are threads.

    Raises:
        InputError: there is no such recipe, or the shards are of another scheme.
    """
    config = recipe_named(recipe)
    workers = min(config.loader.num_workers, usable_threads())
    config = dataclasses.replace(
        config,
        data=str(data),
        steps=10**6,
        model=dataclasses.replace(config.model, pretrained=False),
        loader=dataclasses.replace(config.loader, num_workers=workers),
        tracking=TrackingConfig(tracker="none"),
    )
    open_store(data).check_scheme(config.model.scheme, f"the recipe {recipe} is of")
    is_old = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return Setting(device=device, config=config, precision="fp16" if is_old else "bf16", length=length)
