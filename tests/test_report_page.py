"""The page of an evaluation: it holds what the report holds, and needs nothing from outside."""

import base64
import dataclasses
import datetime
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import draw_face
from html_page import Page
from pages import block

from flm.checkpoint import TrainingState, check_whole
from flm.cli import main
from flm.data.manifest import Manifest
from flm.data.reader import Sample
from flm.data.samples import SampleRecord
from flm.data.store import open_store
from flm.draw import PREDICTION_COLOR, TRUTH_COLOR
from flm.errors import InputError
from flm.evaluation.evaluate_checkpoint import evaluate_checkpoint
from flm.evaluation.published import PUBLISHED, PUBLISHED_300W
from flm.evaluation.report import EvalReport
from flm.evaluation.report_page.conditions import binned_chart, conditions_section
from flm.evaluation.report_page.faces import face_picture
from flm.evaluation.report_page.measured import Measured
from flm.evaluation.report_page.shape import mean_face_figure, mean_shape
from flm.evaluation.report_page.summary import complete_subsets
from flm.evaluation.report_page.trust import trust_section
from flm.evaluation.report_page.write import write_report_page
from flm.geometry import FaceBox
from flm.landmarks import IBUG_68
from flm.metrics.calibration import CALIBRATION_NAME, Calibration
from flm.metrics.face_points import FacePoints
from flm.model.heads import Head
from flm.model.network import ModelConfig, build_network
from flm.page.plot import Axis
from flm.training.checkpoint_writer import save_checkpoint
from flm.training.config import TrainConfig

FACES = {"train": 8, "validation": 24, "test": 26}
DATE = datetime.date(2026, 11, 22)


def write_checkpoint(run: Path, head: Head, manifest_hash: str) -> Path:
    model = ModelConfig(backbone="xception_compact_slim", head=head, input_size_px=32)
    torch.manual_seed(0)
    network = build_network(model)
    state = TrainingState(step=7, manifest_hash=manifest_hash)
    config = TrainConfig(recipe="mine <b>", model=model)
    save_checkpoint(run, config, state, model=network.state_dict(), training={}, is_best=True, keep=1)
    return run


