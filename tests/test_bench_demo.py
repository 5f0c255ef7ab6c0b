"""The benchmark of the page: what it counts, and that it runs."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from demo_server import serving

from flm.bench.demo import demo, in_browser
from flm.bench.demo.browser import why_no_browser
from flm.bench.demo.demo import bench_demo
from flm.bench.demo.in_browser import BrowserLength, start_row
from flm.bench.demo.page_server import ServedPage
from flm.bench.demo.visitors import Visitor, rows_of
from flm.errors import InputError

pytest.importorskip("gradio_client", reason="Gradio is not installed")


def visitor(waits_s: list[float], *, num_wrong: int = 0, mistakes: tuple[str, ...] = ()) -> Visitor:
    return Visitor(
        picture=Path("a.jpg"),
        expected=np.zeros((68, 2)),
        waits_s=waits_s,
        num_wrong=num_wrong,
        mistakes=list(mistakes),
    )


def test_swapped_answers_and_errors_break_the_bar():
    steady = [100.0] * 20
    right = rows_of([visitor([0.1, 0.3]), visitor([0.2])], 0.05, steady, 60.0)
    assert [row.holds for row in right] == [True, True, True]
    assert "median wait 0.20 s" in right[0].how
    swapped = rows_of([visitor([0.1, 0.3], num_wrong=1)], 0.01, steady, 60.0)
    assert not swapped[0].holds
    failed = rows_of([visitor([0.1], mistakes=("busy",))], 0.01, steady, 60.0)
    assert not failed[0].holds
    assert "1 errors, the first: busy" in failed[0].how


def test_memory_counts_from_when_it_has_settled():
    growing_first = [100.0 + 20 * second for second in range(10)] + [300.0] * 50
    growing_on = [100.0] * 10 + [100.0 + 2 * second for second in range(50)]
    assert rows_of([visitor([0.1])], 0.01, growing_first, 60.0)[2].holds
    assert not rows_of([visitor([0.1])], 0.01, growing_on, 60.0)[2].holds


def test_no_answer_at_all_is_a_mistake():
    with pytest.raises(InputError, match="no visitor was answered: busy"):
        rows_of([visitor([], mistakes=("busy",))], 1.0, [1.0], 1.0)


def test_a_slow_start_a_slow_photo_and_few_frames_break_the_bars():
    assert start_row(7.9).holds
    assert not start_row(8.1).holds
    photo, live = in_browser.rows_of([0.5, 0.6, 9.0], 6.5, "80")
    assert photo.holds
    assert live.holds
    photo, live = in_browser.rows_of([0.5, 0.8, 0.9], 5.9, "80")
    assert not photo.holds
    assert not live.holds
    assert "0.800 s, 0.500 to 0.900 s" in photo.how


@pytest.mark.multiprocess
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("has_browser", [False, pytest.param(True, marks=pytest.mark.browser)])
def test_visitors_get_their_own_answers(tmp_path, monkeypatch, capsys, has_browser):
    if has_browser and (reason := why_no_browser()):
        pytest.skip(f"{reason}; launch/test.sh --browser installs it")

    @contextlib.contextmanager
    def served(checkpoint: str, detector: Path | None):
        with serving(tmp_path, ["--requests-per-minute", "0"]) as page:
            yield ServedPage(url=page.url, process=page.process, started_s=1.0)

    monkeypatch.setattr(demo, "served", served)
    if not has_browser:
        monkeypatch.setattr(demo, "why_no_browser", lambda: "Chromium is not installed")
    length = BrowserLength(num_photos=2, warm_up_s=0.2, live_s=1.0)
    start, *browser, own, _, _ = bench_demo("", num_visitors=3, lasts_s=2.0, length=length)
    assert start.holds
    assert own.holds
    assert own.ours >= 3
    if has_browser:
        photo, live = browser
        assert photo.peer > 0
        assert live.ours > 0
    else:
        assert browser == []
        assert "Chromium is not installed; nothing is measured in a browser" in capsys.readouterr().err
