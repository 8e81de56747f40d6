"""Cards side by side: one row for each point that any of them has, the first card the baseline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

from cliprt_bench._bench_card import BenchCard, BenchCardError, Ceiling, Point, Workload
from cliprt_bench._comparable import LabelledCard, check_comparable
from cliprt_bench._figures import Figure, student_t

# Beyond it exp() overflows.
_WIDEST = 700.0


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    """A value object with a JSON form."""


class Ratio(_Result, frozen=True):
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


class Share(_Result, frozen=True):
    """Throughput as a part of what the machine can do at most.

    Attributes:
        of: name of the ceiling, the lowest that bounds this tower in this precision.
        ceiling: items per second that it allows.
        value: 1 is all of it.
    """

    of: str
    ceiling: float
    value: float


class Cell(_Result, frozen=True):
    """One point of one card.

    Attributes:
        label: of the card.
        figures: by name, as in the card.
        ratios: by name, of those that the baseline has at the same point; none of its own.
        share: of the ceiling, if one was measured.
        per_million: price of a million items, if the machine's price is known.
        p01_cosine: fidelity of the tower in the card's precision, if it is known.
        samples: requests behind the figures.
        errors: requests that failed.
        marks: what is wrong with the point, in sentences.
    """

    label: str
    figures: dict[str, Figure]
    ratios: dict[str, Ratio]
    share: Share | None
    per_million: float | None
    p01_cosine: float | None
    samples: int
    errors: int
    marks: tuple[str, ...]


class Row(_Result, frozen=True):
    """A point, and what each card has there; None where it was not measured."""

    workload: Workload
    cells: tuple[Cell | None, ...]


class BestCell(_Result, frozen=True):
    """The point of a card with the highest throughput that holds a limit."""

    workload: Workload
    items_s: Figure
    p99_ms: Figure
    ratio: Ratio | None


class BestRow(_Result, frozen=True):
    """Throughput at a limit of p99, of one tower and text length; None where no point holds it."""

    tower: str
    text_length: int | None
    cells: tuple[BestCell | None, ...]


class StageRow(_Result, frozen=True):
    """Milliseconds of an item in a stage, by card."""

    tower: str
    stage: str
    figures: tuple[Figure | None, ...]
    ratios: tuple[Ratio | None, ...]


class Comparison(_Result, frozen=True):
    """Cards side by side.

    Attributes:
        cards: the baseline first.
        notes: what the reader must know beside the figures, in sentences.
        rows: by tower, text length, loop, batch, callers and rate.
        at_p99_ms: the limit that was asked for.
        best: throughput within it.
        stages: of cards of that kind.
    """

    cards: tuple[LabelledCard, ...]
    notes: tuple[str, ...]
    rows: tuple[Row, ...]
    at_p99_ms: float | None
    best: tuple[BestRow, ...]
    stages: tuple[StageRow, ...]


def compare_bench_cards(
    cards: Sequence[LabelledCard], *, at_p99_ms: float | None = None
) -> Comparison:
    """Puts cards side by side.

    Args:
        cards: the baseline first.
        at_p99_ms: limit of the 99th percentile, in milliseconds, for which the highest
            throughput is looked up; a point with failed requests, or too few samples for p99,
            does not hold it.

    Raises:
        BenchCardError: they cannot be compared, or the limit is not positive.
    """
    if at_p99_ms is not None and not (0 < at_p99_ms < math.inf):
        raise BenchCardError(f"a limit of p99 is positive, in milliseconds; {at_p99_ms:g} is not")
    notes = check_comparable(cards)
    points = [{point.workload: point for point in each.card.points} for each in cards]
    workloads = sorted({workload for each in points for workload in each}, key=_order)
    rows = tuple(
        Row(
            workload=workload,
            cells=tuple(
                _cell(each, own.get(workload), points[0].get(workload) if index else None)
                for index, (each, own) in enumerate(zip(cards, points, strict=True))
            ),
        )
        for workload in workloads
    )
    best = () if at_p99_ms is None else _best(rows, at_p99_ms)
    return Comparison(
        cards=tuple(cards),
        notes=notes,
        rows=rows,
        at_p99_ms=at_p99_ms,
        best=best,
        stages=_stages([each.card for each in cards]),
    )


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


def ceilings_of(card: BenchCard, tower: str) -> tuple[Ceiling, ...]:
    """The ceilings that bound a tower in the card's precision, the lowest first.

    A matrix product bounds only the precision that it was made in: ``matmul_int8`` those that
    begin with ``int8``. All others (decoding, the wire) bound every precision.
    """
    family = (card.target.precision or "").partition("-")[0]
    return tuple(
        sorted(
            (
                ceiling
                for ceiling in card.ceilings
                if ceiling.items_s.get(tower, 0) > 0
                and (not ceiling.name.startswith("matmul_") or ceiling.name == f"matmul_{family}")
            ),
            key=lambda ceiling: (ceiling.items_s[tower], ceiling.name),
        )
    )


def _order(workload: Workload) -> tuple[str, int, str, int, int, float]:
    length = -1 if workload.text_length is None else workload.text_length
    rate = workload.rate or workload.share or -1.0
    tower, loop = workload.tower, workload.loop
    return (
        tower,
        length,
        loop,
        workload.batch,
        workload.concurrency,
        rate,
    )


def _cell(each: LabelledCard, point: Point | None, baseline: Point | None) -> Cell | None:
    if point is None:
        return None
    card, tower = each.card, point.workload.tower
    ratios = {}
    for name, figure in point.figures.items():
        if baseline is not None and name in baseline.figures:
            ratio = ratio_of(figure, baseline.figures[name])
            if ratio is not None:
                ratios[name] = ratio
    items = point.figures.get("items_s")
    share = per_million = None
    if items is not None and items.value > 0:
        bounds = ceilings_of(card, tower)
        if bounds:
            most = bounds[0].items_s[tower]
            share = Share(of=bounds[0].name, ceiling=most, value=items.value / most)
        if card.price_per_hour is not None:
            per_million = card.price_per_hour / 3600 / items.value * 1e6
    fidelity = card.fidelity.get(tower)
    return Cell(
        label=each.label,
        figures=point.figures,
        ratios=ratios,
        share=share,
        per_million=per_million,
        p01_cosine=None if fidelity is None else fidelity.p01_cosine,
        samples=point.samples,
        errors=sum(point.errors.values()),
        marks=point.marks,
    )


def _best(rows: Sequence[Row], limit: float) -> tuple[BestRow, ...]:
    groups: dict[tuple[str, int | None], list[Row]] = {}
    for row in rows:
        # The best of short texts says nothing about long ones.
        groups.setdefault((row.workload.tower, row.workload.text_length), []).append(row)
    found = []
    for (tower, length), group in groups.items():
        cells: list[BestCell | None] = []
        for index in range(len(group[0].cells)):
            first = cells[0] if cells else None
            cells.append(_best_cell(group, index, limit, first))
        found.append(BestRow(tower=tower, text_length=length, cells=tuple(cells)))
    return tuple(found)


def _best_cell(
    group: Sequence[Row], index: int, limit: float, first: BestCell | None
) -> BestCell | None:
    holding = []
    for row in group:
        cell = row.cells[index]
        if cell is None or cell.errors or not {"items_s", "p99_ms"} <= cell.figures.keys():
            continue
        items, p99 = cell.figures["items_s"], cell.figures["p99_ms"]
        if p99.value <= limit:
            holding.append((items.value, row.workload, items, p99))
    if not holding:
        return None
    _, workload, items, p99 = max(holding, key=lambda one: one[0])
    ratio = None if first is None else ratio_of(items, first.items_s)
    return BestCell(workload=workload, items_s=items, p99_ms=p99, ratio=ratio)


def _stages(cards: Sequence[BenchCard]) -> tuple[StageRow, ...]:
    # In the order in which a card names them, which is that of the road of an item.
    names: dict[tuple[str, str], None] = {}
    for card in cards:
        for tower, stages in card.stages.items():
            names.update({(tower, stage): None for stage in stages})
    rows = []
    for tower, stage in sorted(names, key=lambda name: name[0]):
        figures = tuple(card.stages.get(tower, {}).get(stage) for card in cards)
        first = figures[0]
        ratios = tuple(
            None if not index or own is None or first is None else ratio_of(own, first)
            for index, own in enumerate(figures)
        )
        rows.append(StageRow(tower=tower, stage=stage, figures=figures, ratios=ratios))
    return tuple(rows)
