"""From what was asked for to a card."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime, timezone
from itertools import product
from pathlib import Path

import msgspec

import cliprt
from cliprt import open_bundle
from cliprt_bench._bench_card import (
    SCHEMA,
    BenchCard,
    Ceiling,
    Inputs,
    Kind,
    Method,
    Model,
    Point,
    Target,
    Workload,
)
from cliprt_bench._ceilings import Rate, as_ceilings, measure
from cliprt_bench._cli_options import Asked, towers_of
from cliprt_bench._inputs import InputSet, given_inputs
from cliprt_bench._machine import machine
from cliprt_bench._measure import Measurement
from cliprt_bench._operations import Operations, count_operations
from cliprt_bench._stages import STAGED, Stages, stages_of
from cliprt_bench._startup import startup_of
from cliprt_bench._targets import Subject, certified

Tell = Callable[[str], None]

# Callers of the closed loop that finds out how much an open loop can ask for.
_CALLERS = 16
_CAPACITY_S = 5.0


def closed_card(
    asked: Asked,
    kind: Kind,
    *,
    batches: tuple[int, ...],
    concurrencies: tuple[int, ...],
    lengths: tuple[int, ...],
    tell: Tell,
) -> BenchCard:
    """A card of closed loops over batch x concurrency x text length.

    Args:
        asked: what is measured, and how.
        kind: ``latency`` or ``throughput``, whose card also has the stages of an item.
        batches: items of a request.
        concurrencies: callers.
        lengths: tokens of texts; empty for captions as they come.
        tell: is told of what was measured.

    Raises:
        CliprtError: the target cannot be opened, or its first request failed.
    """
    begun = _now()
    with closing(asked.open()) as subject:
        inputs = given_inputs(asked.pictures, asked.captions)
        workloads = [
            Workload(
                tower=tower, batch=batch, concurrency=callers, loop="closed", text_length=length
            )
            for tower in towers_of(subject, asked.towers)
            for batch, callers in product(batches, concurrencies)
            for length in ((lengths or (None,)) if tower == "text" else (None,))
        ]
        measurement = Measurement(subject, inputs, _method(asked))
        stages: Stages = {}

        def work() -> None:
            measurement.run(workloads, tell)
            # A report of these cards shows them beside the rates.
            if kind == "throughput" and isinstance(subject, STAGED):
                stages.update(_stages(asked, subject, inputs, tell))

        complete = _until_interrupted(work)
        points = measurement.points()
        return _card(asked, kind, subject, inputs, points, complete, begun, tell, stages)


def open_card(
    asked: Asked,
    *,
    rates: tuple[float, ...],
    shares: tuple[float, ...],
    batches: tuple[int, ...],
    most: int,
    tell: Tell,
) -> BenchCard:
    """A card of open loops: requests come when they come.

    Args:
        asked: what is measured, and how.
        rates: requests per second; if there are none, ``shares`` counts.
        shares: of the rate that a closed loop of 16 callers reaches, measured first.
        batches: items of a request.
        most: requests under way; those beyond wait, and their waiting counts.
        tell: is told of what was measured.

    Raises:
        CliprtError: the target cannot be opened, or its first request failed.
    """
    begun = _now()
    with closing(asked.open()) as subject:
        inputs = given_inputs(asked.pictures, asked.captions)
        method = _method(asked)
        measurement = Measurement(subject, inputs, method)

        def work() -> None:
            workloads: list[Workload] = []
            capacities: dict[Workload, float] = {}
            for tower, batch in product(towers_of(subject, asked.towers), batches):
                point = Workload(tower=tower, batch=batch, concurrency=most, loop="open")
                workloads += [msgspec.structs.replace(point, rate=rate) for rate in rates]
                if not rates:
                    capacity = _capacity(subject, inputs, method, tower, batch)
                    tell(f"{tower}, batch {batch}: {capacity:.4g} requests/s at most")
                    parts = [msgspec.structs.replace(point, share=share) for share in shares]
                    capacities |= dict.fromkeys(parts, capacity)
                    workloads += parts
            measurement.run(workloads, tell, capacities=capacities)

        complete = _until_interrupted(work)
        return _card(asked, "load", subject, inputs, measurement.points(), complete, begun, tell)


def stages_card(asked: Asked, *, tell: Tell) -> BenchCard:
    """A card of stages.

    Raises:
        CliprtError: the target cannot be opened.
        TypeError: it does not tell its stages.
    """
    begun = _now()
    with closing(asked.open()) as subject:
        inputs = given_inputs(asked.pictures, asked.captions)
        stages = _stages(asked, subject, inputs, tell)
        return _card(asked, "stages", subject, inputs, (), True, begun, tell, stages)


def startup_card(
    path: Path, precision: str | None, *, served: bool, repeats: int, tell: Tell
) -> BenchCard:
    """A card of starts.

    Args:
        path: of the bundle.
        precision: of its towers; None means the default.
        served: start a Triton that serves it, and not LocalClip.
        repeats: how often.
        tell: is told of what was measured.

    Raises:
        CliprtError: the bundle cannot be read, or it did not start.
    """
    bundle = open_bundle(path)
    begun = _now()
    stages = startup_of(path, precision, served=served, repeats=repeats, advance=tell)
    named = precision or "fp32"
    return BenchCard(
        schema=SCHEMA,
        kind="startup",
        cliprt=cliprt.__version__,
        made=begun,
        machine=machine(warn=tell),
        target=Target(
            kind="served" if served else "local",
            name="Triton, from its start" if served else "cliprt LocalClip, from its import",
            runtime="python" if served else None,
            precision=named,
            settings={},
            process="other",
        ),
        model=Model(name=bundle.card.name, space=bundle.card.space, dim=bundle.card.dim),
        fidelity=certified(bundle, named),
        inputs=Inputs(described="one caption, one black picture", sha256="0" * 64),
        method=Method(warmup_s=0, repeat_s=0, repeats=repeats, seed=0, command=_command()),
        points=(),
        stages=stages,
    )


def _stages(asked: Asked, subject: Subject, inputs: InputSet, tell: Tell) -> Stages:
    return stages_of(subject, inputs, repeats=asked.repeats, repeat_s=asked.seconds, advance=tell)


def _capacity(
    subject: Subject, inputs: InputSet, method: Method, tower: object, batch: int
) -> float:
    """Requests per second of a closed loop."""
    workload = Workload(tower=tower, batch=batch, concurrency=_CALLERS, loop="closed")  # type: ignore[arg-type]
    once = msgspec.structs.replace(method, repeats=1, repeat_s=_CAPACITY_S)
    measurement = Measurement(subject, inputs, once)
    measurement.run([workload])
    (point,) = measurement.points()
    return point.figures["items_s"].value / batch


def _method(asked: Asked) -> Method:
    return Method(
        warmup_s=asked.warmup,
        repeat_s=asked.seconds,
        repeats=asked.repeats,
        seed=asked.seed,
        command=_command(),
    )


def _ceilings(
    subject: Subject,
    inputs: InputSet,
    points: Sequence[Point],
    tell: Tell,
) -> tuple[Ceiling, ...]:
    """What the machine can do at most, in items of the towers where the bundle is at hand."""
    sizes: dict[str, float] = {
        point.workload.tower: point.figures["sent_bytes"].value
        for point in points
        if "sent_bytes" in point.figures
    }
    request = (round(max(sizes.values())), 4 * subject.model.dim) if sizes else None
    bundle = subject.bundle
    spec = None if bundle is None else bundle.card.image
    rates: list[Rate] = []
    for rate in measure(inputs.pictures, spec, request=request):
        rates.append(rate)
        tell(f"ceiling: {rate.name}")
    operations: dict[str, Operations] = {}
    precision = subject.target.precision
    if bundle is not None and precision is not None:
        for tower in subject.towers:
            length = _tokens(subject, inputs, points) if tower == "text" else None
            graph = bundle.path / f"{tower}.{precision}.onnx"
            if graph.exists():
                operations[tower] = count_operations(graph, length=length)
    return as_ceilings(rates, operations=operations, item_bytes=sizes)


def _tokens(subject: Subject, inputs: InputSet, points: Sequence[Point]) -> int:
    """Of a text: those that were asked for, else those of the captions on average."""
    asked = [point.workload.text_length for point in points if point.workload.text_length]
    if asked:
        return round(sum(asked) / len(asked))
    tokenizer = subject.tokenizer()
    assert tokenizer is not None
    lengths = [len(ids) for ids in tokenizer(list(inputs.captions))]
    return max(2, round(sum(lengths) / len(lengths)))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _command() -> str:
    """The command without paths and addresses, which are nobody's business."""
    words, hidden = ["cliprt"], False
    for word in sys.argv[1:]:
        name, equals, _ = word.partition("=")
        private = name in _PRIVATE
        words.append(f"{name}=…" if private and equals else "…" if hidden else word)
        hidden = private and not equals
    return " ".join(words)


