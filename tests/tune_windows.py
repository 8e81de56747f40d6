"""Windows of candidates by formulas, for tests of the search for settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cliprt_bench._tune import Candidate, Goal, Plan, Trial, Window
from cliprt_bench._tune_search import Measure, Result, Search

PLAN = Plan(repeats=5, seconds=3.0, longest=3.0, requests=220)

NOISE = (0.0, 0.004, -0.004, 0.002, -0.002)
"""By number of the window, parts by which it is faster or slower."""


def window(items_s: float, late_ms: float, *, requests: int = 1000, failed: int = 0) -> Window:
    """All requests but the failed ones took equally long."""
    latencies = np.full(requests, float(late_ms))
    latencies[requests - failed :] = np.inf
    return Window(items_s, latencies, seconds=3.0)


def trial(
    items_s: float, late_ms: float, *, candidate: Candidate | None = None, requests: int = 1000
) -> Trial:
    """Windows that lie a little apart."""
    windows = (window(items_s * (1 + n), late_ms * (1 - n), requests=requests) for n in NOISE)
    return Trial(candidate or Candidate("fp32"), tuple(windows))


def by_formula(
    items_s: Callable[[Candidate], float],
    late_ms: Callable[[Candidate], float],
    requests: int = 1000,
) -> Measure:
    """Measures candidates by formulas, with noise that is known."""

    def measure(candidate: Candidate, numbers: range) -> list[Window]:
        speeds = [1 + NOISE[number] for number in numbers]
        return [
            window(items_s(candidate) * s, late_ms(candidate) / s, requests=requests)
            for s in speeds
        ]

    return measure


def interrupted(measured: Measure, after: int) -> Measure:
    """Ctrl-C comes when so many candidates were measured."""
    calls = 0

    def measure(candidate: Candidate, numbers: range) -> Sequence[Window]:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        return measured(candidate, numbers)

    return measure


def found(
    measure: Measure,
    goal: Goal,
    *precisions: str,
    most_items: int | None = None,
) -> Result:
    """What a search comes to."""
    return Search(measure, goal, PLAN, precisions or ("fp32",), most_items=most_items).run()


def batch(candidate: Candidate) -> int:
    """Greatest batch of a candidate."""
    return candidate.policy.batch_size()
