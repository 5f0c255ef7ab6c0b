"""A checkpoint as one file that runs elsewhere, checked against PyTorch before it is there."""

import dataclasses
import io
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8

from flm.checkpoint import STATE_NAME, find_checkpoint, load_network, read_config, read_json
from flm.data.loader import CropShape
from flm.data.manifest import Manifest
from flm.data.store import ShardStore, open_store
from flm.errors import InputError
from flm.fields import to_fields
from flm.files import write_whole
from flm.inference.export.agreement import Agreement, FaceCrops, compare, faces_of, random_crops
from flm.inference.export.pixel_network import PixelNetwork, traced
from flm.inference.network import FoundLandmarks
from flm.inference.onnx_network import AboutNetwork, OnnxNetwork
from flm.inference.torch_network import TorchNetwork
from flm.metrics.calibration import CALIBRATION_NAME
from flm.model.network import LandmarkNetwork
from flm.process.memory import keep_freed_memory

Precision = Literal["fp32", "half", "int8"]

MOST_DIFFERENCE_PX = 0.01
"""Between PyTorch and a file in full precision; rounding alone makes less than a thousandth."""

CALIBRATION_FACES = 256
"""That the ranges of 8 bits are taken from, of the split that is trained on."""

MEASURED_FACES = 2000
"""At most; a change of 0.01 points shows on a few hundred."""

LICENCE_NOT_TOLD = "that of the data it was trained on"
"""Stands where nothing at hand says more."""

