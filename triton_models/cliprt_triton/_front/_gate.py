"""How many requests may be under way towards a tower: as many as it takes, found out by trying.

The queue that counts is Triton's, and nobody can look into it from here. But before a picture gets
there it was decoded, which a tower with too much to do refuses for nothing. So what the tower
refuses is remembered: as many as it held then are the limit from then on, and the next caller is
refused before anything was done for him. Now and then one more is let through, because the tower
may have more room, or its other callers may have left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cliprt import Overloaded

# After a refusal nobody tries for so long, and then one more each time that passes.
_CLOSED_S = 0.25
_STEP_S = 0.1


class Gate:
    """The way to one tower. All methods belong to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Open, until something is refused.

        Args:
            clock: in seconds.
        """
        self._clock = clock
        self._limit = math.inf
        self._grows_at = 0.0
        self._under_way = 0

    def check(self) -> None:
        """Refuses whoever would be one too many.

        Raises:
            Overloaded: the tower has as many as it takes.
        """
        # One may always try, but not at once after a refusal.
        least = 1 if self._clock() >= self._grows_at else 0
        if self._under_way >= max(self._limit, least):
            raise Overloaded(f"{self._under_way} requests are under way, and the queue is full")

    @contextmanager
    def passed(self) -> Iterator[None]:
        """Lets a request through, and learns from how it ends.

        Raises:
            Overloaded: as ``check``.
        """
        self.check()
        self._under_way += 1
        try:
            yield
        except Overloaded:
            self._limit = self._under_way - 1
            self._grows_at = self._clock() + _CLOSED_S
            raise
        else:
            # Only a limit that holds somebody back is worth another try.
            if self._under_way >= self._limit and self._clock() >= self._grows_at:
                self._limit += 1
                self._grows_at = self._clock() + _STEP_S
        finally:
            self._under_way -= 1
