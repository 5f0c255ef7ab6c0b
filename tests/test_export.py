"""A checkpoint becomes a file that says the same, tells what it is, and is not there when it does not."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import safetensors.torch
import torch

from flm.cli import main
from flm.data.loader import LoaderConfig
from flm.errors import InputError
from flm.fields import to_fields
from flm.inference.export import onnx_graph
from flm.inference.export.agreement import FaceCrops, compare, random_crops
from flm.inference.export.export import ExportOptions, export_onnx, export_torch
from flm.inference.network import FoundLandmarks
from flm.inference.onnx_network import OnnxNetwork
from flm.inference.torch_network import TorchNetwork
from flm.landmarks import IBUG_68
from flm.model.network import LandmarkNetwork, ModelConfig, build_network

SIZE_PX = 64
CALIBRATION = {"schema_version": 1, "scales": [1.25]}
ANY_CHANGE = 1e6


class Trained(NamedTuple):
    checkpoint: Path
    network: LandmarkNetwork
    data: Path


class Exported(NamedTuple):
    file: Path
    lines: list[str]
    program: torch.export.ExportedProgram
    graph: onnx.ModelProto


def write_checkpoint(folder: Path, network: LandmarkNetwork, data: Path, manifest_hash: str) -> None:
    folder.mkdir(parents=True)
    fields = {
        "schema_version": 1,
        "recipe": "tiny",
        "data": str(data),
        "model": to_fields(network.config),
        "loader": to_fields(LoaderConfig()),
    }
    (folder / "config.json").write_text(json.dumps(fields))
    state = {"step": 1200, "manifest_hash": manifest_hash, "run_url": "https://wandb.ai/ann/faces/runs/1"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "calibration.json").write_text(json.dumps(CALIBRATION))
    safetensors.torch.save_file(network.state_dict(), folder / "model.safetensors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_shards) -> Trained:
    """A network that has seen a few faces, so that batch norm has something to fold."""
    root = tmp_path_factory.mktemp("export")
    manifest = make_shards(root / "shards", {"train": 16, "validation": 12})
    torch.manual_seed(0)
    config = ModelConfig(backbone="xception_compact_slim", input_size_px=SIZE_PX, crop_margin=0.25)
    network = build_network(config)
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(4, 3, SIZE_PX, SIZE_PX))
    network.eval()
    write_checkpoint(root / "run", network, root / "shards", manifest.content_hash())
    return Trained(root / "run", network, root / "shards")


@pytest.fixture(scope="module")
def exported(trained) -> Exported:
    """In full precision, once for all tests, as an export takes seconds."""
    file, lines = trained.checkpoint.parent / "new folder" / "fp32.onnx", []
    kept: list[Any] = []
    to_onnx = onnx_graph.to_onnx

    def keep(program: torch.export.ExportedProgram) -> onnx.ModelProto:
        kept.extend([program, to_onnx(program)])
        return kept[1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_graph, "to_onnx", keep)
        export_onnx(trained.checkpoint, file, ExportOptions(data=str(trained.data)), lines.append)
    return Exported(file, lines, *kept)


@pytest.fixture
def quick(exported, monkeypatch):
    """Takes the program and the graph that were made before, or what a test makes of the graph."""

    def take(graph: onnx.ModelProto = exported.graph) -> None:
        monkeypatch.setattr("flm.inference.export.export.traced", lambda network, size_px: exported.program)
        monkeypatch.setattr(onnx_graph, "to_onnx", lambda program: copy.deepcopy(graph))

    take()
    return take


def crops(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, SIZE_PX, SIZE_PX, 3)).astype(np.uint8)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_file_says_what_the_network_says(trained, exported, count):
    ours = TorchNetwork(trained.network).find(crops(count))
    theirs = OnnxNetwork(exported.file, threads=1).find(crops(count))
    np.testing.assert_allclose(theirs.landmarks_unit * SIZE_PX, ours.landmarks_unit * SIZE_PX, atol=0.01)
    assert ours.covariance_unit is not None
    assert theirs.covariance_unit is not None
    np.testing.assert_allclose(theirs.covariance_unit, ours.covariance_unit, rtol=1e-3, atol=1e-7)


def test_the_file_alone_is_enough_to_predict(trained, exported):
    about = OnnxNetwork(exported.file).about
    assert (about.scheme, about.input_size_px, about.crop_margin) == ("ibug-68", SIZE_PX, 0.25)
    assert (about.recipe, about.step, about.precision) == ("tiny", 1200, "fp32")
    state = json.loads((trained.checkpoint / "state.json").read_text())
    assert (about.manifest_hash, about.run_url) == (state["manifest_hash"], state["run_url"])
    assert about.licence == "MIT"  # of the shards
    assert about.calibration == CALIBRATION


def test_what_was_checked_is_told(exported):
    what, random, faces, size = exported.lines
    assert what.startswith("tiny after 1,200 steps: ibug-68, 64 px, ")
    assert "px from PyTorch on 8 random pictures" in random
    assert "12 faces of" in faces
    assert "NME" in faces
    assert str(exported.file) in size
    assert size.endswith("MB, fp32")


def test_batch_norm_is_folded_and_nothing_is_left_beside(exported):
    graph = onnx.load(exported.file).graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert not any(node.metadata_props for node in graph.node)
    assert [path.name for path in exported.file.parent.iterdir()] == [exported.file.name]


def test_half_is_half_as_large_and_hardly_another(trained, exported, quick, tmp_path):
    file = tmp_path / "half.onnx"
    options = ExportOptions(precision="half", data=str(trained.data))
    agreement = export_onnx(trained.checkpoint, file, options, lambda line: None)
    assert file.stat().st_size < 0.56 * exported.file.stat().st_size
    assert 0 < agreement.difference_px < 0.1
    assert agreement.num_faces == 12
    assert abs(agreement.nme_change_points) <= 0.05
    assert OnnxNetwork(file).about.precision == "half"


def test_8_bits_are_a_third_as_large_and_keep_coordinates_in_float(trained, exported, quick, tmp_path):
    file = tmp_path / "int8.onnx"
    options = ExportOptions(precision="int8", data=str(trained.data), most_nme_change_points=ANY_CHANGE)
    agreement = export_onnx(trained.checkpoint, file, options, lambda line: None)
    assert file.stat().st_size < 0.45 * exported.file.stat().st_size
    assert agreement.difference_px < 2
    graph = onnx.load(file).graph
    of_8_bits = {weight.name for weight in graph.initializer if weight.data_type == onnx.TensorProto.INT8}
    assert any("backbone" in name for name in of_8_bits)
    assert any("head.fused" in name for name in of_8_bits)
    assert not any("head.maps" in name for name in of_8_bits)
    ours, theirs = TorchNetwork(trained.network), OnnxNetwork(file)
    faces = crops(3)
    covariance = theirs.find(faces).covariance_unit
    assert covariance is not None
    assert (np.linalg.eigvalsh(covariance) > 0).all()
    assert not np.array_equal(theirs.find(faces).landmarks_unit, ours.find(faces).landmarks_unit)


def test_a_precision_that_costs_too_much_leaves_what_was_there(trained, quick, tmp_path):
    file = tmp_path / "half.onnx"
    file.write_bytes(b"before")
    options = ExportOptions(precision="half", data=str(trained.data), most_nme_change_points=-1e-9)
    broken = halve_a_bias(onnx_graph.to_onnx(None))
    quick(broken)
    with pytest.raises(InputError, match=r"half raises the NME by .* points, at most"):
        export_onnx(trained.checkpoint, file, options, lambda line: None)
    assert file.read_bytes() == b"before"


def test_a_file_that_says_something_else_is_not_written(trained, quick, tmp_path):
    quick(halve_a_bias(onnx_graph.to_onnx(None)))
    with pytest.raises(InputError, match=r"is not written: landmarks are up to .* px from PyTorch's"):
        export_onnx(trained.checkpoint, tmp_path / "a.onnx", ExportOptions(), lambda line: None)
    assert not list(tmp_path.iterdir())


def halve_a_bias(graph: onnx.ModelProto) -> onnx.ModelProto:
    """With one landmark's map far from what it was."""
    result = copy.deepcopy(graph)
    maps = next(weight for weight in result.graph.initializer if weight.name.endswith("head.maps.weight"))
    values = onnx.numpy_helper.to_array(maps).copy()
    values[:] *= 30
    maps.CopyFrom(onnx.numpy_helper.from_array(values, maps.name))
    return result


