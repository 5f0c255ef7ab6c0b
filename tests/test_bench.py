"""Benchmarks measure what they say; here in a small form, for their numbers say nothing on a busy machine."""

import json
import time

import cv2
import numpy as np
import pytest
from conftest import draw_face

from flm.bench import convert as convert_bench
from flm.bench import loader as loader_bench
from flm.bench import order as order_bench
from flm.bench.measure import Conditions, Row, medians, publish, rate
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


def test_a_rate_leaves_the_start_out():
    def slow_start():
        time.sleep(0.3)
        yield 10
        for _ in range(5):
            time.sleep(0.02)
            yield 10

    assert 200 < rate(slow_start()) <= 500


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


def test_the_order_is_measured(monkeypatch):
    monkeypatch.setattr(order_bench, "SHARDS", 1000)
    rows = order_bench.bench_order()
    assert [row.bar for row in rows] == [1.0, 1.0, 1.0]
    assert all(row.ours > 0 for row in rows)


def test_conversion_is_measured(photos_and_shards, monkeypatch):
    for name, value in {"PHOTOS": 12, "PHOTO_SIDE_PX": 400, "REPETITIONS": 1, "PROCESSES": 1}.items():
        monkeypatch.setattr(convert_bench, name, value)
    (row,) = convert_bench.bench_convert(photos_and_shards[1])
    assert row.ours > 0
    assert row.peer > 0
