"""Closed-loop latency of one caller."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cliprt_bench._figures import enough_for
from cliprt_bench._trace import percentile_of


@dataclass(frozen=True)
class Latency:
    """How long calls took, one after the other.

    Attributes:
        p50_ms: median, in milliseconds.
        p95_ms: 95th percentile, in milliseconds; None of fewer than 200 calls, ten beyond it.
        samples: number of timed calls.
    """

    p50_ms: float
    p95_ms: float | None
    samples: int


def measure_latency(call: Callable[[], object], *, samples: int = 200, warmup: int = 10) -> Latency:
    """Calls a function again and again and times each call by the monotonic clock.

    Args:
        call: what to time; its result is thrown away.
        samples: number of timed calls, at least 20, so that there is a median.
        warmup: calls before the first timed one.

    Raises:
        ValueError: fewer than 20 samples.
    """
    if samples < enough_for(50):
        raise ValueError(f"a median needs at least {enough_for(50)} samples, got {samples}")
    for _ in range(warmup):
        call()
    times = np.empty(samples)
    for index in range(samples):
        start = time.perf_counter_ns()
        call()
        times[index] = (time.perf_counter_ns() - start) / 1e6
    times.sort()
    return Latency(float(np.median(times)), percentile_of(times, 95), samples)
