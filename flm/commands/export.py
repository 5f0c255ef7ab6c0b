"""flm export. Parsing only."""

from pathlib import Path

import tyro

from flm.errors import InputError


def export(
    checkpoint: tyro.conf.Positional[Path],
    *,
    onnx: Path | None = None,
    torch_export: Path | None = None,
    half: bool = False,
    int8: bool = False,
    data: str | None = None,
    split: str = "validation",
    most_nme_change_points: float = 0.05,
) -> None:
    """Write a checkpoint as one file: pixels in, landmarks and covariance out; checked against PyTorch.

    An .onnx file is all that predicting needs, with onnxruntime and without PyTorch. Such as:
      flm export runs/quick --onnx quick.onnx --half
      flm export runs/quick --onnx quick.onnx --int8 --data data/300w

    Args:
        checkpoint: Folder of a checkpoint, or of a run (its best).
        onnx: The .onnx file that is written.
        torch_export: The .pt2 file of torch.export that is written.
        half: Weights of 16 bits: half the size at the same speed.
        int8: Weights and layers of 8 bits, with the ranges that faces of --data train reach.
        data: Shards to check on as well, with the change of the error: a folder or URL.
        split: Of the shards, that is checked on.
        most_nme_change_points: By how much half and int8 may raise the error, in points of a per cent.
    """
    if onnx is None and torch_export is None:
        raise InputError("nothing to write; give --onnx FILE.onnx or --torch-export FILE.pt2")
    if half and int8:
        raise InputError("--half and --int8 are two precisions; give one")
    if (half or int8) and onnx is None:
        raise InputError("--half and --int8 are for --onnx; --torch-export writes full precision")
    if int8 and data is None:
        raise InputError("--int8 needs --data SHARDS: faces say which range of numbers each layer has")
    from flm.inference.export.export import ExportOptions, export_onnx, export_torch

    options = ExportOptions(
        precision="half" if half else "int8" if int8 else "fp32",
        data=data,
        split=split,
        most_nme_change_points=most_nme_change_points,
    )
    if onnx is not None:
        export_onnx(checkpoint, onnx, options)
    if torch_export is not None:
        export_torch(checkpoint, torch_export, options)
