"""The measured tables of our pages are what was measured."""

import dataclasses
import inspect
import json
import re
from pathlib import Path

import pytest

from flm.bench.boxes_report import BoxReport, BoxRow, MovedBoxes
from flm.bench.figures import OURS, Bar, Figure
from flm.bench.machine import Machine
from flm.bench.measure import Row
from flm.bench.summary import readme as readme_module
from flm.bench.summary.comparisons import comparisons
from flm.bench.summary.readme import PAGES, ROOT, bench_readme, with_tables
from flm.bench.summary.readme_tables import (
    BESIDE,
    IF_MISSED,
    LABELS,
    accuracy,
    boxes,
    published,
    speed,
)
from flm.bench.summary.results import RESULTS, Evaluation, Results, Trained
from flm.bench.summary.runs import Run
from flm.cli import main
from flm.errors import InputError
from flm.evaluation.published import IBUG_300W, PUBLISHED_300W
from flm.fields import to_fields
from flm.recipes import RECIPES

SOURCE = "ibug protocol=300w mirrors=drop"
SET = {"source": SOURCE, "split": "test"}
BLOCKS = PAGES["README.md"]
MARKS = "".join(f"<!-- generated: {name} -->\n<!-- end of {name} -->\n" for name in BLOCKS)


@pytest.fixture(scope="module")
def results() -> Results:
    """This project's."""
    return Results.read(RESULTS)


