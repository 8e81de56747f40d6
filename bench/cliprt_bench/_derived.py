"""What follows from the figures of a card: ratios, shares of ceilings, prices, the best point."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from cliprt_bench._bench_card import BenchCard, Ceiling, Point, Tower, Workload
from cliprt_bench._figures import Figure, student_t
from cliprt_bench._figures import figure as figure_of

# Beyond it exp() overflows.
_WIDEST = 700.0

Texts: TypeAlias = "tuple[Tower, int | None]"
"""A tower, and of its texts the tokens of each; None for pictures, and captions as they come."""


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """A figure as a multiple of the baseline's.

    Attributes:
        value: quotient of the two figures' values.
        low: lower end of its 95 % confidence interval; None if either was measured once.
        high: upper end.
        noisy: whether either figure is noisy.
    """

    value: float
    low: float | None
    high: float | None
    noisy: bool

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 1 out, and neither figure is noisy."""
        if self.low is None or self.high is None or self.noisy:
            return False
        return self.low > 1 or self.high < 1


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """Throughput as a part of a ceiling of the machine.

    Attributes:
        of: name of the ceiling, the lowest that bounds this tower in this precision.
        ceiling: items per second that it allows.
        value: 1 is all of it.
        low: lower end of its 95 % confidence interval, of throughput and ceiling together; None if
            either was measured once.
        high: upper end.
        noisy: whether either is noisy.
    """

    of: str
    ceiling: float
    value: float
    low: float | None
    high: float | None
    noisy: bool


def ratio_of(figure: Figure, baseline: Figure) -> Ratio | None:
    """A figure as a multiple of another.

    The two were measured one after the other, so their repeats are independent. The interval is
    Welch's, on the logarithms of the repeats: both spreads and both numbers of repeats count. It is
    laid around the quotient of the values, so that it always holds the ratio that is shown.

    Returns:
        None if either is not positive.
    """
    if figure.value <= 0 or baseline.value <= 0:
        return None
    value = figure.value / baseline.value
    if not 0 < value < math.inf:
        return None
    noisy = figure.noisy or baseline.noisy
    both = (figure.repeats, baseline.repeats)
    if any(len(repeats) < 2 or min(repeats) <= 0 for repeats in both):
        return Ratio(value=value, low=None, high=None, noisy=noisy)
    # Variance of each mean of logarithms, and its degrees of freedom.
    parts = [
        (statistics.variance(list(map(math.log, repeats))) / len(repeats), len(repeats) - 1)
        for repeats in both
    ]
    whole = sum(part for part, _ in parts)
    # Welch and Satterthwaite's degrees of freedom; of shares, whose squares do not vanish.
    shares = sum((part / whole) ** 2 / degrees for part, degrees in parts) if whole else 0.0
    if not shares:
        return Ratio(value=value, low=value, high=value, noisy=noisy)
    freedom = int(1 / shares)
    t = student_t(max(freedom, 1))
    reach = math.exp(min(t * math.sqrt(whole), _WIDEST))
    return Ratio(value=value, low=value / reach, high=min(value * reach, 1e300), noisy=noisy)


def ratio_in_turns(values: Sequence[float], others: Sequence[float]) -> Ratio:
    """A figure as a multiple of another, where each repeat of one has its turn beside the other's.

    What drifts meets both of a turn alike, so turns are compared in pairs. The interval is
    Student's, on the logarithms: twice and half as much are equally far from as much.

    Args:
        values: of the turns, all positive, two or more.
        others: as many.
    """
    pairs = figure_of([math.log(a / b) for a, b in zip(values, others, strict=True)])
    assert pairs.low is not None
    assert pairs.high is not None
    high = math.exp(min(pairs.high, _WIDEST))
    return Ratio(value=math.exp(pairs.value), low=math.exp(pairs.low), high=high, noisy=pairs.noisy)


def ceilings_of(card: BenchCard, workload: Workload) -> tuple[tuple[float, Ceiling], ...]:
    """The ceilings that bound a point in the precision of its tower, the lowest first.

    A matrix product bounds only the precision that it was made in: ``matmul_int8`` those that
    begin with ``int8``. All others (decoding, the wire) bound every precision.

    Returns:
        Each with the items per second that it allows at the point.
    """
    precision = card.target.precisions.get(workload.tower, card.target.precision)
    product = f"matmul_{(precision or '').partition('-')[0]}"
    found = [
        (most, ceiling)
        for ceiling in card.ceilings
        if (most := ceiling.of(workload)) is not None
        and most > 0
        and (not ceiling.name.startswith("matmul_") or ceiling.name == product)
    ]
    return tuple(sorted(found, key=lambda one: (one[0], one[1].name)))


def share_of(card: BenchCard, workload: Workload, items: Figure) -> Share | None:
    """Throughput as a part of the lowest ceiling; None if none was measured, or nothing answered.

    Args:
        card: whose ceilings count.
        workload: that was asked.
        items: per second.
    """
    bounds = ceilings_of(card, workload)
    if not bounds or items.value <= 0:
        return None
    most, lowest = bounds[0]
    value = items.value / most
    # A ceiling in items is its figure times a number: their spread is the same.
    ratio = ratio_of(items, lowest.figure)
    low = high = None
    if ratio is not None and ratio.low is not None and ratio.high is not None:
        low, high = value * (ratio.low / ratio.value), value * (ratio.high / ratio.value)
    noisy = items.noisy or lowest.figure.noisy
    return Share(of=lowest.name, ceiling=most, value=value, low=low, high=high, noisy=noisy)


def price_of_a_million(card: BenchCard, items: Figure | None) -> Figure | None:
    """What a million items cost, in the currency of the price of an hour.

    Args:
        card: whose machine has a price, if it is known.
        items: per second.

    Returns:
        The price with the interval of the throughput turned round; None if the price is not known
        or nothing was answered.
    """
    if card.price_per_hour is None or items is None or items.value <= 0:
        return None
    whole = card.price_per_hour / 3600 * 1e6
    low = high = None
    if items.low is not None and items.high is not None and items.low > 0:
        low, high = whole / items.high, whole / items.low
    repeats = tuple(whole / each for each in items.repeats if each > 0)
    return Figure(whole / items.value, low, high, repeats, noisy=items.noisy)


def best_within(points: Sequence[Point], limit_ms: float) -> dict[Texts, Point | None]:
    """The point of the highest throughput whose 99th percentile holds a limit.

    Args:
        points: of a card; those without a 99th percentile, or with errors, hold no limit.
        limit_ms: in milliseconds.

    Returns:
        By tower and text length, since the best of short texts says nothing about long ones; None
        where no point holds the limit.
    """
    found: dict[Texts, Point | None] = {}
    for point in points:
        key = (point.workload.tower, point.workload.text_length)
        best = found.setdefault(key, None)
        figures = point.figures
        if point.errors or not {"items_s", "p99_ms"} <= figures.keys():
            continue
        if figures["p99_ms"].value > limit_ms:
            continue
        if best is None or figures["items_s"].value > best.figures["items_s"].value:
            found[key] = point
    return found
