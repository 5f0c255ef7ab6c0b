"""When a run is over."""

import dataclasses
import json
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from tiny_runs import tiny

from flm.runlog.trackers import TrackingConfig
from flm.train import train
from flm.training.run import Run

SCORES = [5.0, 4.0, 4.5, 4.0, 4.2, 3.0, 3.5, 3.5, 3.5, 3.5]
"""After each evaluation."""


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


def evaluated_steps(run: Path) -> list[int]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line["kind"] == "validation"]


def test_a_run_whose_score_gets_no_better_stops_early(make_shards, tmp_path, monkeypatch, capsys):
    evaluations_of = {}

    def score_of(run: Run, validation: dict[str, float]) -> float:
        evaluations_of[run.step] = SCORES[run.step // 2 - 1]
        return evaluations_of[run.step]

    monkeypatch.setattr(Run, "score_of", score_of)
    make_shards(tmp_path / "data", {"train": 40, "validation": 4}, shard_size=16)
    config = tiny(
        tmp_path / "data",
        tmp_path / "run",
        steps=20,
        eval_every_steps=2,
        patience_evaluations=3,
        tracking=TrackingConfig(tracker="none", num_pictures=0),
    )
    run = train(config)
    assert evaluated_steps(run) == [2, 4, 6, 8, 10]
    told = "no better score since step 4 (--patience-evaluations 3), so the run ends at step 10"
    assert told in capsys.readouterr().out
    for which, step in (("best", 4), ("last", 10)):
        assert json.loads((run / which / "state.json").read_text())["step"] == step

    # It ends at the same step when it was stopped in between, and stays ended.
    for last in ("step_0000008", "step_0000010"):
        (run / "last").unlink()
        (run / "last").symlink_to(f"checkpoints/{last}")
        evaluations_of.clear()
        AcceleratorState._reset_state(reset_partial_state=True)
        train(config)
        assert evaluated_steps(run) == [2, 4, 6, 8, 10]
        assert list(evaluations_of) == ([10] if last == "step_0000008" else [])

    # More patience goes on with it.
    AcceleratorState._reset_state(reset_partial_state=True)
    train(dataclasses.replace(config, patience_evaluations=4))
    assert evaluated_steps(run) == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    assert json.loads((run / "best" / "state.json").read_text())["step"] == 12
