"""What a way in does under load: capacity, storms, and how soon all is well again.

For `overload_check.py`, which says what that is for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt import CliprtError, DeadlineExceeded, Overloaded
from cliprt_bench._load import closed_loop, open_loop
from cliprt_bench._trace import Trace

CALLERS = 16
UNDER_WAY = 400

# How much slower than before a storm a request may be that counts as quick.
_SLOWER, _MORE_S = 2.0, 0.05

# After so long nobody waits any more for a request that is quick.
_GIVEN_UP_S = 60.0

# Behind a storm, until the capacity is measured again: what it left must be gone by then.
_CALM_S = 2.0
_WARMUP_S = 1.0

Ask = Callable[[Any], NDArray[np.float32]]


class WrongAnswer(Exception):
    """An answer that is not the known one."""


@dataclass(frozen=True)
class Way:
    """A way in.

    Attributes:
        name: for people.
        ask: sends one item and returns its embedding, float32 [1, dim].
        items: what is sent.
        expected: what LocalClip answers, float32 [items, dim].
        least_cosine: an answer is right from here on, and cannot be that of another item.
    """

    name: str
    ask: Ask
    items: Sequence[Any]
    expected: NDArray[np.float32]
    least_cosine: float

    def send(self, number: int) -> None:
        """Sends the n-th request; raises what failed."""
        place = number % len(self.items)
        found = self.ask(self.items[place])[0]
        if not float(found @ self.expected[place]) >= self.least_cosine:
            raise WrongAnswer(f"item {place} has the cosine {found @ self.expected[place]:.6f}")


@dataclass
class Storm:
    """What was seen of a way at one rate.

    Attributes:
        share: of the capacity that came.
        capacity_s: requests answered in a second, right before and after.
        offered_s: requests that came in a second.
        good_s: right answers within the deadline, in a second.
        p50_ms, p99_ms: of what was not refused, from the moment it was due; None where that many
            were given up at their deadline.
        refused_p50_ms, refused_p95_ms, refused_p99_ms: of what was refused, from sending; None
            where nothing was.
        outcomes: how many requests ended how; ``late`` were answered behind the deadline.
        recovered_s: behind its end, when a request first took no longer than before.
        again: the capacity from two seconds behind its end on, as a part of that before it.
        bottleneck: why the load generator could not keep up, if it could not.
    """

    share: float
    capacity_s: float
    offered_s: float
    good_s: float
    p50_ms: float | None
    p99_ms: float | None
    refused_p50_ms: float | None
    refused_p95_ms: float | None
    refused_p99_ms: float | None
    outcomes: dict[str, int]
    recovered_s: float
    again: float
    bottleneck: str | None

    @property
    def good(self) -> float:
        """Good answers as a part of the capacity."""
        return self.good_s / self.capacity_s


class Recovery:
    """Asks again and again behind a storm, until a request takes no longer than before it."""

    def __init__(self, way: Way, patience_s: float) -> None:
        self._way, self._patience_s = way, patience_s
        self._before_s = float(np.median([self._once() for _ in range(9)]))
        self._found_s = patience_s
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def _once(self) -> float:
        begun = time.monotonic()
        self._way.send(0)
        return time.monotonic() - begun

    def __enter__(self) -> Recovery:
        return self

    def __exit__(self, *error: object) -> None:
        """The storm is over."""
        self._over = time.monotonic()
        self._thread.start()

    def _ask(self) -> None:
        while (begun := time.monotonic()) < self._over + self._patience_s:
            try:
                if self._once() <= _SLOWER * self._before_s + _MORE_S:
                    self._found_s = begun - self._over
                    return
            except CliprtError:
                time.sleep(0.02)

    def seconds(self) -> float:
        """Behind the end of the storm, when a request was sent that took no longer than before."""
        self._thread.join()
        return self._found_s


def storm(
    way: Way, share: float, capacity_s: float, seconds: float, warmup_s: float, seed: int
) -> tuple[Trace, float]:
    """One rate: what the generator saw, and how long it took until all was well again."""
    recovery = Recovery(way, _GIVEN_UP_S)
    trace = open_loop(
        way.send,
        rate=share * capacity_s,
        seconds=seconds,
        most=UNDER_WAY,
        seed=seed,
        warmup=warmup_s,
        during=recovery,
    )
    return trace, recovery.seconds()


def judged(
    trace: Trace, share: float, before_s: float, after_s: float, deadline_s: float, quick_s: float
) -> Storm:
    """What a run of the load generator comes to.

    Args:
        trace: what it saw.
        share: of the capacity that came.
        before_s: the capacity before, in requests a second.
        after_s: the capacity after.
        deadline_s: of a request, from when it was due.
        quick_s: behind the end, when a request first took no longer than before.
    """
    counted = trace.counted & (trace.begun >= 0)
    kinds = np.array(trace.kinds)[trace.kind]
    answered = counted & (trace.kind == 0)
    given_up = counted & (kinds == DeadlineExceeded.__name__)
    took_s = np.where(given_up, np.inf, (trace.ended - trace.due) / 1e9)
    in_time = answered & (took_s <= deadline_s)
    refused = counted & (kinds == Overloaded.__name__)
    refused_ms = (trace.ended - trace.begun)[refused] / 1e6
    outcomes = {"good": int(in_time.sum()), "late": int((answered & ~in_time).sum())}
    outcomes |= trace.errors

    def told(values: NDArray[np.float64], percentile: float) -> float | None:
        if not len(values):
            return None
        found = float(np.percentile(values, percentile, method="higher"))
        return found if np.isfinite(found) else None

    accepted_ms = took_s[answered | given_up] * 1e3
    return Storm(
        share=share,
        capacity_s=(before_s + after_s) / 2,
        offered_s=trace.samples / trace.seconds,
        good_s=outcomes["good"] / trace.seconds,
        p50_ms=told(accepted_ms, 50),
        p99_ms=told(accepted_ms, 99),
        refused_p50_ms=told(refused_ms, 50),
        refused_p95_ms=told(refused_ms, 95),
        refused_p99_ms=told(refused_ms, 99),
        outcomes={name: number for name, number in outcomes.items() if number},
        recovered_s=quick_s,
        again=after_s / before_s,
        bottleneck=trace.was_bottleneck(),
    )


def measured(
    way: Way, shares: Sequence[float], seconds: float, *, deadline_s: float
) -> list[Storm]:
    """All rates of a way, with its capacity before and after each."""

    def capacity() -> float:
        loop = closed_loop(way.send, callers=CALLERS, seconds=seconds / 2, warmup=_WARMUP_S)
        return loop.answered_s

    found, before = [], capacity()
    for seed, share in enumerate(shares):
        trace, quick_s = storm(way, share, before, seconds, max(2.0, deadline_s), seed)
        time.sleep(max(0.0, _CALM_S - _WARMUP_S - quick_s))
        after = capacity()
        found.append(judged(trace, share, before, after, deadline_s, quick_s))
        before = after
    return found
