import dataclasses

import numpy as np
import pytest
import torch
from conftest import MEAN_FACE_UNIT
from hypothesis import given, settings
from hypothesis import strategies as st

from flm.landmarks import IBUG_68
from flm.metrics.nme import (
    FaceErrors,
    NmeSummary,
    area_under_curve,
    cumulative_error_curve,
    face_size,
    failure_rate,
    measurable,
    nme,
    nme_parts,
    summarize,
)

NUM_POINTS = IBUG_68.num_points
SIZES = ("inter-ocular", "inter-pupil", "box")


def faces(seed: int, num_faces: int = 5) -> torch.Tensor:
    """Rough faces in 100 px, whose eyes are far enough apart to be measured at a third of that size."""
    noise = torch.randn(num_faces, NUM_POINTS, 2, generator=torch.Generator().manual_seed(seed)).double()
    return 100 * torch.from_numpy(MEAN_FACE_UNIT) + 3 * noise


def errors_of(values: np.ndarray, subsets: tuple[str, ...] | None = None) -> FaceErrors:
    """Faces whose nme is given; the other errors are multiples of it."""
    num_faces = len(values)
    return FaceErrors(
        positions=np.arange(num_faces),
        nme=values,
        nme_inter_pupil=1.4 * values,
        nme_box=0.5 * values,
        nme_parts=values[:, None] * np.array([0.5, 1.5]),
        parts=("eyes", "mouth"),
        keys=tuple(f"face-{i}" for i in range(num_faces)),
        subsets=subsets or ("",) * num_faces,
    )


def random_errors(num_faces: int, seed: int = 0) -> FaceErrors:
    values = np.random.default_rng(seed).gamma(4, 0.01, num_faces)
    subsets = tuple(("common/helen", "common/lfpw", "challenging/ibug")[i % 3] for i in range(num_faces))
    return errors_of(values, subsets)


@pytest.mark.parametrize("by", SIZES)
def test_one_point_that_is_off_counts_for_its_share_of_a_face(by: str) -> None:
    target = torch.zeros(1, NUM_POINTS, 2)
    target[0, list(IBUG_68.right_eye)] = torch.tensor([-5.0, 0.0])
    target[0, list(IBUG_68.left_eye)] = torch.tensor([15.0, 0.0])
    target[0, 8] = torch.tensor([0.0, 45.0])
    predicted = target.clone()
    predicted[0, 30] += torch.tensor([3.0, 4.0])
    size = {"inter-ocular": 20.0, "inter-pupil": 20.0, "box": 30.0}[by]
    assert nme(predicted, target, IBUG_68, by).item() == pytest.approx(5 / NUM_POINTS / size)


def test_inter_pupil_takes_the_middle_of_each_eye() -> None:
    target = faces(0, 1)
    target[0, 36] = torch.tensor([0.0, 0.0])
    target[0, 45] = torch.tensor([60.0, 0.0])
    target[0, 37:42] = torch.tensor([12.0, 0.0])
    target[0, 42:45] = torch.tensor([48.0, 0.0])
    target[0, 46:48] = torch.tensor([48.0, 0.0])
    assert face_size(target, IBUG_68, "inter-ocular").item() == pytest.approx(60)
    assert face_size(target, IBUG_68, "inter-pupil").item() == pytest.approx(50 - 10)


