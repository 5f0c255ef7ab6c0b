"""The card as files: README.md, the pictures in it, and the licence that it names."""

from pathlib import Path

import cv2
import numpy as np

from flm.errors import InputError
from flm.files import write_whole
from flm.publish.about import Checkpoint, open_checkpoint
from flm.publish.card import LICENCE_FILE, CardOptions, licence_text, model_card
from flm.publish.card_sources import CardSources
from flm.publish.report_file import ReportFile, read_speed

PICTURE_FILES = {"predictions": "predictions.jpg", "plot": "ced.png", "worst": "worst.jpg"}
"""Beside the card. Faces as a PNG would be larger than the model."""


def write_card(checkpoint: Path, sources: CardSources, out: Path, *, model: str = "") -> Checkpoint:
    """Write the card, its pictures and the licence into one folder.

    Args:
        checkpoint: a checkpoint's or a run's folder.
        sources: files that the card is made of.
        out: the card's file.
        model: its name for `--checkpoint`, such as hf://USER/NAME; empty for the model that comes with flm.

    Returns:
        What the card is about.

    Raises:
        InputError: there is no checkpoint, a file is missing or another than it should be, a report is of
            other weights, or the card cannot be written.
    """
    reports = [ReportFile.read(path) for path in sources.report]
    measured_on = tuple(report.measured_on for report in reports if report.measured_on)
    opened = open_checkpoint(checkpoint, sources.data, measured_on)
    for path, report in zip(sources.report, reports, strict=True):
        of = report.measured_on
        if of is not None and of.weights_sha256 != opened.weights_sha256:
            raise InputError(
                f"{path}: was measured with other weights than {opened.folder}; run `flm evaluate` again"
            )
    pictures = _copied(sources, out.parent)
    options = CardOptions(
        model=model,
        reports=reports,
        speed=read_speed(sources.speed) if sources.speed else (),
        pictures=pictures,
        commands=sources.command,
    )
    write_whole(out, model_card(opened, options).encode())
    if not opened.is_free:
        write_whole(out.with_name(LICENCE_FILE), licence_text(opened).encode())
    return opened


def _copied(sources: CardSources, folder: Path) -> dict[str, str]:
    """The pictures, put beside the card under names of their own."""
    copied = {}
    for kind, name in PICTURE_FILES.items():
        path: Path | None = getattr(sources, kind)
        if path is None:
            continue
        try:
            picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        except OSError as error:
            raise InputError(f"--{kind} {path}: cannot be read ({error.strerror})") from error
        except cv2.error:  # an empty file
            picture = None
        if picture is None:
            raise InputError(f"--{kind} {path}: not a picture; give the file of `flm evaluate --{kind}`")
        write_whole(folder / name, cv2.imencode(Path(name).suffix, picture)[1].tobytes())
        copied[kind] = name
    return copied
