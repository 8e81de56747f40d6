"""The plots of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cliprt_bench._bench_card import Loop, Tower, Workload
from cliprt_bench._comparable import printable
from cliprt_bench._compare import Cell, Comparison
from cliprt_bench._compare_tables import number
from cliprt_bench._derived import ceilings_of
from cliprt_bench._drawing import (
    COLOURS,
    MARKERS,
    NAMED,
    SERIES,
    Key,
    Plot,
    Shape,
    categories,
    dot,
    drawable,
    drawing_style,
    finished,
    labels,
    logarithmic,
    new_figure,
    plain_tick,
    power_tick,
)
from cliprt_bench._figures import Figure

# A cosine nearer to 1 than float32 can tell.
_FINEST = 1e-7

_STAGES = (
    "Stage breakdown",
    "Where an item's time goes, by stage, in the order of its road; each bar ends at the sum of "
    "its stages' medians. In process each stage is measured by itself, all but the tower in one "
    "thread, so that the sum is no latency.",
)
_STARTS = (
    "Steps of a start",
    "Where the time goes from nothing to the first answers, step after step; each bar ends at the "
    "sum of its steps' medians.",
)

# From the highest down: the first of those that most lines have is drawn.
_PERCENTILES = (99, 95, 90, 50)


@dataclass(frozen=True, eq=False)
class _Series:
    """Points of a card that may stand in one line: of a tower, a text length and a loop."""

    card: int
    tower: Tower
    length: int | None
    loop: Loop
    shape: Shape
    points: tuple[tuple[Workload, Cell], ...]

    @property
    def colour(self) -> str:
        return SERIES[self.card % COLOURS]

    @property
    def marker(self) -> str:
        return MARKERS[self.shape]

    def dots(self, percentile: int) -> list[tuple[Figure, Figure]]:
        """Throughput and a percentile of latency, of those points that have both."""
        name = f"p{percentile}_ms"
        return [
            (cell.figures["items_s"], cell.figures[name])
            for _, cell in self.points
            if {"items_s", name} <= cell.figures.keys()
            and drawable(cell.figures["items_s"].value)
            and drawable(cell.figures[name].value)
        ]

    def in_words(self) -> str:
        """What was asked: the tower, its texts, its loop."""
        length = "" if self.length is None else f", {self.length:,} tokens"
        return f"{self.tower}{length}{', open loop' if self.loop == 'open' else ''}"


def draw_plots(comparison: Comparison) -> tuple[Plot, ...]:
    """Draws every plot for which the cards hold something; the same cards give the same bytes.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    with drawing_style():
        drawn = (
            _latency(comparison),
            _scaling(comparison),
            _roofline(comparison),
            _fidelity(comparison),
            _stages(comparison),
        )
    return tuple(plot for plot in drawn if plot is not None)


def _series(comparison: Comparison) -> list[_Series]:
    """Points of cards, apart by tower, text length and loop; each of these has a shape."""
    asked = {_asked(row.workload): None for row in comparison.rows}  # in the order of the rows
    shapes = tuple(MARKERS)
    found = []
    for index in range(len(comparison.cards)):
        for place, key in enumerate(asked):
            points = tuple(
                (row.workload, cell)
                for row in comparison.rows
                if _asked(row.workload) == key and (cell := row.cells[index]) is not None
            )
            if points:
                shape = shapes[place % len(shapes)]
                found.append(_Series(index, *key, shape, points))
    return found


def _asked(workload: Workload) -> tuple[Tower, int | None, Loop]:
    return workload.tower, workload.text_length, workload.loop


def _keys(comparison: Comparison, used: Sequence[_Series]) -> tuple[Key, ...]:
    keys = []
    for series in used:
        each = comparison.cards[series.card]
        precision = printable(each.card.target.precision or "", 24)
        name = printable(each.card.target.name, 28)
        text = " ".join(part for part in (f"{each.label}:", name, precision) if part)
        keys.append(Key(series.card % COLOURS, series.shape, f"{text}, {series.in_words()}"))
    return tuple(keys)


