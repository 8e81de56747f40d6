"""The plots of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from cliprt_bench._bench_card import Tower, Workload
from cliprt_bench._comparable import printable
from cliprt_bench._compare import Cell, Comparison, ceilings_of
from cliprt_bench._compare_tables import number
from cliprt_bench._drawing import (
    COLOURS,
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
_Dots: TypeAlias = "list[tuple[Workload, Cell]]"
_Series: TypeAlias = tuple[int, Tower, _Dots]
_MARKERS = {"image": "o", "text": "s"}


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
    """Points by card and tower: number of the card, tower, and its points with their cells."""
    towers: list[Tower] = sorted({row.workload.tower for row in comparison.rows})
    found: list[_Series] = []
    for index in range(len(comparison.cards)):
        for tower in towers:
            points = [
                (row.workload, cell)
                for row in comparison.rows
                if row.workload.tower == tower and (cell := row.cells[index]) is not None
            ]
            if points:
                found.append((index, tower, points))
    return found


def _keys(comparison: Comparison, used: Sequence[tuple[int, str]]) -> tuple[Key, ...]:
    keys = []
    for index, tower in used:
        each = comparison.cards[index]
        precision = printable(each.card.target.precision or "", 24)
        name = printable(each.card.target.name, 28)
        text = " ".join(part for part in (f"{each.label}:", name, precision) if part)
        shape: Shape = "round" if tower == "image" else "square"
        keys.append(Key(index % COLOURS, shape, f"{text}, {tower}"))
    return tuple(keys)


def _latency(comparison: Comparison) -> Plot | None:
    figure, axes = new_figure()
    used = []
    fell_back = False
    for index, tower, points in _series(comparison):
        # Where p99 could not be told, the median says more than nothing; never both in a line.
        name = "p99_ms" if any("p99_ms" in cell.figures for _, cell in points) else "p50_ms"
        dots = [
            (cell.figures["items_s"], cell.figures[name])
            for _, cell in points
            if {"items_s", name} <= cell.figures.keys()
            and drawable(cell.figures["items_s"].value)
            and drawable(cell.figures[name].value)
        ]
        if not dots:
            continue
        fell_back |= name == "p50_ms"
        used.append((index, tower))
        colour, marker = SERIES[index % COLOURS], _MARKERS[tower]
        best = _frontier([(x.value, y.value) for x, y in dots])
        axes.plot(*zip(*best, strict=True), color=colour, marker="", zorder=2)
        for x, y in dots:
            dot(axes, x, y, colour, marker, faint=(x.value, y.value) not in best)
    if not used:
        return None
    logarithmic(axes, "x")
    logarithmic(axes, "y")
    labels(axes, "items per second", "latency p99, ms" if not fell_back else "latency, ms")
    caption = (
        "Further right and lower is better. Each dot is a measured point; a line joins the points "
        "of a card that no other of its points beats in both, fainter dots are beaten. Hollow dots "
        "are noisy."
    )
    if fell_back:
        caption += " The median stands where there were too few requests for p99."
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
    for index, tower, points in _series(comparison):
        best: dict[int, Figure] = {}
        for workload, cell in points:
            items = cell.figures.get("items_s")
            if workload.loop != "closed" or items is None or not drawable(items.value):
                continue
            if workload.batch not in best or items.value > best[workload.batch].value:
                best[workload.batch] = items
        if len(best) < 2:
            continue
        used.append((index, tower))
        batches |= best.keys()
        colour = SERIES[index % COLOURS]
        line = sorted(best.items())
        axes.plot([b for b, _ in line], [f.value for _, f in line], color=colour, zorder=2)
        for batch, items in line:
            dot(axes, batch, items, colour, _MARKERS[tower])
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
        "all numbers of callers and lengths of text. Where a line is flat, a larger batch only "
        "costs latency. Whiskers are 95 % intervals, hollow dots are noisy.",
        _keys(comparison, used),
    )


def _roofline(comparison: Comparison) -> Plot | None:
    rows = []
    for index, tower, points in _series(comparison):
        best = _fastest(points)
        bounds = [
            c
            for c in ceilings_of(comparison.cards[index].card, tower)
            if drawable(c.items_s[tower])
        ]
        if best is not None and bounds:
            rows.append((index, tower, best, bounds))
    if not rows:
        return None
    figure, axes = new_figure(height=max(2.0, 0.9 + 0.42 * len(rows)))
    names = list(dict.fromkeys(c.name for *_, bounds in rows for c in bounds))
    styles = ("-", (0, (3, 1.5)), (0, (1, 1)), "-.")
    for place, (index, tower, best, bounds) in enumerate(rows):
        lowest = bounds[0].items_s[tower]
        axes.plot([best.value, lowest], [place, place], color=NAMED["line"], lw=5, zorder=1)
        dot(axes, best, place, SERIES[index % COLOURS], _MARKERS[tower], size=7)
        for ceiling in bounds:
            which = names.index(ceiling.name)
            axes.plot(
                [ceiling.items_s[tower]] * 2,
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
    categories(axes, [f"{comparison.cards[i].label} {tower}" for i, tower, *_ in rows])
    logarithmic(axes, "x")
    labels(axes, "items per second", "")
    keys = _keys(comparison, [(i, tower) for i, tower, *_ in rows])
    keys += tuple(
        Key((COLOURS - 1 - which) % COLOURS, "tick", f"ceiling: {printable(name, 40)}")
        for which, name in enumerate(names)
    )
    return finished(
        figure,
        "roofline",
        "Roofline",
        "How near each card comes to what its machine can do at most: the dot is the highest "
        "throughput measured, the upright strokes are ceilings measured in the same run (products "
        "of the same type, decoding, the wire), the percentage is the share of the lowest.",
        keys,
    )


def _fidelity(comparison: Comparison) -> Plot | None:
    figure, axes = new_figure()
    used = []
    for index, tower, points in _series(comparison):
        best = _fastest(points)
        known = comparison.cards[index].card.fidelity.get(tower)
        if best is None or known is None or not math.isfinite(known.p01_cosine):
            continue
        used.append((index, tower))
        loss = max(1 - known.p01_cosine, _FINEST)
        dot(axes, best, loss, SERIES[index % COLOURS], _MARKERS[tower], size=8)
        axes.annotate(
            comparison.cards[index].label,
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
    labels(axes, "milliseconds of an item", "")
    return finished(
        figure,
        "stages",
        "Stage breakdown",
        "Where an item's time goes, by stage, in the order of its road; each bar ends at the sum "
        "of its stages' medians.",
        tuple(Key(i % COLOURS, "bar", printable(name, 40)) for i, name in enumerate(names)),
    )


def _fastest(points: Sequence[tuple[Workload, Cell]]) -> Figure | None:
    found = [
        cell.figures["items_s"]
        for _, cell in points
        if "items_s" in cell.figures and drawable(cell.figures["items_s"].value)
    ]
    return max(found, key=lambda items: items.value, default=None)