def test_a_program_of_torch_export_takes_any_number_of_faces(trained, quick, tmp_path):
    file = tmp_path / "network.pt2"
    agreement = export_torch(trained.checkpoint, file, ExportOptions(), lambda line: None)
    assert agreement.difference_px < 0.01
    about = {"flm.json": ""}
    program = torch.export.load(file, extra_files=about).module()
    assert json.loads(about["flm.json"])["step"] == 1200
    for count in (1, 3):
        landmarks_unit, _ = program(torch.from_numpy(crops(count)))
        ours = TorchNetwork(trained.network).find(crops(count))
        np.testing.assert_allclose(landmarks_unit.detach().numpy(), ours.landmarks_unit, atol=1e-5)


class Shifted:
    """Says what the truth is, and how far beside it."""

    scheme, input_size_px, crop_margin = IBUG_68, SIZE_PX, 0.25

    def __init__(self, truth_crop: np.ndarray, by_px: float) -> None:
        self.landmarks_unit = ((truth_crop + by_px + 0.5) / SIZE_PX).astype(np.float32)

    def find(self, crops: np.ndarray) -> FoundLandmarks:
        return FoundLandmarks(landmarks_unit=self.landmarks_unit, covariance_unit=None)


def test_differences_and_errors_are_those_that_were_made():
    truth = np.random.default_rng(0).uniform(0, SIZE_PX, (2, 68, 2))
    truth[:, 36], truth[:, 45] = [10, 30], [50, 30]
    batch = FaceCrops(pixels=crops(2), landmarks_crop=truth)
    agreement = compare(Shifted(truth, 1), Shifted(truth, 3), [batch, batch])
    assert agreement.difference_px == pytest.approx(2, rel=1e-4)
    assert agreement.num_crops == agreement.num_faces == 4
    assert agreement.reference_nme_pct == pytest.approx(100 * 2**0.5 / 40, rel=1e-4)
    assert agreement.nme_change_points == pytest.approx(100 * 2 * 2**0.5 / 40, rel=1e-4)
    unknown = dataclasses.replace(batch, landmarks_crop=None)
    assert compare(Shifted(truth, 0), Shifted(truth, np.nan), [unknown]).difference_px == np.inf


