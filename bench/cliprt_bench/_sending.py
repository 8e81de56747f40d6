"""The threads of a load generator, and the clock they go by."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from cliprt_bench._trace import UNANSWERED, Trace

SECOND = 1_000_000_000

# Threads that were told of the start of the clock are awake by then.
_LEAD_NS = 5_000_000

# How often it is looked whether this process has time for a thread that only sleeps.
_PROBE_S = 0.01

# A target that refuses at once is not asked a million times.
_PAUSE_S = 0.01

# How long requests under way are waited for after Ctrl-C.
_HURRY_S = 2.0

Send = Callable[[int], None]
"""Sends the n-th request, waits for its answer, raises what failed."""


class Ticket(NamedTuple):
    """A request that a thread has taken."""

    number: int
    due: int


class Sent(NamedTuple):
    """A request that is over."""

    number: int
    due: int
    begun: int
    ended: int
    lag: int
    kind: str


class _Sender:
    """What one thread has done. Only that thread writes."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.under_way: Sent | None = None
        self.messages: dict[str, str] = {}
        self.own_ns = 0
        self.sending_ns = 0


class Loop(ABC):
    """Threads that send, and the clock they go by."""

    loop: Literal["closed", "open"]

    def __init__(
        self, send: Send, threads: int, seconds: float, warmup: float, patience: float
    ) -> None:
        self._send = send
        self._patience = patience
        self._warmup_ns = int(warmup * SECOND)
        self._length_ns = int(seconds * SECOND)
        self._senders = [_Sender() for _ in range(threads)]
        self._gate = threading.Barrier(threads + 1)
        self._clock = threading.Event()
        self._stop = threading.Event()
        self._done = threading.Event()
        self.lock = threading.Lock()
        self._busy = threads
        self.start = self.first = 0

    @abstractmethod
    def take(self) -> Ticket | None:
        """The next request for a thread that is free; None if there is no more."""

    @abstractmethod
    def last(self) -> int:
        """End of the window, as far as it is known."""

    @abstractmethod
    def never_begun(self, cut: int) -> list[Sent]:
        """Requests that were due before a moment, and that no thread began."""

    def run(self) -> Trace:
        """Runs the loop to its end, or until Ctrl-C."""
        complete = True
        held_up: list[int] = []
        try:
            for index, sender in enumerate(self._senders):
                name = f"load-{index}"
                threading.Thread(target=self._work, args=(sender,), name=name, daemon=True).start()
            self._gate.wait()
            processor, own = time.process_time_ns(), time.thread_time_ns()
            self.start = time.monotonic_ns() + _LEAD_NS
            self.first = self.start + self._warmup_ns
            self._clock.set()
            self._watch(held_up)
            self._done.wait(self._patience)
            cut = time.monotonic_ns()
        except KeyboardInterrupt:
            complete = False
            cut = time.monotonic_ns()
            if not self._clock.is_set():
                # Nothing was sent yet, and there is nothing to keep.
                self._abandon()
                raise
            self._hurry()
        self._stop.set()
        over = time.monotonic_ns()
        process_s = (time.process_time_ns() - processor) / SECOND
        watching_ns = time.thread_time_ns() - own
        return self._trace(complete, cut, over, process_s, watching_ns, held_up)

    def _abandon(self) -> None:
        self._stop.set()
        self._gate.abort()
        self._clock.set()

    def _hurry(self) -> None:
        """After Ctrl-C: nothing new is begun; whoever presses it again waits for nothing."""
        self._stop.set()
        try:
            self._done.wait(min(self._patience, _HURRY_S))
        except KeyboardInterrupt:
            return

    def _watch(self, held_up: list[int]) -> None:
        """Waits for the end of the window and looks how punctually a thread wakes up here."""
        while (before := time.monotonic_ns()) < self.last():
            if self._done.wait(_PROBE_S):
                return
            late = time.monotonic_ns() - before - int(_PROBE_S * SECOND)
            if before >= self.first:
                held_up.append(max(late, 0))

    def _work(self, sender: _Sender) -> None:
        try:
            self._gate.wait()
        except threading.BrokenBarrierError:
            return
        self._clock.wait()
        own = time.thread_time_ns()
        self._sleep_until(self.start)
        free = self.start
        while not self._stop.is_set() and (ticket := self.take()):
            if not self._sleep_until(ticket.due):
                break
            before = time.thread_time_ns()
            sender.own_ns += before - own
            free, own = self._send_one(sender, ticket, free, before)
        sender.own_ns += time.thread_time_ns() - own
        with self.lock:
            self._busy -= 1
            if not self._busy:
                self._done.set()

    def _send_one(self, sender: _Sender, ticket: Ticket, free: int, before: int) -> tuple[int, int]:
        """Sends; returns when it was over, and the thread's processor time then."""
        kind = ""
        begun = time.monotonic_ns()
        lag = max(begun - (free if self.loop == "closed" else max(ticket.due, free)), 0)
        sender.under_way = Sent(*ticket, begun, -1, lag, UNANSWERED)
        try:
            self._send(ticket.number)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is counted and told
            kind = type(error).__name__
            sender.messages.setdefault(kind, str(error))
        ended = time.monotonic_ns()
        after = time.thread_time_ns()
        sender.sent.append(Sent(*ticket, begun, ended, lag, kind))
        sender.under_way = None
        sender.sending_ns += after - before
        if kind and self.loop == "closed":
            self._stop.wait(_PAUSE_S)
            ended = time.monotonic_ns()
        return ended, after

    def _sleep_until(self, moment: int) -> bool:
        """Whether the moment came before the loop was stopped."""
        while (left := moment - time.monotonic_ns()) > 0:
            if self._stop.wait(left / SECOND):
                return False
        return True

    def _trace(
        self,
        complete: bool,
        cut: int,
        over: int,
        process_s: float,
        watching_ns: int,
        held_up: list[int],
    ) -> Trace:
        last = self.last() if complete else min(self.last(), cut)
        # A sender that is still at work may finish its request meanwhile: each is read once, what
        # is under way first, and a request that then is in both counts as over.
        requests = {late.number: late for late in self.never_begun(min(cut, last))}
        for sender in self._senders:
            if (under_way := sender.under_way) is not None:
                requests[under_way.number] = under_way
            requests.update((sent.number, sent) for sent in tuple(sender.sent))
        rows = sorted(requests.values(), key=lambda row: row.number)
        kinds = ("", *sorted({row.kind for row in rows} - {""}))
        messages: dict[str, str] = {}
        for sender in self._senders:
            messages = {**sender.messages, **messages}
        table = np.array([row[:5] for row in rows], dtype=np.int64).reshape(-1, 5)
        return Trace(
            loop=self.loop,
            most=len(self._senders),
            window=(self.first, max(last, self.first)),
            number=table[:, 0],
            due=table[:, 1],
            begun=table[:, 2],
            ended=table[:, 3],
            lag=table[:, 4],
            kind=np.array([kinds.index(row.kind) for row in rows], dtype=np.int16),
            kinds=kinds,
            messages=messages,
            held_up=np.array(held_up, dtype=np.int64),
            elapsed_s=max(over - self.start, 1) / SECOND,
            generator_s=(sum(sender.own_ns for sender in self._senders) + watching_ns) / SECOND,
            sending_s=sum(sender.sending_ns for sender in self._senders) / SECOND,
            process_s=process_s,
            complete=complete,
        )
