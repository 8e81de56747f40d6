"""Cards are read as they were written, or refused with a reason; figures know their spread."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from bench_cards import card
from hypothesis import given
from hypothesis import strategies as st

from cliprt_bench._bench_card import BenchCardError, read_bench_card
from cliprt_bench._figures import enough_for, figure


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    card().write(tmp_path / "card.json")
    assert read_bench_card(tmp_path / "card.json") == card()


def test_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    card().write(path)
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 7'))
    with pytest.raises(BenchCardError, match="has schema 7, this cliprt reads 1; measure it again"):
        read_bench_card(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": 1}', b'{"schema": "1"}'])
def test_what_is_no_card_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "card.json"
    path.write_bytes(content)
    with pytest.raises(BenchCardError, match="is no card of cliprt bench"):
        read_bench_card(path)


def test_unknown_fields_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    card().write(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "extra": 1}))
    with pytest.raises(BenchCardError, match="extra"):
        read_bench_card(path)


def test_a_card_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BenchCardError, match="cannot be read: No such file"):
        read_bench_card(tmp_path / "none.json")


def test_a_figure_of_one_repeat_has_no_interval() -> None:
    found = figure([5.0])
    assert (found.value, found.low, found.high, found.noisy) == (5.0, None, None, True)


def test_a_figure_has_students_interval() -> None:
    found = figure([10.0, 11.0, 12.0])
    reach = 4.303 * 1.0 / math.sqrt(3)
    assert found.value == 11.0
    assert found.low == pytest.approx(11 - reach)
    assert found.high == pytest.approx(11 + reach)
    assert found.noisy


def test_equal_repeats_are_not_noisy() -> None:
    assert not figure([10.0, 10.01, 9.99, 10.0]).noisy


@given(st.lists(st.floats(0.001, 1e6), min_size=2, max_size=20))
def test_the_interval_holds_the_mean(values: list[float]) -> None:
    found = figure(values)
    mean = sum(values) / len(values)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= mean * (1 + 1e-9)
    assert found.high >= mean * (1 - 1e-9)
    assert min(values) <= found.value <= max(values)


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf]])
def test_what_is_no_figure(values: list[float]) -> None:
    with pytest.raises(ValueError, match="a figure needs finite repeats"):
        figure(values)


def test_samples_that_percentiles_need() -> None:
    assert [enough_for(p) for p in (50, 90, 95, 99, 99.9)] == [20, 100, 200, 1000, 10_000]
