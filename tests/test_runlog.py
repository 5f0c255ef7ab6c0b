"""The log of a run, read back from where it was written: JSON lines and each tracker's own files."""

import io
import json
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from test_files import no_file_above

from flm.errors import InputError
from flm.runlog import LOG_NAME, TRACKER_NAME, Clock, RunLog, TrackingConfig, TrainNumbers, _wandb_options

FACTS = {"recipe": "x", "steps": None, "model.crop_margin": 0.125, "compile": False, "processes": 1}
NUMBERS = TrainNumbers(
    epoch=0.5,
    losses={"total": 2.5, "landmarks": 2.0},
    learning_rate=1e-3,
    gradient_norm=7.0,
    images_per_s=30.0,
    data_wait_pct=1.5,
    memory_gib=0.5,
    eta_s=125.0,
)
TRAIN_KEYS = {
    "epoch", "loss", "loss_landmarks", "learning_rate", "gradient_norm", "images_per_s", "data_wait_pct",
    "memory_gib", "eta_s",
}  # fmt: skip
REPORT = {"nme_pct": 4.25, "auc": 0.5, "nme_pct/challenging": 7.0}

MakeLog = Callable[..., RunLog]


@pytest.fixture
def make_log(tmp_path: Path) -> Iterator[MakeLog]:
    """A function that begins a log, or goes on with it, as a process that is started would."""

    def make(tracker: str = "none", *, first_step: int = 0, **options: Any) -> RunLog:
        AcceleratorState._reset_state(True)
        run = tmp_path / "quick"
        run.mkdir(exist_ok=True)
        tracking = TrackingConfig(tracker=tracker, project="faces", **options)  # type: ignore[arg-type]
        log_with = None if tracker == "none" else tracker
        accelerator = Accelerator(cpu=True, log_with=log_with, project_dir=run)
        return RunLog(run, tracking, accelerator, steps=100, first_step=first_step, facts=FACTS)

    yield make
    AcceleratorState._reset_state(True)


def lines_of(log: RunLog) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.path.read_text().splitlines()]


def picture() -> np.ndarray:
    """Wider than high, red at the left, green at the bottom."""
    drawn = np.zeros((20, 50, 3), np.uint8)
    drawn[:, :10, 0] = 255
    drawn[15:, :, 1] = 255
    return drawn


def write_all(log: RunLog) -> None:
    log.train(20, NUMBERS)
    log.validation(20, REPORT, is_best=True, seconds=3.0)
    log.pictures(20, {"predictions": picture()})
    log.train(40, NUMBERS)


def test_lines_have_kind_step_time_and_all_keys(make_log, capsys):
    before = time.time()
    log = make_log()
    write_all(log)
    log.finish()
    train, validation, last = lines_of(log)
    assert train.keys() == TRAIN_KEYS | {"kind", "step", "time"}
    assert (train["kind"], train["step"], train["loss"], train["loss_landmarks"]) == ("train", 20, 2.5, 2.0)
    assert before - 1 <= train["time"] <= time.time() + 1
    assert validation == {
        "kind": "validation", "step": 20, "time": validation["time"], "seconds": 3.0, **REPORT
    }  # fmt: skip
    assert last["step"] == 40
    assert log.path.parent == Path(log.accelerator.project_dir)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == (
        "step 20/100 · epoch 0.50 · loss 2.5000 · lr 1.0e-03 · 30 img/s · data 1.5 % · 0.5 GiB · ETA 2:05"
    )
    assert told[1] == "step 20/100 · validation NME 4.25 % · best so far"


def test_going_on_forgets_later_steps_and_half_lines(make_log):
    log = make_log()
    for step in (20, 40, 60):
        log.train(step, NUMBERS)
    kept = log.path.read_bytes().splitlines(keepends=True)[:2]
    with log.path.open("ab") as file:
        file.write(b'{"kind": "train", "step": 30, "ti')
    log = make_log(first_step=40)
    assert log.path.read_bytes() == b"".join(kept)
    log.train(60, NUMBERS)
    assert [line["step"] for line in lines_of(log)] == [20, 40, 60]


def test_beginning_anew_begins_the_log_anew(make_log):
    make_log().train(20, NUMBERS)
    assert lines_of(make_log()) == []


