"""The list of comparisons is made of real flags; results are tables and curves of what the logs say."""

import json
from pathlib import Path

import numpy as np
import pytest

from flm.bench import ablations
from flm.bench.ablations import BASE, SEEDS, ablations_picture, ablations_text, bench_ablations, variations
from flm.command_line import parse_config
from flm.errors import InputError
from flm.fields import flat_fields, to_fields
from flm.recipes import recipe_named

RECIPE = recipe_named(ablations.RECIPE)


def config_of(variation: ablations.Variation):
    words = ablations._command(variation, 1, Path("data"), Path("run"), 375)
    words = words[words.index(ablations.RECIPE) + 1 :]
    return parse_config(RECIPE, words, program="flm train")


@pytest.mark.parametrize("variation", variations(None), ids=lambda one: f"{one.axis}: {one.name}")
def test_each_variation_changes_the_recipe_in_its_own_way(variation):
    base = flat_fields(to_fields(config_of(variations(None)[0])))
    changed = flat_fields(to_fields(config_of(variation)))
    assert base["steps"] == 375
    assert base["seed"] == 1
    assert (changed == base) == (variation.axis == BASE)


def test_names_and_folders_tell_variations_apart(tmp_path):
    folders = [ablations._folder(one, seed, tmp_path) for one in variations(None) for seed in SEEDS]
    assert len(set(folders)) == len(folders)


def write_run(out: Path, variation: ablations.Variation, last: float) -> None:
    for seed in SEEDS:
        run = ablations._folder(variation, seed, out)
        run.mkdir(parents=True)
        lines = [
            {"kind": "validation", "step": step, "time": 60.0 * step, "nme_pct": last + 5 / step + 0.1 * seed}
            for step in (1, 2, 5, 10)
        ]
        (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_finished_runs_are_not_done_again_and_become_a_table(tmp_path):
    chosen = [one for one in variations(None) if one.axis in (BASE, "loss")]
    for place, one in enumerate(chosen):
        write_run(tmp_path, one, 4.0 - 0.1 * place)
    outcomes = bench_ablations(tmp_path, tmp_path, weights=None, axes=["loss"], steps=10)
    assert [one.variation for one in outcomes] == chosen
    assert outcomes[0].nme_pct == pytest.approx((4.5, 4.6))
    assert outcomes[0].minutes == (9.0, 9.0)
    text = (tmp_path / "ablations.md").read_text()
    assert text == ablations_text(outcomes, 10)
    rows = [line for line in text.splitlines() if line.startswith("| loss")]
    # The best first, each beside the base.
    assert [row.split(" | ")[2] for row in rows] == [
        "4.15 ± 0.05",
        "4.25 ± 0.05",
        "4.35 ± 0.05",
        "4.45 ± 0.05",
    ]
    assert rows[0].split(" | ")[3] == "-0.40"
    assert len(json.loads((tmp_path / "ablations.json").read_text())["rows"]) == len(chosen)
    assert (tmp_path / "ablations.png").stat().st_size > 5000


def test_the_picture_has_a_panel_for_each_comparison(tmp_path):
    chosen = [one for one in variations(None) if one.axis in (BASE, "loss", "input", "head", "pre-training")]
    for one in chosen:
        write_run(tmp_path, one, 4.0)
    outcomes = [ablations._outcome(one, tmp_path, 10) for one in chosen]
    picture = ablations_picture(outcomes)
    # Two rows of three panels, two of which stay white.
    height, width, _ = picture.shape
    assert (picture[height // 2 + 20 :, width * 2 // 3 + 20 :] == 255).all()
    assert np.ptp(picture[: height // 2]) > 200


def test_weights_of_a_machine_are_used_but_not_told(tmp_path):
    chosen = variations(Path("secret/place.safetensors"))
    assert all(("--model.weights" in one.flags) == (one.axis != "pre-training") for one in chosen)
    write_run(tmp_path, chosen[0], 4.0)
    outcome = ablations._outcome(chosen[0], tmp_path, 10)
    assert "secret" not in ablations_text([outcome], 10)


def test_an_unknown_comparison_and_a_run_that_fails_are_told(tmp_path):
    with pytest.raises(InputError, match=r"--axes 'colour' is unknown; known: base, head, loss, input"):
        bench_ablations(tmp_path, tmp_path, weights=None, axes=["colour"])
    with pytest.raises(InputError, match=r"terminal\.log: the run ended with"):
        bench_ablations(tmp_path / "nothing", tmp_path / "out", weights=None, axes=["loss"], steps=10)
