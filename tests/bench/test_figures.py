"""A figure: Student's points, and an interval that holds what is shown."""

from __future__ import annotations

import pytest

from cliprt_bench._compare_tables import _spread
from cliprt_bench._figures import figure, student_t
from cliprt_bench._repeats import _reach
from cliprt_bench._tune import spread

UNEVEN = [10.0] * 15 + [20.0] * 5
"""Their median, 10, lies outside the interval of their mean, 12.5 ± 2.08."""


@pytest.mark.parametrize(
    ("freedom", "point"),
    [
        *((1, 12.706), (12, 2.179), (13, 2.160), (19, 2.093), (30, 2.042)),
        *((31, 2.040), (40, 2.021), (60, 2.000), (120, 1.980), (10**6, 1.960)),
    ],
)
def test_points_of_student_are_those_of_any_table(freedom: int, point: float) -> None:
    assert student_t(freedom) == pytest.approx(point, abs=6e-4)


def test_what_is_shown_holds_the_whole_interval() -> None:
    found = figure(UNEVEN)
    assert found.value == 10
    assert (found.low, found.high) == (
        pytest.approx(10.42, abs=0.01),
        pytest.approx(14.58, abs=0.01),
    )
    assert found.reach == pytest.approx(4.58, abs=0.01)
    assert found.noisy
    assert _spread(found) == "~10.0 ±46%"
    assert _reach(found) == "46 %"
    assert spread(found) == "10.0 ± 4.6"


def test_a_median_far_from_the_interval_is_noise() -> None:
    """The mean is known to 6 %, but it is not what is shown."""
    found = figure([10.0] * 30 + [13.5] * 20)
    assert found.low is not None
    assert found.high is not None
    assert (found.high - found.low) / 2 < 0.05 * found.value
    assert found.noisy


def test_one_value_has_no_interval() -> None:
    assert figure([3.0]).reach is None
    assert _reach(figure([3.0])) == "?"
