"""Which row goes with which column, so that the sum of the costs is least."""

import numpy as np
from jaxtyping import Float, Float64


def assign(costs: Float[np.ndarray, "rows columns"], most: float) -> list[tuple[int, int]]:
    """The pairs of rows and columns whose costs sum up to the least; who is in no pair costs half of `most`.

    So no pair costs more than `most`, and each row and column is in at most one.

    Args:
        costs: of each pair, finite or infinite; for tens of rows and columns, since it takes their cube.
        most: what a pair may cost.

    Returns:
        The pairs, by row.

    Source: Kuhn, "The Hungarian Method for the Assignment Problem", 1955, by shortest augmenting paths with
    potentials (Jonker and Volgenant, 1987).
    """
    rows, columns = costs.shape
    # Each row and column may also go with a partner of its own that stands for nobody.
    whole = np.full((rows + columns, rows + columns), most / 2)
    whole[:rows, :columns] = np.minimum(costs, 1e6 * (1 + most))
    whole[rows:, columns:] = 0.0
    partner = _row_of_each_column(whole)
    pairs = [(int(row), column) for column, row in enumerate(partner[:columns]) if row < rows]
    return sorted((row, column) for row, column in pairs if costs[row, column] <= most)


def _row_of_each_column(costs: Float64[np.ndarray, "size size"]) -> list[int]:
    size = len(costs)
    row_potential, column_potential = np.zeros(size + 1), np.zeros(size + 1)
    # The last column is where each row starts from.
    partner = [-1] * (size + 1)
    for row in range(size):
        partner[size] = row
        column = size
        least = np.full(size, np.inf)
        came_from = np.full(size, size)
        is_used = np.zeros(size + 1, bool)
        while partner[column] != -1:
            is_used[column] = True
            here = partner[column]
            reduced = costs[here] - row_potential[here] - column_potential[:size]
            is_better = ~is_used[:size] & (reduced < least)
            least[is_better], came_from[is_better] = reduced[is_better], column
            candidates = np.where(is_used[:size], np.inf, least)
            nearest = int(candidates.argmin())
            step = candidates[nearest]
            for used in np.flatnonzero(is_used).tolist():
                row_potential[partner[used]] += step
                column_potential[used] -= step
            least[~is_used[:size]] -= step
            column = nearest
        while column != size:
            before = int(came_from[column])
            partner[column] = partner[before]
            column = before
    return partner[:size]
