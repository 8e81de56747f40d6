"""A matrix of workloads, measured in turns: the points of a card."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np

from cliprt._errors import InvalidInput
from cliprt_bench._bench_card import Method, Point, Workload
from cliprt_bench._figures import Figure, figure
from cliprt_bench._inputs import InputSet
from cliprt_bench._load import closed_loop, open_loop
from cliprt_bench._repeats import errors_of, figures_of, marks_of, samples_of
from cliprt_bench._targets import Subject, sender
from cliprt_bench._trace import Trace
from cliprt_bench._watch import Watch, Watched
from cliprt_bench._wire import tcp_bytes

# Requests of each caller that a window of a closed loop has, unless they take longer than that.
_LEAST, _LONGEST_S = 4, 30.0

# Slower requests than that are measured as if they took no longer.
_SLOWEST_S = 60.0

# Requests of a warm-up at least, however long it takes.
_WARM = 3

# So many requests come before an open loop is counted: a queue that begins empty fills for long.
_SETTLING = 100


@dataclass
class _Seen:
    """What was seen of a workload, repeat by repeat."""

    traces: list[Trace] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    sent: list[float | None] = field(default_factory=list)
    received: list[float | None] = field(default_factory=list)


class Measurement:
    """Measures points; what was measured before an interrupt stays."""

    def __init__(self, subject: Subject, inputs: InputSet, method: Method) -> None:
        """Measures nothing yet.

        Args:
            subject: what is measured.
            inputs: what is embedded.
            method: seconds, repeats and seed.
        """
        self._subject, self._inputs, self._method = subject, inputs, method
        self._seen: dict[Workload, _Seen] = {}
        self._senders: dict[Workload, Callable[[int], None]] = {}
        self._rates: dict[Workload, float] = {}
        # Seconds of a request where all callers begin at once.
        self._slow_s: dict[Workload, float] = {}
        self._capacities: dict[Workload, Figure] = {}

    def run(
        self,
        workloads: Sequence[Workload],
        advance: Callable[[str], None] = lambda what: None,
        *,
        capacities: Mapping[Workload, Figure] | None = None,
    ) -> None:
        """Measures workloads, each as often as the method says, in turns.

        Args:
            workloads: those of earlier calls are kept.
            capacities: items per second at most, of those whose rate is a share of it.
            advance: is told of what was measured.

        Raises:
            KeyboardInterrupt: it was interrupted, warm-ups included; ``points`` has what was
                measured before.
            CliprtError: the first request failed. Later failures are counted.
        """
        for workload in workloads:
            if workload.share is not None:
                most = self._capacities[workload] = (capacities or {})[workload]
                self._rates[workload] = workload.share * most.value / workload.batch
            elif workload.rate is not None:
                self._rates[workload] = workload.rate
            self._senders[workload] = self._sender(workload)
            self._warm_up(workload)
            advance(f"warm-up: {workload.in_words()}")
        for number in range(self._method.repeats):
            # Every other round goes backwards: what drifts meets all alike.
            for workload in reversed(workloads) if number % 2 else workloads:
                self._once(workload, number)
                advance(workload.in_words())

    def points(self) -> tuple[Point, ...]:
        """What was measured so far."""
        return tuple(
            self._point(workload, seen) for workload, seen in self._seen.items() if seen.traces
        )

    def gpu_clocks_mhz(self) -> tuple[float | None, ...]:
        """Of each visible GPU, the highest average clock of a repeat; None if it tells none."""
        watched = [each.gpu_clocks_mhz for seen in self._seen.values() for each in seen.watched]
        return tuple(
            max((mhz for mhz in clocks if mhz is not None), default=None)
            for clocks in zip_longest(*watched)
        )

    def _once(self, workload: Workload, number: int) -> None:
        seen = self._seen.setdefault(workload, _Seen())
        process = self._subject.target.process
        before = tcp_bytes()
        ids = {"own": (os.getpid(),), "other": self._subject.process_ids, "remote": ()}[process]
        with Watch(ids, gpus=process != "remote") as watch:
            trace = self._loop(workload, self._method.seed + number, watch)
        after = tcp_bytes()
        seen.traces.append(trace)
        seen.watched.append(watch.seen)
        items = int((trace.begun >= 0).sum()) * workload.batch
        if before and after and items and process != "own":
            for values, was, now in zip((seen.sent, seen.received), before, after, strict=True):
                # Less than before: a connection was closed, and its bytes are no longer told.
                values.append((now - was) / items if now >= was else None)
        if not trace.complete:
            raise KeyboardInterrupt

    def _loop(self, workload: Workload, seed: int, watch: Watch) -> Trace:
        send, seconds = self._senders[workload], self._method.repeat_s
        if workload.loop == "closed":
            # Callers that all begin at once wait in a row at first, and of requests that a window
            # cuts off a share counts: neither is true of slow requests in a short window.
            slow_s = self._slow_s.get(workload, 0.0)
            return closed_loop(
                send,
                callers=workload.concurrency,
                seconds=seconds,
                least=_LEAST * workload.concurrency,
                # In a window as long as a request each caller begins one.
                longest=max(seconds, _LONGEST_S, slow_s),
                warmup=min(2 * slow_s, max(_LONGEST_S, slow_s)),
                during=watch.counted(),
            )
        rate = self._rates[workload]
        return open_loop(
            send,
            rate=rate,
            seconds=seconds,
            most=workload.concurrency,
            seed=seed,
            warmup=settling_s(rate, self._method),
            during=watch.counted(),
        )

    def _warm_up(self, workload: Workload) -> None:
        # One by one first: a failure here is the target's, and worth its own words.
        for number in range(_WARM):
            self._senders[workload](number)
        if self._method.warmup_s:
            trace = closed_loop(
                self._senders[workload],
                callers=workload.concurrency if workload.loop == "closed" else 1,
                seconds=self._method.warmup_s,
            )
            if workload.loop == "closed":
                self._slow_s[workload] = min(_middle_s(trace), _SLOWEST_S)
            if not trace.complete:  # the loop keeps Ctrl-C for itself, and nothing of it counts
                raise KeyboardInterrupt

    def _sender(self, workload: Workload) -> Callable[[int], None]:
        items: Sequence[Any] = self._inputs.pictures
        if workload.tower == "text":
            items = self._captions(workload.text_length)
        return sender(self._subject, workload.tower, items, workload.batch)

    def _captions(self, length: int | None) -> tuple[str, ...]:
        if length is None:
            return self._inputs.captions
        tokenizer = self._subject.tokenizer()
        if tokenizer is None:
            raise InvalidInput(
                f"texts of {length} tokens need the model's tokenizer; pass --bundle beside the "
                "address"
            )
        return self._inputs.captions_of(length, tokenizer)

    def _point(self, workload: Workload, seen: _Seen) -> Point:
        figures = figures_of(seen.traces, workload.batch)
        process = self._subject.target.process
        if workload in self._rates:
            counted = [trace for trace in seen.traces if trace.complete or trace.samples]
            came = [trace.samples * workload.batch / trace.seconds for trace in counted]
            add(figures, "offered_s", came)
        if workload in self._capacities:
            figures["capacity_s"] = self._capacities[workload]
        watched = ["rss_mb", "gpu_percent", "gpu_mb", "gpu_power_w"]
        watched += ["cpu_cores"] if process != "remote" else []
        # In this process it would be process_cores, generator included.
        watched += ["target_cores"] if process != "own" else []
        for name in watched:
            add(figures, name, [getattr(each, name) for each in seen.watched])
        for name, values in (("sent_bytes", seen.sent), ("received_bytes", seen.received)):
            add(figures, name, [value for value in values if value is not None])
        apart = process != "own"
        return Point(
            workload=workload,
            figures=figures,
            samples=samples_of(seen.traces),
            errors=errors_of(seen.traces),
            marks=marks_of(seen.traces, figures, apart=apart),
        )


def _middle_s(trace: Trace) -> float:
    """How long a request was under way, in the middle; one without an answer for ever."""
    taken = np.where(trace.ended < 0, np.inf, (trace.ended - trace.due) / 1e9)[trace.counted]
    return float(np.median(taken)) if len(taken) else 0.0


def settling_s(rate: float, method: Method) -> float:
    """Seconds in which requests come to an open loop before they are counted.

    As many as 100 requests take, or the warm-up, if that is longer; but no longer than a repeat,
    or the warm-up again. None, if no warm-up is wanted.

    Args:
        rate: requests per second.
        method: seconds of warm-up and repeat.
    """
    if not method.warmup_s:
        return 0.0
    return max(method.warmup_s, min(_SETTLING / rate, method.repeat_s))


def add(figures: dict[str, Figure], name: str, repeats: Sequence[float | None]) -> None:
    """Adds a figure, if every repeat has it."""
    known = [value for value in repeats if value is not None]
    if known and len(known) == len(repeats):
        figures[name] = figure(known)
