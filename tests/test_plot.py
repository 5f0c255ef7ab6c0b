"""Charts: values stand where the axes say."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flm.page.plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Plot, linear_axis

values = st.integers(0, 10**6).map(lambda number: number / 100)


@given(values, values)
def test_an_axis_holds_both_values_between_its_outer_ticks(one, other):
    low, high = min(one, other), max(one, other)
    axis = linear_axis("", low, high)
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low <= low + slack
    assert axis.high >= high - slack
    assert axis.ticks[0] == pytest.approx(axis.low, abs=slack)
    assert axis.ticks[-1] == pytest.approx(axis.high, abs=slack)
    assert 2 <= len(axis.ticks) <= 9
    np.testing.assert_allclose(np.diff(axis.ticks), np.diff(axis.ticks)[0])


def test_values_stand_between_the_ends_linearly_or_by_their_logarithm():
    linear = Axis(label="", low=0.0, high=10.0, ticks=[])
    np.testing.assert_allclose(linear.share(np.array([-5.0, 0.0, 2.5, 10.0, 99.0])), [0, 0, 0.25, 1, 1])
    octaves = Axis(label="", low=1.0, high=16.0, ticks=[], logarithmic=True)
    np.testing.assert_allclose(octaves.share(np.array([1.0, 2.0, 4.0, 16.0])), [0, 0.25, 0.5, 1])


def test_a_curve_runs_from_corner_to_corner():
    axis = linear_axis("x", 0.0, 1.0)
    drawn = Plot(axis, axis).curve(np.array([0.0, 1.0]), np.array([0.0, 1.0]), "first", "a < b").svg("chart")
    found = re.search(r'<polyline class="curve first" points="([^"]*)"><title>a &lt; b</title>', drawn)
    assert found
    corners = [[float(number) for number in point.split(",")] for point in found[1].split()]
    assert corners == [[LEFT, HEIGHT - BOTTOM], [WIDTH - RIGHT, TOP]]


def test_dots_say_what_they_are():
    axis = linear_axis("x", 0.0, 1.0)
    half = np.array([0.5, 0.5])
    drawn = Plot(axis, axis).dots(half, half, "faint", ["one", "two"]).svg("chart")
    assert re.findall(r"<circle[^>]*><title>(\w+)</title></circle>", drawn) == ["one", "two"]
