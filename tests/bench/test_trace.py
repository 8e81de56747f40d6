"""What a trace says: percentiles that it has the samples for, throughput, and what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliprt_bench._figures import enough_for
from cliprt_bench._repeats import errors_of, figures_of, marks_of, samples_of
from cliprt_bench._trace import UNANSWERED, Trace

MS = 1_000_000
SECOND = 1_000 * MS
PERCENTILES = ["p50_ms", "p90_ms", "p95_ms", "p99_ms"]


def trace_of(latencies_ms: Any, *, gap_ms: float = 10, kinds: Any = None, **given: Any) -> Trace:
    """A trace of requests due every so often, each begun when it was due."""
    latencies = (np.asarray(latencies_ms, dtype=float) * MS).astype(np.int64)
    count = len(latencies)
    due = (np.arange(count) * gap_ms * MS).astype(np.int64)
    names = ("", *sorted({kind for kind in kinds or () if kind}))
    fields: dict[str, Any] = {
        "loop": "open",
        "most": 4,
        "window": (0, int(count * gap_ms * MS)),
        "number": np.arange(count),
        "due": due,
        "begun": due,
        "ended": due + latencies,
        "lag": np.zeros(count, np.int64),
        "kind": np.array([names.index(kind) for kind in kinds or [""] * count], np.int16),
        "kinds": names,
        "messages": {},
        "held_up": np.zeros(100, np.int64),
        "generator_s": count * gap_ms / 1e5,
        "sending_s": count * gap_ms / 1e4,
        "process_s": count * gap_ms / 5e3,
        "beside": 0,
        "complete": True,
    }
    return Trace(**{**fields, **given})


@pytest.mark.parametrize("percentile", [50, 90, 95, 99])
def test_percentiles_are_told_where_ten_samples_lie_beyond_them(percentile: int) -> None:
    enough = enough_for(percentile)
    for count, told in ((enough - 1, False), (enough, True)):
        trace = trace_of(np.arange(count))
        assert (trace.percentile_ms(percentile) is not None) == told
        assert (f"p{percentile}_ms" in figures_of([trace], 1)) == told
        assert figures_of([trace], 1)["max_ms"].value == count - 1


def test_the_longest_request_is_that_of_all_repeats() -> None:
    traces = [trace_of(np.arange(100)), trace_of(np.arange(300)), trace_of(np.arange(200))]
    assert figures_of(traces, 1)["max_ms"].repeats == (299.0,)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1000, 1100))
def test_percentiles_are_those_of_numpy(seed: int, count: int) -> None:
    latencies = np.random.default_rng(seed).integers(0, 10_000, count)
    trace = trace_of(latencies)
    for percentile in (50, 90, 95, 99):
        wanted = np.percentile(latencies, percentile)
        assert trace.percentile_ms(percentile) == pytest.approx(wanted, abs=1e-6)


def test_latency_counts_from_the_moment_a_request_was_due() -> None:
    punctual = trace_of(np.full(20, 5.0))
    late = trace_of(np.full(20, 5.0), begun=punctual.due + 4 * MS)
    assert late.percentile_ms(50) == 5


def test_a_failed_request_is_one_that_is_never_answered() -> None:
    """Failing fast does not improve a percentile: those that the failures reach do not exist."""
    kinds = ["TimeoutError" if index % 50 == 0 else "" for index in range(1000)]
    trace = trace_of(np.where(np.arange(1000) % 50 == 0, 0.01, 10), kinds=kinds)
    assert trace.percentile_ms(50) == 10
    assert trace.percentile_ms(95) == 10
    assert trace.percentile_ms(99) is None
    assert trace.max_ms == 10
    assert trace.errors == {"TimeoutError": 20}
    assert trace.samples == 1000


def test_nothing_answered_has_no_latency_at_all() -> None:
    trace = trace_of([1.0] * 50, kinds=["ConnectionError"] * 50)
    assert trace.percentile_ms(50) is None
    assert trace.max_ms is None
    assert trace.answered_s == 0
    assert set(figures_of([trace], 8)) == {"items_s", "generator_cores", "process_cores"}


def test_requests_of_the_warmup_are_no_samples() -> None:
    trace = trace_of([99.0] * 50 + [1.0] * 50, window=(500 * MS, 1000 * MS))
    assert trace.samples == 50
    assert trace.max_ms == 1
    failed = trace_of([1.0] * 100, window=(500 * MS, 1000 * MS), kinds=["E"] * 50 + [""] * 50)
    assert failed.errors == {}


def test_throughput_counts_the_part_of_a_request_that_lies_in_the_window() -> None:
    """Two callers, 400 ms each: 5 a second, though neither edge falls on an answer."""
    begun = np.concatenate([np.arange(0, 2000, 400), np.arange(200, 2000, 400)]) * MS
    for window in ((300, 1300), (410, 1410), (700, 1900)):
        cut = trace_of(
            [400.0] * 10, due=begun, begun=begun, ended=begun + 400 * MS,
            window=(window[0] * MS, window[1] * MS),
        )  # fmt: skip
        assert cut.answered_s == pytest.approx(5)


def test_the_wait_for_the_last_answers_is_not_in_the_window() -> None:
    trace = trace_of([1.0] * 99 + [60_000.0], window=(0, SECOND))
    assert trace.answered_s == pytest.approx(99 + 10 / 60_000)


def test_items_are_requests_times_their_items() -> None:
    trace = trace_of([1.0] * 100)
    assert figures_of([trace], 32)["items_s"].value == pytest.approx(3200)


def test_repeats_become_one_figure_with_their_spread() -> None:
    traces = [trace_of([latency] * 1000) for latency in (10.0, 11.0, 30.0)]
    figures = figures_of(traces, 1)
    assert figures["p99_ms"].repeats == (10, 11, 30)
    assert figures["p99_ms"].value == 11
    assert figures["p99_ms"].noisy
    assert not figures["items_s"].noisy
    assert figures["process_cores"].value == pytest.approx(0.2)
    assert figures["generator_cores"].value == pytest.approx(0.01)
    assert samples_of(traces) == 3000
    (mark,) = marks_of(traces, figures)
    assert mark == "Noisy: p50_ms ± 309 %, p90_ms ± 309 %, p95_ms ± 309 %, p99_ms ± 309 %."


def test_a_percentile_that_all_repeats_lack_is_left_out_and_told() -> None:
    traces = [trace_of([1.0] * 20), trace_of([1.0] * 150)]
    figures = figures_of(traces, 1)
    assert "p50_ms" in figures
    assert "p95_ms" not in figures
    assert marks_of(traces, figures)[0] == (
        "Too few requests for p95 and p99: 170 in all, p95 needs 200."
    )


def test_a_percentile_of_all_repeats_together_has_no_spread() -> None:
    traces = [trace_of(np.arange(500.0)), trace_of(np.arange(500.0, 1000.0))]
    found = figures_of(traces, 1)["p99_ms"]
    assert found.value == pytest.approx(989.01)
    assert found.noisy
    assert (found.low, found.high, len(found.repeats)) == (None, None, 1)


def test_the_lag_of_the_generator_is_told_as_percentiles_are() -> None:
    lag = np.arange(1000) * MS
    assert trace_of([1.0] * 999, lag=lag[:999]).lag_ms(99) is None
    assert "lag_p99_ms" not in figures_of([trace_of([1.0] * 999, lag=lag[:999])], 1)
    whole = trace_of([1.0] * 1000, lag=lag)
    assert whole.lag_ms(99) == pytest.approx(989.01)
    halves = [trace_of([1.0] * 500, lag=lag[:500]), trace_of([1.0] * 500, lag=lag[500:])]
    found = figures_of(halves, 1)["lag_p99_ms"]
    assert found.repeats == pytest.approx((989.01,))
    assert len(figures_of([whole, whole], 1)["lag_p99_ms"].repeats) == 2


def test_a_good_point_has_no_marks() -> None:
    traces = [trace_of([1.0] * 1000)] * 3
    assert marks_of(traces, figures_of(traces, 1)) == ()


def test_a_single_repeat_is_marked() -> None:
    traces = [trace_of([1.0] * 1000)]
    (mark,) = marks_of(traces, figures_of(traces, 1))
    assert mark == "Measured once: how far repeats lie apart is not known."


def test_errors_are_added_up_and_told_with_their_first_message() -> None:
    kinds = ["Overloaded"] + [""] * 999
    said = {"Overloaded": "the queue is full.\nmore"}
    traces = [trace_of([1.0] * 1000, kinds=kinds, messages=said), trace_of([1.0] * 1000)]
    assert errors_of(traces) == {"Overloaded": 1}
    assert "1 of 2000 requests failed: Overloaded (the queue is full)." in (
        marks_of(traces, figures_of(traces, 1))
    )


def test_an_overloaded_open_loop_is_marked() -> None:
    begun = np.arange(1000) * 20 * MS
    trace = trace_of([1.0] * 1000, begun=begun, ended=begun + MS)
    assert trace.waiting == 500
    marks = marks_of([trace] * 2, figures_of([trace] * 2, 1))
    assert marks[0].startswith("Overloaded: 500 of 1000 requests were due and not begun")


def test_a_trace_cut_short_is_marked_and_an_empty_one_left_out() -> None:
    whole, empty = trace_of([1.0] * 1000), trace_of([], complete=False)
    figures = figures_of([whole, empty], 1)
    assert figures == figures_of([whole], 1)
    assert marks_of([whole, empty], figures)[-1] == "Ended before its time."
    assert figures_of([empty], 1) == {}
    assert empty.max_ms is None
    assert empty.answered_s == 0
    assert empty.lag_ms(99) is None
    assert empty.was_bottleneck() is None


def test_unanswered_requests_count_as_errors() -> None:
    kinds = [""] * 999 + [UNANSWERED]
    trace = trace_of([1.0] * 1000, kinds=kinds, ended=np.append(np.arange(999) * 10 * MS + MS, -1))
    assert trace.errors == {UNANSWERED: 1}
    assert trace.max_ms == pytest.approx(1)


def test_lag_that_is_large_against_the_latency_is_a_bottleneck() -> None:
    lag = np.full(1000, MS)
    assert trace_of([20.0] * 1000, lag=lag).was_bottleneck() is None
    reason = trace_of([5.0] * 1000, lag=lag).was_bottleneck()
    assert reason is not None
    assert "at p99 by 1 ms of a latency of 5 ms, though fewer than 4 were under way" in reason


def test_threads_that_use_up_the_core_of_python_are_a_bottleneck_of_a_target_elsewhere() -> None:
    trace = trace_of([20.0] * 1000, sending_s=9.2)
    reason = trace.was_bottleneck()
    assert reason is not None
    assert "its threads kept 0.93 processors busy" in reason
    assert trace.was_bottleneck(apart=False) is None


def test_a_process_without_time_for_a_sleeper_is_a_bottleneck() -> None:
    trace = trace_of([20.0] * 1000, held_up=np.full(100, 5 * MS))
    reason = trace.was_bottleneck(apart=False)
    assert reason is not None
    assert "which woke 5 ms late in half the cases" in reason
    assert trace_of([200.0] * 1000, held_up=np.full(100, 5 * MS)).was_bottleneck() is None


def test_a_bottleneck_in_some_repeats_is_told_with_their_number() -> None:
    good, bad = trace_of([20.0] * 1000), trace_of([20.0] * 1000, sending_s=9.2)
    marks = marks_of([good, bad, bad], figures_of([good, bad, bad], 1))
    assert marks[0].startswith("In 2 of 3 repeats: The load generator was the bottleneck")