@pytest.mark.parametrize("content", ["no json\n", "[1]\n", '{"kind": "train"}\n', '{"step": "a"}\n'])
def test_a_foreign_file_in_the_place_of_the_log_stays(make_log, tmp_path, content):
    (tmp_path / "quick").mkdir()
    path = tmp_path / "quick" / LOG_NAME
    path.write_text(content)
    with pytest.raises(InputError, match=r"log\.jsonl: not a log of flm") as caught:
        make_log()
    assert "\n" not in str(caught.value)
    assert path.read_text() == content


def test_a_full_disk_is_told_in_one_line(make_log):
    log = make_log()
    with (
        no_file_above(10),
        pytest.raises(InputError, match=r"log\.jsonl: cannot be written \(File too large"),
    ):
        log.train(20, NUMBERS)


def test_only_the_first_process_writes(make_log, monkeypatch, capsys):
    monkeypatch.setattr(Accelerator, "is_main_process", False)
    log = make_log("tensorboard")
    write_all(log)
    log.best_checkpoint()
    log.say("hello")
    log.finish()
    assert list(log.path.parent.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_tensorboard_has_curves_and_upright_pictures(make_log):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = make_log("tensorboard")
    write_all(log)
    log.finish()
    events = EventAccumulator(str(log.path.parent / "faces"), size_guidance={"images": 0})
    events.Reload()
    expected = {f"train/{key}" for key in TRAIN_KEYS} | {f"validation/{key}" for key in REPORT}
    assert expected | {"validation/seconds"} == set(events.Tags()["scalars"])
    assert [(point.step, point.value) for point in events.Scalars("train/loss")] == [(20, 2.5), (40, 2.5)]
    (image,) = events.Images("validation/predictions")
    assert (image.width, image.height, image.step) == (50, 20, 20)
    decoded = Image.open(io.BytesIO(image.encoded_image_string)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(decoded), picture())


def wandb_records(path: Path) -> Iterator[Any]:
    """What a W&B file holds: protocol buffers in the log format of LevelDB."""
    from wandb.proto import wandb_internal_pb2

    content, block, place, record = path.read_bytes(), 32768, 7, b""
    assert content[:4] == b":W&B"
    while place + 7 <= len(content):
        left = block - place % block
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        # Whole, first, middle, last.
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(record)  # pyright: ignore[reportAttributeAccessIssue]
            record = b""


def finished_records(folder: Path) -> dict[str, list[Any]]:
    """The records of a run's folder by kind; W&B's own process may still be writing the last of them."""
    (file,) = folder.glob("*.wandb")
    deadline = time.monotonic() + 30
    while True:
        found: dict[str, list[Any]] = {}
        for record in wandb_records(file):
            found.setdefault(record.WhichOneof("record_type"), []).append(record)
        if "exit" in found:
            return found
        assert time.monotonic() < deadline, f"W&B did not finish {file}"
        time.sleep(0.1)


def test_wandb_offline_has_curves_pictures_and_the_best_checkpoint(make_log, capsys):
    log = make_log("wandb", name="my run")
    run = log.path.parent
    write_all(log)
    (run / "best").mkdir()
    (run / "best" / "config.json").write_text("{}")
    (run / "best" / "model.safetensors").write_bytes(b"weights")
    (run / "best" / "state.json").write_text('{"step": 20}')
    log.best_checkpoint()
    log.finish()
    (folder,) = (run / "wandb").glob("offline-run-*")
    assert f"wandb login && wandb sync {folder}\n" in capsys.readouterr().out
    found = finished_records(folder)
    history = [
        {".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in found["history"]
    ]
    assert [(line["_step"], line["train/loss"]) for line in history] == [(20, 2.5), (40, 2.5)]
    assert history[0].keys() >= {f"train/{key}" for key in TRAIN_KEYS} | {"validation/nme_pct"}
    assert history[0]["validation/predictions.width"] == 50
    assert history[0]["validation/predictions.height"] == 20
    started = found["run"][0].run
    identity = json.loads((run / TRACKER_NAME).read_text())["wandb_id"]
    assert (started.run_id, started.project, started.display_name) == (identity, "faces", "my run")
    facts = {
        item.key: json.loads(item.value_json) for record in found["config"] for item in record.config.update
    }
    assert facts.items() >= FACTS.items()
    (stored,) = found["artifact"]
    assert stored.artifact.name == "quick-best"
    assert set(stored.artifact.aliases) >= {"best", "step-20"}
    assert {entry.path for entry in stored.artifact.manifest.contents} == {
        "config.json",
        "model.safetensors",
        "state.json",
    }


def test_going_on_continues_the_curves_and_beginning_anew_begins_others(monkeypatch, tmp_path):
    ids = [
        _wandb_options(tmp_path, "a", goes_on=goes_on)["id"] for goes_on in (False, True, True, False, True)
    ]
    assert ids[0] == ids[1] == ids[2]
    assert ids[3] == ids[4] != ids[0]


def test_trackio_has_curves_that_go_on(make_log, monkeypatch, tmp_path):
    if "trackio" in sys.modules:
        pytest.skip("trackio was loaded with another folder")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for first_step in (0, 20):
        log = make_log("trackio", first_step=first_step)
        log.train(first_step + 20, NUMBERS)
        log.finish()
    from trackio.sqlite_storage import SQLiteStorage

    assert (tmp_path / "trackio" / "faces.db").is_file()
    curves = SQLiteStorage.get_logs("faces", "quick")
    assert [(line["step"], line["train/loss"]) for line in curves] == [(20, 2.5), (40, 2.5)]
    assert curves[0].keys() >= {f"train/{key}" for key in TRAIN_KEYS}


def test_wandb_without_a_login_runs_offline(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr("flm.runlog._has_wandb_login", lambda: False)
    assert _wandb_options(tmp_path, "a", goes_on=False)["mode"] == "offline"
    monkeypatch.setattr("flm.runlog._has_wandb_login", lambda: True)
    assert "mode" not in _wandb_options(tmp_path, "a", goes_on=False)
    # What the user set stays.
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("flm.runlog._has_wandb_login", lambda: False)
    assert "mode" not in _wandb_options(tmp_path, "a", goes_on=False)


class Time:
    """A clock that a test moves."""

    now_s = 1000.0

    def perf_counter(self) -> float:
        return self.now_s


@pytest.fixture
def moved(monkeypatch) -> Time:
    moved = Time()
    monkeypatch.setattr("time.perf_counter", moved.perf_counter)
    return moved


def test_a_clock_tells_speed_waiting_and_time_left(moved):
    def batches() -> Iterator[int]:
        for number in range(3):
            moved.now_s += 0.5
            yield number
        moved.now_s += 0.25

    clock = Clock(torch.device("cpu"), 10)
    seen = []
    for batch in clock.waiting(batches()):
        seen.append(batch)
        moved.now_s += 1.5
    assert seen == [0, 1, 2]
    # 3 steps in 6.25 s, 1.75 s of it waiting.
    found = clock.read(13, steps=23, batch_size=8)
    assert found["images_per_s"] == pytest.approx(3 * 8 / 6.25)
    assert found["data_wait_pct"] == pytest.approx(100 * 1.75 / 6.25)
    assert found["eta_s"] == pytest.approx(10 * 6.25 / 3)
    assert 0.05 < found["memory_gib"] < 64


def test_a_reading_begins_anew_and_leaves_pauses_out(moved):
    clock = Clock(torch.device("cpu"), 0)
    moved.now_s += 100
    clock.read(1, steps=10, batch_size=1)
    moved.now_s += 2
    with clock.paused():
        moved.now_s += 50
    moved.now_s += 2
    found = clock.read(5, steps=10, batch_size=3)
    assert found["images_per_s"] == pytest.approx(3)
    assert found["data_wait_pct"] == 0
    assert found["eta_s"] == pytest.approx(5)


def test_the_numbers_of_the_log_are_those_of_the_clock():
    timed = Clock(torch.device("cpu"), 0).read(1, steps=10, batch_size=1)
    numbers = TrainNumbers(epoch=0.1, losses={"total": 1.0}, learning_rate=0.2, gradient_norm=3.0, **timed)
    assert numbers.values() == {
        "epoch": 0.1,
        "loss": 1.0,
        "learning_rate": 0.2,
        "gradient_norm": 3.0,
        **timed,
    }
