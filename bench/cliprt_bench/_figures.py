"""A measured figure: its value, how far repeats lie apart, and whether it may be believed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

# Two-sided 95 % points of Student's t by degrees of freedom (Student 1908; any table of it).
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_NORMAL = 1.959964

NOISY = 0.1
"""A figure is noisy if its confidence interval reaches further than this part of it either way."""

BEYOND = 10
"""Samples that must lie beyond a percentile before it is told: p99 needs a thousand."""


def student_t(freedom: int) -> float:
    """The two-sided 95 % point of Student's t, to three digits behind the point."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    # Cornish and Fisher's expansion around that of the normal distribution.
    z = _NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measured figure.

    Attributes:
        value: median of the repeats.
        low: lower end of the 95 % confidence interval of their mean; None of a single repeat.
        high: upper end.
        repeats: the value of each repeat, in the order in which they were measured.
        noisy: whether the interval reaches so far from the value, or so little was repeated, that a
            difference of some per cent means nothing.
    """

    value: float
    low: float | None
    high: float | None
    repeats: tuple[float, ...]
    noisy: bool

    @property
    def reach(self) -> float | None:
        """How far the interval reaches from the value, on the side on which it reaches further.

        The value plus and minus this holds the whole interval, even of repeats so uneven that
        their median is far from their mean. None if there is no interval.
        """
        if self.low is None or self.high is None:
            return None
        return max(self.high - self.value, self.value - self.low)


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
    noisy = reach + abs(mean - middle) > NOISY * abs(middle)
    return Figure(middle, mean - reach, mean + reach, values, noisy)


def enough_for(percentile: float) -> int:
    """Samples that a percentile needs, 0 < percentile < 100."""
    # In hundredths, and rounded: 100 - 99.9 is not quite a tenth.
    return math.ceil(round(BEYOND * 100 / (100 - percentile), 6))
