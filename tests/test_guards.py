"""Bad steps change nothing and are told, a run without memory says what to lower, no checkpoint holds NaN."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_runs import assert_equal_weights, log_of, tiny, weights_of

import flm.training.step
from flm.augment import augment
from flm.errors import InputError
from flm.model.network import LandmarkNetwork
from flm.train import train
from flm.training.config import TrainConfig
from flm.training.guards import GuardConfig, check_finite, rows_that_fit, with_visible_faults

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


def with_bad_pictures(monkeypatch, bad_steps: set[int], value: float = float("nan")) -> None:
    """Pictures of these steps, counted from 0, hold a number that is not finite."""

    def spoilt(batch, config, *, size_px, seed):
        faces = augment(batch, config, size_px=size_px, seed=seed)
        if batch.step in bad_steps:
            faces.images[0, 0, 0, 0] = value
        return faces

    monkeypatch.setattr(flm.training.step, "augment", spoilt)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_step_changes_nothing_and_its_samples_are_told(data, tmp_path, monkeypatch, capsys, value):
    config = tiny(data, tmp_path / "run", steps=4, eval_every_steps=2)
    train(dataclasses.replace(config, out=tmp_path / "before", steps=2, optimizer=config.optimizer))
    capsys.readouterr()
    with_bad_pictures(monkeypatch, {2, 3}, value)
    AcceleratorState._reset_state(reset_partial_state=True)
    train(config)
    out = capsys.readouterr().out
    warnings = log_of(tmp_path / "run", "warning")
    assert [line["step"] for line in warnings] == [3, 4]
    assert "1 in a row, 1 since the start" in warnings[0]["text"]
    assert "2 in a row, 2 since the start" in warnings[1]["text"]
    assert warnings[0]["text"].count("train_") == 8
    assert "loss or gradient is not finite" in out
    steps = [tmp_path / "run" / "checkpoints" / f"step_000000{step}" for step in (2, 4)]
    first, second = (
        {f"{part}{name}": value for part in ("model", "training") for name, value in load(step, part).items()}
        for step in steps
    )
    # Weights, moments, batch statistics and the moving average are those of step 2.
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def load(checkpoint: Path, part: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(checkpoint / f"{part}.safetensors")


def test_a_run_goes_on_after_a_bad_step(data, tmp_path, monkeypatch):
    with_bad_pictures(monkeypatch, {1, 3})
    run = train(tiny(data, tmp_path / "run", guards=GuardConfig(max_bad_steps=2)))
    assert all(tensor.isfinite().all() for tensor in weights_of(run).values())
    losses = [line["loss"] for line in log_of(run, "train")]
    assert [step for step, loss in enumerate(losses) if loss != loss] == [1, 3]


def test_too_many_bad_steps_in_a_row_stop_the_run(data, tmp_path, monkeypatch):
    with_bad_pictures(monkeypatch, {1, 2, 3})
    config = tiny(data, tmp_path / "run", guards=GuardConfig(max_bad_steps=3))
    with pytest.raises(InputError, match=r"step 4: 3 steps in a row .* --guards.max-bad-steps is 3"):
        train(config)
    for folder in (tmp_path / "run" / "checkpoints").glob("step_*"):
        for part in ("model", "training"):
            assert all(tensor.isfinite().all() for tensor in load(folder, part).values())


def test_a_loss_that_is_not_finite_makes_every_gradient_so():
    weight = torch.ones(3, requires_grad=True)
    # Its own gradient would be zero, and the other processes would see nothing of it.
    with_visible_faults((weight * 0).sum() + float("inf")).backward()
    assert weight.grad is not None
    assert weight.grad.isnan().all()
    finite = torch.ones(3, requires_grad=True)
    with_visible_faults(finite.square().sum()).backward()
    assert finite.grad is not None
    assert torch.equal(finite.grad, torch.full((3,), 2.0))


def test_numbers_that_are_not_finite_are_not_saved():
    check_finite({"weight": torch.ones(3), "count": torch.tensor(3)}, "here")
    for value in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="here: weight holds a number that is not finite"):
            check_finite({"weight": torch.tensor([1.0, value])}, "here")


def limit_memory(monkeypatch, most_rows: int, error: type[Exception] = torch.OutOfMemoryError) -> list[int]:
    """Networks that train fail on more rows at a time; gives the sizes that were tried."""
    tried: list[int] = []
    forward = LandmarkNetwork.forward

    def limited(self, images):
        if self.training:
            tried.append(len(images))
            if len(images) > most_rows:
                raise error("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return forward(self, images)

    monkeypatch.setattr(LandmarkNetwork, "forward", limited)
    return tried


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_too_little_memory_is_told_in_one_line(data, tmp_path, monkeypatch, error):
    limit_memory(monkeypatch, 4, error)
    with pytest.raises(InputError, match=r"out of memory with 8 faces at a time .*--auto-batch-size") as told:
        train(tiny(data, tmp_path / "run"))
    assert "\n" not in str(told.value)


def test_another_error_stays_what_it_is(data, tmp_path, monkeypatch):
    def fails(self, images):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(LandmarkNetwork, "forward", fails)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train(tiny(data, tmp_path / "run"))


def test_the_batch_is_computed_in_as_many_parts_as_memory_needs(data, tmp_path, monkeypatch, capsys):
    in_parts = train(tiny(data, tmp_path / "parts", accumulation_steps=4))
    AcceleratorState._reset_state(reset_partial_state=True)
    tried = limit_memory(monkeypatch, 3)
    run = train(tiny(data, tmp_path / "run", auto_batch_size=True))
    assert tried[:4] == [8, 4, 2, 2]
    assert set(tried[4:]) == {2}
    assert "--auto-batch-size: 4 parts a step, of 2 faces in each process" in capsys.readouterr().out
    # Trying it out left no trace.
    assert_equal_weights(in_parts, run)
    config = json.loads((run / "last" / "config.json").read_text())
    assert config["batch_size"] == 8
    assert config["accumulation_steps"] == 4
    # One that is through has no batch left to try.
    AcceleratorState._reset_state(reset_partial_state=True)
    train(tiny(data, tmp_path / "run", auto_batch_size=True))
    assert_equal_weights(in_parts, run)


def test_rows_that_fit_divide_the_rows():
    def attempt(most: int):
        def try_rows(rows: int) -> None:
            if rows > most:
                raise torch.OutOfMemoryError("no memory")

        return try_rows

    assert rows_that_fit(attempt(12), 12) == 12
    assert rows_that_fit(attempt(5), 12) == 3
    assert rows_that_fit(attempt(2), 12) == 1
    assert rows_that_fit(attempt(4), 15) == 1
    with pytest.raises(InputError, match="one face at a time"):
        rows_that_fit(attempt(0), 12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_bad_steps": 0}, "--guards.max-bad-steps is 0"),
        ({"timeout_s": 0.5}, "--guards.timeout-s is 0.5"),
        ({"timeout_s": float("inf")}, "--guards.timeout-s is inf"),
    ],
)
def test_bad_settings_name_their_flag(fields, message):
    with pytest.raises(ValueError, match=message):
        GuardConfig(**fields)


def test_parts_are_not_tried_with_statistics_of_all_processes():
    with pytest.raises(ValueError, match=r"--auto-batch-size .* --sync-batch-norm"):
        TrainConfig(recipe="x", auto_batch_size=True, sync_batch_norm=True)
