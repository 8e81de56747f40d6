"""Latency is counted and ordered."""

from __future__ import annotations

import pytest

from cliprt_bench import measure_latency


def test_every_call_is_made_and_counted() -> None:
    calls: list[int] = []
    latency = measure_latency(lambda: calls.append(1), samples=25, warmup=4)
    assert len(calls) == 29
    assert latency.samples == 25
    assert latency.p50_ms > 0


@pytest.mark.parametrize(("samples", "told"), [(199, False), (200, True)])
def test_the_95th_percentile_needs_ten_samples_beyond_it(samples: int, told: bool) -> None:
    latency = measure_latency(lambda: None, samples=samples)
    assert (latency.p95_ms is not None) == told


def test_too_few_samples_for_a_median_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 20 samples, got 19"):
        measure_latency(lambda: None, samples=19)


def test_there_are_calls_enough_for_a_p95_unless_fewer_are_asked_for() -> None:
    latency = measure_latency(lambda: None)
    assert latency.samples == 200
    assert latency.p95_ms is not None
