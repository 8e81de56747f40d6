"""Where the time of requests went: the client's own measurement, and what the server counted."""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from cliprt._statistics import ModelStatistics
from cliprt._steps import Pending

_HEADER = ("tower", "requests", "items", "batch", "prepare", "wire", "queue", "compute", "total")


@dataclass(frozen=True)
class TowerTimes:
    """Means over the requests to one tower.

    Attributes:
        requests: requests of this client that were answered.
        items: pictures or texts in them.
        batch: items of an execution on the server, which joins requests, also those of others.
        prepare_ms: decoding and resizing, or filling up tokens, in milliseconds per request, like
            all times here. Tokenizing is not part of a request and not counted.
        wire_ms: the round trip without what the server counted: gRPC on both sides, the network,
            and waiting for a thread.
        queue_ms: waiting for the tower to be free and for company.
        compute_ms: in the tower, with putting inputs and outputs in place.
    """

    requests: int
    items: int
    batch: float
    prepare_ms: float
    wire_ms: float
    queue_ms: float
    compute_ms: float

    @property
    def total_ms(self) -> float:
        """From the first picture opened to the answer."""
        return self.prepare_ms + self.wire_ms + self.queue_ms + self.compute_ms


@dataclass
class RequestTimes:
    """Where the time of requests went, by tower; printed it is a table.

    The server counts for everybody: its figures are means over all requests that it answered
    meanwhile, whoever sent them.

    Attributes:
        towers: by ``image`` and ``text``, those that were asked; empty until the profile ends.
    """

    towers: dict[str, TowerTimes] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [_HEADER, *(_row(tower, times) for tower, times in self.towers.items())]
        if len(rows) == 1:
            return "no request was answered"
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = (
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows
        )
        return "\n".join(lines) + "\nmilliseconds per request"


def _row(tower: str, times: TowerTimes) -> Sequence[str]:
    figures = (times.prepare_ms, times.wire_ms, times.queue_ms, times.compute_ms, times.total_ms)
    counts = (str(times.requests), str(times.items), f"{times.batch:.1f}")
    return (tower, *counts, *(f"{figure:.2f}" for figure in figures))


class Stopwatch:
    """Adds up the times of requests; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[str, tuple[int, int, int, int]] = {}
        self._open: set[Pending] = set()

    def follow(
        self, tower: str, items: int, prepare_ns: int, sent_ns: int, pending: Pending
    ) -> None:
        """Notes a request when it ends, unless it failed.

        Args:
            tower: ``image`` or ``text``.
            items: of the request.
            prepare_ns: how long its input took, in nanoseconds.
            sent_ns: when it was sent, by ``time.perf_counter_ns``.
            pending: the request.
        """
        with self._lock:
            self._open.add(pending)
        pending.add_done_callback(partial(self._ended, tower, items, prepare_ns, sent_ns))

    def is_behind(self) -> bool:
        """Whether a request has ended that is not noted yet: whoever waits for it learns first."""
        with self._lock:
            return any(pending.done() for pending in self._open)

    def _ended(
        self, tower: str, items: int, prepare_ns: int, sent_ns: int, answer: Pending
    ) -> None:
        noted = (1, items, prepare_ns, time.perf_counter_ns() - sent_ns)
        with self._lock:
            self._open.discard(answer)
            if answer.exception() is None:
                sums = self._sums.get(tower, (0, 0, 0, 0))
                self._sums[tower] = tuple(map(operator.add, sums, noted))

    def requests(self, tower: str) -> int:
        """How many requests to a tower were answered."""
        with self._lock:
            return self._sums.get(tower, (0,))[0]

    def times(self, tower: str, server: ModelStatistics) -> TowerTimes | None:
        """The means of a tower, or None if it was not asked.

        Args:
            tower: ``image`` or ``text``.
            server: what the server counted meanwhile.
        """
        with self._lock:
            requests, items, prepare_ns, trip_ns = self._sums.get(tower, (0, 0, 0, 0))
        if not requests or not server.requests:
            return None
        compute_ns = server.compute_input_ns + server.compute_infer_ns + server.compute_output_ns
        in_server_ms = (server.queue_ns + compute_ns) / server.requests / 1e6
        return TowerTimes(
            requests=requests,
            items=items,
            batch=server.inferences / max(server.executions, 1),
            prepare_ms=prepare_ns / requests / 1e6,
            wire_ms=max(trip_ns / requests / 1e6 - in_server_ms, 0.0),
            queue_ms=server.queue_ns / server.requests / 1e6,
            compute_ms=compute_ns / server.requests / 1e6,
        )
