"""What follows from the figures of a card."""

from __future__ import annotations

import math

import bench_cards as cards
import msgspec
import pytest
from bench_cards import card, full_card, point, quiet, workload
from hypothesis import given
from hypothesis import strategies as st

from cliprt_bench._derived import (
    best_within,
    ceilings_of,
    price_of_a_million,
    ratio_of,
    share_of,
)
from cliprt_bench._figures import figure


def test_the_interval_of_a_ratio_is_welchs() -> None:
    # By hand: logarithms 0, 0.1, 0.2 (variance 0.01) and 1, 1.1, 1.2: standard error
    # sqrt(2 * 0.01 / 3), 4 degrees of freedom, t = 2.776.
    ratio = ratio_of(
        figure([math.exp(x) for x in (1.0, 1.1, 1.2)]), figure([math.exp(x) for x in (0, 0.1, 0.2)])
    )
    assert ratio is not None
    assert ratio.value == pytest.approx(math.e)
    reach = 2.776 * math.sqrt(0.02 / 3)
    assert ratio.low == pytest.approx(math.exp(1 - reach), rel=1e-6)
    assert ratio.high == pytest.approx(math.exp(1 + reach), rel=1e-6)


def test_a_single_repeat_has_no_interval() -> None:
    ratio = ratio_of(figure([2.0]), quiet(1.0))
    assert ratio is not None
    assert (ratio.low, ratio.high, ratio.noisy, ratio.clear) == (None, None, True, False)


positive = st.floats(min_value=1e-6, max_value=1e9)


@given(st.lists(positive, min_size=1, max_size=16), st.lists(positive, min_size=1, max_size=16))
def test_an_interval_holds_its_ratio(ours: list[float], theirs: list[float]) -> None:
    ratio = ratio_of(figure(ours), figure(theirs))
    assert ratio is not None
    if ratio.low is not None and ratio.high is not None:
        assert ratio.low <= ratio.value <= ratio.high


def test_a_figure_of_zero_has_no_ratio() -> None:
    assert ratio_of(figure([0.0, 0.0]), quiet(1.0)) is None
    assert ratio_of(quiet(1.0), figure([0.0, 0.0])) is None


@pytest.mark.parametrize(
    ("precision", "names"),
    [
        ("fp32", ["matmul_fp32", "decode"]),
        ("int8-cpu", ["matmul_int8", "decode"]),
        ("bf16", ["decode"]),
        (None, ["decode"]),
    ],
)
def test_products_bound_only_their_own_precision(precision: str | None, names: list[str]) -> None:
    own = full_card(target=cards.target(precision))
    assert [ceiling.name for _, ceiling in ceilings_of(own, workload())] == names


def test_each_tower_is_bounded_in_its_own_precision() -> None:
    mixed = cards.target("fp32+int8-cpu", precisions={"image": "int8-cpu", "text": "fp32"})
    own = full_card(target=mixed)
    found = {tower: ceilings_of(own, workload(tower))[0] for tower in ("image", "text")}
    assert {tower: ceiling.name for tower, (_, ceiling) in found.items()} == {
        "image": "matmul_int8",
        "text": "matmul_fp32",
    }


def test_texts_are_bounded_by_their_length() -> None:
    ceiling = msgspec.structs.replace(
        cards.ceiling("loopback", {"image": 90.0}), text_items_s={8: 700.0, 77: 80.0}
    )
    own = card(ceilings=(ceiling,))
    for length, most in ((8, 700.0), (77, 80.0)):
        share = share_of(own, workload("text", text_length=length), quiet(40.0))
        assert share is not None
        assert share.value == pytest.approx(40 / most)
    assert ceilings_of(own, workload("text", text_length=16)) == ()
    assert ceilings_of(own, workload("text")) == ()


def test_the_share_is_that_of_the_lowest_ceiling() -> None:
    ceilings = (
        cards.ceiling("matmul_fp32", {"image": 200.0}),
        cards.ceiling("wire", {"image": 500.0}),
    )
    share = share_of(card(ceilings=ceilings), workload(), quiet(100.0))
    assert share is not None
    assert (share.of, share.value) == ("matmul_fp32", pytest.approx(0.5))


def test_the_spread_of_a_share_is_that_of_throughput_and_ceiling() -> None:
    ceiling = cards.ceiling("decode", {"image": 200.0})
    loud = msgspec.structs.replace(ceiling, figure=cards.noisy(7.0))
    reach = []
    for own in (ceiling, loud):
        share = share_of(card(ceilings=(own,)), workload(), quiet(100.0))
        assert share is not None
        assert share.low is not None
        assert share.high is not None
        assert share.low < share.value < share.high
        reach.append(share.high / share.low)
        assert share.noisy is (own is loud)
    assert reach[1] > 2 * reach[0]
    once = msgspec.structs.replace(ceiling, figure=figure([100.0]))
    share = share_of(card(ceilings=(once,)), workload(), quiet(100.0))
    assert share is not None
    assert (share.value, share.low, share.high) == (0.5, None, None)


@pytest.mark.parametrize("items", [0.0, 100.0])
def test_nothing_has_no_share_and_no_price(items: float) -> None:
    found = figure([items, items])
    own = card(ceilings=(cards.ceiling("decode", {"text": 2.0}),), price_per_hour=1.0)
    assert share_of(own, workload(), found) is None
    assert (price_of_a_million(own, found) is None) == (items == 0)
    assert price_of_a_million(own, None) is None
    assert price_of_a_million(card(), found) is None


def test_a_price_becomes_that_of_a_million_items() -> None:
    price = price_of_a_million(card(price_per_hour=0.36), figure([80.0, 100.0, 120.0]))
    assert price is not None
    assert price.value == pytest.approx(1.0)
    # The interval of the rate, by hand: 100 ± 4.303 * 20 / sqrt(3).
    assert price.low == pytest.approx(100 / (100 + 49.69), rel=1e-3)
    assert price.high == pytest.approx(100 / (100 - 49.69), rel=1e-3)
    assert price.repeats == pytest.approx((1.25, 1.0, 1 / 1.2))
    assert price.noisy


def test_a_rate_that_may_be_none_has_a_price_without_an_interval() -> None:
    price = price_of_a_million(card(price_per_hour=0.36), cards.noisy(100.0))
    assert price is not None
    assert (price.low is None) == (price.high is None)
    wide = price_of_a_million(card(price_per_hour=0.36), figure([0.0, 100.0, 200.0]))
    assert wide is not None
    assert (wide.value, wide.low, wide.high) == (pytest.approx(1.0), None, None)


def test_the_best_point_is_that_of_each_tower_and_text_length() -> None:
    points = [
        point(workload("text", text_length=8), p99=10.0, items=500.0),
        point(workload("text", text_length=8, batch=4), p99=40.0, items=900.0),
        point(workload("text", text_length=8, batch=8), p99=60.0, items=1000.0),
        point(workload("text", text_length=77), p99=90.0, items=50.0),
        point(workload(), p99=10.0, errors={"Overloaded": 1}),
        point(workload(batch=2), p99=None),
    ]
    assert best_within(points, 50) == {
        ("text", 8): points[1],
        ("text", 77): None,
        ("image", None): None,
    }