ABOUT_FILE = "flm.json"
"""Inside a .pt2 file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """What is made of a checkpoint."""

    precision: Precision = "fp32"
    """Of the weights; `int8` needs `data`."""
    data: str | None = None
    """Shards of faces to check on, and for `int8` to take ranges from."""
    split: str = "validation"
    """That is checked on; the ranges come from `train`."""
    most_nme_change_points: float = 0.05
    """By how much `half` and `int8` may raise the error on the split, in points of a per cent."""
    licence: str = ""
    """Of the weights, one line; that of the shards that they were trained on if empty."""

    def __post_init__(self) -> None:
        if self.precision == "int8" and self.data is None:
            raise ValueError("int8 needs data, faces that say which range of numbers each layer has")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Source:
    """A checkpoint, opened."""

    folder: Path
    network: LandmarkNetwork
    about: AboutNetwork
    store: ShardStore | None

    @property
    def crop(self) -> CropShape:
        return CropShape(size_px=self.about.input_size_px, margin=self.about.crop_margin)

    def faces(self, split: str, most: int) -> Iterator[FaceCrops]:
        """Of the shards; none without any."""
        if self.store is not None:
            yield from faces_of(self.store, self.folder, self.crop, split=split, most=most)


def export_onnx(
    checkpoint: Path, file: Path, options: ExportOptions, say: Callable[[str], None] = print
) -> Agreement:
    """Write an .onnx file: pixels in, landmarks and covariance out; `OnnxNetwork` runs it.

    Pixels are uint8 (faces, size, size, 3), RGB, cut out as the file's `flm.crop_margin` says, for any number
    of faces.

    Args:
        checkpoint: a checkpoint's or a run's folder.
        file: what is written, whole or not at all.
        options: precision and data.
        say: is given a line for each thing that is known.

    Returns:
        On the faces, or on random pictures without data.

    Raises:
        InputError: there is no checkpoint, the file cannot be written, a package or the data are missing, or
            the result differs too much from PyTorch's.
    """
    check_writable(file)
    from flm.inference.export import onnx_graph  # whose packages are in an extra of their own

    source = _open(checkpoint, options, say)
    graph = onnx_graph.to_onnx(traced(PixelNetwork(source.network), source.about.input_size_px))
    if options.precision == "half":
        graph = onnx_graph.halved(graph)
    elif options.precision == "int8":
        say(f"ranges of 8 bits from {CALIBRATION_FACES} faces of train …")
        batches = [batch.pixels for batch in source.faces("train", CALIBRATION_FACES)]
        graph = onnx_graph.in_8_bits(graph, batches)
    content = onnx_graph.file_bytes(graph, source.about)
    with tempfile.TemporaryDirectory() as folder:
        unchecked = Path(folder) / file.name
        unchecked.write_bytes(content)
        agreement = _checked(source, OnnxNetwork(unchecked), options, file, say)
    write_whole(file, content)
    say(f"{file}: {len(content) / 1e6:.1f} MB, {options.precision}")
    return agreement


def export_torch(
    checkpoint: Path, file: Path, options: ExportOptions, say: Callable[[str], None] = print
) -> Agreement:
    """Write a .pt2 file of `torch.export`, in full precision; inputs and outputs as of `export_onnx`.

    `torch.export.load(FILE, extra_files={"flm.json": ""})` reads it, and what the .onnx file says of itself.

    Raises:
        InputError: as for `export_onnx`.
    """
    check_writable(file)
    options = dataclasses.replace(options, precision="fp32")
    source = _open(checkpoint, options, say)
    buffer = io.BytesIO()
    about = json.dumps(to_fields(source.about), ensure_ascii=False)
    program = traced(PixelNetwork(source.network), source.about.input_size_px)
    torch.export.save(program, buffer, extra_files={ABOUT_FILE: about})
    buffer.seek(0)
    agreement = _checked(source, _Loaded(buffer, source.network), options, file, say)
    write_whole(file, buffer.getvalue())
    say(f"{file}: {len(buffer.getvalue()) / 1e6:.1f} MB")
    return agreement


class _Loaded(TorchNetwork):
    """The program as it was read back."""

    def __init__(self, file: io.BytesIO, network: LandmarkNetwork) -> None:
        super().__init__(network)
        self.program: Any = torch.export.load(file).module()

    def find(self, crops: UInt8[np.ndarray, "faces size size 3"]) -> FoundLandmarks:
        """As of every network."""
        with torch.inference_mode():
            landmarks_unit, *covariance = self.program(torch.from_numpy(crops))
        return FoundLandmarks(
            landmarks_unit=landmarks_unit.numpy(),
            covariance_unit=covariance[0].numpy() if covariance else None,
        )


def check_writable(file: Path) -> None:
    """Raise InputError before the work is done where its result could not be written."""
    try:
        if file.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error.strerror}); choose another place") from error


def _open(checkpoint: Path, options: ExportOptions, say: Callable[[str], None]) -> _Source:
    folder = find_checkpoint(checkpoint)
    network = load_network(folder)
    store = None if options.data is None else open_store(options.data)
    if store is not None:
        store.check_scheme(network.config.scheme, f"{folder} predicts")
    keep_freed_memory()
    about = _about(folder, network, options, store)
    millions = sum(weight.numel() for weight in network.parameters()) / 1e6
    trained = about.recipe or "a network"
    at_step = "" if about.step is None else f" after {about.step:,} steps"
    say(f"{trained}{at_step}: {about.scheme}, {about.input_size_px} px, {millions:.2f} M weights")
    return _Source(folder=folder, network=network, about=about, store=store)


def _about(
    folder: Path, network: LandmarkNetwork, options: ExportOptions, store: ShardStore | None
) -> AboutNetwork:
    config = read_config(folder)
    # Weights that were passed on by themselves have no state.
    state = read_json(folder / STATE_NAME) if (folder / STATE_NAME).exists() else {}
    manifest_hash = state.get("manifest_hash", "")
    calibration = folder / CALIBRATION_NAME
    return AboutNetwork(
        scheme=network.config.scheme,
        input_size_px=network.config.input_size_px,
        crop_margin=network.config.crop_margin,
        precision=options.precision,
        recipe=config.get("recipe", ""),
        step=state.get("step"),
        manifest_hash=manifest_hash,
        licence=options.licence or _licence(config, manifest_hash, store),
        run_url=state.get("run_url") or "",
        calibration=read_json(calibration) if calibration.exists() else None,
    )


def _licence(config: dict[str, Any], manifest_hash: str, store: ShardStore | None) -> str:
    """That of the shards that it was trained on, where they can be had."""
    if store is not None and store.manifest.content_hash() == manifest_hash:
        return store.manifest.licence
    manifest = Manifest.of_training(config, manifest_hash)
    return LICENCE_NOT_TOLD if manifest is None else manifest.licence


def _checked(
    source: _Source,
    exported: OnnxNetwork | TorchNetwork,
    options: ExportOptions,
    file: Path,
    say: Callable[[str], None],
) -> Agreement:
    checks = [("random pictures", iter([random_crops(source.about.input_size_px)]))]
    if source.store is not None:
        faces = source.faces(options.split, MEASURED_FACES)
        checks.append((f"faces of {options.data} {options.split}", faces))
    agreements = []
    for what, batches in checks:
        agreement = compare(TorchNetwork(source.network), exported, batches)
        line = f"up to {agreement.difference_px:.4f} px from PyTorch on {agreement.num_crops} {what}"
        if agreement.num_faces:
            line += f": NME {agreement.nme_pct:.3f} % ({agreement.nme_change_points:+.3f} points)"
        say(line)
        mistake = _mistake(agreement, source.about.precision, options)
        if mistake is not None:
            raise InputError(f"{file} is not written: {mistake}")
        agreements.append(agreement)
    return agreements[-1]


def _mistake(agreement: Agreement, precision: Precision, options: ExportOptions) -> str | None:
    versions = "try other versions of torch, onnxscript or onnxruntime"
    if not math.isfinite(agreement.difference_px):
        return f"{precision} gives landmarks that are no numbers; {versions}"
    if precision == "fp32" and agreement.difference_px > MOST_DIFFERENCE_PX:
        return (
            f"landmarks are up to {agreement.difference_px:.4f} px from PyTorch's, at most "
            f"{MOST_DIFFERENCE_PX} are accepted; {versions}"
        )
    if agreement.nme_change_points > options.most_nme_change_points:
        return (
            f"{precision} raises the NME by {agreement.nme_change_points:.3f} points, at most "
            f"{options.most_nme_change_points} are accepted; raise --most-nme-change-points or take a higher "
            "precision"
        )
    return None
