"""A matrix of workloads, measured in turns: the points of a card."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt._errors import InvalidInput, ServerError
from cliprt_bench._bench_card import Method, Point, Workload
from cliprt_bench._figures import Figure, figure
from cliprt_bench._inputs import InputSet
from cliprt_bench._load import closed_loop, open_loop
from cliprt_bench._repeats import errors_of, figures_of, marks_of, samples_of
from cliprt_bench._targets import Subject
from cliprt_bench._trace import Trace
from cliprt_bench._watch import Watch, Watched
from cliprt_bench._wire import tcp_bytes

# Requests of a warm-up at least, however long it takes.
_WARM = 3


@dataclass
class _Seen:
    """What was seen of a workload, repeat by repeat."""

    traces: list[Trace] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    received: list[float] = field(default_factory=list)


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

    def run(
        self,
        workloads: Sequence[Workload],
        advance: Callable[[str], None] = lambda what: None,
        *,
        capacities: Mapping[Workload, float] | None = None,
    ) -> None:
        """Measures workloads, each as often as the method says, in turns.

        Args:
            workloads: those of earlier calls are kept.
            capacities: requests per second at most, of those whose rate is a share of it.
            advance: is told of what was measured.

        Raises:
            KeyboardInterrupt: it was interrupted; ``points`` has what was measured before.
            CliprtError: the first request failed. Later failures are counted.
        """
        for workload in workloads:
            if workload.share is not None:
                self._rates[workload] = workload.share * (capacities or {})[workload]
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

    def _once(self, workload: Workload, number: int) -> None:
        seen = self._seen.setdefault(workload, _Seen())
        before = tcp_bytes()
        own = self._subject.target.process == "own"
        with Watch((os.getpid(),) if own else self._subject.process_ids) as watch:
            trace = self._loop(workload, self._method.repeat_s, self._method.seed + number)
        after = tcp_bytes()
        seen.traces.append(trace)
        seen.watched.append(watch.seen)
        items = len(trace.number) * workload.batch
        if before and after and items and self._subject.target.process != "own":
            seen.sent.append((after[0] - before[0]) / items)
            seen.received.append((after[1] - before[1]) / items)
        if not trace.complete:
            raise KeyboardInterrupt

    def _loop(self, workload: Workload, seconds: float, seed: int) -> Trace:
        send = self._senders[workload]
        if workload.loop == "closed":
            return closed_loop(send, callers=workload.concurrency, seconds=seconds)
        rate = self._rates[workload]
        return open_loop(send, rate=rate, seconds=seconds, most=workload.concurrency, seed=seed)

    def _warm_up(self, workload: Workload) -> None:
        # One by one first: a failure here is the target's, and worth its own words.
        for number in range(_WARM):
            self._senders[workload](number)
        if self._method.warmup_s:
            closed_loop(
                self._senders[workload],
                callers=workload.concurrency if workload.loop == "closed" else 1,
                seconds=self._method.warmup_s,
            )

    def _sender(self, workload: Workload) -> Callable[[int], None]:
        """Sends the n-th request of a workload and checks the answer's shape."""
        items: Sequence[Any] = self._inputs.pictures
        call: Callable[[Sequence[Any]], NDArray[np.float32]] = self._subject.images
        if workload.tower == "text":
            items, call = self._captions(workload.text_length), self._subject.texts
        shape = (workload.batch, self._subject.model.dim)

        def send(number: int) -> None:
            first = number * workload.batch
            chosen = [items[(first + place) % len(items)] for place in range(workload.batch)]
            found = call(chosen).shape
            if found != shape:
                raise ServerError(f"the answer has the shape {found}, not {shape}")

        return send

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
        if workload in self._rates:
            offered = self._rates[workload] * workload.batch
            figures["offered_s"] = Figure(offered, offered, offered, (offered,), noisy=False)
        for name in ("cpu_cores", "rss_mb", "gpu_percent", "gpu_mb", "gpu_power_w"):
            add(figures, name, [getattr(each, name) for each in seen.watched])
        add(figures, "sent_bytes", seen.sent)
        add(figures, "received_bytes", seen.received)
        apart = self._subject.target.process != "own"
        return Point(
            workload=workload,
            figures=figures,
            samples=samples_of(seen.traces),
            errors=errors_of(seen.traces),
            marks=marks_of(seen.traces, figures, apart=apart),
        )


def add(figures: dict[str, Figure], name: str, repeats: Sequence[float | None]) -> None:
    """Adds a figure, if every repeat has it."""
    known = [value for value in repeats if value is not None]
    if known and len(known) == len(repeats):
        figures[name] = figure(known)
