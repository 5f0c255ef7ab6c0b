"""A run of two processes that is killed again and again ends with the weights that it would have had."""

import pytest

from flm.bench.faults import MOMENTS, bench_faults

KILLS = 2 * len(MOMENTS)


@pytest.mark.multiprocess
@pytest.mark.slow
# Most of it is starting Python eight times, which a busy machine takes its time for.
@pytest.mark.timeout(1500)
def test_kills_at_all_moments_leave_no_trace_in_the_weights(data, tmp_path):
    faults = bench_faults(data, kills=KILLS)
    assert faults.same_weights
    assert faults.same_log
    assert faults.moments == dict.fromkeys(MOMENTS, 2)
    faults.write_json(tmp_path / "faults.json")
    assert '"same_weights": true' in (tmp_path / "faults.json").read_text()
