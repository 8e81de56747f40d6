"""What a queue with known service times does, computed event by event."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
Stall = tuple[float, float]


class Fifo:
    """Workers that serve one request at a time each, in the order in which they come.

    A stall is a span of time in which nobody works: whatever is being served is finished later by
    its length.
    """

    def __init__(self, workers: int, stall: Stall | None = None) -> None:
        self._free = [-np.inf] * workers
        self._stall = stall

    def finish(self, arrival: float, service: float) -> float:
        """When the next request is finished. Requests are given in the order in which they come."""
        start = max(arrival, heapq.heappop(self._free))
        end = start + service
        if self._stall is not None:
            first, last = self._stall
            if first <= start < last:
                end = last + service
            elif start < first < end:
                end += last - first
        heapq.heappush(self._free, end)
        return end


def open_latencies(
    arrivals: Sequence[float] | Times,
    services: Sequence[float] | Times,
    workers: int,
    stall: Stall | None = None,
) -> Times:
    """From due to finished, of requests that come at given moments; in the unit of both."""
    queue = Fifo(workers, stall)
    pairs = zip(arrivals, services, strict=True)
    return np.array([queue.finish(arrival, service) - arrival for arrival, service in pairs])


def closed_latencies(
    services: Sequence[float] | Times, callers: int, workers: int, seconds: float, wire: float = 0
) -> Times:
    """Latencies of callers who ask again at once, as many as begin before an end.

    The n-th request that is begun has the n-th service time. The wire adds to each latency and
    keeps no worker busy.
    """
    queue = Fifo(workers)
    free = [0.0] * callers
    latencies = []
    for service in services:
        begun = heapq.heappop(free)
        if begun >= seconds:
            return np.array(latencies)
        end = queue.finish(begun, service) + wire
        latencies.append(end - begun)
        heapq.heappush(free, end)
    raise ValueError(f"{len(services)} service times are not enough for {seconds} s")
