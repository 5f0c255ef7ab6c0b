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

from flm.data.manifest import Manifest, ShardEntry
from flm.errors import InputError
from flm.runlog.log import LOG_NAME, RunLog, TrainNumbers
from flm.runlog.trackers import TrackingConfig
from flm.training.clock import Clock

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
MANIFEST = Manifest(
    scheme="ibug-68",
    crop_size_px=64,
    crop_margin=0.5,
    source="drawn",
    split_rule="as asked",
    licence="MIT",
    splits={"train": (ShardEntry(name="a.tar", num_samples=3, num_bytes=9, sha256="0" * 64),)},
    subsets={},
)

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
        return RunLog(
            run,
            tracking,
            accelerator,
            steps=100,
            first_step=first_step,
            facts=FACTS,
            data="/data/my faces",
            manifest=MANIFEST,
        )

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


def records_of(path: Path) -> Iterator[Any]:
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


def read_back(folder: Path) -> dict[str, list[Any]]:
    """The records of a start's folder by kind; W&B's own process may still be writing the last of them."""
    (file,) = folder.glob("*.wandb")
    deadline = time.monotonic() + 120
    while True:
        found: dict[str, list[Any]] = {}
        for record in records_of(file):
            kind = record.WhichOneof("record_type")
            found.setdefault(kind, []).append(getattr(record, kind))
        if "exit" in found:
            return found
        assert time.monotonic() < deadline, f"W&B did not finish {file}"
        time.sleep(0.1)


def history_of(found: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The rows of numbers and pictures."""
    return [
        {".".join(item.nested_key): json.loads(item.value_json) for item in row.item}
        for row in found["history"]
    ]


def facts_of(found: dict[str, list[Any]]) -> dict[str, Any]:
    return {item.key: json.loads(item.value_json) for record in found["config"] for item in record.update}


def starts_of(run: Path) -> list[Path]:
    """The folders that `wandb sync RUN/wandb` would send."""
    return sorted({file.parent.resolve() for file in (run / "wandb").glob("*/*.wandb")})


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


def test_warnings_and_a_stop_stand_in_the_log_and_on_the_terminal(make_log, capsys):
    log = make_log()
    log.train(20, NUMBERS)
    log.warn(30, "2 samples have a loss that is not finite: a, b")
    log.preempted(40)
    log.finish(exit_code=1)
    _, warning, stop = lines_of(log)
    assert (warning["kind"], warning["step"]) == ("warning", 30)
    assert warning["text"] == "2 samples have a loss that is not finite: a, b"
    assert (stop["kind"], stop["step"]) == ("preempted", 40)
    told = capsys.readouterr().out.splitlines()[1:]
    assert told == [
        "step 30/100 · warning: 2 samples have a loss that is not finite: a, b",
        "step 40/100 · stopped; --resume auto goes on from here",
    ]
    assert [line["kind"] for line in lines_of(make_log(first_step=40))] == ["train", "warning", "preempted"]


@pytest.mark.parametrize(
    ("tracker", "num_pictures", "shows"),
    [("wandb", 1, True), ("wandb", 0, False), ("tensorboard", 1, True), ("none", 1, False)],
)
def test_pictures_are_drawn_only_for_those_who_show_them(make_log, tracker, num_pictures, shows):
    log = make_log(tracker, num_pictures=num_pictures)
    assert log.shows_pictures == shows
    log.finish()


def test_each_evaluation_draws_the_curves(make_log):
    log = make_log()
    write_all(log)
    path = log.path.parent / "curves.png"
    drawn = path.read_bytes()
    assert np.asarray(Image.open(path)).shape == (900, 960, 3)
    log.validation(60, {"nme_pct": 2.0}, is_best=True, seconds=1.0)
    assert path.read_bytes() != drawn


def test_curves_that_cannot_be_written_stop_nothing(make_log, capsys):
    log = make_log()
    (log.path.parent / "curves.png").mkdir()
    log.validation(20, REPORT, is_best=True, seconds=3.0)
    assert "curves.png: cannot be written" in capsys.readouterr().out
    assert len(lines_of(log)) == 1


def test_wandb_has_what_the_log_has(make_log, tmp_path):
    for first_step in (0, 20):
        log = make_log("wandb", first_step=first_step)
        log.train(first_step + 20, NUMBERS)
        log.warn(first_step + 20, "hot")
        log.preempted(first_step + 20)
        log.finish(exit_code=1)
    (folder,) = starts_of(log.path.parent)
    found = read_back(folder)
    history = history_of(found)
    assert [(row["_step"], row["train/loss"]) for row in history] == [(20, 2.5), (40, 2.5)]
    assert [row["_timestamp"] for row in history] == [
        line["time"] for line in lines_of(log) if line["kind"] == "train"
    ]
    assert history[0].keys() - {"_step", "_timestamp", "_runtime"} == {f"train/{key}" for key in TRAIN_KEYS}
    assert facts_of(found).items() >= FACTS.items()
    assert len(found["preempting"]) == 1
    assert found["exit"][0].exit_code == 1
    assert found["run"][0].run_group == ""


def test_on_several_machines_each_logs_its_load(make_log, monkeypatch, tmp_path):
    # As the ninth process of twelve on three machines, the first of its own.
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    for name, value in (("num_processes", 12), ("is_main_process", False), ("process_index", 8)):
        monkeypatch.setattr(Accelerator, name, value)
    monkeypatch.setattr("flm.runlog.log.broadcast_object_list", lambda values: ["abcd1234"])
    log = make_log("wandb")
    write_all(log)
    log.finish()
    (folder,) = starts_of(log.path.parent)
    (told, *_) = read_back(folder)["run"]
    assert (told.run_id, told.run_group, told.job_type) == ("abcd1234-rank-8", "abcd1234", "rank-8")
    assert "history" not in read_back(folder)
    assert not log.path.exists()
    monkeypatch.setattr(Accelerator, "is_local_main_process", False)
    make_log("wandb").finish()
    assert starts_of(log.path.parent) == [folder]


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
    assert not log.shows_pictures
    write_all(log)
    log.checkpoints()
    log.warn(40, "hot")
    log.preempted(40)
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


def test_tensorboard_shows_no_step_from_before_a_crash(make_log):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first_step in (0, 40):
        log = make_log("tensorboard", first_step=first_step)
        for step in range(first_step + 20, first_step + 80, 20):
            log.train(step, NUMBERS)
        log.finish()
        # Their files are read in the order of the seconds in their names.
        time.sleep(1.1)
    events = EventAccumulator(str(log.path.parent / "faces"))
    events.Reload()
    assert [point.step for point in events.Scalars("train/loss")] == [20, 40, 60, 80, 100]


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
