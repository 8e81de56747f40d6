"""A card on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from cliprt._console import out, print_table
from cliprt_bench._bench_card import BenchCard, Ceiling
from cliprt_bench._compare_tables import number
from cliprt_bench._derived import best_within, price_of_a_million
from cliprt_bench._figures import Figure
from cliprt_bench._resources import resources

_LATENCIES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms")


def show(card: BenchCard, *, at_p99_ms: float | None = None) -> None:
    """Prints a card for people.

    Args:
        card: what was measured.
        at_p99_ms: tell the highest throughput whose 99th percentile holds this limit, too, by
            tower and text length.
    """
    console = out()
    target, machine = card.target, card.machine
    console.print(f"{target.name}, {card.model.name}, {target.precision or 'precision unknown'}")
    console.print(f"{target.runtime or 'runtime unknown'}; {machine.cpu}, {machine.cores} cores")
    if card.points:
        _show_points(card)
    if card.stages:
        rows = [
            (tower, stage, f"{found.value:.3f}{_mark(found)}")
            for tower, stages in card.stages.items()
            for stage, found in stages.items()
        ]
        words = "ms" if card.kind == "startup" else "ms per item"
        print_table(("", "stage", words), rows)
    if card.ceilings:
        print_table(
            ("ceiling", "", "", "items/s of a tower"),
            [
                (
                    each.name,
                    f"{each.figure.value:,.0f}{_mark(each.figure)}",
                    each.unit,
                    ", ".join(_items_of(each)),
                )
                for each in card.ceilings
            ],
        )
    if at_p99_ms is not None:
        _show_best(card, at_p99_ms)
    if any("~" in _mark(found) for point in card.points for found in point.figures.values()):
        console.print("~ too noisy for differences of some per cent; more --repeats help")
    for point in card.points:
        for mark in point.marks:
            console.print(f"! {point.workload.in_words()}: {mark}")
    if not card.complete:
        console.print("! interrupted: this is what was measured until then")


def _items_of(ceiling: Ceiling) -> Iterator[str]:
    """Items per second that it allows, by tower and text length."""
    for tower, most in ceiling.items_s.items():
        if tower != "text" or not ceiling.text_items_s:
            yield f"{tower} {most:,.0f}"
    for length, most in ceiling.text_items_s.items():
        yield f"text of {length:,} tokens {most:,.0f}"


def _show_best(card: BenchCard, limit_ms: float) -> None:
    known = {
        (point.workload.tower, point.workload.text_length)
        for point in card.points
        if "p99_ms" in point.figures
    }
    for key, point in best_within(card.points, limit_ms).items():
        tower, length = key
        name = tower if length is None else f"{tower}, {length:,} tokens"
        if point is None:
            why = "" if key in known else ", there were too few requests for a p99"
            out().print(f"{name}: no point holds p99 within {limit_ms:g} ms{why}")
            continue
        items, p99 = point.figures["items_s"], point.figures["p99_ms"]
        out().print(
            f"{name}: {_number(items)} items/s with p99 within {limit_ms:g} ms "
            f"({point.workload.in_words()}: {_number(p99)} ms)"
        )


def _show_points(card: BenchCard) -> None:
    prices = card.price_per_hour is not None
    columns = ["", *(name.removesuffix("_ms") for name in _LATENCIES), "items/s", "requests"]
    columns += ["cost of a million"] if prices else []
    rows = []
    for point in card.points:
        figures = point.figures
        row = [point.workload.in_words()]
        row += [_number(figures.get(name), "too few") for name in _LATENCIES]
        row += [_number(figures.get("items_s")), f"{point.samples:,}"]
        if prices:
            row.append(_number(price_of_a_million(card, figures.get("items_s"))))
        rows.append(row)
    print_table(columns, rows)
    named = [(point.workload.in_words(), point.figures) for point in card.points]
    headings, taken = resources(named, lambda figure: f"{number(figure.value)}{_mark(figure)}")
    if taken:
        print_table(headings, taken)


def _number(found: Figure | None, none: str = "") -> str:
    return none if found is None else f"{number(found.value)}{_mark(found)}"


def _mark(found: Figure) -> str:
    return "~" if found.noisy else ""
