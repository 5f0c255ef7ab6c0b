"""The benchmark of the page: what it counts, and that it runs."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from demo_server import serving

from flm.bench import demo
from flm.bench.demo import Visitor, bench_demo
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
    right = demo._rows([visitor([0.1, 0.3]), visitor([0.2])], 0.05, steady, 60.0)
    assert [row.holds for row in right] == [True, True, True]
    assert "median wait 0.20 s" in right[0].how
    swapped = demo._rows([visitor([0.1, 0.3], num_wrong=1)], 0.01, steady, 60.0)
    assert not swapped[0].holds
    failed = demo._rows([visitor([0.1], mistakes=("busy",))], 0.01, steady, 60.0)
    assert not failed[0].holds
    assert "1 errors, the first: busy" in failed[0].how


def test_memory_counts_from_when_it_has_settled():
    growing_first = [100.0 + 20 * second for second in range(10)] + [300.0] * 50
    growing_on = [100.0] * 10 + [100.0 + 2 * second for second in range(50)]
    assert demo._rows([visitor([0.1])], 0.01, growing_first, 60.0)[2].holds
    assert not demo._rows([visitor([0.1])], 0.01, growing_on, 60.0)[2].holds


def test_no_answer_at_all_is_a_mistake():
    with pytest.raises(InputError, match="no visitor was answered: busy"):
        demo._rows([visitor([], mistakes=("busy",))], 1.0, [1.0], 1.0)


@pytest.mark.multiprocess
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_visitors_get_their_own_answers(tmp_path, monkeypatch):
    @contextlib.contextmanager
    def served(checkpoint: str):
        with serving(tmp_path, ["--requests-per-minute", "0"]) as page:
            yield page.url, page.process

    monkeypatch.setattr(demo, "_served", served)
    rows = bench_demo("", num_visitors=3, lasts_s=2.0)
    assert rows[0].holds
    assert rows[0].ours >= 3