def test_random_pictures_are_the_same_each_time():
    pixels = random_crops(SIZE_PX).pixels
    assert pixels.shape == (8, SIZE_PX, SIZE_PX, 3)
    np.testing.assert_array_equal(pixels, random_crops(SIZE_PX).pixels)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "nothing to write; give --onnx FILE.onnx or --torch-export FILE.pt2"),
        ("--onnx OUT/a.onnx --half --int8 --data DATA", "--half and --int8 are two precisions"),
        ("--onnx OUT/a.onnx --int8", "--int8 needs --data SHARDS"),
        ("--torch-export OUT/a.pt2 --half", "--half and --int8 are for --onnx"),
        ("--onnx OUT/file/a.onnx", "cannot be written"),
        ("--onnx OUT", "cannot be written"),
        ("--torch-export OUT/file/a.pt2", "cannot be written"),
        ("--onnx OUT/a.onnx --data OUT", "there are no shards here"),
        ("--onnx OUT/a.onnx --int8 --data DATA --split moon", "no split 'moon'"),
    ],
)
def test_bad_input_is_one_line(trained, quick, tmp_path, capsys, words, expected):
    (tmp_path / "file").write_text("")
    words = words.replace("OUT", str(tmp_path)).replace("DATA", str(trained.data)).split()
    with pytest.raises(SystemExit) as stop:
        main(["export", str(trained.checkpoint), *words])
    assert stop.value.code == 2
    last = capsys.readouterr().err
    assert last.startswith("error: ")
    assert expected in last
    assert last.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_is_no_checkpoint(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["export", str(tmp_path), "--onnx", str(tmp_path / "a.onnx")])
    assert stop.value.code == 2
    assert "no checkpoint here" in capsys.readouterr().err