@pytest.fixture(scope="module")
def data(make_shards, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    make_shards(folder, FACES, shard_size=10, size_px=48)
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "heatmap"
    return write_checkpoint(folder, "heatmap", Manifest.read(data).content_hash())


def readme_commands(run: Path, data: Path, out: Path) -> list[list[str]]:
    """The words after `flm` of the README's commands, on what is there."""
    places = {"runs/quick": str(run), "data/300w": str(data), "report.html": str(out / "report.html")}
    lines = [[places.get(word, word) for word in line.split()] for line in block("calibrate").splitlines()]
    assert [words[0] for words in lines] == ["flm", "flm"]
    return [words[1:] for words in lines]


@pytest.fixture(scope="module")
def made(run, data, tmp_path_factory) -> tuple[EvalReport, str, str]:
    """What was measured, what was printed, and the page, all of a calibrated checkpoint."""
    out = tmp_path_factory.mktemp("page")
    calibrate, measure = readme_commands(run, data, out)
    main([*calibrate, "--num-workers", "0"])
    main([*measure, "--num-workers", "0", "--json", str(out / "report.json")])
    report, is_first = evaluate_checkpoint(run, str(data), split="test", num_workers=0)
    assert is_first
    return report, (out / "report.json").read_text(), (out / "report.html").read_text(encoding="utf-8")


def measured_by(report: EvalReport, run: Path, data: Path, split: str = "test") -> Measured:
    return Measured(report=report, checkpoint=run, store=open_store(data), split=split, date=DATE)


def test_the_page_holds_what_the_report_holds(made, run, data):
    report, _, text = made
    seen = Page(text)
    summary = report.summary
    for said in (
        "mine <b>",
        f"{FACES['test']} faces",
        f"{summary.nme_pct:.2f} %",
        f"{summary.fr_08_pct:.2f} %",
        f"{summary.auc_08:.3f}",
        "boxes: truth",
        "step 7, 8 faces of the same shards",
        "xception_compact_slim, heatmap head, 32 px",
        Manifest.read(data).licence,
    ):
        assert said in seen.text, said
    for number in report.parts.values():
        assert f"{number:.2f} %" in seen.text
    made_by = f"flm evaluate {run} --data {data} --report"
    assert made_by in seen.text


def test_the_page_needs_nothing_from_outside(made):
    _, _, text = made
    seen = Page(text)
    assert not re.findall(r"(?:src|href|url|action)\s*[=(]\s*['\"]?(?!data:image/jpeg;base64,)\w", text)
    assert not re.search(r"https?://|@import|<script|<link|javascript:", text)
    policy = next(meta["content"] for meta in seen.all("meta") if "http-equiv" in meta)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "prefers-color-scheme: dark" in text


def test_best_median_and_worst_faces_are_shown(made):
    report, _, text = made
    pictures = Page(text).all("img")
    order = np.argsort(report.errors.nme, kind="stable")
    chosen = [*order[:6], *order[10:16], *order[::-1][:6]]
    for attributes, row in zip(pictures, chosen, strict=True):
        about = attributes["alt"] or ""
        assert about.startswith(f"{report.errors.keys[row]}: error {100 * report.errors.nme[row]:.2f} %")
        jpeg = base64.b64decode((attributes["src"] or "").removeprefix("data:image/jpeg;base64,"))
        decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None
        assert decoded.shape[:2] == (320, 320)


def test_charts_say_what_they_show(made):
    _, _, text = made
    charts = [attributes["aria-label"] or "" for attributes in Page(text).all("svg")]
    # Mean face, cumulative curve, yaw, size, reliability, risk and coverage, expected errors.
    assert len(charts) == 7
    assert all(len(about) > 10 for about in charts)


def test_the_calibration_is_written_and_told(made, run, data):
    report, written, text = made
    assert report.calibration == Calibration.load(run / "best")
    assert report.calibration is not None
    assert (report.calibration.num_faces, report.calibration.split) == (24, "validation")
    # The checkpoint is whole with it, and its hashes are as they were.
    assert (run / "best" / CALIBRATION_NAME).is_file()
    check_whole(run / "best")
    assert report.reliability is not None
    numbers = json.loads(written)["calibration"]
    assert numbers == {
        "calibrated": True,
        **{name: round(value, 4) for name, value in dataclasses.asdict(report.reliability).items()},
    }
    seen = Page(text)
    assert "Fitted to 24 faces of validation, none of which is measured here." in seen.text
    assert f"{report.reliability.inside_90_pct:.1f} %" in seen.text
    assert f"{report.reliability.aurc_pct:.3f} %" in seen.text


def test_a_calibration_measured_on_its_own_faces_is_told_so(made, run, data):
    report, _, _ = made
    own = trust_section(measured_by(report, run, data, "validation"))
    assert "the very faces that are measured here" in own
    plain = trust_section(measured_by(dataclasses.replace(report, calibration=None), run, data))
    assert "This checkpoint is not calibrated" in plain


def test_a_network_without_covariance_has_a_page_and_no_calibration(data, tmp_path, capsys):
    run = write_checkpoint(tmp_path / "run", "regression", "other shards")
    page = tmp_path / "report.html"
    main(["evaluate", str(run), "--data", str(data), "--num-workers", "0", "--report", str(page)])
    seen = Page(page.read_text(encoding="utf-8"))
    assert "This network gives landmarks without covariances" in seen.text
    assert "of the same shards" not in seen.text
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", str(run), "--data", str(data), "--num-workers", "0"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("error: this network gives no covariance")
    assert not (run / "best" / CALIBRATION_NAME).exists()


def test_a_page_that_cannot_be_written_is_told_in_one_line(made, run, data, tmp_path):
    report, _, _ = made
    (tmp_path / "file").write_text("whole")
    with pytest.raises(InputError, match=r"report.html: cannot be written"):
        write_report_page(
            tmp_path / "file" / "report.html",
            report,
            checkpoint=run,
            store=open_store(data),
            split="test",
            command="flm",
        )


def of_300w(report: EvalReport, sizes: dict[str, int]) -> EvalReport:
    """The report with subsets of these sizes."""
    subsets = {
        name: dataclasses.replace(report.summary, num_faces=faces, nme_pct=float(faces))
        for name, faces in sizes.items()
    }
    return dataclasses.replace(report, subsets=subsets, summary=subsets["full"])


@pytest.mark.parametrize(
    ("sizes", "split", "shown"),
    [
        ({"common/helen": 330, "common": 330, "full": 330}, "test", set()),
        ({"common": 554, "challenging": 135, "full": 689}, "test", {"common", "challenging", "full"}),
        ({"common": 554, "full": 554}, "test", {"common"}),
        ({"common": 554, "challenging": 134, "full": 688}, "test", {"common"}),
        ({"common": 554, "challenging": 135, "full": 689}, "validation", set()),
    ],
)
def test_only_subsets_that_were_measured_whole_stand_beside_published_ones(
    made, run, data, sizes, split, shown
):
    measured = measured_by(of_300w(made[0], sizes), run, data, split)
    protocol, _ = PUBLISHED["ibug-68"]
    assert complete_subsets(measured, protocol).keys() == shown


def test_published_numbers_agree_with_each_other():
    for result in PUBLISHED_300W:
        if {"common", "challenging", "full"} <= result.nme_pct.keys():
            mean = (554 * result.nme_pct["common"] + 135 * result.nme_pct["challenging"]) / 689
            assert result.nme_pct["full"] == pytest.approx(mean, abs=0.02), result.method
    assert all("full" in result.nme_pct for result in PUBLISHED_300W)


def test_the_mean_face_is_upright_symmetric_and_of_unit_size():
    truth = np.stack([draw_face(seed)[1] for seed in range(12)])
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for faces in (truth, truth @ turn.T):
        shape = mean_shape(FacePoints.measure(faces, faces, None, IBUG_68))
        np.testing.assert_allclose(shape[[36, 45]], [[-0.5, 0], [0.5, 0]], atol=1e-6)
        np.testing.assert_allclose(shape[list(IBUG_68.mirror_permutation)] * [-1, 1], shape, atol=1e-6)
        assert shape[8, 1] > shape[33, 1] > shape[27, 1]


def test_circles_on_the_mean_face_have_the_size_of_the_error():
    shape = mean_shape(FacePoints.measure(*[draw_face(0)[1][None]] * 2, None, IBUG_68))
    errors = np.linspace(1, 9, 68)
    circles = Page(mean_face_figure(shape, errors, IBUG_68)).all("circle", "error")
    radii = np.array([float(circle["r"] or "nan") for circle in circles])
    # A view box of 100 to an inter-ocular distance; then the scale.
    np.testing.assert_allclose(radii[:68], errors, atol=0.006)
    assert radii[68:].tolist() == [1, 2, 4, 8]


def test_bins_are_counted_and_averaged():
    random = np.random.default_rng(0)
    values, nme_pct = random.uniform(0, 30, 90), random.uniform(2, 4, 90)
    nme_pct[values >= 20] += 5
    axis = Axis(label="turn", low=0.0, high=30.0, ticks=[0.0, 30.0])
    chart = binned_chart(values, nme_pct, np.array([0.0, 10, 20, 30]), axis, "drawn")
    told = re.findall(r"(\d+) faces: mean ([\d.]+) %", chart)
    for place, low in enumerate((0, 10, 20)):
        inside = (values >= low) & (values < low + 10)
        assert (str(inside.sum()), f"{nme_pct[inside].mean():.2f}") in told, place
    assert len(re.findall(r'class="dot faint"', chart)) == 90
    rare = binned_chart(values[:2], nme_pct[:2], np.array([0.0, 30.0]), axis, "drawn")
    assert "faces: mean" not in rare


def test_hidden_faces_stand_beside_the_others_where_the_data_tell_them(made, run, data):
    report, _, _ = made
    assert "Occlusion" not in conditions_section(measured_by(report, run, data))
    subsets = tuple("occlusion+blur" if i % 2 else "blur" for i in range(len(report.errors)))
    errors = dataclasses.replace(report.errors, subsets=subsets)
    told = conditions_section(measured_by(dataclasses.replace(report, errors=errors), run, data))
    assert "Occlusion" in told
    assert "50\N{NO-BREAK SPACE}% of the faces are partly hidden." in told
    assert f"13 faces: mean {100 * report.errors.nme[1::2].mean():.2f} %" in told


def test_prediction_and_truth_are_drawn_where_they_are():
    picture, landmarks = draw_face(4, 96)
    record = SampleRecord(
        scheme="ibug-68",
        landmarks_shard=landmarks,
        image_to_shard=np.eye(3),
        face_box_image=FaceBox.around(landmarks),
        subset="",
        source_file="a.png",
        group="a",
    )
    drawn = face_picture(Sample(key="a", crop_shard=picture, record=record), landmarks + 12.0, IBUG_68)
    for color, quicker in ((TRUTH_COLOR, np.less), (PREDICTION_COLOR, np.greater)):
        near = np.abs(drawn.astype(int) - color).max(axis=2) < 40
        assert near.sum() > 200
        # The prediction lies below and to the right.
        ys, xs = np.nonzero(near)
        assert quicker(xs.mean() + ys.mean(), 320)
