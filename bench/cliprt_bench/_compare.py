"""Cards side by side: one row for each point that any of them has, the first card the baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from cliprt_bench._bench_card import BenchCard, BenchCardError, Point, Workload
from cliprt_bench._comparable import LabelledCard, check_comparable
from cliprt_bench._derived import (
    Ratio,
    Share,
    best_within,
    price_of_a_million,
    ratio_of,
    share_of,
)
from cliprt_bench._figures import Figure


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    """A value object with a JSON form."""


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
    per_million: Figure | None
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
    best = () if at_p99_ms is None else _best([each.card for each in cards], at_p99_ms)
    return Comparison(
        cards=tuple(cards),
        notes=notes,
        rows=rows,
        at_p99_ms=at_p99_ms,
        best=best,
        stages=_stages([each.card for each in cards]),
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
    fidelity = card.fidelity.get(tower)
    return Cell(
        label=each.label,
        figures=point.figures,
        ratios=ratios,
        share=None if items is None else share_of(card, point.workload, items),
        per_million=price_of_a_million(card, items),
        p01_cosine=None if fidelity is None else fidelity.p01_cosine,
        samples=point.samples,
        errors=sum(point.errors.values()),
        marks=point.marks,
    )


def _best(cards: Sequence[BenchCard], limit: float) -> tuple[BestRow, ...]:
    found = [best_within(card.points, limit) for card in cards]
    keys = sorted({key for own in found for key in own}, key=lambda key: (key[0], key[1] or -1))
    rows = []
    for tower, length in keys:
        points = [own.get((tower, length)) for own in found]
        first = points[0]
        cells = tuple(
            None if point is None else _best_cell(point, first if index else None)
            for index, point in enumerate(points)
        )
        rows.append(BestRow(tower=tower, text_length=length, cells=cells))
    return tuple(rows)


def _best_cell(point: Point, first: Point | None) -> BestCell:
    items = point.figures["items_s"]
    return BestCell(
        workload=point.workload,
        items_s=items,
        p99_ms=point.figures["p99_ms"],
        ratio=None if first is None else ratio_of(items, first.figures["items_s"]),
    )


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