@pytest.fixture
def copies(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """The first page and results that commands may change."""
    for name in PAGES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    results = tmp_path / "results.json"
    results.write_bytes(RESULTS.read_bytes())
    monkeypatch.setattr(readme_module, "ROOT", tmp_path)
    monkeypatch.setattr(readme_module, "RESULTS", results)
    return tmp_path / "README.md", results


def test_the_readme_says_what_was_measured(capsys):
    main(["bench", "readme", "--check"])
    assert capsys.readouterr().out == ""


def test_a_number_that_drifted_is_told_and_mended(copies, capsys):
    readme, _ = copies
    before = readme.read_text()
    readme.write_text(before.replace("| 3.40 |", "| 3.04 |"))
    with pytest.raises(SystemExit) as stop:
        main(["bench", "readme", "--check"])
    assert stop.value.code == 1
    told = capsys.readouterr().out
    assert re.search(r"^-\| `ibug68-quick`.*\| 3\.04 \|", told, re.MULTILINE)
    assert re.search(r"^\+\| `ibug68-quick`.*\| 3\.40 \|", told, re.MULTILINE)
    assert "| 3.04 |" in readme.read_text(), "--check changes nothing"
    main(["bench", "readme"])
    assert readme.read_text() == before


def test_every_number_has_a_command_and_a_date(results):
    dates = re.compile(r"\d{4}-\d\d-\d\d")
    assert len(results.runs) > 5
    for name, run in results.runs.items():
        assert run.command.split()[:3] == ["flm", "bench", name]
        assert dates.match(run.began), name
        assert run.is_done, name
    for name, trained in results.accuracy.items():
        assert trained.conditions
        assert trained.evaluations, name
        for one in trained.evaluations:
            assert one.command.startswith("flm evaluate "), name
            assert dates.fullmatch(one.date), name


def test_recipes_state_the_same_error(results):
    for name, trained in results.accuracy.items():
        told = " ".join((inspect.getdoc(RECIPES[name]) or "").split())
        for one in trained.evaluations:
            assert f"{one.nme_pct:.2f} %" in told, (
                f"{name}: {one.nme_pct:.2f} % is not in what the recipe says"
            )


def test_nothing_of_a_machine_is_in_the_results():
    assert not re.search(r'[" =](?:/\w|~/)', RESULTS.read_text(encoding="utf-8"))


def test_text_around_the_tables_stays(results):
    text = f"# Mine\n{MARKS}the end \\1 \\n\n"
    made = with_tables(text, BLOCKS, results, "mine")
    assert made.startswith("# Mine\n")
    assert made.endswith("the end \\1 \\n\n")
    assert with_tables(made, BLOCKS, results, "mine") == made
    for name, block in BLOCKS.items():
        assert f"<!-- generated: {name} -->\n\n{block(results)}\n\n<!-- end of {name} -->" in made


@pytest.mark.parametrize("lost", ["<!-- generated: speed -->\n", "<!-- end of speed -->\n"])
def test_a_lost_mark_is_told(results, lost):
    with pytest.raises(InputError, match="expected one `<!-- generated: speed -->`"):
        with_tables(MARKS.replace(lost, ""), BLOCKS, results, "mine")
    with pytest.raises(InputError, match="generated: accuracy"):
        with_tables(MARKS + MARKS, BLOCKS, results, "mine")


def columns(table: str) -> list[list[str]]:
    """The cells of each row; all rows have as many."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    return [[cell.strip() for cell in row] for row in rows]


def test_tables_are_tables(results):
    for block in (speed, accuracy, published):
        assert len(columns(block(results))) > 6
    assert all(len(line) <= 118 for line in accuracy(results).splitlines() if not line.startswith("|"))


def a_run(name: str, **changes) -> Run:
    rows = [Row(measure="new | one", ours=3.0, peer=2.0, unit="faces/s", bar=2.0, how="so").to_json()]
    fields = {
        "command": f"flm bench {name} --data /secret/place/300w",
        "began": "2026-11-24 10:00",
        "seconds": 61.0,
        "machine": Machine(processor="Fast", cores=64, load=0.1, commit="abc1234"),
        "result": {"rows": rows},
    }
    return Run(**{**fields, **changes})


def test_what_was_measured_takes_the_place_of_what_was(copies, tmp_path):
    readme, results = copies
    a_run("convert", conditions="missed, since the disk is slow").write(tmp_path / "bench" / "convert")
    a_run("loader", why="it failed").write(tmp_path / "bench" / "loader")
    before = Results.read(results)
    difference = bench_readme(tmp_path / "bench", check=True)
    assert "abc1234" in difference
    assert Results.read(results) == before
    bench_readme(tmp_path / "bench", check=False)
    after = Results.read(results)
    assert list(after.runs) == list(before.runs), "the order is that of the benchmarks"
    assert {name for name in after.runs if after.runs[name] != before.runs[name]} == {"convert"}
    text = readme.read_text()
    assert "| new \\| one | 3 faces/s | 2 faces/s | 1.50 | ≥ 2, **not reached** | `convert` |" in text
    assert (
        "- 2026-11-24, 64 cores of Fast, commit abc1234: `flm bench convert --data 300w` (1 min 01 s, load "
        "before 0.1)." in " ".join(text.split())
    )
    assert "\n- `convert`: missed, since the disk is slow.\n" in text, "for all to see, below the table"
    assert "secret" not in results.read_text() + text
    assert bench_readme(tmp_path / "bench", check=True) == ""


def test_a_folder_without_results_is_told(copies, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "readme", str(tmp_path / "nothing")])
    assert stop.value.code == 2
    assert "nothing was measured here; run `flm bench all --out" in capsys.readouterr().err


def test_what_was_not_measured_says_so(results):
    nothing = Results(runs={}, accuracy={})
    assert boxes(nothing) == "What the face box changes: not yet measured (`flm bench boxes`)."
    rows = columns(speed(nothing))
    assert [row[0] for row in rows[2:]] == ["not yet measured"] * len(rows[2:])
    assert len(rows) > 7
    assert f"Not yet measured: {', '.join(f'`{name}`' for name in RECIPES)}." in accuracy(nothing)
    assert [row[0].rpartition(", ")[0] for row in columns(accuracy(nothing))[2:]] == list(BESIDE)
    assert len(columns(published(nothing))) == 2 + len(PUBLISHED_300W)


def test_boxes_are_a_table_of_their_own(results):
    error = {"nme_pct": 3.456, "second_pass_nme_pct": 3.41}
    worst = {"worst_nme_pct": 3.6, "second_pass_worst_nme_pct": 3.5}
    report = BoxReport(
        checkpoint="run", data="data", split="validation", detector="yunet",
        rows=tuple(
            BoxRow(boxes=name, num_faces=201, found_pct=100.0, truth_nme_pct=3.4, **error)
            for name in ("truth", "detector")
        ),
        shifts=tuple(MovedBoxes(amount=amount, **error, **worst) for amount in (0.0, 0.1, 0.2)),
        scales=(), fitted=None,
    )  # fmt: skip
    result = to_fields(report)
    assert BoxReport.from_json(result) == report
    with_boxes = dataclasses.replace(results, runs={**results.runs, "boxes": a_run("boxes", result=result)})
    rows = columns(boxes(with_boxes))
    assert rows[3] == ["detector (yunet)", "201, 100.00 %", "3.46", "3.41"]
    assert [row[0] for row in rows[4:]] == [f"truth, shifted by {share} % of its side" for share in (10, 20)]
    assert "flm bench boxes" not in speed(with_boxes)
    remarked = a_run("boxes", result=result, conditions="the faces are few")
    assert "\n- `boxes`: the faces are few.\n" in boxes(
        dataclasses.replace(results, runs={"boxes": remarked})
    )


def a_report(path: Path, **changes) -> Path:
    part = {"num_faces": 330, "nme_pct": 2.9}
    on = {"weights_sha256": "aa", "source": SOURCE, "split": "test"}
    fields = {
        **part, "fr_08_pct": 0.3, "boxes": "truth", "second_pass": False, "mirror_average": False,
        "subsets": {"common": part, "common/helen": part, "full": part}, "measured_on": on,
    }  # fmt: skip
    path.write_text(json.dumps({**fields, **changes}))
    return path


def test_evaluations_of_other_weights_go(copies, tmp_path, capsys):
    _, results = copies
    plain, mirrored = (
        a_report(tmp_path / "a.json"),
        a_report(tmp_path / "b.json", mirror_average=True, nme_pct=2.8),
    )
    main(["bench", "readme", "--evaluations", "ibug68-compact", str(plain), "ibug68-compact", str(mirrored)])
    assert "| 2.90 (mirror average: 2.80) | 0.30 % | 330 faces of test: common/helen |" in (
        capsys.readouterr().out
    )
    trained = Results.read(results).accuracy["ibug68-compact"]
    assert [one.nme_pct for one in trained.evaluations] == [2.9, 2.8]
    assert trained.evaluations[1].command.endswith("--data DATA --split test --mirror-average")
    again = a_report(tmp_path / "a.json", nme_pct=2.7)
    bench_readme(None, [("ibug68-compact", again)], check=False)
    trained = Results.read(results).accuracy["ibug68-compact"]
    assert [one.nme_pct for one in trained.evaluations] == [2.8, 2.7], "the same again takes its place"


def test_a_set_of_faces_has_one_row_in_whatever_order_it_was_measured():
    """As after the plain look was measured again, behind that of another set."""
    mirrored, other, plain = (
        Evaluation(date="2026-11-24", command="c", faces=faces, num_faces=9, nme_pct=error, **{**SET, **look})
        for faces, error, look in (
            ("9 faces", 2.8, {"mirror_average": True}),
            ("others", 5.0, {"split": "validation"}),
            ("9 faces", 2.9, {}),
        )
    )  # fmt: skip
    trained = Trained(trained_on="some", training="long", evaluations=(mirrored, other, plain))
    rows = columns(accuracy(Results(runs={}, accuracy={"ibug68-xception": trained})))
    assert [row[1] for row in rows if "ibug68-xception" in row[0]] == ["2.90 (mirror average: 2.80)", "5.00"]


@pytest.mark.parametrize(
    ("recipe", "content", "told"),
    [
        ("ibug68-huge", "{}", "'ibug68-huge': results.json does not say how it was trained"),
        ("ibug68-compact", "{}", "'measured_on'; give a file of `flm evaluate --json`"),
        ("ibug68-compact", "[", "give a file of `flm evaluate --json`"),
        ("ibug68-compact", None, "cannot be read (No such file or directory)"),
    ],
)
def test_what_is_no_evaluation_is_told(copies, tmp_path, recipe, content, told):
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=re.escape(told)):
        bench_readme(None, [(recipe, path)], check=True)


def measured(subsets: dict[str, tuple[int, float]], split: str = "test") -> Results:
    parts = {name: {"num_faces": faces, "nme_pct": error} for name, (faces, error) in subsets.items()}
    faces, error = subsets["full"]
    one = Evaluation(
        date="2026-11-24", command="flm evaluate", faces=f"{faces} faces", source=SOURCE, split=split,
        num_faces=faces, nme_pct=error, subsets=parts,
    )  # fmt: skip
    trained = Trained(trained_on="some", training="long", evaluations=(one,))
    return Results(runs={}, accuracy={"ibug68-xception": trained})


def ours(results: Results) -> list[str]:
    """Full, common and challenging; nothing without any."""
    lines = [row[1:4] for row in columns(published(results)) if "ibug68-xception" in row[0]]
    return lines[0] if lines else []


def test_only_subsets_that_are_whole_stand_beside_published_ones():
    whole = {name: (faces, 3.0 + faces / 1000) for name, faces in IBUG_300W.subsets.items()}
    assert ours(measured(whole)) == ["3.69", "3.55", "3.13"]
    assert ours(measured(whole, split="validation")) == []
    part = {"common": (330, 3.0), "common/helen": (330, 3.0), "full": (330, 3.0)}
    assert ours(measured(part)) == []
    # As many faces as in the whole, but not the same.
    other = {"common": (600, 3.0), "challenging": (89, 3.0), "full": (689, 3.0)}
    assert ours(measured(other)) == []
    one_subset = {"common": (554, 2.61), "challenging": (100, 3.0), "full": (654, 3.0)}
    assert ours(measured(one_subset)) == ["", "2.61", ""]


def test_published_results_beside_ours_are_those_of_their_authors(results):
    told = {row[0]: row[1] for row in columns(accuracy(results))[2:]}
    best = min(PUBLISHED_300W, key=lambda one: one.nme_pct["full"])
    assert told[f"{best.method}, {best.source}"] == f"{best.nme_pct['full']:.2f}"
    assert (told["STAR, CVPR 2023"], told["HRNetV2-W18, 2019"]) == ("2.87", "3.34")


def test_limits_stand_as_bars():
    """And figures that say little stand there only where they miss theirs."""
    figures = [
        Figure(subject=subject, side=OURS, unit=unit, value=value, bar=bar).to_json()
        for subject, value, unit, bar in (
            ("start of the page", 3.5, "s", Bar("at most", 8.0)),
            ("landmarks of the camera", 24.0, "frames/s", Bar("at least", 6.0)),
            ("answers that are the visitor's own", 100.0, "%", Bar("at least", 100.0)),
            ("growth of memory", 60.0, "MB", Bar("at most", 50.0)),
            ("told without a bar", 1.0, "MB", None),
        )
    ]
    told = columns(speed(Results(runs={"demo": a_run("demo", result={"figures": figures})}, accuracy={})))
    assert [row[1:5] for row in told if row[-1] == "`demo`"] == [
        ["3.5 s", "", "", "≤ 8 s"],
        ["24 frames/s", "", "", "≥ 6 frames/s"],
        ["60 MB", "", "", "≤ 50 MB, **not reached**"],
    ]


def test_labels_are_of_rows_that_there_are(results):
    """A row that was renamed would stand there by its own name, or not at all."""
    named = {(name, one.name) for name, run in results.runs.items() for one in comparisons(run.result or {})}
    assert {*LABELS, *IF_MISSED} <= named


def test_results_that_cannot_be_are_told(tmp_path):
    path = tmp_path / "results.json"
    for content, told in (
        ("{", "cannot be read"),
        ('{"runs": {"lader": {}}}', "runs: lader: "),
        (
            '{"accuracy": {"mine": {"trained_on": "x", "training": "y"}}}',
            "accuracy: mine is unknown; known: quick",
        ),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=re.escape(told)):
            Results.read(path)


def test_results_are_written_as_they_are_read(results, tmp_path):
    results.write(tmp_path / "results.json")
    assert (tmp_path / "results.json").read_bytes() == RESULTS.read_bytes()
