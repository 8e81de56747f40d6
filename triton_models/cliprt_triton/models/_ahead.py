"""Batches that a tower takes from Triton's queue before it can compute them, while that is full.

Triton 24.10 looks for the next batch when a request joins the queue, and else every half second.
Whoever finds the queue full does not join it. So behind a full queue a tower that has computed a
batch idles until that half second is over: under twice the load that it can answer, it answers half
of what it could. A tower that sees this holds as much work as it does in that time, and answers
later than it takes, by the response senders that Triton has for models that are not decoupled, too.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt_triton._policy import AHEAD_S
from cliprt_triton.models._backend import Cancelled, failure, pb_utils

# A tower that is fed waits less for its next batch.
_FED_S = 0.02

Batch = NDArray[Any] | Exception
Answers = Callable[[Sequence[Batch]], list[Any]]


@dataclass(frozen=True)
class _Job:
    sender: Any
    batch: Batch
    items: int


class Ahead:
    """Work that was taken ahead, computed in the order in which it came."""

    def __init__(self, answers: Answers, most: int, name: str) -> None:
        """Starts a thread that waits for work.

        Args:
            answers: computes batches together and makes a response of each.
            most: items that are computed together.
            name: of the thread.
        """
        self._answers, self._most = answers, most
        self._jobs: deque[_Job] = deque()
        self._items = 0  # of all that is not answered yet
        self._items_per_s = 0.0
        self._rested, self._was_whole = time.monotonic(), False
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._compute, name=name, daemon=True)
        self._thread.start()

    def wanted(self, items: int) -> bool:
        """Whether what Triton brings now is to be given to this.

        Where something is under way here: it would overtake that. And where the tower had nothing
        to do between two whole batches, for no longer than the batcher sleeps.
        """
        with self._changed:
            waited_s = time.monotonic() - self._rested
            slept = items >= self._most and self._was_whole and _FED_S < waited_s < AHEAD_S
            return self._items > 0 or slept

    def rested(self, items: int) -> None:
        """The tower has answered so many, and has nothing to do until it is asked again."""
        with self._changed:
            self._rested, self._was_whole = time.monotonic(), items >= self._most

    def give(self, requests: Sequence[Any], batches: Sequence[Batch]) -> None:
        """Takes requests, and returns when there is room for more.

        Args:
            requests: of Triton; ``execute`` returns None for them.
            batches: what they hold, or what is wrong with one.
        """
        # Triton's memory goes when execute returns.
        jobs = [
            _Job(request.get_response_sender(), batch, 0)
            if isinstance(batch, Exception)
            else _Job(request.get_response_sender(), np.array(batch), len(batch))
            for request, batch in zip(requests, batches, strict=True)
        ]
        items = sum(job.items for job in jobs)
        with self._changed:
            self._jobs.extend(jobs)
            self._items += items
            self._changed.notify_all()
            # One batch ahead is enough where Triton did not have a whole one.
            ahead = self._items_per_s * AHEAD_S if items >= self._most else 0.0
            self._changed.wait_for(lambda: self._items <= self._most + ahead or self._closed)

    def close(self) -> None:
        """Ends the thread, once all is answered."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _compute(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._jobs) or self._closed)
                if not self._jobs:
                    return
                jobs = self._next()
            begun, items = time.monotonic(), sum(job.items for job in jobs)
            self._answer(jobs)
            with self._changed:
                self.rested(items)
                self._items -= items
                self._items_per_s = items / max(self._rested - begun, 1e-6)
                self._changed.notify_all()

    def _next(self) -> list[_Job]:
        """The jobs that are computed together: no more items than fit, and at least one job."""
        jobs = [self._jobs.popleft()]
        items = jobs[0].items
        while self._jobs and items + self._jobs[0].items <= self._most:
            items += self._jobs[0].items
            jobs.append(self._jobs.popleft())
        return jobs

    def _answer(self, jobs: Sequence[_Job]) -> None:
        final = pb_utils().TRITONSERVER_RESPONSE_COMPLETE_FINAL
        gone = Cancelled("the request was cancelled")
        batches = [gone if job.sender.is_cancelled() else job.batch for job in jobs]
        try:
            responses = self._answers(batches)
        except Exception as error:  # noqa: BLE001 - these requests fail, the server must not
            responses = [failure(error) for _ in jobs]
        for job, response in zip(jobs, responses, strict=True):
            job.sender.send(response, flags=final)