@settings(deadline=None, max_examples=25)
@given(
    scale=st.floats(0.3, 8), angle=st.floats(-3.2, 3.2), shift=st.floats(-500, 500), seed=st.integers(0, 99)
)
def test_a_similarity_of_the_picture_changes_no_error(
    scale: float, angle: float, shift: float, seed: int
) -> None:
    target, predicted = faces(seed), faces(seed) + torch.randn(5, NUM_POINTS, 2).double()
    turn = torch.tensor([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for by in ("inter-ocular", "inter-pupil"):
        before = nme(predicted, target, IBUG_68, by)
        after = nme(scale * predicted @ turn + shift, scale * target @ turn + shift, IBUG_68, by)
        torch.testing.assert_close(after, before)
    before = nme(predicted, target, IBUG_68, "box")
    torch.testing.assert_close(nme(scale * predicted + shift, scale * target + shift, IBUG_68, "box"), before)


def test_the_parts_weighted_by_their_points_are_the_whole() -> None:
    predicted, target = faces(0), faces(1)
    weights = torch.tensor([len(points) for points in IBUG_68.parts.values()]).double() / NUM_POINTS
    whole = nme_parts(predicted, target, IBUG_68) @ weights
    torch.testing.assert_close(whole, nme(predicted, target, IBUG_68))


def test_a_part_feels_only_its_own_points() -> None:
    target = faces(0)
    predicted = target.clone()
    predicted[:, list(IBUG_68.parts["mouth"])] += 1
    off = nme_parts(predicted, target, IBUG_68) > 0
    assert off.tolist() == [[part == "mouth" for part in IBUG_68.parts]] * 5


@pytest.mark.parametrize("by", SIZES)
def test_a_face_without_size_is_refused(by: str) -> None:
    target = faces(0, 3)
    target[1] = 7.0
    with pytest.raises(ValueError, match=f"the {by} size of a target is 0 px"):
        nme(target, target, IBUG_68, by)
    assert measurable(target, IBUG_68).tolist() == [True, False, True]
    target[2, 0, 0] = torch.nan
    assert measurable(target, IBUG_68).tolist()[2] is False


def test_errors_are_measured_in_double_precision() -> None:
    target = faces(0).float()
    errors = FaceErrors.measure(
        target + 1e-3,
        target,
        IBUG_68,
        positions=torch.arange(5),
        keys=tuple("abcde"),
        subsets=("",) * 5,
    )
    assert errors.nme.dtype == np.float64
    np.testing.assert_array_equal(errors.nme, nme((target + 1e-3).double(), target.double(), IBUG_68))
    assert errors.nme_parts.shape == (5, len(errors.parts))


def numbers(errors: FaceErrors) -> tuple[dict[str, NmeSummary], dict[str, float]]:
    return {name: summarize(part) for name, part in errors.by_subset().items()}, errors.nme_pct_by_part()


@pytest.mark.parametrize("num_processes", [1, 2, 3, 7])
def test_any_number_of_processes_gives_the_same_numbers(num_processes: int) -> None:
    whole = random_errors(100)
    pieces = [whole.at(np.arange(process, 100, num_processes)) for process in range(num_processes)]
    padding = whole.at(np.array([0, 1]))
    together = FaceErrors.concatenate([*reversed(pieces), padding])
    assert together.keys == whole.keys
    assert numbers(together) == numbers(whole)


def test_the_order_of_faces_does_not_matter() -> None:
    whole = random_errors(50)
    permuted = whole.at(np.random.default_rng(1).permutation(50))
    assert numbers(FaceErrors.concatenate([permuted])) == numbers(whole)


def test_a_process_without_a_face_takes_part() -> None:
    whole = random_errors(10)
    nothing = whole.at(np.array([], dtype=np.int64))
    assert numbers(FaceErrors.concatenate([nothing, whole])) == numbers(whole)
    with pytest.raises(ValueError, match="no face"):
        summarize(nothing)


def test_a_face_counts_in_its_subset_and_those_around_it() -> None:
    errors = random_errors(10)
    subsets = errors.by_subset()
    assert list(subsets) == [
        *("challenging", "challenging/ibug", "common", "common/helen", "common/lfpw", "full")
    ]
    assert {name: len(faces) for name, faces in subsets.items()} == {
        **{"challenging": 3, "challenging/ibug": 3},
        **{"common": 7, "common/helen": 4, "common/lfpw": 3},
        "full": 10,
    }
    assert list(errors_of(np.array([0.1])).by_subset()) == ["full"]


@pytest.mark.parametrize("threshold", [0.08, 0.10])
def test_the_area_is_that_of_the_curve(threshold: float) -> None:
    errors = random_errors(200).nme
    at = (np.arange(200_000) + 0.5) / 200_000 * threshold
    share = np.searchsorted(np.sort(errors), at, side="right") / len(errors)
    assert area_under_curve(errors, threshold) == pytest.approx(share.mean(), abs=1e-6)
    curve_errors, curve_shares = cumulative_error_curve(errors, threshold)
    steps = np.diff(curve_errors) * curve_shares[:-1]
    assert steps.sum() / threshold == pytest.approx(area_under_curve(errors, threshold), abs=1e-12)


def test_the_curve_begins_and_ends_where_it_should() -> None:
    errors, shares = cumulative_error_curve(np.array([0.0, 0.02, 0.02, 0.5]), 0.1)
    assert errors.tolist() == [0.0, 0.02, 0.02, 0.1]
    assert shares.tolist() == [0.25, 0.75, 0.75, 0.75]
    assert np.all(np.diff(cumulative_error_curve(random_errors(50).nme, 0.1)[1]) >= 0)


def test_perfect_and_hopeless_networks_mark_the_ends_of_the_scale() -> None:
    perfect, hopeless = summarize(errors_of(np.zeros(4))), summarize(errors_of(np.full(4, 2.0)))
    assert (perfect.auc_08, perfect.fr_08_pct, perfect.nme_pct) == (1.0, 0.0, 0.0)
    assert (hopeless.auc_08, hopeless.fr_08_pct, hopeless.nme_pct) == (0.0, 100.0, 200.0)


def test_an_error_at_the_threshold_is_no_failure() -> None:
    errors = np.array([0.05, 0.08, 0.09, 0.2])
    assert failure_rate(errors, 0.08) == 0.5
    summary = summarize(errors_of(errors))
    assert (summary.fr_08_pct, summary.fr_10_pct) == (50.0, 25.0)


def test_the_summary_holds_means_and_percentiles_in_percent() -> None:
    errors = random_errors(137)
    summary = summarize(errors)
    assert summary.num_faces == 137
    assert summary.nme_pct == pytest.approx(100 * errors.nme.mean())
    assert summary.nme_inter_pupil_pct == pytest.approx(140 * errors.nme.mean())
    assert summary.nme_box_pct == pytest.approx(50 * errors.nme.mean())
    ordered = 100 * np.sort(errors.nme)
    assert summary.p50_pct == pytest.approx(ordered[68])
    for percent, value in ((90, summary.p90_pct), (95, summary.p95_pct), (99, summary.p99_pct)):
        place = percent / 100 * 136
        low = int(place)
        expected = ordered[low] + (place - low) * (ordered[low + 1] - ordered[low])
        assert value == pytest.approx(expected)
    assert errors.nme_pct_by_part() == pytest.approx(
        {"eyes": 50 * errors.nme.mean(), "mouth": 150 * errors.nme.mean()}
    )


def test_the_fields_are_the_keys_that_readers_of_reports_rely_on() -> None:
    keys = [field.name for field in dataclasses.fields(NmeSummary)]
    assert keys == [
        *("num_faces", "nme_pct", "nme_inter_pupil_pct", "nme_box_pct", "auc_08", "auc_10"),
        *("fr_08_pct", "fr_10_pct", "p50_pct", "p90_pct", "p95_pct", "p99_pct"),
    ]
