"""A card on a terminal: what was measured, what is noisy, what is wrong."""

from __future__ import annotations

import msgspec
import pytest
from bench_cards import card, ceiling, point, workload

from cliprt_bench._show import best_within, show


def test_every_point_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    one = card(ceilings=(ceiling("matmul_fp32", {"image": 100.0}),))
    show(one)
    printed = capsys.readouterr().out
    for each in one.points:
        assert each.workload.in_words() in printed
    assert one.machine.cpu in printed
    assert one.ceilings[0].name in printed


def test_a_mark_and_an_interrupt_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    marked = msgspec.structs.replace(point(), marks=("Noisy: p99_ms ± 20 %.",))
    show(msgspec.structs.replace(card([marked]), complete=False))
    printed = capsys.readouterr().out
    assert "! image, batch 1, 1 caller: Noisy: p99_ms ± 20 %." in printed
    assert "! interrupted: this is what was measured until then" in printed


def test_the_price_of_a_million(capsys: pytest.CaptureFixture[str]) -> None:
    show(msgspec.structs.replace(card([point()]), price_per_hour=3.6))
    assert "cost of a million" in capsys.readouterr().out


def test_the_best_within_a_limit() -> None:
    points = [
        point(workload(batch=batch), p99=10.0 * batch, items=100.0 * batch) for batch in (1, 4, 16)
    ]
    ((tower, best),) = best_within(points, 50)
    assert (tower, best.workload.batch) == ("image", 4)
    assert best_within(points, None) == []
    assert best_within(points, 5) == []
    failed = [msgspec.structs.replace(each, errors={"Overloaded": 1}) for each in points]
    assert best_within(failed, 50) == []
