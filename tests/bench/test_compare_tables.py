"""Which tables a comparison has: on a terminal fewer than in a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_cards import card, point
from click.testing import CliRunner

from cliprt_bench._cli_compare import compare
from cliprt_bench._comparable import LabelledCard
from cliprt_bench._compare import Comparison, compare_bench_cards
from cliprt_bench._compare_tables import tables, to_markdown

P50, P90, P95, P99, MAX, ITEMS = "p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms", "items_s"
TITLES = {
    P50: "Latency p50, ms",
    P90: "Latency p90, ms",
    P95: "Latency p95, ms",
    P99: "Latency p99, ms",
    MAX: "Longest request, ms",
    ITEMS: "Throughput, items/s",
}


def compared(*more: dict[str, float]) -> Comparison:
    cards = [card([point(p99=None, figures=figures)]) for figures in more]
    return compare_bench_cards(
        [LabelledCard(label="AB"[i], source="x", card=each) for i, each in enumerate(cards)]
    )


@pytest.mark.parametrize(
    ("first", "second", "whole", "brief"),
    [
        ({P90: 12.0, P95: 13.0, P99: 14.0, MAX: 20.0}, {}, [*TITLES], [P50, P95, P99, ITEMS]),
        ({P90: 12.0, MAX: 20.0}, {P95: 13.0}, [P50, P90, P95, MAX, ITEMS], [P50, P95, ITEMS]),
        ({P90: 12.0, MAX: 20.0}, {}, [P50, P90, MAX, ITEMS], [P50, P90, ITEMS]),
        ({}, {}, [P50, ITEMS], [P50, ITEMS]),
    ],
)
def test_percentiles_that_some_card_has_are_shown(
    first: dict[str, float], second: dict[str, float], whole: list[str], brief: list[str]
) -> None:
    comparison = compared(first, second)
    for short, wanted in ((False, whole), (True, brief)):
        shown = [table.title for table in tables(comparison, brief=short)]
        assert [name for name, title in TITLES.items() if title in shown] == wanted
    written = to_markdown(comparison, None)
    assert [name for name, title in TITLES.items() if f"## {title}" in written] == whole


def test_a_terminal_has_the_brief_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    card([point(figures={P90: 12.0, MAX: 20.0})]).write(path)
    output = CliRunner().invoke(compare, [str(path)]).output
    assert TITLES[P99] in output
    assert TITLES[P90] not in output
