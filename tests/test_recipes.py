"""Each recipe is whole, says what it reached, and takes two steps in a small form."""

import dataclasses
import inspect
import json

import pytest
from accelerate.state import AcceleratorState
from test_init_from import write_faces_98

from flm.errors import InputError
from flm.recipes import RECIPES, recipe_named, recipes_text
from flm.runlog.log import TrackingConfig
from flm.train import train


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_states_its_result(name):
    config = recipe_named(name)
    assert config.recipe == name
    text = inspect.getdoc(RECIPES[name])
    assert text
    assert "Result:" in text
    assert f"{name}\n" in recipes_text()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_takes_two_steps_in_a_small_form(name, make_shards, tmp_path):
    config = recipe_named(name)
    write = make_shards if config.model.scheme == "ibug-68" else write_faces_98
    write(tmp_path / "data", {"train": 8, "validation": 3})
    small = dataclasses.replace(
        config,
        data=str(tmp_path / "data"),
        out=tmp_path / "run",
        steps=2,
        batch_size=4,
        model=dataclasses.replace(config.model, input_size_px=64, head_channels=16, pretrained=False),
        loader=dataclasses.replace(config.loader, num_workers=0),
        tracking=TrackingConfig(tracker="none"),
    )
    run = train(small)
    AcceleratorState._reset_state(reset_partial_state=True)
    state = json.loads((run / "best" / "state.json").read_text())
    assert state["step"] == 2
    assert 0 < state["validation"]["nme_pct"] < 1000


def test_the_reference_is_the_reference_project():
    config = recipe_named("reference")
    assert (config.batch_size, config.eval_batch_size, config.epochs) == (32, 64, 50)
    assert (config.model.backbone, config.model.head, config.model.color) == (
        "xception_compact",
        "regression",
        "grey",
    )
    assert (config.model.input_size_px, config.loss.kind, config.select_by) == (128, "l2", "loss")
    assert (config.optimizer.kind, config.optimizer.learning_rate) == ("adam", 7.5e-4)
    # 6,000 faces: 187.5 batches an epoch.
    assert config.num_steps(6000) == 9375


def test_the_recipes_for_whole_data_sets_are_as_long_as_they_say():
    for name, num_faces, steps in (("ibug68-xception-300w", 2833, 5312), ("wflw98-xception", 6750, 6329)):
        config = recipe_named(name)
        assert config.num_steps(num_faces) == steps
        assert f"{steps:,} steps" in inspect.getdoc(RECIPES[name])
    assert recipe_named("wflw98-xception").model.scheme == "wflw-98"


def test_an_unknown_recipe_is_told_with_the_known_ones():
    with pytest.raises(InputError, match="'x' is unknown; known: quickstart, reference"):
        recipe_named("x")
