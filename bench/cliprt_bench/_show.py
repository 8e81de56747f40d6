"""A card on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from cliprt._console import out, print_table
from cliprt_bench._bench_card import BenchCard, Point
from cliprt_bench._figures import Figure

_LATENCIES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms")


def show(card: BenchCard, *, at_p99_ms: float | None = None) -> None:
    """Prints a card for people.

    Args:
        card: what was measured.
        at_p99_ms: tell the highest throughput whose 99th percentile holds this limit, too.
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
                    ", ".join(f"{tower} {rate:,.0f}" for tower, rate in each.items_s.items()),
                )
                for each in card.ceilings
            ],
        )
    for tower, point in best_within(card.points, at_p99_ms):
        console.print(
            f"{tower}: {point.figures['items_s'].value:,.1f} items/s with p99 within "
            f"{at_p99_ms:g} ms ({point.workload.in_words()})"
        )
    if any("~" in _mark(found) for point in card.points for found in point.figures.values()):
        console.print("~ too noisy for differences of some per cent; more --repeats help")
    for point in card.points:
        for mark in point.marks:
            console.print(f"! {point.workload.in_words()}: {mark}")
    if not card.complete:
        console.print("! interrupted: this is what was measured until then")


def best_within(points: Sequence[Point], limit_ms: float | None) -> list[tuple[str, Point]]:
    """By tower, the point of the highest throughput whose 99th percentile holds a limit.

    Args:
        points: of a card; those without a 99th percentile, or with errors, hold no limit.
        limit_ms: in milliseconds; None asks for nothing.
    """
    found: dict[str, Point] = {}
    for point in points:
        p99 = point.figures.get("p99_ms")
        if limit_ms is None or p99 is None or p99.value > limit_ms or point.errors:
            continue
        best = found.get(point.workload.tower)
        if best is None or point.figures["items_s"].value > best.figures["items_s"].value:
            found[point.workload.tower] = point
    return list(found.items())


def _show_points(card: BenchCard) -> None:
    prices = card.price_per_hour is not None
    columns = ["", *(name.removesuffix("_ms") for name in _LATENCIES), "items/s", "requests"]
    columns += ["busy cores", "bytes/item", *(["cost of a million"] if prices else [])]
    rows = []
    for point in card.points:
        figures = point.figures
        latencies = (_number(figures.get(name), "too few") for name in _LATENCIES)
        row = [point.workload.in_words(), *latencies]
        row += [_number(figures.get("items_s")), f"{point.samples:,}"]
        row += [_number(figures.get("cpu_cores")), _bytes(point)]
        if card.price_per_hour is not None:
            rate = figures["items_s"].value if "items_s" in figures else 0.0
            row.append(f"{card.price_per_hour / 3600 / rate * 1e6:.3g}" if rate else "")
        rows.append(row)
    print_table(columns, rows)


def _bytes(point: Point) -> str:
    sent = point.figures.get("sent_bytes")
    return "" if sent is None else f"{sent.value:,.0f}"


def _number(found: Figure | None, none: str = "") -> str:
    return none if found is None else f"{found.value:,.2f}{_mark(found)}"


def _mark(found: Figure) -> str:
    return "~" if found.noisy else ""