def _latency(comparison: Comparison) -> Plot | None:
    drawn = [series for series in _series(comparison) if any(map(series.dots, _PERCENTILES))]
    if not drawn:
        return None
    # One for all: a median beside a p99 would look like a faster machine.
    percentile = max(_PERCENTILES, key=lambda one: sum(bool(each.dots(one)) for each in drawn))
    used = [series for series in drawn if series.dots(percentile)]
    figure, axes = new_figure()
    for series in used:
        dots = series.dots(percentile)
        best = _frontier([(x.value, y.value) for x, y in dots])
        axes.plot(*zip(*best, strict=True), color=series.colour, marker="", zorder=2)
        for x, y in dots:
            faint = (x.value, y.value) not in best
            dot(axes, x, y, series.colour, series.marker, faint=faint)
    logarithmic(axes, "x")
    logarithmic(axes, "y")
    labels(axes, "items per second", f"latency p{percentile}, ms")
    caption = (
        "Further right and lower is better. Each dot is a measured point; a line joins the points "
        "of a card, tower and text length that no other of them beats in both, fainter dots are "
        "beaten. Hollow dots are noisy."
    )
    if percentile != _PERCENTILES[0]:
        caption += (
            f" It is p{percentile} for all, which most lines have; not all had requests enough for "
            "p99."
        )
    if left_out := sum(len(series.points) - len(series.dots(percentile)) for series in drawn):
        caption += f" {left_out} points without a p{percentile} are left out."
    return finished(
        figure, "latency", "Latency against throughput", caption, _keys(comparison, used)
    )


