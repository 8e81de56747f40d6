"""The threads of a load generator, and the clock they go by."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cliprt_bench._trace import UNANSWERED, Trace, part_within

SECOND = 1_000_000_000

# Threads that were told of the start of the clock are awake by then.
_LEAD_NS = 5_000_000

# How often it is looked whether this process has time for a thread that only sleeps.
_PROBE_S = 0.01

# A target that refuses at once is not asked a million times.
_PAUSE_S = 0.01

BACKLOG_S = 30.0
"""How long behind the window requests that were due in it are still begun."""

# How long requests under way are waited for after Ctrl-C.
_HURRY_S = 2.0

Send = Callable[[int], None]
"""Sends the n-th request, waits for its answer, raises what failed."""


class Ticket(NamedTuple):
    """A request that a thread has taken."""

    number: int
    due: int


class Sent(NamedTuple):
    """A request that is over, or under way.

    ``own`` is the processor time of the generator's code before it, ``sending`` that of ``send``,
    both in nanoseconds.
    """

    number: int
    due: int
    begun: int
    ended: int
    lag: int
    own: int
    sending: int
    kind: str


class _Sender:
    """What one thread has done. Only that thread writes."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.under_way: Sent | None = None
        self.messages: dict[str, str] = {}


class _Used(NamedTuple):
    """Processor time of the process and of the thread that watches, at a moment; nanoseconds."""

    moment: int
    process: int
    watching: int

    @classmethod
    def now(cls) -> _Used:
        return cls(time.monotonic_ns(), time.process_time_ns(), time.thread_time_ns())


_LEFT: list[_Sender] = []


def left_behind() -> int:
    """Requests of earlier loops of this process that are under way yet, and not waited for."""
    _LEFT[:] = [sender for sender in _LEFT if sender.under_way is not None]
    return len(_LEFT)


class Loop(ABC):
    """Threads that send, and the clock they go by."""

    loop: Literal["closed", "open"]

    def __init__(
        self,
        send: Send,
        threads: int,
        seconds: float,
        warmup: float,
        patience: float,
        during: AbstractContextManager[object],
    ) -> None:
        self._send = send
        self._during = during
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
        self._beside = 0
        self._used: list[_Used] = []
        self._held_up: list[int] = []
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
        try:
            for index, sender in enumerate(self._senders):
                name = f"load-{index}"
                threading.Thread(target=self._work, args=(sender,), name=name, daemon=True).start()
            self._gate.wait()
            self.start = time.monotonic_ns() + _LEAD_NS
            self.first = self.start + self._warmup_ns
            self._clock.set()
            self._sleep_until(self.first)
            self._beside = left_behind()
            with self._during:
                self._watch()
            if not self._done.wait(min(self._patience, BACKLOG_S)):
                self._stop.set()  # nothing more is begun; what is under way is waited for
                self._done.wait(max(self._patience - BACKLOG_S, 0))
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
        _LEFT.extend(sender for sender in self._senders if sender.under_way is not None)
        return self._trace(complete, cut)

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

    def _watch(self) -> None:
        """Waits for the end of the window and looks how punctually a thread wakes up here."""
        self._used.append(_Used.now())
        try:
            while (before := time.monotonic_ns()) < self.last():
                self._stop.wait(_PROBE_S)
                late = time.monotonic_ns() - before - int(_PROBE_S * SECOND)
                self._held_up.append(max(late, 0))
        finally:
            self._used.append(_Used.now())

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
            free, own = self._send_one(sender, ticket, free, own)
        with self.lock:
            self._busy -= 1
            if not self._busy:
                self._done.set()

    def _send_one(self, sender: _Sender, ticket: Ticket, free: int, own: int) -> tuple[int, int]:
        """Sends; takes and returns when the thread was free, and its processor time then."""
        kind = ""
        before = time.thread_time_ns()
        begun = time.monotonic_ns()
        lag = max(begun - (free if self.loop == "closed" else max(ticket.due, free)), 0)
        sender.under_way = Sent(*ticket, begun, -1, lag, before - own, 0, UNANSWERED)
        try:
            self._send(ticket.number)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is counted and told
            kind = type(error).__name__
            sender.messages.setdefault(kind, str(error))
        ended = time.monotonic_ns()
        after = time.thread_time_ns()
        sender.sent.append(Sent(*ticket, begun, ended, lag, before - own, after - before, kind))
        sender.under_way = None
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

    def _trace(self, complete: bool, cut: int) -> Trace:
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
        table = np.array([row[:7] for row in rows], dtype=np.int64).reshape(-1, 7)
        window = (self.first, max(last, self.first))
        own_s, sending_s = _within(table, window)
        process_s, watching_s = self._processor_s((window[1] - window[0]) / SECOND)
        return Trace(
            loop=self.loop,
            most=len(self._senders),
            window=window,
            number=table[:, 0],
            due=table[:, 1],
            begun=table[:, 2],
            ended=table[:, 3],
            lag=table[:, 4],
            kind=np.array([kinds.index(row.kind) for row in rows], dtype=np.int16),
            kinds=kinds,
            messages=messages,
            held_up=np.array(self._held_up, dtype=np.int64),
            generator_s=own_s + watching_s,
            sending_s=sending_s,
            process_s=process_s,
            beside=self._beside,
            complete=complete,
        )

    def _processor_s(self, seconds: float) -> tuple[float, float]:
        """Processor time of the process, and of the watching thread, in a window so long."""
        if len(self._used) < 2:
            return 0.0, 0.0
        begin, end = self._used
        # It is looked some milliseconds behind the ends of the window.
        scale = seconds / max(end.moment - begin.moment, 1)
        return (end.process - begin.process) * scale, (end.watching - begin.watching) * scale


def _within(table: NDArray[np.int64], window: tuple[int, int]) -> tuple[float, float]:
    """Processor seconds of the generator's own code and of ``send``, of those in the window.

    Args:
        table: int64 [requests, 7], the numbers of ``Sent``.
        window: nanoseconds.
    """
    begun, ended, own, sending = table[:, [2, 3, 5, 6]].T
    inside = (begun >= window[0]) & (begun < window[1])
    over = ended >= 0
    parts = part_within(begun[over], ended[over], window)
    return float(own[inside].sum()) / SECOND, float((sending[over] * parts).sum()) / SECOND
