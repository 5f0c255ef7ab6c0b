"""A run of two processes that is killed again and again ends with the weights that it would have had."""

import pytest

from flm.bench.faults import MOMENTS, bench_faults

KILLS = 10


@pytest.mark.multiprocess
@pytest.mark.slow
# Most of it is starting Python twelve times, which a busy machine takes its time for.
@pytest.mark.timeout(1500)
def test_ten_kills_leave_no_trace_in_the_weights(data, tmp_path):
    faults = bench_faults(data, kills=KILLS)
    assert faults.same_weights
    assert faults.same_log
    assert sum(faults.moments.values()) == KILLS
    assert set(faults.moments) == set(MOMENTS)
    assert min(faults.moments.values()) >= 2
    faults.write_json(tmp_path / "faults.json")
    assert '"same_weights": true' in (tmp_path / "faults.json").read_text()
