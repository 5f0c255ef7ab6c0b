"""A run learns, can be taken up again bit for bit, and tells mistakes before it begins."""

import dataclasses
import json

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_runs import assert_equal_weights, log_of, tiny, weights_of

from flm.augment import AugmentConfig
from flm.checkpoint import CheckpointConfig
from flm.data.loader import LoaderConfig
from flm.errors import InputError
from flm.model.network import ModelConfig
from flm.train import main, train
from flm.training.optimization import OptimizerConfig

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


def test_a_run_learns_and_leaves_what_it_promises(data, tmp_path):
    config = tiny(
        data,
        tmp_path / "run",
        steps=60,
        eval_every_steps=30,
        augment=AugmentConfig(),
        optimizer=OptimizerConfig(learning_rate=4e-3, warmup_steps=5, ema_decay=0.8),
        model=ModelConfig(backbone="xception_compact_slim", input_size_px=64, head_channels=32),
    )
    run = train(config)
    losses = [line["loss"] for line in log_of(run, "train")]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    first, last = log_of(run, "validation")
    assert last["nme_pct"] < first["nme_pct"]
    for name in ("config.json", "log.jsonl", "best/model.safetensors", "last/training.safetensors"):
        assert (run / name).is_file()
    line = log_of(run, "train")[-1]
    assert line["step"] == 60
    for key in (
        "epoch",
        "learning_rate",
        "images_per_s",
        "data_wait_pct",
        "memory_gib",
        "eta_s",
        "gradient_norm",
    ):
        assert line[key] >= 0


@pytest.mark.parametrize("workers", [0, 1])
def test_stopping_and_going_on_gives_the_same_weights_bit_for_bit(data, tmp_path, workers):
    loader = LoaderConfig(num_workers=workers)
    whole = train(tiny(data, tmp_path / "whole", loader=loader))
    AcceleratorState._reset_state(reset_partial_state=True)
    # Evaluated and saved at step 3, in the middle of the first epoch of 40 faces; then taken up again.
    parted = tiny(data, tmp_path / "parted", loader=loader, checkpoint=CheckpointConfig(keep=5))
    train(parted)
    (parted.run / "last").unlink()
    (parted.run / "last").symlink_to("checkpoints/step_0000003")
    AcceleratorState._reset_state(reset_partial_state=True)
    train(parted)
    assert_equal_weights(whole, parted.run)
    steps = [line["step"] for line in log_of(parted.run, "train")]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_accumulating_gives_the_gradient_of_the_whole_batch(data, tmp_path):
    # Without batch statistics and dropout in the way there is no difference but rounding.
    model = ModelConfig(
        backbone="xception_compact_slim", input_size_px=64, head_channels=32, freeze_batch_norm=True
    )
    one = train(tiny(data, tmp_path / "one", steps=1, model=model))
    AcceleratorState._reset_state(reset_partial_state=True)
    four = train(tiny(data, tmp_path / "four", steps=1, model=model, accumulation_steps=4))
    first, second = (log_of(run, "train")[0] for run in (one, four))
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
    assert first["gradient_norm"] == pytest.approx(second["gradient_norm"], rel=1e-4)


def test_the_best_checkpoint_has_the_lowest_score(data, tmp_path):
    run = train(
        tiny(
            data, tmp_path / "run", select_by="loss", eval_every_steps=1, checkpoint=CheckpointConfig(keep=1)
        )
    )
    lines = log_of(run, "validation")
    best = min(lines, key=lambda line: line["loss"])
    state = json.loads((run / "best" / "state.json").read_text())
    assert state["step"] == best["step"]
    assert state["best_score"] == pytest.approx(best["loss"])


def test_a_finished_run_is_left_as_it_is(data, tmp_path):
    config = tiny(data, tmp_path / "run")
    train(config)
    before = weights_of(config.run)
    AcceleratorState._reset_state(reset_partial_state=True)
    train(config)
    assert all(torch.equal(before[name], value) for name, value in weights_of(config.run).items())


def test_a_run_is_not_gone_on_with_as_another(data, tmp_path, make_shards):
    config = tiny(data, tmp_path / "run", steps=3)
    train(config)
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(InputError, match="--batch-size 8, now it is 4"):
        train(dataclasses.replace(config, batch_size=4))
    make_shards(tmp_path / "other", {"train": 41, "validation": 10})
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(InputError, match="other shards"):
        train(dataclasses.replace(config, data=str(tmp_path / "other")))
    assert (config.run / "last" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "recipe 'nonsense' is unknown; known: quickstart"),
        (["quickstart", "--nonsense", "3"], "Unrecognized options: --nonsense"),
        (["quickstart", "--batch-size", "0"], "--batch-size is 0"),
        (["quickstart", "--data", "/nonexistent"], "there are no shards here"),
        (["quickstart", "--data", "pipe:cat x"], "--data pipe:cat x: is no place to read shards from"),
        (
            ["quickstart", "--data", "https://a/b?c"],
            "--data https://a/b?c: shards are read from under a folder",
        ),
        (["reference", "--loss.kind", "star"], "--loss.kind star needs --model.head heatmap"),
        (["quickstart", "--model.weights", "/nonexistent", "--data", "DATA"], "/nonexistent"),
        (
            ["quickstart", "--batch-size", "41", "--data", "DATA"],
            "fewer than one batch; give --batch-size 40",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(data, tmp_path, capfd, arguments, message):
    words = [str(data) if word == "DATA" else word for word in arguments]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--out", str(tmp_path / "run"), "--tracking.tracker", "none"])
    assert stop.value.code == 2
    errors = capfd.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert message in errors[0]


def test_a_setting_of_the_launcher_that_would_win_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(InputError, match="unset it and give --accumulation-steps"):
        train(tiny(data, tmp_path / "run"))


def test_help_lists_the_recipes(capsys):
    main(["--help"])
    text = capsys.readouterr().out
    for name in ("quickstart", "reference", "ibug68-quick", "ibug68-xception"):
        assert name in text
