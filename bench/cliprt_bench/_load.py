"""The load generator: callers that wait for their answers, or requests that come when they come.

In a closed loop a caller asks again when it is answered. A target that stands still is asked
nothing meanwhile, so its standing still is seen by as many requests as there are callers, however
long it lasts ("coordinated omission"). In an open loop requests are due at moments that are drawn
before the clock starts, and latency counts from there, whatever the target does.

A thread sends one request at a time. All threads are there before the clock starts; in an open loop
a free one takes the next request and sleeps until it is due, so that nothing is handed from thread
to thread when it is.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray

from cliprt_bench._sending import SECOND, Loop, Send, Sent, Ticket
from cliprt_bench._trace import UNANSWERED, Trace

PATIENCE_S = 300.0
"""How long answers are waited for behind a window: late is a figure, too.

It is longer than what a target waits for itself, and long enough for a slow one in this process,
which has no limit. What is given up goes on computing, beside whatever is measured next.
"""


def closed_loop(
    send: Send,
    *,
    callers: int,
    seconds: float,
    least: int = 0,
    longest: float | None = None,
    warmup: float = 0.0,
    patience: float = PATIENCE_S,
    during: AbstractContextManager[object] | None = None,
) -> Trace:
    """Callers that ask, wait for the answer, and ask again.

    After a request that failed its caller waits for 10 ms. Ctrl-C ends the loop: what was measured
    until then comes back, with ``complete`` false.

    Args:
        send: sends the n-th request, n = 0, 1, ...; blocks until it is answered; raises what
            failed. It is called by ``callers`` threads at a time.
        callers: how many.
        seconds: length of the window in which requests are counted.
        least: requests that are counted at least: the window is lengthened for them.
        longest: seconds to which the window may be lengthened; by default without limit.
        warmup: seconds before the window. Requests begun in them are sent and not counted.
        patience: seconds after the window until which answers are waited for; requests without one
            then count as failed (``unanswered``), and so do those of an overloaded open loop that
            were not begun 30 s after the window.
        during: is entered when the window begins, and left when it ends, before the last answers
            are waited for.

    Raises:
        ValueError: a number is out of its range.
    """
    _check(seconds, warmup, patience, callers=callers)
    if least < 0 or (longest is not None and longest < seconds):
        raise ValueError(
            f"least must not be negative, longest not below seconds; got {least}, {longest}"
        )
    whole = during or nullcontext()
    return _Closed(send, callers, seconds, least, longest, warmup, patience, whole).run()


def open_loop(
    send: Send,
    *,
    rate: float,
    seconds: float,
    most: int,
    seed: int,
    warmup: float = 0.0,
    patience: float = PATIENCE_S,
    during: AbstractContextManager[object] | None = None,
) -> Trace:
    """Requests that come when they come (Poisson), whether those before are answered or not.

    Ctrl-C ends the loop: what was measured until then comes back, with ``complete`` false.

    Args:
        send: as in :func:`closed_loop`; called by ``most`` threads at a time.
        rate: requests per second that are due on average.
        seconds: length of the window in which requests are counted.
        most: requests that may be under way. If that many are, the next ones wait, in the order in
            which they were due, and the time they wait is part of their latency.
        seed: of the moments at which requests are due; see :func:`arrivals`.
        warmup: seconds before the window. Requests due in them are sent and not counted; with
            none the target begins the window idle.
        patience: as in :func:`closed_loop`.
        during: as in :func:`closed_loop`.

    Raises:
        ValueError: a number is out of its range.
    """
    _check(seconds, warmup, patience, most=most)
    if not rate > 0:
        raise ValueError(f"rate must be positive, got {rate}")
    due = arrivals(rate, warmup + seconds, seed)
    return _Open(send, most, due, seconds, warmup, patience, during or nullcontext()).run()


def arrivals(rate: float, seconds: float, seed: int) -> NDArray[np.int64]:
    """When the requests of an open loop are due: a Poisson process.

    Args:
        rate: requests per second.
        seconds: until when.
        seed: equal seeds, equal moments.

    Returns:
        int64 [requests], ascending, nanoseconds since the start of the clock, all before
        ``seconds``.
    """
    generator = np.random.default_rng(seed)
    moments = np.zeros(0)
    while not len(moments) or moments[-1] < seconds:
        more = generator.exponential(1 / rate, size=max(16, int(rate * seconds)))
        moments = np.concatenate([moments, more.cumsum() + (moments[-1] if len(moments) else 0)])
    return np.asarray(moments[moments < seconds] * SECOND, dtype=np.int64)


def _check(seconds: float, warmup: float, patience: float, **counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if not seconds > 0 or warmup < 0 or patience < 0:
        raise ValueError(
            "seconds must be positive, warmup and patience not negative; "
            f"got {seconds}, {warmup}, {patience}"
        )


class _Closed(Loop):
    loop = "closed"

    def __init__(
        self,
        send: Send,
        callers: int,
        seconds: float,
        least: int,
        longest: float | None,
        warmup: float,
        patience: float,
        during: AbstractContextManager[object],
    ) -> None:
        super().__init__(send, callers, seconds, warmup, patience, during)
        self._least = least
        self._longest_ns = None if longest is None else int(longest * SECOND)
        self._number = self._counted = 0
        self._reached = 0 if least == 0 else None

    def take(self) -> Ticket | None:
        with self.lock:
            # Read under the lock, so that requests are due in the order of their numbers.
            now = time.monotonic_ns()
            if now >= self.last():
                return None
            self._number += 1
            if now >= self.first:
                self._counted += 1
                if self._counted == self._least:
                    self._reached = now + 1
            return Ticket(self._number - 1, now)

    def last(self) -> int:
        end = self.first + self._length_ns
        limit = None if self._longest_ns is None else self.first + self._longest_ns
        if self._reached is not None:
            end = max(end, self._reached)
        elif limit is None:
            return end + (1 << 62)
        else:
            end = limit
        return end if limit is None else min(end, limit)

    def never_begun(self, cut: int) -> list[Sent]:
        return []


class _Open(Loop):
    loop = "open"

    def __init__(
        self,
        send: Send,
        most: int,
        due: NDArray[np.int64],
        seconds: float,
        warmup: float,
        patience: float,
        during: AbstractContextManager[object],
    ) -> None:
        super().__init__(send, most, seconds, warmup, patience, during)
        self._due = due.tolist()
        self._number = 0

    def take(self) -> Ticket | None:
        with self.lock:
            number = self._number
            if number == len(self._due):
                return None
            self._number += 1
        return Ticket(number, self.start + self._due[number])

    def last(self) -> int:
        return self.first + self._length_ns

    def never_begun(self, cut: int) -> list[Sent]:
        moments = enumerate(self.start + due for due in self._due)
        return [Sent(n, due, -1, -1, 0, 0, 0, UNANSWERED) for n, due in moments if due < cut]