_PRIVATE = frozenset(
    [
        *("--bundle", "--url", "--openai", "--python", "--pictures", "--captions", "--out"),
        *("--token", "--tls-ca", "--tls-key", "--tls-cert", "--server-pid", "--repository"),
    ]
)


def _until_interrupted(work: Callable[[], None]) -> bool:
    """Whether it came to its end; after Ctrl-C what there is counts."""
    try:
        work()
    except KeyboardInterrupt:
        return False
    return True


def _card(
    asked: Asked,
    kind: Kind,
    subject: Subject,
    inputs: InputSet,
    points: tuple[Point, ...],
    complete: bool,
    begun: str,
    tell: Tell,
    stages: Stages | None = None,
) -> BenchCard:
    ceilings: tuple[Ceiling, ...] = ()
    if asked.ceilings and complete:
        ceilings = _ceilings(subject, inputs, points, tell)
    return BenchCard(
        schema=SCHEMA,
        kind=kind,
        cliprt=cliprt.__version__,
        made=begun,
        machine=machine(warn=tell),
        target=subject.target,
        model=subject.model,
        fidelity=certified(subject.bundle, subject.target.precision),
        inputs=inputs.record,
        method=_method(asked),
        points=points,
        ceilings=ceilings,
        stages=stages or {},
        complete=complete,
        price_per_hour=asked.price,
    )
