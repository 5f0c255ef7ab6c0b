"""Rows and columns paired at the least cost, as trying all pairings finds it."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flm.inference.tracking.assignment import assign


def cost_of(costs: np.ndarray, pairs: list[tuple[int, int]], most: float) -> float:
    alone = sum(costs.shape) - 2 * len(pairs)
    return sum(float(costs[pair]) for pair in pairs) + alone * most / 2


def least_cost(costs: np.ndarray, most: float) -> float:
    rows, columns = costs.shape
    return min(
        cost_of(costs, list(zip(some, others, strict=True)), most)
        for count in range(min(rows, columns) + 1)
        for some in itertools.combinations(range(rows), count)
        for others in itertools.permutations(range(columns), count)
    )


@given(
    rows=st.integers(0, 4),
    columns=st.integers(0, 4),
    seed=st.integers(0, 10_000),
    most=st.sampled_from([0.3, 1.0, 5.0]),
)
def test_no_pairing_costs_less(rows, columns, seed, most):
    costs = np.random.default_rng(seed).uniform(-0.5, 2, (rows, columns))
    pairs = assign(costs, most)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    assert all(costs[pair] <= most for pair in pairs)
    assert cost_of(costs, pairs, most) <= least_cost(costs, most) + 1e-9


def test_the_greedy_choice_is_not_taken():
    costs = np.array([[1.0, 2.0], [1.1, 9.0]])
    assert assign(costs, 10.0) == [(0, 1), (1, 0)]


def test_what_cannot_be_is_not():
    costs = np.array([[np.inf, 1.0], [np.inf, 0.5]])
    assert assign(costs, 2.0) == [(1, 1)]
    assert assign(np.full((3, 2), 5.0), 2.0) == []


def test_forty_faces_are_paired():
    random = np.random.default_rng(0)
    order = random.permutation(40)
    costs = random.uniform(1, 2, (40, 40))
    costs[np.arange(40), order] = 0.1
    assert assign(costs, 3.0) == list(enumerate(order.tolist()))
