"""The list of comparisons is made of real flags; results are tables and curves of what the logs say."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from flm.bench.ablations import ablations
from flm.bench.ablations.ablations import bench_ablations
from flm.bench.ablations.report import SEEDS, ablations_picture, ablations_text
from flm.bench.ablations.variations import BASE, Budget, Variation, variations
from flm.command_line import parse_config
from flm.errors import InputError
from flm.fields import flat_fields, to_fields
from flm.recipes import recipe_named
from flm.training.config import TrainConfig

BUDGET = Budget(recipe="ibug68-quick", steps=10)
VARIATIONS = variations("ibug68-quick", init_from={"other faces": Path("runs/other")})
TRAINED = [one for one in VARIATIONS if not one.evaluation]


def config_of(variation: Variation) -> TrainConfig:
    words = ablations._command(variation, 1, Path("data"), Path("run"), BUDGET)
    words = words[words.index(BUDGET.recipe) + 1 :]
    return parse_config(recipe_named(BUDGET.recipe), words, program="flm train")


@pytest.mark.parametrize("variation", TRAINED, ids=lambda one: f"{one.axis}: {one.name}")
def test_each_variation_changes_the_recipe_in_its_own_way(variation: Variation):
    base = flat_fields(to_fields(config_of(VARIATIONS[0])))
    changed = flat_fields(to_fields(config_of(variation)))
    assert base["steps"] == 10
    assert base["seed"] == 1
    assert (changed == base) == (variation.axis == BASE)


def test_a_budget_is_in_faces_whatever_the_batch():
    budgets = [Budget.of(recipe, 12_000) for recipe in ("ibug68-quick", "quickstart")]
    faces = [budget.steps * recipe_named(budget.recipe).batch_size for budget in budgets]
    assert all(11_500 < number <= 12_000 for number in faces)


def test_what_would_not_change_a_recipe_is_left_out():
    axes = {recipe: {one.axis for one in variations(recipe)} for recipe in ("ibug68-quick", "quickstart")}
    # The quickstart's backbone has no weights to begin with.
    assert axes["ibug68-quick"] - axes["quickstart"] == {"pre-training", "backbone's learning rate"}
    assert "wing" not in [one.name for one in VARIATIONS if one.axis == "loss"]


def test_names_and_folders_tell_variations_apart(tmp_path: Path):
    folders = [ablations._folder(one, seed, tmp_path, BUDGET) for one in TRAINED for seed in SEEDS]
    assert len(set(folders)) == len(folders)


def write_run(out: Path, variation: Variation, last: float) -> None:
    for seed in SEEDS:
        run = ablations._folder(variation, seed, out, BUDGET)
        run.mkdir(parents=True)
        lines = []
        for step in (1, 2, 5, 10 * variation.length):
            error = last + 5 / step + 0.1 * seed
            lines.append({"kind": "train", "step": step, "time": 1e4 * step, "images_per_s": 32 / 60})
            lines.append({"kind": "validation", "step": step, "time": 1e4 * step, "nme_pct": error})
        (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_finished_runs_are_not_done_again_and_become_a_table(tmp_path):
    chosen = [one for one in VARIATIONS if one.axis in (BASE, "loss")]
    for place, one in enumerate(chosen):
        write_run(tmp_path, one, 4.0 - 0.1 * place)
    outcomes = bench_ablations(tmp_path, tmp_path, recipe="ibug68-quick", axes=["loss"], faces=10 * 32)
    assert [one.variation for one in outcomes] == chosen
    assert outcomes[0].nme_pct == pytest.approx((4.5, 4.6))
    # As the rates have it, a minute a step, whatever the time of day.
    assert outcomes[0].minutes == pytest.approx((10.0, 10.0))
    text = (tmp_path / "ablations.md").read_text()
    assert text == ablations_text(outcomes, BUDGET)
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
    chosen = [one for one in VARIATIONS if one.axis in (BASE, "loss", "input", "head", "pre-training")]
    for one in chosen:
        write_run(tmp_path, one, 4.0)
    outcomes = [ablations._outcome(one, tmp_path, BUDGET) for one in chosen]
    picture = ablations_picture(outcomes)
    # Two rows of three panels, two of which stay white.
    height, width, _ = picture.shape
    assert (picture[height // 2 + 20 :, width * 2 // 3 + 20 :] == 255).all()
    assert np.ptp(picture[: height // 2]) > 200


def test_places_of_a_machine_are_used_but_not_told(tmp_path: Path):
    place = Path("secret/place")
    chosen = variations("ibug68-quick", weights=place, init_from={"other faces": place})
    assert all(
        ("--model.weights" in one.flags) == (one.axis != "pre-training") for one in chosen if one.flags
    )
    told = [one for one in chosen if one.axis in (BASE, "pre-training")]
    for one in told:
        write_run(tmp_path, one, 4.0)
    text = ablations_text([ablations._outcome(one, tmp_path, BUDGET) for one in told], BUDGET)
    assert "secret" not in text
    assert "`--init-from CHECKPOINT`" in text


def test_the_table_that_comes_with_flm_is_of_flags_that_are_there():
    folder = Path(ablations.__file__).parents[1]
    text = (folder / "ablations.md").read_text()
    assert (folder / "ablations.png").exists()
    recipe = re.search(r"`flm bench ablations --recipe (\S+) --faces \d+`", text)
    assert recipe is not None
    known = {(one.axis, one.name): one for one in variations(recipe[1])}
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "±" in line]
    rows = [row for row in rows if len(row) == 6]
    assert len(rows) >= 10
    for axis, name, *_, flags in rows:
        if axis != "pre-training":
            one = known[axis, name]
            assert flags.strip("`") == " ".join((*one.flags, *one.evaluation))


def test_an_evaluation_measures_the_runs_of_the_base(tmp_path: Path):
    mirrored = next(one for one in VARIATIONS if one.name == "mirror average")
    write_run(tmp_path, VARIATIONS[0], 4.0)
    assert ablations._outcome(mirrored, tmp_path, BUDGET) is None
    for seed in SEEDS:
        run = ablations._folder(VARIATIONS[0], seed, tmp_path, BUDGET)
        (run / "mirror-average.json").write_text(json.dumps({"nme_pct": 3.5 + seed}))
    outcome = ablations._outcome(mirrored, tmp_path, BUDGET)
    assert outcome is not None
    assert outcome.nme_pct == (3.5, 4.5)
    assert ablations_picture([outcome, ablations._outcome(VARIATIONS[0], tmp_path, BUDGET)]).size


def test_an_unknown_comparison_and_a_run_that_fails_are_told(tmp_path: Path):
    with pytest.raises(InputError, match=r"--axes 'colour' is unknown; known: base, head, loss, input"):
        bench_ablations(tmp_path, tmp_path, recipe="ibug68-quick", axes=["colour"])
    with pytest.raises(InputError, match=r"terminal\.log: the run ended with"):
        bench_ablations(tmp_path / "nothing", tmp_path / "out", recipe="ibug68-quick", axes=["loss"])