def _frontier(dots: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    # From the greatest throughput down: a point stays if it is faster to answer than all so far.
    for x, y in sorted(dots, key=lambda dot: (-dot[0], dot[1])):
        if not found or y < found[-1][1]:
            found.append((x, y))
    return found[::-1]


def _scaling(comparison: Comparison) -> Plot | None:
    figure, axes = new_figure()
    used = []
    batches: set[int] = set()
    for series in _series(comparison):
        best: dict[int, Figure] = {}
        for workload, cell in series.points:
            items = cell.figures.get("items_s")
            if series.loop != "closed" or items is None or not drawable(items.value):
                continue
            if workload.batch not in best or items.value > best[workload.batch].value:
                best[workload.batch] = items
        if len(best) < 2:
            continue
        used.append(series)
        batches |= best.keys()
        line = sorted(best.items())
        axes.plot([b for b, _ in line], [f.value for _, f in line], color=series.colour, zorder=2)
        for batch, items in line:
            dot(axes, batch, items, series.colour, series.marker)
    if not used:
        return None
    axes.set_xscale("log", base=2)
    shown = sorted(batches)
    axes.set_xticks(shown[:: math.ceil(len(shown) / 8)])
    axes.xaxis.set_major_formatter(plain_tick)
    logarithmic(axes, "y")
    labels(axes, "items of a request", "items per second")
    return finished(
        figure,
        "scaling",
        "Batch scaling",
        "What larger requests bring: the highest throughput of a closed loop at each batch, over "
        "all numbers of callers. Where a line is flat, a larger batch only costs latency. Whiskers "
        "are 95 % intervals, hollow dots are noisy.",
        _keys(comparison, used),
    )


def _roofline(comparison: Comparison) -> Plot | None:
    rows = []
    for series in _series(comparison):
        best = _fastest(series)
        card, asked = comparison.cards[series.card].card, series.points[0][0]
        bounds = [bound for bound in ceilings_of(card, asked) if drawable(bound[0])]
        if best is not None and bounds:
            rows.append((series, best, bounds))
    if not rows:
        return None
    figure, axes = new_figure(height=max(2.0, 0.9 + 0.42 * len(rows)))
    names = list(dict.fromkeys(c.name for *_, bounds in rows for _, c in bounds))
    styles = ("-", (0, (3, 1.5)), (0, (1, 1)), "-.")
    for place, (series, best, bounds) in enumerate(rows):
        lowest = bounds[0][0]
        axes.plot([best.value, lowest], [place, place], color=NAMED["line"], lw=5, zorder=1)
        dot(axes, best, place, series.colour, series.marker, size=7)
        for most, ceiling in bounds:
            which = names.index(ceiling.name)
            axes.plot(
                [most] * 2,
                [place - 0.3, place + 0.3],
                color=SERIES[(COLOURS - 1 - which) % COLOURS],
                linestyle=styles[which // COLOURS % len(styles)],
                lw=2.4,
                zorder=2,
            )
        axes.annotate(
            f"{best.value / lowest:.0%}",
            (best.value, place),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    categories(axes, [_category(comparison, series) for series, *_ in rows])
    logarithmic(axes, "x")
    labels(axes, "items per second", "")
    keys = _keys(comparison, [series for series, *_ in rows])
    keys += tuple(
        Key((COLOURS - 1 - which) % COLOURS, "tick", f"ceiling: {printable(name, 40)}")
        for which, name in enumerate(names)
    )
    return finished(
        figure,
        "roofline",
        "Roofline",
        "How near each card comes to the ceilings of its machine: the dot is the highest "
        "throughput measured, the upright strokes are ceilings measured in the same run (products "
        "of the same type at typical sizes, cliprt's decoding, the wire), the percentage is the "
        "share of the lowest; what decodes faster than cliprt may have more than 100 %.",
        keys,
    )


def _fidelity(comparison: Comparison) -> Plot | None:
    figure, axes = new_figure()
    used = []
    for series in _series(comparison):
        best = _fastest(series)
        each = comparison.cards[series.card]
        known = each.card.fidelity.get(series.tower)
        if best is None or known is None or not math.isfinite(known.p01_cosine):
            continue
        used.append(series)
        loss = max(1 - known.p01_cosine, _FINEST)
        dot(axes, best, loss, series.colour, series.marker, size=8)
        axes.annotate(
            each.label,
            (best.value, loss),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            fontweight="bold",
        )
    if not used:
        return None
    logarithmic(axes, "x")
    logarithmic(axes, "y", formatter=power_tick)
    axes.invert_yaxis()
    labels(axes, "items per second, at most", "1 - p01 cosine")
    return finished(
        figure,
        "fidelity",
        "Fidelity against speed",
        "What speed costs in accuracy. Further right is faster, further up is truer to the "
        "original weights: 99 of 100 items are nearer to the reference than the distance shown. "
        "Distances below 1e-7, which float32 cannot tell from 0, stand at 1e-7.",
        _keys(comparison, used),
    )


def _stages(comparison: Comparison) -> Plot | None:
    rows: dict[tuple[str, int], list[tuple[str, float]]] = {}
    for row in comparison.stages:
        for index, own in enumerate(row.figures):
            if own is not None and drawable(own.value):
                rows.setdefault((row.tower, index), []).append((row.stage, own.value))
    if not rows:
        return None
    names = list(dict.fromkeys(stage for parts in rows.values() for stage, _ in parts))
    figure, axes = new_figure(height=max(2.0, 0.9 + 0.42 * len(rows)))
    hatches = ("", "////", "xxxx", "....")
    ordered = sorted(rows.items())
    for place, (_, parts) in enumerate(ordered):
        left = 0.0
        for stage, value in parts:
            which = names.index(stage)
            axes.barh(
                place,
                value,
                left=left,
                height=0.62,
                color=SERIES[which % COLOURS],
                edgecolor=NAMED["card"],
                linewidth=0.8,
                hatch=hatches[which // COLOURS % len(hatches)],
            )
            left += value
        axes.annotate(
            number(left),
            (left, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    rows_named = [
        f"{comparison.cards[i].label} {printable(tower, 12)}" for (tower, i), _ in ordered
    ]
    categories(axes, rows_named)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.grid(axis="x")
    starts = comparison.cards[0].card.kind == "startup"
    labels(axes, "milliseconds of a start" if starts else "milliseconds of an item", "")
    title, caption = _STARTS if starts else _STAGES
    return finished(
        figure,
        "stages",
        title,
        caption,
        tuple(Key(i % COLOURS, "bar", printable(name, 40)) for i, name in enumerate(names)),
    )


def _fastest(series: _Series) -> Figure | None:
    found = [
        cell.figures["items_s"]
        for _, cell in series.points
        if "items_s" in cell.figures and drawable(cell.figures["items_s"].value)
    ]
    return max(found, key=lambda items: items.value, default=None)


def _category(comparison: Comparison, series: _Series) -> str:
    length = "" if series.length is None else f" {series.length:,}"
    return f"{comparison.cards[series.card].label} {series.tower}{length}"
