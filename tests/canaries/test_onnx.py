"""What PyTorch's exporter and onnxruntime do that flm.inference.export.onnx_graph builds on."""

import collections
import io
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flm.inference.export.onnx_graph import OPSET, to_onnx


class Small(nn.Module):
    """A seam of each kind: bytes in, batch norm, maps enlarged, a softmax over cells."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(self.conv(pixels.permute(0, 3, 1, 2).float() / 255))
        maps = F.interpolate(x, (16, 16), mode="bilinear", align_corners=False).flatten(2).softmax(dim=2)
        centers = (torch.arange(256) + 0.5) / 256
        return maps @ centers, maps.sum(dim=2)


@pytest.fixture(scope="module")
def small() -> Small:
    torch.manual_seed(0)
    network = Small()
    network(torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8))  # moves the statistics
    return network.eval()


@pytest.fixture(scope="module")
def graph(small: Small) -> onnx.ModelProto:
    pixels = torch.zeros((2, 8, 8, 3), dtype=torch.uint8)
    with torch.no_grad():
        program = torch.export.export(
            small, (pixels,), dynamic_shapes=({0: torch.export.Dim("faces", min=1)},)
        )
    return to_onnx(program)


@pytest.mark.parametrize("faces", [1, 2, 5])
def test_the_batch_is_free(small: Small, graph: onnx.ModelProto, faces: int) -> None:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(faces).integers(0, 256, (faces, 8, 8, 3)).astype(np.uint8)
    found = session.run(None, {"pixels": pixels})
    with torch.no_grad():
        expected = small(torch.from_numpy(pixels))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-5, atol=1e-6)


def test_batch_norm_is_folded_and_names_of_weights_stay(graph: onnx.ModelProto) -> None:
    kinds = collections.Counter(node.op_type for node in graph.graph.node)
    assert kinds["Conv"] == 1
    assert "BatchNormalization" not in kinds
    assert graph.opset_import[0].version == OPSET
    assert "conv.weight" in {weight.name for weight in graph.graph.initializer}


def test_a_cast_of_a_weight_is_done_once_when_the_file_is_loaded(tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float16), "half")
    nodes = [
        onnx.helper.make_node("Cast", ["half"], ["weight"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Conv", ["x", "weight"], ["y"]),
    ]
    shapes = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, 8, 8])
        for name, channels in (("x", 3), ("y", 4))
    ]
    made = onnx.helper.make_graph(nodes, "cast", shapes[:1], shapes[1:], [weight])
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(made, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(tmp_path / "loaded.onnx")
    assert [node.op_type for node in loaded.graph.node] == ["Conv"]


def test_a_program_keeps_a_file_of_ours(small: Small) -> None:
    program = torch.export.export(small, (torch.zeros((2, 8, 8, 3), dtype=torch.uint8),))
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"flm.json": "about"})
    buffer.seek(0)
    files = {"flm.json": ""}
    torch.export.load(buffer, extra_files=files)
    assert files["flm.json"] in ("about", b"about")
