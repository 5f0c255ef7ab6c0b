"""Benchmarks measure what they say; here in a small form, for their numbers say nothing on a busy machine."""

import dataclasses
import json
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from conftest import draw_face

from flm.bench import convert as convert_bench
from flm.bench import loader as loader_bench
from flm.bench import order as order_bench
from flm.bench import train as train_bench
from flm.bench.figures import OURS, Bar, Figure, missing, publish_figures
from flm.bench.measure import (
    Conditions,
    Row,
    Turns,
    median_ms,
    medians,
    per_second,
    publish,
    rate,
    take_turns,
)
from flm.errors import InputError
from shards.__main__ import main as shards_main


def a_row(**changes) -> Row:
    fields = {"measure": "m", "ours": 6.0, "peer": 2.0, "unit": "faces/s", "bar": 2.5, "how": "so"}
    return Row(**{**fields, **changes})


def test_a_row_holds_where_its_ratio_reaches_the_bar():
    assert a_row().ratio == 3.0
    assert a_row().holds
    assert not a_row(bar=3.1).holds


def test_conditions_stand_beside_what_is_a_rows_own():
    conditions = Conditions("faces/s", "in one run")
    assert conditions.row("m", 6.0, 2.0, bar=2.5) == a_row(how="in one run")
    assert conditions.row("m", 6.0, 2.0, bar=2.5, how="crops").how == "crops; in one run"


def test_rows_are_published_under_the_agreed_names(tmp_path, capsys):
    publish([a_row(), a_row(bar=4.0)], tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert set(rows[0]) == {"measure", "ours", "peer", "unit", "ratio", "bar", "holds", "how"}
    assert [row["holds"] for row in rows] == [True, False]
    assert "m: so" in capsys.readouterr().out


def test_a_rate_leaves_the_start_out(monkeypatch):
    now_s = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now_s)

    def slow_start():
        nonlocal now_s
        now_s += 3.0
        yield 10
        for _ in range(5):
            now_s += 0.25
            yield 10

    assert rate(slow_start()) == 40


def test_sides_take_turns_and_give_their_medians():
    turns = []
    values = iter([1.0, 10.0, 3.0, 30.0, 2.0, 20.0])

    def side(name):
        def measure():
            turns.append(name)
            return next(values)

        return measure

    assert medians([side("a"), side("b")], 3) == [2.0, 20.0]
    assert turns == ["a", "b"] * 3


class FakeClock:
    """Each look at it is so much later than the last."""

    def __init__(self, steps_s: Iterator[float]) -> None:
        self.now_s = 0.0
        self.steps_s = steps_s

    def __call__(self) -> float:
        self.now_s += next(self.steps_s)
        return self.now_s


def test_a_ratio_is_taken_turn_by_turn():
    # A third turn in which the machine is ten times as slow for both changes nothing.
    turns = Turns({"ours": [10.0, 20.0, 1.0], "peer": [5.0, 10.0, 0.5]})
    assert (turns.median("ours"), turns.median("peer"), turns.ratio("ours", "peer")) == (10.0, 5.0, 2.0)
    assert Turns({"a": [1.0, 4.0, 9.0], "b": [1.0, 2.0, 3.0]}).ratio("a", "b") == 2.0


def test_sides_take_turns_after_one_that_is_not_counted():
    order: list[str] = []

    def side(name: str, values: Iterator[float]):
        return lambda: (order.append(name), next(values))[1]

    turns = take_turns({"a": side("a", iter([99.0, 1.0, 2.0])), "b": side("b", iter([99.0, 3.0, 4.0]))}, 2)
    assert order == ["a", "b"] * 3
    assert turns.values == {"a": [1.0, 2.0], "b": [3.0, 4.0]}


def test_durations_come_from_the_clock():
    seen: list[int] = []
    # 1, 3 and 2 s for the three items, and 0.5 s between them.
    clock = FakeClock(iter([0.0, 1.0, 0.5, 3.0, 0.5, 2.0]))
    assert median_ms(seen.append, [7, 8, 9], clock) == pytest.approx(2000)
    assert per_second(seen.append, [1, 2, 3, 4], FakeClock(iter([5.0, 0.5]))) == pytest.approx(8.0)
    assert seen == [7, 8, 9, 1, 2, 3, 4]


