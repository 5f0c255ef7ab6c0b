"""A network as an ONNX graph: in full precision, with halved weights, or in 8 bits."""

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnxscript  # noqa: F401 - PyTorch's exporter needs it; told here where it is missing
import torch
from jaxtyping import UInt8
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from flm.inference.onnx_network import COVARIANCE, LANDMARKS, PIXELS, AboutNetwork

OPSET = 18
"""Of ONNX; onnxruntime reads it since 1.14."""

HALVED_FROM = 1024
"""Numbers of a tensor. Smaller ones, such as biases and the centres of cells, cost nothing as they are."""

INT8_OPERATORS = ["Conv", "Add", "MaxPool", "LeakyRelu", "Relu"]
"""Between them no number leaves its 8 bits. Coordinates are computed in float32."""

HEAD, FUSED_FEATURES = "network.head.", "network.head.fused."
"""Names of weights."""


def to_onnx(program: torch.export.ExportedProgram) -> onnx.ModelProto:
    """The graph in full precision, with batch norm folded into the convolutions."""
    names = [LANDMARKS, COVARIANCE][: len(program.graph_signature.user_outputs)]
    with _quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[PIXELS],
            output_names=names,
            opset_version=OPSET,
            optimize=True,
            verbose=False,
        )
    assert exported is not None
    return exported.model_proto


def halved(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with weights of 16 bits, each cast to 32 where it is used.

    A runtime casts them once when it loads the file, so that speed is that of full precision, on processors
    without arithmetic of 16 bits too.
    """
    result = copy.deepcopy(graph)
    weights, casts = [], []
    for weight in result.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < HALVED_FROM or np.abs(values).max() > 65504:
            weights.append(weight)
            continue
        name = f"{weight.name}_half"
        weights.append(onnx.numpy_helper.from_array(values.astype(np.float16), name))
        casts.append(onnx.helper.make_node("Cast", [name], [weight.name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *result.graph.node]
    del result.graph.initializer[:], result.graph.node[:]
    result.graph.initializer.extend(weights)
    result.graph.node.extend(nodes)
    return result


def in_8_bits(
    graph: onnx.ModelProto, batches: Sequence[UInt8[np.ndarray, "faces size size 3"]]
) -> onnx.ModelProto:
    """The graph with convolutions of 8 bits, whose ranges are those that pictures of faces reach.

    Args:
        graph: in full precision.
        batches: crops of faces.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            copy.deepcopy(graph),  # which it takes apart
            path,
            _Batches(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=INT8_OPERATORS,
            per_channel=True,
            # Weights of 7 bits: sums of two products of 8 overflow on processors without VNNI.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_coordinates_of(graph),
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(path)


class _Batches(CalibrationDataReader):
    def __init__(self, batches: Sequence[np.ndarray]) -> None:
        self.left = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As onnxruntime asks for them."""
        batch = next(self.left, None)
        return None if batch is None else {PIXELS: batch}


def _coordinates_of(graph: onnx.ModelProto) -> list[str]:
    """The nodes that make the maps, and those after them, whose numbers are coordinates."""
    names, tensors = [], set[str]()
    for node in graph.graph.node:
        makes_maps = any(HEAD in name and FUSED_FEATURES not in name for name in node.input)
        if makes_maps or any(name in tensors for name in node.input):
            names.append(node.name)
            tensors.update(node.output)
    return names


def file_bytes(graph: onnx.ModelProto, about: AboutNetwork) -> bytes:
    """The graph as a file that says what it is."""
    described = copy.deepcopy(graph)
    # What the exporter tells of each node is for its own developers, and a third of a small file.
    for item in (*described.graph.node, *described.graph.input, *described.graph.output):
        del item.metadata_props[:]
    del described.graph.metadata_props[:], described.graph.value_info[:]
    onnx.helper.set_model_props(described, about.to_texts())
    described.producer_name = "flm"
    return described.SerializeToString()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters tell on their way."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
