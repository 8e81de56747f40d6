"""What a candidate is measured with, and when one is better than another."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tune_windows import PLAN, trial, window

from cliprt import InvalidInput
from cliprt_bench._figures import enough_for
from cliprt_bench._tune import Candidate, Goal, Plan, Trial, Window, gain, is_better, plan
from cliprt_triton import Policy


@pytest.mark.parametrize("rate", [4, 20, 200, 5000])
def test_a_rate_brings_enough_for_the_percentile(rate: float) -> None:
    # Even if fewer come than are expected, by three standard deviations.
    windows = plan(Goal(50, rate), callers=16, seconds=3, repeats=5)
    expected = rate * windows.seconds * windows.repeats
    assert expected - 3 * math.sqrt(expected) >= enough_for(99)
    assert windows.seconds <= 60


def test_a_window_is_no_shorter_than_asked_for() -> None:
    assert plan(Goal(50, 5000), callers=16, seconds=7, repeats=5).seconds == 7
    assert plan(Goal(50), callers=16, seconds=7, repeats=5) == Plan(5, 7, 7, 220)


def test_each_window_at_a_rate_has_a_percentile_to_compare() -> None:
    windows = plan(Goal(50, 20), callers=16, seconds=3, repeats=5)
    expected = 20 * windows.seconds
    assert expected - 3 * math.sqrt(expected) >= enough_for(95)


@pytest.mark.parametrize(
    ("rate", "percentile", "said"),
    [
        (2, 99, r"p99 needs 1,000 requests, and 300 s bring 600; limit a lower percentile \(--p95"),
        (2, 99, r"or measure 1.9 times as long \(--seconds, --repeats\)"),
        (0.3, 95, r"p95 needs 200 requests, and 300 s bring 90; measure 2.8 times as long"),
        (0.001, 90, r"p90 needs 100 requests, and 300 s bring 0; measure longer"),
    ],
)
def test_a_rate_that_brings_too_few_is_refused(rate: float, percentile: int, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        plan(Goal(50, rate, percentile), callers=16, seconds=3, repeats=5)


def test_the_ways_out_lead_out() -> None:
    plan(Goal(50, 2, 95), callers=16, seconds=3, repeats=5)
    plan(Goal(50, 2), callers=16, seconds=60 * 1.9, repeats=5)


def test_a_closed_loop_may_be_lengthened_as_far_as_its_limit_needs() -> None:
    def longest(limit_ms: float, callers: int) -> float:
        return plan(Goal(limit_ms), callers=callers, seconds=3, repeats=5).longest

    assert longest(50, 16) == 3
    # 220 requests of a tenth of a second, one after the other, and as long again.
    assert longest(100, 1) == pytest.approx(44)
    assert longest(60_000, 8) == 60


@pytest.mark.parametrize(
    ("seen", "settled"),
    [
        (window(10, 49, requests=250), False),
        (window(10, 90, requests=250), False),
        (window(10, 110, requests=250), True),
        (window(10, 49, requests=100), True),
        (window(10, 49, requests=250, failed=250), True),
    ],
)
def test_what_cannot_hold_is_not_measured_again(seen: Window, settled: bool) -> None:
    assert seen.settles(Goal(50), PLAN) is settled


def test_windows_together_have_the_percentile() -> None:
    few = trial(10, 49, requests=219)
    assert few.samples == 1095
    assert few.holds(Goal(50))
    assert not few.unknown(Goal(50))


def test_too_few_requests_are_not_late_ones() -> None:
    few = trial(10, 40, requests=50)
    assert not few.holds(Goal(50))
    assert few.unknown(Goal(50))
    assert "p99 unknown with 250 requests of 1,000" in few.in_words(Goal(50))
    # What is beyond the limit at p95 is so at p99.
    assert not few.unknown(Goal(30))
    assert "p99 beyond 40.2 ms" in few.in_words(Goal(30))
    none = trial(10, 40, requests=2)
    assert none.unknown(Goal(50))
    assert math.isinf(none.nearness_ms(Goal(50)))


def test_what_fails_does_not_hold() -> None:
    failing = Trial(Candidate("fp32"), (window(10, 1, failed=1),) * 5)
    assert not failing.holds(Goal(50))
    assert not failing.unknown(Goal(50))
    assert "5 of 5,000 requests failed" in failing.in_words(Goal(50))


def test_a_gain_has_an_interval() -> None:
    goal = Goal(50)
    more = gain(trial(150, 10), trial(100, 10), goal)
    assert more is not None
    assert more.low is not None
    assert more.high is not None
    assert more.low < more.value < more.high
    assert more.value == pytest.approx(1.5)
    assert more.by == "in items per second"
    assert more.clear(0.03)
    assert not more.clear(0.6)


def test_a_difference_within_the_noise_is_no_gain() -> None:
    noisy = [Trial(Candidate("fp32"), tuple(window(v, 10) for v in values)) for values in (
        (100, 130, 90, 120, 95), (101, 98, 102, 99, 100),
    )]  # fmt: skip
    found = gain(*noisy, Goal(50))
    assert found is not None
    assert found.low is not None
    assert found.low < 1
    assert not is_better(noisy[0], noisy[1], Goal(50), 0.0)


def test_turns_are_pairs() -> None:
    # The machine drifts by half; each turn shows the same fifth.
    drift = (100, 110, 120, 135, 150)
    old = Trial(Candidate("fp32"), tuple(window(v, 10) for v in drift), in_turns=True)
    new = Trial(Candidate("int8-cpu"), tuple(window(v * 1.2, 10) for v in drift), in_turns=True)
    found = gain(new, old, Goal(50))
    assert found is not None
    assert found.low == pytest.approx(1.2)
    alone = gain(Trial(new.candidate, new.windows), Trial(old.candidate, old.windows), Goal(50))
    assert alone is not None
    assert alone.low is not None
    assert alone.low < 1


def test_the_interval_of_turns_far_apart_is_of_ratios() -> None:
    old, new = (
        Trial(Candidate("fp32"), tuple(window(v, 10) for v in values), in_turns=True)
        for values in ((100, 100, 100), (1e-300, 200, 900))
    )
    found = gain(new, old, Goal(50))
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low < found.value == pytest.approx(2)
    assert math.isfinite(found.high)
    assert not found.clear(0.0)


@pytest.mark.parametrize(("requests", "by"), [(1000, 99), (999, 95), (150, 90), (30, 50)])
def test_at_a_rate_what_every_window_has_is_compared(requests: int, by: int) -> None:
    found = gain(trial(20, 10, requests=requests), trial(20, 20), Goal(50, 20))
    assert found is not None
    assert found.by == f"by the inverse of p{by}"
    assert found.value == pytest.approx(2)


def test_without_a_percentile_nothing_is_compared() -> None:
    assert gain(trial(20, 10, requests=10), trial(20, 20), Goal(50, 20)) is None
    assert gain(Trial(Candidate("fp32"), ()), trial(20, 20), Goal(50)) is None


def test_where_nothing_holds_the_nearer_one_is_better() -> None:
    assert is_better(trial(1, 60), trial(10, 80), Goal(50), 0.03)
    assert not is_better(trial(1, 79), trial(10, 80), Goal(50), 0.03)
    assert is_better(trial(1, 49), trial(10, 60), Goal(50), 0.03)
    assert not is_better(trial(10, 60), trial(1, 49), Goal(50), 0.03)


def late(*windows: float, items_s: float = 10) -> Trial:
    return Trial(Candidate("fp32"), tuple(window(items_s, ms) for ms in windows))


@pytest.mark.parametrize(
    ("new", "old", "better"),
    [
        # 49.9 and 50.1 ms at a limit of 50, windows far apart or not.
        (late(49, 50, 47, 49.9, 48), late(50.1, 47, 49, 48, 50), False),
        (late(49.9, 49.9, 49.9), late(50.1, 50.1, 50.1), True),
        # A single window has no interval: then it takes a quarter.
        (late(49), late(55), False),
        (late(49), late(62), True),
        (late(55), late(62), False),
        # Neither holds, and they overlap.
        (late(60, 90, 70), late(95, 65, 85), False),
        (late(60, 61, 62), late(70, 71, 72), True),
        (late(60), Trial(Candidate("fp32"), (window(10, 1, failed=1),)), True),
        (Trial(Candidate("fp32"), (window(10, 1, failed=1),)), late(60), False),
        (late(60), late(49), False),
    ],
)
def test_where_one_does_not_hold_noise_does_not_decide(
    new: Trial, old: Trial, better: bool
) -> None:
    assert is_better(new, old, Goal(50), 0.03) is better


def test_a_tail_that_no_window_can_tell_counts_if_it_is_far_out() -> None:
    """Each window has enough requests for p95 alone, and those are equal."""
    tail = np.concatenate([np.full(210, 10.0), np.full(10, 500.0)])
    old = Trial(Candidate("fp32"), (Window(10, tail, seconds=3.0),) * 5)
    new = Trial(Candidate("fp32"), (window(10, 10, requests=220),) * 5)
    assert is_better(new, old, Goal(50), 0.03)


def test_a_generator_that_was_the_bottleneck_is_told() -> None:
    slow = Window(10, np.full(1000, 1.0), seconds=3, bottleneck=True)
    words = Trial(Candidate("fp32"), (slow,)).in_words(Goal(50))
    assert "the load generator was the bottleneck" in words


def test_candidates_say_what_sets_them_apart() -> None:
    policy = Policy(max_batch_size=4, max_queue_delay_us=0, instances=2)
    assert Candidate("int8-cpu", "latency", policy).in_words() == (
        "int8-cpu, threads for latency, batches of 4, delay 0 us, 2 instances"
    )