def test_a_bar_is_a_least_or_a_most():
    assert Bar("at most", 4.0).holds(4.0)
    assert not Bar("at most", 4.0).holds(4.01)
    assert Bar("at least", 3.0).holds(3.0)
    assert not Bar("at least", 3.0).holds(2.99)
    assert not Bar("at most", 4.0).holds(float("nan"))
    assert not Bar("at least", 4.0).holds(float("nan"))


def test_a_bar_is_of_the_value_or_of_the_ratio():
    bar = Bar("at least", 2.0, is_of_ratio=True)
    figure = Figure(subject="s", side="peer", unit="ms", value=10.0, beside=1.9, bar=bar)
    assert figure.holds is False
    assert dataclasses.replace(figure, bar=Bar("at least", 2.0)).holds is True
    assert dataclasses.replace(figure, beside=None).holds is None
    assert dataclasses.replace(figure, bar=None).holds is None
    assert missing("s", "peer", "no file", bar=Bar("at least", 2.0)).holds is None


def test_all_is_published(tmp_path, capsys):
    times = Bar("at least", 3.0, is_of_ratio=True)
    figures = [
        Figure(subject="speed", side=OURS, unit="ms", value=3.2, bar=Bar("at most", 4.0), how="so"),
        Figure(subject="speed", side="peer", unit="ms", value=1234.5, beside=2.5, bar=times),
        missing("speed", "dlib", "no model file given", unit="ms", bar=times),
    ]
    publish_figures(figures, tmp_path / "predict.json", {"threads": 2})
    written = json.loads((tmp_path / "predict.json").read_text())
    assert written["conditions"] == {"threads": 2}
    assert [figure["holds"] for figure in written["figures"]] == [True, False, None]
    assert set(written["figures"][0]) == {
        *("subject", "side", "unit", "value", "beside", "bar", "how", "holds"),
    }
    said = capsys.readouterr().out
    for words in (
        "3.2",
        "1,234",
        "2.50 times",
        "not measured",
        "speed, dlib: no model file given",
        "threads 2",
    ):
        assert words in said


@pytest.fixture(scope="module")
def photos_and_shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(24):
        picture, landmarks = draw_face(number, 96)
        cv2.imwrite(str(folder / f"{number}.jpg"), np.ascontiguousarray(picture[..., ::-1]))
        points = "\n".join(f"{x + 1:.4f} {y + 1:.4f}" for x, y in landmarks)
        (folder / f"{number}.pts").write_text(f"version: 1\nn_points:  68\n{{\n{points}\n}}\n")
    out = tmp_path_factory.mktemp("shards") / "out"
    shards_main(["convert", "pts", "--source", str(folder), "--out", str(out), "--processes", "1"])
    return folder, out


def test_the_loader_is_measured(photos_and_shards, monkeypatch):
    photos, shards = photos_and_shards
    for name, value in {
        "BATCH_SIZE": 4,
        "BATCHES": 6,
        "WARM_UP": 2,
        "REPETITIONS": 1,
        "LARGE_PICTURES": 2,
    }.items():
        monkeypatch.setattr(loader_bench, name, value)
    rows = loader_bench.bench_loader(shards, photos)
    assert [row.bar for row in rows] == [5.0, 30.0, 1.5, 0.7]
    assert all(row.ours > 0 and row.peer > 0 for row in rows)


def test_a_source_that_is_another_is_told(photos_and_shards, tmp_path):
    _, shards = photos_and_shards
    for measure in (loader_bench.bench_loader, train_bench.bench_train):
        with pytest.raises(InputError, match=rf"--source {tmp_path}: has no \d+\.jpg, which the shards were"):
            measure(shards, tmp_path)


def test_the_order_is_measured(monkeypatch):
    monkeypatch.setattr(order_bench, "SHARDS", 1000)
    figures = order_bench.bench_order()
    assert [figure.bar for figure in figures] == [Bar("at least", least) for least in (0.5, 1000.0, 1000.0)]
    assert all(figure.value > 0 for figure in figures)


def test_conversion_is_measured(photos_and_shards, monkeypatch):
    # More than there are faces to train on.
    for name, value in {"PHOTOS": 25, "PHOTO_SIDE_PX": 400, "REPETITIONS": 1, "PROCESSES": 1}.items():
        monkeypatch.setattr(convert_bench, name, value)
    (row,) = convert_bench.bench_convert(photos_and_shards[1])
    assert row.ours > 0
    assert row.peer > 0
