"""Our load generator beside NVIDIA's perf_analyzer: one server, the same requests, in turns.

Both ask the ensembles with one item in a request, in a closed loop. A load generator that is right
sees what the other one sees; what it costs itself is part of what it sees, on a machine that it
shares with the server.
"""

from __future__ import annotations

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
from cliprt_bench._figures import figure
from cliprt_bench._load import closed_loop
from cliprt_bench._targets import Ensembles, sender
from cliprt_triton import TritonServer, write_repository
from rivals.environments import Environment, attempt
from rivals.inputs import Inputs
from rivals.perf_analyzer import write_inputs
from rivals.reasons import reason_of

OURS, THEIRS = "cliprt bench", "perf_analyzer"
CALLERS = (1, 4)
RUN_S = 300
# Three of its windows must agree, or it gives up after ten. How far repeats lie apart is told by
# the rounds here; its own 10 % would never be reached on a machine that others use.
WINDOW_S = 2.0
AGREEMENT_PERCENT = 50

NAMES = ModelNames("clip")
MODELS: dict[Tower, str] = {"image": NAMES.image_file, "text": NAMES.text_string}


@dataclass(frozen=True)
class Seen:
    """What a load generator saw.

    Attributes:
        items_s: answered in a second.
        p50_ms: the median latency.
        p95_ms: the 95th percentile.
    """

    items_s: float
    p50_ms: float
    p95_ms: float


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
        seconds: of one measurement of ours.

    Returns:
        ``points``: by name (``image, 4 callers``) and generator, figures of ``items_s``,
        ``p50_ms`` and ``p95_ms``, and ``ratios``, ours over theirs in the same round; ``absent``,
        why there are none, or None.
    """
    points = {}
    with TemporaryDirectory(prefix="rivals-") as temporary:
        repository = write_repository(
            open_bundle(inputs.folders["bundle"]), Path(temporary) / "models", link=True
        )
        with TritonServer(repository) as server:
            ensembles = Ensembles(Connection(server.address))
            try:
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
                        points[f"{kind}, {callers} callers"] = _by_turns(both, rounds)
            except (GeneratorFailed, CliprtError) as error:
                return {"points": points, "absent": reason_of(error)}
            finally:
                ensembles.close()
    return {"points": points, "absent": None}


def own(
    ensembles: Ensembles, kind: Tower, items: Sequence[Any], callers: int, seconds: float
) -> Seen:
    """What our load generator sees.

    Raises:
        GeneratorFailed: a request failed, or too few were answered.
    """
    send = sender(ensembles, kind, items, batch=1)
    trace = closed_loop(send, callers=callers, seconds=seconds, warmup=0.5)
    p50, p95 = trace.percentile_ms(50), trace.percentile_ms(95)
    if trace.errors or p50 is None or p95 is None:
        raise GeneratorFailed(f"{OURS}: {trace.errors or 'too few answers for a percentile'}")
    return Seen(trace.answered_s, p50, p95)


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
        *("--concurrency-range", str(callers), "--percentile", "95", "-f", str(table)),
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
    """What perf_analyzer wrote with ``-f``: one line, latencies in microseconds."""
    [row] = csv.DictReader(text.splitlines())
    return Seen(
        float(row["Inferences/Second"]),
        float(row["p50 latency"]) / 1e3,
        float(row["p95 latency"]) / 1e3,
    )


def _by_turns(both: Mapping[str, Callable[[], Seen]], rounds: int) -> dict[str, Any]:
    seen: dict[str, list[Seen]] = {name: [] for name in both}
    for number in range(rounds):
        for name in list(both)[:: 1 if number % 2 else -1]:
            seen[name].append(both[name]())
    names = ("items_s", "p50_ms", "p95_ms")
    found: dict[str, Any] = {
        who: {name: _figure([getattr(each, name) for each in rows]) for name in names}
        for who, rows in seen.items()
    }
    pairs = list(zip(seen[OURS], seen[THEIRS], strict=True))
    found["ratios"] = {
        name: _figure([getattr(ours, name) / getattr(theirs, name) for ours, theirs in pairs])
        for name in names
    }
    return found


def _figure(values: Sequence[float]) -> Any:
    return msgspec.to_builtins(figure(values))
