"""What a load generator saw: when each request was due, begun and answered, and what it says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cliprt_bench._figures import enough_for

PERCENTILES = (50, 90, 95, 99)

UNANSWERED = "unanswered"
"""Kind of error of a request that was due and had no answer when the loop was ended."""

LATE = 0.1
"""The generator was the bottleneck if its own lag is more than this part of the latency."""

SATURATED = 0.9
"""Python runs in one thread at a time: that many busy cores of its threads leave nothing over."""

_HELD_UP_MS = 1.0
_MS = 1e6


@dataclass(frozen=True, eq=False)
class Trace:
    """What one run of a load generator saw. All times are of the monotonic clock, in nanoseconds.

    A request belongs to the samples if it was due in the window; the others, of the warm-up, are
    kept since they load the target and since one of them may be answered in the window.

    Attributes:
        loop: ``closed`` or ``open``.
        most: callers of the closed loop; the most requests under way in the open one.
        window: when the samples begin and end. The requests under way at its end were waited for.
        number: int64 [requests], which request: what ``send`` was called with.
        due: int64 [requests], when it should have been sent. In a closed loop that is when its
            caller is free: a caller that waits for a slow answer asks less often.
        begun: int64 [requests], when ``send`` was called; -1 if never.
        ended: int64 [requests], when ``send`` returned or raised; -1 if never.
        lag: int64 [requests], how long the generator itself delayed the request: from the moment
            it was due and there was a place for it, until it was begun.
        kind: int16 [requests], index into ``kinds``; 0 if it was answered.
        kinds: kinds of errors, at 0 an empty string.
        messages: what the first error of each kind said.
        held_up: int64 [n], how much too late a thread of this process woke up that did nothing but
            sleep, again and again: whether Python, or the machine, had no time for it.
        generator_s: processor time of the generator's own code in the window.
        sending_s: processor time that its threads spent in ``send`` in the window; a request that
            lies in it only in part counts with that part.
        process_s: processor time of the whole process in the window.
        beside: requests of earlier loops that were still under way when the window began.
        complete: whether the loop came to its end; false after Ctrl-C.
    """

    loop: Literal["closed", "open"]
    most: int
    window: tuple[int, int]
    number: NDArray[np.int64]
    due: NDArray[np.int64]
    begun: NDArray[np.int64]
    ended: NDArray[np.int64]
    lag: NDArray[np.int64]
    kind: NDArray[np.int16]
    kinds: tuple[str, ...]
    messages: dict[str, str]
    held_up: NDArray[np.int64]
    generator_s: float
    sending_s: float
    process_s: float
    beside: int
    complete: bool

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        """Which requests are samples, bool [requests]: those that were due in the window."""
        return (self.due >= self.window[0]) & (self.due < self.window[1])

    @property
    def samples(self) -> int:
        """Requests that were due in the window, answered or not."""
        return int(self.counted.sum())

    @cached_property
    def latencies_ms(self) -> NDArray[np.float64]:
        """Milliseconds from due to answered, ascending, float64 [samples].

        A request that failed has no latency: it counts as one whose answer never comes (infinite),
        so that a target cannot improve its percentiles by failing.
        """
        taken = np.where(self.kind == 0, (self.ended - self.due) / _MS, np.inf)
        return np.sort(taken[self.counted])

    def percentile_ms(self, percentile: float) -> float | None:
        """Latency that so many per cent of requests did not exceed, interpolated.

        Returns:
            None if there are too few samples for it, or so many failed that it does not exist.
        """
        return percentile_of(self.latencies_ms, percentile)

    @property
    def max_ms(self) -> float | None:
        """The longest latency of an answered request; None if none was answered."""
        answered = self.latencies_ms[np.isfinite(self.latencies_ms)]
        return float(answered[-1]) if len(answered) else None

    @cached_property
    def lags_ms(self) -> NDArray[np.float64]:
        """Milliseconds of the generator's own lag, ascending, float64 [samples that were begun]."""
        return np.sort(self.lag[self.counted & (self.begun >= 0)] / _MS)

    def lag_ms(self, percentile: float) -> float | None:
        """A percentile of the generator's own lag; None if there are too few samples for it."""
        return percentile_of(self.lags_ms, percentile)

    @property
    def answered_s(self) -> float:
        """Requests answered in a second of the window.

        A request that lies in the window only in part, at its beginning or its end, counts with
        the share of its time, begun to ended, that lies in it. So neither the requests that were
        under way when the window was cut off are lost, nor does the time count in which the last
        of them were waited for while callers had nothing to do.
        """
        answered = self.kind == 0
        parts = part_within(self.begun[answered], self.ended[answered], self.window)
        return float(parts.sum()) / self.seconds

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return max(self.window[1] - self.window[0], 1) / 1e9

    @property
    def errors(self) -> dict[str, int]:
        """How many samples failed, by the kind of error."""
        numbers = np.bincount(self.kind[self.counted], minlength=len(self.kinds))
        named = zip(self.kinds, numbers.tolist(), strict=True)
        return {name: number for name, number in named if name and number}

    @property
    def waiting(self) -> int:
        """Samples that were due, but not begun, when the window ended: the backlog of the loop."""
        late = (self.begun < 0) | (self.begun >= self.window[1])
        return int((self.counted & late).sum())

    @property
    def generator_cores(self) -> float:
        """Processors that the generator's own code kept busy, the code of ``send`` not counted."""
        return self.generator_s / self.seconds

    @property
    def process_cores(self) -> float:
        """Processors that this process kept busy: generator, client, and a target within it."""
        return self.process_s / self.seconds

    def was_bottleneck(self, *, apart: bool = True) -> str | None:
        """Why this run measured the load generator rather than the target.

        Three signs are looked for: requests were begun late though there was a place for them;
        Python had no time for a thread that wanted to wake up; and, of a target in another
        process, the threads that send used up the one core that Python has.

        Args:
            apart: whether the target is in another process. If not, ``send`` does the target's
                work, and that it keeps processors busy says nothing about the generator.

        Returns:
            The reason, one sentence; None if it was not.
        """
        for percentile in reversed(PERCENTILES):
            lag, latency = self.lag_ms(percentile), self.percentile_ms(percentile)
            if lag is not None and latency is not None and lag > LATE * latency:
                return (
                    "The load generator was the bottleneck: it began requests late, at "
                    f"p{percentile} by {lag:.3g} ms of a latency of {latency:.3g} ms, though "
                    f"fewer than {self.most} were under way."
                )
        busy = (self.generator_s + self.sending_s) / self.seconds
        if apart and busy > SATURATED:
            return (
                "The load generator was the bottleneck: its threads kept "
                f"{busy:.2f} processors busy, and Python has one."
            )
        # Against the time in send: the latency of a backlog is long, whoever was the cause.
        sent = (self.ended - self.begun)[self.counted & (self.kind == 0)]
        held_up = float(np.median(self.held_up)) / _MS if len(self.held_up) else 0.0
        if len(sent) and held_up > max(_HELD_UP_MS, LATE * float(np.median(sent)) / _MS):
            return (
                "The load generator was the bottleneck: its process had no time for a thread "
                f"that only sleeps, which woke {held_up:.3g} ms late in half the cases, where "
                f"half the requests were under way for {np.median(sent) / _MS:.3g} ms."
            )
        return None


def part_within(
    begun: NDArray[np.int64], ended: NDArray[np.int64], window: tuple[int, int]
) -> NDArray[np.float64]:
    """Which part of the time of each request lies in a window, float64 [requests], 0 to 1.

    Args:
        begun: int64 [requests], nanoseconds.
        ended: int64 [requests], not before.
        window: its beginning and end.
    """
    inside = np.minimum(ended, window[1]) - np.maximum(begun, window[0])
    parts: NDArray[np.float64] = np.clip(inside / np.maximum(ended - begun, 1), 0, 1)
    return parts


def percentile_of(ascending: NDArray[np.float64], percentile: float) -> float | None:
    """A percentile of latencies.

    Args:
        ascending: float64 [samples], sorted; infinite where there was no answer.
        percentile: between 0 and 100.

    Returns:
        Interpolated between neighbours; None if there are too few samples for it, or if it would
        lie among those without an answer.
    """
    if len(ascending) < enough_for(percentile):
        return None
    place = (len(ascending) - 1) * percentile / 100
    low, high = ascending[math.floor(place)], ascending[math.ceil(place)]
    if math.isinf(high):
        return None
    return float(low + (high - low) * (place - math.floor(place)))
