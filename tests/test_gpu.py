"""What a GPU does as well as the processor; the same on the processor, where that says something too.

`bash launch/gpu_check.sh` runs all tests marked `gpu` and writes down how they ended.
"""

import copy
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import REPOSITORY, draw_face
from tiny_runs import tiny

from flm.augment import augment
from flm.errors import InputError
from flm.inference.load import find_model
from flm.inference.onnx_network import OnnxNetwork
from flm.inference.torch_network import TorchNetwork
from flm.model.network import ModelConfig, build_network
from flm.training.optimization import OptimizerConfig, build_optimizer
from flm.training.resume import restore, save
from flm.training.run import Run, build
from flm.training.step import train_step

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("fresh_accelerator")]

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=on_cuda)]
CLOSE_UNIT = 2e-3
"""Of the crop's side. GPUs multiply float32 with the mantissa of TF32, as PyTorch lets convolutions do."""
SMALL = ModelConfig(backbone="xception_compact_slim", input_size_px=64, head_channels=32)


def run_on(device: str, data: Path, out: Path, monkeypatch, *, precision: str = "no", **changes) -> Run:
    """A training on a device, as `accelerate launch` would start it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true" if device == "cpu" else "false")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    run = build(tiny(data, out, **{"steps": 12, **changes}))
    assert run.accelerator.device.type == device
    return run


def make_steps(run: Run, count: int) -> list[float]:
    """The losses of the next steps."""
    losses = []
    for batch in itertools.islice(run.training_batches(), count):
        losses.append(train_step(run, batch)["total"].item())
        run.step += 1
    return losses


def crops_of(count: int, size_px: int) -> np.ndarray:
    return np.stack([draw_face(seed, size_px)[0] for seed in range(count)])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_training_learns_in_each_precision(data, tmp_path, monkeypatch, device, precision):
    if (device, precision) == ("cpu", "fp16"):
        pytest.skip("fp16 and its gradient scaler need a CUDA device")
    run = run_on(device, data, tmp_path, monkeypatch, precision=precision)
    assert (run.accelerator.scaler is not None) == (precision == "fp16")
    losses = make_steps(run, 12)
    assert all(map(math.isfinite, losses))
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert {weight.dtype for weight in run.network.parameters()} == {torch.float32}
    assert run.guards.bad_steps.num_in_a_row == 0


@on_cuda
def test_the_gradient_scaler_goes_into_a_checkpoint_and_out(data, tmp_path, monkeypatch):
    run = run_on("cuda", data, tmp_path, monkeypatch, precision="fp16")
    make_steps(run, 2)
    scaler = run.accelerator.scaler
    assert scaler is not None
    scaler.update(512.0)
    save(run)
    run.writer.wait()
    again = run_on("cuda", data, tmp_path, monkeypatch, precision="fp16")
    assert restore(again)
    scaler = again.accelerator.scaler
    assert scaler is not None
    assert scaler.get_scale() == 512.0


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_that_is_not_finite_changes_nothing(data, tmp_path, monkeypatch, device):
    def spoilt(batch, config, *, size_px, seed):
        faces = augment(batch, config, size_px=size_px, seed=seed)
        if batch.step == 2:
            faces.images[0, 0, 0, 0] = math.nan
        return faces

    run = run_on(device, data, tmp_path, monkeypatch, precision="bf16")
    monkeypatch.setattr("flm.training.step.augment", spoilt)
    make_steps(run, 2)
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    (loss,) = make_steps(run, 1)
    assert math.isnan(loss)
    assert all(torch.equal(value, before[name]) for name, value in run.network.state_dict().items())
    (loss,) = make_steps(run, 1)
    assert math.isfinite(loss)
    assert not torch.equal(next(run.network.parameters()), next(iter(before.values())))


@pytest.mark.parametrize("device", DEVICES)
def test_the_fused_optimizer_is_the_plain_one(device):
    plain_network = build_network(SMALL)
    fused_network = copy.deepcopy(plain_network).to(device)
    config = OptimizerConfig(kind="adamw", learning_rate=1e-2)
    fused = build_optimizer(fused_network, config)
    assert fused.defaults["fused"]
    groups = build_optimizer(plain_network, config).param_groups
    plain = torch.optim.AdamW(
        [{key: group[key] for key in ("params", "lr", "weight_decay")} for group in groups], foreach=False
    )
    torch.manual_seed(0)
    for _ in range(3):
        for mine, theirs in zip(fused_network.parameters(), plain_network.parameters(), strict=True):
            theirs.grad = torch.randn_like(theirs)
            mine.grad = theirs.grad.to(device)
        fused.step()
        plain.step()
    for mine, theirs in zip(fused_network.parameters(), plain_network.parameters(), strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_the_memory_format_changes_no_landmark(data, tmp_path, monkeypatch, device):
    run = run_on(device, data, tmp_path, monkeypatch, channels_last=True)
    make_steps(run, 1)
    filters = [weight for weight in run.network.parameters() if weight.ndim == 4 and min(weight.shape) > 1]
    assert filters
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in filters)
    network = run.network.eval()
    contiguous = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    images = torch.rand(3, 3, 64, 64, device=device)
    with torch.inference_mode():
        ours, theirs = network(images.to(memory_format=torch.channels_last)), contiguous(images)
    torch.testing.assert_close(ours.landmarks_unit, theirs.landmarks_unit, rtol=0, atol=CLOSE_UNIT)


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("device", DEVICES)
def test_a_compiled_network_trains_alike(data, tmp_path, device):
    # On the processor only what is captured is looked at: its C++ compiler takes minutes.
    backend = "eager" if device == "cpu" else "inductor"
    program = REPOSITORY / "tests" / "programs" / "compiled_steps.py"
    done = subprocess.run(
        [sys.executable, program, data, tmp_path, backend],
        env={**os.environ, "ACCELERATE_USE_CPU": "true" if device == "cpu" else "false"},
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["graphs"] >= 1
    assert told["compiled"] == pytest.approx(told["eager"], rel=0.02)


@pytest.mark.parametrize(
    ("device", "next_device"),
    [("cpu", "cpu"), pytest.param("cpu", "cuda", marks=on_cuda), pytest.param("cuda", "cpu", marks=on_cuda)],
)
def test_a_training_goes_on_on_another_device(data, tmp_path, monkeypatch, device, next_device):
    run = run_on(device, data, tmp_path, monkeypatch)
    make_steps(run, 3)
    save(run)
    run.writer.wait()
    moved = run_on(next_device, data, tmp_path, monkeypatch)
    assert restore(moved)
    assert moved.step == 3
    for mine, theirs in zip(moved.network.parameters(), run.network.parameters(), strict=True):
        assert mine.device.type == next_device
        assert torch.equal(mine.cpu(), theirs.cpu())
    assert make_steps(moved, 2) == pytest.approx(make_steps(run, 2), rel=0.02)


@pytest.mark.parametrize("device", DEVICES)
def test_prediction_is_that_of_the_processor(device):
    torch.manual_seed(1)
    network, crops = build_network(SMALL), crops_of(5, 64)
    expected = TorchNetwork(copy.deepcopy(network)).find(crops)
    found = TorchNetwork(copy.deepcopy(network), device).find(crops)
    np.testing.assert_allclose(found.landmarks_unit, expected.landmarks_unit, rtol=0, atol=CLOSE_UNIT)
    quick = TorchNetwork(network, device, "bf16").find(crops)
    np.testing.assert_allclose(quick.landmarks_unit, expected.landmarks_unit, rtol=0, atol=0.02)


@pytest.mark.parametrize("device", DEVICES)
def test_onnxruntime_finds_on_a_device_what_it_finds_on_the_processor(device):
    if device == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA; install onnxruntime-gpu in its place")
    try:
        path = find_model("default")
    except InputError as mistake:
        pytest.skip(str(mistake))
    network = OnnxNetwork(path, device=device)
    crops = crops_of(6, network.input_size_px)
    alone = OnnxNetwork(path, threads=1)
    expected = np.concatenate([alone.find(crop[None]).landmarks_unit for crop in crops])
    np.testing.assert_allclose(network.find(crops).landmarks_unit, expected, rtol=0, atol=CLOSE_UNIT)
