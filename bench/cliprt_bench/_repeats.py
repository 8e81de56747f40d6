"""What several traces of the same load come to: figures with their spread, and what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np

from cliprt_bench._figures import Figure, enough_for, figure
from cliprt_bench._trace import PERCENTILES, Trace, percentile_of

# What the generator tells of itself is no result, and the longest request is but one: their noise
# does not mark a point.
_RESULTS = (*(f"p{percentile}_ms" for percentile in PERCENTILES), "items_s")

# A loop in which a greater part of the requests had not even begun at its end was overloaded.
_BACKLOG = 0.05


def figures_of(traces: Sequence[Trace], items_per_request: int) -> dict[str, Figure]:
    """Figures of a point.

    Args:
        traces: one of each repeat. Those without a request, after Ctrl-C, are left out.
        items_per_request: items of a request.

    Returns:
        By name: ``p50_ms``, ``p90_ms``, ``p95_ms``, ``p99_ms``, of those for which each repeat has
        enough samples; where only all repeats together have enough, one value of them all, whose
        spread is not known; ``max_ms``, the longest request of all repeats; ``items_s``, items
        answered in a second; ``lag_p99_ms``, how late the generator itself was, told as the
        percentiles are;
        ``generator_cores``, processors that its own code kept busy; ``process_cores``, those that
        its process did, with the client and whatever target is in it.
        Empty if no repeat has a request.
    """
    told: dict[str, Callable[[Trace], float | None]] = {
        **{f"p{p}_ms": partial(Trace.percentile_ms, percentile=p) for p in PERCENTILES},
        "items_s": lambda trace: trace.answered_s * items_per_request,
        "lag_p99_ms": lambda trace: trace.lag_ms(99),
        "generator_cores": lambda trace: trace.generator_cores,
        "process_cores": lambda trace: trace.process_cores,
    }
    used = [trace for trace in traces if trace.samples]
    values = {name: [of(trace) for trace in used] for name, of in told.items()}
    found = {
        name: figure([value for value in repeats if value is not None])
        for name, repeats in values.items()
        if repeats and None not in repeats
    }
    return {**_of_all(used), **found}


def _of_all(traces: Sequence[Trace]) -> dict[str, Figure]:
    """Percentiles of the samples of all repeats together, and the longest that was answered."""
    if not traces:
        return {}
    ascending = np.sort(np.concatenate([trace.latencies_ms for trace in traces]))
    values = {f"p{p}_ms": percentile_of(ascending, p) for p in PERCENTILES}
    lags = np.sort(np.concatenate([trace.lags_ms for trace in traces]))
    values["lag_p99_ms"] = percentile_of(lags, 99)
    found = {name: figure([value]) for name, value in values.items() if value is not None}
    longest = max((trace.max_ms for trace in traces if trace.max_ms is not None), default=None)
    return found if longest is None else {**found, "max_ms": figure([longest])}


def samples_of(traces: Iterable[Trace]) -> int:
    """Requests that were timed, in all repeats."""
    return sum(trace.samples for trace in traces)


def errors_of(traces: Iterable[Trace]) -> dict[str, int]:
    """How many requests failed in all repeats, by the kind of error."""
    errors: Counter[str] = Counter()
    for trace in traces:
        errors.update(trace.errors)
    return dict(sorted(errors.items()))


def marks_of(
    traces: Sequence[Trace], figures: dict[str, Figure], *, apart: bool = True
) -> tuple[str, ...]:
    """What is wrong with a point.

    Args:
        traces: one of each repeat.
        figures: what :func:`figures_of` made of them.
        apart: whether the target is in another process; see :meth:`Trace.was_bottleneck`.

    Returns:
        Sentences; none if nothing is wrong.
    """
    marks = [*_bottleneck(traces, apart), *_beside(traces), *_errors(traces), *_backlog(traces)]
    number = samples_of(traces)
    missing = [percentile for percentile in PERCENTILES if number < enough_for(percentile)]
    if missing:
        marks.append(
            f"Too few requests for p{' and p'.join(map(str, missing))}: {number} in all, "
            f"p{missing[0]} needs {enough_for(missing[0])}."
        )
    noisy = {name: figures[name] for name in _RESULTS if name in figures and figures[name].noisy}
    if noisy and len(traces) < 2:
        marks.append("Measured once: how far repeats lie apart is not known.")
    elif noisy:
        spread = ", ".join(f"{name} ± {_reach(noisy[name])}" for name in noisy)
        marks.append(f"Noisy: {spread}.")
    if not all(trace.complete for trace in traces):
        marks.append("Ended before its time.")
    return tuple(marks)


def _reach(noisy: Figure) -> str:
    if noisy.reach is None or not noisy.value:
        return "?"
    return f"{noisy.reach / abs(noisy.value):.0%}".replace("%", " %")


def _bottleneck(traces: Sequence[Trace], apart: bool) -> list[str]:
    reasons = [reason for trace in traces if (reason := trace.was_bottleneck(apart=apart))]
    if not reasons:
        return []
    if len(traces) == 1:
        return reasons
    return [f"In {len(reasons)} of {len(traces)} repeats: {reasons[0]}"]


def _beside(traces: Sequence[Trace]) -> list[str]:
    disturbed = [trace.beside for trace in traces if trace.beside]
    if not disturbed:
        return []
    return [
        f"In {len(disturbed)} of {len(traces)} repeats the target was still at work on up to "
        f"{max(disturbed)} requests of earlier ones, which had been given up."
    ]


def _errors(traces: Sequence[Trace]) -> list[str]:
    errors, samples = errors_of(traces), samples_of(traces)
    said: dict[str, str] = {}
    for trace in traces:
        said = {**trace.messages, **said}
    return [
        f"{number} of {samples} requests failed: {kind}{_first_line(said.get(kind, ''))}."
        for kind, number in errors.items()
    ]


def _first_line(message: str) -> str:
    line = message.strip().partition("\n")[0][:120].rstrip(".")
    return f" ({line})" if line else ""


def _backlog(traces: Sequence[Trace]) -> list[str]:
    late = [trace for trace in traces if trace.waiting > _BACKLOG * trace.samples]
    if not late:
        return []
    worst = max(late, key=lambda trace: trace.waiting / trace.samples)
    return [
        f"Overloaded: {worst.waiting} of {worst.samples} requests were due and not begun when the "
        f"window ended, with {worst.most} under way; latencies grow with its length."
    ]
