import math
from typing import Any

import numpy as np
import pytest

from flm.runlog.curves import LOG_SCALE_FROM, curves_picture

TRAINING, VALIDATION = slice(0, 325), slice(360, 675)
"""Rows of the picture inside the axes."""


def lines(num_steps: int = 200, *, final_loss: float = 0.1, **changes: Any) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for step in range(1, num_steps + 1):
        done = step / num_steps
        loss = final_loss**done
        made.append(
            {"kind": "train", "step": step, "time": 0.0, "loss": loss, "learning_rate": 1e-3 * (1 - done)}
        )
        if step % 10 == 0:
            made.append({"kind": "validation", "step": step, "time": 0.0, "nme_pct": 3 + 9 * (1 - done)})
    return [{**line, **changes} for line in made]


def where_colored(picture: np.ndarray, rows: slice) -> np.ndarray:
    """Row and column of each pixel of a coloured line."""
    return np.argwhere(np.ptp(picture[rows].astype(int), axis=2) > 60)


def test_the_curves_fall_where_the_numbers_do() -> None:
    picture = curves_picture(lines())
    assert picture.shape == (900, 960, 3)
    for rows in (TRAINING, VALIDATION):
        found = where_colored(picture, rows)
        left = found[found[:, 1] < 250, 0].mean()
        right = found[found[:, 1] > 800, 0].mean()
        # Rows count from above.
        assert right > left + 80


def test_a_wide_range_is_drawn_logarithmically() -> None:
    def height_at_half(final_loss: float) -> float:
        """Where the loss is after half of the steps: 0 at its highest, 1 at its lowest."""
        found = where_colored(curves_picture(lines(final_loss=final_loss)), TRAINING)
        middle = found[abs(found[:, 1] - 515) < 3, 0].mean()
        return (middle - found[:, 0].min()) / np.ptp(found[:, 0])

    # The loss falls exponentially, so it is a straight line on a logarithmic scale.
    assert height_at_half(0.001) == pytest.approx(0.5, abs=0.05)
    assert height_at_half(1 / LOG_SCALE_FROM + 0.01) > 0.6


def test_losses_below_zero_are_drawn() -> None:
    shifted = [{**line, "loss": line["loss"] - 5} if "loss" in line else line for line in lines()]
    assert len(where_colored(curves_picture(shifted), TRAINING)) > 1000


def test_a_log_that_has_just_begun_is_drawn() -> None:
    for few in ([], lines(1), lines(3), lines(12)):
        assert curves_picture(few).shape == (900, 960, 3)


def test_other_lines_and_numbers_that_are_none_are_left_out() -> None:
    usual = lines()
    broken = [{**usual[0], "loss": math.nan}, *usual[1:], {**usual[-2], "loss": math.inf}]
    warned = [*broken, {"kind": "warning", "step": 7, "time": 0.0, "text": "hot"}]
    assert np.array_equal(curves_picture(warned), curves_picture(broken))
    assert len(where_colored(curves_picture(broken), TRAINING)) > 1000
