"""A card on a terminal: what was measured, what is noisy, what is wrong."""

from __future__ import annotations

import re

import bench_cards as cards
import msgspec
import pytest
from bench_cards import card, ceiling, point, workload

from cliprt_bench._figures import figure
from cliprt_bench._show import show


def test_every_point_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    one = card(ceilings=(ceiling("matmul_fp32", {"image": 100.0}),))
    show(one)
    printed = capsys.readouterr().out
    for each in one.points:
        assert each.workload.in_words() in printed
    assert one.machine.cpu in printed
    assert one.ceilings[0].name in printed


def test_a_ceiling_is_told_for_each_length_of_text(capsys: pytest.CaptureFixture[str]) -> None:
    bound = msgspec.structs.replace(
        ceiling("loopback", {"image": 90.0, "text": 80.0}), text_items_s={8: 7000.0, 77: 80.0}
    )
    show(card(ceilings=(bound, ceiling("decode", {"image": 50.0, "text": 60.0}))))
    printed = capsys.readouterr().out
    assert "image 90, text of 8 tokens 7,000, text of 77 tokens 80\n" in printed
    assert "image 50, text 60\n" in printed


def test_a_mark_and_an_interrupt_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    marked = msgspec.structs.replace(point(), marks=("Noisy: p99_ms ± 20 %.",))
    show(msgspec.structs.replace(card([marked]), complete=False))
    printed = capsys.readouterr().out
    assert "! image, batch 1, 1 caller: Noisy: p99_ms ± 20 %." in printed
    assert "! interrupted: this is what was measured until then" in printed


def test_the_price_of_a_million(capsys: pytest.CaptureFixture[str]) -> None:
    show(card([point(items=cards.noisy(100.0))], price_per_hour=3.6))
    heads, row = capsys.readouterr().out.splitlines()[2:4]
    assert heads.endswith("cost of a million")
    assert row.endswith("10.0~")


def test_what_a_point_took_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {
        **{"cpu_cores": 1.9, "generator_cores": 0.19, "lag_p99_ms": 0.7, "sent_bytes": 123_456.0},
        **{"received_bytes": 2_048.0, "rss_mb": 900.0, "gpu_mb": figure([512.0]), "odd": 77.7},
    }
    show(card([point(figures=figures), point(workload(batch=2))]))
    lines = capsys.readouterr().out.splitlines()
    (place,) = (number for number, line in enumerate(lines) if line.startswith("point "))
    assert re.split("  +", lines[place]) == [
        *("point", "busy cores", "generator's cores", "generator's lag p99, ms", "bytes sent/item"),
        *("bytes received/item", "target's memory, MB", "GPU memory, MB"),
    ]
    row = lines[place + 1]
    for text in ("0.190 (10% of busy)", "0.700", "123,456", "2,048", "900", "512~"):
        assert text in row
    # A point without any of them has no row.
    assert not any("77.7" in line for line in lines)
    assert sum(line.startswith("image, batch 2") for line in lines) == 1


def test_without_any_of_it_there_is_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    show(card())
    assert "point " not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("limit", "lines"),
    [
        (
            50,
            [
                "image: 400~ items/s with p99 within 50 ms (image, batch 4, 1 caller: 40.0~ ms)",
                "text, 8 tokens: no point holds p99 within 50 ms",
                "text, 77 tokens: no point holds p99 within 50 ms, "
                "there were too few requests for a p99",
            ],
        ),
        (5, ["image: no point holds p99 within 5 ms"]),
        (None, []),
    ],
)
def test_the_best_within_a_limit(
    limit: float | None, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    points = [
        point(workload(), p99=10.0, items=100.0),
        point(workload(batch=4), p99=figure([40.0]), items=cards.noisy(400.0)),
        point(workload("text", text_length=8), p99=60.0),
        point(workload("text", text_length=77), p99=None),
    ]
    show(card(points), at_p99_ms=limit)
    told = [line for line in capsys.readouterr().out.splitlines() if "with" in line]
    assert told[: len(lines)] == lines
    assert bool(told) is bool(lines)
