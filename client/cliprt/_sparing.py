"""Sparing servers that a caller who gives up can crash.

From 23.10 to 25.03 Triton's gRPC front end takes part in a race when a call is given up, by its
deadline or by a cancellation, at the moment it is answered (Triton server, issues 7368 and 8034):
a flood of short deadlines ends the server for everybody. Towards these a client keeps deadlines and
cancellations to itself: its caller is told in time, while the call goes on until it is answered.
"""

from __future__ import annotations

import heapq
import re
import threading
import time
import weakref
from collections.abc import Callable
from itertools import count
from typing import Any

import grpc

# Release 23.10 began to look after calls that were given up; 25.04 has both repairs.
_FIRST, _MENDED = (2, 39), (2, 57)

GRACE_S = 10.0
"""The deadline that the server sees lies behind the caller's by this, for servers that hang."""

QUEUE_GRACE_S = 0.1
"""So long after the caller's deadline the server may still take a request from its queue."""

# Entries below this number are not worth looking through.
_FEW = 64


def needs_sparing(version: str) -> bool:
    """Whether Triton of a version (``2.51.0``) must not see calls that are given up."""
    found = re.match(r"(\d+)\.(\d+)", version)
    # What is unknown is spared.
    return found is None or _FIRST <= (int(found[1]), int(found[2])) < _MENDED


class Expired(grpc.RpcError):  # type: ignore[misc]
    """A deadline that the client itself kept; reads like gRPC's own."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.DEADLINE_EXCEEDED

    def details(self) -> str:
        return "Deadline Exceeded"


class Deadlines:
    """Calls methods at given times. Its thread lasts as long as there is one to come."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # The number keeps entries of the same time from being compared any further.
        self._entries: list[tuple[float, int, weakref.WeakMethod[Callable[[], Any]]]] = []
        self._numbers = count()
        self._running = self._closed = False
        self._look_at = _FEW

    def add(self, when: float, method: Callable[[], Any]) -> None:
        """Has a bound method called at a time, unless its object is gone by then.

        After ``close`` it does nothing.

        Args:
            when: of ``time.monotonic``, in seconds.
            method: must not wait for anything.
        """
        entry = (when, next(self._numbers), weakref.WeakMethod(method))
        with self._changed:
            if self._closed:
                return
            if len(self._entries) >= self._look_at:
                self._forget_gone()
            heapq.heappush(self._entries, entry)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="cliprt-deadlines", daemon=True).start()
            elif self._entries[0] is entry:
                self._changed.notify()

    def close(self) -> None:
        """Calls nothing any more, and ends the thread."""
        with self._changed:
            self._closed = True
            self._entries.clear()
            self._changed.notify()

    def _forget_gone(self) -> None:
        """Drops entries of answered requests, which else would be kept until their deadlines."""
        self._entries = [entry for entry in self._entries if entry[2]() is not None]
        heapq.heapify(self._entries)
        self._look_at = max(_FEW, 2 * len(self._entries))

    def _run(self) -> None:
        while (due := self._next()) is not None:
            if (method := due()) is not None:
                method()

    def _next(self) -> weakref.WeakMethod[Callable[[], Any]] | None:
        """Waits for the next one; None when there is none."""
        with self._changed:
            while self._entries:
                remaining = self._entries[0][0] - time.monotonic()
                if remaining <= 0:
                    return heapq.heappop(self._entries)[2]
                self._changed.wait(remaining)
            self._running = False
            return None
