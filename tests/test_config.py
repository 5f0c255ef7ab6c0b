"""A run as one value: checks that name flags, JSON and back, and what may change when it goes on."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from flm.command_line import parse_config
from flm.data.loader import LoaderConfig
from flm.errors import InputError
from flm.fields import flat_fields, from_fields, to_fields
from flm.model.losses import LossConfig
from flm.model.network import ModelConfig
from flm.recipes import RECIPES, recipe_named
from flm.runlog.log import TrackingConfig
from flm.training.config import MAY_CHANGE, TrainConfig, check_same_run

CHECKPOINT = Path("runs/x/checkpoints/step_0000100")


@pytest.fixture
def config() -> TrainConfig:
    return TrainConfig(recipe="x")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_goes_through_json_and_back(name):
    for config in (RECIPES[name](), RECIPES[name]().with_resolved_paths()):
        fields = json.loads(json.dumps(to_fields(config)))
        assert from_fields(TrainConfig, fields, "config.json") == config
        check_same_run(config, fields, CHECKPOINT)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0.0),
        ("epochs", math.nan),
        ("epochs", math.inf),
        ("steps", 0),
        ("batch_size", -1),
        ("eval_batch_size", 0),
        ("accumulation_steps", 0),
        ("log_every_steps", 0),
        ("eval_every_steps", 0),
        ("patience_evaluations", 0),
        ("seed", -1),
    ],
)
def test_bad_settings_name_their_flag_and_value(field, value):
    flag = "--" + field.replace("_", "-")
    with pytest.raises(ValueError, match=rf"^{flag} is {value}, must be "):
        TrainConfig(recipe="x", **{field: value})


def test_bad_settings_of_parts_name_their_flag():
    with pytest.raises(ValueError, match=r"^--tracking\.num-pictures is -1, must be at least 0"):
        TrackingConfig(num_pictures=-1)
    with pytest.raises(ValueError, match=r"--loss\.kind.*--model\.head|--model\.head.*--loss\.kind"):
        TrainConfig(recipe="x", loss=LossConfig(kind="star"), model=ModelConfig(head="regression"))


def test_the_number_of_steps_covers_the_epochs(config):
    half = dataclasses.replace(config, epochs=2.5, batch_size=32)
    for num_samples in (32, 33, 100, 6000):
        steps = half.num_steps(num_samples)
        assert steps * 32 >= 2.5 * num_samples > (steps - 1) * 32
    assert dataclasses.replace(config, epochs=0.001).num_steps(100) == 1


def test_steps_go_before_epochs(config):
    assert dataclasses.replace(config, steps=7, epochs=100.0).num_steps(6000) == 7


def test_a_run_has_a_folder_of_its_recipe_unless_told(config):
    assert config.run == Path("runs/x")
    assert dataclasses.replace(config, out=Path("elsewhere")).run == Path("elsewhere")


def test_the_crop_is_what_the_model_sees(config):
    changed = dataclasses.replace(config, model=ModelConfig(input_size_px=64, crop_margin=0.3))
    assert (changed.crop.size_px, changed.crop.margin) == (64, 0.3)


def test_resolved_paths_hold_wherever_one_stands(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ModelConfig(weights=Path("weights/a.safetensors"))
    resolved = dataclasses.replace(config, data="../data", model=model).with_resolved_paths()
    assert resolved.data == str(tmp_path.parent / "data")
    assert resolved.out == resolved.run == tmp_path / "runs" / "x"
    assert resolved.model.weights == tmp_path / "weights" / "a.safetensors"
    assert config.with_resolved_paths().model.weights is None
    loader = LoaderConfig(cache_dir=Path("cache"))
    far = dataclasses.replace(config, data="hf://datasets/a/b@main/c", loader=loader).with_resolved_paths()
    assert far.data == "hf://datasets/a/b@main/c"
    assert far.loader.cache_dir == tmp_path / "cache"
    monkeypatch.chdir("/")
    assert resolved.with_resolved_paths() == resolved


def changed(value: Any) -> Any:
    """Another value of the same kind, as JSON holds it."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else f"{value} and more"


def every_field() -> list[str]:
    return sorted(flat_fields(to_fields(TrainConfig(recipe="x"))))


def may_change(name: str) -> bool:
    return name in MAY_CHANGE or name.partition(".")[0] in MAY_CHANGE


@pytest.mark.parametrize("name", every_field())
def test_only_what_changes_no_step_may_change_when_a_run_goes_on(config, name):
    saved = to_fields(config)
    *parents, last = name.split(".")
    owner = saved
    for parent in parents:
        owner = owner[parent]
    owner[last] = changed(owner[last])
    if may_change(name):
        check_same_run(config, saved, CHECKPOINT)
    else:
        with pytest.raises(InputError) as caught:
            check_same_run(config, saved, CHECKPOINT)
        flag = name if name == "recipe" else "--" + name.replace("_", "-")
        assert str(caught.value).startswith(
            f"{CHECKPOINT}: was trained with {flag} {owner[last]}, now it is "
        )
        assert "\n" not in str(caught.value)


def test_what_may_change_exists_and_what_matters_may_not():
    names = every_field()
    for allowed in MAY_CHANGE:
        assert any(name == allowed or name.startswith(f"{allowed}.") for name in names), allowed
    for name in (
        "batch_size",
        "seed",
        "model.crop_margin",
        "optimizer.learning_rate",
        "augment.rotation_deg",
    ):
        assert name in names
        assert not may_change(name)


def test_a_field_that_one_side_lacks_is_a_difference(config):
    saved = to_fields(config)
    del saved["optimizer"]["ema_decay"]
    with pytest.raises(InputError, match=r"--optimizer\.ema-decay None, now it is 0\.999"):
        check_same_run(config, saved, CHECKPOINT)
    saved = to_fields(config) | {"forgotten": 3}
    with pytest.raises(InputError, match=r"--forgotten 3, now it is None"):
        check_same_run(config, saved, CHECKPOINT)


def test_the_tracker_has_a_short_flag():
    config = parse_config(recipe_named("quickstart"), ["--tracker", "none"], program="flm train quickstart")
    assert config.tracking.tracker == "none"
