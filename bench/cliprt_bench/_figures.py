"""A measured figure: its value, how far repeats lie apart, and whether it may be believed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

# Two-sided 95 % points of Student's t by degrees of freedom (Student 1908; any table of it).
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)
_T_LIMIT = 1.96

NOISY = 0.1
"""A figure is noisy if its confidence interval reaches further than this part of it either way."""

BEYOND = 10
"""Samples that must lie beyond a percentile before it is told: p99 needs a thousand."""


def student_t(freedom: int) -> float:
    """The two-sided 95 % point of Student's t; of more than 12 degrees, that of the normal."""
    return _T[freedom - 1] if freedom <= len(_T) else _T_LIMIT


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measured figure.

    Attributes:
        value: median of the repeats.
        low: lower end of the 95 % confidence interval of their mean; None of a single repeat.
        high: upper end.
        repeats: the value of each repeat, in the order in which they were measured.
        noisy: whether the interval is so wide, or so little was repeated, that a difference of
            some per cent means nothing.
    """

    value: float
    low: float | None
    high: float | None
    repeats: tuple[float, ...]
    noisy: bool


def figure(repeats: Sequence[float]) -> Figure:
    """The figure that repeats come to.

    Args:
        repeats: one value or more, of equal worth.

    Raises:
        ValueError: there are none, or one is not finite.
    """
    values = tuple(map(float, repeats))
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"a figure needs finite repeats, there are {list(values)}")
    middle = statistics.median(values)
    if len(values) == 1:
        return Figure(middle, None, None, values, noisy=True)
    mean = statistics.fmean(values)
    reach = student_t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    noisy = reach > NOISY * abs(mean)
    return Figure(middle, mean - reach, mean + reach, values, noisy)


def enough_for(percentile: float) -> int:
    """Samples that a percentile needs, 0 < percentile < 100."""
    # In hundredths, and rounded: 100 - 99.9 is not quite a tenth.
    return math.ceil(round(BEYOND * 100 / (100 - percentile), 6))
