import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from flm.draw import encode_png
from flm.errors import InputError
from flm.evaluation.report import (
    EvalReport,
    FaceExample,
    ced_curve_picture,
    format_table,
    predictions_picture,
    worst_faces_picture,
)
from flm.metrics.nme import FaceErrors, summarize

KEYS = [
    *("num_faces", "nme_pct", "nme_inter_pupil_pct", "nme_box_pct", "auc_08", "auc_10"),
    *("fr_08_pct", "fr_10_pct", "p50_pct", "p90_pct", "p95_pct", "p99_pct"),
]


def make_example(position: int) -> FaceExample:
    generator = np.random.default_rng(position)
    truth = generator.uniform(10, 50, (68, 2))
    return FaceExample(
        key=f"face-{position}",
        position=position,
        scheme="ibug-68",
        picture_shard=generator.integers(0, 120, (60, 60, 3), dtype=np.uint8),
        truth_shard=truth,
        prediction_shard=truth + 3,
        nme=0.0231,
    )


def make_report(num_faces: int = 90, loss: float | None = None) -> EvalReport:
    names = ("common/helen", "common/lfpw", "challenging/ibug")
    return report_of(tuple(names[i % 3] for i in range(num_faces)), loss)


def report_of(of_faces: tuple[str, ...], loss: float | None = None) -> EvalReport:
    """The subsets of each face are given."""
    num_faces = len(of_faces)
    nme = np.random.default_rng(0).gamma(4, 0.01, num_faces)
    errors = FaceErrors(
        positions=np.arange(num_faces),
        nme=nme,
        nme_inter_pupil=1.4 * nme,
        nme_box=0.5 * nme,
        nme_parts=nme[:, None] * np.array([0.5, 1.5]),
        parts=("eyes", "mouth"),
        keys=tuple(f"face-{i}" for i in range(num_faces)),
        subsets=of_faces,
    )
    subsets = {name: summarize(faces) for name, faces in errors.by_subset().items()}
    return EvalReport(
        summary=subsets["full"],
        subsets=subsets,
        parts=errors.nme_pct_by_part(),
        loss=loss,
        errors=errors,
        worst=tuple(make_example(i) for i in range(5)),
        examples=tuple(make_example(i) for i in range(3)),
    )


def test_the_json_has_the_keys_that_others_rely_on(tmp_path: Path) -> None:
    report = make_report()
    report.write_json(tmp_path / "runs" / "report.json")
    read = json.loads((tmp_path / "runs" / "report.json").read_text())
    assert list(read) == [*KEYS, "boxes", "second_pass", "mirror_average", "subsets", "parts"]
    assert (read["boxes"], read["second_pass"], read["mirror_average"]) == ("truth", False, False)
    assert [list(subset) for subset in read["subsets"].values()] == [KEYS] * 6
    assert read["subsets"]["full"] == {key: read[key] for key in KEYS}
    assert read["parts"] == pytest.approx(report.parts, abs=1e-4)
    assert read["num_faces"] == 90
    assert read["nme_pct"] == pytest.approx(report.summary.nme_pct, abs=1e-4)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["report.json"]


def test_a_log_gets_flat_numbers() -> None:
    flat = make_report(loss=0.5).to_flat()
    assert list(flat)[:13] == [*KEYS, "loss"]
    assert all(isinstance(number, float) for number in flat.values())
    assert {name for name in flat if "/" in name} == {
        *(f"subsets/{name}/nme_pct" for name in ("common", "common/helen", "common/lfpw")),
        *("subsets/challenging/nme_pct", "subsets/challenging/ibug/nme_pct"),
        *("parts/eyes/nme_pct", "parts/mouth/nme_pct"),
    }
    assert "loss" not in make_report().to_flat()


def test_the_table_shows_each_subset_and_part() -> None:
    report = make_report()
    lines = format_table(report).splitlines()
    full = next(line for line in lines if "full" in line)
    for shown in ("90", f"{report.summary.nme_pct:.2f}", f"{report.summary.auc_08:.3f}"):
        assert shown in full
    assert all(any(f" {name} " in line for line in lines) for name in report.subsets)
    assert f"mouth {report.parts['mouth']:.2f}" in lines[-1]
    assert max(map(len, lines)) <= 110


def test_the_curve_is_drawn_where_the_faces_are() -> None:
    picture = ced_curve_picture(make_report())
    assert encode_png(picture).startswith(b"\x89PNG")
    assert picture.std() > 5
    colours = picture[(np.ptp(picture, axis=2) > 60)]
    assert len(np.unique(colours // 64, axis=0)) >= 3
    hopeless = make_report()
    hopeless.errors.nme[:] = 1.0
    # The lines of faces that are all wrong lie on the axis, and leave the upper half empty.
    upper = ced_curve_picture(hopeless)[100:350, 150:900]
    assert np.ptp(upper, axis=2).max() < 30
    assert np.ptp(picture[100:350, 150:900], axis=2).max() > 60


def test_a_subset_that_is_all_faces_has_no_curve_of_its_own() -> None:
    report = make_report()
    assert report.curve_subsets == ["challenging", "common"]
    one = report_of(("common/helen",) * 90)
    assert list(one.subsets) == ["common", "common/helen", "full"]
    assert one.curve_subsets == []
    np.testing.assert_array_equal(ced_curve_picture(one), ced_curve_picture(report_of(("",) * 90)))
    # A single one that is not all faces has.
    assert report_of(("common",) * 40 + ("",) * 50).curve_subsets == ["common"]


@pytest.mark.parametrize("number_of_columns", [2, 4])
def test_faces_are_shown_as_tiles(number_of_columns: int) -> None:
    report = make_report()
    worst = worst_faces_picture(report, number_of_columns)
    few = predictions_picture(report, number_of_columns)
    tile = 2 * 60
    assert worst.shape[1] == number_of_columns * (tile + 6) + 6
    assert worst.shape[0] > few.shape[0] or number_of_columns == 2
    decoded = cv2.imdecode(np.frombuffer(encode_png(worst), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    np.testing.assert_array_equal(decoded[..., ::-1], worst)


def test_a_report_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("whole")
    with pytest.raises(InputError, match=r"report.json: cannot be written \(File exists\); make room"):
        make_report().write_json(tmp_path / "file" / "report.json")
