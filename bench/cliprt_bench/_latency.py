"""Closed-loop latency of one caller."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Latency:
    """How long calls took, one after the other.

    Attributes:
        p50_ms: median, in milliseconds.
        p95_ms: 95th percentile, in milliseconds.
        samples: number of timed calls.
    """

    p50_ms: float
    p95_ms: float
    samples: int


def measure_latency(call: Callable[[], object], *, samples: int = 100, warmup: int = 10) -> Latency:
    """Calls a function again and again and times each call by the monotonic clock.

    Args:
        call: what to time; its result is thrown away.
        samples: number of timed calls, at least 20, so that a 95th percentile exists.
        warmup: calls before the first timed one.

    Raises:
        ValueError: fewer than 20 samples.
    """
    if samples < 20:
        raise ValueError(f"a 95th percentile needs at least 20 samples, got {samples}")
    for _ in range(warmup):
        call()
    times = np.empty(samples)
    for index in range(samples):
        start = time.perf_counter_ns()
        call()
        times[index] = (time.perf_counter_ns() - start) / 1e6
    p50, p95 = np.percentile(times, [50, 95])
    return Latency(p50_ms=float(p50), p95_ms=float(p95), samples=samples)
