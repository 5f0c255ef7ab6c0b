"""The benchmark of the page: what it counts, and that it runs."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from demo_server import serving

from flm.bench.demo import demo, in_browser, visitors
from flm.bench.demo.browser import why_no_browser
from flm.bench.demo.demo import bench_demo
from flm.bench.demo.in_browser import BrowserLength, start_figure
from flm.bench.demo.page_server import ServedPage
from flm.bench.demo.visitors import Visitor, figures_of
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
    right = figures_of([visitor([0.1, 0.3]), visitor([0.2])], 0.05, steady, 60.0)
    assert [figure.holds for figure in right] == [True, None, True, True]
    assert right[0].how.startswith("3 of 3; median wait 0.20 s")
    swapped = figures_of([visitor([0.1, 0.3], num_wrong=1)], 0.01, steady, 60.0)
    assert (swapped[0].value, swapped[0].holds) == (50.0, False)
    failed = figures_of([visitor([0.1], mistakes=("busy",))], 0.01, steady, 60.0)
    assert failed[0].holds is False
    assert "1 errors, the first: busy" in failed[0].how


def test_memory_counts_from_when_it_has_settled():
    growing_first = [100.0 + 20 * second for second in range(10)] + [300.0] * 50
    growing_on = [100.0] * 10 + [100.0 + 2 * second for second in range(50)]
    for memory_mb, growth_mb in ((growing_first, 0.0), (growing_on, 98.0)):
        growth = figures_of([visitor([0.1])], 0.01, memory_mb, 60.0)[-1]
        assert (growth.value, growth.holds) == (growth_mb, growth_mb <= 50)


def test_no_answer_at_all_is_a_mistake():
    with pytest.raises(InputError, match="no visitor was answered: busy"):
        figures_of([visitor([], mistakes=("busy",))], 1.0, [1.0], 1.0)


@pytest.mark.parametrize(
    ("visitors", "lasts_s", "told"),
    [(-1, 60.0, "--visitors is -1, must be at least 0"), (3, 0.0, "--lasts-s is 0, must be above 0")],
)
def test_numbers_that_make_no_sense_are_told_at_once(visitors, lasts_s, told):
    with pytest.raises(InputError, match=told):
        bench_demo("", num_visitors=visitors, lasts_s=lasts_s)


def test_who_finds_no_page_is_counted():
    """Nothing listens on port 9, and the process of the page is gone."""
    lost = visitor([])
    visitors._visit("http://127.0.0.1:9/", lost, 0.2)
    assert lost.mistakes
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(InputError, match="the page ended while visitors asked"):
        visitors._watch(ended.pid, 1.0)
    ended.wait()


def test_a_slow_start_a_slow_photo_and_few_frames_break_the_bars():
    assert start_figure(7.9).holds
    assert not start_figure(8.1).holds
    photo, live = in_browser.figures_of([0.5, 0.6, 9.0], 6.5, "80")
    assert photo.holds
    assert live.holds
    photo, live = in_browser.figures_of([0.5, 0.8, 0.9], 5.9, "80")
    assert not photo.holds
    assert not live.holds
    assert photo.value == 0.8
    assert "0.500 to 0.900 s" in photo.how


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
    length = BrowserLength(num_photos=2, warm_up_s=0.2, live_s=4.0)
    start, *browser, own, together, alone, _ = bench_demo("", num_visitors=3, lasts_s=2.0, length=length)
    assert start.holds
    assert own.holds
    assert together.value > 0
    assert alone.beside == pytest.approx(together.value / alone.value)
    if has_browser:
        photo, live = browser
        assert photo.value > 0
        assert live.value > 0
    else:
        assert browser == []
        assert "Chromium is not installed; nothing is measured in a browser" in capsys.readouterr().err
