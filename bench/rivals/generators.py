"""Our load generator beside NVIDIA's perf_analyzer: one server, the same requests, in turns.

Both ask the ensembles with one item in a request, in a closed loop. A load generator that is right
sees what the other one sees; what it costs itself is part of what it sees, on a machine that it
shares with the server.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from cliprt import CliprtError, Connection, open_bundle
from cliprt._names import ModelNames
from cliprt_bench._bench_card import Tower
from cliprt_bench._figures import enough_for, figure
from cliprt_bench._load import closed_loop
from cliprt_bench._targets import Ensembles, Subject, sender
from cliprt_triton import TritonServer, write_repository
from rivals.environments import Environment, attempt
from rivals.inputs import Inputs
from rivals.perf_analyzer import write_inputs
from rivals.reasons import reason_of

OURS, THEIRS = "cliprt bench", "perf_analyzer"
CALLERS = (1, 4)
RUN_S = 300
# Of ours: shorter windows hold few requests of a slow tower, and its callers need a while until
# they ask as evenly as they will.
LEAST_S, SETTLE_S = 6.0, 2.0
# Rates and medians of three of its windows must agree, or it gives up after ten: a window of a slow
# tower holds too few answers for a p95 that agrees with anything. How far repeats lie apart is told
# by the rounds here; its own 10 % would never be reached on a machine that others use.
WINDOW_S = 2.0
AGREEMENT_PERCENT = 50

# In its table.
COLUMNS = ("Inferences/Second", "p50 latency", "p95 latency")

NAMES = ModelNames("clip")
MODELS: dict[Tower, str] = {"image": NAMES.image_file, "text": NAMES.text_string}


@dataclass(frozen=True)
class Seen:
    """What a load generator saw.

    Attributes:
        items_s: answered in a second.
        p50_ms: the median latency.
        p95_ms: the 95th percentile; None if it saw too few answers for that.
    """

    items_s: float
    p50_ms: float
    p95_ms: float | None


class GeneratorFailed(Exception):
    """A generator measured nothing; the message says why."""


def compare_generators(
    environment: Environment, inputs: Inputs, *, rounds: int, seconds: float
) -> dict[str, Any]:
    """Serves the bundle and lets both measure it; for machines.

    Args:
        environment: of perf_analyzer.
        inputs: bundle and items.
        rounds: turns of both at every point.
        seconds: of one measurement of ours; at least `LEAST_S`.

    Returns:
        ``points``: by name (``image, 4 callers``), what `by_turns` returns; ``absent``, why there
        are none, or None.
    """
    seconds = max(seconds, LEAST_S)
    points = {}
    try:
        with TemporaryDirectory(prefix="rivals-") as temporary:
            repository = write_repository(
                open_bundle(inputs.folders["bundle"]), Path(temporary) / "models", link=True
            )
            with TritonServer(repository) as server:
                ensembles = Ensembles(Connection(server.address))
                with contextlib.closing(ensembles):
                    for kind in MODELS:
                        path = Path(temporary) / f"{kind}.json"
                        write_inputs(path, kind, inputs.items[kind])
                        for callers in CALLERS:
                            both = {
                                OURS: partial(
                                    own, ensembles, kind, inputs.items[kind], callers, seconds
                                ),
                                THEIRS: partial(
                                    foreign, environment, server.address, kind, path, callers
                                ),
                            }
                            points[f"{kind}, {callers} callers"] = by_turns(both, rounds)
    except CliprtError as error:
        return {"points": points, "absent": reason_of(error)}
    return {"points": points, "absent": None}


def own(
    ensembles: Subject, kind: Tower, items: Sequence[Any], callers: int, seconds: float
) -> Seen:
    """What our load generator sees.

    Args:
        ensembles: are asked.
        kind: which tower of them.
        items: encoded pictures or strings.
        callers: requests under way at a time.
        seconds: of the window; longer, if the median needs it.

    Raises:
        GeneratorFailed: a request failed.
    """
    send = sender(ensembles, kind, items, batch=1)
    trace = closed_loop(
        send, callers=callers, seconds=seconds, least=enough_for(50), warmup=SETTLE_S
    )
    if trace.errors:
        name = next(iter(trace.errors))
        raise GeneratorFailed(f"{OURS}: {name}: {trace.messages.get(name, '')}")
    p50 = trace.percentile_ms(50)
    if p50 is None:
        raise GeneratorFailed(f"{OURS}: it was ended before it had enough answers for a median")
    return Seen(trace.answered_s, p50, trace.percentile_ms(95))


def foreign(
    environment: Environment, address: str, kind: Tower, inputs: Path, callers: int
) -> Seen:
    """What perf_analyzer sees.

    Raises:
        GeneratorFailed: it ended with an error, or its windows never agreed.
    """
    table = inputs.with_suffix(".csv")
    command = [
        *(str(environment.python), "-m", "rivals.perf_analyzer", "-m", MODELS[kind]),
        *("-i", "grpc", "-u", address, "--input-data", str(inputs), "-b", "1"),
        *("--concurrency-range", str(callers), "--percentile", "50", "-f", str(table)),
        *("--measurement-interval", str(round(WINDOW_S * 1000))),
        *("--stability-percentage", str(AGREEMENT_PERCENT)),
    ]
    table.unlink(missing_ok=True)
    if refusal := attempt("ask", command, RUN_S):
        raise GeneratorFailed(f"{THEIRS}: {refusal.reason}")
    if not table.exists():
        raise GeneratorFailed(f"{THEIRS}: its windows did not agree, it wrote nothing")
    return read_table(table.read_text())


def read_table(text: str) -> Seen:
    """What perf_analyzer wrote with ``-f``: one line, latencies in microseconds.

    Raises:
        GeneratorFailed: it holds no such line.
    """
    try:
        [row] = csv.DictReader(text.splitlines())
        rate, p50, p95 = (float(row[name]) for name in COLUMNS)
    except (ValueError, KeyError) as error:
        raise GeneratorFailed(f"{THEIRS}: its table was not understood: {error}") from None
    if min(rate, p50, p95) <= 0:
        raise GeneratorFailed(f"{THEIRS}: it had no answers")
    return Seen(rate, p50 / 1e3, p95 / 1e3)


def by_turns(both: Mapping[str, Callable[[], Seen]], rounds: int) -> dict[str, Any]:
    """Lets both measure one point; for machines.

    Args:
        both: by generator (`OURS`, `THEIRS`), what measures once.
        rounds: turns of both.

    Returns:
        By generator, figures of ``items_s``, ``p50_ms`` and ``p95_ms``, and ``ratios``, ours over
        theirs in the same round; a figure is None if one of its values is. ``absent`` is None.
        If a measurement failed, there is ``absent`` alone, the reason.
    """
    seen: dict[str, list[Seen]] = {name: [] for name in both}
    try:
        for number in range(rounds):
            for name in list(both)[:: 1 if number % 2 else -1]:
                seen[name].append(both[name]())
    except (GeneratorFailed, CliprtError) as error:
        return {"absent": reason_of(error)}
    names = ("items_s", "p50_ms", "p95_ms")
    found: dict[str, Any] = {"absent": None}
    for who, rows in seen.items():
        found[who] = {name: _figure([getattr(each, name) for each in rows]) for name in names}
    pairs = list(zip(seen[OURS], seen[THEIRS], strict=True))
    found["ratios"] = {
        name: _figure(
            [_ratio(getattr(ours, name), getattr(theirs, name)) for ours, theirs in pairs]
        )
        for name in names
    }
    return found


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours / theirs


def _figure(values: Sequence[float | None]) -> Any:
    known = [value for value in values if value is not None]
    return msgspec.to_builtins(figure(known)) if len(known) == len(values) else None
