"""Runs in W&B, read back from the files that it writes offline."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from accelerate.state import AcceleratorState
from test_runlog import MANIFEST, facts_of, history_of, read_back, starts_of
from tiny_runs import tiny
from wandb.errors import CommError

from flm.runlog.trackers import TrackingConfig
from flm.runlog.wandb_run import ASIDE, TRACKER_NAME, LoggedLine, WandbRun, log_this_machine
from flm.train import train

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


PAGE = "https://wandb.ai/ann/faces/runs/1234abcd"


def picture(shade: int = 255) -> np.ndarray:
    return np.full((20, 50, 3), shade, np.uint8)


@contextlib.contextmanager
def started(run: Path, lines: list[LoggedLine] | None = None, **options: Any) -> Iterator[WandbRun]:
    run.mkdir(exist_ok=True)
    defaults = {"project": "faces", "name": "a", "goes_on": lines is not None, "facts": {}, "say": print}
    made = WandbRun(run, lines=lines or [], **{"many_machines": False, **defaults, **options})
    yield made
    made.finish(exit_code=0)


def test_a_training_that_was_stopped_is_one_whole_run(make_shards, tmp_path, capsys, monkeypatch):
    make_shards(tmp_path / "data", {"train": 40, "validation": 10}, shard_size=16)
    tracking = TrackingConfig(tracker="wandb", project="faces", num_pictures=2)
    config = tiny(tmp_path / "data", tmp_path / "run", tracking=tracking)
    with monkeypatch.context() as online:
        online.setattr(WandbRun, "url", PAGE)
        train(config)
    # As if it had died between the checkpoint of step 3 and that of step 6.
    (config.run / "last").unlink()
    (config.run / "last").symlink_to("checkpoints/step_0000003")
    AcceleratorState._reset_state(reset_partial_state=True)
    train(config)
    (first,) = starts_of(config.run)
    assert f"wandb login && wandb sync {first}\n" in capsys.readouterr().out
    assert len(list((config.run / "wandb" / ASIDE).glob("*/*"))) == 1

    found = read_back(first)
    history = history_of(found)
    assert [row["_step"] for row in history] == [1, 2, 3, 4, 5, 6]
    numbers = [
        *("epoch", "loss", "learning_rate", "gradient_norm", "images_per_s", "data_wait_pct"),
        *("memory_gib", "eta_s"),
    ]
    for row in history:
        assert row.keys() >= {f"train/{name}" for name in numbers}
    log = [json.loads(line) for line in (config.run / "log.jsonl").read_text().splitlines()]
    trained = {line["step"]: line for line in log if line["kind"] == "train"}
    evaluated = {line["step"]: line for line in log if line["kind"] == "validation"}
    for row in history:
        assert row["train/loss"] == trained[row["_step"]]["loss"]
        assert row["_timestamp"] == pytest.approx(trained[row["_step"]]["time"], abs=60)
    for step in (3, 6):
        row = history[step - 1]
        assert row["validation/nme_pct"] == evaluated[step]["nme_pct"]
        parts = [name for name in row if name.startswith("validation/parts/")]
        assert "validation/parts/mouth/nme_pct" in parts
        assert len(parts) > 4
        for name in ("predictions", "ced"):
            path = first / "files" / row[f"validation/{name}.path"]
            assert path.read_bytes().startswith(b"\x89PNG")
            assert path.name.startswith(f"{name}_{step}_")
    assert (found["run"][0].project, found["run"][0].display_name) == ("faces", "run")
    facts = facts_of(found)
    assert facts.items() >= {"recipe": "tiny", "batch_size": 8, "processes": 1}.items()

    # From the shards over the run to the checkpoints.
    dataset, *models = found["artifact"]
    assert (dataset.name, dataset.type, dataset.use_after_commit) == ("data", "dataset", True)
    described = json.loads(dataset.metadata)
    assert described["manifest_hash"] == facts["manifest_hash"]
    assert (described["faces"], described["data"]) == (
        {"train": 40, "validation": 10},
        str(tmp_path / "data"),
    )
    state = json.loads((config.run / "best" / "state.json").read_text())
    assert state["manifest_hash"] == facts["manifest_hash"]
    # The second start was offline; the run has its page all the same.
    assert json.loads((config.run / "last" / "state.json").read_text())["run_url"] == PAGE
    aliases = {alias: model for model in models for alias in model.aliases}
    assert aliases.keys() >= {"best", "last", "step-6", f"step-{state['step']}"}
    for which in ("best", "last"):
        assert (aliases[which].name, aliases[which].use_after_commit) == ("run", False)
        content = {entry.path for entry in aliases[which].manifest.contents}
        assert content == {"config.json", "model.safetensors", "state.json"}


def test_going_on_keeps_one_id_and_beginning_anew_takes_another(tmp_path):
    ids = []
    for goes_on in (False, True, True, False, True):
        with started(tmp_path / "run", goes_on=goes_on) as made:
            ids.append(made.id)
    assert ids[0] == ids[1] == ids[2]
    assert ids[3] == ids[4] != ids[0]
    # What was begun anew leaves the run before it as it is.
    assert len(starts_of(tmp_path / "run")) == 2


def test_only_a_run_that_is_online_has_a_page(tmp_path, monkeypatch):
    with started(tmp_path) as made:
        assert made.url is None
        with monkeypatch.context() as online:
            online.setattr(type(made.run), "offline", False)
            online.setattr(type(made.run), "url", PAGE)
            assert made.url == PAGE
            online.setattr(type(made.run), "disabled", True)
            assert made.url is None


def test_a_sweep_decides_the_id(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "ofsweep1")
    with started(tmp_path) as made:
        assert made.id == "ofsweep1"
    monkeypatch.setenv("WANDB_RUN_ID", "ofsweep2")
    with started(tmp_path, lines=[]) as made:
        assert made.id == "ofsweep1"


def test_pictures_go_through_any_number_of_starts(tmp_path):
    lines = [LoggedLine(step=step, time_s=1.7e9 + step, values={"train/loss": 1.0}) for step in (20, 40, 60)]
    with started(tmp_path) as made:
        for line in lines:
            made.log(line.values, line.step, time_s=line.time_s)
            made.log_pictures({"validation/faces": picture(line.step)}, line.step, time_s=line.time_s)
    for _ in range(2):
        # The steps after 40 are made again.
        with started(tmp_path, lines=lines[:2]) as made:
            made.log({"train/loss": 2.0}, 60, time_s=1.8e9)
    (folder,) = starts_of(tmp_path)
    rows = history_of(read_back(folder))
    assert [(row["_step"], row["train/loss"]) for row in rows] == [(20, 1.0), (40, 1.0), (60, 2.0)]
    assert [row["_timestamp"] for row in rows] == [1.7e9 + 20, 1.7e9 + 40, 1.8e9]
    assert ["validation/faces.path" in row for row in rows] == [True, True, False]
    for row, line in zip(rows[:2], lines[:2], strict=True):
        shown = wandb.Image(str(folder / "files" / row["validation/faces.path"])).image
        assert np.asarray(shown)[0, 0, 0] == line.step
    # Copies do not pile up.
    assert len(list((tmp_path / "wandb").rglob("*.png"))) == 2
    assert len(list((tmp_path / "wandb" / ASIDE).glob("*/*/*.wandb"))) == 2


def test_what_wandb_has_already_is_not_sent_again(tmp_path, monkeypatch):
    with started(tmp_path) as made:
        # As a run that it resumed online after it had got the steps up to 60.
        monkeypatch.setattr(type(made.run), "starting_step", 61)
        for step in (40, 60, 80):
            made.log({"train/loss": 1.0}, step, time_s=1.7e9)
    (folder,) = starts_of(tmp_path)
    assert [row["_step"] for row in history_of(read_back(folder))] == [80]


def test_the_same_shards_are_the_same_artifact_wherever_they_lie(tmp_path):
    digests = []
    for data in ("/data/my faces", "s3://bucket/my faces", "s3://bucket/my faces/"):
        with started(tmp_path / "run") as made:
            made.use_data(data, MANIFEST)
            folder = Path(made.run.dir).parent
        (artifact,) = read_back(folder)["artifact"]
        assert artifact.name == "my-faces"
        digests.append(artifact.digest)
    assert len(set(digests)) == 1


@pytest.mark.parametrize("exit_code", [0, 1])
def test_a_stopped_run_is_marked(tmp_path, exit_code):
    with started(tmp_path) as made:
        made.run.mark_preempting()
        made.finish(exit_code=exit_code)
    (folder,) = starts_of(tmp_path)
    found = read_back(folder)
    assert len(found["preempting"]) == 1
    assert found["exit"][0].exit_code == exit_code


def test_other_machines_log_their_load_in_one_group(tmp_path, capsys):
    with started(tmp_path, many_machines=True) as made:
        other = log_this_machine(tmp_path / "disk", project="faces", name="a", group=made.id, rank=8)
        other.finish()
    for run, identity, job, name in (
        (tmp_path, made.id, "rank-0", "a"),
        (tmp_path / "disk", f"{made.id}-rank-8", "rank-8", "a rank 8"),
    ):
        (folder,) = starts_of(run)
        (told, *_) = read_back(folder)["run"]
        assert (told.run_id, told.run_group, told.job_type) == (identity, made.id, job)
        assert (told.project, told.display_name) == ("faces", name)
    # The whole folder, in which theirs may be too.
    assert f"wandb sync {tmp_path / 'wandb'}\n" in capsys.readouterr().out


def test_the_folder_of_another_machine_is_not_put_aside(tmp_path):
    with started(tmp_path, many_machines=True) as made:
        log_this_machine(tmp_path, project="faces", name="a", group=made.id, rank=8).finish()
    with started(tmp_path, lines=[], many_machines=True):
        assert len(list((tmp_path / "wandb" / ASIDE).glob("*/*"))) == 1
    names = [folder.name.split("-", 3)[3] for folder in starts_of(tmp_path)]
    assert sorted(names) == sorted([made.id, f"{made.id}-rank-8"])


def test_without_a_login_it_runs_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr("flm.runlog.wandb_run._has_login", lambda: False)
    with started(tmp_path) as made:
        assert made.offline


def test_without_a_network_it_runs_offline_and_says_so(monkeypatch, tmp_path, capsys):
    begin = wandb.init

    def init(**options: Any) -> Any:
        if options.get("mode") != "offline":
            assert options["resume"] == "allow"
            raise CommError("timed out\nafter a while")
        return begin(**options)

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr("flm.runlog.wandb_run._has_login", lambda: True)
    monkeypatch.setattr("wandb.init", init)
    with started(tmp_path) as made:
        assert made.offline
    assert "W&B cannot be reached, so the run is logged offline: timed out\n" in capsys.readouterr().out


def test_it_can_be_switched_off_by_its_own_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with started(tmp_path) as made:
        made.use_data("/data", MANIFEST)
        made.log({"train/loss": 1.0}, 1, time_s=1.7e9)
        made.log_pictures({"validation/faces": picture()}, 1, time_s=1.7e9)
        made.log_checkpoints()
    assert starts_of(tmp_path) == []


def test_the_id_stands_in_the_runs_folder(tmp_path):
    with started(tmp_path) as made:
        pass
    assert json.loads((tmp_path / TRACKER_NAME).read_text()) == {"wandb_id": made.id}
