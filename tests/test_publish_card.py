"""The card says what the reports say, and nothing that no report says."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from publishing import write_checkpoint

from flm.cli import main
from flm.command_line import parse_config
from flm.fields import to_fields
from flm.files import sha256_of
from flm.model.network import LandmarkNetwork
from flm.publish.about import without_machine_paths
from flm.publish.card_files import write_card
from flm.publish.card_sources import CardSources
from flm.publish.report_file import ReportFile
from flm.publish.training_command import LAUNCH, training_command
from flm.recipes import RECIPES, recipe_named

SUMMARY = {
    "num_faces": 330,
    "nme_pct": 3.1234,
    "nme_inter_pupil_pct": 4.3,
    "nme_box_pct": 1.9,
    "auc_08": 0.6091,
    "auc_10": 0.7,
    "fr_08_pct": 0.303,
    "fr_10_pct": 0.1,
    "p50_pct": 2.96,
    "p90_pct": 4.4,
    "p95_pct": 4.83,
    "p99_pct": 7.0,
}
RELIABILITY = {
    "inside_50_pct": 55.5,
    "inside_90_pct": 90.3,
    "inside_99_pct": 98.1,
    "off_pct": 3.0,
    "aurc_pct": 2.81,
    "aurc_random_pct": 3.12,
    "aurc_oracle_pct": 2.45,
}
FIGURES = [
    {"subject": "one face", "side": "ours", "unit": "ms", "value": 12.34, "how": "one call"},
    {"subject": "one face", "side": "ours, through PyTorch", "unit": "ms", "value": 30, "how": ""},
    {"subject": "one face", "side": "dlib", "unit": "ms", "value": 1.5, "how": ""},
    {"subject": "video", "side": "ours", "unit": "frames/s", "value": None, "how": "no camera"},
    {"subject": "jitter", "side": "ours", "unit": "px", "value": 0.2, "how": ""},
]
LICENCE = "300-W is for research only"
DATA_HASH = "5" * 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "run"
    write_checkpoint(folder, folder.parent / "gone", DATA_HASH)
    return folder


def report_file(folder: Path, weights: Path | None, name: str = "report", **changes) -> Path:
    """As `flm evaluate --json` writes it."""
    on = {
        "weights_sha256": "0" * 64 if weights is None else sha256_of(weights / "model.safetensors"),
        "source": "ibug",
        "split": "test",
        "split_rule": "300w: by folder",
        "licence": LICENCE,
        "data_hash": DATA_HASH,
    }
    fields = {
        **SUMMARY,
        "boxes": "truth",
        "second_pass": False,
        "mirror_average": False,
        "subsets": {"common": SUMMARY, "common/helen": SUMMARY, "full": SUMMARY},
        "parts": {"jaw": 5.41, "eyes": 1.66},
        "calibration": {"calibrated": True, **RELIABILITY},
        "measured_on": on,
        **changes,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(fields))
    return path


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_what_was_measured_is_in_the_card(checkpoint, tmp_path):
    truth = report_file(tmp_path, checkpoint)
    found = {
        "detector": "YuNet",
        "boxes": "detector",
        "num_not_detected": 2,
        "num_faces": 328,
        "nme_pct": 3.2,
    }
    whole = {"full": {**SUMMARY, "num_faces": 328, "nme_pct": 3.2}}
    detected = report_file(tmp_path, checkpoint, "detected", **found, subsets=whole)
    speed = tmp_path / "speed.json"
    speed.write_text(json.dumps({"conditions": {"processor": "EPYC", "cores": 2}, "figures": FIGURES}))
    picture = tmp_path / "drawn.png"
    cv2.imwrite(str(picture), np.full((20, 30, 3), 90, np.uint8))
    sources = CardSources(report=(truth, detected), speed=speed, plot=picture, predictions=picture)
    write_card(checkpoint, sources, tmp_path / "out" / "README.md", model="hf://ann/faces")
    card = (tmp_path / "out" / "README.md").read_text()
    rows = [line for line in card.splitlines() if line.startswith("| test")]
    assert rows[0] == "| test: common/helen | truth | 330 | 3.12 | 2.96 | 4.83 | 0.30 | 0.609 |"
    assert rows[1].startswith("| test: all | detector (YuNet) | 328 | 3.20 |")
    assert "YuNet found 328 of 330 faces (99.39 %)" in card
    assert "jaw 5.41 · eyes 1.66 %" in card
    assert "| truth | 55.5 | 90.3 | 98.1 | 2.81 | 3.12 | 2.45 |" in card
    assert "fitted to 120 faces of validation" in card
    speeds = card.partition("## Speed")[2].partition("##")[0].strip().splitlines()[2:]
    assert speeds == [
        "| one face | 12.3 ms | one call; 2 cores of EPYC |",
        "| one face, through PyTorch | 30.0 ms | 2 cores of EPYC |",
    ]
    assert "![Cumulative error curve" in card
    for name, start in (("ced.png", b"\x89PNG"), ("predictions.jpg", b"\xff\xd8")):
        assert f"]({name})" in card
        assert (tmp_path / "out" / name).read_bytes().startswith(start)
    assert f"The weights: {LICENCE}. See [LICENSE](LICENSE)." in card
    assert LICENCE in (tmp_path / "out" / "LICENSE").read_text()
    told = front_matter(card)
    assert (told["license"], told["license_name"], told["license_link"]) == (
        "other",
        "of-the-training-data",
        "LICENSE",
    )
    (entry,) = told["model-index"]
    assert [metric["value"] for result in entry["results"] for metric in result["metrics"]] == [3.12, 3.2]
    assert "Trained on ibug, 300w: by folder" in card


def test_what_was_not_measured_is_absent(checkpoint, tmp_path):
    write_card(checkpoint, CardSources(), tmp_path / "README.md")
    card = (tmp_path / "README.md").read_text()
    assert "Not yet measured." in card
    for word in (
        "## Speed",
        "How sure",
        "![",
        "model-index",
        "Trained on",
        "NME",
        "hf://",
        "loaded",
        "validation",
        "Weights & Biases",
    ):
        assert word not in card, word
    assert "flm predict photo.jpg --out predictions" in card
    assert "Closed eyes" in card
    assert "Profiles" in card
    assert "that of the data it was trained on" in (tmp_path / "LICENSE").read_text()


def test_a_training_that_is_online_is_linked(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "run")
    state = json.loads((checkpoint / "state.json").read_text())
    url = "https://wandb.ai/ann/faces/runs/1234abcd"
    (tmp_path / "run" / "state.json").write_text(json.dumps({**state, "run_url": url}))
    write_card(tmp_path / "run", CardSources(), tmp_path / "README.md")
    assert f"]({url})" in (tmp_path / "README.md").read_text()


def test_uncalibrated_covariances_are_not_told(checkpoint, tmp_path):
    raw = report_file(tmp_path, checkpoint, calibration={"calibrated": False, **RELIABILITY})
    write_card(checkpoint, CardSources(report=(raw,)), tmp_path / "README.md")
    assert "How sure" not in (tmp_path / "README.md").read_text()


def test_reports_of_older_versions_are_read(checkpoint, tmp_path):
    path = report_file(tmp_path, checkpoint)
    fields = json.loads(path.read_text())
    del fields["measured_on"], fields["calibration"]
    path.write_text(json.dumps(fields))
    assert ReportFile.read(path).measured_on is None
    write_card(checkpoint, CardSources(report=(path,)), tmp_path / "README.md")
    assert "| common/helen | truth | 330 |" in (tmp_path / "README.md").read_text()


def test_shards_that_are_still_there_tell_more(checkpoint, tmp_path, make_shards):
    manifest = make_shards(tmp_path / "shards", {"train": 6})
    write_checkpoint(tmp_path / "run", tmp_path / "elsewhere", manifest.content_hash())
    sources = CardSources(data=str(tmp_path / "shards"))
    opened = write_card(tmp_path / "run", sources, tmp_path / "README.md")
    assert opened.is_free
    card = (tmp_path / "README.md").read_text()
    assert "Trained on 6 faces of train: drawn, as asked." in card
    assert front_matter(card)["license"] == "mit"
    assert not (tmp_path / "LICENSE").exists()


def written(folder: Path, text: str) -> Path:
    (folder / "a.json").write_text(text)
    return folder / "a.json"


SLOW = {"conditions": {"processor": "EPYC", "cores": 2}, "figures": [{**FIGURES[0], "value": "slow"}]}


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder, run: {"report": (report_file(folder, None),)}, "was measured with other weights"),
        (lambda folder, run: {"report": (folder / "none.json",)}, "none.json: cannot be read (No such file"),
        (lambda folder, run: {"report": (run / "config.json",)}, "config.json: 'boxes' is missing"),
        (
            lambda folder, run: {"speed": report_file(folder, run)},
            "'conditions' is missing; give a file of `flm bench predict`",
        ),
        (lambda folder, run: {"report": (written(folder, "[1]"),)}, "a.json: another file"),
        (lambda folder, run: {"report": (written(folder, "[" * 100_000),)}, "a.json: another file"),
        (lambda folder, run: {"speed": written(folder, json.dumps(SLOW))}, "a.json: another file (could not"),
        (lambda folder, run: {"plot": run / "config.json"}, "config.json: not a picture"),
        (lambda folder, run: {"worst": folder / "none.png"}, "--worst"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(checkpoint, tmp_path, capsys, make, told):
    words = []
    for flag, value in make(tmp_path, checkpoint).items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{flag}", *map(str, values)]
    with pytest.raises(SystemExit) as stop:
        main(["publish", "card", str(checkpoint), "--out", str(tmp_path / "out" / "README.md"), *words])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert not (tmp_path / "out" / "README.md").exists()


def test_other_shards_than_those_of_the_training_are_refused(checkpoint, tmp_path, data, capsys):
    with pytest.raises(SystemExit):
        main(["publish", "card", str(checkpoint), "--out", str(tmp_path / "README.md"), "--data", str(data)])
    assert "was trained on other shards" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_command_makes_the_configuration_again(recipe):
    changes = [
        *("--batch-size", "48", "--steps", "900", "--model.dropout", "0.25", "--augment.hue-deg", "3.5"),
        *("--compile", "--optimizer.schedule", "constant", "--model.no-pretrained", "--data", "a place"),
        *("--model.weights", "weights.pth", "--seed", "4"),
    ]
    config = parse_config(recipe_named(recipe), changes, program="train")
    fields = without_machine_paths({**to_fields(config), "out": "/runs/x"})
    command = training_command(fields)
    assert command is not None
    import shlex

    program, again = command.removeprefix(f"{LAUNCH} ").split(" ", 1)
    assert program == recipe
    assert parse_config(recipe_named(recipe), shlex.split(again), program="train") == config


def test_an_unchanged_recipe_needs_no_flag():
    assert training_command(to_fields(recipe_named("ibug68-compact"))) == f"{LAUNCH} ibug68-compact"
    assert training_command({"recipe": "mine"}) is None


def test_paths_are_shortened():
    fields = {
        "out": "/a/b",
        "data": "/home/me/300w",
        "model": {"weights": "/x/y.pth"},
        "names": ["/a/b", "c/d"],
    }
    shown = without_machine_paths(fields)
    assert shown == {
        "schema_version": 1,
        "data": "300w",
        "model": {"weights": "y.pth"},
        "names": ["b", "c/d"],
    }


def test_the_number_of_weights_is_that_of_the_network(checkpoint, tmp_path):
    opened = write_card(checkpoint, CardSources(), tmp_path / "README.md")
    assert isinstance(opened.network, LandmarkNetwork)
    millions = sum(weight.numel() for weight in opened.network.parameters()) / 1e6
    assert f"{millions:.2f} M weights" in (tmp_path / "README.md").read_text()
